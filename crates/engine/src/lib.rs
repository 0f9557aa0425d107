//! Wires the solver, layers, snapshots, runner, registries and content into builds,
//! exports, transfers and runs.
//!
//! ```text
//!  BuildRequest ──parse, lower──► Graph ──solve──► layers ──export──► store, registry, files
//!                                   │
//!                            BuildExecutor: sources, file operations, processes
//! ```
//!
//! Every front door (the command line now) calls [`Engine`]. The engine reads nothing of
//! the user's environment and prints nothing: what it is to know is in the request, what
//! happens goes to a [`ProgressSink`].

mod annotation;
mod archive;
mod build;
mod builds;
mod container;
mod context;
mod engine;
mod error;
mod files;
mod history;
mod image;
mod import;
mod layer;
mod layout;
mod lend;
mod local_paths;
mod lock_file;
mod named_volume;
mod progress;
mod remote;
mod request;
mod space;
mod text;
mod transfer;
mod tree;
mod upload;
mod verify;
mod volume;

pub use annotation::{Annotation, AnnotationLevel};
pub use build::{
    BuildError, BuildOutcome, CacheMode, CachePlace, CacheSource, CacheTarget, CommandFailed,
    LayerSteps, Loaded as LoadedDockerfile, MadeStep, SOURCE_DATE_EPOCH, SeenInputs,
};
pub use builds::{
    BuildHistory, BuildInputs, BuildRecord, BuildStatus, Builds, HistoryLimits, Invocation,
    RecordedBuild, StepOutcome, StepRecord,
};
pub use container::{ContainerMount, ContainerMounted, ContainerRequest};
pub use engine::{
    ArchiveFormat, DiskUsage, Engine, EngineOptions, LoadedImage, Removed, SandboxOptions,
};
pub(crate) use error::with_causes;
pub use error::{DiffIdMismatch, EngineError, ErrorClass};
pub use image::{PlatformImage, StoredImage};
pub use import::ImportRequest;
pub use layer::{LayerForm, UnknownLayerForm, try_layer_images};
pub use lock_file::{LockError, LockRefresh, LockUse, PinnedName, Pins, Relocked};
pub use longshore_graph::{NetworkMode, Resources, Ulimit};
/// What archives and layers may hold when they are unpacked.
pub use longshore_layers::DecompressLimits as UnpackLimits;
pub use longshore_layers::context::ModePolicy;
pub use longshore_runner::Resource;
pub use named_volume::{NoVolumeName, VolumeName};
pub use progress::{NoProgress, PlannedStep, ProgressEvent, ProgressSink};
pub use remote::RemoteError;
pub use request::{
    BuildRequest, CommitEpoch, ContextSpec, DockerfileSpec, Entitlements, GZIP_LEVEL_DEFAULT,
    LayerCompression, OutputKind, OutputSpec, SecretSource, ZSTD_LEVEL_DEFAULT,
};
pub use space::{CacheKind, CacheSpace, PruneRequest, Pruned, PrunedItem, Space, SpaceLimits};
pub use transfer::Pulled;
pub use verify::{
    Comparison, FieldDifference, FileDifference, How, ImageOf, LayerDifference, PlatformDifference,
    Side, compare,
};
