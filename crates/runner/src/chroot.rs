//! The way without namespaces: root in a container that may neither mount nor unshare.
//!
//! What mounts would bring is put into the root file system itself, before, and taken away again
//! after: a few device nodes, and the resolver's files where the image has none. There is no
//! `/proc`. What the process leaves running becomes the supervisor's child and is killed by it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, Stat, Timespec, Timestamps, fstat, futimens, makedev, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::devices::NODES;
use crate::plan::{Doing as _, Failure, Plan, Stub};
use crate::rootpath::{Made, Missing, Root, set_times, times_of};
use crate::stubs;

/// Processes that are being killed get this long to go.
const KILL_TIME_MAX: Duration = Duration::from_secs(5);

/// What was put into the root file system.
pub(crate) struct Furniture {
    stubs: Vec<(Stub, OwnedFd)>,
    written: Vec<Written>,
}

/// A file that was empty (or not there) and got contents.
struct Written {
    file: File,
    contents: String,
    before: Stat,
}

impl Furniture {
    pub(crate) fn put(rootfs: BorrowedFd<'_>, plan: &Plan) -> Result<Self, Failure> {
        refuse_what_needs_mounts(plan)?;
        let mut furniture = Self {
            stubs: Vec::new(),
            written: Vec::new(),
        };
        let put = furniture
            .put_devices(rootfs)
            .doing_at("make devices in", "/dev")
            .and_then(|()| {
                let files = [
                    ("/etc/hosts", Some(&plan.hosts)),
                    ("/etc/resolv.conf", plan.resolv_conf.as_ref()),
                ];
                files
                    .into_iter()
                    .try_for_each(|(path, contents)| match contents {
                        Some(contents) => furniture
                            .write(rootfs, path, contents)
                            .doing_at("write", path),
                        None => Ok(()),
                    })
            });
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
        let dev = self.walk(rootfs, "/dev", Missing::Directories)?;
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
            self.add(Made {
                parent,
                name: name.into(),
                parent_before,
                made,
            });
        }
        Ok(())
    }

    /// Writes a file that has nothing in it; others are the image's.
    fn write(&mut self, rootfs: BorrowedFd<'_>, path: &str, contents: &str) -> io::Result<()> {
        let place = self.walk(rootfs, path, Missing::File)?;
        let before = fstat(&place)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile || before.st_size != 0 {
            return Ok(());
        }
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        let mut file = File::options().read(true).write(true).open(path)?;
        file.write_all(contents.as_bytes())?;
        self.written.push(Written {
            file,
            contents: contents.to_owned(),
            before,
        });
        Ok(())
    }

    fn walk(
        &mut self,
        rootfs: BorrowedFd<'_>,
        path: &str,
        missing: Missing,
    ) -> io::Result<OwnedFd> {
        let mut made = Vec::new();
        let found = Root(rootfs).walk(path.as_bytes(), missing, &mut made);
        made.into_iter().for_each(|it| self.add(it));
        Ok(found?.fd)
    }

    fn add(&mut self, made: Made) {
        self.stubs.push((Stub::of(&made), made.parent));
    }

    /// Takes it all away again, but for what the process changed.
    pub(crate) fn remove(self) -> io::Result<()> {
        let emptied = self.written.into_iter().try_for_each(Written::undo);
        let removed = stubs::remove_all(self.stubs);
        emptied.and(removed)
    }
}

impl Written {
    fn undo(mut self) -> io::Result<()> {
        let mut now = Vec::new();
        self.file.rewind()?;
        (&self.file)
            .take(self.contents.len() as u64 + 1)
            .read_to_end(&mut now)?;
        if now != self.contents.as_bytes() {
            return Ok(());
        }
        self.file.set_len(0)?;
        let [last_access, last_modification] =
            times_of(&self.before).map(|(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec });
        Ok(futimens(
            &self.file,
            &Timestamps {
                last_access,
                last_modification,
            },
        )?)
    }
}

fn refuse_what_needs_mounts(plan: &Plan) -> Result<(), Failure> {
    let wanted = [
        (!plan.mounts.is_empty(), "mounts"),
        (plan.network == crate::Network::None, "network"),
        (plan.terminal.is_some(), "terminal"),
        (plan.readonly_rootfs, "readonly_rootfs"),
        (plan.init, "init"),
    ];
    match wanted.into_iter().find(|(wanted, _)| *wanted) {
        None => Ok(()),
        Some((_, field)) => Err(Failure::Spec {
            field: field.to_owned(),
            reason: "not possible with chroot isolation, which has no mounts and no namespaces"
                .to_owned(),
        }),
    }
}

/// Makes what loses its parent a child of this process.
pub(crate) fn adopt_orphans() -> Result<(), Failure> {
    set_child_subreaper(Some(getpid())).doing("adopt orphaned processes")
}

/// Kills everything below this process.
pub(crate) fn kill_orphans() {
    let deadline = Instant::now() + KILL_TIME_MAX;
    while Instant::now() < deadline {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                for process in descendants() {
                    // It may have gone by itself.
                    let _gone = kill_process(process, Signal::KILL);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // No children: nothing is left.
            Err(_) => return,
        }
    }
}

fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if let Some(parent) = after_name.split(' ').nth(1).and_then(|it| it.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut todo = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = todo.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        found.extend(below.iter().filter_map(|pid| Pid::from_raw(*pid)));
        todo.extend(below);
    }
    found
}
