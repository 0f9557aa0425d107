//! The sandbox's `/dev`.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, fchmod, fchown, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::devices::{LOOP, LOOPS_INSECURE, NODES, NODES_INSECURE};
use crate::mountfd::{NOSUID_NODEV_NOEXEC, attach, clone_tree, new_file_system};
use crate::plan::{Doing as _, Failure, Plan};
use crate::spec::Security;
use crate::user::Identity;

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", KCORE),
    ("ptmx", "pts/ptmx"),
];
/// Not every kernel has it.
const KCORE: &str = "/proc/kcore";
const NULL: (u32, u32) = (1, 3);

/// A new file system for `/dev`, and the terminals' in it.
pub(crate) struct Dev {
    directory: OwnedFd,
    terminals: OwnedFd,
}

/// The two sides of a terminal.
pub(crate) struct Terminal {
    pub(crate) ours: OwnedFd,
    pub(crate) theirs: OwnedFd,
}

impl Terminal {
    /// The terminal that opening `ptmx` made, in a window of so many rows and columns.
    pub(crate) fn of(ours: OwnedFd, (rows, columns): (u16, u16)) -> io::Result<Self> {
        unlockpt(&ours)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&theirs, size)?;
        Ok(Self { ours, theirs })
    }
}

impl Dev {
    /// Makes it, with nodes, links and directories, mounted nowhere yet.
    pub(crate) fn new(plan: &Plan, nodes_work: bool) -> Result<Self, Failure> {
        let mut attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !nodes_work);
        let options = [("mode", "755"), ("size", "65536k")];
        let directory = new_file_system("tmpfs", &options, attributes).doing_at("mount", "/dev")?;
        let terminals = terminals().doing_at("mount", "/dev/pts")?;
        let dev = Self {
            directory,
            terminals,
        };
        dev.fill(plan.security, nodes_work)?;
        Ok(dev)
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn fill(&self, security: Security, nodes_work: bool) -> Result<(), Failure> {
        for name in ["pts", "shm", "mqueue"] {
            mkdirat(&self.directory, name, Mode::from_raw_mode(0o755)).doing_at("make", name)?;
        }
        let host_has_kcore = openat(CWD, KCORE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        for (name, target) in LINKS {
            if target == KCORE && host_has_kcore.is_err() {
                continue;
            }
            symlinkat(target, &self.directory, name).doing_at("make", name)?;
        }
        if nodes_work {
            for (name, major, minor) in NODES {
                match self.make_node(name, major, minor) {
                    // Root of a user namespace cannot: the host's are borrowed later.
                    Err(Errno::PERM) => return Ok(()),
                    other => other.doing_at("make the device", name)?,
                }
            }
        }
        if security == Security::Insecure {
            mkdirat(&self.directory, "net", Mode::from_raw_mode(0o755)).doing_at("make", "net")?;
            for (name, major, minor) in NODES_INSECURE {
                self.make_node(name, major, minor)
                    .doing_at("make the device", name)?;
            }
            for minor in 0..LOOPS_INSECURE {
                let name = format!("loop{minor}");
                self.make_block_node(&name, LOOP, minor)
                    .doing_at("make the device", &name)?;
            }
        }
        Ok(())
    }

    fn make_node(&self, name: &str, major: u32, minor: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            &self.directory,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )
    }

    fn make_block_node(&self, name: &str, major: u32, minor: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(0o660);
        mknodat(
            &self.directory,
            name,
            FileType::BlockDevice,
            mode,
            makedev(major, minor),
        )
    }

    /// Once it is in place: the file systems in it, and the host's nodes where own ones do not work.
    pub(crate) fn mount_inside(&self, plan: &Plan) -> Result<(), Failure> {
        self.attach(&self.terminals, "pts")?;
        // A mount that the caller asks for there takes its place.
        if !plan
            .mounts
            .iter()
            .any(|mount| mount.target.trim_end_matches('/') == "/dev/shm")
        {
            let size = plan.shm_bytes.to_string();
            let options = [("mode", "1777"), ("size", size.as_str())];
            let shm = new_file_system("tmpfs", &options, NOSUID_NODEV_NOEXEC);
            self.attach(&shm.doing_at("mount", "/dev/shm")?, "shm")?;
        }
        match new_file_system("mqueue", &[], NOSUID_NODEV_NOEXEC) {
            // A kernel without message queues.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            other => self.attach(&other.doing_at("mount", "/dev/mqueue")?, "mqueue")?,
        }
        for (name, ..) in NODES {
            if open_path(self.directory(), name).is_err() {
                self.borrow_node(name).doing_at("borrow the device", name)?;
            }
        }
        Ok(())
    }

    fn attach(&self, mount: &OwnedFd, name: &str) -> Result<(), Failure> {
        let place = open_path(self.directory(), name).doing_at("mount on", name)?;
        attach(mount.as_fd(), place.as_fd()).doing_at("mount on", name)
    }

    fn borrow_node(&self, name: &str) -> io::Result<()> {
        let host = open_path(CWD, &format!("/dev/{name}"))?;
        let place = self.make_file(name)?;
        attach(clone_tree(host.as_fd(), false)?.as_fd(), place.as_fd())
    }

    fn make_file(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&self.directory, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(open_path(self.directory(), name)?)
    }

    pub(crate) fn open_null(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, "null", flags, Mode::empty()).doing_at("open", "/dev/null")
    }

    /// Puts `/dev/null` over a file. It is really it: it was made here (CVE-2025-31133).
    pub(crate) fn cover_with_null(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let null = open_path(self.directory(), "null")?;
        let stat = rustix::fs::fstat(&null)?;
        let device = makedev(NULL.0, NULL.1);
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
            || stat.st_rdev != device
        {
            return Err(Errno::NODEV.into());
        }
        attach(clone_tree(null.as_fd(), false)?.as_fd(), file)
    }

    /// Makes a terminal, which is also `/dev/console`.
    pub(crate) fn open_terminal(
        &self,
        window: (u16, u16),
        identity: &Identity,
    ) -> Result<Terminal, Failure> {
        let open = || -> io::Result<Terminal> {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let ours = openat(&self.terminals, "ptmx", flags, Mode::empty())?;
            let Terminal { ours, theirs } = Terminal::of(ours, window)?;
            fchown(&theirs, Some(identity.uid()), None)?;
            fchmod(&theirs, Mode::from_raw_mode(0o620))?;
            let console = self.make_file("console")?;
            attach(clone_tree(theirs.as_fd(), false)?.as_fd(), console.as_fd())?;
            Ok(Terminal { ours, theirs })
        };
        open().doing("make a terminal")
    }
}

/// A terminal of the caller's own `/dev`, for a process that has none.
pub(crate) fn outer_terminal(window: (u16, u16), identity: &Identity) -> Result<Terminal, Failure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = openat(CWD, "/dev/ptmx", flags, Mode::empty()).doing_at("open", "/dev/ptmx")?;
    let terminal = Terminal::of(ours, window).doing("make a terminal")?;
    let theirs = &terminal.theirs;
    fchown(theirs, Some(identity.uid()), None).doing("give the terminal away")?;
    fchmod(theirs, Mode::from_raw_mode(0o620)).doing("give the terminal away")?;
    Ok(terminal)
}

/// In a user namespace the group 5 (`tty`) may not exist.
fn terminals() -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [
        ("newinstance", ""),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("gid", "5"),
    ];
    new_file_system("devpts", &options, attributes)
        .or_else(|_| new_file_system("devpts", &options[..3], attributes))
}

pub(crate) fn open_path(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}
