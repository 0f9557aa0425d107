//! Mounting layers on one another.
//!
//! Every mount made here is *detached*: it has no place in any file system tree, only a
//! descriptor. Nobody else sees it, and it goes when the last descriptor is closed (or with the
//! sandbox it was moved into), also after `kill -9`.
//!
//! Every option whose default distributions change is named, so that an upper directory means the
//! same on all of them: `index`, `metacopy` and `redirect_dir` off, `xino` on only where layers lie
//! on several file systems. (`nofollow` is `off` and ignores redirections that a layer brings; with
//! `userxattr` it is the only value allowed.)

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount, mount_change, move_mount, open_tree,
};

use crate::sys;

/// The kernel's `OVL_MAX_STACK` (fs/overlayfs/params.h).
pub(crate) const LAYERS_MAX: usize = 500;

/// `mount(2)` copies one page of options and needs its last byte for the terminator.
const MOUNT_OPTIONS_BYTES_MAX: usize = 4095;

const FIXED_OPTIONS: [(&str, &str); 3] = [
    ("index", "off"),
    ("metacopy", "off"),
    ("redirect_dir", "nofollow"),
];

/// Under which extended attributes the kernel keeps its marks (opaque directories).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayMarks {
    /// `trusted.overlay.*`: for root of the machine.
    Trusted,
    /// `user.overlay.*`: for root of a user namespace (`userxattr`).
    User,
    /// Our own, where the kernel's cannot be made: such layers are copied, never mounted.
    Own,
}

impl OverlayMarks {
    /// The attribute that makes a directory opaque when its value is `y`.
    #[must_use]
    pub fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
            Self::Own => "user.longshore.opaque",
        }
    }
}

/// Whether an error says that overlays cannot be mounted here at all: they are forbidden, not built
/// in, or the file system below cannot carry them (or, though open, has no path). Any other is
/// worth telling.
pub(crate) fn is_unavailable(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::PERM, Errno::ACCESS, Errno::NODEV, Errno::NOENT]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
        || is_unknown_option(error)
}

/// A layer of a stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lower<'fd> {
    /// The directory, or the detached mount of an image.
    pub(crate) root: BorrowedFd<'fd>,
    pub(crate) is_image: bool,
}

/// What is mounted on what.
pub(crate) struct Stack<'fd> {
    /// The layers, topmost first; at least one (two without an upper directory).
    pub(crate) lowers: Vec<Lower<'fd>>,
    /// The upper and the work directory; without them the mount is read-only.
    pub(crate) upper: Option<(BorrowedFd<'fd>, BorrowedFd<'fd>)>,
    pub(crate) marks: OverlayMarks,
}

impl Stack<'_> {
    /// Mounts, the best way this kernel knows.
    pub(crate) fn mount(&self) -> io::Result<OwnedFd> {
        let ways = if self.has_images() {
            &[Self::mount_by_descriptor, Self::mount_attached][..]
        } else {
            &[
                Self::mount_by_descriptor,
                Self::mount_by_layer_path,
                Self::mount_classic,
            ]
        };
        let mut answer = Err(io::Error::from(Errno::INVAL));
        for way in ways {
            answer = way(self);
            match &answer {
                Err(error) if is_unknown_option(error) => {}
                _ => return answer,
            }
        }
        answer
    }

    /// Linux 6.13: layers are given as descriptors, so that no path is looked up at all.
    fn mount_by_descriptor(&self) -> io::Result<OwnedFd> {
        self.mount_by_fsconfig(&self.roots(), self.upper, |context, key, fd| {
            fsconfig_set_fd(context, key, fd)
        })
    }

    /// Linux 6.8: layers are given one by one, each as a path.
    fn mount_by_layer_path(&self) -> io::Result<OwnedFd> {
        self.mount_by_fsconfig(&self.roots(), self.upper, set_by_path)
    }

    fn roots(&self) -> Vec<BorrowedFd<'_>> {
        self.lowers.iter().map(|lower| lower.root).collect()
    }

    fn has_images(&self) -> bool {
        self.lowers.iter().any(|lower| lower.is_image)
    }

    /// Layers of one file system keep their files' numbers; those of several need numbers that
    /// tell the layer too, or files would seem to be on other devices than their directories.
    fn numbering(&self) -> (&'static str, &'static str) {
        ("xino", if self.has_images() { "on" } else { "off" })
    }

    fn mount_by_fsconfig(
        &self,
        lowers: &[BorrowedFd<'_>],
        upper: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
        set: impl Fn(BorrowedFd<'_>, &str, BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        fsconfig_set_string(context, "source", "longshore")?;
        for (key, value) in FIXED_OPTIONS.into_iter().chain([self.numbering()]) {
            fsconfig_set_string(context, key, value)?;
        }
        // Else Linux 6.6 and later mark the upper directory; earlier ones do not know the option.
        let _unknown = fsconfig_set_string(context, "uuid", "null");
        if self.marks == OverlayMarks::User {
            fsconfig_set_flag(context, "userxattr")?;
        }
        for lower in lowers {
            set(context, "lowerdir+", *lower)?;
        }
        if let Some((upper, work)) = upper {
            set(context, "upperdir", upper)?;
            set(context, "workdir", work)?;
            fsconfig_set_flag(context, "volatile")?;
        }
        fsconfig_create(context)?;
        let attributes = match upper {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// Older kernels: `mount(2)`, whose options are bounded by a page, in a mount namespace that
    /// only a short-lived thread sees; what comes back is a detached clone of that mount.
    fn mount_classic(&self) -> io::Result<OwnedFd> {
        out_of_sight(|| self.mount_by_options())
    }

    /// Linux before 6.15 stacks no mounts that are detached: images are moved into a mount
    /// namespace that only a short-lived thread sees, and go with it; overlay keeps its own
    /// clones of them.
    fn mount_attached(&self) -> io::Result<OwnedFd> {
        out_of_sight(|| {
            let (lowers, upper) = self.attach_images()?;
            let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
            let upper = upper
                .as_ref()
                .map(|(upper, work)| (upper.as_fd(), work.as_fd()));
            self.mount_by_fsconfig(&lowers, upper, set_by_path)
        })
    }

    fn attach_images(&self) -> io::Result<Reopened> {
        // Directories first: what is mounted below may hide them.
        let directories = self.reopen()?;
        let spot = mount_spot()?;
        mount("longshore", spot, "tmpfs", MountFlags::empty(), None)?;
        let mut lowers = directories.0;
        for (number, image) in self.lowers.iter().enumerate() {
            if !image.is_image {
                continue;
            }
            let at = format!("{spot}/{number}");
            mkdirat(CWD, &at, Mode::RWXU)?;
            let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(image.root, "", CWD, &at, by_descriptor)?;
            lowers[number] = open_directory(&at)?;
        }
        Ok((lowers, directories.1))
    }

    /// The directories as the calling thread's mounts have them: overlay takes only those of
    /// the mount namespace it is mounted in. Images stay what they are.
    fn reopen(&self) -> io::Result<Reopened> {
        let reopen = |lower: &Lower<'_>| match lower.is_image {
            true => Ok(lower.root.try_clone_to_owned()?),
            false => reopen(lower.root),
        };
        let lowers = self.lowers.iter().map(reopen).collect::<io::Result<_>>()?;
        let upper = match self.upper {
            Some((upper, work)) => Some((self::reopen(upper)?, self::reopen(work)?)),
            None => None,
        };
        Ok((lowers, upper))
    }

    fn mount_by_options(&self) -> io::Result<OwnedFd> {
        let (lowers, upper) = self.reopen()?;
        let options = classic_options(&lowers, upper.as_ref(), self.numbering(), self.marks);
        if options.len() > MOUNT_OPTIONS_BYTES_MAX {
            return Err(Errno::TOOBIG.into());
        }
        let options = CString::new(options)?;
        let flags = if upper.is_some() {
            MountFlags::empty()
        } else {
            MountFlags::RDONLY
        };
        let spot = mount_spot()?;
        mount("longshore", spot, "overlay", flags, options.as_c_str())?;
        Ok(open_tree(CWD, spot, CLONE)?)
    }
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// The layers, and the upper and the work directory.
type Reopened = (Vec<OwnedFd>, Option<(OwnedFd, OwnedFd)>);

/// Mounts on a thread with a mount namespace of its own, from which nothing comes out.
fn out_of_sight(mount: impl FnOnce() -> io::Result<OwnedFd> + Send) -> io::Result<OwnedFd> {
    let apart = || {
        sys::unshare_mounts()?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        mount()
    };
    thread::scope(|scope| {
        let mounted = scope.spawn(apart).join();
        mounted.unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

fn set_by_path(context: BorrowedFd<'_>, key: &str, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fsconfig_set_string(context, key, descriptor_path(fd))
}

fn classic_options(
    lowers: &[OwnedFd],
    upper: Option<&(OwnedFd, OwnedFd)>,
    numbering: (&str, &str),
    marks: OverlayMarks,
) -> String {
    let lowers: Vec<_> = lowers
        .iter()
        .map(|fd| descriptor_path(fd.as_fd()))
        .collect();
    let mut options = format!("lowerdir={}", lowers.join(":"));
    for (key, value) in FIXED_OPTIONS.into_iter().chain([numbering]) {
        options.push_str(&format!(",{key}={value}"));
    }
    if marks == OverlayMarks::User {
        options.push_str(",userxattr");
    }
    if let Some((upper, work)) = upper {
        let (upper, work) = (
            descriptor_path(upper.as_fd()),
            descriptor_path(work.as_fd()),
        );
        options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
    }
    options
}

/// The same directory, through the mounts that the calling thread sees now.
fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = readlinkat(CWD, descriptor_path(directory), Vec::new())?;
    let reopened = open_directory(path)?;
    let (before, now) = (fstat(directory)?, fstat(&reopened)?);
    if (before.st_dev, before.st_ino) == (now.st_dev, now.st_ino) {
        return Ok(reopened);
    }
    Err(Errno::STALE.into())
}

fn open_directory(path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// A directory that holds nothing that the mount itself needs. The mount is seen by this thread only.
fn mount_spot() -> io::Result<&'static str> {
    let spots = ["/tmp", "/mnt", "/var", "/dev"];
    let found = spots
        .into_iter()
        .find(|spot| std::path::Path::new(spot).is_dir());
    found.ok_or_else(|| io::Error::other("no directory to mount on"))
}

fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What a kernel says of an option, or of a way to give one, that it does not know.
fn is_unknown_option(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::INVAL, Errno::NOSYS, Errno::BADF, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;
    use std::fs;

    type Way = fn(&Stack<'_>) -> io::Result<OwnedFd>;

    /// What was mounted. Since that version of Linux it must be; before, the kernel must have said
    /// that it does not know the way, so that another one is taken.
    fn mounted_since(
        since: (u32, u32),
        mount: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> Option<OwnedFd> {
        let (kernel, (major, minor)) = (kernel(), since);
        match mount() {
            Ok(mounted) => Some(mounted),
            Err(error) if kernel < since && is_unknown_option(&error) => {
                crate::skip::skip(format_args!("needs Linux {major}.{minor}: {error}"));
                None
            }
            Err(error) => panic!("known since Linux {major}.{minor}, on {kernel:?}: {error}"),
        }
    }

    fn kernel() -> (u32, u32) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().unwrap().parse().unwrap();
        (next(), next())
    }

    #[test]
    fn privileged_every_way_of_mounting_shows_the_same_tree() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("needs root");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = temp.path().join(name);
            fs::create_dir(&path).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            (openat(CWD, &path, flags, Mode::empty()).unwrap(), path)
        };
        let ((low, low_path), (high, high_path)) = (open("low"), open("high"));
        fs::write(low_path.join("both"), "low").unwrap();
        fs::write(low_path.join("only"), "low").unwrap();
        fs::write(high_path.join("both"), "high").unwrap();
        let stack = Stack {
            lowers: [&high, &low]
                .map(|fd| Lower {
                    root: fd.as_fd(),
                    is_image: false,
                })
                .to_vec(),
            upper: None,
            marks: OverlayMarks::Trusted,
        };
        let ways: [(Way, (u32, u32)); 3] = [
            (|stack| stack.mount_by_descriptor(), (6, 13)),
            (|stack| stack.mount_by_layer_path(), (6, 8)),
            (|stack| stack.mount_classic(), (0, 0)),
        ];
        for (way, since) in ways {
            let Some(mounted) = mounted_since(since, || way(&stack)) else {
                continue;
            };
            let root = descriptor_path(mounted.as_fd());
            assert_eq!(fs::read_to_string(format!("{root}/both")).unwrap(), "high");
            assert_eq!(fs::read_to_string(format!("{root}/only")).unwrap(), "low");
            assert!(
                fs::write(format!("{root}/new"), "").is_err(),
                "a view is read-only"
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(" longshore "),
            "nothing is mounted in sight:\n{mounts}"
        );
    }

    #[test]
    fn privileged_both_ways_of_mounting_images_give_the_same_stack() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("needs root");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (path, directory) = (temp.path().join("image"), temp.path().join("dir"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "directory").unwrap();
        fs::write(directory.join("only"), "directory").unwrap();
        write_image(&fs::File::create_new(&path).unwrap());
        let ways: [(Way, (u32, u32)); 2] = [
            (|stack| stack.mount_by_descriptor(), (6, 15)),
            (|stack| stack.mount_attached(), (6, 8)),
        ];
        let seen = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            mounts.matches(" erofs ").count()
        };
        let before = seen();
        for (way, since) in ways {
            let Ok(opened) = Tree::Image(path.clone()).open() else {
                crate::skip::skip("cannot mount EROFS images that are files");
                return;
            };
            let below = Tree::Directory(directory.clone()).open().unwrap();
            let stack = Stack {
                lowers: vec![opened.layer(), below.layer()],
                upper: None,
                marks: OverlayMarks::Trusted,
            };
            let Some(mounted) = mounted_since(since, || way(&stack)) else {
                continue;
            };
            drop((opened, below));
            let root = descriptor_path(mounted.as_fd());
            assert_eq!(fs::read_to_string(format!("{root}/file")).unwrap(), "");
            assert_eq!(
                fs::read_to_string(format!("{root}/only")).unwrap(),
                "directory"
            );
        }
        assert_eq!(seen(), before, "out of sight");
    }

    fn write_image(to: &fs::File) {
        use longshore_layers as layers;
        let file = layers::Change::without_content(layers::Entry {
            path: layers::EntryPath::new("file").unwrap(),
            kind: layers::Kind::File { size: 0 },
            metadata: layers::Metadata::default(),
        });
        let marks = layers::OverlayAttributes::Trusted;
        layers::image_of_changes(&[file], to, marks, &layers::NoLowerLayers).unwrap();
    }
}
