//! Which form layers are unpacked to: a directory, or an image that is mounted.
//!
//! An image is one file, written as the layer's archive is read, where a directory costs the
//! creation of every file. The directory is the form that works everywhere; where layers can be
//! images is found out by trying, once.

use std::error::Error as _;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use longshore_content::StateRoot;
use longshore_layers::{ImageError, NoLowerLayers, OverlayAttributes, image_of_changes};
use longshore_snapshot::{
    OverlaySnapshots, Snapshot, SnapshotError, Snapshotter as _, tried_changes,
};

use super::{Layer, LayerStore};
use crate::EngineError;

/// A smaller blob holds few files: to create them costs less than to mount them in each step.
const BLOB_BYTES_MIN: u64 = 256 << 10;
/// Fewer files than this are created faster than they are worth a mount in each step.
const CHANGES_MIN: usize = 256;

/// What layers are unpacked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerForm {
    /// Images of all but small layers where that works, else directories.
    #[default]
    Auto,
    /// Directories.
    Directory,
    /// EROFS images of all layers.
    Erofs,
}

impl LayerForm {
    const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("directory", Self::Directory),
        ("erofs", Self::Erofs),
    ];
}

impl fmt::Display for LayerForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, form)| form == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// A name of no [`LayerForm`].
#[derive(Debug, thiserror::Error)]
#[error("unknown form of layers `{0}` (auto, directory or erofs)")]
pub struct UnknownLayerForm(pub String);

impl FromStr for LayerForm {
    type Err = UnknownLayerForm;

    fn from_str(name: &str) -> Result<Self, UnknownLayerForm> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, form)| *form)
            .ok_or_else(|| UnknownLayerForm(name.to_owned()))
    }
}

/// Whether layers can be images below a state root.
///
/// # Errors
/// What stands against it.
pub fn try_layer_images(root: &Path) -> Result<(), EngineError> {
    let root = StateRoot::open(root)?;
    try_images(&OverlaySnapshots::open(root.path())?).map_err(EngineError::NoLayerImages)
}

impl LayerStore {
    /// Whether a layer of that many bytes, compressed, becomes an image.
    pub(super) fn blob_becomes_image(&self, bytes: u64) -> Result<bool, EngineError> {
        self.becomes_image(bytes >= BLOB_BYTES_MIN)
    }

    /// Whether a layer of that many changes becomes an image.
    pub(super) fn changes_become_image(&self, count: usize) -> Result<bool, EngineError> {
        self.becomes_image(count >= CHANGES_MIN)
    }

    fn becomes_image(&self, is_large: bool) -> Result<bool, EngineError> {
        let works = || self.try_images().clone();
        match self.form {
            LayerForm::Directory => Ok(false),
            LayerForm::Auto => Ok(is_large && works().is_ok()),
            LayerForm::Erofs => works().map(|()| true).map_err(EngineError::NoLayerImages),
        }
    }

    fn try_images(&self) -> &Result<(), String> {
        self.images_work.get_or_init(|| try_images(&self.snapshots))
    }

    /// The layer's directory, or its image where images can be mounted: the state root may have
    /// one from another kernel.
    pub(super) fn usable_snapshot(&self, layer: &Layer) -> Result<Option<Snapshot>, EngineError> {
        let Some(found) = self.snapshots.get(&layer.key.snapshot_id())? else {
            return Ok(None);
        };
        let is_usable = found.image_bytes()?.is_none() || self.try_images().is_ok();
        Ok(is_usable.then_some(found))
    }

    /// Whether the layer's directory is here. An image that cannot be mounted makes room for one.
    pub(super) fn find_directory(&self, layer: &Layer) -> Result<bool, EngineError> {
        if self.usable_snapshot(layer)?.is_some() {
            return Ok(true);
        }
        let id = layer.key.snapshot_id();
        let found = self.snapshots.get(&id)?;
        let is_image = found.map(|found| found.image_bytes()).transpose()?;
        if is_image.flatten().is_some() && self.snapshots.remove(&id)? {
            let layer = layer.key.text();
            tracing::info!(layer, "deleted an image that cannot be mounted here");
        }
        Ok(false)
    }
}

fn try_images(snapshots: &OverlaySnapshots) -> Result<(), String> {
    let tried = snapshots.try_image(|image| write_tried(image).map_err(std::io::Error::other));
    let tried = tried.map_err(|error| reason(&error));
    if let Err(reason) = &tried {
        tracing::debug!(reason, "layers are unpacked to directories");
    }
    tried
}

fn write_tried(image: &File) -> Result<(), ImageError> {
    let attributes = OverlayAttributes::Trusted;
    image_of_changes(&tried_changes(), image, attributes, &NoLowerLayers)
}

/// The error with its causes.
fn reason(error: &SnapshotError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longshore_layers::{Change, Entry, EntryPath, FileContent, Kind, LayerIndex, Metadata};
    use longshore_registry_client::{Client, ClientOptions};

    use super::*;

    #[test]
    fn forms_are_known_by_their_names() {
        for (name, form) in LayerForm::NAMES {
            assert_eq!(name.parse::<LayerForm>().unwrap(), form);
            assert_eq!(form.to_string(), name);
        }
        assert_eq!(
            "tar".parse::<LayerForm>().unwrap_err().to_string(),
            "unknown form of layers `tar` (auto, directory or erofs)"
        );
    }

    fn file(name: &str, content: &[u8]) -> Change {
        let kind = Kind::File {
            size: content.len() as u64,
        };
        Change {
            entry: Entry {
                path: EntryPath::new(name).unwrap(),
                kind,
                metadata: Metadata::default(),
            },
            content: FileContent::Inline(content.into()),
        }
    }

    /// A store of a kernel that mounts no image.
    fn store_without_images(root: &Path) -> Arc<LayerStore> {
        let client = Client::new(ClientOptions::anonymous());
        // First: it takes no directory that has other files.
        let state = StateRoot::open(root).unwrap();
        let snapshots = Arc::new(OverlaySnapshots::open(root).unwrap());
        let limits = longshore_layers::DecompressLimits::LAYER;
        let caches = client.clone();
        let store = LayerStore::new(state, snapshots, client, caches, LayerForm::Auto, limits);
        store.images_work.set(Err("no EROFS".to_owned())).unwrap();
        Arc::new(store)
    }

    #[tokio::test]
    async fn an_image_that_cannot_be_mounted_is_no_copy_of_its_layer() {
        let temp = tempfile::tempdir().unwrap();
        let store = store_without_images(temp.path());
        let changes = vec![file("f", b"content")];
        let index = LayerIndex::of_changes(&changes).unwrap();
        let layer = store.made(index, changes.clone());
        let pending = store.snapshots.begin(&layer.key.snapshot_id()).unwrap();
        let image = pending.create_image().unwrap();
        image_of_changes(&changes, &image, store.overlay_attributes(), &NoLowerLayers).unwrap();
        pending.commit().unwrap();
        assert!(!store.is_stored(&layer).unwrap());
        let id = store.directory(&layer, &[]).await.unwrap();
        let directory = store.snapshots.get(&id).unwrap().unwrap();
        assert_eq!(directory.image_bytes().unwrap(), None);
        assert!(store.is_stored(&layer).unwrap());
        assert!(store.open_directory(&layer).is_ok());
    }
}
