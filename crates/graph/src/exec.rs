//! Running a process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{PathSelector, Selection};

/// A process, its environment and its mounts. Mount 0 is always the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment in order; later names win.
    pub env: Vec<(String, String)>,
    /// The working directory, absolute.
    pub cwd: String,
    /// `USER` as written; empty for root.
    pub user: String,
    /// The host's name inside; empty for the default.
    pub hostname: String,
    /// Lines for the hosts file: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Proxy variables: set for the process, part of no key.
    pub proxy_env: BTreeMap<String, String>,
    /// The mounts; the first is the root, at `/`.
    pub mounts: Vec<Mount>,
    /// The network that it sees.
    pub network: NetworkMode,
    /// What it may do.
    pub security: SecurityMode,
    /// `--shm-size`, bytes.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// Limits on what it may use; part of no key.
    pub resources: Resources,
}

/// What is mounted where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, absolute.
    pub target: String,
    /// Which of the vertex's inputs holds the files; `None` is an empty tree.
    pub input: Option<usize>,
    /// The path within the input that is mounted; empty for all of it.
    pub selector: String,
    /// Writes are refused.
    pub readonly: bool,
    /// Which output keeps the writes; `None` discards them.
    pub output: Option<u32>,
    /// What sort of mount.
    pub kind: MountKind,
}

/// The sorts of mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// An input's files.
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Its identity.
        id: String,
        /// Who else may use it at the same time.
        sharing: CacheSharing,
        /// The mode of a new one.
        mode: u32,
        /// The owner of a new one.
        owner: (u32, u32),
    },
    /// Memory.
    Tmpfs {
        /// The limit in bytes.
        size_bytes: Option<u64>,
    },
    /// A secret's value as a file or variable.
    Secret(SecretMount),
    /// An ssh agent's socket.
    Ssh(SshMount),
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheSharing {
    /// Everyone, one directory.
    #[default]
    Shared,
    /// A directory of its own while another holds it.
    Private,
    /// One after the other.
    Locked,
}

/// A secret's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// The variable that holds it, where it is asked for as one.
    pub env: Option<String>,
    /// Whether it is mounted as a file.
    pub file: bool,
    /// Fail where there is no such secret.
    pub required: bool,
    /// The file's mode.
    pub mode: u32,
    /// The file's owner.
    pub owner: (u32, u32),
}

/// An ssh agent's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshMount {
    /// Which agent.
    pub id: String,
    /// Fail where there is none.
    pub required: bool,
    /// The socket's mode.
    pub mode: u32,
    /// The socket's owner.
    pub owner: (u32, u32),
}

/// The network that a process sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NetworkMode {
    /// Whatever the engine gives by default.
    #[default]
    Default,
    /// The host's own.
    Host,
    /// Loopback alone.
    None,
}

/// What a process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SecurityMode {
    /// The default capability set, seccomp filter and masks.
    #[default]
    Sandbox,
    /// Everything that the engine itself may do.
    Insecure,
}

/// One resource limit of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// The soft limit.
    pub soft: i64,
    /// The hard limit.
    pub hard: i64,
}

/// Limits on what a step may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory_bytes: Option<i64>,
    /// Memory and swap, bytes; -1 is no limit.
    pub memory_swap_bytes: Option<i64>,
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period_us: Option<u64>,
    /// Microseconds in each period.
    pub cpu_quota_us: Option<i64>,
    /// `0-3,5`.
    pub cpuset_cpus: String,
    /// `0-1`.
    pub cpuset_mems: String,
}

impl Exec {
    /// How input `index` counts: the root and writable binds by identity, read-only
    /// binds by the content of what is mounted.
    pub(crate) fn selection(&self, index: usize) -> Selection {
        let mut paths = Vec::new();
        for mount in self
            .mounts
            .iter()
            .filter(|mount| mount.input == Some(index))
        {
            if mount.target == "/" || mount.output.is_some() {
                return Selection::Identity;
            }
            paths.push(PathSelector {
                path: if mount.selector.is_empty() {
                    "/".to_owned()
                } else {
                    mount.selector.clone()
                },
                follow_links: true,
                directory_contents_only: true,
                ..PathSelector::default()
            });
        }
        if paths.is_empty() {
            Selection::Identity
        } else {
            Selection::Content(paths)
        }
    }

    pub(crate) fn output_count(&self) -> u32 {
        let highest = self.mounts.iter().filter_map(|mount| mount.output).max();
        highest.map_or(1, |highest| highest + 1)
    }
}
