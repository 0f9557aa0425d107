//! What a build is asked for besides its Dockerfile.

use longshore_dockerfile::check::CheckOptions;
use longshore_dockerfile::ignore::Matcher;
use longshore_graph::{GitSource, HttpSource, NetworkMode, Resources, Ulimit};
use longshore_oci::Platform;

/// What a build is asked for.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The stage to build; nothing for the last one.
    pub target: Option<String>,
    /// `--build-arg`, in order; later ones win. BuildKit's own (`BUILDKIT_CACHE_MOUNT_NS`, …) are
    /// understood here too.
    pub build_args: Vec<(String, String)>,
    /// For which platforms. Empty: for the build platform, and an image of another platform is
    /// taken as it is.
    pub platforms: Vec<Platform>,
    /// The platform that builds.
    pub build_platform: Platform,
    /// Whether vertex names carry their platform: if there is more than one, unless said here.
    pub multi_platform: Option<bool>,
    /// Labels besides the Dockerfile's; they win.
    pub labels: Vec<(String, String)>,
    /// `--build-context`: a name, `name::os/arch` for one platform alone, and what it stands for.
    pub named_contexts: Vec<(String, NamedContext)>,
    /// Where `COPY` and `ADD` without `--from` copy from.
    pub main_context: MainContext,
    /// What runs even where the cache has a result.
    pub no_cache: NoCache,
    /// The network of `RUN` steps that do not ask for one.
    pub network: NetworkMode,
    /// `--add-host`: (name, address).
    pub add_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--memory`, `--cpu-shares`, ….
    pub resources: Resources,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// The host's name in `RUN` steps; empty for the default.
    pub hostname: String,
    /// `SOURCE_DATE_EPOCH`, unless a build argument gives it: seconds, `context`, or the name of a
    /// context or stage.
    pub source_date_epoch: Option<String>,
    /// How image names are looked up.
    pub image_resolve: ImageResolveMode,
    /// The context's ignore patterns, for the check of what is copied.
    pub ignore: Option<Matcher>,
    /// Check options instead of the Dockerfile's.
    pub checks: Option<CheckOptions>,
}

impl BuildOptions {
    /// A build of the last stage for `build_platform`, from the local directory `context`.
    #[must_use]
    pub fn new(build_platform: Platform) -> Self {
        Self {
            target: None,
            build_args: Vec::new(),
            platforms: Vec::new(),
            build_platform,
            multi_platform: None,
            labels: Vec::new(),
            named_contexts: Vec::new(),
            main_context: MainContext::local(),
            no_cache: NoCache::Nothing,
            network: NetworkMode::Default,
            add_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            resources: Resources::default(),
            cgroup_parent: String::new(),
            hostname: String::new(),
            source_date_epoch: None,
            image_resolve: ImageResolveMode::Default,
            ignore: None,
            checks: None,
        }
    }

    /// The value of a build argument; the last one of its name.
    #[must_use]
    pub fn build_arg(&self, name: &str) -> Option<&str> {
        let mut named = self.build_args.iter().rev();
        named
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Where `COPY` and `ADD` copy from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainContext {
    /// Its content.
    pub source: ContextSource,
    /// The directory of it that counts; empty for all of it.
    pub subdirectory: String,
}

impl MainContext {
    /// The client's directory, named `context`.
    #[must_use]
    pub fn local() -> Self {
        Self::of(ContextSource::Local {
            name: "context".to_owned(),
        })
    }

    /// All of `source`.
    #[must_use]
    pub fn of(source: ContextSource) -> Self {
        Self {
            source,
            subdirectory: String::new(),
        }
    }
}

/// The sorts of main contexts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory of the client's.
    Local {
        /// Its name among the client's directories.
        name: String,
    },
    /// A repository.
    Git(GitSource),
    /// A file from a URL.
    Http {
        /// The file.
        source: HttpSource,
        /// It is an archive, and its content is the context.
        archive: bool,
    },
    /// Nothing: the Dockerfile came alone.
    Empty,
}

/// What a named context stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// `docker-image://…`: an image by reference; `scratch` is an empty tree.
    Image(String),
    /// A directory of the client's, by its name among them.
    Local(String),
    /// A repository: a URL as `ADD` takes it, fragment included.
    Git(String),
    /// A file from a URL; it is named `context`. A URL that ends in `.git` is a repository.
    Http(String),
    /// `oci-layout://…`: an image in a directory.
    OciLayout {
        /// The directory.
        directory: String,
        /// Tag or digest; empty for the only image.
        reference: String,
    },
}

/// Which stages run even where the cache has a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// These, by name.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the stage of this name does.
    #[must_use]
    pub fn covers(&self, stage: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Stages(names) => names
                .iter()
                .any(|name| name.to_lowercase() == stage.to_lowercase()),
        }
    }
}

/// How image names are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageResolveMode {
    /// A local image if its digest is what the registry says.
    #[default]
    Default,
    /// Always ask the registry.
    ForcePull,
    /// A local image is good enough.
    PreferLocal,
}
