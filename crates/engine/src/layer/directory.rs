//! A layer as a directory that overlay can mount.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use longshore_layers::{
    Change, Devices, DirectoryForm, DirectoryOptions, EntryPath, LowerLayers, Metadata,
    NoLowerLayers, OverlayAttributes, Ownership, TarLimits, TreeView, changes_of_directory,
    materialise, unpack,
};
use longshore_snapshot::{OverlayMarks, Owners, SnapshotId, Snapshotter as _};

use super::blob::lost;
use super::{Layer, LayerStore};
use rustix::fs::{Mode, OFlags};

use crate::EngineError;

impl LayerStore {
    /// The layer's directory; `below` are the layers under it, lowest first.
    pub(crate) async fn directory(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        below: &[Arc<Layer>],
    ) -> Result<SnapshotId, EngineError> {
        let id = layer.directory.get_or_try_init(|| async {
            let id = layer.key.snapshot_id();
            if self.snapshots.get(&id)?.is_some() {
                return Ok(id);
            }
            if layer.changes.is_some() {
                self.materialise(layer, &id).await?;
            } else {
                self.unpack(layer, below, &id).await?;
            }
            Ok::<_, EngineError>(id)
        });
        id.await.cloned()
    }

    /// The directories of a stack of layers, all unpacked at the same time.
    ///
    /// A layer that stands in the stack twice is there once, at its upper place, because
    /// overlay refuses a directory twice. That changes nothing: whatever the lower one
    /// says of a path, the upper one says again.
    pub(crate) async fn directories(
        self: &Arc<Self>,
        layers: &[Arc<Layer>],
    ) -> Result<Vec<SnapshotId>, EngineError> {
        let each = layers
            .iter()
            .enumerate()
            .map(|(at, layer)| self.directory(layer, &layers[..at]));
        let all = futures_util::future::try_join_all(each).await?;
        let is_last = |(at, id): &(usize, &SnapshotId)| !all[at + 1..].contains(id);
        Ok(all
            .iter()
            .enumerate()
            .filter(is_last)
            .map(|(_, id)| id.clone())
            .collect())
    }

    async fn materialise(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        id: &SnapshotId,
    ) -> Result<(), EngineError> {
        let (store, layer, id) = (Arc::clone(self), Arc::clone(layer), id.clone());
        tokio::task::spawn_blocking(move || {
            let pending = store.snapshots.begin(&id)?;
            let changes: &[Change] = layer.changes().map_or(&[], |changes| changes);
            let directory = open(pending.path())?;
            materialise(changes, &directory, &store.overlay(), &NoLowerLayers)
                .map_err(EngineError::layer(layer.key.text()))?;
            pending.commit()?;
            // A later process finds the files in the directory, but no index with them.
            if let Some(index) = layer.index.get() {
                store.keep_index(&layer, index)?;
            }
            store.keep_directory(&layer, &id)
        })
        .await?
    }

    async fn unpack(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        below: &[Arc<Layer>],
        id: &SnapshotId,
    ) -> Result<(), EngineError> {
        let blob = self.any_blob(layer).await?;
        // Directories that the archive leaves out look as they do below.
        let lower = self.view(below).await?;
        let (store, layer, id, below) = (
            Arc::clone(self),
            Arc::clone(layer),
            id.clone(),
            below.to_vec(),
        );
        tokio::task::spawn_blocking(move || {
            let pending = store.snapshots.begin(&id)?;
            let input = store.open_archive(&layer, &blob)?;
            let directory = open(pending.path())?;
            let below = Below {
                view: &lower,
                store: &store,
                layers: &below,
            };
            let unpacked = unpack(
                input,
                &directory,
                &store.overlay(),
                TarLimits::LAYER,
                &below,
            );
            let read = unpacked.map_err(EngineError::layer(layer.key.text()))?.tar;
            store.check_diff_id(&layer, blob, read.diff_id)?;
            pending.commit()?;
            store.keep_index(&layer, &read.index)?;
            let _ = layer.index.set(Arc::new(read.index));
            store.keep_directory(&layer, &id)
        })
        .await?
    }

    /// Notes that the layer's directory is there.
    pub(crate) fn keep_directory(&self, layer: &Layer, id: &SnapshotId) -> Result<(), EngineError> {
        self.note(layer.key, |record| {
            record.snapshot_id = Some(id.to_string());
        })
    }

    /// The changes that the layer's directory holds, by name.
    pub(super) async fn changes_of_directory(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
    ) -> Result<Vec<Change>, EngineError> {
        let index = self.index(layer).await?;
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let root = store.open_directory(&layer)?;
            changes_of_directory(&root, &index).map_err(EngineError::layer(layer.key.text()))
        })
        .await?
    }

    /// The layer's directory, open.
    pub(crate) fn open_directory(&self, layer: &Layer) -> Result<Arc<OwnedFd>, EngineError> {
        let snapshot = self
            .snapshots
            .get(&layer.key.snapshot_id())?
            .ok_or_else(|| lost(layer))?;
        Ok(Arc::new(open(snapshot.path())?.into()))
    }
}

fn open(path: &Path) -> Result<File, EngineError> {
    File::open(path).map_err(EngineError::io("open", path))
}

impl LayerStore {
    /// The attributes that overlay mounts of this store's layers read.
    pub(crate) fn overlay_attributes(&self) -> OverlayAttributes {
        match self.snapshots.marks() {
            OverlayMarks::Trusted => OverlayAttributes::Trusted,
            OverlayMarks::User => OverlayAttributes::User,
            OverlayMarks::Own => OverlayAttributes::Own,
        }
    }

    /// Whom files can be given to here.
    pub(crate) fn ownership(&self) -> Ownership {
        match self.snapshots.owners() {
            Owners::All => Ownership::Restore,
            Owners::OwnOnly => Ownership::Ignore,
        }
    }

    /// How files are put on disk in a form: as far as this user may.
    pub(crate) fn directory_options(&self, form: DirectoryForm) -> DirectoryOptions {
        let mut options = DirectoryOptions::new(form);
        options.ownership = self.ownership();
        if !self.snapshots.makes_devices() {
            options.devices = Devices::Skip;
        }
        options
    }

    fn overlay(&self) -> DirectoryOptions {
        self.directory_options(DirectoryForm::Overlay(self.overlay_attributes()))
    }
}

/// What the layers below one that is unpacked hold.
struct Below<'a> {
    view: &'a TreeView,
    store: &'a LayerStore,
    layers: &'a [Arc<Layer>],
}

impl LowerLayers for Below<'_> {
    fn directory(&self, path: &EntryPath) -> Option<Metadata> {
        let node = self.view.lookup(path)?;
        node.is_directory().then(|| node.entry.metadata.clone())
    }

    /// A hard link across layers is rare: the lower layer's directory is asked for then.
    fn file(&self, path: &EntryPath) -> io::Result<Option<(OwnedFd, Metadata)>> {
        let Some(node) = self
            .view
            .lookup(path)
            .and_then(|node| self.view.inode(&node))
        else {
            return Ok(None);
        };
        if !matches!(node.entry.kind, longshore_layers::Kind::File { .. }) {
            return Ok(None);
        }
        let layer = &self.layers[node.layer];
        let root = self.store.open_directory(layer).map_err(io::Error::other)?;
        let file = rustix::fs::openat(
            &root,
            node.entry.path.as_bytes(),
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Some((file, node.entry.metadata.clone())))
    }
}
