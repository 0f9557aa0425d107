//! Where the bytes of files in layers are: where a step that ran in this process named them, in
//! the layers' directories, or in their archives.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use longshore_layers::copy::LayerContent;
use longshore_layers::{EntryPath, FileContent, Node, host_content};

use crate::EngineError;
use crate::layer::{Layer, LayerArchive, LayerStore};

/// How files are read of layers that are here as blobs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// From their directories, which steps to come will need too.
    Directories,
    /// From the archives, which are copied out once.
    Archives,
    /// A few small ones, each from the archive.
    Names,
}

/// Reads files of a stack of layers.
#[derive(Debug)]
pub(crate) struct StoredContent {
    store: Arc<LayerStore>,
    layers: Vec<Arc<Layer>>,
    reads: Reads,
    directories: Vec<OnceLock<Arc<OwnedFd>>>,
    archives: Vec<Mutex<Option<Arc<LayerArchive>>>>,
    runtime: tokio::runtime::Handle,
}

impl StoredContent {
    /// Makes the directories of the layers that only exist as blobs, all at once.
    pub(crate) async fn open(
        store: &Arc<LayerStore>,
        layers: &[Arc<Layer>],
    ) -> Result<Self, EngineError> {
        let stored = layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| layer.changes().is_none());
        let each = stored.map(|(at, layer)| store.directory(layer, &layers[..at]));
        futures_util::future::try_join_all(each).await?;
        Ok(Self::new(
            Arc::clone(store),
            layers.to_vec(),
            Reads::Directories,
        ))
    }

    /// For who reads most files once: makes no directories.
    pub(crate) fn once(store: Arc<LayerStore>, layers: Vec<Arc<Layer>>) -> Self {
        Self::new(store, layers, Reads::Archives)
    }

    /// For the few lookups of names: makes no directories.
    pub(crate) fn names(store: Arc<LayerStore>, layers: Vec<Arc<Layer>>) -> Self {
        Self::new(store, layers, Reads::Names)
    }

    fn new(store: Arc<LayerStore>, layers: Vec<Arc<Layer>>, reads: Reads) -> Self {
        Self {
            store,
            reads,
            directories: layers.iter().map(|_| OnceLock::new()).collect(),
            archives: layers.iter().map(|_| Mutex::default()).collect(),
            layers,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    fn directory(&self, at: usize) -> Result<Arc<OwnedFd>, EngineError> {
        if let Some(open) = self.directories[at].get() {
            return Ok(Arc::clone(open));
        }
        let layer = &self.layers[at];
        let ready = self.store.directory(layer, &self.layers[..at]);
        self.runtime.block_on(ready)?;
        let opened = self.store.open_directory(layer)?;
        Ok(Arc::clone(self.directories[at].get_or_init(|| opened)))
    }

    fn kept_archive(&self, at: usize) -> MutexGuard<'_, Option<Arc<LayerArchive>>> {
        let kept = &self.archives[at];
        kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn archive(&self, at: usize) -> Result<Arc<LayerArchive>, EngineError> {
        // Held while it is copied, so that it is copied once.
        let mut kept = self.kept_archive(at);
        if let Some(archive) = &*kept {
            return Ok(Arc::clone(archive));
        }
        let made = self.store.archive(&self.layers[at]);
        let made = Arc::new(self.runtime.block_on(made)?);
        *kept = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Whether files are read from the layer's directory.
    fn reads_directory(&self, at: usize) -> Result<bool, EngineError> {
        if self.reads == Reads::Directories || self.directories[at].get().is_some() {
            return Ok(true);
        }
        let is_copied = self.kept_archive(at).is_some();
        Ok(!is_copied && self.store.has_directory(&self.layers[at])?)
    }

    /// The bytes in the layer's archive, unless its directory is to be read.
    fn archived(&self, at: usize, path: &EntryPath) -> Result<Option<FileContent>, EngineError> {
        if self.reads_directory(at)? {
            return Ok(None);
        }
        if self.reads == Reads::Names {
            let single = self.store.single_file(&self.layers[at], path);
            if let Some(found) = self.runtime.block_on(single)? {
                return Ok(Some(found));
            }
        }
        Ok(self.archive(at)?.content(path))
    }
}

impl LayerContent for StoredContent {
    fn content(&self, node: &Node<'_>) -> io::Result<FileContent> {
        let path = &node.entry.path;
        if let Some(changes) = self.layers[node.layer].changes() {
            // Sorted, so the file is found by its path.
            let found = changes.binary_search_by(|change| change.entry.path.cmp(path));
            if let Ok(at) = found {
                return Ok(changes[at].content.clone());
            }
        }
        let archived = self.archived(node.layer, path).map_err(io::Error::other)?;
        if let Some(content) = archived {
            return Ok(content);
        }
        let directory = self.directory(node.layer).map_err(io::Error::other)?;
        host_content(&directory, path, node.content)
    }
}
