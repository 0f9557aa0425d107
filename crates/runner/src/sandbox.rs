//! The second stage: the sandbox's first process builds the sandbox around itself and then becomes
//! the command. One story, top to bottom, in [`build`]; order matters almost everywhere.
//!
//! Everything is named by descriptor. The root file system is never looked into by a path of the
//! host's, and `/proc`, `/sys` and `/dev` are changed through the descriptors of the file systems
//! that were mounted here, so that nothing an image brings can stand in for them.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, StatxFlags, fchown, fstat, fstatfs, openat, statx};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{
    Signal, chdir, fchdir, getcwd, pivot_root, set_parent_process_death_signal, setsid, umask,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::capabilities;
use crate::channel::{Channel, Received};
use crate::dev::{self, Dev, Terminal};
use crate::exec;
use crate::mountfd::{NOSUID_NODEV_NOEXEC, attach, clone_tree, new_file_system, restrict};
use crate::network;
use crate::plan::{Doing as _, Failure, FdIndex, Go, Note, Plan, PlannedSource, Stub, Tree, Way};
use crate::privileges;
use crate::reaper;
use crate::rootpath::{Made, Missing, Root};
use crate::seccomp;
use crate::spec::Security;
use crate::status::Warning;
use crate::sys;
use crate::user::{self, Identity};
use crate::userns;

/// As much of `/etc/passwd` or `/etc/group` as is read (CVE-2026-47262).
const ACCOUNT_FILE_BYTES_MAX: u64 = 10 << 20;
/// linux/magic.h
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// In `/proc`, unreadable; Docker's and containerd's list.
pub(crate) const MASKED_PROC: [&str; 9] = [
    "acpi",
    "asound",
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
];
/// In `/proc`, not writable.
pub(crate) const READONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// In `/sys`, unreadable.
pub(crate) const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Everything the new process needs, gathered before it was made.
pub(crate) struct Ready {
    pub(crate) plan: Plan,
    pub(crate) fds: Vec<Option<OwnedFd>>,
    pub(crate) trees: Trees,
    /// A control group keeps devices closed; else nodes must not work at all.
    pub(crate) devices_filtered: bool,
    pub(crate) channel: Channel,
}

/// Detached mounts.
pub(crate) struct Trees {
    pub(crate) rootfs: OwnedFd,
    /// In the order of the plan's mounts.
    pub(crate) binds: Vec<Option<OwnedFd>>,
    pub(crate) cgroups: Cgroups,
    /// The host's `/sys`, for where none can be mounted.
    pub(crate) sys: Option<OwnedFd>,
    /// The host's `/proc`, for where none can be mounted.
    pub(crate) proc: Option<OwnedFd>,
}

/// What `/sys/fs/cgroup` will be.
pub(crate) enum Cgroups {
    /// The unified hierarchy, in a control group namespace.
    Unified,
    /// Whatever `/sys` brings.
    AsTheyAre,
    /// The process's own groups of the old hierarchies, by controller.
    Old(Vec<(String, OwnedFd)>),
}

/// Builds the sandbox and becomes the command.
pub(crate) fn enter(ready: Ready) -> ! {
    let (builder, movable) = Builder::new(ready);
    let Err(failure) = build(&builder, movable);
    // If that fails too, the supervisor is gone, and nobody is left to tell.
    let _gone = builder.channel.send(&Note::Failed(failure), &[]);
    sys::exit_now(125)
}

fn build(it: &Builder, mut trees: MovableTrees) -> Result<Infallible, Failure> {
    it.await_go()?;
    it.enter_own_control_groups()?;
    umask(Mode::empty());
    it.set_host_name()?;
    it.enter_network(&mut trees)?;

    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .doing("make the mounts private")?;
    let staging = Staging::new()?;
    it.mount_rootfs(&staging)?;
    let root = it.root();
    let identity = it.resolve_user(root)?;

    let proc = it.mount_proc(root, &mut trees)?;
    let dev = it.mount_dev(root)?;
    let sys = it.mount_sys(root, &mut trees)?;
    it.mount_all(root, &staging, &mut trees)?;
    if it.plan.security == Security::Sandbox {
        mask(proc.as_fd(), sys.as_fd(), &dev)?;
    }
    it.make_cwd(root, &identity)?;
    let stdio = it.open_stdio(&dev, &identity, &mut trees)?;
    let filter = it.read_filter(&mut trees)?;
    let rootfs = it.final_rootfs()?;
    pivot_into(rootfs.as_ref().unwrap_or(&it.rootfs))?;
    drop((staging, proc, dev, sys, rootfs));

    it.become_command(stdio, &identity, filter.as_deref())
}

/// How a process without namespaces has no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnNetwork {
    /// It has the caller's.
    No,
    /// This one namespace could be made.
    Namespace,
    /// It can make no sockets but local ones.
    Filter,
}

/// Goes into the root file system without namespaces and becomes the command.
pub(crate) fn enter_chroot(
    plan: Plan,
    fds: Vec<Option<OwnedFd>>,
    rootfs: OwnedFd,
    (channel, network): (Channel, OwnNetwork),
) -> ! {
    let builder = Builder {
        plan,
        rootfs,
        devices_filtered: true,
        channel,
    };
    let movable = MovableTrees {
        binds: Vec::new(),
        fds,
        cgroups: Cgroups::AsTheyAre,
        sys: None,
        proc: None,
    };
    let Err(failure) = build_chroot(&builder, movable, network);
    // As above.
    let _gone = builder.channel.send(&Note::Failed(failure), &[]);
    sys::exit_now(125)
}

fn build_chroot(
    it: &Builder,
    mut trees: MovableTrees,
    network: OwnNetwork,
) -> Result<Infallible, Failure> {
    it.await_go()?;
    umask(Mode::empty());
    if network == OwnNetwork::Namespace {
        network::loopback_up().doing("bring up the loopback interface")?;
    }
    let identity = it.resolve_user(it.root())?;
    it.make_cwd(it.root(), &identity)?;
    let stdio = match it.plan.terminal {
        Some(window) => it.hand_over(dev::outer_terminal(window, &identity)?)?,
        None => it.open_streams(&identity, &mut trees, open_outer_null)?,
    };
    let filter = it.read_filter(&mut trees)?;
    if it.plan.way == Way::Chroot {
        let what = "change to the root file system";
        fchdir(&it.rootfs).doing(what)?;
        rustix::process::chroot(".").doing(what)?;
        chdir("/").doing(what)?;
    }
    if network == OwnNetwork::Filter {
        it.go_offline()?;
    }
    it.become_command(stdio, &identity, filter.as_deref())
}

fn open_outer_null() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    openat(CWD, "/dev/null", flags, Mode::empty()).doing_at("open", "/dev/null")
}

pub(crate) struct Builder {
    pub(crate) plan: Plan,
    pub(crate) rootfs: OwnedFd,
    devices_filtered: bool,
    pub(crate) channel: Channel,
}

/// Descriptors that are used up one by one.
pub(crate) struct MovableTrees {
    binds: Vec<Option<OwnedFd>>,
    fds: Vec<Option<OwnedFd>>,
    cgroups: Cgroups,
    pub(crate) sys: Option<OwnedFd>,
    proc: Option<OwnedFd>,
}

impl MovableTrees {
    fn take(&mut self, index: FdIndex) -> io::Result<OwnedFd> {
        let taken = self.fds.get_mut(index).and_then(Option::take);
        taken.ok_or_else(|| rustix::io::Errno::BADF.into())
    }
}

impl Builder {
    pub(crate) fn new(ready: Ready) -> (Self, MovableTrees) {
        let Ready {
            plan,
            fds,
            trees,
            devices_filtered,
            channel,
        } = ready;
        let movable = MovableTrees {
            binds: trees.binds,
            fds,
            cgroups: trees.cgroups,
            sys: trees.sys,
            proc: trees.proc,
        };
        (
            Self {
                plan,
                rootfs: trees.rootfs,
                devices_filtered,
                channel,
            },
            movable,
        )
    }

    pub(crate) fn root(&self) -> Root<'_> {
        Root(self.rootfs.as_fd())
    }

    pub(crate) fn warn(&self, warning: Warning) {
        // Without a supervisor there is nobody to warn.
        let _gone = self.channel.send(&Note::Warning(warning), &[]);
    }

    /// Waits until the supervisor is done with us; if it is gone, there is nothing to do.
    pub(crate) fn await_go(&self) -> Result<(), Failure> {
        self.tie_to_supervisor()?;
        match self
            .channel
            .receive::<Go>()
            .doing("hear from the supervisor")?
        {
            Received::Message(Go, _) => Ok(()),
            Received::Closed => sys::exit_now(125),
        }
    }

    /// This process ends with the supervisor. The signal tells nothing of one that has ended before
    /// it was asked for, and the number of a parent outside of the process namespace is always 0: the
    /// other end of the channel tells.
    fn tie_to_supervisor(&self) -> Result<(), Failure> {
        let what = "tie the process to its parent";
        set_parent_process_death_signal(Some(Signal::KILL)).doing(what)?;
        match self.channel.is_closed().doing(what)? {
            false => Ok(()),
            true => sys::exit_now(125),
        }
    }

    /// Goes into the network that was made for this process, if any was.
    pub(crate) fn enter_network(&self, trees: &mut MovableTrees) -> Result<(), Failure> {
        let Some(index) = self.plan.network_namespace else {
            return Ok(());
        };
        let what = "enter the network namespace";
        let namespace = trees.take(index).doing(what)?;
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).doing(what)
    }

    /// Puts the root file system into this mount namespace, where mounts can be put on it.
    fn mount_rootfs(&self, staging: &Staging) -> Result<(), Failure> {
        let place = staging.directory("rootfs")?;
        attach(self.rootfs.as_fd(), place.as_fd()).doing("attach the root file system")?;
        self.clear_locked_flags();
        self.close_devices(self.rootfs.as_fd(), false)
            .doing("restrict the root file system")
    }

    /// A store on a `nosuid` disk must not break `sudo` in a build. In a user namespace the flags
    /// are locked, and stay.
    pub(crate) fn clear_locked_flags(&self) {
        let clear = NOSUID_NODEV_NOEXEC;
        let _locked =
            sys::mount_setattr(self.rootfs.as_fd(), false, MountAttrFlags::empty(), clear);
    }

    /// Where no control group watches over devices, nodes do not work.
    fn close_devices(&self, mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        if self.devices_filtered {
            return Ok(());
        }
        restrict(mount, recursive, MountAttrFlags::MOUNT_ATTR_NODEV)
    }

    pub(crate) fn resolve_user(&self, root: Root<'_>) -> Result<Identity, Failure> {
        let failed = |reason| Failure::User {
            user: self.plan.user.clone(),
            reason,
        };
        let read = |path: &str| {
            read_account_file(root, path).map_err(|error| failed(format!("{path}: {error}")))
        };
        let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
        user::resolve(&self.plan.user, &passwd, &group).map_err(failed)
    }

    fn mount_proc(&self, root: Root<'_>, trees: &mut MovableTrees) -> Result<OwnedFd, Failure> {
        let proc = match trees.proc.take() {
            Some(host) => host,
            None => new_file_system("proc", &[], NOSUID_NODEV_NOEXEC)
                .doing_at("mount", "/proc")
                .map_err(explain_proc)?,
        };
        self.attach_at(root, proc.as_fd(), "proc")?;
        Ok(proc)
    }

    fn mount_dev(&self, root: Root<'_>) -> Result<Dev, Failure> {
        let dev = Dev::new(&self.plan, self.devices_filtered)?;
        self.attach_at(root, dev.directory(), "dev")?;
        dev.mount_inside(&self.plan)?;
        Ok(dev)
    }

    fn mount_sys(&self, root: Root<'_>, trees: &mut MovableTrees) -> Result<OwnedFd, Failure> {
        let attributes = self.system_attributes();
        let sys = match (new_file_system("sysfs", &[], attributes), trees.sys.take()) {
            (Err(_), Some(host)) => Ok(host),
            (other, _) => other,
        };
        let sys = sys.doing_at("mount", "/sys")?;
        self.attach_at(root, sys.as_fd(), "sys")?;
        if let Ok(place) = Root(sys.as_fd()).open(b"fs/cgroup") {
            mount_cgroups(place.fd.as_fd(), &mut trees.cgroups, attributes)
                .doing_at("mount", "/sys/fs/cgroup")?;
        }
        Ok(sys)
    }

    fn system_attributes(&self) -> MountAttrFlags {
        match self.plan.security {
            Security::Sandbox => NOSUID_NODEV_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY,
            Security::Insecure => NOSUID_NODEV_NOEXEC,
        }
    }

    /// Mounts on a directory of the root itself, which must be one: an image whose `/proc` is a
    /// link wants the mount somewhere else (CVE-2019-19921 and kin).
    fn attach_at(&self, root: Root<'_>, mount: BorrowedFd<'_>, name: &str) -> Result<(), Failure> {
        let place = self.system_place(root, name)?;
        attach(mount, place.as_fd()).doing_at("mount on", &format!("/{name}"))
    }

    /// A directory of the root itself, made if need be.
    pub(crate) fn system_place(&self, root: Root<'_>, name: &str) -> Result<OwnedFd, Failure> {
        let shown = format!("/{name}");
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        if let Ok(stat) = rustix::fs::statat(root.0, name, flags)
            && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
        {
            let hint = Some("the image has something other than a directory there".to_owned());
            let action = "mount on".to_owned();
            return Err(Failure::Setup {
                action,
                path: Some(shown.into()),
                hint,
                errno: libc::ENOTDIR,
            });
        }
        self.place(root, &shown, Missing::Directories)
    }

    /// The place a mount goes to, made if need be.
    pub(crate) fn place(
        &self,
        root: Root<'_>,
        target: &str,
        missing: Missing,
    ) -> Result<OwnedFd, Failure> {
        let mut made = Vec::new();
        let found = root.walk(target.as_bytes(), missing, &mut made);
        self.report_stubs(&made)?;
        let found = found.doing_at("make the mount point", target)?;
        let is_directory = found.kind == FileType::Directory;
        if is_directory != (missing == Missing::Directories) {
            let errno = if is_directory {
                libc::EISDIR
            } else {
                libc::ENOTDIR
            };
            let hint = "a directory can only be mounted on a directory, a file only on a file";
            return Err(Failure::Setup {
                action: "mount on".to_owned(),
                path: Some(target.into()),
                hint: Some(hint.to_owned()),
                errno,
            });
        }
        Ok(found.fd)
    }

    /// What was made on the root file system itself is to be taken away again; what was made on a
    /// cache or in `/dev` is not.
    fn report_stubs(&self, made: &[Made]) -> Result<(), Failure> {
        for made in made {
            let same = mount_id(made.parent.as_fd()).doing("look at a mount point")?
                == mount_id(self.rootfs.as_fd()).doing("look at the root file system")?;
            if same {
                self.channel
                    .send(&Note::Stub(Stub::of(made)), &[made.parent.as_fd()])
                    .doing("report a mount point")?;
            }
        }
        Ok(())
    }

    /// The resolver's files and the user's mounts, parents first.
    fn mount_all(
        &self,
        root: Root<'_>,
        staging: &Staging,
        trees: &mut MovableTrees,
    ) -> Result<(), Failure> {
        for (target, tree) in self.mounts(staging, trees)? {
            self.mount_on(root, &target, &tree)?;
        }
        Ok(())
    }

    /// They themselves, each with its target.
    pub(crate) fn mounts(
        &self,
        staging: &Staging,
        trees: &mut MovableTrees,
    ) -> Result<Vec<(String, OwnedFd)>, Failure> {
        let mut mounts: Vec<(String, OwnedFd)> = Vec::new();
        let files = [
            ("/etc/resolv.conf", self.plan.resolv_conf.as_deref()),
            ("/etc/hosts", Some(self.plan.hosts.as_str())),
        ];
        for (target, contents) in files {
            if let Some(contents) = contents {
                let file = staging.file(target, contents.as_bytes(), (0o644, 0, 0))?;
                mounts.push((target.to_owned(), file));
            }
        }
        for (index, mount) in self.plan.mounts.iter().enumerate() {
            let tree = self.source(index, staging, trees)?;
            mounts.retain(|(target, _)| *target != mount.target);
            mounts.push((mount.target.clone(), tree));
        }
        mounts.sort_by_key(|(target, _)| target.matches('/').count());
        Ok(mounts)
    }

    fn source(
        &self,
        index: usize,
        staging: &Staging,
        trees: &mut MovableTrees,
    ) -> Result<OwnedFd, Failure> {
        let mount = &self.plan.mounts[index];
        let what = "open the source of mount";
        match &mount.source {
            PlannedSource::Bind {
                tree,
                subpath,
                readonly,
                ..
            } => {
                let source = trees.binds.get_mut(index).and_then(Option::take);
                let source = source
                    .ok_or(rustix::io::Errno::BADF)
                    .doing_at(what, &mount.target)?;
                let source = match (tree, subpath) {
                    (Tree::Move(_), Some(subpath)) => staging
                        .part_of(&source, index, subpath)
                        .doing_at(what, &mount.target)?,
                    _ => source,
                };
                self.close_devices(source.as_fd(), true)
                    .doing_at("restrict", &mount.target)?;
                if *readonly {
                    restrict(source.as_fd(), true, MountAttrFlags::MOUNT_ATTR_RDONLY)
                        .doing_at("make read-only", &mount.target)?;
                }
                Ok(source)
            }
            PlannedSource::Tmpfs {
                size_bytes,
                mode,
                readonly,
                refused,
            } => {
                let mode = format!("{mode:o}");
                let size = size_bytes.map(|bytes| bytes.to_string());
                let mut options = vec![("mode", mode.as_str())];
                options.extend(size.as_deref().map(|size| ("size", size)));
                let no_devices = refused.devices || !self.devices_filtered;
                let mut attributes = MountAttrFlags::empty();
                attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, refused.exec);
                attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, refused.suid);
                attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, no_devices);
                attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *readonly);
                new_file_system("tmpfs", &options, attributes)
                    .doing_at("make the tmpfs for", &mount.target)
            }
            PlannedSource::Own { readonly } => {
                let place = self.place(self.root(), &mount.target, Missing::Directories)?;
                let own = clone_tree(place.as_fd(), true).doing_at(what, &mount.target)?;
                if *readonly {
                    restrict(own.as_fd(), true, MountAttrFlags::MOUNT_ATTR_RDONLY)
                        .doing_at("make read-only", &mount.target)?;
                }
                Ok(own)
            }
            PlannedSource::File {
                contents,
                mode,
                uid,
                gid,
            } => {
                let file = trees.take(*contents).doing_at(what, &mount.target)?;
                let contents = read_all(file).doing_at(what, &mount.target)?;
                staging.file(&format!("file{index}"), &contents, (*mode, *uid, *gid))
            }
        }
    }

    fn mount_on(&self, root: Root<'_>, target: &str, tree: &OwnedFd) -> Result<(), Failure> {
        let kind = FileType::from_raw_mode(fstat(tree).doing_at("look at", target)?.st_mode);
        let missing = match kind {
            FileType::Directory => Missing::Directories,
            _ => Missing::File,
        };
        let place = self.place(root, target, missing)?;
        // With a file of its own choosing in /proc an image could fool what comes after.
        if fstatfs(&place).doing_at("look at", target)?.f_type == PROC_SUPER_MAGIC {
            return Err(Failure::Spec {
                field: "mounts".to_owned(),
                reason: format!("`{target}` is in /proc"),
            });
        }
        attach(tree.as_fd(), place.as_fd()).doing_at("mount on", target)
    }

    /// A working directory that is missing is made, for the user.
    pub(crate) fn make_cwd(&self, root: Root<'_>, identity: &Identity) -> Result<(), Failure> {
        let (mut made, what) = (Vec::new(), "make the working directory");
        let found = root.walk(self.plan.cwd.as_bytes(), Missing::Directories, &mut made);
        for made in &made {
            let name = made.name.as_os_str();
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let (uid, gid) = (Some(identity.uid()), Some(identity.gid()));
            rustix::fs::chownat(&made.parent, name, uid, gid, flags)
                .doing_at(what, &self.plan.cwd)?;
        }
        match found.doing_at(what, &self.plan.cwd)?.kind {
            FileType::Directory => Ok(()),
            _ => Err(rustix::io::Errno::NOTDIR).doing_at(what, &self.plan.cwd),
        }
    }

    fn open_stdio(
        &self,
        dev: &Dev,
        identity: &Identity,
        trees: &mut MovableTrees,
    ) -> Result<Stdio, Failure> {
        if let Some(window) = self.plan.terminal {
            return self.hand_over(dev.open_terminal(window, identity)?);
        }
        self.open_streams(identity, trees, || dev.open_null())
    }

    /// Gives our side of a terminal to the caller.
    pub(crate) fn hand_over(&self, terminal: Terminal) -> Result<Stdio, Failure> {
        self.channel
            .send(&Note::Terminal, &[terminal.ours.as_fd()])
            .doing("hand over the terminal")?;
        Ok(Stdio::Terminal(terminal.theirs))
    }

    pub(crate) fn open_streams(
        &self,
        identity: &Identity,
        trees: &mut MovableTrees,
        open_null: impl Fn() -> Result<OwnedFd, Failure>,
    ) -> Result<Stdio, Failure> {
        let mut open = |index: usize| -> Result<OwnedFd, Failure> {
            let Some(stdio) = &self.plan.stdio[index] else {
                return open_null();
            };
            let fd = trees.take(stdio.fd).doing("take a standard stream")?;
            if stdio.ours {
                // So that the user can open /dev/stdout again. Some pipes cannot be given away.
                let _refused = fchown(&fd, Some(identity.uid()), None);
            }
            Ok(fd)
        };
        Ok(Stdio::Streams([open(0)?, open(1)?, open(2)?]))
    }

    /// What is left once the process stands in its root file system.
    fn become_command(
        &self,
        stdio: Stdio,
        identity: &Identity,
        filter: Option<&[u8]>,
    ) -> Result<Infallible, Failure> {
        privileges::set_rlimits(&self.plan.rlimits, |warning| self.warn(warning));
        setsid().doing("start a session")?;
        stdio.install()?;
        self.change_directory()?;
        sys::close_on_exec_from(3).doing("close descriptors")?;
        // A kernel without keyrings has none to keep apart.
        let _no_keyrings = sys::join_session_keyring();
        self.warn_of_capabilities();
        let (security, capabilities) = (self.plan.security, self.plan.capabilities);
        privileges::become_user((security, capabilities), identity, filter)?;
        // Changing the user has cleared it.
        self.tie_to_supervisor()?;
        let env = self.environment(identity);
        umask(Mode::from_raw_mode(self.plan.umask));
        if self.plan.init {
            reaper::split().doing("start the reaper")?;
        }
        sys::reset_signals();
        Err(exec::execute(&self.plan.args, &env))
    }

    /// From here on this process's groups are the topmost that it sees. It was put into them by now,
    /// so that these are the run's.
    fn enter_own_control_groups(&self) -> Result<(), Failure> {
        match sys::unshare(libc::CLONE_NEWCGROUP) {
            // A kernel without control groups.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other.doing("make a control group namespace"),
        }
    }

    /// Nobody gives away what they do not have. Of the usual ones nothing is said.
    fn warn_of_capabilities(&self) {
        let asked = self.plan.capabilities.added();
        for missing in asked.without(capabilities::effective()).names() {
            self.warn(Warning {
                what: format!("capability {missing}"),
                why: "this process does not have it itself".to_owned(),
            });
        }
    }

    /// The filter of a container around this one may forbid it, in a user namespace too.
    fn set_host_name(&self) -> Result<(), Failure> {
        match rustix::system::sethostname(self.plan.hostname.as_bytes()) {
            Err(rustix::io::Errno::PERM) if !userns::is_initial() => {
                self.warn(Warning {
                    what: "host name".to_owned(),
                    why: "the container around this one forbids to set it".to_owned(),
                });
                Ok(())
            }
            other => other.doing("set the host name"),
        }
    }

    /// Where not even a network namespace can be had.
    fn go_offline(&self) -> Result<(), Failure> {
        let program = seccomp::offline().ok_or_else(|| Failure::Spec {
            field: "network".to_owned(),
            reason: "`none` needs a network namespace here, which cannot be made".to_owned(),
        })?;
        let what = "load the filter that keeps the process off the network";
        if !capabilities::may_mount() {
            rustix::thread::set_no_new_privs(true).doing(what)?;
        }
        sys::load_seccomp(&program).doing(what)?;
        self.warn(Warning {
            what: "network none".to_owned(),
            why: "no network namespace can be made here: sockets are refused, those of the \
                loopback interface too, and `sudo` gains nothing"
                .to_owned(),
        });
        Ok(())
    }

    fn read_filter(&self, trees: &mut MovableTrees) -> Result<Option<Vec<u8>>, Failure> {
        let Some(index) = self.plan.seccomp else {
            return Ok(None);
        };
        let read = trees.take(index).and_then(read_all);
        read.map(Some).doing("read the system call filter")
    }

    /// A read-only root is a second mount on top of the one that everything was mounted on, so that
    /// mount points can still be taken away through the first.
    fn final_rootfs(&self) -> Result<Option<OwnedFd>, Failure> {
        if !self.plan.readonly_rootfs {
            return Ok(None);
        }
        let what = "make the root file system read-only";
        let top = clone_tree(self.rootfs.as_fd(), true).doing(what)?;
        restrict(top.as_fd(), false, MountAttrFlags::MOUNT_ATTR_RDONLY).doing(what)?;
        attach(top.as_fd(), self.rootfs.as_fd()).doing(what)?;
        Ok(Some(top))
    }

    /// Goes to the working directory without following magic links, and makes sure that it is in
    /// the root (CVE-2024-21626).
    fn change_directory(&self) -> Result<(), Failure> {
        let what = "change to the working directory";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, "/", flags, Mode::empty()).doing(what)?;
        let found = Root(root.as_fd()).open(self.plan.cwd.as_bytes());
        let found = found.doing_at(what, &self.plan.cwd)?;
        fchdir(&found.fd).doing_at(what, &self.plan.cwd)?;
        let reached = getcwd(Vec::new()).doing_at(what, &self.plan.cwd)?;
        if !reached.as_bytes().starts_with(b"/") {
            return Err(Failure::Spec {
                field: "cwd".to_owned(),
                reason: format!("`{}` is outside of the root file system", self.plan.cwd),
            });
        }
        Ok(())
    }

    pub(crate) fn environment(&self, identity: &Identity) -> Vec<String> {
        let mut env = self.plan.env.clone();
        let has = |name: &str, env: &[String]| env.iter().any(|it| it.starts_with(name));
        // An empty one counts as none, for runc too.
        env.retain(|it| it != "HOME=");
        if !has("HOME=", &env) {
            env.push(format!("HOME={}", identity.home));
        }
        if self.plan.terminal.is_some() && !has("TERM=", &env) {
            env.push("TERM=xterm".to_owned());
        }
        env
    }
}

/// A user namespace gets no `/proc` of its own while the outer one is partly covered.
fn explain_proc(failure: Failure) -> Failure {
    match failure {
        Failure::Setup {
            action,
            path,
            hint: None,
            errno: libc::EPERM,
        } => {
            let hint = "/proc is masked by the container around this one: \
                `docker run --security-opt systempaths=unconfined`, or in Kubernetes \
                `hostUsers: false` with `procMount: Unmasked`";
            Failure::Setup {
                action,
                path,
                hint: Some(hint.to_owned()),
                errno: libc::EPERM,
            }
        }
        other => other,
    }
}

fn read_account_file(root: Root<'_>, path: &str) -> io::Result<Vec<u8>> {
    let found = match root.open(path.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // A FIFO would never answer, a device might never end.
    if found.kind != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&found.fd)
    );
    let file = File::open(path)?;
    if file.metadata()?.len() > ACCOUNT_FILE_BYTES_MAX {
        return Err(io::Error::other("larger than 10 MiB"));
    }
    let mut contents = Vec::new();
    file.take(ACCOUNT_FILE_BYTES_MAX)
        .read_to_end(&mut contents)?;
    Ok(contents)
}

fn read_all(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    io::Seek::rewind(&mut file)?;
    let mut contents = Vec::new();
    file.read_to_end(&mut contents)?;
    Ok(contents)
}

fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let stat = statx(fd, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

fn mount_cgroups(
    place: BorrowedFd<'_>,
    cgroups: &mut Cgroups,
    attributes: MountAttrFlags,
) -> io::Result<()> {
    let trees = match cgroups {
        Cgroups::Unified => match new_file_system("cgroup2", &[], attributes) {
            Ok(mount) => return attach(mount.as_fd(), place),
            // What lies there shows the groups above this process's too, read-only as all of it.
            Err(_) if !userns::is_initial() => return Ok(()),
            Err(error) => return Err(error),
        },
        Cgroups::AsTheyAre => return Ok(()),
        Cgroups::Old(trees) => std::mem::take(trees),
    };
    let folder = new_file_system("tmpfs", &[("mode", "755")], NOSUID_NODEV_NOEXEC)?;
    attach(folder.as_fd(), place)?;
    for (controller, tree) in trees {
        let name = controller.strip_prefix("name=").unwrap_or(&controller);
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
        attach(tree.as_fd(), dev::open_path(folder.as_fd(), name)?.as_fd())?;
    }
    restrict(folder.as_fd(), false, attributes)
}

/// Covers what tells too much, and makes what does too much read-only. What does not exist on this
/// kernel needs nothing.
fn mask(proc: BorrowedFd<'_>, sys: BorrowedFd<'_>, dev: &Dev) -> Result<(), Failure> {
    let attributes = NOSUID_NODEV_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let options = [("size", "0"), ("nr_inodes", "1"), ("mode", "755")];
    let mut nothing: Option<OwnedFd> = None;
    let masked = MASKED_PROC.iter().map(|name| (proc, *name));
    for (parent, name) in masked.chain(MASKED_SYS.iter().map(|name| (sys, *name))) {
        let Ok(found) = Root(parent).open(name.as_bytes()) else {
            continue;
        };
        if found.kind != FileType::Directory {
            dev.cover_with_null(found.fd.as_fd())
                .doing_at("mask", name)?;
            continue;
        }
        // One empty file system serves all of them.
        let cover = match &nothing {
            Some(first) => clone_tree(first.as_fd(), false),
            None => new_file_system("tmpfs", &options, attributes),
        };
        let cover = cover.doing_at("mask", name)?;
        attach(cover.as_fd(), found.fd.as_fd()).doing_at("mask", name)?;
        nothing = nothing.or(Some(cover));
    }
    for name in READONLY_PROC {
        let Ok(found) = Root(proc).open(name.as_bytes()) else {
            continue;
        };
        let itself = clone_tree(found.fd.as_fd(), true).doing_at("make read-only", name)?;
        restrict(itself.as_fd(), true, attributes).doing_at("make read-only", name)?;
        attach(itself.as_fd(), found.fd.as_fd()).doing_at("make read-only", name)?;
    }
    Ok(())
}

/// Makes the root file system this namespace's root and lets go of the host's.
fn pivot_into(rootfs: &OwnedFd) -> Result<(), Failure> {
    let (what, detach) = (
        "change to the root file system",
        "let go of the host's file systems",
    );
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = openat(CWD, "/", flags, Mode::empty()).doing(what)?;
    fchdir(rootfs).doing(what)?;
    pivot_root(".", ".").doing(what)?;
    fchdir(&host).doing(what)?;
    // What is unmounted at a place is what was mounted on it last: first the private file system
    // that lies on the host's root, then that root with all below it.
    unmount(".", UnmountFlags::DETACH).doing(detach)?;
    unmount(".", UnmountFlags::DETACH).doing(detach)?;
    chdir("/").doing(what)?;
    let root = openat(CWD, "/", flags, Mode::empty()).doing(what)?;
    let expected = mount_id(rootfs.as_fd()).doing(what)?;
    if mount_id(root.as_fd()).doing(what)? == expected && !is_covered(&root).doing(what)? {
        return Ok(());
    }
    Err(rustix::io::Errno::BUSY).doing(detach)
}

/// Whether something is mounted on the root directory: what `..` of it leads to is then not it.
fn is_covered(root: &OwnedFd) -> io::Result<bool> {
    let above = openat(root, "..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(mount_id(above.as_fd())? != mount_id(root.as_fd())?)
}

/// What becomes descriptors 0, 1 and 2.
pub(crate) enum Stdio {
    Streams([OwnedFd; 3]),
    Terminal(OwnedFd),
}

impl Stdio {
    pub(crate) fn install(self) -> Result<(), Failure> {
        let what = "set up the standard streams";
        let [input, output, error] = match &self {
            Self::Streams([input, output, error]) => [input, output, error],
            Self::Terminal(terminal) => {
                rustix::process::ioctl_tiocsctty(terminal).doing("take the terminal")?;
                [terminal; 3]
            }
        };
        rustix::stdio::dup2_stdin(input).doing(what)?;
        rustix::stdio::dup2_stdout(output).doing(what)?;
        rustix::stdio::dup2_stderr(error).doing(what)
    }
}

/// A private file system in memory, out of the process's sight: a place for the root file system to
/// be mounted on, and for files that exist only as mounts.
pub(crate) struct Staging(OwnedFd);

impl Staging {
    fn new() -> Result<Self, Failure> {
        // On top of what this process has as its root already, and so out of everybody's sight.
        Self::at("/")
    }

    /// Mounted on a directory.
    pub(crate) fn at(path: &str) -> Result<Self, Failure> {
        let what = "make a private file system";
        // Secrets may be among the files. Before Linux 6.4 there is no `noswap`.
        let attributes = NOSUID_NODEV_NOEXEC;
        let mounted = new_file_system("tmpfs", &[("mode", "700"), ("noswap", "")], attributes)
            .or_else(|_| new_file_system("tmpfs", &[("mode", "700")], attributes));
        let mounted = mounted.doing(what)?;
        let root = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
        attach(mounted.as_fd(), root.as_fd()).doing(what)?;
        Ok(Self(mounted))
    }

    pub(crate) fn directory(&self, name: &str) -> Result<OwnedFd, Failure> {
        let what = "make a private directory";
        rustix::fs::mkdirat(&self.0, name, Mode::RWXU).doing(what)?;
        dev::open_path(self.0.as_fd(), name).doing(what)
    }

    /// A read-only mount of a new file.
    fn file(
        &self,
        name: &str,
        contents: &[u8],
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<OwnedFd, Failure> {
        let name = name.trim_start_matches('/').replace('/', "-");
        let make = || -> io::Result<OwnedFd> {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let fd = openat(&self.0, name.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
            io::Write::write_all(&mut File::from(fd.try_clone()?), contents)?;
            let (owner, group) = (
                rustix::fs::Uid::from_raw(uid),
                rustix::fs::Gid::from_raw(gid),
            );
            fchown(&fd, Some(owner), Some(group))?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o777))?;
            let file = dev::open_path(self.0.as_fd(), &name)?;
            let mount = clone_tree(file.as_fd(), false)?;
            let clear = match mode & 0o111 {
                0 => MountAttrFlags::empty(),
                _ => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            };
            let set = (NOSUID_NODEV_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY) - clear;
            sys::mount_setattr(mount.as_fd(), false, set, clear)?;
            Ok(mount)
        };
        make().doing("make a private file")
    }

    /// A clone of part of a detached mount: only what is attached can be looked into and cloned.
    fn part_of(&self, mount: &OwnedFd, index: usize, subpath: &str) -> io::Result<OwnedFd> {
        let name = format!("mount{index}");
        rustix::fs::mkdirat(&self.0, name.as_str(), Mode::RWXU)?;
        attach(
            mount.as_fd(),
            dev::open_path(self.0.as_fd(), &name)?.as_fd(),
        )?;
        let part = Root(mount.as_fd()).open(subpath.as_bytes())?;
        clone_tree(part.fd.as_fd(), true)
    }
}
