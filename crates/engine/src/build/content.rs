//! Where the bytes of files in layers are: in the layers' directories, or still where a
//! step that ran in this process named them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use longshore_layers::copy::LayerContent;
use longshore_layers::{FileContent, Node, host_content};

use crate::EngineError;
use crate::layer::{Layer, LayerStore};

/// Reads files of a stack of layers.
#[derive(Debug)]
pub(crate) struct StoredContent {
    store: Arc<LayerStore>,
    layers: Vec<Arc<Layer>>,
    opened: Vec<OnceLock<Option<Arc<OwnedFd>>>>,
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
        Ok(Self::lazy(Arc::clone(store), layers.to_vec()))
    }

    /// Makes a directory only when a file of it is asked for: for the few lookups of names.
    pub(crate) fn lazy(store: Arc<LayerStore>, layers: Vec<Arc<Layer>>) -> Self {
        let opened = layers.iter().map(|_| OnceLock::new()).collect();
        Self {
            store,
            layers,
            opened,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    fn directory(&self, at: usize) -> io::Result<Arc<OwnedFd>> {
        if let Some(Some(open)) = self.opened[at].get() {
            return Ok(Arc::clone(open));
        }
        let ready = self
            .runtime
            .block_on(self.store.directory(&self.layers[at], &self.layers[..at]));
        ready.map_err(io::Error::other)?;
        let opened = self
            .store
            .open_directory(&self.layers[at])
            .map_err(io::Error::other)?;
        Ok(Arc::clone(
            self.opened[at]
                .get_or_init(|| Some(Arc::clone(&opened)))
                .as_ref()
                .unwrap_or(&opened),
        ))
    }
}

impl LayerContent for StoredContent {
    fn content(&self, node: &Node<'_>) -> io::Result<FileContent> {
        let layer = &self.layers[node.layer];
        if let Some(changes) = layer.changes() {
            // Sorted, so the file is found by its path.
            let found = changes.binary_search_by(|change| change.entry.path.cmp(&node.entry.path));
            if let Ok(at) = found {
                return Ok(changes[at].content.clone());
            }
        }
        host_content(&self.directory(node.layer)?, &node.entry.path, node.content)
    }
}
