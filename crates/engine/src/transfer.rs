//! Pulling into and pushing from the local store.
//!
//! Blobs move as they are, by digest, several at a time; what is on the other side already
//! is not moved. A manifest is stored or pushed after all that it names, and a name is
//! given last: a broken transfer leaves no half image, and what arrived is not fetched again.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use longshore_content::StateRoot;
use longshore_oci::{
    DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, Manifest, Platform, Reference, media_type,
};
use longshore_registry_client::{Client, MANIFEST_ACCEPT, Repository};
use tokio::task::spawn_blocking;

use crate::EngineError;
use crate::image::{ImageStore, StoredImage, image_name, parse_document, select_platform};
use crate::upload::{RepositoryUploads, Uploads};

/// How many blobs of one image move at a time; the client bounds them for each host too.
const BLOBS_AT_ONCE: usize = 6;
/// How many pieces of a blob may wait to be written.
const PIECES_AHEAD: usize = 16;
/// How deep indexes may be nested.
const INDEX_DEPTH_MAX: usize = 4;
/// How long what a transfer brought is kept for it, without a sign of life.
const LEASE: Duration = Duration::from_secs(3600);

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What the reference named: a manifest or an index.
    pub descriptor: Descriptor,
    /// The platform's manifest.
    pub manifest: Descriptor,
    /// Bytes that were fetched; what was here already does not count.
    pub fetched_bytes: u64,
}

/// A manifest for a platform, with its configuration stored, and its layers not fetched.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) top: Descriptor,
    pub(crate) descriptor: Descriptor,
    pub(crate) manifest: Manifest,
}

/// Fetches the manifest for `platform` and its configuration, and stores both.
pub(crate) async fn resolve(
    root: &StateRoot,
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, EngineError> {
    let name = reference.familiar();
    let repository = Repository::of(reference);
    let (top, mut bytes) = client.fetch_manifest(reference, MANIFEST_ACCEPT).await?;
    let mut descriptor = top.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        put(root, bytes.clone(), descriptor.digest).await?;
        match parse_document(&name, &bytes, &descriptor.media_type)? {
            Document::Manifest(manifest) => {
                fetch_blob(root, client, reference, &manifest.config).await?;
                return Ok(Resolved {
                    top,
                    descriptor,
                    manifest,
                });
            }
            Document::Index(index) => {
                descriptor = select_platform(&name, &index.manifests, platform)?.clone();
                bytes = match stored_document(root, descriptor.digest).await? {
                    Some(stored) => stored,
                    None => {
                        let child = repository.at_digest(descriptor.digest);
                        client.fetch_manifest(&child, MANIFEST_ACCEPT).await?.1
                    }
                };
            }
        }
    }
    Err(EngineError::Archive(format!(
        "`{name}`: indexes are nested more than {INDEX_DEPTH_MAX} deep"
    )))
}

async fn stored_document(root: &StateRoot, digest: Digest) -> Result<Option<Bytes>, EngineError> {
    let images = ImageStore::new(root.clone());
    let limit = DOCUMENT_BYTES_MAX as u64;
    match spawn_blocking(move || images.bytes("", "manifest", digest, limit)).await? {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(EngineError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What [`resolve`] finds, without asking the registry: where the reference has a digest and
/// the documents that it names are here, nobody could say anything else.
pub(crate) fn resolve_here(
    root: &StateRoot,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<Resolved>, EngineError> {
    let Some(digest) = reference.digest() else {
        return Ok(None);
    };
    resolve_stored(root, reference, Descriptor::new("", digest, 0), platform)
}

/// What [`resolve`] finds below `top`, if the documents are here.
pub(crate) fn resolve_stored(
    root: &StateRoot,
    reference: &Reference,
    top: Descriptor,
    platform: &Platform,
) -> Result<Option<Resolved>, EngineError> {
    let (images, name) = (ImageStore::new(root.clone()), reference.familiar());
    let found = images
        .manifest_for(&name, &top, platform)
        .and_then(|(descriptor, manifest)| {
            images.config(&name, &manifest)?;
            Ok((descriptor, manifest))
        });
    match found {
        Ok((descriptor, manifest)) => Ok(Some(Resolved {
            top,
            descriptor,
            manifest,
        })),
        Err(EngineError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pulls an image for `platform`, and names it as it was asked for.
pub(crate) async fn pull(
    root: &StateRoot,
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Pulled, EngineError> {
    let reference = reference.clone().with_default_tag();
    let lease = root
        .leases()
        .start(&format!("pull {}", reference.familiar()), LEASE);
    let resolved = resolve(root, client, &reference, platform).await?;
    let digests: Vec<Digest> = resolved
        .manifest
        .layers
        .iter()
        .map(|layer| layer.digest)
        .collect();
    lease.add_blobs(
        digests
            .iter()
            .chain([&resolved.top.digest, &resolved.descriptor.digest]),
    )?;
    let layers = resolved
        .manifest
        .layers
        .iter()
        .filter(|layer| !media_type::is_foreign_layer(&layer.media_type));
    let fetched: Vec<u64> = stream::iter(layers)
        .map(|layer| fetch_blob(root, client, &reference, layer))
        .buffer_unordered(BLOBS_AT_ONCE)
        .try_collect()
        .await?;
    let (images, name, top) = (root.images(), reference.to_string(), resolved.top.clone());
    spawn_blocking(move || images.set(&name, &top)).await??;
    Ok(Pulled {
        descriptor: resolved.top,
        manifest: resolved.descriptor,
        fetched_bytes: fetched.iter().sum(),
    })
}

/// Fetches a blob unless it is here; how many bytes that took.
pub(crate) async fn fetch_blob(
    root: &StateRoot,
    client: &Client,
    repository: &Reference,
    descriptor: &Descriptor,
) -> Result<u64, EngineError> {
    let (store, digest) = (root.blobs().clone(), descriptor.digest);
    if spawn_blocking(move || store.publish(&digest)).await?? {
        return Ok(0);
    }
    let mut stream = client
        .fetch_blob(&Repository::of(repository), descriptor, 0)
        .await?;
    // The disk is written to by one thread, a few pieces behind the network.
    let (pieces, mut arriving) = tokio::sync::mpsc::channel::<Bytes>(PIECES_AHEAD);
    let (store, path) = (root.blobs().clone(), root.path().to_owned());
    let written = spawn_blocking(move || {
        let mut writer = store.writer_by(digest.algorithm())?;
        while let Some(piece) = arriving.blocking_recv() {
            writer
                .write_all(&piece)
                .map_err(EngineError::io("write a blob below", &path))?;
        }
        Ok::<_, EngineError>(writer)
    });
    let mut failed = None;
    while let Some(piece) = stream.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        // Where the writer ended early, its own error says why.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    let writer = written.await??;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let (_, size_bytes) = spawn_blocking(move || writer.commit(Some(&digest))).await??;
    Ok(size_bytes)
}

async fn put(root: &StateRoot, bytes: Bytes, digest: Digest) -> Result<(), EngineError> {
    let store = root.blobs().clone();
    spawn_blocking(move || store.put_as(&bytes, &digest)).await??;
    Ok(())
}

/// Pushes an image under `target`; what was pushed. Of the blobs, what `uploads` has sent to
/// the target's repository is not looked at again.
///
/// An index of which only some platforms are here is pushed as the manifest of `platform`
/// alone, as Docker does.
pub(crate) async fn push(
    root: &StateRoot,
    uploads: &Uploads,
    image: &StoredImage,
    target: &Reference,
    platform: &Platform,
) -> Result<Descriptor, EngineError> {
    let pusher = Pusher {
        images: ImageStore::new(root.clone()),
        root: root.clone(),
        name: image_name(image),
        uploads: uploads.to(target),
    };
    let lease = root
        .leases()
        .start(&format!("push {}", target.familiar()), LEASE);
    lease.add_blobs([&image.descriptor.digest])?;
    let descriptor = pusher.what_to_push(&image.descriptor, platform)?;
    if target
        .digest()
        .is_some_and(|digest| digest != descriptor.digest)
    {
        return Err(EngineError::NotPushable {
            reference: Box::new(target.clone()),
            reason: format!("the image's digest is {}", descriptor.digest),
        });
    }
    pusher
        .push_document(descriptor.clone(), target.clone().with_default_tag(), 0)
        .await?;
    Ok(descriptor)
}

struct Pusher {
    images: ImageStore,
    root: StateRoot,
    name: String,
    uploads: Arc<RepositoryUploads>,
}

impl Pusher {
    fn what_to_push(
        &self,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<Descriptor, EngineError> {
        if self.is_complete(descriptor, 0)? {
            return Ok(descriptor.clone());
        }
        let (descriptor, _) = self.images.manifest_for(&self.name, descriptor, platform)?;
        Ok(descriptor)
    }

    /// Whether all manifests below are here, and all that they name.
    fn is_complete(&self, descriptor: &Descriptor, depth: usize) -> Result<bool, EngineError> {
        if depth > INDEX_DEPTH_MAX || self.root.blobs().info(&descriptor.digest)?.is_none() {
            return Ok(false);
        }
        let parts = match self.images.document(&self.name, descriptor)? {
            Document::Index(index) => {
                for child in &index.manifests {
                    if !self.is_complete(child, depth + 1)? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
            Document::Manifest(manifest) => parts_of(&manifest),
        };
        for part in parts {
            if !self.uploads.has(&part.digest) && self.root.blobs().info(&part.digest)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn push_document(
        &self,
        descriptor: Descriptor,
        version: Reference,
        depth: usize,
    ) -> Result<(), EngineError> {
        let bytes = self.images.bytes(
            &self.name,
            "manifest",
            descriptor.digest,
            DOCUMENT_BYTES_MAX as u64,
        )?;
        match parse_document(&self.name, &bytes, &descriptor.media_type)? {
            Document::Manifest(manifest) => self.push_parts(&manifest).await?,
            Document::Index(index) => {
                for child in index.manifests {
                    let version = self.uploads.repository.at_digest(child.digest);
                    Box::pin(self.push_document(child, version, depth + 1)).await?;
                }
            }
        }
        let media_type = match &descriptor.media_type {
            empty if empty.is_empty() => media_type::OCI_MANIFEST,
            known => known,
        };
        self.uploads
            .client
            .push_manifest(&version, media_type, Bytes::from(bytes))
            .await?;
        Ok(())
    }

    async fn push_parts(&self, manifest: &Manifest) -> Result<(), EngineError> {
        stream::iter(parts_of(manifest))
            .map(|part| async move { self.uploads.ensure(&self.name, &part).await })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect()
            .await
    }
}

/// The blobs that a registry must hold before the manifest.
pub(crate) fn parts_of(manifest: &Manifest) -> Vec<Descriptor> {
    let layers = manifest
        .layers
        .iter()
        .filter(|layer| !media_type::is_foreign_layer(&layer.media_type));
    let mut parts: Vec<Descriptor> = layers.chain([&manifest.config]).cloned().collect();
    parts.sort_by_key(|part| part.digest);
    parts.dedup_by_key(|part| part.digest);
    parts
}
