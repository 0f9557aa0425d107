//! Images of the local store: found by name, id or digest, read for a platform.

use std::collections::BTreeSet;
use std::time::SystemTime;

use longshore_content::StateRoot;
use longshore_oci::{
    DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, DocumentError, ImageConfig, Manifest,
    Platform, Reference,
};

use crate::EngineError;

/// The largest image configuration that is read, bytes: as large as a manifest.
const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How deep indexes may be nested.
const INDEX_DEPTH_MAX: usize = 4;
/// The fewest digits of an id that name an image.
const ID_PREFIX_MIN: usize = 4;

/// An image of the local store.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Its name; `None` where its last name moved elsewhere.
    pub reference: Option<Reference>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// When it got its name.
    pub tagged: SystemTime,
}

/// What runs on one platform: the manifest and the configuration.
#[derive(Clone, Debug)]
pub struct PlatformImage {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
}

impl PlatformImage {
    /// The image's id: its configuration's digest.
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// Bytes of the compressed layers.
    pub fn size_bytes(&self) -> u64 {
        self.manifest.layers.iter().map(|layer| layer.size).sum()
    }
}

/// Reads images from a state root.
#[derive(Clone, Debug)]
pub(crate) struct ImageStore {
    root: StateRoot,
}

impl ImageStore {
    pub(crate) fn new(root: StateRoot) -> Self {
        Self { root }
    }

    /// Every image, named ones first.
    pub(crate) fn list(&self) -> Result<Vec<StoredImage>, EngineError> {
        Ok(self.root.images().list()?.into_iter().map(stored).collect())
    }

    /// The image that exactly this reference names.
    pub(crate) fn by_reference(
        &self,
        reference: &Reference,
    ) -> Result<Option<StoredImage>, EngineError> {
        let reference = reference.clone().with_default_tag();
        if let Some(image) = self.root.images().get(&reference.to_string())? {
            return Ok(Some(stored(image)));
        }
        // `name@digest` also means an image of that name whose digest it is.
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        let images = self
            .root
            .images()
            .by_digest(&digest)?
            .into_iter()
            .map(stored);
        let same_name = |image: &StoredImage| {
            image
                .reference
                .as_ref()
                .is_some_and(|known| known.name() == reference.name())
        };
        Ok(images.into_iter().find(same_name))
    }

    /// The image that a person means: a name, an id or its beginning, or a digest.
    pub(crate) fn find(&self, name: &str) -> Result<StoredImage, EngineError> {
        if let Ok(reference) = name.parse::<Reference>()
            && let Some(image) = self.by_reference(&reference)?
        {
            return Ok(image);
        }
        self.by_id(name)?
            .ok_or_else(|| EngineError::NoSuchImage(name.to_owned()))
    }

    fn by_id(&self, name: &str) -> Result<Option<StoredImage>, EngineError> {
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = prefix.len() >= ID_PREFIX_MIN && prefix.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id {
            return Ok(None);
        }
        let mut found: Option<(StoredImage, BTreeSet<Digest>)> = None;
        for image in self.list()? {
            let ids = self.ids_of(&image);
            if !ids.iter().any(|id| id.hex().starts_with(prefix)) {
                continue;
            }
            match &found {
                Some((_, known)) if known.is_disjoint(&ids) => {
                    return Err(EngineError::AmbiguousId {
                        prefix: name.to_owned(),
                    });
                }
                Some(_) => {}
                None => found = Some((image, ids)),
            }
        }
        Ok(found.map(|(image, _)| image))
    }

    /// What an image goes by: its digest and its configurations'.
    fn ids_of(&self, image: &StoredImage) -> BTreeSet<Digest> {
        let mut ids = BTreeSet::from([image.descriptor.digest]);
        if let Ok(platform) = self.read(image, &Platform::host()) {
            ids.insert(platform.id());
        }
        ids
    }

    /// The image's manifest and configuration for `platform`.
    pub(crate) fn read(
        &self,
        image: &StoredImage,
        platform: &Platform,
    ) -> Result<PlatformImage, EngineError> {
        let name = image_name(image);
        let (descriptor, manifest) = self.manifest_for(&name, &image.descriptor, platform)?;
        let config = self.config(&name, &manifest)?;
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            return Err(EngineError::LayerCount {
                image: name,
                layers: manifest.layers.len(),
                diff_ids: config.rootfs.diff_ids.len(),
            });
        }
        Ok(PlatformImage {
            descriptor,
            manifest,
            config,
        })
    }

    /// The manifest for `platform` below `descriptor`.
    pub(crate) fn manifest_for(
        &self,
        name: &str,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest), EngineError> {
        let mut descriptor = descriptor.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            match self.document(name, &descriptor)? {
                Document::Manifest(manifest) => return Ok((descriptor, manifest)),
                Document::Index(index) => {
                    descriptor = select_platform(name, &index.manifests, platform)?.clone();
                }
            }
        }
        Err(EngineError::Archive(format!(
            "`{name}`: indexes are nested more than {INDEX_DEPTH_MAX} deep"
        )))
    }

    /// The parsed manifest or index that `descriptor` names.
    pub(crate) fn document(
        &self,
        name: &str,
        descriptor: &Descriptor,
    ) -> Result<Document, EngineError> {
        let bytes = self.bytes(
            name,
            "manifest",
            descriptor.digest,
            DOCUMENT_BYTES_MAX as u64,
        )?;
        parse_document(name, &bytes, &descriptor.media_type)
    }

    /// The configuration of a manifest.
    pub(crate) fn config(
        &self,
        name: &str,
        manifest: &Manifest,
    ) -> Result<ImageConfig, EngineError> {
        let bytes = self.bytes(
            name,
            "configuration",
            manifest.config.digest,
            CONFIG_BYTES_MAX,
        )?;
        parse_config(name, &bytes)
    }

    /// A small blob's bytes, which must be here.
    pub(crate) fn bytes(
        &self,
        name: &str,
        what: &'static str,
        digest: Digest,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, EngineError> {
        let missing = || EngineError::Missing {
            image: name.to_owned(),
            what,
            digest,
        };
        self.root
            .blobs()
            .read_all(&digest, limit_bytes)?
            .ok_or_else(missing)
    }
}

/// An image's name for messages.
pub(crate) fn image_name(image: &StoredImage) -> String {
    image
        .reference
        .as_ref()
        .map_or_else(|| image.descriptor.digest.to_string(), Reference::familiar)
}

fn stored(image: longshore_content::images::Image) -> StoredImage {
    StoredImage {
        reference: image.reference.and_then(|text| text.parse().ok()),
        descriptor: image.descriptor,
        tagged: image.created,
    }
}

/// Parses a manifest or index, with the image's name in the error.
pub(crate) fn parse_document(
    name: &str,
    bytes: &[u8],
    media_type: &str,
) -> Result<Document, EngineError> {
    let failed = |source: DocumentError| EngineError::Document {
        image: name.to_owned(),
        what: "manifest",
        source,
    };
    Document::parse(bytes, media_type).map_err(failed)
}

/// Parses a configuration, with the image's name in the error.
pub(crate) fn parse_config(name: &str, bytes: &[u8]) -> Result<ImageConfig, EngineError> {
    serde_json::from_slice(bytes).map_err(|source| EngineError::Config {
        image: name.to_owned(),
        source,
    })
}

/// The manifest of an index that runs best on `platform`: the same variant before an older one.
pub(crate) fn select_platform<'a>(
    name: &str,
    manifests: &'a [Descriptor],
    platform: &Platform,
) -> Result<&'a Descriptor, EngineError> {
    let normalised =
        |found: &Platform| Platform::new(&found.os, &found.architecture, &found.variant);
    let candidates = || {
        manifests
            .iter()
            .filter_map(|d| d.platform.as_ref().map(|found| (d, normalised(found))))
    };
    let exact = candidates().find(|(_, found)| {
        found.os == platform.os
            && found.architecture == platform.architecture
            && found.variant == platform.variant
    });
    let best = exact.or_else(|| candidates().find(|(_, found)| found.runs_on(platform)));
    // An index of one manifest without a platform is that image.
    let only = match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    };
    best.map(|(descriptor, _)| descriptor)
        .or(only)
        .ok_or_else(|| EngineError::NoPlatform {
            image: name.to_owned(),
            platform: Box::new(platform.clone()),
            available: shown_platforms(manifests),
        })
}

fn shown_platforms(manifests: &[Descriptor]) -> String {
    let known = manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref());
    let shown: Vec<String> = known
        .filter(|found| found.os != "unknown")
        .map(ToString::to_string)
        .collect();
    if shown.is_empty() {
        "none".to_owned()
    } else {
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: &str) -> Descriptor {
        let mut descriptor = Descriptor::of(
            "application/vnd.oci.image.manifest.v1+json",
            platform.as_bytes(),
        );
        descriptor.platform = platform.parse().ok();
        descriptor
    }

    #[test]
    fn the_exact_variant_wins_over_one_that_merely_runs() {
        let manifests = [
            descriptor("linux/arm/v6"),
            descriptor("linux/arm/v7"),
            descriptor("linux/amd64"),
        ];
        let chosen =
            |platform: &str| select_platform("x", &manifests, &platform.parse().unwrap()).cloned();
        assert_eq!(chosen("linux/arm/v7").unwrap().digest, manifests[1].digest);
        assert_eq!(chosen("linux/arm64").unwrap().digest, manifests[0].digest);
        let error = chosen("linux/s390x").unwrap_err().to_string();
        assert!(
            error.contains("linux/arm/v6, linux/arm/v7, linux/amd64"),
            "{error}"
        );
    }
}
