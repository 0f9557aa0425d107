//! Images as archives: OCI layouts (directory or tar) and `docker load` archives.
//!
//! ```text
//! oci-layout                 {"imageLayoutVersion":"1.0.0"}
//! index.json                 the images, named by annotations
//! manifest.json              the same for `docker load` (docker archives only)
//! blobs/sha256/<hex>         manifests, configurations, layers
//! ```

mod read;
mod write;

use longshore_oci::Descriptor;
use serde::{Deserialize, Serialize};

use crate::EngineError;

pub(crate) use read::load;
pub(crate) use write::{ArchiveImage, ArchiveKind, write_directory, write_tar};

/// The annotation that names an image in an index (image-spec `annotations.md`).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation with the whole name.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// What a layout's `oci-layout` file holds.
const LAYOUT_MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// That a blob is as large as its descriptor says: other readers believe it.
pub(crate) fn same_size(
    image: &str,
    what: &'static str,
    described: &Descriptor,
    found: u64,
) -> Result<(), EngineError> {
    if found == described.size {
        return Ok(());
    }
    Err(EngineError::BlobSize(format!(
        "{what} {} of `{image}` is {found} bytes, but is described as {}",
        described.digest, described.size
    )))
}

/// One image of a `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}
