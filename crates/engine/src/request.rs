//! What a build is asked to do: plain values that a front door fills in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use longshore_graph::{NetworkMode, Resources, Ulimit};
use longshore_layers::context::ModePolicy;
use longshore_oci::{Platform, Reference};
use serde::{Deserialize, Serialize};

/// The largest secret: BuildKit's limit.
const SECRET_BYTES_MAX: u64 = 500 * 1024;

use crate::{Annotation, CacheSource, CacheTarget, HistoryLimits, Invocation, LockUse};

/// A build: where its files are, what is made of them and where that goes.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The build context.
    pub context: ContextSpec,
    /// Which modes the files of directories of this machine have.
    pub context_modes: ModePolicy,
    /// What the time of the context's commit is to the times of what is new.
    pub commit_epoch: CommitEpoch,
    /// The Dockerfile.
    pub dockerfile: DockerfileSpec,
    /// What is done with the lock file beside it.
    pub lock: LockUse,
    /// Further contexts by name.
    pub named_contexts: BTreeMap<String, ContextSpec>,
    /// The stage to build; `None` is the last.
    pub target: Option<String>,
    /// Build arguments by name.
    pub build_args: BTreeMap<String, String>,
    /// Labels that are set on the image.
    pub labels: BTreeMap<String, String>,
    /// The platforms; empty is the host's.
    pub platforms: Vec<Platform>,
    /// Run every step.
    pub no_cache: bool,
    /// Run every step of these stages.
    pub no_cache_filter: Vec<String>,
    /// Ask the registries for bases that are here.
    pub pull: bool,
    /// The network of steps that do not say.
    pub network: NetworkMode,
    /// Lines of the steps' hosts file: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Bytes of the steps' `/dev/shm`.
    pub shm_size_bytes: Option<u64>,
    /// The steps' resource limits.
    pub ulimits: Vec<Ulimit>,
    /// What a step may use.
    pub resources: Resources,
    /// The steps' parent control group.
    pub cgroup_parent: String,
    /// What is allowed beyond the default.
    pub entitlements: Entitlements,
    /// How long a step's process may run.
    pub step_timeout: Option<Duration>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Ssh agents' sockets by id.
    pub ssh_agents: BTreeMap<String, PathBuf>,
    /// Where the result goes.
    pub outputs: Vec<OutputSpec>,
    /// The names that an image output gets.
    pub tags: Vec<Reference>,
    /// Annotations of every image output, before the outputs' own.
    pub annotations: Vec<Annotation>,
    /// Make the layers above the base one.
    pub squash: bool,
    /// How many steps may run at once.
    pub jobs: usize,
    /// Build caches elsewhere that are asked, the nearest first.
    pub cache_from: Vec<CacheSource>,
    /// Where the records of this build go.
    pub cache_to: Vec<CacheTarget>,
    /// How the build was asked for, to be kept in the history.
    pub invocation: Option<Invocation>,
    /// How much of the history of builds is kept.
    pub history: HistoryLimits,
}

/// What the time of the context's commit, where the context is a repository or a clean git work
/// tree, is to the times of what is new. `SOURCE_DATE_EPOCH` goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitEpoch {
    /// Nothing: what is new has the clock's time.
    Ignored,
    /// The time of the image and of the layers that are written for the first time.
    Found,
    /// The time of the image and of all its layers: the same image whatever was built before.
    Asked,
}

/// What a build may do that is otherwise refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
}

/// Where a context's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSpec {
    /// No files.
    Empty,
    /// A directory of this machine.
    Directory(PathBuf),
    /// A tar archive on this machine, plain or compressed.
    Archive(PathBuf),
    /// A git repository: `url#ref:subdir`.
    Git(String),
    /// An archive or a Dockerfile at a URL.
    Http(String),
    /// An image: `docker-image://`.
    Image(Reference),
    /// An OCI layout directory: `DIR[:tag][@digest]`.
    OciLayout(String),
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSpec {
    /// A file of this machine.
    File(PathBuf),
    /// A path in the context; with the fall-back to `dockerfile` where it is the default name.
    InContext(String),
    /// The text itself, from standard input.
    Text(Vec<u8>),
}

/// Where a secret's value is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file, read when a step asks for it.
    File(PathBuf),
    /// Here.
    Value(Vec<u8>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(<redacted>)"),
        }
    }
}

impl SecretSource {
    /// The secret's value now.
    pub(crate) async fn read(&self) -> Result<Vec<u8>, crate::EngineError> {
        let path = match self {
            Self::Value(value) => return Ok(value.clone()),
            Self::File(path) => path.clone(),
        };
        let read = tokio::task::spawn_blocking(move || {
            crate::files::read_regular(&path, SECRET_BYTES_MAX)
                .map_err(crate::EngineError::io("read", path))
        });
        read.await?
    }
}

/// Where a result goes, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// The sort of output.
    pub kind: OutputKind,
    /// The file or directory; `None` is standard output for archives.
    pub dest: Option<PathBuf>,
    /// How layers are compressed.
    pub compression: LayerCompression,
    /// Compress base layers again too.
    pub force_compression: bool,
    /// OCI media types; Docker's otherwise.
    pub oci_media_types: bool,
    /// Names of this output in place of the request's.
    pub names: Vec<Reference>,
    /// Push it to the names' registries.
    pub push: bool,
    /// Keep it in the local store (image outputs).
    pub store: bool,
    /// An archive (OCI and Docker outputs); a directory otherwise.
    pub tar: bool,
    /// Push by digest alone: no tag is moved.
    pub push_by_digest: bool,
    /// Also name the image by its digest (image outputs).
    pub name_canonical: bool,
    /// Unpack the image's layers, ready to run (image outputs).
    pub unpack: bool,
    /// Whether the times of the files that the build made are cut off at `SOURCE_DATE_EPOCH`;
    /// `None` does so where there is one.
    pub rewrite_timestamp: Option<bool>,
    /// In place of the build's `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub epoch_s: Option<i64>,
    /// Annotations of this output.
    pub annotations: Vec<Annotation>,
    /// A directory for each platform (local and tar outputs); `None` does so for several.
    pub platform_split: Option<bool>,
}

/// The sorts of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// An image in the local store.
    Image,
    /// An OCI layout.
    Oci,
    /// A `docker load` archive.
    Docker,
    /// The root file system as a tar.
    Tar,
    /// The root file system as a directory.
    Local,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerCompression {
    /// gzip at a level of 0 to 9.
    Gzip(u32),
    /// zstd at a level of 1 to 22.
    Zstd(u32),
    /// Not at all.
    Uncompressed,
}

/// The usual gzip level: layers as small as those of BuildKit at its own usual level.
pub const GZIP_LEVEL_DEFAULT: u32 = longshore_layers::GZIP_LEVEL_DEFAULT;
/// BuildKit's zstd level.
pub const ZSTD_LEVEL_DEFAULT: u32 = 3;

impl Default for LayerCompression {
    fn default() -> Self {
        Self::Gzip(GZIP_LEVEL_DEFAULT)
    }
}

impl OutputKind {
    /// Whether an image comes out: manifests and layers, not bare files.
    pub fn is_image(self) -> bool {
        !matches!(self, Self::Tar | Self::Local)
    }
}

impl OutputSpec {
    /// An output of `kind` with the usual settings.
    pub fn new(kind: OutputKind) -> Self {
        Self {
            kind,
            dest: None,
            compression: LayerCompression::default(),
            force_compression: false,
            oci_media_types: kind != OutputKind::Docker,
            names: Vec::new(),
            push: false,
            store: true,
            tar: true,
            push_by_digest: false,
            name_canonical: false,
            unpack: false,
            rewrite_timestamp: None,
            epoch_s: None,
            annotations: Vec::new(),
            platform_split: None,
        }
    }
}
