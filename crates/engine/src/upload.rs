//! Blobs on their way to registries: each goes to each repository once.
//!
//! A build sends a layer as soon as its blob is there, beside the steps that still run; when it
//! pushes the image, what was sent is known, what is being sent is waited for, and only the
//! rest is left. Manifests are no business of this module: they come after their blobs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use longshore_content::StateRoot;
use longshore_oci::{Descriptor, Digest, Platform, Reference};
use longshore_registry_client::{Client, FileSource, Repository, UploadOptions};
use tokio::sync::OnceCell;

use crate::EngineError;
use crate::image::{ImageStore, image_name};
use crate::transfer::parts_of;

/// The repositories that blobs are sent to.
#[derive(Debug)]
pub(crate) struct Uploads {
    root: StateRoot,
    client: Client,
    repositories: Mutex<Vec<Arc<RepositoryUploads>>>,
    sent: Arc<Mutex<Sent>>,
}

/// For each registry and blob, the first repository that is known to have it.
type Sent = HashMap<(String, Digest), Repository>;

impl Uploads {
    /// None yet.
    pub(crate) fn new(root: StateRoot, client: Client) -> Self {
        Self {
            root,
            client,
            repositories: Mutex::default(),
            sent: Arc::default(),
        }
    }

    /// Those to the repository that `reference` names.
    pub(crate) fn to(&self, reference: &Reference) -> Arc<RepositoryUploads> {
        let repository = Repository::of(reference);
        let mut known = self
            .repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.iter().find(|known| known.repository == repository) {
            return Arc::clone(found);
        }
        let made = Arc::new(RepositoryUploads {
            root: self.root.clone(),
            client: self.client.clone(),
            repository,
            elsewhere: OnceLock::new(),
            blobs: Mutex::default(),
            sent: Arc::clone(&self.sent),
        });
        known.push(Arc::clone(&made));
        made
    }
}

/// The blobs of one repository.
#[derive(Debug)]
pub(crate) struct RepositoryUploads {
    root: StateRoot,
    pub(crate) client: Client,
    pub(crate) repository: Repository,
    /// Blobs that other repositories of the registry are likely to have.
    elsewhere: OnceLock<HashMap<Digest, Repository>>,
    /// Set once the repository has the blob.
    blobs: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    sent: Arc<Mutex<Sent>>,
}

impl RepositoryUploads {
    /// Makes sure that the repository has a blob of `image`. After a failure the next call
    /// tries again.
    pub(crate) async fn ensure(&self, image: &str, part: &Descriptor) -> Result<(), EngineError> {
        let cell = self.cell(&part.digest);
        let sent = cell.get_or_try_init(|| self.send(image, part));
        sent.await.copied()
    }

    /// Makes a blob appear that a repository of the same registry has, without its bytes passing
    /// here; whether it is there now. That it could not be is no error: it can be sent.
    pub(crate) async fn take_over(&self, digest: &Digest, from: &Reference) -> bool {
        let from = Repository::of(from);
        let cell = self.cell(digest);
        let taken = cell.get_or_try_init(|| async {
            let done = match from == self.repository {
                true => self.client.blob_exists(&from, digest).await,
                false => {
                    self.client
                        .mount_blob(&self.repository, digest, &from)
                        .await
                }
            };
            done.unwrap_or_else(|error| {
                tracing::debug!(%error, %digest, "not taken over");
                false
            })
            .then_some(())
            .ok_or(())
        });
        taken.await.is_ok()
    }

    /// Whether the repository is known to have a blob.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.cell(digest).initialized()
    }

    /// That a repository has a blob, which need not be sent to another one of its registry.
    pub(crate) fn note_origin(&self, digest: &Digest, origin: &Reference) {
        let origin = Repository::of(origin);
        let key = (origin.registry().to_owned(), *digest);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.entry(key).or_insert(origin);
    }

    fn cell(&self, digest: &Digest) -> Arc<OnceCell<()>> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(blobs.entry(*digest).or_default())
    }

    async fn send(&self, image: &str, part: &Descriptor) -> Result<(), EngineError> {
        if self.root.blobs().open(&part.digest)?.is_none() {
            return Err(EngineError::Missing {
                image: image.to_owned(),
                what: "blob",
                digest: part.digest,
            });
        }
        let source = Arc::new(FileSource::new(self.root.blobs().blob_path(&part.digest)));
        let options = UploadOptions {
            mount_from: self.mount_from(&part.digest)?,
            ..UploadOptions::default()
        };
        self.client
            .upload_blob(&self.repository, part, source, &options)
            .await?;
        let key = (self.repository.registry().to_owned(), part.digest);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.entry(key).or_insert_with(|| self.repository.clone());
        Ok(())
    }

    /// A repository of the same registry that has the blob, or is likely to.
    fn mount_from(&self, digest: &Digest) -> Result<Option<Repository>, EngineError> {
        let key = (self.repository.registry().to_owned(), *digest);
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = sent.get(&key) {
            return Ok(Some(found.clone()));
        }
        drop(sent);
        if self.elsewhere.get().is_none() {
            let found = blobs_elsewhere(&self.root, &self.repository)?;
            let _ = self.elsewhere.set(found);
        }
        let elsewhere = self.elsewhere.get();
        Ok(elsewhere.and_then(|known| known.get(digest).cloned()))
    }
}

/// The blobs of the images that are named after other repositories of `target`'s registry:
/// what was pushed to or pulled from there can be mounted instead of sent again.
fn blobs_elsewhere(
    root: &StateRoot,
    target: &Repository,
) -> Result<HashMap<Digest, Repository>, EngineError> {
    let images = ImageStore::new(root.clone());
    let mut blobs = HashMap::new();
    for image in images.list()? {
        let Some(name) = &image.reference else {
            continue;
        };
        if name.domain() != target.registry() || name.path() == target.path() {
            continue;
        }
        // An image that cannot be read is no reason not to push another.
        let found = images.manifest_for(&image_name(&image), &image.descriptor, &Platform::host());
        let Ok((_, manifest)) = found else { continue };
        for part in parts_of(&manifest) {
            blobs.insert(part.digest, Repository::of(name));
        }
    }
    Ok(blobs)
}
