//! User namespaces: being root of one's own files without being root of the machine.
//!
//! A program that is not started as root enters one as a whole, first thing, and stays in it: it
//! then unpacks, mounts and runs as that namespace's root, and every file it makes has the owner
//! it says, seen from there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{WaitOptions, getegid, geteuid, getpid, waitpid};

use rustix::thread::CapabilitySet;

use crate::capabilities;
use crate::mountfd::{NOSUID_NODEV_NOEXEC, attach, new_file_system};
use crate::probe::{Check, find_program, ranges_of, user_name};
use crate::sys::{self, Cloned};

/// How much of the ids of an ordinary machine the namespace has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapping {
    /// The user's own id as root, and a range of subordinate ids as all others; or, for root, the
    /// same ids inside as outside.
    Range {
        /// How many user ids there are.
        uids: u64,
        /// How many group ids there are.
        gids: u64,
    },
    /// The user's own id as root, and no other: `chown` and `USER` to anybody else fail.
    OwnIdOnly {
        /// Why there are no others.
        reason: String,
    },
}

/// A user namespace that could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}{}", hint.as_ref().map(|it| format!(" ({it})")).unwrap_or_default())]
pub struct UserNamespaceError {
    action: &'static str,
    hint: Option<&'static str>,
    #[source]
    source: io::Error,
}

/// Moves this process into a user namespace in which it is root, and into a mount namespace that
/// belongs to it.
///
/// To be called from `main` while the process has one thread, after
/// [`init_if_requested`](crate::init_if_requested), by a process that is not root, or by root of a
/// container that may not mount.
///
/// # Errors
/// When the machine forbids user namespaces; the error says what would allow them.
///
/// # Rehearsal
/// A namespace cannot be left again. So all of it, with a mount as a step needs it, is tried by a
/// process of its own first: after an error, this one is where it was.
pub fn become_root_in_user_namespace() -> Result<Mapping, UserNamespaceError> {
    let own = own_ids();
    rehearse(own)?;
    let helper = Helper::prepare(own);
    enter(own, helper).map_err(|failed| failed.explained())
}

/// What entering consists of. An index travels.
const ACTIONS: [&str; 6] = [
    "try out a user namespace",
    "make a user namespace",
    "map the user's own id",
    "make a mount namespace",
    "separate the mounts",
    "mount a file system in a user namespace",
];
const TRY: usize = 0;
const MAKE: usize = 1;
const MAP: usize = 2;
const MAKE_MOUNTS: usize = 3;
const SEPARATE: usize = 4;
const MOUNT: usize = 5;

/// One of the [`ACTIONS`], and the kernel's answer.
#[derive(Debug)]
struct Failed {
    action: usize,
    source: io::Error,
}

impl Failed {
    fn explained(self) -> UserNamespaceError {
        UserNamespaceError {
            action: ACTIONS.get(self.action).copied().unwrap_or(ACTIONS[TRY]),
            hint: denial_hint(),
            source: self.source,
        }
    }
}

fn failed<E: Into<io::Error>>(action: usize) -> impl FnOnce(E) -> Failed {
    move |source| Failed {
        action,
        source: source.into(),
    }
}

fn enter(own: (u32, u32), helper: Result<Helper, String>) -> Result<Mapping, Failed> {
    sys::unshare(libc::CLONE_NEWUSER).map_err(failed(MAKE))?;
    let mapping = match helper.and_then(Helper::map) {
        Ok(mapping) => mapping,
        Err(reason) => {
            map_ids(own).map_err(failed(MAP))?;
            Mapping::OwnIdOnly { reason }
        }
    };
    sys::unshare(libc::CLONE_NEWNS).map_err(failed(MAKE_MOUNTS))?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(failed(SEPARATE))?;
    Ok(mapping)
}

/// Enters in a child, and mounts there.
fn rehearse(own: (u32, u32)) -> Result<(), UserNamespaceError> {
    let tried = |source| Failed {
        action: TRY,
        source,
    };
    let answer = in_child(|| {
        // Other ids than the user's own do not decide; for root, one decides.
        let helper = match may_map_all() {
            true => Helper::prepare(own),
            false => Err(String::new()),
        };
        let entered = enter(own, helper).and_then(|_| mount_something());
        entered.err().map_or_else(Vec::new, |failed| {
            let errno = failed.source.raw_os_error().unwrap_or(libc::EIO);
            // Both fit: the largest error number is 133.
            let bytes = [failed.action, usize::try_from(errno).unwrap_or_default()];
            bytes.map(|it| u8::try_from(it).unwrap_or(u8::MAX)).to_vec()
        })
    });
    match answer.map_err(|error| tried(error).explained())?.as_slice() {
        [] => Ok(()),
        [action, errno] => Err(Failed {
            action: (*action).into(),
            source: io::Error::from_raw_os_error((*errno).into()),
        }
        .explained()),
        _ => Err(tried(io::Error::other("it answers in another way")).explained()),
    }
}

/// Whether the ids that the user is granted can be mapped, by having it done in a child.
pub(crate) fn try_mapping() -> Check {
    let answer = in_child(|| {
        let own = own_ids();
        let reason = match enter(own, Helper::prepare(own)) {
            Ok(Mapping::Range { .. }) => String::new(),
            Ok(Mapping::OwnIdOnly { reason }) => reason,
            Err(failed) => format!("cannot {}: {}", ACTIONS[failed.action], failed.source),
        };
        reason.into_bytes()
    });
    match answer {
        Ok(reason) if reason.is_empty() => Check::Works,
        Ok(reason) => Check::Fails(String::from_utf8_lossy(&reason).into_owned()),
        Err(error) => Check::Fails(error.to_string()),
    }
}

/// What `work` says, in a process that ends with it.
fn in_child(work: impl FnOnce() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut answer, mut say) = io::pipe()?;
    match sys::fork()? {
        Cloned::Child => {
            drop(answer);
            let said = say.write_all(&work());
            sys::exit_now(i32::from(said.is_err()))
        }
        Cloned::Parent(process) => {
            drop(say);
            let mut bytes = Vec::new();
            let heard = answer.read_to_end(&mut bytes);
            let ended = waitpid(Some(process), WaitOptions::empty())?;
            heard?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(bytes),
                _ => Err(io::Error::other("its process was killed")),
            }
        }
    }
}

/// As a step does: making a file system is one thing, putting it somewhere another, which security
/// modules forbid by itself.
fn mount_something() -> Result<(), Failed> {
    let mount = || -> io::Result<()> {
        let tmpfs = new_file_system("tmpfs", &[], NOSUID_NODEV_NOEXEC)?;
        attach(tmpfs.as_fd(), fs::File::open("/")?.as_fd())
    };
    mount().map_err(failed(MOUNT))
}

/// What would allow user namespaces, where something is known to forbid them.
pub(crate) fn denial_hint() -> Option<&'static str> {
    hint(Path::new("/proc/sys")).or_else(|| is_in_container().then_some(CONTAINER_HINT))
}

const CONTAINER_HINT: &str = "this container forbids it: `docker run --security-opt \
    seccomp=unconfined --security-opt apparmor=unconfined`, or in Kubernetes `hostUsers: false`, or a \
    seccompProfile and an appArmorProfile of type `Unconfined`";

/// By what the usual engines leave in their containers.
pub(crate) fn is_in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|path| Path::new(path).exists())
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// What distributions are known to switch off.
fn hint(sysctls: &Path) -> Option<&'static str> {
    let value = |name: &str| {
        fs::read_to_string(sysctls.join(name))
            .map(|it| it.trim().to_owned())
            .unwrap_or_default()
    };
    if value("kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return Some(
            "AppArmor restricts user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, \
             or a profile for this program with `userns,`",
        );
    }
    if value("kernel/unprivileged_userns_clone") == "0" {
        return Some("`sysctl kernel.unprivileged_userns_clone=1`");
    }
    if value("user/max_user_namespaces") == "0" {
        return Some("`sysctl user.max_user_namespaces=10000`");
    }
    None
}

/// A process that stays outside and has `newuidmap` and `newgidmap` write the mapping.
struct Helper {
    process: rustix::process::Pid,
    go: io::PipeWriter,
    answer: io::PipeReader,
    uids: u64,
    gids: u64,
}

impl Helper {
    /// Starts it, if there is something to map and something to map with.
    fn prepare((uid, gid): (u32, u32)) -> Result<Self, String> {
        if may_map_all() {
            return Self::prepare_for_root();
        }
        let name = user_name(uid).unwrap_or_default();
        let [uids, gids] = ["/etc/subuid", "/etc/subgid"].map(|file| {
            let ranges = ranges_of(&fs::read_to_string(file).unwrap_or_default(), &name, uid);
            (!ranges.is_empty())
                .then_some(ranges)
                .ok_or_else(|| format!("{file} grants no ids"))
        });
        let (uids, gids) = (uids?, gids?);
        let program = |name: &str| find_program(name).ok_or_else(|| format!("{name} is missing"));
        let target = getpid().as_raw_nonzero().to_string();
        let commands = [
            (program("newuidmap")?, map_arguments(&target, uid, &uids)),
            (program("newgidmap")?, map_arguments(&target, gid, &gids)),
        ];
        let count = |ranges: &[(u32, u32)]| ranges.iter().map(|(_, it)| u64::from(*it)).sum();
        let counts = (count(&uids), count(&gids));
        Self::start(|| run_all(&commands), counts).map_err(|error| error.to_string())
    }

    /// Who may set any id may map any: all that there are here, each as itself.
    fn prepare_for_root() -> Result<Self, String> {
        let target = getpid().as_raw_nonzero();
        let mut counts = [0; 2];
        let mut maps = Vec::new();
        for (kind, count) in ["uid_map", "gid_map"].into_iter().zip(&mut counts) {
            let own = fs::read_to_string(format!("/proc/self/{kind}"));
            let (map, ids) = identity_map(&own.map_err(|error| error.to_string())?);
            // Root's own id is counted with the user's.
            *count = ids.saturating_sub(1);
            maps.push((format!("/proc/{target}/{kind}"), map));
        }
        let write = || {
            maps.iter().try_for_each(|(path, map)| {
                fs::write(path, map).map_err(|error| format!("{path}: {error}"))
            })
        };
        Self::start(write, counts.into()).map_err(|error| error.to_string())
    }

    /// `map` is done by the process outside, when it is told to.
    fn start(
        map: impl FnOnce() -> Result<(), String>,
        (uids, gids): (u64, u64),
    ) -> io::Result<Self> {
        let (mut told, go) = io::pipe()?;
        let (answer, mut say) = io::pipe()?;
        match sys::fork()? {
            Cloned::Child => {
                drop((go, answer));
                let mut word = [0];
                let wanted = told.read(&mut word).is_ok_and(|count| count == 1);
                let result = if wanted { map() } else { Ok(()) };
                // If nobody listens, nobody wants to know.
                let _gone = say.write_all(result.err().unwrap_or_default().as_bytes());
                sys::exit_now(0)
            }
            Cloned::Parent(process) => Ok(Self {
                process,
                go,
                answer,
                uids,
                gids,
            }),
        }
    }

    /// To be called in the new namespace.
    fn map(mut self) -> Result<Mapping, String> {
        let mut answer = String::new();
        let told = self
            .go
            .write_all(b"!")
            .and_then(|()| self.answer.read_to_string(&mut answer));
        // It has nothing else to do than to end.
        let _ended = waitpid(Some(self.process), WaitOptions::empty());
        match (told, answer.as_str()) {
            (Ok(_), "") => Ok(Mapping::Range {
                uids: self.uids + 1,
                gids: self.gids + 1,
            }),
            (Ok(_), reason) => Err(reason.to_owned()),
            (Err(error), _) => Err(error.to_string()),
        }
    }
}

/// Every id of this namespace as itself, and how many there are. The last of all possible ids is left
/// out: a namespace that has them all looks like the machine's own.
fn identity_map(own: &str) -> (String, u64) {
    let mut ids = 0;
    let mut map = String::new();
    for line in own.lines() {
        let mut fields = line.split_whitespace();
        let (Some(first), Some(count)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let count = count
            .parse::<u64>()
            .unwrap_or_default()
            .min(u64::from(u32::MAX) - 1);
        map.push_str(&format!("{first} {first} {count}\n"));
        ids += count;
    }
    (map, ids)
}

/// `PID 0 OWN 1`, then the ranges one after the other from 1 on.
fn map_arguments(target: &str, own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut arguments = vec![
        target.to_owned(),
        "0".to_owned(),
        own.to_string(),
        "1".to_owned(),
    ];
    let mut next = 1u32;
    for (first, count) in ranges {
        arguments.extend([next, *first, *count].map(|it| it.to_string()));
        next = next.saturating_add(*count);
    }
    arguments
}

fn run_all(commands: &[(PathBuf, Vec<String>); 2]) -> Result<(), String> {
    for (program, arguments) in commands {
        let name = program.display();
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| format!("{name}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{name}: {}", said.trim()));
        }
    }
    Ok(())
}

/// Whether this process's ids are the machine's.
pub(crate) fn is_initial() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether supplementary groups cannot be set here, because the mapping was written without help.
pub(crate) fn groups_are_fixed() -> bool {
    fs::read_to_string("/proc/self/setgroups").is_ok_and(|it| it.trim() == "deny")
}

/// Makes a user namespace in which this process's own user is root, and there is no other. Only for
/// single-threaded processes.
pub(crate) fn enter_with_own_id() -> io::Result<()> {
    let own = own_ids();
    sys::unshare(libc::CLONE_NEWUSER)?;
    map_ids(own)
}

/// Whether this process may map any id of its own namespace into another.
pub(crate) fn may_map_all() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    geteuid().is_root() && capabilities::effective().contains(needed)
}

fn own_ids() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

fn map_ids((uid, gid): (u32, u32)) -> io::Result<()> {
    // A group may be there to deny something, so that whoever cannot map groups may not drop any.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_one_another_from_1_on() {
        let arguments = map_arguments("77", 1000, &[(100_000, 65_536), (300_000, 10)]).join(" ");
        assert_eq!(arguments, "77 0 1000 1 1 100000 65536 65537 300000 10");
    }

    #[test]
    fn root_s_ids_are_the_same_inside_and_never_all() {
        let (map, ids) = identity_map("         0          0 4294967295\n");
        assert_eq!((map.as_str(), ids), ("0 0 4294967294\n", 4_294_967_294));
        let (map, ids) = identity_map("0 1000 1\n1 100000 65536\n");
        assert_eq!((map.as_str(), ids), ("0 0 1\n1 1 65536\n", 65_537));
    }

    #[test]
    fn what_is_switched_off_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        assert_eq!(hint(temp.path()), None);
        set("user/max_user_namespaces", "0\n");
        assert!(hint(temp.path()).unwrap().contains("max_user_namespaces"));
        set("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        assert!(hint(temp.path()).unwrap().contains("AppArmor"));
    }
}
