//! What to run and around what: the values a caller hands to a [`Runner`](crate::Runner).
//!
//! Everything here is data. Nothing is looked at on disk before the process is started, and names
//! that come from an image (`user`, `cwd`, mount targets) are only ever resolved inside the root
//! file system.

use std::net::{AddrParseError, IpAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::connection::Network;

/// The search path used when the environment names none, as containerd's and Docker's.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The host name of a step that asks for none, as BuildKit's.
pub const HOSTNAME_DEFAULT: &str = "buildkitsandbox";
/// The size of `/dev/shm` when none is asked for: 64 MiB, as Docker's.
pub const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// One process to run in a sandbox.
#[derive(Debug)]
pub struct ProcessSpec {
    /// The root file system. It is never mounted visibly outside the sandbox.
    pub rootfs: Rootfs,
    /// The argument vector; the first word is looked up in the *sandbox's* `PATH`.
    pub args: Vec<String>,
    /// `NAME=value` in order; the last of equal names wins. `PATH`, `HOME` and (with a terminal)
    /// `TERM` are added when absent.
    pub env: Vec<String>,
    /// The working directory, absolute; created when missing.
    pub cwd: String,
    /// A Dockerfile `USER`: `name`, `uid`, `name:group`, `uid:gid`, … or empty for root.
    pub user: String,
    /// The host name; empty for [`HOSTNAME_DEFAULT`].
    pub hostname: String,
    /// Lines added to `/etc/hosts`.
    pub extra_hosts: Vec<ExtraHost>,
    /// Mounts besides the standard ones. Of equal targets the last wins; parents go first.
    pub mounts: Vec<Mount>,
    /// Which network the process sees.
    pub network: Network,
    /// How much the process may do to the kernel.
    pub security: Security,
    /// What it may do as root, with [`Security::Sandbox`].
    pub capabilities: Capabilities,
    /// Mount the root file system read-only.
    pub readonly_rootfs: bool,
    /// Give the process a terminal of its own; its output then is one stream.
    pub terminal: bool,
    /// Resource limits of the process; those not named are inherited.
    pub rlimits: Vec<Rlimit>,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Control group limits, applied as far as the machine allows.
    pub limits: Limits,
    /// Where `/etc/resolv.conf` comes from.
    pub resolver: Resolver,
    /// Put a small reaper in front of the process, so that the process is not number 1.
    pub init: bool,
    /// The file mode creation mask.
    pub umask: u32,
    /// How long it may run; then all of it is killed.
    pub timeout: Option<Duration>,
}

impl ProcessSpec {
    /// A spec with BuildKit's values for everything but the root file system and the arguments.
    #[must_use]
    pub fn new<Arg: Into<String>>(rootfs: Rootfs, args: impl IntoIterator<Item = Arg>) -> Self {
        Self {
            rootfs,
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: String::new(),
            extra_hosts: Vec::new(),
            mounts: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            capabilities: Capabilities::default(),
            readonly_rootfs: false,
            terminal: false,
            rlimits: Vec::new(),
            shm_bytes: SHM_BYTES_DEFAULT,
            limits: Limits::default(),
            resolver: Resolver::Host,
            init: false,
            umask: 0o022,
            timeout: None,
        }
    }
}

/// The root file system of a sandbox.
#[derive(Debug)]
pub enum Rootfs {
    /// A directory.
    Path(PathBuf),
    /// A detached mount (`fsmount`, `open_tree`). It is moved into the sandbox and goes with it.
    Mount(OwnedFd),
}

/// A mount in the sandbox.
#[derive(Debug)]
pub struct Mount {
    /// Absolute path in the sandbox; missing parts are created, and taken away again afterwards.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
}

/// What a [`Mount`] shows.
#[derive(Debug)]
pub enum MountSource {
    /// A file or directory from outside.
    Bind {
        /// Where it is.
        source: BindSource,
        /// A path inside the source, resolved without ever leaving it.
        subpath: Option<PathBuf>,
        /// No writes through this mount, nor through mounts below it.
        readonly: bool,
        /// Take along the mounts below the source.
        recursive: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Its size limit in bytes; the kernel's default (half of memory) when absent.
        size_bytes: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
        /// It stays empty.
        readonly: bool,
        /// What is not done in it.
        refused: Refused,
    },
    /// The root file system's own directory, which can be written to where the root file system cannot.
    Own {
        /// Writes are refused.
        readonly: bool,
    },
    /// A read-only file whose bytes never touch a disk: secrets, here-document scripts.
    File {
        /// The bytes.
        contents: Secret,
        /// File mode; without an execute bit the mount is `noexec`.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What a mount does not let programs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// To be executed.
    pub exec: bool,
    /// To become who they belong to.
    pub suid: bool,
    /// To open device nodes.
    pub devices: bool,
}

impl Refused {
    /// As in a build's mounts of memory.
    pub const SUID: Self = Self {
        exec: false,
        suid: true,
        devices: false,
    };
    /// As in Docker's containers.
    pub const ALL: Self = Self {
        exec: true,
        suid: true,
        devices: true,
    };
}

/// Bytes that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Where a bind mount's file or directory is.
#[derive(Debug)]
pub enum BindSource {
    /// A path outside the sandbox, trusted: links in it are followed.
    Path(PathBuf),
    /// As `Path`, but a file or directory that is the caller's alone and on the root file system's
    /// disk: where nothing can be mounted, it is moved into the root file system and back. Whoever
    /// is killed meanwhile loses it.
    Loan(PathBuf),
    /// An open file or directory (`O_PATH` is enough) of the caller's mount namespace.
    Fd(OwnedFd),
    /// A detached mount, moved into the sandbox.
    Mount(OwnedFd),
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: HostAddress,
}

/// The address of an [`ExtraHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAddress {
    /// This one.
    Ip(IpAddr),
    /// Where the machine itself is reached from the process's network.
    Gateway,
}

impl HostAddress {
    /// The word for [`Self::Gateway`].
    pub const GATEWAY: &'static str = "host-gateway";
}

impl FromStr for HostAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            Self::GATEWAY => Ok(Self::Gateway),
            ip => ip.parse().map(Self::Ip),
        }
    }
}

/// How much a process may ask of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// BuildKit's sandbox: 14 capabilities, Docker's system call filter, masked paths, few devices.
    Sandbox,
    /// `--security=insecure`: every capability of the caller, no filter, no masks, all devices.
    Insecure,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which resource.
    pub resource: Resource,
    /// The soft limit; `None` for unlimited.
    pub soft: Option<u64>,
    /// The hard limit; `None` for unlimited.
    pub hard: Option<u64>,
}

/// A resource that `setrlimit` bounds, by its `--ulimit` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are getrlimit(2)'s")]
pub enum Resource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
    As,
}

impl Resource {
    const NAMES: [(&'static str, Self); 16] = [
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
        ("as", Self::As),
    ];

    /// The `--ulimit` name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, it)| *it == self)
            .map_or("", |(name, _)| name)
    }
}

/// A `--ulimit` name that is none.
#[derive(Debug, thiserror::Error)]
#[error("unknown resource limit `{0}`")]
pub struct UnknownResource(pub String);

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(name: &str) -> Result<Self, UnknownResource> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, it)| *it)
            .ok_or_else(|| UnknownResource(name.to_owned()))
    }
}

/// Control group limits. Each is best effort: one that cannot be set is a warning of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory plus swap in bytes; `-1` for unlimited swap, twice the memory when absent, as far as the
    /// kernel can hold that.
    pub memory_swap_bytes: Option<i64>,
    /// CPU time per period, microseconds.
    pub cpu_quota_us: Option<i64>,
    /// The period of `cpu_quota_us`; 100 ms when absent.
    pub cpu_period_us: Option<u64>,
    /// Relative weight, cgroup v1 scale (2 … 262144, 1024 is normal).
    pub cpu_shares: Option<u64>,
    /// CPUs the process may use, as in `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes the process may use.
    pub cpuset_mems: Option<String>,
    /// How many processes and threads there may be.
    pub pids_max: Option<u64>,
    /// The group to make the process's own in: a path from the top of each hierarchy, whose
    /// groups are made where they are missing; the caller's group when absent.
    pub parent: Option<String>,
}

/// Where `/etc/resolv.conf` comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolver {
    /// The host's, corrected for the sandbox's network as BuildKit does.
    Host,
    /// These settings; what is empty is taken from the host's file.
    Custom(ResolverConfig),
    /// The root file system's own file.
    Image,
}

/// Resolver settings that win over the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverConfig {
    /// `nameserver` lines.
    pub nameservers: Vec<String>,
    /// The `search` line.
    pub search: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}
