//! What the caller tells the stage, and what the stage tells the caller.
//!
//! ```text
//! caller ──── Plan (in a file), descriptors ───► supervisor ◄── Note, descriptors ── sandbox
//!        ──── Command ─────────────────────────►            ─── Go ────────────────►
//!        ◄─── Event ────────────────────────────
//! ```
//! Host paths never cross: whatever the sandbox gets from outside, it gets as a descriptor.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::connection::{Connection, Network};
use crate::error::RunError;
use crate::probe::{Check, Probe};
use crate::spec::{Limits, Refused, Rlimit, Security};
use crate::status::{Ended, Usage, Warning};

/// `argv[0]` of the stage.
pub(crate) const STAGE_NAME: &str = "longshore-runner-init";

/// Its only argument.
pub(crate) const STAGE_ARGUMENT: &str = "--longshore-runner-init";

/// The place of a descriptor among those sent along.
pub(crate) type FdIndex = usize;

/// A [`ProcessSpec`](crate::ProcessSpec) that was checked, with descriptors for what it opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) args: Vec<String>,
    /// Without duplicates, with `PATH`, without `HOME` if the caller gave none.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) hostname: String,
    pub(crate) hosts: String,
    pub(crate) resolv_conf: Option<String>,
    pub(crate) rootfs: Tree,
    pub(crate) mounts: Vec<PlannedMount>,
    pub(crate) network: Network,
    /// The network namespace to enter, for any network but the caller's.
    pub(crate) network_namespace: Option<FdIndex>,
    pub(crate) security: Security,
    pub(crate) capabilities: Capabilities,
    pub(crate) readonly_rootfs: bool,
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) shm_bytes: u64,
    pub(crate) limits: Limits,
    pub(crate) init: bool,
    pub(crate) umask: u32,
    /// Standard input, output and error; `None` for the sandbox's `/dev/null`.
    pub(crate) stdio: [Option<Stdio>; 3],
    pub(crate) way: Way,
    /// With the caller's `/proc` and processes, where no other `/proc` can be mounted.
    pub(crate) shares_processes: bool,
    /// The OCI runtime that runs the process, if not we.
    pub(crate) oci_runtime: Option<String>,
    pub(crate) seccomp: Option<FdIndex>,
    pub(crate) device_filter: Option<FdIndex>,
}

/// What is around the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    #[default]
    Namespaces,
    /// Another root directory, without namespaces and mounts.
    Chroot,
    /// Nothing: the root file system is this process's own.
    InPlace,
}

/// A directory (or file) from outside.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Tree {
    /// To be cloned from the caller's mount namespace.
    Clone(FdIndex),
    /// A detached mount, to be moved.
    Move(FdIndex),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlannedMount {
    pub(crate) target: String,
    pub(crate) source: PlannedSource,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PlannedSource {
    Bind {
        tree: Tree,
        subpath: Option<String>,
        readonly: bool,
        recursive: bool,
        /// It may be moved to its target where it cannot be mounted there.
        lent: bool,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
        readonly: bool,
        refused: Refused,
    },
    Own {
        readonly: bool,
    },
    File {
        contents: FdIndex,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Stdio {
    pub(crate) fd: FdIndex,
    /// Made for this run, so it may be given to the process's user.
    pub(crate) ours: bool,
}

/// What the stage is started for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Descriptors; more may be to come. The first of all is the file with the [`Plan`].
    Run { fds_to_come: usize },
    /// Try out what this machine can do, in this directory.
    Probe { scratch: PathBuf },
    /// Try to mount a fresh `/proc`.
    TryProc,
    /// Make a network and keep it connected by this program until the channel is closed.
    Connect {
        program: PathBuf,
        connection: Connection,
    },
}

/// Caller to supervisor. Closing the channel kills.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Kill,
    Signal(i32),
}

/// Supervisor to caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// With the terminal's other side.
    Terminal,
    Failed(Failure),
    Probed(Box<Probe>),
    TriedProc(Check),
    /// With the network's namespace.
    Connected,
    /// The program that connected the network ended by itself.
    Disconnected,
    Ended {
        ended: Ended,
        oom: bool,
        warnings: Vec<Warning>,
        usage: Usage,
    },
}

/// Sandbox to supervisor. The channel closes when the process is executed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// With the directory the stub was made in.
    Stub(Stub),
    /// With the terminal's other side.
    Terminal,
    Warning(Warning),
    Failed(Failure),
}

/// Supervisor to sandbox: what had to be done to the new process from outside is done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go;

/// A file or directory that was made only to mount something on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stub {
    pub(crate) name: Vec<u8>,
    pub(crate) directory: bool,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The parent's times before.
    pub(crate) accessed: (i64, i64),
    pub(crate) modified: (i64, i64),
}

/// A [`RunError`] that can travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    Spec {
        field: String,
        reason: String,
    },
    User {
        user: String,
        reason: String,
    },
    NotFound {
        command: String,
        reason: String,
    },
    NotExecutable {
        command: String,
        reason: String,
    },
    Setup {
        action: String,
        path: Option<PathBuf>,
        hint: Option<String>,
        errno: i32,
    },
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Spec { field, reason } => Self::Spec { field, reason },
            Failure::User { user, reason } => Self::User { user, reason },
            Failure::NotFound { command, reason } => Self::NotFound { command, reason },
            Failure::NotExecutable { command, reason } => Self::NotExecutable { command, reason },
            Failure::Setup {
                action,
                path,
                hint,
                errno,
            } => {
                let source = io::Error::from_raw_os_error(errno);
                Self::Setup {
                    action,
                    path,
                    hint,
                    source,
                }
            }
        }
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    fn doing(self, action: &str) -> Result<T, Failure>;
    fn doing_at(self, action: &str, path: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: &str) -> Result<T, Failure> {
        self.map_err(|error| failed(action, None, error.into()))
    }

    fn doing_at(self, action: &str, path: &str) -> Result<T, Failure> {
        self.map_err(|error| failed(action, Some(path.into()), error.into()))
    }
}

fn failed(action: &str, path: Option<PathBuf>, error: io::Error) -> Failure {
    let action = action.to_owned();
    match error.raw_os_error() {
        Some(errno) => Failure::Setup {
            action,
            path,
            hint: None,
            errno,
        },
        // Not the kernel's: the text is all there is.
        None => Failure::Setup {
            action,
            path,
            hint: Some(error.to_string()),
            errno: libc::EIO,
        },
    }
}
