//! The engine: one value for everything that front doors ask for.

use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use longshore_content::{GcOptions, StateRoot};
use longshore_graph::CacheSharing;
use longshore_layers::DecompressLimits;
use longshore_oci::{Descriptor, Digest, Document, Platform, Reference};
use longshore_registry_client::{Client, ClientOptions, TransferObserver};
use longshore_runner::{Isolation, Network, OciRunner, Runner, RunnerOptions, SandboxRunner};
use longshore_snapshot::{OverlaySnapshots, Snapshotter as _};
use longshore_solver::Places;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::archive::{self, ArchiveImage, ArchiveKind};
use crate::image::{ImageStore, PlatformImage, StoredImage};
use crate::layer::{LayerForm, LayerStore};
use crate::transfer::{self, Pulled};
use crate::upload::Uploads;
use crate::{EngineError, SpaceLimits, layer, lend};

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The state root.
    pub root: PathBuf,
    /// How registries are spoken to.
    pub registry: ClientOptions,
    /// How processes are run.
    pub sandbox: SandboxOptions,
    /// What layers are unpacked to.
    pub layer_form: LayerForm,
    /// What the build cache may take.
    pub space: SpaceLimits,
    /// What archives and layers may hold.
    pub unpack: DecompressLimits,
}

/// How an engine runs processes, and as whom it acts.
#[derive(Clone, Debug, Default)]
pub struct SandboxOptions {
    /// How processes are isolated.
    pub isolation: Isolation,
    /// The root directory is taken over although it does not look like a container's.
    pub insist_in_place: bool,
    /// Files and directories that are left alone where steps have the container's root directory.
    pub kept_in_place: Vec<PathBuf>,
    /// Why this process is not in a user namespace, where it tried to enter one.
    pub no_user_namespace: Option<String>,
    /// An OCI runtime that runs the processes, in place of our own sandbox.
    pub oci_runtime: Option<PathBuf>,
    /// The network of what asks for none in particular.
    pub default_network: Network,
    /// Files written to a directory of the caller's belong to the caller, whatever the image says.
    pub exports_as_caller: bool,
}

/// Builds, keeps, moves and runs images. Clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    root: StateRoot,
    layers: Arc<LayerStore>,
    registry: Client,
    sandbox: SandboxOptions,
    space: SpaceLimits,
    /// How many builds run in this process.
    builds: AtomicUsize,
    /// Whose the one root directory is, where there is only one.
    turn: Arc<Semaphore>,
    runner: OnceLock<Chosen>,
    /// Where the steps of all builds of this process run, in turns.
    places: Places,
    /// What it was made of, for another one beside it.
    options: EngineOptions,
    /// Who has images that are not here.
    lender: Option<StateRoot>,
}

/// What runs processes, found out when the first one is to be run.
struct Chosen {
    runner: Arc<dyn Runner>,
    isolation: Isolation,
    why_not_stronger: Option<String>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("root", &self.0.root.path())
            .finish_non_exhaustive()
    }
}

/// A name or content that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// A blob.
    Deleted(Digest),
}

/// An image that an archive held.
#[derive(Clone, Debug)]
pub struct LoadedImage {
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// Its names; empty for an image without one.
    pub names: Vec<Reference>,
}

/// The forms of image archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// For `docker load`, with an OCI layout in it.
    Docker,
    /// An OCI layout.
    Oci,
}

/// What takes space: how many, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// How many.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Chosen {
    fn new(options: &SandboxOptions) -> Result<Self, EngineError> {
        let of_runner = RunnerOptions {
            stage: None,
            isolation: options.isolation,
            insist_in_place: options.insist_in_place,
            no_user_namespace: options.no_user_namespace.clone(),
        };
        let sandbox = SandboxRunner::new(&of_runner)?;
        let isolation = sandbox.isolation();
        let why_not_stronger = sandbox.why_not_stronger().map(str::to_owned);
        let runner: Arc<dyn Runner> = match &options.oci_runtime {
            Some(runtime) => Arc::new(OciRunner::new(sandbox, runtime)?),
            None => Arc::new(sandbox),
        };
        Ok(Self {
            runner,
            isolation,
            why_not_stronger,
        })
    }
}

fn open_snapshots(
    root: &std::path::Path,
    sandbox: &SandboxOptions,
) -> Result<OverlaySnapshots, EngineError> {
    Ok(match sandbox.isolation {
        // Without namespaces there is nothing to mount in.
        Isolation::Chroot => OverlaySnapshots::open_copying(root)?,
        Isolation::InPlace => {
            let mut kept = longshore_runner::kept_in_place(sandbox.insist_in_place)?;
            kept.extend(sandbox.kept_in_place.iter().cloned());
            OverlaySnapshots::open_in_place(root, std::path::Path::new("/"), &kept)?
        }
        _ => OverlaySnapshots::open(root)?,
    })
}

impl Engine {
    /// Opens the engine on a state root, and clears what dead processes left there.
    ///
    /// # Errors
    /// When the root cannot be used.
    pub fn open(options: EngineOptions) -> Result<Self, EngineError> {
        Self::open_with(options, None)
    }

    /// An engine on a state root of its own in `folder`, that has nothing but what this one's
    /// images lend it.
    ///
    /// # Errors
    /// When the root cannot be made.
    pub fn open_cold(&self, folder: &Path) -> Result<Self, EngineError> {
        let options = EngineOptions {
            root: folder.to_owned(),
            ..self.0.options.clone()
        };
        Self::open_with(options, Some(self.0.root.clone()))
    }

    /// A directory for a while, below the state root: gone when dropped, or with the next opening
    /// of the root after this process was killed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<tempfile::TempDir, EngineError> {
        let parent = self.0.root.tmp_dir();
        let made = tempfile::Builder::new().prefix("cold-").tempdir_in(parent);
        made.map_err(EngineError::io("make a directory below", parent))
    }

    fn open_with(options: EngineOptions, lender: Option<StateRoot>) -> Result<Self, EngineError> {
        let kept = options.clone();
        let root = StateRoot::open(&options.root)?;
        let snapshots = Arc::new(open_snapshots(root.path(), &options.sandbox)?);
        snapshots.sweep()?;
        let flights = root.path().join("cache").join(crate::build::FLIGHTS);
        crate::build::sweep_locks(&flights).map_err(EngineError::io("clear", flights))?;
        let caches = Client::new(crate::build::cache_client(&options.registry));
        let registry = Client::new(options.registry);
        let layers = Arc::new(LayerStore::new(
            root.clone(),
            snapshots,
            registry.clone(),
            caches,
            options.layer_form,
            options.unpack,
        ));
        Ok(Self(Arc::new(Inner {
            root,
            layers,
            registry,
            sandbox: options.sandbox,
            space: options.space,
            builds: AtomicUsize::new(0),
            turn: Arc::new(Semaphore::new(1)),
            runner: OnceLock::new(),
            places: Places::default(),
            options: kept,
            lender,
        })))
    }

    /// The state root.
    pub fn root(&self) -> &StateRoot {
        &self.0.root
    }

    /// Whether another root lends its images.
    pub(crate) fn borrows_images(&self) -> bool {
        self.0.lender.is_some()
    }

    /// Copies an image here, where there is another root that lends it.
    pub(crate) fn borrow_image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(), EngineError> {
        match &self.0.lender {
            Some(lender) => lend::borrow(lender, &self.0.root, reference, platform),
            None => Ok(()),
        }
    }

    /// What the build cache may take.
    pub(crate) fn space_limits(&self) -> SpaceLimits {
        self.0.space
    }

    /// What archives and layers may hold.
    pub(crate) fn unpack_limits(&self) -> DecompressLimits {
        self.0.options.unpack
    }

    /// How many builds run in this process.
    pub(crate) fn running_builds(&self) -> &AtomicUsize {
        &self.0.builds
    }

    /// Where the steps of builds run.
    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    pub(crate) fn layers(&self) -> &Arc<layer::LayerStore> {
        &self.0.layers
    }

    pub(crate) fn registry(&self) -> &Client {
        &self.0.registry
    }

    /// Waits until no other step has the root directory that all have; `None` where each has its
    /// own.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        if self.0.sandbox.isolation != Isolation::InPlace {
            return None;
        }
        // It is never closed.
        Arc::clone(&self.0.turn).acquire_owned().await.ok()
    }

    /// What runs processes in root file systems of layers.
    pub(crate) fn runner(&self) -> Result<Arc<dyn Runner>, EngineError> {
        Ok(Arc::clone(&self.chosen()?.runner))
    }

    /// How a cache can be shared here: where nothing can be mounted, a directory is in one place
    /// at a time.
    pub(crate) fn cache_sharing(&self, wanted: CacheSharing) -> Result<CacheSharing, EngineError> {
        Ok(match (self.chosen()?.isolation, wanted) {
            (Isolation::Chroot | Isolation::InPlace, CacheSharing::Shared) => CacheSharing::Private,
            _ => wanted,
        })
    }

    /// How processes are isolated here (never [`Isolation::Auto`]), and why not better, where
    /// that was left to this machine.
    ///
    /// # Errors
    /// When the isolation that was asked for cannot be had.
    pub fn isolation(&self) -> Result<(Isolation, Option<String>), EngineError> {
        let chosen = self.chosen()?;
        Ok((chosen.isolation, chosen.why_not_stronger.clone()))
    }

    /// The network of a process that asks for none in particular.
    pub(crate) fn default_network(&self) -> Network {
        self.0.sandbox.default_network
    }

    /// Whether files written to a directory of the caller's get the image's owners.
    pub(crate) fn exports_owners(&self) -> bool {
        crate::files::is_root() && !self.0.sandbox.exports_as_caller
    }

    fn chosen(&self) -> Result<&Chosen, EngineError> {
        if self.0.runner.get().is_none() {
            let chosen = Chosen::new(&self.0.sandbox)?;
            if chosen.isolation == Isolation::Chroot {
                // Who may make mounts, and put them nowhere, could not fill them.
                self.0.layers.snapshots().copy_only();
            }
            // Whoever was faster chose the same.
            let _ = self.0.runner.set(chosen);
        }
        Ok(self.0.runner.get().expect("it was just set"))
    }

    /// A directory for what can be made again.
    pub(crate) fn cache_directory(&self, name: &str) -> PathBuf {
        self.0.root.path().join("cache").join(name)
    }

    pub(crate) fn images_store(&self) -> ImageStore {
        ImageStore::new(self.0.root.clone())
    }

    /// Every image, named ones first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>, EngineError> {
        self.images_store().list()
    }

    /// The image that a person means by a name, an id or its beginning, or a digest.
    ///
    /// # Errors
    /// [`EngineError::NoSuchImage`] where there is none.
    pub fn find_image(&self, name: &str) -> Result<StoredImage, EngineError> {
        self.images_store().find(name)
    }

    /// An image's manifest and configuration for `platform`.
    ///
    /// # Errors
    /// When the image has none, or it is not here.
    pub fn read_image(
        &self,
        image: &StoredImage,
        platform: &Platform,
    ) -> Result<PlatformImage, EngineError> {
        self.images_store().read(image, platform)
    }

    /// The names of the image with this digest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn names_of(&self, digest: &Digest) -> Result<Vec<Reference>, EngineError> {
        let images = self.0.root.images().by_digest(digest)?;
        Ok(images
            .into_iter()
            .filter_map(|image| image.reference?.parse().ok())
            .collect())
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// When there is no such image, or the name holds a digest.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<(), EngineError> {
        let image = self.find_image(source)?;
        if target.digest().is_some() {
            return Err(EngineError::Invalid(format!(
                "`{target}`: a new name cannot hold a digest"
            )));
        }
        let target = target.clone().with_default_tag();
        Ok(self
            .0
            .root
            .images()
            .set(&target.to_string(), &image.descriptor)?)
    }

    /// Removes a name, and what nothing needs after that. An id removes its image if it has
    /// one name at the most, or with `force` all of them.
    ///
    /// # Errors
    /// When there is no such image, or an id has several names.
    pub fn remove_image(
        &self,
        name: &str,
        force: bool,
        prune: bool,
    ) -> Result<Vec<Removed>, EngineError> {
        let by_name = name
            .parse::<Reference>()
            .ok()
            .map(|reference| self.images_store().by_reference(&reference));
        let image = match by_name.transpose()?.flatten() {
            Some(image) => image,
            None => self.find_image(name)?,
        };
        let is_name = image.reference.as_ref().is_some_and(|reference| {
            name.parse::<Reference>()
                .is_ok_and(|given| given.with_default_tag().name() == reference.name())
        });
        let names: Vec<Reference> = match (&image.reference, is_name) {
            (Some(reference), true) => vec![reference.clone()],
            _ => self.names_of(&image.descriptor.digest)?,
        };
        if names.len() > 1 && !force {
            let shown: Vec<String> = names.iter().map(Reference::familiar).collect();
            return Err(EngineError::Invalid(format!(
                "`{name}` has several names ({}): remove them one by one, or use --force",
                shown.join(", ")
            )));
        }
        let mut removed = Vec::new();
        for name in names {
            self.0.root.images().remove(&name.to_string())?;
            removed.push(Removed::Untagged(name.familiar()));
        }
        self.0
            .root
            .images()
            .remove_dangling(&image.descriptor.digest)?;
        if prune {
            removed.extend(self.delete_unneeded(&image)?);
        }
        Ok(removed)
    }

    /// Deletes those of an image's blobs that nothing needs any more.
    fn delete_unneeded(&self, image: &StoredImage) -> Result<Vec<Removed>, EngineError> {
        let own: HashSet<Digest> = self.blobs_below(&image.descriptor).into_iter().collect();
        // What this image alone had goes at once; what the build cache needs stays.
        let options = GcOptions {
            only: Some(own),
            wait: true,
            ..GcOptions::blobs_only(Duration::ZERO)
        };
        let report = self.collect(&options)?;
        Ok(report
            .removed
            .into_iter()
            .map(|(digest, _)| Removed::Deleted(digest))
            .collect())
    }

    fn blobs_below(&self, descriptor: &Descriptor) -> BTreeSet<Digest> {
        let mut found = BTreeSet::from([descriptor.digest]);
        match self.images_store().document("image", descriptor) {
            Ok(Document::Manifest(manifest)) => {
                found.extend(
                    manifest
                        .layers
                        .iter()
                        .chain([&manifest.config])
                        .map(|part| part.digest),
                );
            }
            Ok(Document::Index(index)) => {
                for child in &index.manifests {
                    found.extend(self.blobs_below(child));
                }
            }
            // A manifest that is not here has nothing below it here.
            Err(_) => {}
        }
        found
    }

    /// Pulls an image and names it as it was asked for.
    ///
    /// # Errors
    /// When the registry does not have it or cannot be reached, or it cannot be stored.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        observer: Arc<dyn TransferObserver>,
    ) -> Result<Pulled, EngineError> {
        transfer::pull(
            &self.0.root,
            &self.0.registry.with_observer(observer),
            reference,
            platform,
        )
        .await
    }

    /// Pushes an image of the local store to the registry that its name holds.
    ///
    /// # Errors
    /// When there is no such image, or the registry refuses it.
    pub async fn push(
        &self,
        reference: &Reference,
        observer: Arc<dyn TransferObserver>,
    ) -> Result<Descriptor, EngineError> {
        let reference = reference.clone().with_default_tag();
        let found = self.images_store().by_reference(&reference)?;
        let image = found.ok_or_else(|| EngineError::NoSuchImage(reference.familiar()))?;
        let client = self.0.registry.with_observer(observer);
        let uploads = Uploads::new(self.0.root.clone(), client);
        transfer::push(
            &self.0.root,
            &uploads,
            &image,
            &reference,
            &Platform::host(),
        )
        .await
    }

    /// The blobs that a build will send, to registries as this engine speaks to them.
    pub(crate) fn uploads(&self) -> Uploads {
        Uploads::new(self.0.root.clone(), self.0.registry.clone())
    }

    /// Pushes what a build just made.
    pub(crate) async fn push_descriptor(
        &self,
        descriptor: &Descriptor,
        name: &Reference,
        uploads: &Uploads,
    ) -> Result<Descriptor, EngineError> {
        let image = StoredImage {
            reference: Some(name.clone()),
            descriptor: descriptor.clone(),
            tagged: std::time::SystemTime::now(),
        };
        transfer::push(&self.0.root, uploads, &image, name, &Platform::host()).await
    }

    /// Writes images to an archive.
    ///
    /// # Errors
    /// When one is not here, or the archive cannot be written.
    pub fn save(
        &self,
        images: &[String],
        format: ArchiveFormat,
        sink: impl Write,
    ) -> Result<(), EngineError> {
        let mut chosen: Vec<ArchiveImage> = Vec::new();
        for name in images {
            let image = self.find_image(name)?;
            // What was given by id goes in without a name, as Docker does it.
            let names = match (&image.reference, name.parse::<Reference>()) {
                (Some(reference), Ok(given)) if given.name() == reference.name() => {
                    vec![reference.clone()]
                }
                _ => Vec::new(),
            };
            match chosen
                .iter_mut()
                .find(|known| known.descriptor.digest == image.descriptor.digest)
            {
                Some(known) => known.names.extend(names),
                None => chosen.push(ArchiveImage {
                    descriptor: image.descriptor,
                    names,
                }),
            }
        }
        let kind = match format {
            ArchiveFormat::Docker => ArchiveKind::Docker,
            ArchiveFormat::Oci => ArchiveKind::Oci,
        };
        archive::write_tar(&self.0.root, &chosen, kind, sink)
    }

    /// Reads images from an archive, plain or compressed, and names them as it says.
    ///
    /// # Errors
    /// When it is no image archive, or is damaged: nothing is named then.
    pub fn load(&self, input: impl Read + Send) -> Result<Vec<LoadedImage>, EngineError> {
        let loaded = archive::load(&self.0.root, input, self.unpack_limits())?;
        let images = self.0.root.images();
        for image in &loaded {
            for name in &image.names {
                images.set(
                    &name.clone().with_default_tag().to_string(),
                    &image.descriptor,
                )?;
            }
            if image.names.is_empty() {
                images.add_dangling(&image.descriptor)?;
            }
        }
        Ok(loaded
            .into_iter()
            .map(|image| LoadedImage {
                descriptor: image.descriptor,
                names: image.names,
            })
            .collect())
    }

    /// That a registry takes these credentials.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub async fn check_login(
        &self,
        registry: &str,
        credentials: &longshore_registry_client::Credentials,
    ) -> Result<longshore_registry_client::LoginCheck, EngineError> {
        Ok(self
            .0
            .registry
            .check_login(registry, credentials.clone())
            .await?)
    }

    /// What images take: how many there are, and the bytes of their blobs.
    ///
    /// # Errors
    /// When the store fails.
    pub fn image_space(&self) -> Result<DiskUsage, EngineError> {
        let mut blobs = BTreeSet::new();
        let images = self.images()?;
        for image in &images {
            blobs.extend(self.blobs_below(&image.descriptor));
        }
        let mut bytes = 0;
        for digest in &blobs {
            let info = self.0.root.blobs().info(digest)?;
            bytes += info.map_or(0, |info| info.size_bytes);
        }
        Ok(DiskUsage {
            count: images.len() as u64,
            bytes,
        })
    }
}
