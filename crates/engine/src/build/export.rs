//! Sends a build's result where it was asked for.
//!
//! Layers go blob to blob; all layers of an image are made at the same time. A name is
//! given last, when everything that it names is durable.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_frontend::{Lowered, LoweredPlatform};
use longshore_layers::{
    Change, Compression, Devices, DirectoryForm, DirectoryOptions, Entry, EntryPath, Kind,
    Metadata, NoLowerLayers, Ownership, TimeLimit, WriteOptions, changes_of_view, clamp_changes,
    materialise, write_layer,
};
use longshore_oci::{Descriptor, Platform, Reference};
use longshore_solver::{CacheKey, CacheRecord};
use tokio::task::spawn_blocking;

use super::assemble::{Assembled, ImageLayer, assemble, index};
use super::content::StoredContent;
use super::early::place;
use super::epoch::{epoch_of, epoch_of_layers};
use super::remote_cache::{INLINE_ANNOTATION, inline_records};
use crate::annotation;
use crate::archive::{ArchiveImage, ArchiveKind, write_directory, write_tar};
use crate::layer::{BlobForm, Dating, Layer};
use crate::progress::{ProgressEvent, ProgressSink};
use crate::upload::Uploads;
use crate::{
    Annotation, AnnotationLevel, BuildRequest, Engine, EngineError, OutputKind, OutputSpec,
};

/// image-spec `annotations.md`: in the index of a layout, as BuildKit writes it.
const CREATED_ANNOTATION: &str = "org.opencontainers.image.created";

/// The names of an output: its own, else the build's.
pub(crate) fn names_of<'a>(output: &'a OutputSpec, tags: &'a [Reference]) -> &'a [Reference] {
    match output.names.is_empty() {
        true => tags,
        false => &output.names,
    }
}

/// Whether an output's blobs are to be here.
pub(crate) fn is_kept(output: &OutputSpec) -> bool {
    output.kind != OutputKind::Image || output.store || output.unpack
}

/// What an output wishes the blobs of a platform's layers to be.
pub(crate) fn blob_form(
    output: &OutputSpec,
    platform: &LoweredPlatform,
    dating: Dating,
) -> BlobForm {
    BlobForm {
        compression: output.compression,
        force: output.force_compression,
        epoch: epoch_of_layers(output, platform, dating),
    }
}

/// That the outputs can be made of what is built, before it is built.
///
/// # Errors
/// When one cannot, and which.
pub(crate) fn check(request: &BuildRequest, lowered: &Lowered) -> Result<(), EngineError> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    let platforms: Vec<_> = lowered
        .platforms
        .iter()
        .map(|made| &made.platform)
        .collect();
    let has_index = lowered.multi_platform || platforms.len() > 1;
    for output in &request.outputs {
        let names = names_of(output, &request.tags);
        if output.push && names.is_empty() {
            return invalid("a push needs a name: -t NAME");
        }
        let tagged = names.iter().find(|name| name.tag().is_some());
        if output.push_by_digest
            && let Some(name) = tagged
        {
            return Err(EngineError::Invalid(format!(
                "push-by-digest moves no tag, and `{name}` has one"
            )));
        }
        if output.kind.is_image() {
            let annotations = output.annotations.iter().chain(&request.annotations);
            annotation::check(annotations, &platforms, has_index, output.oci_media_types)?;
        }
    }
    let inline = request.cache_to.iter().any(|target| target.place.is_none());
    if request.squash && inline {
        return invalid("an inline cache is of the steps' layers, which --squash leaves out");
    }
    Ok(())
}

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
    /// When the youngest platform's image was made.
    created: Option<String>,
}

/// What all outputs of a build share.
pub(crate) struct Exporter<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) results: &'a [PlatformResult],
    /// An index even for one platform.
    pub(crate) multi_platform: bool,
    pub(crate) tags: &'a [Reference],
    pub(crate) annotations: &'a [Annotation],
    /// Which layers have the times of the build's epoch.
    pub(crate) dating: Dating,
    pub(crate) progress: &'a dyn ProgressSink,
    pub(crate) uploads: &'a Uploads,
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
        names_of(output, self.tags)
            .iter()
            .cloned()
            .map(Reference::with_default_tag)
            .collect()
    }

    fn note(&self, text: String) {
        self.progress.emit(ProgressEvent::Note(text));
    }

    fn annotations<'b>(&'b self, output: &'b OutputSpec) -> impl Iterator<Item = &'b Annotation> {
        output.annotations.iter().chain(self.annotations)
    }

    /// The documents of the image, stored with its layers; nothing names them yet.
    async fn assemble(&self, output: &OutputSpec) -> Result<Exported, EngineError> {
        let each = self
            .results
            .iter()
            .map(|result| self.assemble_platform(output, result));
        let made = futures_util::future::try_join_all(each).await?;
        let root = self.engine.root().clone();
        let oci = output.oci_media_types;
        let index_annotations = |level| annotation::at_level(self.annotations(output), level, None);
        let in_index = index_annotations(AnnotationLevel::Index);
        let of_index = index_annotations(AnnotationLevel::IndexDescriptor);
        let multi = self.multi_platform || made.len() > 1;
        let exported = spawn_blocking(move || {
            for document in made.iter().flat_map(|made| [&made.config, &made.manifest]) {
                root.blobs().put(document)?;
            }
            let created = made.iter().filter_map(|made| made.created.clone()).max();
            match (multi, &made[..]) {
                (false, [only]) => {
                    let mut descriptor = only.descriptor.clone();
                    descriptor.platform = None;
                    Ok::<_, EngineError>(Exported {
                        descriptor,
                        config: Some(only.config_descriptor.clone()),
                        created,
                    })
                }
                _ => {
                    let manifests = made.iter().map(|made| made.descriptor.clone()).collect();
                    let (bytes, mut descriptor) = index(manifests, oci, in_index)?;
                    descriptor.annotations = of_index;
                    root.blobs().put(&bytes)?;
                    Ok(Exported {
                        descriptor,
                        config: None,
                        created,
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
        let form = blob_form(output, &result.lowered, self.dating);
        let names = names_of(output, self.tags).iter();
        let repositories: Vec<_> = names
            .filter(|_| output.push)
            .map(|name| self.uploads.to(name))
            .collect();
        let repositories = &repositories;
        let each = result.layers.iter().map(|layer| async move {
            // Also that of a base that nothing ran on.
            let is_kept = is_kept(output);
            let blob = place(store, self.lease, layer, form, is_kept, repositories).await?;
            Ok::<_, EngineError>(ImageLayer {
                descriptor: blob.descriptor,
                diff_id: blob.diff_id,
                created: layer.created_at(form.epoch.map(|epoch| epoch.seconds)),
            })
        });
        let layers = futures_util::future::try_join_all(each).await?;
        let epoch = epoch_of(output, &result.lowered)
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        let platform = Some(&result.lowered.platform);
        let at_level = |level| annotation::at_level(self.annotations(output), level, platform);
        let mut annotations = at_level(AnnotationLevel::Manifest);
        let inline = inline_records(
            &result.layers,
            &layers,
            output.compression,
            &result.inline_steps,
        )?;
        annotations.extend(inline.map(|text| (INLINE_ANNOTATION.to_owned(), text)));
        let mut assembled = assemble(
            &result.lowered.config,
            &layers,
            output.oci_media_types,
            &annotations,
            epoch,
        )?;
        assembled.descriptor.annotations = at_level(AnnotationLevel::ManifestDescriptor);
        Ok(assembled)
    }

    async fn image(&self, output: &OutputSpec) -> Result<Exported, EngineError> {
        let exported = self.assemble(output).await?;
        let names = self.names(output);
        if output.store {
            self.store(output, &names, &exported.descriptor).await?;
        }
        if output.unpack {
            self.unpack(&exported.descriptor).await?;
        }
        for name in names.iter().filter(|_| output.push) {
            let target = match output.push_by_digest {
                true => name
                    .without_version()
                    .with_digest(exported.descriptor.digest),
                false => name.clone(),
            };
            self.note(format!("pushing {target}"));
            self.engine
                .push_descriptor(&exported.descriptor, &target, self.uploads)
                .await?;
        }
        Ok(exported)
    }

    /// Names the image in the local store.
    async fn store(
        &self,
        output: &OutputSpec,
        names: &[Reference],
        descriptor: &Descriptor,
    ) -> Result<(), EngineError> {
        let mut stored = names.to_vec();
        if output.name_canonical {
            let canonical =
                |name: &Reference| name.without_version().with_digest(descriptor.digest);
            stored.extend(names.iter().map(canonical));
        }
        for name in &stored {
            self.note(format!("naming to {name}"));
        }
        let (images, descriptor) = (self.engine.root().images(), descriptor.clone());
        spawn_blocking(move || {
            if stored.is_empty() {
                images.add_dangling(&descriptor)?;
            }
            for name in &stored {
                images.set(&name.to_string(), &descriptor)?;
            }
            Ok(())
        })
        .await?
    }

    /// Makes the directories that a container of the image is started from.
    async fn unpack(&self, descriptor: &Descriptor) -> Result<(), EngineError> {
        let platforms = self.results.iter().map(|result| &result.lowered.platform);
        for platform in platforms {
            self.note(format!("unpacking for {platform}"));
            self.engine.unpack(descriptor, platform).await?;
        }
        Ok(())
    }

    async fn archive(&self, output: &OutputSpec) -> Result<Exported, EngineError> {
        let exported = self.assemble(output).await?;
        let mut image = ArchiveImage {
            descriptor: exported.descriptor.clone(),
            names: self.names(output),
        };
        if let Some(created) = &exported.created {
            let annotations = &mut image.descriptor.annotations;
            let own = annotations.entry(CREATED_ANNOTATION.to_owned());
            own.or_insert_with(|| created.clone());
        }
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
        let mut changes = Vec::new();
        for (folder, result) in self.folders(output) {
            let files = self.files(output, result).await?;
            changes.extend(match folder {
                None => files,
                Some(folder) => below(&folder, files, epoch_of(output, &result.lowered))?,
            });
        }
        changes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        let dest = output.dest.clone();
        spawn_blocking(move || {
            write_file(dest.as_deref(), |sink| {
                let options = WriteOptions::new(Compression::None);
                write_layer(changes, &options, sink).map_err(EngineError::layer("result"))?;
                Ok(())
            })
        })
        .await?
    }

    async fn local(&self, output: &OutputSpec) -> Result<(), EngineError> {
        let Some(dest) = output.dest.clone() else {
            return Err(EngineError::Invalid(
                "a local output needs a directory".to_owned(),
            ));
        };
        let mut put = HashMap::new();
        for (folder, result) in self.folders(output) {
            let changes = self.files(output, result).await?;
            if folder.is_none() {
                no_file_twice(&mut put, &changes, &result.lowered.platform)?;
            }
            let folder = folder.map_or_else(|| dest.clone(), |folder| dest.join(folder));
            let owners = self.engine.exports_owners();
            spawn_blocking(move || {
                fs::create_dir_all(&folder).map_err(EngineError::io("make", &folder))?;
                put_files(&changes, &folder, owners)
            })
            .await??;
        }
        Ok(())
    }

    /// The platforms' results, each with the directory that it gets.
    fn folders(
        &self,
        output: &OutputSpec,
    ) -> impl Iterator<Item = (Option<String>, &PlatformResult)> {
        let several = self.multi_platform || self.results.len() > 1;
        let split = output.platform_split.unwrap_or(several);
        let folder =
            |result: &PlatformResult| result.lowered.platform.to_string().replace('/', "_");
        self.results
            .iter()
            .map(move |result| (split.then(|| folder(result)), result))
    }

    /// All files of a result, none later than the epoch.
    async fn files(
        &self,
        output: &OutputSpec,
        result: &PlatformResult,
    ) -> Result<Vec<Change>, EngineError> {
        let store = self.engine.layers();
        let epoch_s = epoch_of(output, &result.lowered);
        let view = store.view_at(&result.layers, epoch_s).await?;
        let content = StoredContent::once(Arc::clone(store), result.layers.clone());
        spawn_blocking(move || {
            let mut changes =
                changes_of_view(&view, &content).map_err(EngineError::layer("result"))?;
            if let Some(seconds) = epoch_s {
                clamp_changes(&mut changes, TimeLimit::at(at_second(seconds)));
            }
            Ok(changes)
        })
        .await?
    }
}

fn at_second(seconds: i64) -> longshore_layers::Timestamp {
    longshore_layers::Timestamp {
        seconds,
        nanoseconds: 0,
    }
}

/// Changes in a directory of their own.
fn below(
    folder: &str,
    changes: Vec<Change>,
    epoch_s: Option<i64>,
) -> Result<Vec<Change>, EngineError> {
    let failed = || EngineError::layer::<longshore_layers::EntryPathError>("result");
    let folder = EntryPath::new(folder).map_err(failed())?;
    let mut moved = vec![Change::without_content(Entry {
        path: folder.clone(),
        kind: Kind::Directory { opaque: false },
        metadata: Metadata {
            mode: 0o755,
            mtime: at_second(epoch_s.unwrap_or(0)),
            ..Metadata::default()
        },
    })];
    for mut change in changes {
        let path = &mut change.entry.path;
        *path = folder.join(path.as_bytes()).map_err(failed())?;
        if let Kind::Hardlink { target } = &mut change.entry.kind {
            *target = folder.join(target.as_bytes()).map_err(failed())?;
        }
        moved.push(change);
    }
    Ok(moved)
}

/// That no platform's file takes the place of another's.
fn no_file_twice(
    put: &mut HashMap<EntryPath, Platform>,
    changes: &[Change],
    platform: &Platform,
) -> Result<(), EngineError> {
    let is_directory = |change: &&Change| matches!(change.entry.kind, Kind::Directory { .. });
    for change in changes.iter().filter(|change| !is_directory(change)) {
        let path = &change.entry.path;
        if let Some(other) = put.insert(path.clone(), platform.clone()) {
            return Err(EngineError::Invalid(format!(
                "`{path}` is there for {other} and for {platform}: not with platform-split=false"
            )));
        }
    }
    Ok(())
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
