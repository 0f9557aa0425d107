//! A layer as a directory, or an image of one, that overlay can mount.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use longshore_layers::{
    Change, Devices, DirectoryForm, DirectoryOptions, EntryPath, ImageError, IndexedTar, Kind,
    LayerIndex, LowerLayers, Metadata, NoLowerLayers, OverlayAttributes, Ownership, TreeView,
    UnpackError, changes_of_directory, image_of_changes, materialise, unpack, unpack_image,
};
use longshore_oci::Digest;
use longshore_snapshot::{OverlayMarks, Owners, Pending, Snapshot, SnapshotId, Snapshotter as _};

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
            let (store, shared) = (Arc::clone(self), Arc::clone(layer));
            let is_here = tokio::task::spawn_blocking(move || store.find_directory(&shared));
            if is_here.await?? {
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
            let changes: &[Change] = layer.changes().map_or(&[], |changes| changes);
            let snapshot = match store.image_of_changes(&layer, changes, &id)? {
                Some(snapshot) => snapshot,
                None => store.directory_of_changes(&layer, changes, &id)?,
            };
            // A later process finds the files in the directory, but no index with them.
            if let Some(index) = layer.index.get() {
                store.keep_index(&layer, index)?;
            }
            store.keep_directory(&layer, &snapshot)
        })
        .await?
    }

    fn image_of_changes(
        &self,
        layer: &Layer,
        changes: &[Change],
        id: &SnapshotId,
    ) -> Result<Option<Snapshot>, EngineError> {
        if !self.changes_become_image(changes.len())? {
            return Ok(None);
        }
        let pending = self.snapshots.begin(id)?;
        let image = pending.create_image()?;
        match image_of_changes(changes, &image, self.overlay_attributes(), &NoLowerLayers) {
            Ok(()) => Ok(Some(pending.commit()?)),
            Err(error @ ImageError::Unfit { .. }) => {
                self.note_unfit(layer, &error);
                Ok(None)
            }
            Err(error) => Err(EngineError::layer(layer.key.text())(error)),
        }
    }

    fn directory_of_changes(
        &self,
        layer: &Layer,
        changes: &[Change],
        id: &SnapshotId,
    ) -> Result<Snapshot, EngineError> {
        let pending = self.snapshots.begin(id)?;
        let directory = open(pending.path())?;
        materialise(changes, &directory, &self.overlay(), &NoLowerLayers)
            .map_err(EngineError::layer(layer.key.text()))?;
        Ok(pending.commit()?)
    }

    fn note_unfit(&self, layer: &Layer, error: &ImageError) {
        tracing::info!(layer = %layer.key.text(), %error, "unpacked to a directory");
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
            let below = Below {
                view: &lower,
                store: &store,
                layers: &below,
            };
            let (pending, read) = match store.unpack_to_image(&layer, blob, &below, &id)? {
                Some(unpacked) => unpacked,
                None => store.unpack_to_directory(&layer, blob, &below, &id)?,
            };
            store.check_diff_id(&layer, blob, read.diff_id)?;
            let snapshot = pending.commit()?;
            store.keep_index(&layer, &read.index)?;
            let _ = layer.index.set(Arc::new(read.index));
            store.keep_directory(&layer, &snapshot)
        })
        .await?
    }

    fn unpack_to_image(
        &self,
        layer: &Layer,
        blob: Digest,
        below: &Below<'_>,
        id: &SnapshotId,
    ) -> Result<Option<(Pending, IndexedTar)>, EngineError> {
        let known = self.root.blobs().info(&blob)?;
        let bytes = known.ok_or_else(|| lost(layer))?.size_bytes;
        if !self.blob_becomes_image(bytes)? {
            return Ok(None);
        }
        let pending = self.snapshots.begin(id)?;
        let image = pending.create_image()?;
        let input = self.open_archive(layer, &blob)?;
        let attributes = self.overlay_attributes();
        match unpack_image(input, &image, attributes, self.tar_limits(), below) {
            Ok(read) => Ok(Some((pending, read))),
            Err(UnpackError::Image(error @ ImageError::Unfit { .. })) => {
                self.note_unfit(layer, &error);
                Ok(None)
            }
            Err(error) => Err(EngineError::layer(layer.key.text())(error)),
        }
    }

    fn unpack_to_directory(
        &self,
        layer: &Layer,
        blob: Digest,
        below: &Below<'_>,
        id: &SnapshotId,
    ) -> Result<(Pending, IndexedTar), EngineError> {
        let pending = self.snapshots.begin(id)?;
        let input = self.open_archive(layer, &blob)?;
        let directory = open(pending.path())?;
        let unpacked = unpack(input, &directory, &self.overlay(), self.tar_limits(), below);
        let read = unpacked.map_err(EngineError::layer(layer.key.text()))?.tar;
        Ok((pending, read))
    }

    /// Notes that the layer's directory is there, or its image and what that takes.
    pub(crate) fn keep_directory(
        &self,
        layer: &Layer,
        snapshot: &Snapshot,
    ) -> Result<(), EngineError> {
        let bytes = match snapshot.image_bytes()? {
            Some(bytes) => bytes,
            None => layer.index.get().map_or(0, |index| directory_bytes(index)),
        };
        self.count_written(bytes);
        self.note(layer.key, |record| {
            record.snapshot_id = Some(snapshot.id().to_string());
            record.snapshot_bytes = bytes;
        })
    }

    /// The changes that the layer's directory holds, by name, as `index` describes them.
    pub(super) async fn changes_of_directory(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        index: Arc<LayerIndex>,
    ) -> Result<Vec<Change>, EngineError> {
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let root = store.open_directory(&layer)?;
            changes_of_directory(&root, &index).map_err(EngineError::layer(layer.key.text()))
        })
        .await?
    }

    /// The layer's directory, open.
    pub(crate) fn open_directory(&self, layer: &Layer) -> Result<Arc<OwnedFd>, EngineError> {
        let snapshot = self.usable_snapshot(layer)?.ok_or_else(|| lost(layer))?;
        Ok(Arc::new(snapshot.open()?))
    }
}

/// About what a layer's directory takes on disk.
fn directory_bytes(index: &LayerIndex) -> u64 {
    const BLOCK: u64 = 4096;
    let of = |kind: &Kind| match kind {
        Kind::File { size } => size.div_ceil(BLOCK) * BLOCK,
        Kind::Directory { .. } => BLOCK,
        _ => 0,
    };
    let entries = index.entries().iter();
    BLOCK + entries.map(|entry| of(&entry.entry.kind)).sum::<u64>()
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
        if !matches!(node.entry.kind, Kind::File { .. }) {
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
