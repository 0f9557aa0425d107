//! Reads images from an archive: an OCI layout or a `docker save` archive, old or new.
//!
//! The archive is read once, from front to back: what is named as a blob goes straight
//! into the store and is held to its digest, other files are kept by their digests, small
//! documents in memory. Names in the archive never name anything on disk.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write as _};

use longshore_content::StateRoot;
use longshore_layers::{DecompressLimits, Decompressor};
use longshore_oci::{
    Algorithm, Descriptor, DiffId, Digest, Digester, Document, ImageConfig, Index, Manifest,
    Reference, json, media_type,
};

use super::{DockerManifest, IMAGE_NAME, REF_NAME, same_size};
use crate::EngineError;
use crate::image::{parse_config, parse_document};

/// The largest document that an archive's images are found by, bytes.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;
/// How many files an archive may hold.
const ENTRIES_MAX: usize = 100_000;

/// An image that an archive held.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) descriptor: Descriptor,
    pub(crate) names: Vec<Reference>,
}

#[derive(Default)]
struct Files {
    /// Documents at the top, by name.
    documents: BTreeMap<String, Vec<u8>>,
    /// Every other file: its blob.
    blobs: HashMap<String, (Digest, u64)>,
    /// Links within the archive (old archives share layers so).
    links: HashMap<String, String>,
}

/// Stores all that the archive holds, and returns its images; they have no name yet.
pub(crate) fn load(
    root: &StateRoot,
    input: impl Read + Send,
    limits: DecompressLimits,
) -> Result<Vec<Loaded>, EngineError> {
    let input = Decompressor::new(input, limits).map_err(read_failed)?;
    let files = read_files(root, input)?;
    if let Some(index) = files.documents.get("index.json") {
        let docker_names = files
            .documents
            .get("manifest.json")
            .map(|bytes| docker_names(bytes))
            .transpose()?;
        return from_index(root, index, &docker_names.unwrap_or_default());
    }
    match files.documents.get("manifest.json") {
        Some(bytes) => from_docker(root, bytes, &files, limits),
        None => Err(EngineError::Archive(
            "neither an OCI layout nor a docker archive: no index.json, no manifest.json"
                .to_owned(),
        )),
    }
}

fn read_failed<E: std::error::Error + Send + Sync + 'static>(error: E) -> EngineError {
    EngineError::ArchiveRead(Box::new(error))
}

fn read_files(root: &StateRoot, input: impl Read) -> Result<Files, EngineError> {
    let mut files = Files::default();
    let mut archive = tar::Archive::new(input);
    for (count, entry) in archive.entries().map_err(read_failed)?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(EngineError::Archive(format!(
                "it holds more than {ENTRIES_MAX} files"
            )));
        }
        let entry = entry.map_err(read_failed)?;
        let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                read_file(root, &mut files, name, entry)?;
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry
                    .link_name_bytes()
                    .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let is_hard = entry.header().entry_type() == tar::EntryType::Link;
                files.links.insert(
                    name.clone(),
                    resolve_link(&name, &target.unwrap_or_default(), is_hard),
                );
            }
            _ => {}
        }
    }
    Ok(files)
}

fn clean(name: &str) -> String {
    name.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect::<Vec<_>>()
        .join("/")
}

/// The name within the archive that a link names.
fn resolve_link(name: &str, target: &str, is_hard: bool) -> String {
    if is_hard || target.starts_with('/') {
        return clean(target);
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn read_file(
    root: &StateRoot,
    files: &mut Files,
    name: String,
    mut entry: impl Read,
) -> Result<(), EngineError> {
    if matches!(
        name.as_str(),
        "index.json" | "manifest.json" | "oci-layout" | "repositories"
    ) {
        let mut bytes = Vec::new();
        entry
            .by_ref()
            .take(DOCUMENT_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(read_failed)?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(EngineError::Archive(format!(
                "`{name}` is larger than {DOCUMENT_BYTES_MAX} bytes"
            )));
        }
        files.documents.insert(name, bytes);
        return Ok(());
    }
    let expected = expected_digest(&name)?;
    let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let mut writer = root.blobs().writer_by(algorithm)?;
    let failed = |source| EngineError::ArchiveFile {
        name: name.clone(),
        source,
    };
    std::io::copy(&mut entry, &mut writer).map_err(failed)?;
    writer.flush().map_err(failed)?;
    let blob = writer.commit(expected.as_ref())?;
    files.blobs.insert(name, blob);
    Ok(())
}

/// The digest that a blob's file name gives it.
fn expected_digest(name: &str) -> Result<Option<Digest>, EngineError> {
    let Some((algorithm, hex)) = name
        .strip_prefix("blobs/")
        .and_then(|rest| rest.split_once('/'))
    else {
        return Ok(None);
    };
    let digest = format!("{algorithm}:{hex}").parse();
    digest
        .map(Some)
        .map_err(|error| EngineError::Archive(format!("`{name}`: {error}")))
}

fn parse_json<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(bytes)
        .map_err(|error| EngineError::Archive(format!("`{name}` is not valid: {error}")))
}

/// The names that `manifest.json` gives to images, by their configuration.
fn docker_names(bytes: &[u8]) -> Result<HashMap<Digest, Vec<Reference>>, EngineError> {
    let manifests: Vec<DockerManifest> = parse_json("manifest.json", bytes)?;
    let mut names = HashMap::new();
    for manifest in manifests {
        if let Ok(Some(digest)) = expected_digest(&clean(&manifest.config)) {
            names.insert(
                digest,
                parse_names(&manifest.repo_tags.unwrap_or_default())?,
            );
        }
    }
    Ok(names)
}

fn parse_names(names: &[String]) -> Result<Vec<Reference>, EngineError> {
    let parse = |name: &String| {
        name.parse()
            .map_err(|error| EngineError::Archive(format!("name `{name}`: {error}")))
    };
    names.iter().map(parse).collect()
}

fn from_index(
    root: &StateRoot,
    bytes: &[u8],
    docker_names: &HashMap<Digest, Vec<Reference>>,
) -> Result<Vec<Loaded>, EngineError> {
    let index: Index = parse_json("index.json", bytes)?;
    let mut loaded: Vec<Loaded> = Vec::new();
    for mut descriptor in index.manifests {
        let mut names = Vec::new();
        names.extend(index_name(&descriptor.annotations));
        descriptor.annotations.remove(IMAGE_NAME);
        descriptor.annotations.remove(REF_NAME);
        check_size(root, "manifest", &descriptor)?;
        check_stored(root, &descriptor)?;
        if let Some(config) = config_of(root, &descriptor)? {
            names.extend(docker_names.get(&config).into_iter().flatten().cloned());
        }
        match loaded
            .iter_mut()
            .find(|known| known.descriptor.digest == descriptor.digest)
        {
            Some(known) => known.names.append(&mut names),
            None => loaded.push(Loaded { descriptor, names }),
        }
    }
    for image in &mut loaded {
        image.names.sort();
        image.names.dedup();
    }
    Ok(loaded)
}

/// The name of an image in an index: containerd's whole one, else a `ref.name` that is one.
fn index_name(annotations: &BTreeMap<String, String>) -> Option<Reference> {
    let whole = annotations
        .get(IMAGE_NAME)
        .and_then(|name| name.parse().ok());
    let short = || {
        annotations
            .get(REF_NAME)
            .filter(|name| name.contains([':', '/']))
            .and_then(|name| name.parse().ok())
    };
    whole.or_else(short)
}

fn config_of(root: &StateRoot, descriptor: &Descriptor) -> Result<Option<Digest>, EngineError> {
    match read_document(root, descriptor)? {
        Document::Manifest(manifest) => Ok(Some(manifest.config.digest)),
        Document::Index(_) => Ok(None),
    }
}

fn read_document(root: &StateRoot, descriptor: &Descriptor) -> Result<Document, EngineError> {
    let bytes = root
        .blobs()
        .read_all(&descriptor.digest, longshore_oci::DOCUMENT_BYTES_MAX as u64)?;
    let bytes = bytes.ok_or_else(|| missing("manifest", descriptor.digest))?;
    parse_document("archive", &bytes, &descriptor.media_type)
}

fn missing(what: &'static str, digest: Digest) -> EngineError {
    EngineError::Missing {
        image: "archive".to_owned(),
        what,
        digest,
    }
}

/// That a blob was in the archive, as large as it is described.
fn check_size(
    root: &StateRoot,
    what: &'static str,
    described: &Descriptor,
) -> Result<(), EngineError> {
    let found = root.blobs().info(&described.digest)?;
    let found = found.ok_or_else(|| missing(what, described.digest))?;
    same_size("archive", what, described, found.size_bytes)
}

/// That everything below a manifest was in the archive; of an index, one platform at least.
fn check_stored(root: &StateRoot, descriptor: &Descriptor) -> Result<(), EngineError> {
    match read_document(root, descriptor)? {
        Document::Manifest(manifest) => {
            check_size(root, "configuration", &manifest.config)?;
            let is_here = |part: &&Descriptor| !media_type::is_foreign_layer(&part.media_type);
            let mut layers = manifest.layers.iter().filter(is_here);
            layers.try_for_each(|layer| check_size(root, "layer", layer))
        }
        Document::Index(index) => {
            let mut found = index.manifests.is_empty();
            for child in &index.manifests {
                if root.blobs().info(&child.digest)?.is_some() {
                    check_size(root, "manifest", child)?;
                    check_stored(root, child)?;
                    found = true;
                }
            }
            if found {
                Ok(())
            } else {
                Err(missing("manifest", descriptor.digest))
            }
        }
    }
}

fn from_docker(
    root: &StateRoot,
    bytes: &[u8],
    files: &Files,
    limits: DecompressLimits,
) -> Result<Vec<Loaded>, EngineError> {
    let manifests: Vec<DockerManifest> = parse_json("manifest.json", bytes)?;
    let mut loaded = Vec::new();
    for manifest in manifests {
        let names = parse_names(manifest.repo_tags.as_deref().unwrap_or_default())?;
        let descriptor = assemble(root, &manifest, files, limits)?;
        loaded.push(Loaded { descriptor, names });
    }
    Ok(loaded)
}

/// Makes a manifest for an image of an old archive, which has none.
fn assemble(
    root: &StateRoot,
    image: &DockerManifest,
    files: &Files,
    limits: DecompressLimits,
) -> Result<Descriptor, EngineError> {
    let (config_digest, config_size) = find(files, &image.config)?;
    let config_bytes = root.blobs().read_all(&config_digest, DOCUMENT_BYTES_MAX)?;
    let config: ImageConfig = parse_config(
        &image.config,
        &config_bytes.ok_or_else(|| missing("configuration", config_digest))?,
    )?;
    if config.rootfs.diff_ids.len() != image.layers.len() {
        return Err(EngineError::LayerCount {
            image: image.config.clone(),
            layers: image.layers.len(),
            diff_ids: config.rootfs.diff_ids.len(),
        });
    }
    let mut layers = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
        let (digest, size) = find(files, name)?;
        layers.push(layer_descriptor(
            root,
            name,
            (digest, size),
            *diff_id,
            limits,
        )?);
    }
    let config = Descriptor::new(media_type::OCI_CONFIG, config_digest, config_size);
    let manifest = Manifest::new(media_type::OCI_MANIFEST, config, layers);
    let bytes = json::to_vec(&manifest).map_err(read_failed)?;
    root.blobs().put(&bytes)?;
    Ok(Descriptor::of(media_type::OCI_MANIFEST, &bytes))
}

fn find(files: &Files, name: &str) -> Result<(Digest, u64), EngineError> {
    let mut name = clean(name);
    for _ in 0..8 {
        if let Some(blob) = files.blobs.get(&name) {
            return Ok(*blob);
        }
        match files.links.get(&name) {
            Some(target) => name.clone_from(target),
            None => break,
        }
    }
    Err(EngineError::Archive(format!("`{name}` is missing")))
}

/// Which form a layer has, told by its first bytes, with its content held to the configuration.
fn layer_descriptor(
    root: &StateRoot,
    name: &str,
    (digest, size): (Digest, u64),
    expected: DiffId,
    limits: DecompressLimits,
) -> Result<Descriptor, EngineError> {
    let open = || {
        root.blobs()
            .open(&digest)?
            .ok_or_else(|| missing("layer", digest))
    };
    let mut magic = [0; 4];
    let mut file = open()?;
    let count = file.read(&mut magic).map_err(read_failed)?;
    let form = match &magic[..count] {
        [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => media_type::OCI_LAYER_ZSTD,
        _ => media_type::OCI_LAYER_TAR,
    };
    let mut input = Decompressor::new(open()?, limits).map_err(EngineError::layer(name))?;
    let mut digester = Digester::new(expected.0.algorithm());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer).map_err(EngineError::layer(name))? {
            0 => break,
            count => digester.update(&buffer[..count]),
        }
    }
    let actual = digester.finish();
    if actual != expected.0 {
        return Err(EngineError::diff_id(digest, actual, expected.0));
    }
    Ok(Descriptor::new(form, digest, size))
}
