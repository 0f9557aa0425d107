//! Writes images as archives, each blob once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use longshore_content::StateRoot;
use longshore_oci::{Descriptor, Digest, Index, Manifest, Platform, Reference, json, media_type};
use serde::Serialize;

use super::{DockerManifest, IMAGE_NAME, LAYOUT_MARKER, REF_NAME};
use crate::EngineError;
use crate::image::ImageStore;

/// Which tools an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveKind {
    /// Any that reads OCI layouts.
    Oci,
    /// `docker load` too.
    Docker,
}

/// An image and the names that it gets in the archive.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveImage {
    /// Its manifest or index.
    pub(crate) descriptor: Descriptor,
    pub(crate) names: Vec<Reference>,
}

/// What goes into an archive: small documents, and blobs of the store.
struct Contents {
    documents: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<Digest, u64>,
}

/// Writes the images as a tar.
pub(crate) fn write_tar(
    root: &StateRoot,
    images: &[ArchiveImage],
    kind: ArchiveKind,
    sink: impl Write,
) -> Result<(), EngineError> {
    let contents = collect(root, images, kind)?;
    let failed = || EngineError::io("write", PathBuf::from("archive"));
    let mut archive = tar::Builder::new(sink);
    let has_sha512 = contents
        .blobs
        .keys()
        .any(|digest| digest.as_bytes().len() == 64);
    let folders = ["blobs", "blobs/sha256"]
        .into_iter()
        .chain(has_sha512.then_some("blobs/sha512"));
    for folder in folders {
        append(
            &mut archive,
            tar::EntryType::Directory,
            folder,
            0o755,
            0,
            io::empty(),
        )
        .map_err(failed())?;
    }
    for (digest, size_bytes) in &contents.blobs {
        let file = open(root, digest)?;
        let name = blob_name(digest);
        append(
            &mut archive,
            tar::EntryType::Regular,
            &name,
            0o644,
            *size_bytes,
            file,
        )
        .map_err(failed())?;
    }
    for (name, bytes) in &contents.documents {
        let size = bytes.len() as u64;
        append(
            &mut archive,
            tar::EntryType::Regular,
            name,
            0o644,
            size,
            &bytes[..],
        )
        .map_err(failed())?;
    }
    archive
        .into_inner()
        .and_then(|mut sink| sink.flush())
        .map_err(failed())
}

/// Writes the images as an OCI layout directory; blobs that are there already stay.
pub(crate) fn write_directory(
    root: &StateRoot,
    images: &[ArchiveImage],
    folder: &Path,
) -> Result<(), EngineError> {
    let contents = collect(root, images, ArchiveKind::Oci)?;
    for digest in contents.blobs.keys() {
        let path = folder.join(blob_name(digest));
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(EngineError::io("make", parent))?;
        if path.exists() {
            continue;
        }
        let mut file = tempfile::NamedTempFile::new_in(parent)
            .map_err(EngineError::io("write below", parent))?;
        io::copy(&mut open(root, digest)?, &mut file).map_err(EngineError::io("write", &path))?;
        set_mode(file.as_file()).map_err(EngineError::io("write", &path))?;
        file.persist(&path)
            .map_err(|error| EngineError::io("write", &path)(error.error))?;
    }
    // The index last: it names what is there by then.
    for (name, bytes) in contents.documents.iter().rev() {
        let path = folder.join(name);
        let mut file = tempfile::NamedTempFile::new_in(folder)
            .map_err(EngineError::io("write below", folder))?;
        file.write_all(bytes)
            .map_err(EngineError::io("write", &path))?;
        set_mode(file.as_file()).map_err(EngineError::io("write", &path))?;
        file.persist(&path)
            .map_err(|error| EngineError::io("write", &path)(error.error))?;
    }
    Ok(())
}

fn set_mode(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn open(root: &StateRoot, digest: &Digest) -> Result<File, EngineError> {
    root.blobs().open(digest)?.ok_or_else(|| missing(*digest))
}

fn missing(digest: Digest) -> EngineError {
    EngineError::Missing {
        image: "archive".to_owned(),
        what: "blob",
        digest,
    }
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    kind: tar::EntryType,
    name: &str,
    mode: u32,
    size_bytes: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size_bytes);
    header.set_mtime(0);
    archive.append_data(&mut header, name, content)
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn collect(
    root: &StateRoot,
    images: &[ArchiveImage],
    kind: ArchiveKind,
) -> Result<Contents, EngineError> {
    let store = ImageStore::new(root.clone());
    let mut contents = Contents {
        documents: BTreeMap::new(),
        blobs: BTreeMap::new(),
    };
    let mut index = Index::new(media_type::OCI_INDEX, Vec::new());
    let mut docker = Vec::new();
    for image in images {
        let name = image
            .names
            .first()
            .map_or_else(|| image.descriptor.digest.to_string(), Reference::familiar);
        collect_blobs(&store, &name, &image.descriptor, &mut contents.blobs)?;
        index
            .manifests
            .extend(named(&image.descriptor, &image.names));
        if kind == ArchiveKind::Docker {
            let (_, manifest) = store.manifest_for(&name, &image.descriptor, &Platform::host())?;
            docker.push(docker_manifest(&manifest, &image.names));
        }
    }
    contents
        .documents
        .insert("oci-layout".to_owned(), LAYOUT_MARKER.to_vec());
    contents
        .documents
        .insert("index.json".to_owned(), to_json(&index)?);
    if kind == ArchiveKind::Docker {
        contents
            .documents
            .insert("manifest.json".to_owned(), to_json(&docker)?);
    }
    Ok(contents)
}

/// The image's descriptor for an index, once for each of its names.
fn named(descriptor: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![descriptor.clone()];
    }
    let with_name = |name: &Reference| {
        let mut descriptor = descriptor.clone();
        descriptor
            .annotations
            .insert(IMAGE_NAME.to_owned(), name.to_string());
        let version = name
            .tag()
            .map_or_else(|| "latest".to_owned(), str::to_owned);
        descriptor.annotations.insert(REF_NAME.to_owned(), version);
        descriptor
    };
    names.iter().map(with_name).collect()
}

fn docker_manifest(manifest: &Manifest, names: &[Reference]) -> DockerManifest {
    DockerManifest {
        config: blob_name(&manifest.config.digest),
        repo_tags: Some(
            names
                .iter()
                .filter(|name| name.tag().is_some())
                .map(Reference::familiar)
                .collect(),
        ),
        layers: manifest
            .layers
            .iter()
            .map(|layer| blob_name(&layer.digest))
            .collect(),
    }
}

/// All blobs below a descriptor; of an index, those platforms that are here.
fn collect_blobs(
    store: &ImageStore,
    name: &str,
    descriptor: &Descriptor,
    blobs: &mut BTreeMap<Digest, u64>,
) -> Result<(), EngineError> {
    use longshore_oci::Document;
    match store.document(name, descriptor)? {
        Document::Manifest(manifest) => {
            for part in manifest.layers.iter().chain([&manifest.config]) {
                blobs.insert(part.digest, part.size);
            }
        }
        Document::Index(index) => {
            for child in &index.manifests {
                match collect_blobs(store, name, child, blobs) {
                    Err(EngineError::Missing {
                        what: "manifest", ..
                    }) => {}
                    other => other?,
                }
            }
        }
    }
    blobs.insert(descriptor.digest, descriptor.size);
    Ok(())
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, EngineError> {
    json::to_vec(value).map_err(|error| EngineError::ArchiveRead(Box::new(error)))
}
