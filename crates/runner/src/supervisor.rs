//! The first stage: a single-threaded copy of the caller's program that makes the sandbox's first
//! process, waits for it, and clears up after it, also when the caller is gone.
//!
//! ```text
//! caller ──spawn──► supervisor ──clone3(new namespaces)──► sandbox ──execve──► the process, pid 1
//! ```
//! The supervisor stays outside: in the caller's namespaces and control group. When its channel to
//! the caller closes, it kills the sandbox; when it dies itself, the kernel does
//! (`PR_SET_PDEATHSIG`). When the sandbox's first process ends, by whatever, the kernel kills
//! everything else in its process namespace.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, setsid, waitpid,
};

use crate::cgroup::{self, Groups, Hierarchies};
use crate::channel::{Channel, Received};
use crate::chroot::Furniture;
use crate::connection::{Connection, Network};
use crate::connector;
use crate::mountfd::{NOSUID_NODEV_NOEXEC, clone_tree, restrict};
use crate::oci;
use crate::orphans;
use crate::plan::{
    Command, Doing as _, Event, Failure, FdIndex, Go, Note, Plan, PlannedSource, Request,
    STAGE_ARGUMENT, STAGE_NAME, Stub, Tree, Way,
};
use crate::probing;
use crate::rootpath::Root;
use crate::sandbox::{self, Cgroups, OwnNetwork, Ready};
use crate::spec::Security;
use crate::status::{Ended, Warning};
use crate::stubs;
use crate::sys::{self, Cloned};
use crate::userns;

/// Must be called first thing in `main` of every program that uses
/// [`SandboxRunner`](crate::SandboxRunner).
///
/// The runner starts its program a second time to build the sandbox; in that copy this function
/// does so and never returns. In all others it returns at once.
#[expect(clippy::exit, reason = "this process exists for nothing else")]
pub fn init_if_requested() {
    if !std::env::args_os().take(2).eq([STAGE_NAME, STAGE_ARGUMENT]) {
        return;
    }
    match channel_to_caller().and_then(|channel| supervise(&channel)) {
        Ok(()) => std::process::exit(0),
        Err(_) => std::process::exit(125),
    }
}

fn channel_to_caller() -> io::Result<Channel> {
    Ok(Channel::from_fd(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Errors here are of the channel itself; everything else is sent through it.
fn supervise(channel: &Channel) -> io::Result<()> {
    let event = match run(channel) {
        Ok(event) => event,
        Err(failure) => Event::Failed(failure),
    };
    channel.send(&event, &[])
}

fn run(channel: &Channel) -> Result<Event, Failure> {
    match receive_request(channel).doing("receive the plan")? {
        Requested::Probe(scratch) => Ok(Event::Probed(Box::new(probing::probe(&scratch)))),
        Requested::TryProc => Ok(Event::TriedProc(probing::fresh_proc())),
        Requested::Connect(program, connection) => {
            connector::serve(channel, &program, connection).map(|()| Event::Disconnected)
        }
        Requested::Run(plan, fds) => run_plan(channel, *plan, fds),
    }
}

enum Requested {
    Run(Box<Plan>, Vec<Option<OwnedFd>>),
    Probe(PathBuf),
    TryProc,
    Connect(PathBuf, Connection),
}

fn run_plan(
    channel: &Channel,
    plan: Plan,
    mut fds: Vec<Option<OwnedFd>>,
) -> Result<Event, Failure> {
    // Out of the terminal's reach: its Ctrl-C is the caller's business.
    setsid().doing("start a session")?;
    if plan.way != Way::Namespaces {
        return run_in_chroot(channel, plan, fds);
    }
    if let Some(runtime) = plan.oci_runtime.clone() {
        return run_by_oci_runtime(channel, plan, fds, &runtime);
    }
    let mut warnings = Vec::new();
    let hierarchies = Hierarchies::of_this_process().unwrap_or_default();
    let name = run_name();
    let mut groups = Groups::new(&hierarchies, &name, &plan.limits, &mut warnings);
    let devices_filtered = filter_devices(&plan, &fds, &hierarchies, (&mut groups, &name));
    let trees = open_trees(&plan, &mut fds, &groups.shown(&hierarchies))?;
    let shares_processes = plan.shares_processes;
    if shares_processes {
        orphans::adopt()?;
    }

    let (notes, to_supervisor) = Channel::pair().doing("make a channel")?;
    let (cloned, in_group) =
        sys::clone_process(namespaces(&plan), groups.unified()).map_err(explain_clone)?;
    match cloned {
        Cloned::Child => {
            drop(notes);
            sandbox::enter(Ready {
                plan,
                fds,
                trees,
                devices_filtered,
                channel: to_supervisor,
            })
        }
        Cloned::Parent(process) => {
            drop((to_supervisor, trees, fds));
            let process = Process::of(process).doing("open the new process")?;
            let sandbox = Sandbox {
                process,
                notes,
                groups,
                warnings,
            };
            let event = sandbox.watch(channel, !in_group);
            if !shares_processes {
                return event;
            }
            // No process namespace ends with its first process.
            let killed = orphans::kill();
            event.and_then(|event| killed.map(|()| event))
        }
    }
}

/// An OCI runtime makes the sandbox; the namespaces and control groups here are around it.
fn run_by_oci_runtime(
    channel: &Channel,
    plan: Plan,
    mut fds: Vec<Option<OwnedFd>>,
    runtime: &str,
) -> Result<Event, Failure> {
    let command = plan.args.first().cloned().unwrap_or_default();
    let mut hierarchies = Hierarchies::of_this_process().unwrap_or_default();
    let cgroup_namespace = hierarchies.is_unified_only();
    if !userns::is_initial() {
        // Whether some were delegated, only the runtime would know.
        hierarchies = Hierarchies::default();
    }
    let (mut warnings, name, limits) = (Vec::new(), run_name(), &plan.limits);
    let groups = Groups::around_container(&hierarchies.topmost(), &name, limits, &mut warnings);
    let bundle = oci::Bundle::new(&name, cgroup_namespace).doing("keep the runtime's log")?;
    let trees = open_trees(&plan, &mut fds, &hierarchies)?;
    let (notes, to_supervisor) = Channel::pair().doing("make a channel")?;
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let (cloned, _) = sys::clone_process(namespaces, None).map_err(explain_clone)?;
    let process = match cloned {
        Cloned::Child => {
            drop(notes);
            let ready = Ready {
                plan,
                fds,
                trees,
                devices_filtered: true,
                channel: to_supervisor,
            };
            oci::enter(ready, runtime, &bundle)
        }
        Cloned::Parent(process) => Process::of(process).doing("open the new process")?,
    };
    drop((to_supervisor, trees, fds));
    let sandbox = Sandbox {
        process,
        notes,
        groups,
        warnings,
    };
    bundle.explain(sandbox.watch(channel, false), &command)
}

fn run_in_chroot(
    channel: &Channel,
    plan: Plan,
    mut fds: Vec<Option<OwnedFd>>,
) -> Result<Event, Failure> {
    let (Tree::Clone(index) | Tree::Move(index)) = plan.rootfs;
    let rootfs = take(&mut fds, index).doing("take the root file system")?;
    orphans::adopt()?;
    let mut furniture = Furniture::put(rootfs.as_fd(), &plan, &mut fds)?;
    let warnings = furniture.take_warnings();
    // Whatever comes of it: what was put there is taken away again, and what was lent goes back.
    let event = watch_in_chroot(channel, plan, (fds, rootfs), warnings);
    let killed = orphans::kill();
    let removed = furniture
        .remove()
        .doing("take away what was put into the root file system");
    event.and_then(|event| killed.and(removed).map(|()| event))
}

fn watch_in_chroot(
    channel: &Channel,
    plan: Plan,
    (fds, rootfs): (Vec<Option<OwnedFd>>, OwnedFd),
    mut warnings: Vec<Warning>,
) -> Result<Event, Failure> {
    let none = Hierarchies::default();
    let groups = Groups::new(&none, &run_name(), &plan.limits, &mut warnings);
    let (notes, to_supervisor) = Channel::pair().doing("make a channel")?;
    let (cloned, network) = clone_for_chroot(&plan)?;
    let process = match cloned {
        Cloned::Child => {
            drop(notes);
            sandbox::enter_chroot(plan, fds, rootfs, (to_supervisor, network))
        }
        Cloned::Parent(process) => Process::of(process).doing("open the new process")?,
    };
    drop((to_supervisor, fds));
    let sandbox = Sandbox {
        process,
        notes,
        groups,
        warnings,
    };
    sandbox.watch(channel, false)
}

/// A process that has no network has a namespace of it, where one can be made.
fn clone_for_chroot(plan: &Plan) -> Result<(Cloned, OwnNetwork), Failure> {
    let none = plan.network == Network::None;
    if none && let Ok((cloned, _)) = sys::clone_process(libc::CLONE_NEWNET, None) {
        return Ok((cloned, OwnNetwork::Namespace));
    }
    let (cloned, _) = sys::clone_process(0, None).doing("start a process")?;
    let network = if none {
        OwnNetwork::Filter
    } else {
        OwnNetwork::No
    };
    Ok((cloned, network))
}

fn receive_request(channel: &Channel) -> io::Result<Requested> {
    let mut fds = Vec::new();
    loop {
        match channel.receive::<Request>()? {
            Received::Message(Request::Probe { scratch }, _) => {
                return Ok(Requested::Probe(scratch));
            }
            Received::Message(Request::TryProc, _) => return Ok(Requested::TryProc),
            Received::Message(
                Request::Connect {
                    program,
                    connection,
                },
                _,
            ) => return Ok(Requested::Connect(program, connection)),
            Received::Message(Request::Run { fds_to_come }, more) => {
                fds.extend(more.into_iter().map(Some));
                if fds_to_come == 0 {
                    break;
                }
            }
            Received::Closed => return Err(Errno::PIPE.into()),
        }
    }
    let mut file = File::from(take(&mut fds, 0)?);
    file.rewind()?;
    let plan = serde_json::from_reader(io::BufReader::new(file))?;
    Ok(Requested::Run(Box::new(plan), fds))
}

fn take(fds: &mut [Option<OwnedFd>], index: FdIndex) -> io::Result<OwnedFd> {
    fds.get_mut(index)
        .and_then(Option::take)
        .ok_or_else(|| Errno::BADF.into())
}

/// Unique on this machine.
fn run_name() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{}-{}",
        rustix::process::getpid().as_raw_nonzero(),
        now.as_nanos()
    )
}

/// That of control groups is made by the process itself, once it is in its own.
fn namespaces(plan: &Plan) -> i32 {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !plan.shares_processes {
        flags |= libc::CLONE_NEWPID;
    }
    flags
}

fn explain_clone(error: io::Error) -> Failure {
    let hint = (error.raw_os_error() == Some(libc::EPERM))
        .then(|| "needs root with CAP_SYS_ADMIN; in a container, a privileged one".to_owned());
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    Failure::Setup {
        action: "create namespaces".to_owned(),
        path: None,
        hint,
        errno,
    }
}

/// `false` if the sandbox has to make do without device nodes of its own.
fn filter_devices(
    plan: &Plan,
    fds: &[Option<OwnedFd>],
    hierarchies: &Hierarchies,
    (groups, name): (&mut Groups, &str),
) -> bool {
    if plan.security == Security::Insecure {
        return true;
    }
    let program = plan
        .device_filter
        .and_then(|index| fds.get(index)?.as_ref());
    cgroup::filter_devices(groups, program.map(|fd| fd.as_fd()))
        || groups.filter_devices_old(hierarchies, name).is_ok()
}

/// What the sandbox will mount, opened while this process still sees the caller's mounts.
fn open_trees(
    plan: &Plan,
    fds: &mut [Option<OwnedFd>],
    hierarchies: &Hierarchies,
) -> Result<sandbox::Trees, Failure> {
    let rootfs = match plan.rootfs {
        Tree::Move(index) => take(fds, index).doing("take the root file system")?,
        Tree::Clone(index) => {
            let directory = take(fds, index).doing("take the root file system")?;
            clone_tree(directory.as_fd(), false).doing("clone the root file system's mount")?
        }
    };
    let mut binds = Vec::new();
    for mount in &plan.mounts {
        binds.push(match &mount.source {
            PlannedSource::Bind {
                tree,
                subpath,
                recursive,
                ..
            } => Some(
                open_tree(fds, *tree, subpath.as_deref(), *recursive)
                    .doing_at("open the source of mount", &mount.target)?,
            ),
            PlannedSource::Tmpfs { .. }
            | PlannedSource::Own { .. }
            | PlannedSource::File { .. } => None,
        });
    }
    let cgroups = open_cgroups(hierarchies, plan.security).doing("open the control groups")?;
    let sys = match userns::is_initial() {
        true => None,
        false => Some(open_sys(plan.security).doing_at("clone the mount of", "/sys")?),
    };
    let proc = match plan.shares_processes {
        true => Some(open_proc().doing_at("clone the mount of", "/proc")?),
        false => None,
    };
    Ok(sandbox::Trees {
        rootfs,
        binds,
        cgroups,
        sys,
        proc,
    })
}

fn open_tree(
    fds: &mut [Option<OwnedFd>],
    tree: Tree,
    subpath: Option<&str>,
    recursive: bool,
) -> io::Result<OwnedFd> {
    match tree {
        Tree::Move(index) => take(fds, index),
        Tree::Clone(index) => {
            let source = take(fds, index)?;
            let source = match subpath {
                Some(subpath) => Root(source.as_fd()).open(subpath.as_bytes())?.fd,
                None => source,
            };
            clone_tree(source.as_fd(), recursive)
        }
    }
}

fn open_cgroups(hierarchies: &Hierarchies, security: Security) -> io::Result<Cgroups> {
    if hierarchies.is_unified_only() {
        return Ok(Cgroups::Unified);
    }
    if hierarchies.old.is_empty() {
        return Ok(Cgroups::AsTheyAre);
    }
    let mut trees = Vec::new();
    for (controller, directory) in &hierarchies.old {
        let directory = File::open(directory)?;
        let tree = clone_tree(directory.as_fd(), false)?;
        let mut attributes = NOSUID_NODEV_NOEXEC;
        attributes.set(
            MountAttrFlags::MOUNT_ATTR_RDONLY,
            security == Security::Sandbox,
        );
        restrict(tree.as_fd(), false, attributes)?;
        trees.push((controller.clone(), tree));
    }
    Ok(Cgroups::Old(trees))
}

/// The `/proc` that is there, with what covers parts of it.
fn open_proc() -> io::Result<OwnedFd> {
    clone_tree(File::open("/proc")?.as_fd(), true)
}

/// The host's `/sys`, for a user namespace whose network is not its own: the kernel lets it mount no
/// other. Unlike BuildKit, which leaves `/sys` out there, this can make all of it read-only.
fn open_sys(security: Security) -> io::Result<OwnedFd> {
    let sys = clone_tree(File::open("/sys")?.as_fd(), true)?;
    if security == Security::Sandbox {
        restrict(sys.as_fd(), true, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    }
    Ok(sys)
}

/// A child of this process: the sandbox's first, for one.
pub(crate) struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self {
            pid,
            fd: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended; it is still ours to wait for, so the number is not another's.
        let _gone = pidfd_send_signal(&self.fd, signal);
    }

    pub(crate) fn wait(&self) -> io::Result<Ended> {
        let status = loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        let status = status.map_or(0, |(_, status)| status.as_raw());
        let status = std::process::ExitStatus::from_raw(status);
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or_default()),
        })
    }
}

/// A running sandbox, from outside.
struct Sandbox {
    process: Process,
    notes: Channel,
    groups: Groups,
    warnings: Vec<Warning>,
}

/// What the sandbox said until its process was executed.
#[derive(Default)]
struct Heard {
    failure: Option<Failure>,
    stubs: Vec<(Stub, OwnedFd)>,
}

impl Sandbox {
    /// Waits for the end and clears up.
    fn watch(mut self, channel: &Channel, unified_too: bool) -> Result<Event, Failure> {
        let mut heard = Heard::default();
        let admitted = self.groups.add(self.process.pid, unified_too);
        let watched = match admitted {
            Ok(()) => self
                .notes
                .send(&Go, &[])
                .and_then(|()| self.wait(channel, &mut heard)),
            Err(error) => Err(error),
        };
        // On every way out of here nothing may be left running.
        self.process.signal(Signal::KILL);
        let ended = self.process.wait().doing("wait for the process")?;
        let oom = self.groups.oom_killed();
        self.groups.kill();
        drop(self.groups);
        if let Err(error) = stubs::remove_all(heard.stubs) {
            let why = error.to_string();
            self.warnings.push(Warning {
                what: "removing mount points".to_owned(),
                why,
            });
        }
        if let Some(failure) = heard.failure {
            return Err(failure);
        }
        watched.doing("watch the sandbox")?;
        let usage = sys::usage_of_children();
        Ok(Event::Ended {
            ended,
            oom,
            warnings: self.warnings,
            usage,
        })
    }

    /// Until the process has ended and all it had to say is heard.
    fn wait(&mut self, channel: &Channel, heard: &mut Heard) -> io::Result<()> {
        let (mut noting, mut commanded) = (true, true);
        loop {
            let [ended, note, command] = readable([
                Some(self.process.fd.as_fd()),
                noting.then(|| self.notes.as_fd()),
                commanded.then(|| channel.as_fd()),
            ])?;
            if note {
                noting = self.hear(channel, heard)?;
            } else if ended {
                return Ok(());
            }
            if command {
                commanded = self.obey(channel);
            }
        }
    }

    /// Takes one note; `false` when there will be none any more.
    fn hear(&mut self, channel: &Channel, heard: &mut Heard) -> io::Result<bool> {
        match self.notes.receive::<Note>()? {
            Received::Closed => return Ok(false),
            Received::Message(Note::Stub(stub), fds) => {
                heard
                    .stubs
                    .extend(fds.into_iter().next().map(|fd| (stub, fd)));
            }
            Received::Message(Note::Warning(warning), _) => self.warnings.push(warning),
            Received::Message(Note::Failed(failure), _) => heard.failure = Some(failure),
            Received::Message(Note::Terminal, fds) => {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
                channel.send(&Event::Terminal, &fds)?;
            }
        }
        Ok(true)
    }

    /// Takes one command; `false` when there will be none any more.
    fn obey(&self, channel: &Channel) -> bool {
        match channel.receive::<Command>() {
            Ok(Received::Message(Command::Signal(signal), _)) => {
                // It may have ended; and to what is no signal nothing happens.
                let _gone = sys::signal_by_descriptor(self.process.fd.as_fd(), signal);
                true
            }
            Ok(Received::Message(Command::Kill, _)) => {
                self.process.signal(Signal::KILL);
                true
            }
            // The caller is gone.
            Ok(Received::Closed) | Err(_) => {
                self.process.signal(Signal::KILL);
                false
            }
        }
    }
}

/// Waits until one of these has something to read, or its other end is closed.
pub(crate) fn readable<const N: usize>(fds: [Option<BorrowedFd<'_>>; N]) -> io::Result<[bool; N]> {
    let mut polled: Vec<_> = fds
        .iter()
        .flatten()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            Err(other) => return Err(other.into()),
            Ok(_) => break,
        }
    }
    let mut ready = polled.iter().map(|it| !it.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}
