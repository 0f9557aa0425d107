//! Images that one state root lends to another: to a build that is to find nothing but its base
//! images.

use std::fs::File;
use std::io;

use longshore_content::StateRoot;
use longshore_oci::{Descriptor, Digest, Document, Platform, Reference};

use crate::EngineError;
use crate::image::{ImageStore, StoredImage};

/// Copies the image of this name for `platform` from one root to the other, where the lender has
/// it; its name too. Layers that the lender does not have are left to the registry.
pub(crate) fn borrow(
    lender: &StateRoot,
    to: &StateRoot,
    reference: &Reference,
    platform: &Platform,
) -> Result<(), EngineError> {
    let images = ImageStore::new(lender.clone());
    let named = images.by_reference(reference)?;
    let by_digest = || {
        let digest = reference.digest()?;
        Some(StoredImage {
            reference: None,
            descriptor: Descriptor::new("", digest, 0),
            tagged: std::time::SystemTime::now(),
        })
    };
    let Some(image) = named.clone().or_else(by_digest) else {
        return Ok(());
    };
    let found = match images.read(&image, platform) {
        // What it does not have for the platform it cannot lend.
        Err(EngineError::Missing { .. } | EngineError::NoPlatform { .. }) => return Ok(()),
        found => found?,
    };
    copy_documents(
        lender,
        to,
        &images,
        &image.descriptor,
        &found.descriptor.digest,
    )?;
    copy(lender, to, &found.manifest.config.digest)?;
    for layer in &found.manifest.layers {
        copy(lender, to, &layer.digest)?;
    }
    if named.is_some() {
        let name = reference.clone().with_default_tag().to_string();
        to.images().set(&name, &image.descriptor)?;
    }
    Ok(())
}

/// The indexes above a manifest, and the manifest.
fn copy_documents(
    lender: &StateRoot,
    to: &StateRoot,
    images: &ImageStore,
    top: &Descriptor,
    manifest: &Digest,
) -> Result<(), EngineError> {
    copy(lender, to, &top.digest)?;
    copy(lender, to, manifest)?;
    let Document::Index(index) = images.document("image", top)? else {
        return Ok(());
    };
    for nested in &index.manifests {
        copy(lender, to, &nested.digest)?;
    }
    Ok(())
}

/// Copies a blob, verified, where the one has it and the other does not.
fn copy(lender: &StateRoot, to: &StateRoot, digest: &Digest) -> Result<(), EngineError> {
    if to.blobs().info(digest)?.is_some() {
        return Ok(());
    }
    let path = lender.blobs().blob_path(digest);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(EngineError::io("read", &path))?,
    };
    let mut writer = to.blobs().writer_by(digest.algorithm())?;
    io::copy(&mut file, &mut writer).map_err(EngineError::io("read", &path))?;
    writer.commit(Some(digest))?;
    Ok(())
}
