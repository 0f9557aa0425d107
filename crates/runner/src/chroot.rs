//! The way without namespaces: root in a container that may neither mount nor unshare.
//!
//! What mounts would bring is put into the root file system itself, before, and taken away again
//! after: a few device nodes, the resolver's files, and what the caller lends (see `placed`). There
//! is no `/proc`. What the process leaves running becomes the supervisor's child and is killed by it.
//! Whoever may not make device nodes gets a file for `/dev/null`, which is what nearly all programs
//! need of them, and does without the others.
//!
//! In place, where the root file system is the container's own root directory, its devices and the
//! resolver's files are there already.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, mknodat, openat};
use rustix::io::Errno;

use crate::devices::NODES;
use crate::placed::Placed;
use crate::plan::{Doing as _, Failure, Plan, PlannedSource, Stub, Way};
use crate::rootpath::{Made, Missing, Root, set_times, times_of};
use crate::spec::SHM_BYTES_DEFAULT;
use crate::status::Warning;
use crate::stubs;

/// What was put into the root file system.
#[derive(Default)]
pub(crate) struct Furniture {
    stubs: Vec<(Stub, OwnedFd)>,
    placed: Placed,
    warnings: Vec<Warning>,
}

impl Furniture {
    pub(crate) fn put(
        rootfs: BorrowedFd<'_>,
        plan: &Plan,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<Self, Failure> {
        refuse_what_needs_namespaces(plan)?;
        // Whoever called may have one that closes the devices to other users.
        rustix::process::umask(Mode::empty());
        let mut furniture = Self {
            warnings: sizes_not_held(plan),
            ..Self::default()
        };
        let devices = match plan.way {
            Way::InPlace => Ok(()),
            _ => furniture.put_devices(rootfs),
        };
        let put = devices
            .doing_at("make devices in", "/dev")
            .and_then(|()| furniture.place(rootfs, plan, fds));
        match put {
            Ok(()) => Ok(furniture),
            Err(failure) => {
                // The first failure is the one to tell of.
                let _second = furniture.remove();
                Err(failure)
            }
        }
    }

    fn put_devices(&mut self, rootfs: BorrowedFd<'_>) -> io::Result<()> {
        let mut made = Vec::new();
        let dev = Root(rootfs).walk(b"/dev", Missing::Directories, &mut made);
        self.add(made);
        let dev = dev?.fd;
        for (name, major, minor) in NODES {
            match self.put_device(&dev, name, makedev(major, minor)) {
                Err(error) if is_forbidden(&error) => {
                    self.do_without_devices();
                    return Ok(());
                }
                other => other?,
            }
        }
        if !works(&dev) {
            self.do_without_devices();
        }
        Ok(())
    }

    fn put_device(&mut self, dev: &OwnedFd, name: &str, device: u64) -> io::Result<()> {
        let parent_before = fstat(dev)?;
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        match mknodat(dev, name, kind, mode, device) {
            Err(Errno::EXIST) => return Ok(()),
            other => other?,
        }
        let made = rustix::fs::statat(dev, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        set_times(dev.as_fd(), times_of(&parent_before))?;
        let parent = dev.try_clone()?;
        self.add(vec![Made {
            parent,
            name: name.into(),
            parent_before,
            made,
        }]);
        Ok(())
    }

    fn do_without_devices(&mut self) {
        self.placed.stands_in_for_null = true;
        self.warnings.push(Warning {
            what: "device nodes".to_owned(),
            why: "this container may not make them (CAP_MKNOD), or they do not work in it: \
                /dev/null is a file for the time being, and there are no others"
                .to_owned(),
        });
    }

    /// What the process goes without.
    pub(crate) fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    fn place(
        &mut self,
        rootfs: BorrowedFd<'_>,
        plan: &Plan,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<(), Failure> {
        let mut made = Vec::new();
        let put = self.placed.put(rootfs, plan, fds, &mut made);
        self.add(made);
        put
    }

    fn add(&mut self, made: Vec<Made>) {
        let stubs = made.into_iter().map(|it| (Stub::of(&it), it.parent));
        self.stubs.extend(stubs);
    }

    /// Takes it all away again, but for what the process changed.
    pub(crate) fn remove(self) -> io::Result<()> {
        let taken = self.placed.take_away();
        let removed = stubs::remove_all(self.stubs);
        taken.and(removed)
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// Whether a node can be opened: neither a device filter nor the file system's mount forbids it.
fn works(dev: &OwnedFd) -> bool {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(dev, "null", flags, Mode::empty()).map_err(io::Error::from);
    !opened.is_err_and(|error| is_forbidden(&error))
}

/// Memory of a certain size is a directory like any other here.
fn sizes_not_held(plan: &Plan) -> Vec<Warning> {
    let not_held = |target: &str| Warning {
        what: format!("the size of {target}"),
        why: "nothing can be mounted here: it is a directory of the root file system, without a \
            limit"
            .to_owned(),
    };
    let is_shm_mounted = plan.mounts.iter().any(|it| it.target == "/dev/shm");
    let shm = (plan.shm_bytes != SHM_BYTES_DEFAULT && !is_shm_mounted).then_some("/dev/shm");
    let limited = plan.mounts.iter().filter_map(|mount| match mount.source {
        PlannedSource::Tmpfs {
            size_bytes: Some(_),
            ..
        } => Some(mount.target.as_str()),
        _ => None,
    });
    shm.into_iter().chain(limited).map(not_held).collect()
}

fn refuse_what_needs_namespaces(plan: &Plan) -> Result<(), Failure> {
    let wanted = [
        (plan.readonly_rootfs, "readonly_rootfs"),
        (plan.init, "init"),
    ];
    match wanted.into_iter().find(|(wanted, _)| *wanted) {
        None => Ok(()),
        Some((_, field)) => Err(Failure::Spec {
            field: field.to_owned(),
            reason: "not possible with chroot or inplace isolation, which have no mounts and no \
                namespaces"
                .to_owned(),
        }),
    }
}
