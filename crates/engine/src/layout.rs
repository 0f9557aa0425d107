//! Images in OCI layout directories, taken into the store.

use std::fs::File;
use std::io;
use std::path::Path;

use longshore_content::StateRoot;
use longshore_oci::{Descriptor, Digest, Document, Index, Platform};

use crate::EngineError;
use crate::archive::{IMAGE_NAME, REF_NAME, same_size};
use crate::files::read_regular;
use crate::image::{ImageStore, PlatformImage, StoredImage, parse_document, select_platform};

/// What an image from a layout is called where a reference is needed: no registry has it.
pub(crate) const REFERENCE: &str = "oci-layout.invalid/image";
/// The largest document that is read, bytes.
const DOCUMENT_BYTES_MAX: u64 = longshore_oci::DOCUMENT_BYTES_MAX as u64;

/// Takes the image that `reference` (tag, digest, or nothing for the only one) names for
/// `platform`; the digest of what was named, and the platform's image.
pub(crate) fn take(
    root: &StateRoot,
    directory: &Path,
    reference: &str,
    platform: &Platform,
) -> Result<(Digest, PlatformImage), EngineError> {
    let name = format!("{}:{reference}", directory.display());
    let index_path = directory.join("index.json");
    let bytes = read_regular(&index_path, DOCUMENT_BYTES_MAX)
        .map_err(EngineError::io("read", &index_path))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|source| EngineError::Config {
        image: name.clone(),
        source,
    })?;
    let top = choose(&name, &index.manifests, reference, platform)?.clone();
    let mut descriptor = top.clone();
    loop {
        copy_blob(root, directory, &descriptor)?;
        let stored = root
            .blobs()
            .read_all(&descriptor.digest, DOCUMENT_BYTES_MAX)?;
        match parse_document(&name, &stored.unwrap_or_default(), &descriptor.media_type)? {
            Document::Index(index) => {
                descriptor = select_platform(&name, &index.manifests, platform)?.clone();
            }
            Document::Manifest(manifest) => {
                for part in manifest.layers.iter().chain([&manifest.config]) {
                    copy_blob(root, directory, part)?;
                }
                break;
            }
        }
    }
    let image = StoredImage {
        reference: None,
        descriptor,
        tagged: std::time::SystemTime::now(),
    };
    Ok((
        top.digest,
        ImageStore::new(root.clone()).read(&image, platform)?,
    ))
}

fn choose<'a>(
    name: &str,
    manifests: &'a [Descriptor],
    reference: &str,
    platform: &Platform,
) -> Result<&'a Descriptor, EngineError> {
    let reference = reference.trim_start_matches(['@', ':']);
    let no_such = || EngineError::NoSuchImage(name.to_owned());
    if reference.is_empty() {
        return match manifests {
            [only] => Ok(only),
            several => select_platform(name, several, platform),
        };
    }
    if let Ok(digest) = reference.parse::<Digest>() {
        return manifests
            .iter()
            .find(|known| known.digest == digest)
            .ok_or_else(no_such);
    }
    let is_named = |known: &&Descriptor| {
        let short = known.annotations.get(REF_NAME);
        let whole = known.annotations.get(IMAGE_NAME);
        short.is_some_and(|name| name == reference || name.ends_with(&format!(":{reference}")))
            || whole.is_some_and(|name| name.ends_with(&format!(":{reference}")))
    };
    manifests.iter().find(is_named).ok_or_else(no_such)
}

/// Takes a blob of a directory into the store, verified, unless it is here; in either case it is
/// as large as it is described.
pub(crate) fn copy_blob(
    root: &StateRoot,
    directory: &Path,
    descriptor: &Descriptor,
) -> Result<(), EngineError> {
    let digest = descriptor.digest;
    let is_described =
        |found| same_size(&directory.display().to_string(), "blob", descriptor, found);
    if let Some(known) = root.blobs().info(&digest)? {
        return is_described(known.size_bytes);
    }
    let path = directory
        .join("blobs")
        .join(digest.algorithm().as_str())
        .join(digest.hex());
    let mut file = File::open(&path).map_err(EngineError::io("read", &path))?;
    let mut writer = root.blobs().writer_by(digest.algorithm())?;
    io::copy(&mut file, &mut writer).map_err(EngineError::io("read", &path))?;
    let (_, size) = writer.commit(Some(&digest))?;
    is_described(size)
}
