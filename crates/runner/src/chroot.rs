//! The way without namespaces: root in a container that may neither mount nor unshare.
//!
//! What mounts would bring is put into the root file system itself, before, and taken away again
//! after: a few device nodes, the resolver's files, and what the caller lends (see `placed`). There
//! is no `/proc`. What the process leaves running becomes the supervisor's child and is killed by it.
//!
//! In place, where the root file system is the container's own root directory, its devices and the
//! resolver's files are there already.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, fstat, makedev, mknodat};
use rustix::io::Errno;

use crate::devices::NODES;
use crate::placed::Placed;
use crate::plan::{Doing as _, Failure, Plan, Stub, Way};
use crate::rootpath::{Made, Missing, Root, set_times, times_of};
use crate::stubs;

/// What was put into the root file system.
#[derive(Default)]
pub(crate) struct Furniture {
    stubs: Vec<(Stub, OwnedFd)>,
    placed: Placed,
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
        let mut furniture = Self::default();
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
            let parent_before = fstat(&dev)?;
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
            match mknodat(&dev, name, kind, mode, makedev(major, minor)) {
                Err(Errno::EXIST) => continue,
                other => other?,
            }
            let made = rustix::fs::statat(&dev, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            set_times(dev.as_fd(), times_of(&parent_before))?;
            let parent = dev.try_clone()?;
            self.add(vec![Made {
                parent,
                name: name.into(),
                parent_before,
                made,
            }]);
        }
        Ok(())
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
