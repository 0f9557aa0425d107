//! Makes an image of layers and a configuration: pure assembly.

use std::collections::BTreeMap;

use jiff::Timestamp;
use longshore_oci::{Descriptor, DiffId, ImageConfig, Index, Manifest, media_type};

use crate::EngineError;
use crate::history::fill_times;

/// A layer of an image: its blob, its uncompressed digest, its time.
#[derive(Clone, Debug)]
pub(crate) struct ImageLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: DiffId,
    pub(crate) created: Timestamp,
}

/// The documents of an image.
#[derive(Clone, Debug)]
pub(crate) struct Assembled {
    pub(crate) config: Vec<u8>,
    pub(crate) config_descriptor: Descriptor,
    pub(crate) manifest: Vec<u8>,
    pub(crate) descriptor: Descriptor,
    /// When the image was made, as its configuration says.
    pub(crate) created: Option<String>,
}

/// Makes the configuration and manifest of an image.
///
/// # Errors
/// When a document cannot be serialised.
pub(crate) fn assemble(
    config: &ImageConfig,
    layers: &[ImageLayer],
    oci_media_types: bool,
    annotations: &BTreeMap<String, String>,
    epoch: Option<Timestamp>,
) -> Result<Assembled, EngineError> {
    let mut config = config.clone();
    config.rootfs.kind = "layers".to_owned();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    let times: Vec<Timestamp> = layers.iter().map(|layer| layer.created).collect();
    fill_times(&mut config, &times, epoch);
    let (manifest_type, config_type) = match oci_media_types {
        true => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        false => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let config_bytes = to_json(&config)?;
    let config_descriptor = Descriptor::of(config_type, &config_bytes);
    let layers = layers
        .iter()
        .map(|layer| layer_descriptor(&layer.descriptor, oci_media_types))
        .collect();
    let manifest = Manifest {
        annotations: annotations.clone(),
        ..Manifest::new(manifest_type, config_descriptor, layers)
    };
    let manifest_bytes = to_json(&manifest)?;
    let mut descriptor = Descriptor::of(manifest_type, &manifest_bytes);
    descriptor.platform = Some(config.platform());
    Ok(Assembled {
        config: config_bytes,
        config_descriptor: manifest.config,
        manifest: manifest_bytes,
        descriptor,
        created: config.created,
    })
}

/// An index of several platforms' manifests.
pub(crate) fn index(
    manifests: Vec<Descriptor>,
    oci_media_types: bool,
    annotations: BTreeMap<String, String>,
) -> Result<(Vec<u8>, Descriptor), EngineError> {
    let kind = if oci_media_types {
        media_type::OCI_INDEX
    } else {
        media_type::DOCKER_INDEX
    };
    let mut index = Index::new(kind, manifests);
    index.annotations = annotations;
    let bytes = to_json(&index)?;
    let descriptor = Descriptor::of(kind, &bytes);
    Ok((bytes, descriptor))
}

/// The layer's descriptor in the manifest's dialect; all layers of one image speak one.
fn layer_descriptor(descriptor: &Descriptor, oci: bool) -> Descriptor {
    use media_type as m;
    let translated = match (descriptor.media_type.as_str(), oci) {
        (m::DOCKER_LAYER_GZIP, true) => m::OCI_LAYER_GZIP,
        (m::DOCKER_LAYER_TAR, true) => m::OCI_LAYER_TAR,
        (m::DOCKER_LAYER_ZSTD, true) => m::OCI_LAYER_ZSTD,
        (m::OCI_LAYER_GZIP, false) => m::DOCKER_LAYER_GZIP,
        (m::OCI_LAYER_TAR, false) => m::DOCKER_LAYER_TAR,
        (m::OCI_LAYER_ZSTD, false) => m::DOCKER_LAYER_ZSTD,
        (other, _) => other,
    };
    Descriptor {
        media_type: translated.to_owned(),
        ..descriptor.clone()
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, EngineError> {
    longshore_oci::json::to_vec(value).map_err(|error| EngineError::ArchiveRead(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_oci::Digest;

    #[test]
    fn one_image_speaks_one_dialect() {
        let blob = Descriptor::new(media_type::DOCKER_LAYER_GZIP, Digest::sha256_of(b"l"), 1);
        let layer = ImageLayer {
            descriptor: blob,
            diff_id: DiffId(Digest::sha256_of(b"t")),
            created: Timestamp::UNIX_EPOCH,
        };
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..ImageConfig::default()
        };
        for oci in [true, false] {
            let made = assemble(
                &config,
                std::slice::from_ref(&layer),
                oci,
                &BTreeMap::new(),
                None,
            )
            .unwrap();
            let text = String::from_utf8(made.manifest).unwrap();
            assert_eq!(text.contains("vnd.docker"), !oci, "{text}");
            assert_eq!(text.contains("vnd.oci"), oci, "{text}");
        }
    }
}
