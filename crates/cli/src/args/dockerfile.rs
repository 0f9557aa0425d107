//! The flags of what reads a Dockerfile: `build`, `lock` and `verify`.

use std::path::PathBuf;

use clap::Args;

use super::{ContextModes, HistoryBounds, ProgressMode, Sandboxing, SpaceBounds};

/// What is built: all that a Dockerfile's instructions are read with.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// The context: a directory, an archive, a git or HTTP URL, or - for standard input
    #[arg(value_name = "PATH | URL | -")]
    pub(crate) context: Option<String>,
    /// The Dockerfile [default: PATH/Dockerfile; - is standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a build argument; without a value it comes from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// A further context: NAME=DIR, docker-image://, oci-layout://, git or HTTP URL
    #[arg(long, value_name = "NAME=PLACE")]
    pub(crate) build_context: Vec<String>,
    /// Platforms to build for
    #[arg(long, value_delimiter = ',', value_name = "OS/ARCH")]
    pub(crate) platform: Vec<String>,
    /// Expose a secret to the build: id=ID[,src=FILE | ,env=NAME]
    #[arg(long, value_name = "SPEC")]
    pub(crate) secret: Vec<String>,
    /// Expose an ssh agent to the build: default | ID[=SOCKET]
    #[arg(long, value_name = "SPEC")]
    pub(crate) ssh: Vec<String>,
}

/// What is done with the lock file.
#[derive(Debug, Args)]
pub(crate) struct LockUseArgs {
    /// Write what images, repositories and URLs stood for to the lock file beside the
    /// Dockerfile (Dockerfile.lock), when it is built
    #[arg(long, conflicts_with = "locked")]
    pub(crate) lock: bool,
    /// Take images, repositories and URLs for what the lock file says; one that is not in it is
    /// an error
    #[arg(long)]
    pub(crate) locked: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Look names up again that are in the lock file: NAME, or all
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    pub(crate) update: Option<Option<String>>,
}

/// What the image is to be like.
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// Which modes the files of local contexts have: as on this machine, or only what git
    /// keeps of them (0644 and 0755), so that the umask of a checkout does not matter
    #[arg(long, value_enum, default_value = "host", value_name = "MODES")]
    pub(crate) context_modes: ContextModes,
    /// Give every layer and the image the time of the context's commit, where the context is a
    /// repository or a clean git work tree, so that a commit has one image on all machines,
    /// whatever they built before; without this, layers that were written before keep their times
    #[arg(long, conflicts_with = "no_reproducible")]
    pub(crate) reproducible: bool,
    /// Give new files and the image the clock's time, also where the context is a commit or
    /// SOURCE_DATE_EPOCH is set in the environment
    #[arg(long)]
    pub(crate) no_reproducible: bool,
    /// Set a label on the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Set an annotation on the image; TYPE is manifest, index, manifest-descriptor or
    /// index-descriptor, also several with commas, manifest[PLATFORM] for one platform
    #[arg(long, value_name = "[TYPE:]NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Make the layers above the base image one
    #[arg(long)]
    pub(crate) squash: bool,
}

/// What steps run in.
#[derive(Debug, Args)]
pub(crate) struct SurroundingArgs {
    /// Network of RUN steps: default, host or none
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// Add a line to the steps' hosts file; `host-gateway` is this machine's address
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// A resource limit of the steps: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) ulimit: Vec<String>,
    /// The steps' parent control group, a path from the top of each hierarchy
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
    /// Memory limit of a step
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Limit of a step's memory and swap together, or -1 for no limit of swap [default: twice --memory]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Processor time of a step in each period, microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_quota: Option<i64>,
    /// Length of that period, microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// Relative weight of a step's processes
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// Processors that a step may use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes that a step may use
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// How long a step may run: 90s, 10m, 1h30m
    #[arg(long, env = "LONGSHORE_STEP_TIMEOUT", value_name = "DURATION")]
    pub(crate) step_timeout: Option<String>,
    /// Allow what is otherwise refused: network.host, security.insecure
    #[arg(long, value_delimiter = ',', value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) sandboxing: Sandboxing,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) surroundings: SurroundingArgs,
    /// Take images, repositories and URLs for what the lock file says
    #[arg(long)]
    pub(crate) locked: bool,
    /// How the result is shown: text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: String,
    /// How progress is shown
    #[arg(long, value_enum, env = "BUILDKIT_PROGRESS", default_value = "auto")]
    pub(crate) progress: ProgressMode,
}

impl VerifyArgs {
    /// The first flag that says how to build, by name.
    pub(crate) fn build_flag(&self) -> Option<&'static str> {
        let Self {
            input,
            result,
            surroundings,
            locked,
            ..
        } = self;
        let given = [
            ("--file", input.file.is_some()),
            ("--target", input.target.is_some()),
            ("--build-arg", !input.build_arg.is_empty()),
            ("--build-context", !input.build_context.is_empty()),
            ("--platform", !input.platform.is_empty()),
            ("--secret", !input.secret.is_empty()),
            ("--ssh", !input.ssh.is_empty()),
            (
                "--context-modes",
                result.context_modes != ContextModes::Host,
            ),
            ("--reproducible", result.reproducible),
            ("--no-reproducible", result.no_reproducible),
            ("--label", !result.label.is_empty()),
            ("--annotation", !result.annotation.is_empty()),
            ("--squash", result.squash),
            ("--locked", *locked),
        ];
        let given = given.into_iter().chain(surroundings.given());
        let mut given = given.filter_map(|(name, is_given)| is_given.then_some(name));
        given.next()
    }
}

impl SurroundingArgs {
    fn given(&self) -> [(&'static str, bool); 12] {
        [
            ("--network", self.network.is_some()),
            ("--add-host", !self.add_host.is_empty()),
            ("--shm-size", self.shm_size.is_some()),
            ("--ulimit", !self.ulimit.is_empty()),
            ("--cgroup-parent", self.cgroup_parent.is_some()),
            ("--memory", self.memory.is_some()),
            ("--memory-swap", self.memory_swap.is_some()),
            ("--cpu-quota", self.cpu_quota.is_some()),
            ("--cpu-period", self.cpu_period.is_some()),
            ("--cpu-shares", self.cpu_shares.is_some()),
            (
                "--cpuset-cpus or --cpuset-mems",
                self.cpuset_cpus.is_some() || self.cpuset_mems.is_some(),
            ),
            ("--allow", !self.allow.is_empty()),
        ]
    }
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) sandboxing: Sandboxing,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) lock: LockUseArgs,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) surroundings: SurroundingArgs,
    /// Name of the image (repeat for more)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Run every step
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    pub(crate) no_cache_filter: Vec<String>,
    /// Use records of a build cache elsewhere: REF | type=registry,ref=REF | type=local,src=DIR
    /// [,mounts=true][,mounts-max-size=SIZE]
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,
    /// Write the build's records to a cache: type=registry,ref=REF | type=local,dest=DIR |
    /// type=inline[,mode=min|max][,compression=…][,ignore-error=false][,mounts=true]
    /// [,mounts-max-size=SIZE]
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
    /// Ask the registries for base images even where they are here
    #[arg(long)]
    pub(crate) pull: bool,
    /// Where the result goes: type=image|registry|oci|docker|tar|local[,dest=PATH][,…]
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) output: Vec<String>,
    /// Push the image when it is built
    #[arg(long)]
    pub(crate) push: bool,
    /// Keep the image in the local store (the default)
    #[arg(long)]
    pub(crate) load: bool,
    /// Write the result's digests to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// How long the whole build may take
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// Check the Dockerfile instead of building it
    #[arg(long)]
    pub(crate) check: bool,
    /// Do something else with the Dockerfile: build, check, outline, targets[,format=json]
    #[arg(long, value_name = "METHOD")]
    pub(crate) call: Option<String>,
    /// How progress is shown
    #[arg(long, value_enum, env = "BUILDKIT_PROGRESS", default_value = "auto")]
    pub(crate) progress: ProgressMode,
    /// Print the image's id only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How many steps may run at once [default: 16]
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Say for each step why it was or was not cached
    #[arg(long)]
    pub(crate) explain_cache: bool,
    #[command(flatten)]
    pub(crate) space: SpaceBounds,
    #[command(flatten)]
    pub(crate) history: HistoryBounds,
    #[command(flatten)]
    pub(crate) unsupported: UnsupportedBuildArgs,
}

/// Flags of Docker's that are refused by name until they are there.
#[derive(Debug, Args)]
pub(crate) struct UnsupportedBuildArgs {
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) sbom: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) provenance: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) attest: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) builder: Option<String>,
}

impl UnsupportedBuildArgs {
    /// The first flag that was given, by name.
    pub(crate) fn given(&self) -> Option<&'static str> {
        // `--provenance=false` and `--sbom=false` ask for what happens anyway.
        let asked = |value: &Option<String>| value.as_deref().is_some_and(|value| value != "false");
        [
            ("--sbom", asked(&self.sbom)),
            ("--provenance", asked(&self.provenance)),
            ("--attest", !self.attest.is_empty()),
            ("--builder", self.builder.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}
