//! Somebody else's OCI runtime (runc, crun, youki) in place of our own sandbox.
//!
//! ```text
//! supervisor ──clone(mounts, processes)──► the bundle is put together, then: runtime run ──► container
//! ```
//! The runtime is number 1 of a process namespace around the container's own: when it is killed, or
//! the supervisor is, the kernel kills all of it, whatever state the runtime keeps. Everything it
//! mounts lies in a file system in memory that only this mount namespace has; sources of mounts
//! were opened before, by descriptor, so the runtime looks up no path of the host's.

mod config;
mod profile;

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, stat};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Signal, set_parent_process_death_signal, setsid, umask};
use serde::Deserialize;

use crate::Runner;
use crate::cancel::Cancel;
use crate::cgroup;
use crate::dev::Terminal;
use crate::error::RunError;
use crate::exec;
use crate::io::ProcessIo;
use crate::isolation::Isolation;
use crate::mountfd::{NOSUID_NODEV_NOEXEC, attach, new_file_system};
use crate::plan::{Doing as _, Event, Failure, Note};
use crate::privileges;
use crate::rootpath::Missing;
use crate::runner::SandboxRunner;
use crate::sandbox::{Builder, MovableTrees, Ready, Staging, Stdio};
use crate::spec::ProcessSpec;
use crate::status::{Ended, ExitStatus};
use crate::sys;
use crate::user::Identity;
use config::{BoundMount, Container};

/// Where the bundle is, in the runtime's own mount namespace; nothing there is needed by it.
const PLACE: &str = "/run";
/// As much as is read of what a runtime logged.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Runs processes with an OCI runtime: slower, and without an `init`, but somebody else's.
#[derive(Debug)]
pub struct OciRunner {
    sandbox: SandboxRunner,
    runtime: String,
}

impl OciRunner {
    /// Sets it up for a runtime's program, in the namespaces that `sandbox` has.
    ///
    /// # Errors
    /// When there is no such program, or namespaces cannot be had here.
    pub fn new(sandbox: SandboxRunner, runtime: &Path) -> Result<Self, RunError> {
        let wrong = |reason: String| RunError::Spec {
            field: "OCI runtime".to_owned(),
            reason,
        };
        let bare = [Isolation::Chroot, Isolation::InPlace].contains(&sandbox.isolation());
        if bare || sandbox.shares_processes() {
            let reason =
                "an OCI runtime needs namespaces, mounts and a `/proc` of its own".to_owned();
            return Err(RunError::NoIsolation { reason });
        }
        let found = fs::canonicalize(runtime)
            .map_err(|error| wrong(format!("`{}`: {error}", runtime.display())))?;
        if !found.is_file() {
            return Err(wrong(format!("`{}` is no program", runtime.display())));
        }
        let path = found.into_os_string().into_string();
        Ok(Self {
            sandbox,
            runtime: path.map_err(|_| wrong("its path is not UTF-8".to_owned()))?,
        })
    }
}

impl Runner for OciRunner {
    fn run(
        &self,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: &Cancel,
    ) -> Result<ExitStatus, RunError> {
        if spec.init {
            return Err(RunError::Spec {
                field: "init".to_owned(),
                reason: "an OCI runtime brings none".to_owned(),
            });
        }
        self.sandbox.run_by(spec, io, cancel, Some(&self.runtime))
    }
}

/// What the stage knows of the container before it is made.
pub(crate) struct Bundle {
    /// Unique on this machine.
    name: String,
    /// The path of the container's control group, in the run's own.
    group: String,
    cgroup_namespace: bool,
    log: OwnedFd,
}

impl Bundle {
    pub(crate) fn new(run: &str, cgroup_namespace: bool) -> io::Result<Self> {
        let name = cgroup::group_name(run);
        Ok(Self {
            group: format!("/{name}/container"),
            name,
            cgroup_namespace,
            log: crate::planner::file_in_memory(b"")?,
        })
    }

    /// The code of a runtime that could not start the process is the runtime's own.
    pub(crate) fn explain(
        &self,
        event: Result<Event, Failure>,
        command: &str,
    ) -> Result<Event, Failure> {
        let failed = matches!(&event, Ok(Event::Ended { ended, .. }) if *ended != Ended::Code(0));
        let failure = match failed {
            true => self.failure(command).doing("read the runtime's log")?,
            false => None,
        };
        failure.map_or(event, Err)
    }

    /// Why the runtime could not start the process, if that is so.
    fn failure(&self, command: &str) -> io::Result<Option<Failure>> {
        let mut log = File::from(self.log.try_clone()?);
        log.rewind()?;
        let mut text = String::new();
        log.take(LOG_BYTES_MAX).read_to_string(&mut text)?;
        Ok(failure_of(&text, command))
    }
}

#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
}

/// The last error of a log in lines of JSON.
fn failure_of(log: &str, command: &str) -> Option<Failure> {
    let lines = log.lines().rev();
    let mut errors = lines
        .filter_map(|line| serde_json::from_str::<LogLine>(line).ok())
        .filter(|line| line.level == "error" || line.level == "fatal");
    let message = errors.next()?.msg;
    let command = command.to_owned();
    let is_exec = message.contains("exec");
    let absent = ["executable file not found", "no such file or directory"];
    let reason = message.clone();
    Some(if is_exec && absent.iter().any(|it| message.contains(it)) {
        Failure::NotFound { command, reason }
    } else if is_exec && (message.contains("permission denied") || message.contains("exec format"))
    {
        Failure::NotExecutable { command, reason }
    } else {
        Failure::Setup {
            action: "run the OCI runtime".to_owned(),
            path: None,
            hint: Some(message),
            errno: libc::EIO,
        }
    })
}

/// Puts the bundle together and becomes the runtime.
pub(crate) fn enter(ready: Ready, runtime: &str, description: &Bundle) -> ! {
    let (builder, movable) = Builder::new(ready);
    let Err(failure) = build(&builder, movable, runtime, description);
    // If that fails too, the supervisor is gone, and nobody is left to tell.
    let _gone = builder.channel.send(&Note::Failed(failure), &[]);
    sys::exit_now(125)
}

fn build(
    it: &Builder,
    mut trees: MovableTrees,
    runtime: &str,
    description: &Bundle,
) -> Result<Infallible, Failure> {
    it.await_go()?;
    umask(Mode::empty());
    it.enter_network(&mut trees)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .doing("make the mounts private")?;
    // Before anything is hidden.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = openat(CWD, runtime, flags, Mode::empty()).doing_at("open", runtime)?;
    let proc = new_file_system("proc", &[], NOSUID_NODEV_NOEXEC).doing_at("mount", "/proc")?;
    attach_at_path(&proc, "/proc")?;
    let staging = Staging::at(PLACE)?;
    let identity = bundle(it, &staging, &mut trees, description)?;

    umask(Mode::from_raw_mode(0o022));
    setsid().doing("start a session")?;
    open_stdio(it, &identity, &mut trees)?.install()?;
    sys::close_on_exec_from(3).doing("close descriptors")?;
    let log = rustix::io::dup(&description.log).doing("keep the log open")?;
    set_parent_process_death_signal(Some(Signal::KILL)).doing("tie the process to its parent")?;
    sys::reset_signals();
    let log_path = format!("/proc/self/fd/{}", log.as_raw_fd());
    let arguments = [
        runtime,
        "--root",
        "/run/state",
        "--log",
        &log_path,
        "--log-format",
        "json",
        "run",
        "--bundle",
        "/run/bundle",
        &description.name,
    ]
    .map(str::to_owned);
    let env = [format!("PATH={}", crate::spec::PATH_DEFAULT)];
    let program = path_of(runtime, &program).doing_at("look at", runtime)?;
    let action = "run the OCI runtime";
    Err(exec::execute_tool(&program, &arguments, &env, action))
}

/// A script's interpreter opens it by its path, when the descriptor is closed already; but what is
/// mounted here may hide the path.
fn path_of(runtime: &str, program: &OwnedFd) -> io::Result<String> {
    let opened = fstat(program)?;
    let is_seen =
        stat(runtime).is_ok_and(|it| (it.st_dev, it.st_ino) == (opened.st_dev, opened.st_ino));
    Ok(match is_seen {
        true => runtime.to_owned(),
        false => format!("/proc/self/fd/{}", program.as_raw_fd()),
    })
}

/// A runtime in the foreground makes a terminal in the container and copies between that and ours.
fn open_stdio(
    it: &Builder,
    identity: &Identity,
    trees: &mut MovableTrees,
) -> Result<Stdio, Failure> {
    let open = |path: &str| {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).doing_at("open", path)
    };
    let Some(window) = it.plan.terminal else {
        return it.open_streams(identity, trees, || open("/dev/null"));
    };
    let terminal = Terminal::of(open("/dev/ptmx")?, window).doing("make a terminal")?;
    it.hand_over(terminal)
}

fn attach_at_path(mount: &OwnedFd, path: &str) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = openat(CWD, path, flags, Mode::empty()).doing_at("open", path)?;
    attach(mount.as_fd(), place.as_fd()).doing_at("mount on", path)
}

/// `bundle/{config.json,rootfs}`, `state`, and a mount each for what is bound into the container.
fn bundle(
    it: &Builder,
    staging: &Staging,
    trees: &mut MovableTrees,
    description: &Bundle,
) -> Result<Identity, Failure> {
    for name in ["bundle", "bundle/rootfs", "state", "sources"] {
        staging.directory(name)?;
    }
    attach_at_path(&it.rootfs, "/run/bundle/rootfs")?;
    it.clear_locked_flags();
    let root = it.root();
    let identity = it.resolve_user(root)?;
    for name in ["proc", "dev", "sys"] {
        it.system_place(root, name)?;
    }
    let mut bound = Vec::new();
    for (index, (target, tree)) in it.mounts(staging, trees)?.into_iter().enumerate() {
        let stat = fstat(&tree).doing_at("look at", &target)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let missing = match is_directory {
            true => Missing::Directories,
            false => Missing::File,
        };
        it.place(root, &target, missing)?;
        let source = expose(staging, &tree, &format!("sources/{index}"), is_directory)?;
        bound.push(BoundMount { target, source });
    }
    let sys = match trees.sys.take() {
        Some(tree) => Some(expose(staging, &tree, "sys", true)?),
        None => None,
    };
    it.make_cwd(root, &identity)?;
    let config = Container {
        plan: &it.plan,
        rlimits: privileges::reachable_rlimits(&it.plan.rlimits, |warning| it.warn(warning)),
        env: it.environment(&identity),
        identity: &identity,
        bound,
        sys,
        group: description.group.clone(),
        cgroup_namespace: description.cgroup_namespace,
    };
    let what = "write the runtime's configuration";
    let spec = config.to_spec().map_err(io::Error::other).doing(what)?;
    spec.save("/run/bundle/config.json")
        .map_err(io::Error::other)
        .doing(what)?;
    Ok(identity)
}

/// Gives a detached mount a path, for the runtime to bind from.
fn expose(
    staging: &Staging,
    tree: &OwnedFd,
    name: &str,
    is_directory: bool,
) -> Result<String, Failure> {
    let path = format!("{PLACE}/{name}");
    if is_directory {
        staging.directory(name)?;
    } else {
        fs::write(&path, "").doing_at("make", &path)?;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = openat(CWD, path.as_str(), flags, Mode::empty()).doing_at("open", &path)?;
    attach(tree.as_fd(), place.as_fd()).doing_at("mount on", &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_logs_is_understood() {
        let of = |message: &str| {
            let line = serde_json::json!({ "level": "error", "msg": message, "time": "x" });
            let log = format!("{{\"level\":\"warning\",\"msg\":\"w\"}}\nnot json\n{line}\n");
            failure_of(&log, "cmd")
        };
        assert!(matches!(
            of(
                "runc run failed: unable to start container process: exec: \"x\": executable file not found in $PATH"
            ),
            Some(Failure::NotFound { .. })
        ));
        assert!(matches!(
            of("unable to start container process: exec: \"/x\": permission denied"),
            Some(Failure::NotExecutable { .. })
        ));
        assert!(matches!(
            of("error mounting \"proc\" to rootfs"),
            Some(Failure::Setup { .. })
        ));
        assert_eq!(
            failure_of("{\"level\":\"info\",\"msg\":\"x\"}\n", "cmd"),
            None
        );
    }
}
