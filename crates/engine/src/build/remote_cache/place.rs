//! A place that keeps documents by name and blobs by digest.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use longshore_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, Digester, Reference, media_type};
use longshore_registry_client::{Client, FileSource, MANIFEST_ACCEPT, Repository, UploadOptions};
use longshore_solver::BoxError;
use tokio::task::spawn_blocking;

use super::{CachePlace, document};
use crate::EngineError;
use crate::files::{open_regular, read_regular};
use crate::layer::BlobPlace;

/// How many pieces of a blob may have arrived that were not read yet.
const PIECES_AHEAD: usize = 16;
/// The name that a directory's marker has.
const DIRECTORY_MARKER: &str = "cache";

/// A cache's place.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A repository, and the tag of its marker.
    Registry {
        client: Client,
        reference: Reference,
    },
    /// A directory.
    Directory(PathBuf),
}

/// What stands where a cache's marker would.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A document; its media type.
    Document(Bytes, String),
}

impl Place {
    pub(super) fn new(client: Client, place: &CachePlace) -> Self {
        match place {
            CachePlace::Registry(reference) => Self::Registry {
                client,
                reference: reference.clone().with_default_tag(),
            },
            CachePlace::Directory(path) => Self::Directory(path.clone()),
        }
    }

    /// The same place as blobs of it are recorded with.
    pub(super) fn of_blobs(&self) -> BlobPlace {
        match self {
            Self::Registry { reference, .. } => BlobPlace::Registry(reference.without_version()),
            Self::Directory(path) => BlobPlace::Directory(path.clone()),
        }
    }

    /// What stands where the marker would.
    pub(super) async fn find(&self) -> Result<Found, BoxError> {
        match self {
            Self::Registry { client, reference } => {
                match client.fetch_manifest(reference, MANIFEST_ACCEPT).await {
                    Ok((descriptor, bytes)) => Ok(Found::Document(bytes, descriptor.media_type)),
                    Err(error) if error.is_not_found() => Ok(Found::Nothing),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Directory(path) if !path.exists() => Ok(Found::Nothing),
            Self::Directory(path) => match self.get(DIRECTORY_MARKER).await? {
                Some(bytes) => Ok(Found::Document(bytes, media_type::OCI_MANIFEST.to_owned())),
                None if may_become_a_cache(path) => Ok(Found::Nothing),
                None => Ok(Found::Document(Bytes::new(), String::new())),
            },
        }
    }

    /// Lets the marker stand, unless it does; something else that stands there stays.
    pub(super) async fn mark(&self) -> Result<(), BoxError> {
        let marker = document::marker()?;
        match self.find().await? {
            Found::Document(bytes, _) if bytes == marker => Ok(()),
            Found::Document(bytes, _)
                if document::artifact_type(&bytes).as_deref() != Some(document::MARKER_TYPE) =>
            {
                Err("what has this name is no build cache, and is left alone".into())
            }
            _ => match self {
                Self::Registry { client, reference } => {
                    let bytes = Bytes::from(marker);
                    client
                        .push_manifest(reference, media_type::OCI_MANIFEST, bytes)
                        .await?;
                    Ok(())
                }
                Self::Directory(_) => self.put(DIRECTORY_MARKER, marker).await,
            },
        }
    }

    /// The document of this name.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>, BoxError> {
        match self {
            Self::Registry { client, reference } => {
                let named = Repository::of(reference).at_tag(name)?;
                let accept = &[media_type::OCI_MANIFEST];
                match client.fetch_manifest(&named, accept).await {
                    Ok((_, bytes)) => Ok(Some(bytes)),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Directory(path) => {
                let path = path.join("names").join(name);
                let read = spawn_blocking(move || read_regular(&path, DOCUMENT_BYTES_MAX as u64));
                match read.await? {
                    Ok(bytes) => Ok(Some(bytes.into())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Whether the document of this name is just that.
    pub(super) async fn has(&self, name: &str, document: &[u8]) -> Result<bool, BoxError> {
        match self {
            Self::Registry { client, reference } => {
                let named = Repository::of(reference).at_tag(name)?;
                match client.resolve(&named).await {
                    Ok(found) => Ok(found.descriptor.digest == Digest::sha256_of(document)),
                    Err(error) if error.is_not_found() => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Directory(_) => Ok(self.get(name).await?.is_some_and(|found| found == document)),
        }
    }

    /// Lets a document stand under a name; the blobs that it names are there.
    pub(super) async fn put(&self, name: &str, document: Vec<u8>) -> Result<(), BoxError> {
        match self {
            Self::Registry { client, reference } => {
                let named = Repository::of(reference).at_tag(name)?;
                client
                    .push_manifest(&named, media_type::OCI_MANIFEST, document.into())
                    .await?;
                Ok(())
            }
            Self::Directory(path) => {
                let path = path.join("names").join(name);
                spawn_blocking(move || write_whole(&path, &mut &document[..])).await??;
                Ok(())
            }
        }
    }

    /// Makes sure that the blob that every document names is there.
    pub(super) async fn put_empty(&self) -> Result<(), BoxError> {
        let Self::Registry { client, reference } = self else {
            return Ok(());
        };
        let source = Arc::new(Bytes::from_static(document::EMPTY));
        let (repository, options) = (Repository::of(reference), UploadOptions::default());
        client
            .upload_blob(&repository, &document::empty(), source, &options)
            .await?;
        Ok(())
    }

    /// Makes sure that a blob is there, which is in the file `stored`; `from` is who else has it.
    pub(super) async fn put_blob(
        &self,
        stored: PathBuf,
        blob: &Descriptor,
        from: Option<&BlobPlace>,
    ) -> Result<(), BoxError> {
        match self {
            Self::Registry { client, reference } => {
                let options = UploadOptions {
                    mount_from: mount_from(reference, from),
                    ..UploadOptions::default()
                };
                let (repository, source) = (Repository::of(reference), FileSource::new(stored));
                client
                    .upload_blob(&repository, blob, Arc::new(source), &options)
                    .await?;
            }
            Self::Directory(path) => {
                let (path, digest) = (blob_path(path, &blob.digest), blob.digest);
                spawn_blocking(move || {
                    if holds(&path, &digest) {
                        return Ok(());
                    }
                    let mut file =
                        std::fs::File::open(&stored).map_err(EngineError::io("read", &stored))?;
                    write_whole(&path, &mut file)
                })
                .await??;
            }
        }
        Ok(())
    }
}

impl Place {
    /// Reads a blob while it arrives. What it holds is not checked.
    pub(super) async fn read_blob<V: Send + 'static>(
        &self,
        blob: &Descriptor,
        read: impl FnOnce(Box<dyn io::Read + Send>) -> Result<V, BoxError> + Send + 'static,
    ) -> Result<V, BoxError> {
        match self {
            Self::Registry { client, reference } => {
                let repository = Repository::of(reference);
                let mut stream = client.fetch_blob(&repository, blob, 0).await?;
                let (pieces, arriving) = tokio::sync::mpsc::channel(PIECES_AHEAD);
                let reading = spawn_blocking(move || read(Box::new(Arriving::new(arriving))));
                while let Some(piece) = stream.next().await {
                    // Where the reader ended early, it says why.
                    if pieces.send(piece.map_err(io::Error::other)).await.is_err() {
                        break;
                    }
                }
                drop(pieces);
                reading.await?
            }
            Self::Directory(path) => {
                let path = blob_path(path, &blob.digest);
                let open = move || {
                    let file = open_regular(&path).map_err(EngineError::io("read", &path))?;
                    read(Box::new(file))
                };
                spawn_blocking(open).await?
            }
        }
    }
}

/// The pieces of a stream as a reader, for another thread.
struct Arriving {
    pieces: tokio::sync::mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Arriving {
    fn new(pieces: tokio::sync::mpsc::Receiver<io::Result<Bytes>>) -> Self {
        let rest = Bytes::new();
        Self { pieces, rest }
    }
}

impl io::Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// Whether a directory without a marker is empty, or has what another export makes before the
/// marker, or had made when it was killed.
fn may_become_a_cache(path: &Path) -> bool {
    path.read_dir().is_ok_and(|mut files| {
        files.all(|file| {
            file.is_ok_and(|file| {
                ["names", "blobs"]
                    .iter()
                    .any(|own| file.file_name() == *own)
            })
        })
    })
}

/// The repository of the same registry that has the blob too.
fn mount_from(reference: &Reference, from: Option<&BlobPlace>) -> Option<Repository> {
    match from {
        Some(BlobPlace::Registry(other)) if other.domain() == reference.domain() => {
            Some(Repository::of(other))
        }
        _ => None,
    }
}

/// Whether a file is there and is what its name says: a damaged one is written again.
fn holds(path: &Path, digest: &Digest) -> bool {
    let Ok(mut file) = std::fs::File::open(path) else {
        return false;
    };
    let mut digester = Digester::new(digest.algorithm());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return digester.finish() == *digest,
            Ok(count) => digester.update(&buffer[..count]),
            Err(_) => return false,
        }
    }
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory
        .join("blobs")
        .join(digest.algorithm().as_str())
        .join(digest.hex())
}

/// Writes a file that appears whole, with all directories above it.
fn write_whole(path: &Path, content: &mut dyn io::Read) -> Result<(), EngineError> {
    let failed = |source| EngineError::io("write", path)(source);
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(parent)
        .map_err(failed)?;
    io::copy(content, &mut file).map_err(failed)?;
    file.flush().map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_another_export_has_begun_is_not_taken_for_something_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Directory(directory.path().to_owned());
        std::fs::create_dir(directory.path().join("names")).unwrap();
        std::fs::write(directory.path().join("names/.unfinished"), "").unwrap();
        assert!(matches!(place.find().await.unwrap(), Found::Nothing));
        std::fs::write(directory.path().join("index.json"), "{}").unwrap();
        assert!(matches!(
            place.find().await.unwrap(),
            Found::Document(bytes, _) if bytes.is_empty()
        ));
    }
}
