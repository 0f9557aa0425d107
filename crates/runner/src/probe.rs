//! What this machine lets us do, found out by doing it.
//!
//! Kernel versions say little: distributions patch, containers forbid, administrators switch off.
//! Each answer here comes from a short-lived process that tries the very thing and leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::{Groups, Hierarchies};
use crate::spec::Limits;

/// Everything a sandbox or a root file system may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The kernel's release.
    pub kernel: String,
    /// The effective user id.
    pub uid: u32,
    /// This process's ids are the machine's, not mapped.
    pub initial_user_namespace: bool,
    /// The effective capabilities, as in `/proc/self/status`.
    pub capabilities: u64,
    /// Making a user namespace and becoming its root.
    pub user_namespace: Check,
    /// What would allow it, where something is known to forbid it.
    pub user_namespace_hint: Option<String>,
    /// Mapping any id into a user namespace, as root of a container may.
    pub maps_all_ids: bool,
    /// Mapping the ids that the user is granted: for others than root, by `newuidmap` and `newgidmap`.
    pub id_mapping: Check,
    /// Making mount, process, IPC, host name and network namespaces.
    pub namespaces: Check,
    /// Mounting with `fsopen`, `open_tree` and `move_mount`.
    pub mount_api: Check,
    /// Changing mounts with `mount_setattr`.
    pub mount_attributes: Check,
    /// Mounting a fresh `/proc` in a process namespace; outer containers hide parts of theirs.
    pub proc_mount: Check,
    /// The same in a user namespace, where the kernel asks for more.
    pub proc_mount_in_user_namespace: Check,
    /// Overlay on the probed directory, the way root mounts it.
    pub overlay: Check,
    /// Overlay on the probed directory, the way a user namespace mounts it.
    pub overlay_in_user_namespace: Check,
    /// Making device nodes that work.
    pub device_nodes: Check,
    /// `chroot`
    pub chroot: Check,
    /// Taking over the root directory, without anybody insisting.
    pub in_place: Check,
    /// Loading a system call filter.
    pub seccomp: Check,
    /// Loading a device filter for a control group.
    pub device_filter: Check,
    /// Control groups.
    pub control_groups: ControlGroups,
    /// Ids that this user may map into a user namespace.
    pub subordinate_ids: SubordinateIds,
    /// Programs that connect an unprivileged network namespace, in order of preference.
    pub network_helpers: Vec<PathBuf>,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// It was done.
    Works,
    /// It was refused, for this reason.
    Fails(String),
}

impl Check {
    /// Whether it was done.
    #[must_use]
    pub fn works(&self) -> bool {
        *self == Self::Works
    }
}

/// How control groups are mounted, and what can be done with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlGroups {
    /// Which hierarchies there are.
    pub layout: Layout,
    /// A group can be made.
    pub writable: bool,
    /// Controllers that limits can be set with, in any hierarchy.
    pub controllers: Vec<String>,
    /// A whole group can be killed at once.
    pub kill: bool,
    /// Limits that cannot be set, each with the reason: those that nobody delegated.
    pub refused: Vec<String>,
}

/// Which control group hierarchies are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// None.
    None,
    /// One per controller (version 1).
    Old,
    /// Both kinds.
    Hybrid,
    /// One for all (version 2).
    Unified,
}

/// `/etc/subuid` and `/etc/subgid`, and the programs that may map what they grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubordinateIds {
    /// How many user ids.
    pub uids: u64,
    /// How many group ids.
    pub gids: u64,
    /// `newuidmap`
    pub newuidmap: Option<PathBuf>,
    /// `newgidmap`
    pub newgidmap: Option<PathBuf>,
}

/// In order of preference: the first is faster and needs no address translation.
const NETWORK_HELPERS: [&str; 2] = ["pasta", "slirp4netns"];

impl ControlGroups {
    pub(crate) fn probe() -> Self {
        let hierarchies = Hierarchies::of_this_process().unwrap_or_default();
        let layout = match (&hierarchies.unified, hierarchies.old.is_empty()) {
            (None, true) => Layout::None,
            (None, false) => Layout::Old,
            (Some(_), false) => Layout::Hybrid,
            (Some(_), true) => Layout::Unified,
        };
        let (writable, kill) = hierarchies
            .unified
            .as_deref()
            .map_or((false, false), try_group);
        let unified = hierarchies
            .unified
            .as_deref()
            .map(controllers_of)
            .unwrap_or_default();
        let old = hierarchies.old.keys().filter(|it| !it.starts_with("name="));
        let mut controllers: Vec<String> = unified.into_iter().chain(old.cloned()).collect();
        controllers.sort();
        controllers.dedup();
        Self {
            layout,
            writable,
            controllers,
            kill,
            refused: refused_limits(&hierarchies),
        }
    }
}

/// Sets one limit of each kind on a group that is gone again afterwards.
fn refused_limits(hierarchies: &Hierarchies) -> Vec<String> {
    let limits = Limits {
        memory_bytes: Some(1 << 40),
        cpu_shares: Some(1024),
        pids_max: Some(1 << 20),
        ..Limits::default()
    };
    let mut warnings = Vec::new();
    let name = format!("probe-{}", std::process::id());
    drop(Groups::new(hierarchies, &name, &limits, &mut warnings));
    let said = warnings.into_iter();
    said.map(|it| format!("{}: {}", it.what, it.why)).collect()
}

fn controllers_of(group: &Path) -> Vec<String> {
    let file = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    file.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Makes a group and removes it again.
fn try_group(own: &Path) -> (bool, bool) {
    let directory = own.join(format!("longshore-probe-{}", std::process::id()));
    if fs::create_dir(&directory).is_err() {
        return (false, false);
    }
    let kill = directory.join("cgroup.kill").exists();
    (fs::remove_dir(&directory).is_ok(), kill)
}

impl SubordinateIds {
    pub(crate) fn probe() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let name = user_name(uid).unwrap_or_default();
        let count = |file: &str| {
            let ranges = ranges_of(&fs::read_to_string(file).unwrap_or_default(), &name, uid);
            ranges.iter().map(|(_, count)| u64::from(*count)).sum()
        };
        Self {
            uids: count("/etc/subuid"),
            gids: count("/etc/subgid"),
            newuidmap: find_program("newuidmap"),
            newgidmap: find_program("newgidmap"),
        }
    }
}

/// The user's name, by the machine's own file.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let uid = uid.to_string();
    let line = passwd
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').next().map(str::to_owned)
}

/// `name-or-id:first:count` lines of this user, as `(first, count)`.
pub(crate) fn ranges_of(file: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    file.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            ((!owner.is_empty() && owner == name) || owner == uid).then_some(range)
        })
        .collect()
}

/// The program of this name on the search path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|it| it.join(name))
        .find(|it| it.is_file())
}

pub(crate) fn network_helpers() -> Vec<PathBuf> {
    NETWORK_HELPERS
        .iter()
        .filter_map(|name| find_program(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ranges_are_those_of_the_user() {
        let file = "alice:100000:65536\n1000:300000:10\n:1:1\nbob:7:7\nalice:x:1\nalice:9\n";
        assert_eq!(
            ranges_of(file, "alice", 1000),
            [(100_000, 65536), (300_000, 10)]
        );
        assert_eq!(ranges_of(file, "", 5), []);
    }
}
