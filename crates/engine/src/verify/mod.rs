//! Whether two builds made the same image, and if not, what differs: layers file by file, and
//! the fields of the configuration.
//!
//! Invariant: images of one digest are equal and nothing else of them is read; images of two
//! digests have at least one difference.

mod documents;
mod files;

use std::path::Path;

use longshore_layers::{DecompressLimits, Decompressor, LayerIndex, TarLimits, index_of_tar};
use longshore_oci::{Descriptor, Digest, Document, ImageConfig, Manifest, Platform};
use serde::Serialize;
use tokio::task::spawn_blocking;

pub use documents::FieldDifference;
pub use files::{FileDifference, How};

use crate::image::ImageStore;
use crate::{Engine, EngineError, LayerSteps, MadeStep};

/// Which files of a layer are named, at the most; the rest is counted.
const FILES_NAMED_MAX: usize = 1000;

/// What differs between two images.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The digest of one.
    pub first: Digest,
    /// The digest of the other.
    pub second: Digest,
    /// What differs, by platform; nothing where the digests are equal.
    pub platforms: Vec<PlatformDifference>,
}

/// What differs between the images of a platform.
#[derive(Clone, Debug, Serialize)]
pub struct PlatformDifference {
    /// The platform.
    pub platform: String,
    /// Layers, lowest first.
    pub layers: Vec<LayerDifference>,
    /// Fields of the configuration; those that name layers are left out.
    pub config: Vec<FieldDifference>,
    /// Fields of the manifest or index, where nothing else differs.
    pub manifest: Vec<FieldDifference>,
}

/// A layer that differs.
#[derive(Clone, Debug, Serialize)]
pub struct LayerDifference {
    /// Its place in the image, from 1.
    pub number: usize,
    /// The instruction that made it, as the history has it.
    pub step: String,
    /// Its first and last line in the Dockerfile, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<(u32, u32)>,
    /// Whether one of the images alone has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_in: Option<Side>,
    /// Files, sorted.
    pub files: Vec<FileDifference>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_files: usize,
    /// Whether the files are the same and their order or compression is not.
    pub only_encoding: bool,
}

/// One of two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Comparison {
    /// Whether the images are one.
    pub fn is_equal(&self) -> bool {
        self.first == self.second
    }

    /// Whether the images are the same but for the times in them.
    pub fn is_only_times(&self) -> bool {
        let fields = |fields: &[FieldDifference]| fields.iter().all(FieldDifference::is_time);
        !self.is_equal()
            && self.platforms.iter().all(|platform| {
                let layers = platform.layers.iter();
                layers.clone().all(LayerDifference::is_only_times)
                    && fields(&platform.config)
                    && platform.manifest.is_empty()
            })
    }
}

impl LayerDifference {
    fn is_only_times(&self) -> bool {
        let is_time =
            |file: &FileDifference| file.how.iter().all(|how| matches!(how, How::Mtime { .. }));
        self.only_in.is_none()
            && !self.only_encoding
            && self.more_files == 0
            && self.files.iter().all(is_time)
    }
}

/// An image of an engine's store.
#[derive(Clone, Debug)]
pub struct ImageOf<'a> {
    /// Whose store.
    pub engine: &'a Engine,
    /// The manifest or index.
    pub descriptor: &'a Descriptor,
}

/// Compares two images; `steps` say which lines made the layers.
///
/// # Errors
/// When a part of one is not in its store, or cannot be read.
pub async fn compare(
    first: ImageOf<'_>,
    second: ImageOf<'_>,
    steps: &[LayerSteps],
) -> Result<Comparison, EngineError> {
    let mut comparison = Comparison {
        first: first.descriptor.digest,
        second: second.descriptor.digest,
        platforms: Vec::new(),
    };
    if comparison.is_equal() {
        return Ok(comparison);
    }
    let pair = (Opened::of(&first), Opened::of(&second));
    let (steps, descriptors) = (
        steps.to_vec(),
        (first.descriptor.clone(), second.descriptor.clone()),
    );
    let platforms = spawn_blocking(move || {
        let (one, other) = pair;
        let (ours, theirs) = (
            one.platforms(&descriptors.0)?,
            other.platforms(&descriptors.1)?,
        );
        let mut differences = Vec::new();
        for (platform, manifest) in &ours {
            let Some((_, counterpart)) = theirs.iter().find(|(known, _)| known == platform) else {
                return Err(missing(platform, &descriptors.1));
            };
            if manifest.digest != counterpart.digest {
                let of_platform = steps.iter().find(|made| made.platform == *platform);
                let made = of_platform
                    .map(|made| made.steps.as_slice())
                    .unwrap_or_default();
                let sides = [(&one, manifest), (&other, counterpart)];
                differences.push(compare_platform(platform, sides, made)?);
            }
        }
        if let Some((platform, _)) = theirs
            .iter()
            .find(|(platform, _)| !ours.iter().any(|(known, _)| known == platform))
        {
            return Err(missing(platform, &descriptors.0));
        }
        if differences.is_empty() {
            differences.push(PlatformDifference {
                platform: "index".to_owned(),
                layers: Vec::new(),
                config: Vec::new(),
                manifest: documents::differences(
                    &one.json(descriptors.0.digest)?,
                    &other.json(descriptors.1.digest)?,
                ),
            });
        }
        Ok(differences)
    });
    comparison.platforms = platforms.await??;
    Ok(comparison)
}

fn missing(platform: &Platform, descriptor: &Descriptor) -> EngineError {
    EngineError::NoPlatform {
        image: descriptor.digest.to_string(),
        platform: Box::new(platform.clone()),
        available: "others".to_owned(),
    }
}

/// A store that documents and layers are read from.
struct Opened {
    root: longshore_content::StateRoot,
    images: ImageStore,
    limits: DecompressLimits,
}

impl Opened {
    fn of(image: &ImageOf<'_>) -> Self {
        let root = image.engine.root().clone();
        Self {
            images: ImageStore::new(root.clone()),
            root,
            limits: image.engine.unpack_limits(),
        }
    }

    /// The manifest of each platform.
    fn platforms(&self, top: &Descriptor) -> Result<Vec<(Platform, Descriptor)>, EngineError> {
        match self.images.document("image", top)? {
            Document::Manifest(manifest) => {
                let config = self.images.config("image", &manifest)?;
                Ok(vec![(config.platform(), top.clone())])
            }
            Document::Index(index) => {
                let mut found = Vec::new();
                for manifest in index.manifests {
                    let Document::Manifest(read) = self.images.document("image", &manifest)? else {
                        continue;
                    };
                    let config = self.images.config("image", &read)?;
                    found.push((config.platform(), manifest));
                }
                Ok(found)
            }
        }
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<(Manifest, ImageConfig), EngineError> {
        let Document::Manifest(manifest) = self.images.document("image", descriptor)? else {
            return Err(EngineError::Archive("an index in an index".to_owned()));
        };
        let config = self.images.config("image", &manifest)?;
        Ok((manifest, config))
    }

    fn json(&self, digest: Digest) -> Result<serde_json::Value, EngineError> {
        let limit = longshore_oci::DOCUMENT_BYTES_MAX as u64;
        let bytes = self.images.bytes("image", "document", digest, limit)?;
        serde_json::from_slice(&bytes).map_err(|source| EngineError::Config {
            image: "image".to_owned(),
            source,
        })
    }

    fn index(&self, layer: &Descriptor) -> Result<LayerIndex, EngineError> {
        let path = self.root.blobs().blob_path(&layer.digest);
        let open = |path: &Path| std::fs::File::open(path).map_err(EngineError::io("open", path));
        let name = || layer.digest.to_string();
        let input =
            Decompressor::new(open(&path)?, self.limits).map_err(EngineError::layer(name()))?;
        let tar = index_of_tar(input, TarLimits::within(&self.limits))
            .map_err(EngineError::layer(name()))?;
        Ok(tar.index)
    }
}

fn compare_platform(
    platform: &Platform,
    sides: [(&Opened, &Descriptor); 2],
    steps: &[MadeStep],
) -> Result<PlatformDifference, EngineError> {
    let [(one, first), (other, second)] = sides;
    let (manifest, config) = one.manifest(first)?;
    let (counterpart, other_config) = other.manifest(second)?;
    let names = LayerNames::new(&config, manifest.layers.len(), steps);
    let other_names = LayerNames::new(&other_config, counterpart.layers.len(), steps);
    let mut layers = Vec::new();
    for at in 0..manifest.layers.len().max(counterpart.layers.len()) {
        let pair = (manifest.layers.get(at), counterpart.layers.get(at));
        let difference = match pair {
            (Some(ours), Some(theirs)) if ours.digest == theirs.digest => continue,
            (Some(ours), Some(theirs)) => {
                let (ours, theirs) = (one.index(ours)?, other.index(theirs)?);
                names.compared(at, files::differences(&ours, &theirs))
            }
            (Some(_), None) => names.alone(at, Side::First),
            (None, _) => other_names.alone(at, Side::Second),
        };
        layers.push(difference);
    }
    let fields = documents::differences(
        &one.json(manifest.config.digest)?,
        &other.json(counterpart.config.digest)?,
    );
    let config: Vec<_> = fields
        .into_iter()
        .filter(|field| layers.is_empty() || !field.names_layers())
        .collect();
    let manifest = match layers.is_empty() && config.is_empty() {
        true => documents::differences(&one.json(first.digest)?, &other.json(second.digest)?),
        false => Vec::new(),
    };
    Ok(PlatformDifference {
        platform: platform.to_string(),
        layers,
        config,
        manifest,
    })
}

/// What made the layers of an image.
struct LayerNames<'a> {
    history: Vec<String>,
    steps: &'a [MadeStep],
    /// The first layer that a step made.
    base: usize,
}

impl<'a> LayerNames<'a> {
    /// Steps make the uppermost layers, one each; where that cannot be, no lines are told.
    fn new(config: &ImageConfig, layers: usize, steps: &'a [MadeStep]) -> Self {
        let history = config.history.iter().filter(|entry| !entry.empty_layer);
        Self {
            history: history.map(|entry| entry.created_by.clone()).collect(),
            steps,
            base: layers.saturating_sub(steps.len()),
        }
    }

    fn compared(&self, at: usize, mut files: Vec<FileDifference>) -> LayerDifference {
        let only_encoding = files.is_empty();
        let more_files = files.len().saturating_sub(FILES_NAMED_MAX);
        files.truncate(FILES_NAMED_MAX);
        LayerDifference {
            files,
            more_files,
            only_encoding,
            ..self.named(at)
        }
    }

    fn alone(&self, at: usize, side: Side) -> LayerDifference {
        LayerDifference {
            only_in: Some(side),
            ..self.named(at)
        }
    }

    fn named(&self, at: usize) -> LayerDifference {
        let step = at.checked_sub(self.base).and_then(|at| self.steps.get(at));
        LayerDifference {
            number: at + 1,
            step: match step {
                Some(step) => step.name.clone(),
                None => self.history.get(at).cloned().unwrap_or_default(),
            },
            lines: step.and_then(|step| step.lines),
            only_in: None,
            files: Vec::new(),
            more_files: 0,
            only_encoding: false,
        }
    }
}
