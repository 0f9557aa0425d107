//! Whether a process may have this container's own root directory, and what must be left alone
//! there.
//!
//! Whoever takes it over removes all else, so this errs on the side of refusing: it has to look like
//! a container's by two signs that have nothing to do with each other, and a machine's own root is
//! refused whatever the caller insists on.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::RunError;
use crate::planner::SettingUp as _;
use crate::probe::Check;
use crate::userns;

/// What every container has of its own; names, not what mounts happen to be there.
const LEFT_ALONE: [&str; 9] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/mtab",
    "/.dockerenv",
    "/run/.containerenv",
];

/// The file systems that container engines make root directories of.
const OF_CONTAINERS: [&str; 5] = [
    "overlay",
    "fuse-overlayfs",
    "fuse.fuse-overlayfs",
    "aufs",
    "tmpfs",
];

/// What is mounted where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    at: PathBuf,
    file_system: String,
    source: String,
}

/// What this place looks like.
#[derive(Debug, Clone)]
struct Signs {
    is_root: bool,
    /// An engine left its mark.
    marked: bool,
    /// The kernel's own processes can be seen.
    sees_kernel: bool,
    /// What is mounted as the root directory, if that is known.
    root: Option<Mounted>,
}

impl Signs {
    fn read() -> Self {
        let mounts = mounts().unwrap_or_default();
        // What was mounted last is seen.
        let root = mounts.into_iter().rfind(|it| it.at == Path::new("/"));
        let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
        Self {
            is_root: rustix::process::geteuid().is_root(),
            marked: userns::is_in_container(),
            sees_kernel: name.trim_end() == "kthreadd",
            root,
        }
    }

    fn judge(&self, insists: bool) -> Result<(), String> {
        const INSIST: &str = "LONGSHORE_INPLACE_FORCE=1 where all files of it may be lost";
        if !self.is_root {
            return Err("inplace needs root".to_owned());
        }
        let Some(root) = &self.root else {
            return Err("inplace needs /proc, and a root directory that is a mount".to_owned());
        };
        let on_device = root.source.starts_with("/dev/");
        if self.sees_kernel && on_device {
            return Err(format!(
                "inplace would remove this machine's own files: the root directory is on {}",
                root.source
            ));
        }
        if insists {
            return Ok(());
        }
        if !self.marked {
            return Err(format!(
                "inplace removes all files of the root directory, and this does not look like a \
                 container (no /.dockerenv, no /run/.containerenv, no KUBERNETES_SERVICE_HOST): \
                 {INSIST}"
            ));
        }
        if !OF_CONTAINERS.contains(&root.file_system.as_str()) {
            return Err(format!(
                "inplace removes all files of the root directory, which is not on a file system \
                 that container engines use, but on {} ({}): {INSIST}",
                root.file_system, root.source
            ));
        }
        Ok(())
    }
}

/// Whether the root directory may be taken over.
///
/// # Errors
/// When it may not, with the reason.
pub(crate) fn may_take_root(insists: bool) -> Result<(), RunError> {
    let judged = Signs::read().judge(insists);
    judged.map_err(|reason| RunError::NoIsolation { reason })
}

/// The same, as an answer.
pub(crate) fn probe() -> Check {
    let judged = Signs::read().judge(false);
    match judged.and_then(|()| kept().map(drop).map_err(|error| error.to_string())) {
        Ok(()) => Check::Works,
        Err(why) => Check::Fails(why),
    }
}

/// What [`Isolation::InPlace`](crate::Isolation::InPlace) has to leave alone in the root directory:
/// everything that is mounted, what a container's engine put there, and this program.
///
/// # Errors
/// When the root directory may not be taken over, or this program needs files that steps would
/// replace.
pub fn kept_in_place(insists: bool) -> Result<Vec<PathBuf>, RunError> {
    may_take_root(insists)?;
    kept()
}

fn kept() -> Result<Vec<PathBuf>, RunError> {
    let mounts = mounts().setting_up("read", "/proc/self/mountinfo")?;
    let mut kept: BTreeSet<PathBuf> = mounts.into_iter().map(|it| it.at).collect();
    kept.remove(Path::new("/"));
    kept.extend(LEFT_ALONE.map(PathBuf::from));
    let maps = fs::read_to_string("/proc/self/maps").setting_up("read", "/proc/self/maps")?;
    let program = fs::read_link("/proc/self/exe").setting_up("find", "/proc/self/exe")?;
    if let Some(library) = library_in_the_way(&maps, &program, &kept) {
        return Err(RunError::NoIsolation {
            reason: format!(
                "inplace would replace {}, which this program needs: use one that is linked \
                 statically, or keep its libraries on a volume",
                library.display()
            ),
        });
    }
    kept.insert(program);
    Ok(kept.into_iter().collect())
}

/// A file that this process has mapped and that a step's files would replace.
fn library_in_the_way(maps: &str, program: &Path, kept: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    // What is mapped for its code is a program or a library, all else is data.
    let is_code = |line: &&str| line.split(' ').nth(1).is_some_and(|it| it.contains('x'));
    let files = maps.lines().filter(is_code);
    let files = files.filter_map(|line| line.split_once('/'));
    let mut files = files.map(|(_, path)| PathBuf::from(format!("/{path}")));
    files.find(|file| {
        let is_kept = file.ancestors().any(|above| kept.contains(above));
        // Files in memory have no place.
        !is_kept && file != program && !file.starts_with("/memfd:")
    })
}

fn mounts() -> io::Result<Vec<Mounted>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_mount(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let at = before.split(' ').nth(4)?;
    let mut after = after.split(' ');
    Some(Mounted {
        at: unescaped(at),
        file_system: after.next()?.to_owned(),
        source: after.next()?.to_owned(),
    })
}

/// Blanks and the like are written as `\040`.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|it| std::str::from_utf8(it).ok());
        let escaped = digits.and_then(|it| u8::from_str_radix(it, 8).ok());
        match (first, escaped) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(marked: bool, sees_kernel: bool, file_system: &str, source: &str) -> Signs {
        let root = Mounted {
            at: "/".into(),
            file_system: file_system.to_owned(),
            source: source.to_owned(),
        };
        Signs {
            is_root: true,
            marked,
            sees_kernel,
            root: Some(root),
        }
    }

    #[test]
    fn only_what_looks_like_a_container_in_two_ways_may_be_taken() {
        for (marked, sees_kernel, file_system, source, plainly, insisting) in [
            (true, false, "overlay", "overlay", true, true),
            // A pod that sees the machine's processes.
            (true, true, "overlay", "overlay", true, true),
            (false, false, "overlay", "overlay", false, true),
            (true, false, "ext4", "/dev/vda1", false, true),
            (false, false, "zfs", "tank/x", false, true),
            // A machine, also one where an engine's mark was left behind.
            (true, true, "ext4", "/dev/vda", false, false),
            (false, true, "btrfs", "/dev/sda2", false, false),
        ] {
            let signs = signs(marked, sees_kernel, file_system, source);
            assert_eq!(signs.judge(false).is_ok(), plainly, "{signs:?}");
            assert_eq!(signs.judge(true).is_ok(), insisting, "{signs:?}");
        }
        let mut user = signs(true, false, "overlay", "overlay");
        user.is_root = false;
        assert!(user.judge(true).is_err());
        let mut unknown = signs(true, false, "overlay", "overlay");
        unknown.root = None;
        assert!(unknown.judge(true).is_err());
    }

    #[test]
    fn libraries_must_be_out_of_the_way() {
        let maps = "7f00-7f10 r-xp 0000 fe:00 12   /usr/bin/longshore\n\
                    7f10-7f20 r-xp 0000 fe:00 13   /volume/lib/libc.so.6\n\
                    7f20-7f30 rw-s 0000 00:01 14   /memfd:longshore (deleted)\n\
                    7f30-7f40 rw-s 0000 fe:00 15   /state/meta.db-shm\n\
                    7f40-7f50 r-xp 0000 00:00 0    [vdso]\n";
        let kept = BTreeSet::from([PathBuf::from("/volume")]);
        let program = Path::new("/usr/bin/longshore");
        assert_eq!(library_in_the_way(maps, program, &kept), None);
        let found = library_in_the_way(maps, program, &BTreeSet::new());
        assert_eq!(found, Some("/volume/lib/libc.so.6".into()));
    }

    #[test]
    fn mounts_are_read_whatever_their_names() {
        let line =
            r"36 35 98:0 / /a\040b\134c rw,noatime shared:1 - overlay overlay rw,lowerdir=/x";
        let expected = Mounted {
            at: r"/a b\c".into(),
            file_system: "overlay".to_owned(),
            source: "overlay".to_owned(),
        };
        assert_eq!(parse_mount(line), Some(expected));
        assert_eq!(parse_mount("nonsense"), None);
    }
}
