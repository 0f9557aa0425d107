//! What mounts would show, where nothing can be mounted: it is put in its place before the process
//! runs, and taken away after.
//!
//! ```text
//! loan ──rename──► scratch/0 ──exchange──► root/target     before
//! loan ◄──rename── scratch/0 ◄──exchange── root/target     after
//! ```
//! The scratch directory stands beside the root file system, so that everything is a rename. What
//! stood at a target waits in the scratch directory meanwhile. After `kill -9` all of it lies with
//! the root file system, and goes with it: what was lent is lost then, and nothing else is.
//!
//! Invariant: names are looked up by [`Root`], and only while no process runs in the root file
//! system; after, by the descriptors that were opened then.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, fstat, openat, renameat_with, statat,
};
use rustix::io::Errno;

use crate::plan::{Doing as _, Failure, FdIndex, Plan, PlannedSource, Tree, Way};
use crate::rootpath::{Found, Made, Missing, Root, set_times, times_of};

/// Everything that was put in its place. Dropping it leaves it there.
#[derive(Default)]
pub(crate) struct Placed {
    scratch: Option<PathBuf>,
    swaps: Vec<Swap>,
    /// In the order in which they were borrowed.
    loans: Vec<Loan>,
    /// A file takes the place of the device node that cannot be made.
    pub(crate) stands_in_for_null: bool,
}

/// Something that was moved into the scratch directory and belongs elsewhere.
struct Loan {
    lent: OwnedFd,
    /// Where it is while it is not at its target.
    at: PathBuf,
    lender: PathBuf,
}

/// One thing at its target, and what stood there.
struct Swap {
    parent: OwnedFd,
    name: OsString,
    /// What was put there.
    put: OwnedFd,
    /// Where what stood there waits.
    aside: PathBuf,
    is_lent: bool,
}

/// A thing to be put somewhere.
struct Item {
    target: String,
    is_directory: bool,
    at: PathBuf,
    is_lent: bool,
}

impl Placed {
    /// Puts everything that the plan asks for in its place; `made` gets what had to be made there.
    pub(crate) fn put(
        &mut self,
        rootfs: BorrowedFd<'_>,
        plan: &Plan,
        fds: &mut [Option<OwnedFd>],
        made: &mut Vec<Made>,
    ) -> Result<(), Failure> {
        let scratch = make_scratch(rootfs).doing("make a directory beside the root file system")?;
        self.scratch = Some(scratch.clone());
        let mut items = match plan.way {
            // They are there.
            Way::InPlace => Vec::new(),
            _ => make_standard(&scratch, plan)?,
        };
        if self.stands_in_for_null {
            items.push(make_null(&scratch)?);
        }
        // A directory of the root file system itself is where it belongs.
        let mounts = plan.mounts.iter().enumerate();
        let mounts = mounts.filter(|(_, it)| !matches!(it.source, PlannedSource::Own { .. }));
        for (index, mount) in mounts {
            let at = scratch.join(format!("mount{index}"));
            let item = make_item(&mount.target, &mount.source, at, fds, &mut self.loans)?;
            items.retain(|other| other.target != item.target);
            items.push(item);
        }
        items.sort_by_key(|item| item.target.matches('/').count());
        items
            .into_iter()
            .try_for_each(|item| self.swap_in(rootfs, item, made))
    }

    fn swap_in(
        &mut self,
        rootfs: BorrowedFd<'_>,
        item: Item,
        made: &mut Vec<Made>,
    ) -> Result<(), Failure> {
        let target = item.target.as_str();
        let missing = match item.is_directory {
            true => Missing::Directories,
            false => Missing::File,
        };
        let found = Root(rootfs).walk(target.as_bytes(), missing, made);
        let found = found.doing_at("make the place for", target)?;
        if (found.kind == FileType::Directory) != item.is_directory {
            return Err(Failure::Setup {
                action: "put something at".to_owned(),
                path: Some(target.into()),
                hint: Some("a directory can only stand for a directory, a file for a file".into()),
                errno: libc::EEXIST,
            });
        }
        let what = "put something at";
        let (parent, name) = parent_of(found.fd.as_fd()).doing_at(what, target)?;
        let put = open_path(CWD, item.at.as_os_str()).doing_at(what, target)?;
        let before = statat(&parent, ".", AtFlags::empty()).doing_at(what, target)?;
        renameat_with(CWD, &item.at, &parent, &name, RenameFlags::EXCHANGE)
            .doing_at(what, target)?;
        // From here on it is known to be there, whatever fails.
        let timed = set_times(parent.as_fd(), times_of(&before));
        self.swaps.push(Swap {
            parent,
            name,
            put,
            aside: item.at,
            is_lent: item.is_lent,
        });
        timed.doing_at(what, target)
    }

    /// Everything as it was, but for what the process did to places themselves; what was lent goes
    /// back. No process may run in the root file system any more.
    pub(crate) fn take_away(self) -> io::Result<()> {
        let mut result = Ok(());
        for swap in self.swaps.into_iter().rev() {
            let undone = swap.undo();
            result = result.and(undone);
        }
        let mut returned = Ok(());
        // What was borrowed first may be where what was borrowed later belongs, and the other way
        // round: the last one goes back first.
        for loan in self.loans.into_iter().rev() {
            let back = loan.give_back();
            returned = returned.and(back);
        }
        // What could not be given back is there still.
        let removed = match &returned {
            Ok(()) => self.scratch.map_or(Ok(()), fs::remove_dir_all),
            Err(_) => Ok(()),
        };
        result.and(returned).and(removed)
    }
}

impl Loan {
    /// Unless the process deleted it.
    fn give_back(&self) -> io::Result<()> {
        let (lent, flags) = (fstat(&self.lent)?, AtFlags::SYMLINK_NOFOLLOW);
        if !statat(CWD, &self.at, flags).is_ok_and(|it| same(&it, &lent)) {
            return Ok(());
        }
        let flags = RenameFlags::NOREPLACE;
        Ok(renameat_with(CWD, &self.at, CWD, &self.lender, flags)?)
    }
}

impl Swap {
    fn undo(self) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let put = fstat(&self.put)?;
        match statat(&self.parent, &self.name, flags) {
            Ok(now) if same(&now, &put) => exchange(self.parent.as_fd(), &self.name, &self.aside),
            // The process put something else there, which stays.
            Ok(_) => self.fetch(&put),
            Err(Errno::NOENT | Errno::STALE) => {
                self.fetch(&put)?;
                self.put_back();
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Brings what was lent back, wherever the process moved it.
    fn fetch(&self, put: &Stat) -> io::Result<()> {
        if !self.is_lent || put.st_nlink == 0 {
            return Ok(());
        }
        let path = path_of(self.put.as_fd())?;
        let stood = self.aside.with_extension("stood");
        fs::rename(&self.aside, &stood)?;
        match fs::rename(path, &self.aside) {
            // An emptied directory that is deleted still has links.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(stood, &self.aside),
            other => other,
        }
    }

    /// What stood there stands there again, unless its directory is gone too.
    fn put_back(&self) {
        let stood = self.aside.with_extension("stood");
        let from = if stood.exists() { &stood } else { &self.aside };
        let flags = RenameFlags::NOREPLACE;
        // Whoever deleted the directory deleted what was in it.
        let _gone = renameat_with(CWD, from, &self.parent, &self.name, flags);
    }
}

impl Item {
    fn made(target: &str, at: PathBuf, is_directory: bool) -> Self {
        Self {
            target: target.to_owned(),
            is_directory,
            at,
            is_lent: false,
        }
    }
}

/// The resolver's files; and where programs put semaphores and shared memory, which here is a
/// directory like any other.
fn make_standard(scratch: &Path, plan: &Plan) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::new();
    for (target, contents) in [
        ("/etc/hosts", Some(&plan.hosts)),
        ("/etc/resolv.conf", plan.resolv_conf.as_ref()),
    ] {
        let at = scratch.join(items.len().to_string());
        if let Some(contents) = contents {
            make_file(&at, contents.as_bytes(), (0o644, 0, 0)).doing_at("make", target)?;
            items.push(Item::made(target, at, false));
        }
    }
    let (shared, at) = ("/dev/shm", scratch.join("shm"));
    make_directory(&at, 0o1777).doing_at("make a directory for", shared)?;
    items.push(Item::made(shared, at, true));
    Ok(items)
}

/// Takes whatever is written, and is empty until then.
fn make_null(scratch: &Path) -> Result<Item, Failure> {
    let (target, at) = ("/dev/null", scratch.join("null"));
    make_file(&at, b"", (0o666, 0, 0)).doing_at("make", target)?;
    Ok(Item::made(target, at, false))
}

fn make_item(
    target: &str,
    source: &PlannedSource,
    at: PathBuf,
    fds: &mut [Option<OwnedFd>],
    loans: &mut Vec<Loan>,
) -> Result<Item, Failure> {
    match source {
        PlannedSource::Tmpfs { mode, .. } => {
            make_directory(&at, *mode).doing_at("make a directory for", target)?;
            Ok(Item::made(target, at, true))
        }
        PlannedSource::File {
            contents,
            mode,
            uid,
            gid,
        } => {
            let bytes = read_contents(fds, *contents).doing_at("read the contents of", target)?;
            make_file(&at, &bytes, (*mode, *uid, *gid)).doing_at("make", target)?;
            Ok(Item::made(target, at, false))
        }
        PlannedSource::Bind {
            tree: Tree::Clone(index),
            subpath,
            lent: true,
            ..
        } => {
            let source = fds.get_mut(*index).and_then(Option::take);
            let source = source
                .ok_or(Errno::BADF)
                .doing_at("borrow what is shown at", target)?;
            borrow(&source, subpath.as_deref(), at, target, loans)
        }
        PlannedSource::Bind { .. } | PlannedSource::Own { .. } => Err(Failure::Spec {
            field: "mounts".to_owned(),
            reason: format!(
                "`{target}`: what is in use elsewhere cannot be shown with chroot or inplace \
                 isolation, which have no mounts"
            ),
        }),
    }
}

/// Moves what is lent into the scratch directory.
fn borrow(
    source: &OwnedFd,
    subpath: Option<&str>,
    at: PathBuf,
    target: &str,
    loans: &mut Vec<Loan>,
) -> Result<Item, Failure> {
    let what = "borrow what is shown at";
    let found = open_lent(source, subpath).doing_at(what, target)?;
    let lender = path_of(found.fd.as_fd()).doing_at(what, target)?;
    let flags = RenameFlags::NOREPLACE;
    renameat_with(CWD, &lender, CWD, &at, flags)
        .doing_at(what, target)
        .map_err(explain_distance)?;
    loans.push(Loan {
        lent: found.fd,
        at: at.clone(),
        lender,
    });
    Ok(Item {
        target: target.to_owned(),
        is_directory: found.kind == FileType::Directory,
        at,
        is_lent: true,
    })
}

/// The source itself may be a file or a socket.
fn open_lent(source: &OwnedFd, subpath: Option<&str>) -> io::Result<Found> {
    let kind = FileType::from_raw_mode(fstat(source)?.st_mode);
    match subpath {
        None if kind != FileType::Directory => Ok(Found {
            fd: source.try_clone()?,
            kind,
        }),
        _ => Root(source.as_fd()).open(subpath.unwrap_or(".").as_bytes()),
    }
}

/// What is lent is renamed, which no file system does across its borders.
fn explain_distance(failure: Failure) -> Failure {
    match failure {
        Failure::Setup {
            action,
            path,
            hint: None,
            errno: libc::EXDEV,
        } => Failure::Setup {
            action,
            path,
            hint: Some(
                "keep the state root (--root) on the file system of the container's root directory"
                    .to_owned(),
            ),
            errno: libc::EXDEV,
        },
        other => other,
    }
}

fn make_scratch(rootfs: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let root = path_of(rootfs)?;
    let parent = root.parent().unwrap_or(&root);
    let scratch = parent.join(format!(".longshore-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&scratch)?;
    Ok(scratch)
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make_file(path: &Path, contents: &[u8], (mode, uid, gid): (u32, u32, u32)) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(contents)?;
    fchown(&file, Some(uid), Some(gid))?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
}

fn read_contents(fds: &mut [Option<OwnedFd>], index: FdIndex) -> io::Result<Vec<u8>> {
    let fd = fds
        .get_mut(index)
        .and_then(Option::take)
        .ok_or(Errno::BADF)?;
    let mut file = File::from(fd);
    file.rewind()?;
    let mut contents = Vec::new();
    file.read_to_end(&mut contents)?;
    Ok(contents)
}

/// Swaps what is at two places, and leaves the times of the first one's directory as they were.
fn exchange(parent: BorrowedFd<'_>, name: &OsStr, aside: &Path) -> io::Result<()> {
    let times = times_of(&statat(parent, ".", AtFlags::empty())?);
    renameat_with(CWD, aside, parent, name, RenameFlags::EXCHANGE)?;
    set_times(parent, times)
}

/// The directory that something is in, and its name there.
fn parent_of(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, OsString)> {
    let path = path_of(fd)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::BUSY.into());
    };
    let parent = open_path(CWD, parent.as_os_str())?;
    let found = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !same(&found, &fstat(fd)?) {
        return Err(Errno::STALE.into());
    }
    Ok((parent, name.to_owned()))
}

fn path_of(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn open_path(directory: BorrowedFd<'_>, path: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, path, flags, Mode::empty())?)
}

fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
