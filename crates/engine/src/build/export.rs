//! Sends a build's result where it was asked for.
//!
//! Layers go blob to blob; all layers of an image are made at the same time. A name is
//! given last, when everything that it names is durable.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_frontend::LoweredPlatform;
use longshore_layers::{
    Change, Compression, Devices, DirectoryForm, DirectoryOptions, NoLowerLayers, Ownership,
    WriteOptions, changes_of_view, materialise, write_layer,
};
use longshore_oci::{Descriptor, Reference};
use longshore_solver::{CacheKey, CacheRecord};
use tokio::task::spawn_blocking;

use super::assemble::{Assembled, ImageLayer, assemble, index};
use super::content::StoredContent;
use super::remote_cache::{INLINE_ANNOTATION, inline_records};
use crate::archive::{ArchiveImage, ArchiveKind, write_directory, write_tar};
use crate::layer::Layer;
use crate::progress::{ProgressEvent, ProgressSink};
use crate::{Engine, EngineError, OutputKind, OutputSpec};

/// A platform's result: its layers and what the frontend says of the image.
#[derive(Debug)]
pub(crate) struct PlatformResult {
    pub(crate) lowered: LoweredPlatform,
    pub(crate) layers: Vec<Arc<Layer>>,
    /// The records of the steps that made the layers, where they go into the image.
    pub(crate) inline_steps: Steps,
}

/// Records of steps, each with its keys.
pub(crate) type Steps = Arc<Vec<(Vec<CacheKey>, CacheRecord)>>;

/// What was made, for metadata files.
#[derive(Clone, Debug)]
pub(crate) struct Exported {
    /// The image's manifest or index.
    pub(crate) descriptor: Descriptor,
    /// The configuration of the only platform.
    pub(crate) config: Option<Descriptor>,
}

/// What all outputs of a build share.
pub(crate) struct Exporter<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) results: &'a [PlatformResult],
    /// An index even for one platform.
    pub(crate) multi_platform: bool,
    pub(crate) tags: &'a [Reference],
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) progress: &'a dyn ProgressSink,
    pub(crate) lease: &'a longshore_content::Lease,
}

impl Exporter<'_> {
    /// Makes one output.
    pub(crate) async fn export(
        &self,
        output: &OutputSpec,
    ) -> Result<Option<Exported>, EngineError> {
        match output.kind {
            OutputKind::Image => self.image(output).await.map(Some),
            OutputKind::Oci | OutputKind::Docker => self.archive(output).await.map(Some),
            OutputKind::Tar => self.tar(output).await.map(|()| None),
            OutputKind::Local => self.local(output).await.map(|()| None),
        }
    }

    fn names(&self, output: &OutputSpec) -> Vec<Reference> {
        let names = if output.names.is_empty() {
            self.tags
        } else {
            &output.names
        };
        names
            .iter()
            .cloned()
            .map(Reference::with_default_tag)
            .collect()
    }

    fn note(&self, text: String) {
        self.progress.emit(ProgressEvent::Note(text));
    }

    /// The documents of the image, stored with its layers; nothing names them yet.
    async fn assemble(&self, output: &OutputSpec) -> Result<Exported, EngineError> {
        let mut made = Vec::with_capacity(self.results.len());
        for result in self.results {
            made.push(self.assemble_platform(output, result).await?);
        }
        let root = self.engine.root().clone();
        let (multi, oci) = (
            self.multi_platform || made.len() > 1,
            output.oci_media_types,
        );
        let exported = spawn_blocking(move || {
            for document in made.iter().flat_map(|made| [&made.config, &made.manifest]) {
                root.blobs().put(document)?;
            }
            match (multi, &made[..]) {
                (false, [only]) => {
                    let mut descriptor = only.descriptor.clone();
                    descriptor.platform = None;
                    Ok::<_, EngineError>(Exported {
                        descriptor,
                        config: Some(only.config_descriptor.clone()),
                    })
                }
                _ => {
                    let (bytes, descriptor) = index(
                        made.iter().map(|made| made.descriptor.clone()).collect(),
                        oci,
                    )?;
                    root.blobs().put(&bytes)?;
                    Ok(Exported {
                        descriptor,
                        config: None,
                    })
                }
            }
        });
        exported.await?
    }

    async fn assemble_platform(
        &self,
        output: &OutputSpec,
        result: &PlatformResult,
    ) -> Result<Assembled, EngineError> {
        let store = self.engine.layers();
        let each = result.layers.iter().map(|layer| async move {
            let blob = store
                .blob(layer, output.compression, output.force_compression)
                .await?;
            self.lease.add_blobs([&blob.descriptor.digest])?;
            // The image's copy of the blob must be here, also of a base that nothing ran on.
            store.ensure_stored(layer, &blob).await?;
            Ok::<_, EngineError>(ImageLayer {
                descriptor: blob.descriptor,
                diff_id: blob.diff_id,
                created: layer.created,
            })
        });
        let layers = futures_util::future::try_join_all(each).await?;
        let epoch = result
            .lowered
            .epoch
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        let mut annotations = self.annotations.clone();
        let inline = inline_records(
            &result.layers,
            &layers,
            output.compression,
            &result.inline_steps,
        )?;
        annotations.extend(inline.map(|text| (INLINE_ANNOTATION.to_owned(), text)));
        assemble(
            &result.lowered.config,
            &layers,
            output.oci_media_types,
            &annotations,
            epoch,
        )
    }

    async fn image(&self, output: &OutputSpec) -> Result<Exported, EngineError> {
        let exported = self.assemble(output).await?;
        let names = self.names(output);
        let (images, descriptor) = (self.engine.root().images(), exported.descriptor.clone());
        if output.store {
            let stored = names.clone();
            spawn_blocking(move || {
                if stored.is_empty() {
                    images.add_dangling(&descriptor)?;
                }
                for name in &stored {
                    images.set(&name.to_string(), &descriptor)?;
                }
                Ok::<_, EngineError>(())
            })
            .await??;
            for name in &names {
                self.note(format!("naming to {name}"));
            }
        }
        if output.push {
            if names.is_empty() {
                return Err(EngineError::Invalid(
                    "a push needs a name: -t NAME".to_owned(),
                ));
            }
            for name in &names {
                self.note(format!("pushing {name}"));
                self.engine
                    .push_descriptor(&exported.descriptor, name)
                    .await?;
            }
        }
        Ok(exported)
    }

    async fn archive(&self, output: &OutputSpec) -> Result<Exported, EngineError> {
        let exported = self.assemble(output).await?;
        let image = ArchiveImage {
            descriptor: exported.descriptor.clone(),
            names: self.names(output),
        };
        let kind = if output.kind == OutputKind::Docker {
            ArchiveKind::Docker
        } else {
            ArchiveKind::Oci
        };
        let (root, output) = (self.engine.root().clone(), output.clone());
        spawn_blocking(move || match (&output.dest, output.tar) {
            (Some(path), false) => {
                fs::create_dir_all(path).map_err(EngineError::io("make", path))?;
                write_directory(&root, &[image], path)
            }
            (dest, _) => write_file(dest.as_deref(), |sink| {
                write_tar(&root, &[image], kind, sink)
            }),
        })
        .await??;
        Ok(exported)
    }

    /// The only platform's files; of several, each in a directory of its own.
    async fn tar(&self, output: &OutputSpec) -> Result<(), EngineError> {
        let [result] = self.results else {
            return Err(EngineError::Invalid(
                "a tar output is for one platform".to_owned(),
            ));
        };
        let (view, content) = self.files(result).await?;
        let dest = output.dest.clone();
        spawn_blocking(move || {
            let changes = changes_of_view(&view, &content).map_err(EngineError::layer("result"))?;
            write_file(dest.as_deref(), |sink| {
                let options = WriteOptions::new(Compression::None);
                write_layer(changes, &options, sink).map_err(EngineError::layer("result"))?;
                Ok(())
            })
        })
        .await?
    }

    async fn local(&self, output: &OutputSpec) -> Result<(), EngineError> {
        let Some(folder) = output.dest.clone() else {
            return Err(EngineError::Invalid(
                "a local output needs a directory".to_owned(),
            ));
        };
        for result in self.results {
            let folder = match self.results.len() {
                1 if !self.multi_platform => folder.clone(),
                _ => folder.join(result.lowered.platform.to_string().replace('/', "_")),
            };
            let (view, content) = self.files(result).await?;
            let owners = self.engine.exports_owners();
            spawn_blocking(move || {
                fs::create_dir_all(&folder).map_err(EngineError::io("make", &folder))?;
                let changes =
                    changes_of_view(&view, &content).map_err(EngineError::layer("result"))?;
                put_files(&changes, &folder, owners)
            })
            .await??;
        }
        Ok(())
    }

    async fn files(
        &self,
        result: &PlatformResult,
    ) -> Result<(longshore_layers::TreeView, StoredContent), EngineError> {
        let store = self.engine.layers();
        let view = store.view(&result.layers).await?;
        let content = StoredContent::open(store, &result.layers).await?;
        Ok((view, content))
    }
}

/// Writes files below a directory: for root with their owners and devices, for others as theirs.
fn put_files(changes: &[Change], folder: &Path, owners: bool) -> Result<(), EngineError> {
    let mut options = DirectoryOptions::new(DirectoryForm::Merged);
    if !owners {
        options.ownership = Ownership::Ignore;
        options.devices = Devices::Skip;
    }
    let directory = File::open(folder).map_err(EngineError::io("open", folder))?;
    let implied = materialise(changes, &directory, &options, &NoLowerLayers);
    implied.map(|_| ()).map_err(EngineError::layer("result"))
}

/// Writes to a file that appears when it is complete, or to standard output.
fn write_file(
    dest: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let Some(path) = dest else {
        return write(&mut io::stdout().lock());
    };
    let is_special = fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    if is_special {
        let mut file = File::options()
            .write(true)
            .open(path)
            .map_err(EngineError::io("write", path))?;
        return write(&mut file);
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(parent).map_err(EngineError::io("write", path))?;
    write(&mut io::BufWriter::with_capacity(1 << 20, &mut file))?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o644);
    file.as_file()
        .set_permissions(mode)
        .map_err(EngineError::io("write", path))?;
    file.persist(path)
        .map_err(|error| EngineError::io("write", path)(error.error))?;
    Ok(())
}
