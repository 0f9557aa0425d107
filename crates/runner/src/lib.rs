//! One process in a sandbox.
//!
//! A [`Runner`] takes a [`ProcessSpec`] (what to run, around which root file system), a
//! [`ProcessIo`] (where its bytes go) and a [`Cancel`] handle, and returns once the process *and
//! everything it started* are gone. [`SandboxRunner`] does so with Linux namespaces and nothing
//! else: no daemon, no helper program, no C library.
//!
//! ```no_run
//! use longshore_runner::{Cancel, ProcessIo, ProcessSpec, Rootfs, Runner as _, SandboxRunner};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // The sandbox is built by a second copy of this program, which never gets past this line.
//!     longshore_runner::init_if_requested();
//!     let runner = SandboxRunner::new(&Default::default())?;
//!     let spec = ProcessSpec::new(Rootfs::Path("/srv/image".into()), ["sh", "-c", "echo hello"]);
//!     let io = ProcessIo::to_sink(|stream, bytes| drop((stream, bytes.len())));
//!     let status = runner.run(spec, io, &Cancel::new()?)?;
//!     assert!(status.success());
//!     Ok(())
//! }
//! ```
//!
//! ```text
//! caller (many threads)          checks the spec, opens what is outside          planner, runner
//!   └─ supervisor (one thread)   control group, watches, clears up               supervisor
//!        └─ sandbox (pid 1)      namespaces, mounts, devices, filter, user        sandbox
//!             └─ execve          the command
//! ```

mod cancel;
mod capabilities;
mod cgroup;
mod channel;
mod chroot;
pub mod conformance;
mod connection;
mod connector;
mod dev;
mod devices;
mod error;
mod etc;
mod exec;
mod executable;
mod gateway;
mod in_place;
mod io;
mod isolation;
mod mountfd;
mod network;
mod networks;
mod oci;
mod orphans;
mod placed;
mod plan;
mod planner;
mod privileges;
mod probe;
mod probing;
mod reaper;
mod rootpath;
mod runner;
mod sandbox;
mod seccomp;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
mod spec;
mod status;
mod stubs;
mod supervisor;
mod sys;
mod user;
mod userns;

pub use cancel::Cancel;
pub use capabilities::{Capabilities, UnknownCapability, may_mount};
pub use connection::{Connection, Network, NetworkHelper, UnknownNetwork};
pub use error::{ErrorClass, RunError};
pub use in_place::kept_in_place;
pub use io::{Input, Output, OutputSink, ProcessIo, Stream, WindowSize};
pub use isolation::{Isolation, UnknownIsolation};
pub use oci::OciRunner;
pub use probe::{Check, ControlGroups, Layout, Probe, SubordinateIds, find_program};
pub use runner::{RunnerOptions, SandboxRunner};
pub use spec::{
    BindSource, ExtraHost, HOSTNAME_DEFAULT, HostAddress, Limits, Mount, MountSource, PATH_DEFAULT,
    ProcessSpec, Refused, Resolver, ResolverConfig, Resource, Rlimit, Rootfs, SHM_BYTES_DEFAULT,
    Secret, Security, UnknownResource,
};
pub use status::{Ended, ExitStatus, Usage, Warning};
pub use supervisor::init_if_requested;
pub use userns::{Mapping, UserNamespaceError, become_root_in_user_namespace};

/// Runs processes in sandboxes.
///
/// # Contract
/// - `run` blocks its thread until the process and every process it started are gone, whatever
///   they do to stay; it is called from a thread that may block, many at once.
/// - A root file system serves one run at a time: taking mount points away from one run would take
///   them from another.
/// - Output handed to a sink is complete and in order per stream when `run` returns.
/// - However it ends (exit, error, cancel, `kill -9` of the caller), nothing is left: no process,
///   no mount outside the sandbox, no control group, and in the root file system no file or
///   directory that was made only to mount something on it.
/// - Cancelling kills everything within a second and makes `run` return
///   [`RunError::Cancelled`].
/// - An exit code, whichever, is an `Ok`.
pub trait Runner: Send + Sync {
    /// Runs one process to its end.
    ///
    /// # Errors
    /// When it could not be started, was cancelled, or its end is not known.
    fn run(
        &self,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: &Cancel,
    ) -> Result<ExitStatus, RunError>;
}
