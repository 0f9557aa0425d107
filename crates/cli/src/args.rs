//! The command line as typed: one struct a command, nothing resolved yet.
//!
//! Docker's and Buildx's words. A flag of theirs that is not there yet is refused by
//! name (see `unsupported`), never ignored.

#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "the comments are help texts: brackets mean optional"
)]

mod dockerfile;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use longshore_engine::LayerForm;
use longshore_runner::{Isolation, Network};

pub(crate) use self::dockerfile::{
    BuildArgs, InputArgs, LockArgs, ResultArgs, SurroundingArgs, VerifyArgs,
};
use crate::identity::Identity;

/// Builds OCI images from Dockerfiles, serves them as a registry, pushes, pulls and runs them.
#[derive(Debug, Parser)]
#[command(
    name = "longshore",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where images, layers and caches are kept [default: /var/lib/longshore for root]
    #[arg(long, env = "LONGSHORE_ROOT", value_name = "DIR", global = true)]
    pub(crate) root: Option<PathBuf>,
    /// Registries: mirrors, plain-HTTP hosts, certificate authorities (TOML)
    #[arg(long, env = "LONGSHORE_CONFIG", value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Say more, on standard error
    #[arg(short = 'D', long, global = true)]
    pub(crate) debug: bool,
    /// What layers are unpacked to: auto, directory or erofs
    #[arg(
        long,
        env = "LONGSHORE_LAYER_FORM",
        default_value = "auto",
        value_name = "FORM",
        global = true
    )]
    pub(crate) layer_form: LayerForm,
    /// How the log is written
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub(crate) log_format: LogFormat,
    /// A registry that may speak plain HTTP (loopback always may)
    #[arg(long, value_name = "HOST", global = true)]
    pub(crate) insecure_registry: Vec<String>,
    /// As whom the program acts; found out at its start
    #[arg(skip)]
    pub(crate) identity: Identity,
}

/// How processes are run.
#[derive(Debug, Args)]
pub(crate) struct Sandboxing {
    /// How processes are isolated: auto, full, userns, chroot, inplace or none
    #[arg(
        long,
        env = "LONGSHORE_ISOLATION",
        default_value = "auto",
        value_name = "MODE"
    )]
    pub(crate) isolation: Isolation,
    /// The network of what asks for none in particular: host, none, isolated, pasta or slirp4netns
    /// [default: host]
    #[arg(long, env = "LONGSHORE_DEFAULT_NETWORK", value_name = "NETWORK")]
    pub(crate) default_network: Option<Network>,
    /// With inplace: take over the root directory although it does not look like that of a
    /// container which may be thrown away
    #[arg(
        long,
        env = "LONGSHORE_INPLACE_FORCE",
        value_parser = clap::builder::FalseyValueParser::new(),
    )]
    pub(crate) inplace_force: bool,
    /// An OCI runtime (runc, crun, youki) that runs the processes instead
    #[arg(long, env = "LONGSHORE_OCI_RUNTIME", value_name = "PATH")]
    pub(crate) oci_runtime: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    Auto,
    Plain,
    Rawjson,
    Quiet,
    Tty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContextModes {
    Host,
    Git,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Write down what the images, repositories and URLs of a Dockerfile stand for
    Lock(Box<LockArgs>),
    /// Build twice, or build an image again, and name what differs
    ///
    /// A directory or URL is built twice, cold, with its flags. Any other name is an image of the
    /// local store, which is built again as it was. Exits with 0 where the images are equal, with
    /// 1 where they differ, with 3 where that cannot be told.
    Verify(Box<VerifyArgs>),
    /// Make an image from a root file system's tar
    Import(ImportArgs),
    /// List images
    #[command(visible_alias = "ls")]
    Images(ImagesArgs),
    /// Show an image's details
    Inspect(InspectArgs),
    /// Show how an image's layers came to be
    History(HistoryArgs),
    /// Say for each step of a build whether it ran, and why
    Why(WhyArgs),
    /// Show what was built, and what the steps wrote
    #[command(subcommand)]
    BuildHistory(BuildHistoryCommand),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Push an image to its registry
    Push(PushArgs),
    /// Pull an image from a registry
    Pull(PullArgs),
    /// Run a command in a container made from an image
    Run(Box<RunArgs>),
    /// Serve a registry
    Serve(ServeArgs),
    /// Keep credentials for a registry
    Login(LoginArgs),
    /// Forget credentials for a registry
    Logout(LogoutArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Remove what nothing needs
    Prune(PruneArgs),
    /// Show what takes space
    Df(DfArgs),
    /// Say what this machine can do
    Doctor(DoctorArgs),
    /// Write a completion script
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Show the version
    Version(VersionArgs),
}

/// What the build cache may take, held while building.
#[derive(Debug, Args)]
pub(crate) struct SpaceBounds {
    /// The build cache takes no more than this: bytes, or percent of the file system; 0 for any
    /// amount [default: 100GB, or 80%]
    #[arg(long, env = "LONGSHORE_MAX_USED_SPACE", value_name = "SPACE")]
    pub(crate) max_used_space: Option<String>,
    /// So much of the build cache stays even where the disk is full [default: 10GB, or 10%]
    #[arg(long, env = "LONGSHORE_RESERVED_SPACE", value_name = "SPACE")]
    pub(crate) reserved_space: Option<String>,
    /// So much of the file system is left free; 0 for none [default: 20%]
    #[arg(long, env = "LONGSHORE_MIN_FREE_SPACE", value_name = "SPACE")]
    pub(crate) min_free_space: Option<String>,
}

/// How much of the history of builds is kept.
#[derive(Debug, Args)]
pub(crate) struct HistoryBounds {
    /// How many builds the history keeps; 0 records none [default: 100]
    #[arg(long, env = "LONGSHORE_HISTORY_BUILDS", value_name = "N")]
    pub(crate) history_builds: Option<usize>,
    /// How much the logs of these builds may take [default: 1GiB]
    #[arg(long, env = "LONGSHORE_HISTORY_BYTES", value_name = "BYTES")]
    pub(crate) history_bytes: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// An image, whose last build is meant, or a build's id
    #[arg(value_name = "IMAGE | BUILD")]
    pub(crate) what: String,
    /// Only this step: its number, or a part of its name
    pub(crate) step: Option<String>,
    /// `text`, or `json` with all that the keys are made of
    #[arg(long, default_value = "text")]
    pub(crate) format: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BuildHistoryCommand {
    /// List builds, the newest first
    Ls {
        /// Print ids only
        #[arg(short, long)]
        quiet: bool,
        /// `json`, `table`, or a template such as '{{.ID}}'
        #[arg(long)]
        format: Option<String>,
    },
    /// Print what the steps of a build wrote
    Logs {
        /// The build [default: the last one]
        build: Option<String>,
        /// Only this step: its number, or a part of its name
        step: Option<String>,
    },
    /// Print all that is known of a build, as JSON
    Inspect {
        /// The build [default: the last one]
        build: Option<String>,
    },
    /// Forget builds
    Rm {
        /// The builds
        #[arg(required_unless_present = "all")]
        builds: Vec<String>,
        /// All that do not run
        #[arg(short, long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The archive (plain or compressed), or - for standard input
    #[arg(value_name = "FILE | -")]
    pub(crate) file: String,
    /// Name of the image
    pub(crate) name: Option<String>,
    /// Apply a Dockerfile instruction to the image's configuration
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// A message for the image's history
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// The image's platform [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this name
    pub(crate) name: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// `json`, `table`, or a template such as '{{.ID}}'
    #[arg(long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// `json`, or a template such as '{{.Digest}}'
    #[arg(short, long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The image
    pub(crate) image: String,
    /// Print instructions whole
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// `json`, `table`, or a template such as '{{.CreatedBy}}'
    #[arg(long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The image
    pub(crate) source: String,
    /// Its further name
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// The images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// Remove an id with all its names; no error where an image is not there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep the layers until the next prune
    #[arg(long)]
    pub(crate) no_prune: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image
    pub(crate) image: String,
    /// Push every tag of the name
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Say nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image
    pub(crate) image: String,
    /// The platform of an image that has several [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Say nothing but the name
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) sandboxing: Sandboxing,
    /// The image, and a command in place of its own
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND [ARG…]]"
    )]
    pub(crate) image_and_command: Vec<String>,
    /// Remove the container when it ends (always so)
    #[arg(long)]
    pub(crate) rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; without a value it comes from the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Mount a directory or file, or a volume: [SOURCE | NAME:]TARGET[:ro]
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) volume: Vec<String>,
    /// Mount memory: TARGET[:rw,exec,size=BYTES,mode=MODE]
    #[arg(long, value_name = "SPEC")]
    pub(crate) tmpfs: Vec<String>,
    /// Mount: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "SPEC")]
    pub(crate) mount: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User: NAME | UID[:GROUP | :GID]
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Program in place of the image's entry point
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Network: default, host, none, isolated, pasta or slirp4netns
    #[arg(long, default_value = "default", value_name = "MODE")]
    pub(crate) network: String,
    /// How long it may run: 90s, 10m, or a number of seconds
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// The host's name inside
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Add a line to the hosts file; `host-gateway` is this machine's address
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Limit of memory and swap together, or -1 for no limit of swap [default: twice --memory]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Processors' worth of time
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub(crate) cpus: Option<f64>,
    /// Processor time in each period, microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Length of that period, microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// Relative weight
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// Processors that may be used
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// How many processes
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<i64>,
    /// A resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub(crate) ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// The image's files cannot be changed
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Run with all privileges
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Give a capability besides the usual ones, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// Pass signals on to the process
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) sig_proxy: bool,
    /// Run an init that reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// Pull first: always, missing or never
    #[arg(long, default_value = "missing")]
    pub(crate) pull: String,
    /// The platform of an image that has several
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Not there yet
    #[arg(short, long, hide = true)]
    pub(crate) detach: bool,
    /// Not there yet
    #[arg(short, long, hide = true)]
    pub(crate) publish: Vec<String>,
    /// Not there yet
    #[arg(long, hide = true)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS:PORT")]
    pub(crate) listen: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry [default: docker.io]
    pub(crate) server: Option<String>,
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password; better from standard input
    #[arg(short, long)]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry [default: docker.io]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// docker (with an OCI layout in it) or oci
    #[arg(long, default_value = "docker", value_enum)]
    pub(crate) format: ArchiveFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    Docker,
    Oci,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, plain or compressed [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove the build cache too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only build cache of this sort: until=24h (not used for so long; also without --all),
    /// type=regular, exec.cachemount, source.git.checkout or internal
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Of the build cache, remove what is worth least until it takes no more than this
    #[arg(long, visible_alias = "reserved-space", value_name = "SPACE")]
    pub(crate) keep_storage: Option<String>,
    /// The same, as the limit of builds is called
    #[arg(long, value_name = "SPACE", conflicts_with = "keep_storage")]
    pub(crate) max_used_space: Option<String>,
    /// Of the build cache, remove what is worth least until so much of the disk is free
    #[arg(long, value_name = "SPACE")]
    pub(crate) min_free_space: Option<String>,
    /// Do not ask (nothing is asked)
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Say what would be removed, and why
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    /// `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// `json` or `text`
    #[arg(long, default_value = "text")]
    pub(crate) format: String,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// `json` or a template
    #[arg(short, long)]
    pub(crate) format: Option<String>,
}
