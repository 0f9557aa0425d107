//! One control group per run: for killing, for the device filter, and for limits.
//!
//! Every run gets a group of its own in the unified hierarchy, where there is one, below the group
//! the caller is in. Limits go there too, or, where controllers are still in their old hierarchies
//! (one or all of them), into a group of the same name in each of those.
//!
//! A group's directory is held locked (`flock`) by the run's supervisor. One that is not locked is
//! nobody's, and [`sweep`] kills what is in it and removes it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Pid;

use crate::spec::Limits;
use crate::status::Warning;
use crate::sys;

#[cfg(test)]
mod fake;

const NAME_PREFIX: &str = "longshore-run-";
/// The kernel finishes off killed processes on its own time; a group is busy as long.
const REMOVE_ATTEMPTS_MAX: u32 = 200;
/// A new group that somebody's [`sweep`] took for an abandoned one is theirs as long as they remove it.
const LOCK_ATTEMPTS_MAX: u32 = 200;
/// What limits are of.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuset", "pids"];
const CPU_PERIOD_US_DEFAULT: u64 = 100_000;

/// Where this process's own groups are, by hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// The unified hierarchy.
    pub(crate) unified: Option<PathBuf>,
    /// The old hierarchies, by controller.
    pub(crate) old: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::parse(&mounts, &groups))
    }

    fn parse(mounts: &str, groups: &str) -> Self {
        let mut found = Self::default();
        for mount in mounts.lines().filter_map(CgroupMount::parse) {
            for group in groups.lines() {
                // `0::/path` or `4:memory:/path`
                let mut fields = group.splitn(3, ':').skip(1);
                let (Some(names), Some(path)) = (fields.next(), fields.next()) else {
                    continue;
                };
                let Some(directory) = mount.directory_of(path) else {
                    continue;
                };
                if mount.unified && names.is_empty() {
                    found.unified = Some(directory);
                } else if !mount.unified && !names.is_empty() && mount.has(names) {
                    for name in names.split(',') {
                        found.old.insert(name.to_owned(), directory.clone());
                    }
                }
            }
        }
        found
    }

    /// The topmost groups in sight in place of our own. An OCI runtime is told one path for its
    /// group, which it looks up below these.
    pub(crate) fn topmost(&self) -> Self {
        let top = |own: &PathBuf| {
            let above = own.ancestors();
            let groups = above.take_while(|it| it.join("cgroup.procs").exists());
            groups.last().unwrap_or(own).to_owned()
        };
        let old = self.old.iter();
        Self {
            unified: self.unified.as_ref().map(top),
            old: old.map(|(name, own)| (name.clone(), top(own))).collect(),
        }
    }

    /// The groups at `parent`, a path from the top of each hierarchy, in place of our own where
    /// resources are controlled. They are made where they are missing, and stay.
    fn at(&self, parent: &str) -> io::Result<Self> {
        let is_plain = |it: &Component<'_>| !matches!(it, Component::ParentDir);
        let parent = Path::new(parent);
        if !parent.components().all(|it| is_plain(&it)) {
            return Err(io::Error::other("`..` leads out of it"));
        }
        let inside = parent.strip_prefix("/").unwrap_or(parent);
        let (top, mut found) = (self.topmost(), self.clone());
        let below = |directory: &Path| {
            let directory = directory.join(inside);
            fs::create_dir_all(&directory).map(|()| directory)
        };
        found.unified = top.unified.as_deref().map(below).transpose()?;
        for (controller, directory) in &top.old {
            if CONTROLLERS.contains(&controller.as_str()) {
                found.old.insert(controller.clone(), below(directory)?);
            }
        }
        Ok(found)
    }

    /// Only the unified hierarchy, with its controllers: no old ones besides.
    pub(crate) fn is_unified_only(&self) -> bool {
        self.unified.is_some() && self.old.is_empty()
    }
}

struct CgroupMount<'line> {
    unified: bool,
    root: &'line str,
    directory: &'line str,
    options: &'line str,
}

impl<'line> CgroupMount<'line> {
    /// `36 35 98:0 /root /mount/point rw,… shared:1 - cgroup2 source rw,…`
    fn parse(line: &'line str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let unified = match after.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let mut before = before.split(' ').skip(3);
        let (root, directory) = (before.next()?, before.next()?);
        Some(Self {
            unified,
            root,
            directory,
            options: after.nth(1)?,
        })
    }

    fn has(&self, names: &str) -> bool {
        names
            .split(',')
            .all(|name| self.options.split(',').any(|option| option == name))
    }

    /// The directory of a group of that path, if this mount shows it.
    fn directory_of(&self, group: &str) -> Option<PathBuf> {
        let inside = match self.root {
            "/" => group,
            root => group.strip_prefix(root)?,
        };
        let directory = Path::new(self.directory).join(inside.trim_start_matches('/'));
        directory.is_dir().then_some(directory)
    }
}

/// The groups of one run. Dropping them kills what is inside and removes them.
#[derive(Debug)]
pub(crate) struct Groups {
    unified: Option<Group>,
    old: Vec<Group>,
    /// Which of the caller's groups have one of these in their place, in the old hierarchies.
    in_place_of: BTreeMap<PathBuf, PathBuf>,
    /// Where the kernel counts what it kills for lack of memory.
    memory: Option<PathBuf>,
    /// They are around those of an OCI runtime's container, and nothing else is put into them.
    around_container: bool,
    /// Counts how often the old memory group had to have something killed: unlike its own count,
    /// also in the groups below it.
    oom_notices: Option<OwnedFd>,
}

#[derive(Debug)]
struct Group {
    directory: PathBuf,
    /// Keeps [`sweep`] away.
    lock: File,
}

impl Groups {
    /// Makes the groups and sets the limits. What cannot be had is a warning.
    pub(crate) fn new(
        hierarchies: &Hierarchies,
        name: &str,
        limits: &Limits,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let mut groups = Self::none();
        let name = group_name(name);
        let own = hierarchies;
        let moved = match &limits.parent {
            None => None,
            Some(parent) => match hierarchies.at(parent) {
                Ok(moved) => {
                    sweep(&moved);
                    Some(moved)
                }
                Err(error) => {
                    warnings.push(Warning {
                        what: format!("the parent control group `{parent}`"),
                        why: error.to_string(),
                    });
                    None
                }
            },
        };
        let is_moved = moved.is_some();
        let hierarchies = moved.as_ref().unwrap_or(hierarchies);
        let wanted = settings(limits);
        let (old, unified): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|it| hierarchies.old.contains_key(it.controller));
        if let Some(own) = &hierarchies.unified {
            groups.unified = make_unified(own, &name, &unified);
        }
        if !hierarchies.old.contains_key("memory") {
            let group = groups.unified.as_ref();
            groups.memory = group.map(|it| it.directory.clone());
        }
        groups.apply_unified(&unified, warnings);
        groups.apply_old(hierarchies, &name, &old, warnings);
        if is_moved {
            groups.join_old(hierarchies, &name);
        }
        groups.note_places(own, hierarchies, &name);
        groups
    }

    fn none() -> Self {
        Self {
            unified: None,
            old: Vec::new(),
            in_place_of: BTreeMap::new(),
            memory: None,
            around_container: false,
            oom_notices: None,
        }
    }

    /// Remembers what of `own` the groups made below `parents` take the place of.
    fn note_places(&mut self, own: &Hierarchies, parents: &Hierarchies, name: &str) {
        for (controller, directory) in &parents.old {
            let made = directory.join(name);
            if let Some(own) = own.old.get(controller)
                && self.old.iter().any(|it| it.directory == made)
            {
                self.in_place_of.insert(own.clone(), made);
            }
        }
    }

    /// The groups that a process in these is in: where there is none of a hierarchy, the caller's.
    pub(crate) fn shown(&self, own: &Hierarchies) -> Hierarchies {
        let place = |own: &PathBuf| self.in_place_of.get(own).unwrap_or(own).clone();
        let old = own.old.iter();
        let unified = match &self.unified {
            Some(group) => Some(group.directory.clone()),
            None => own.unified.clone(),
        };
        Hierarchies {
            unified,
            old: old.map(|(name, own)| (name.clone(), place(own))).collect(),
        }
    }

    /// Counts with a parent also where no limit of its own is set.
    fn join_old(&mut self, hierarchies: &Hierarchies, name: &str) {
        for controller in CONTROLLERS.iter().filter(|it| **it != "cpuset") {
            let Some(parent) = hierarchies.old.get(*controller) else {
                continue;
            };
            let directory = parent.join(name);
            if self.old.iter().all(|it| it.directory != directory) {
                // Where that fails, so did the limits, which say so.
                self.old.extend(Group::new(&directory).ok());
            }
        }
    }

    /// Makes them around the group of a container that an OCI runtime makes, in every hierarchy,
    /// because the runtime would make those that are missing and leave them behind.
    pub(crate) fn around_container(
        hierarchies: &Hierarchies,
        name: &str,
        limits: &Limits,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let mut groups = Self::new(hierarchies, name, limits, warnings);
        groups.around_container = true;
        for own in hierarchies.old.values() {
            let directory = own.join(group_name(name));
            if groups.old.iter().all(|it| it.directory != directory) {
                // Where we may not, neither may the runtime, which will say so.
                groups.old.extend(Group::new(&directory).ok());
            }
        }
        if let Some(own) = hierarchies.old.get("memory") {
            let directory = own.join(group_name(name));
            let is_made = groups.old.iter().any(|it| it.directory == directory);
            if is_made {
                groups.memory = Some(directory);
            }
        }
        let memory = groups.memory.as_deref();
        let is_old = memory.filter(|it| it.join("memory.oom_control").exists());
        groups.oom_notices = is_old.and_then(|it| count_ooms(it).ok());
        groups
    }

    /// The group that a process is put into when it is made.
    pub(crate) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|group| group.lock.as_fd())
    }

    /// Moves a process into the groups; into the unified one only if it is not there yet.
    pub(crate) fn add(&self, process: Pid, unified_too: bool) -> io::Result<()> {
        if self.around_container {
            return Ok(());
        }
        let unified = self.unified.iter().filter(|_| unified_too);
        for group in unified.chain(&self.old) {
            fs::write(
                group.directory.join("cgroup.procs"),
                process.as_raw_nonzero().to_string(),
            )?;
        }
        Ok(())
    }

    /// Whether the kernel killed something for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let Some(directory) = &self.memory else {
            return false;
        };
        if let Some(notices) = &self.oom_notices {
            return rustix::io::read(notices, &mut [0; 8]).is_ok();
        }
        ["memory.events", "memory.oom_control"].iter().any(|file| {
            let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            count.is_some_and(|count| count.trim() != "0")
        })
    }

    /// Kills every process in the groups.
    pub(crate) fn kill(&self) {
        for group in self.unified.iter().chain(&self.old) {
            kill(&group.directory);
        }
    }

    fn apply_unified(&mut self, settings: &[Setting], warnings: &mut Vec<Warning>) {
        for setting in settings {
            let result = match &self.unified {
                Some(group) => fs::write(
                    group.directory.join(setting.unified_file),
                    &setting.unified_value,
                ),
                None => Err(io::Error::other("there is no control group for it")),
            };
            if let Err(error) = result {
                warnings.extend(setting.warning(&error));
            }
        }
    }

    fn apply_old(
        &mut self,
        hierarchies: &Hierarchies,
        name: &str,
        settings: &[Setting],
        warnings: &mut Vec<Warning>,
    ) {
        for setting in settings {
            let directory = hierarchies.old[setting.controller].join(name);
            match self.apply_one_old(&directory, setting) {
                Ok(()) if setting.controller == "memory" => self.memory = Some(directory),
                Ok(()) => {}
                Err(error) => warnings.extend(setting.warning(&error)),
            }
        }
    }

    fn apply_one_old(&mut self, directory: &Path, setting: &Setting) -> io::Result<()> {
        if !self.old.iter().any(|group| group.directory == directory) {
            self.old.push(Group::new(directory)?);
            if setting.controller == "cpuset" {
                // A group whose sets are empty takes no process.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let parent = directory.parent().unwrap_or(directory);
                    fs::write(directory.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
        fs::write(directory.join(setting.old_file), &setting.old_value)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.unified.iter().chain(&self.old) {
            kill_and_remove(&group.directory);
        }
    }
}

impl Group {
    /// Makes it and locks it. In between it looks abandoned: if a sweep took it, it is made again.
    ///
    /// # Errors
    /// Also when it stays somebody else's: a process that was stopped while it swept.
    fn new(directory: &Path) -> io::Result<Self> {
        let mut attempts = 0;
        loop {
            match fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            let lock = match File::open(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if attempts < LOCK_ATTEMPTS_MAX => {
                    thread::sleep(Duration::from_millis(u64::from(attempts.min(10))));
                    attempts += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let locked = lock.metadata()?.ino();
            if fs::metadata(directory).is_ok_and(|now| now.ino() == locked) {
                return Ok(Self {
                    directory: directory.to_owned(),
                    lock,
                });
            }
        }
    }
}

/// The name of a run's group.
pub(crate) fn group_name(run: &str) -> String {
    format!("{NAME_PREFIX}{run}")
}

/// A counter that the kernel raises when a group of the old memory hierarchy is at its limit.
fn count_ooms(directory: &Path) -> io::Result<OwnedFd> {
    let notices = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = File::open(directory.join("memory.oom_control"))?;
    let line = format!("{} {}", notices.as_raw_fd(), control.as_raw_fd());
    fs::write(directory.join("cgroup.event_control"), line)?;
    Ok(notices)
}

/// Makes the run's group below our own or, if that may not have controllers because we are in it,
/// below the topmost group in sight.
fn make_unified(own: &Path, name: &str, settings: &[Setting]) -> Option<Group> {
    let top = own
        .ancestors()
        .take_while(|it| it.join("cgroup.procs").exists())
        .last();
    let parents = [Some(own), top];
    let mut parents = parents.into_iter().flatten();
    let with_controllers = parents
        .clone()
        .find(|parent| enable(parent, settings).is_ok());
    let parent = with_controllers.or_else(|| parents.next())?;
    match Group::new(&parent.join(name)) {
        Ok(group) => Some(group),
        Err(error) => {
            tracing::debug!(parent = %parent.display(), %error, "no control group for the run");
            None
        }
    }
}

fn enable(parent: &Path, settings: &[Setting]) -> io::Result<()> {
    settings.iter().try_for_each(|setting| {
        fs::write(
            parent.join("cgroup.subtree_control"),
            format!("+{}", setting.controller),
        )
    })
}

/// One limit, in both dialects.
struct Setting {
    what: &'static str,
    controller: &'static str,
    unified_file: &'static str,
    unified_value: String,
    old_file: &'static str,
    old_value: String,
    /// By the caller, who wants to know where it is not held.
    is_asked: bool,
}

impl Setting {
    fn warning(&self, error: &io::Error) -> Option<Warning> {
        self.is_asked.then(|| Warning {
            what: self.what.to_owned(),
            why: error.to_string(),
        })
    }
}

fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let setting =
        |what, controller, (unified_file, unified_value), (old_file, old_value)| Setting {
            what,
            controller,
            unified_file,
            unified_value,
            old_file,
            old_value,
            is_asked: true,
        };
    if let Some(bytes) = limits.memory_bytes {
        let value = bytes.to_string();
        let (unified, old) = (
            ("memory.max", value.clone()),
            ("memory.limit_in_bytes", value),
        );
        settings.push(setting("memory limit", "memory", unified, old));
    }
    if let Some(both) = limits.memory_swap_bytes.or_else(|| usual_swap(limits)) {
        let swap = swap_bytes(both, limits.memory_bytes.unwrap_or(0));
        let unified = ("memory.swap.max", swap);
        let old = ("memory.memsw.limit_in_bytes", both.to_string());
        settings.push(Setting {
            is_asked: limits.memory_swap_bytes.is_some(),
            ..setting("swap limit", "memory", unified, old)
        });
    }
    if let Some(shares) = limits.cpu_shares {
        let unified = ("cpu.weight", weight(shares).to_string());
        settings.push(setting(
            "CPU shares",
            "cpu",
            unified,
            ("cpu.shares", shares.to_string()),
        ));
    }
    if let Some(period) = limits.cpu_period_us {
        let unified = ("cpu.max", cpu_max(limits));
        settings.push(setting(
            "CPU period",
            "cpu",
            unified,
            ("cpu.cfs_period_us", period.to_string()),
        ));
    }
    if let Some(quota) = limits.cpu_quota_us {
        let unified = ("cpu.max", cpu_max(limits));
        settings.push(setting(
            "CPU quota",
            "cpu",
            unified,
            ("cpu.cfs_quota_us", quota.to_string()),
        ));
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        let file = "cpuset.cpus";
        settings.push(setting(
            "CPU set",
            "cpuset",
            (file, cpus.clone()),
            (file, cpus.clone()),
        ));
    }
    if let Some(mems) = &limits.cpuset_mems {
        let file = "cpuset.mems";
        settings.push(setting(
            "memory node set",
            "cpuset",
            (file, mems.clone()),
            (file, mems.clone()),
        ));
    }
    if let Some(count) = limits.pids_max {
        let file = "pids.max";
        settings.push(setting(
            "process limit",
            "pids",
            (file, count.to_string()),
            (file, count.to_string()),
        ));
    }
    settings
}

/// Docker's, where nothing is said: as much swap as memory, which not every kernel can hold.
fn usual_swap(limits: &Limits) -> Option<i64> {
    let memory = i64::try_from(limits.memory_bytes?).ok()?;
    Some(memory.saturating_mul(2))
}

/// The unified hierarchy counts swap alone.
fn swap_bytes(memory_and_swap: i64, memory: u64) -> String {
    match u64::try_from(memory_and_swap) {
        Ok(both) => both.saturating_sub(memory).to_string(),
        Err(_) => "max".to_owned(),
    }
}

/// The scale of 2 … 262144 onto that of 1 … 10000, as runc converts it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpu_max(limits: &Limits) -> String {
    let period = limits.cpu_period_us.unwrap_or(CPU_PERIOD_US_DEFAULT);
    match limits.cpu_quota_us {
        Some(quota) if quota > 0 => format!("{quota} {period}"),
        _ => format!("max {period}"),
    }
}

fn kill(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Before Linux 5.14, and in the old hierarchies: one by one, until none is left.
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in listed
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
    {
        // It may have ended on its own.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn kill_and_remove(directory: &Path) {
    for attempt in 0..REMOVE_ATTEMPTS_MAX {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                kill_and_remove_inner(directory);
                kill(directory);
                thread::sleep(Duration::from_millis(u64::from(attempt.min(10))));
            }
            _ => return,
        }
    }
    tracing::warn!(group = %directory.display(), "a control group could not be removed");
}

/// What a killed OCI runtime left in its container's group, or the process itself made.
fn kill_and_remove_inner(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            kill_and_remove_inner(&entry.path());
            kill(&entry.path());
            // Busy for a moment: it is tried again.
            let _busy = fs::remove_dir(entry.path());
        }
    }
}

/// Removes the groups of runs whose supervisor is gone, and kills what is left in them.
pub(crate) fn sweep(hierarchies: &Hierarchies) {
    let own = hierarchies.unified.iter().chain(hierarchies.old.values());
    let parents = own.flat_map(|it| {
        it.ancestors()
            .take_while(|at| at.join("cgroup.procs").exists())
    });
    for parent in parents {
        let Ok(entries) = fs::read_dir(parent) else {
            continue;
        };
        let ours = entries.flatten().filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(NAME_PREFIX))
        });
        for entry in ours {
            // Held until it is gone, so that nobody takes it for theirs meanwhile.
            if let Some(_lock) = lock_if_abandoned(&entry.path()) {
                kill_and_remove(&entry.path());
            }
        }
    }
}

fn lock_if_abandoned(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    file.try_lock().is_ok().then_some(file)
}

/// Attaches the device filter to the run's group; `false` if there is no way to.
pub(crate) fn filter_devices(groups: &Groups, program: Option<BorrowedFd<'_>>) -> bool {
    let (Some(group), Some(program)) = (groups.unified(), program) else {
        return false;
    };
    sys::attach_device_program(group, program).is_ok()
}

/// The filter as the old device hierarchy's lines.
const OLD_DEVICE_RULES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Groups {
    /// The same through the old hierarchy's own controller.
    pub(crate) fn filter_devices_old(
        &mut self,
        hierarchies: &Hierarchies,
        name: &str,
    ) -> io::Result<()> {
        let own = hierarchies
            .old
            .get("devices")
            .ok_or(io::ErrorKind::NotFound)?;
        let group = Group::new(&own.join(group_name(name)))?;
        let directory = group.directory.clone();
        self.old.push(group);
        self.in_place_of.insert(own.clone(), directory.clone());
        fs::write(directory.join("devices.deny"), "a")?;
        OLD_DEVICE_RULES
            .iter()
            .try_for_each(|rule| fs::write(directory.join("devices.allow"), rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_both_dialects() {
        let limits = Limits {
            memory_bytes: Some(1000),
            memory_swap_bytes: Some(1500),
            cpu_quota_us: Some(50_000),
            cpu_shares: Some(1024),
            pids_max: Some(7),
            ..Limits::default()
        };
        let lines: Vec<_> = settings(&limits)
            .into_iter()
            .map(|it| {
                format!(
                    "{}={} {}={}",
                    it.unified_file, it.unified_value, it.old_file, it.old_value
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "memory.max=1000 memory.limit_in_bytes=1000",
                "memory.swap.max=500 memory.memsw.limit_in_bytes=1500",
                "cpu.weight=39 cpu.shares=1024",
                "cpu.max=50000 100000 cpu.cfs_quota_us=50000",
                "pids.max=7 pids.max=7",
            ]
        );
        assert_eq!(swap_bytes(-1, 5), "max");
        let memory_alone = Limits {
            memory_bytes: Some(1000),
            ..Limits::default()
        };
        let swap = settings(&memory_alone).pop().unwrap();
        assert_eq!(
            (swap.unified_value.as_str(), swap.is_asked),
            ("1000", false)
        );
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }

    #[test]
    fn privileged_the_old_device_hierarchy_holds_the_same_filter() {
        let hierarchies = Hierarchies::of_this_process().unwrap();
        if !rustix::process::geteuid().is_root() || !hierarchies.old.contains_key("devices") {
            crate::skip::skip("needs root and the old device hierarchy");
            return;
        }
        let name = format!("test-{}", std::process::id());
        let mut groups = Groups::none();
        groups.filter_devices_old(&hierarchies, &name).unwrap();
        let directory = groups.old[0].directory.clone();
        let list = fs::read_to_string(directory.join("devices.list")).unwrap();
        let mut rules: Vec<_> = list.lines().collect();
        let mut expected = OLD_DEVICE_RULES.to_vec();
        rules.sort_unstable();
        expected.sort_unstable();
        assert_eq!(rules, expected);
        drop(groups);
        assert!(!directory.exists());
    }

    #[test]
    fn privileged_a_sweep_takes_abandoned_groups_only() {
        let hierarchies = Hierarchies::of_this_process().unwrap();
        let Some(own) = hierarchies.unified.clone() else {
            crate::skip::skip("needs the unified hierarchy");
            return;
        };
        let path = |kind: &str| own.join(format!("{NAME_PREFIX}{kind}-{}", std::process::id()));
        let Ok(held) = Group::new(&path("held")) else {
            crate::skip::skip("needs root");
            return;
        };
        drop(Group::new(&path("dropped")).unwrap());
        sweep(&hierarchies);
        assert!(held.directory.exists() && !path("dropped").exists());
        drop(held);
        sweep(&hierarchies);
        assert!(!path("held").exists());
    }

    #[test]
    fn hierarchies_are_found_by_mount_and_membership() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().display();
        for directory in ["unified/own", "memory"] {
            fs::create_dir_all(temp.path().join(directory)).unwrap();
        }
        let mounts = format!(
            "1 0 0:1 / {path}/unified rw - cgroup2 cgroup rw\n\
             2 0 0:2 /box {path}/memory rw,nosuid shared:3 - cgroup cgroup rw,memory\n\
             3 0 0:3 / {path}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             4 0 0:4 / / rw - ext4 /dev/vda rw\n"
        );
        let found = Hierarchies::parse(&mounts, "0::/own\n4:memory:/box\n3:cpu,cpuacct:/gone\n");
        assert_eq!(found.unified, Some(temp.path().join("unified/own")));
        assert_eq!(found.old.keys().collect::<Vec<_>>(), ["memory"]);
        assert!(!found.is_unified_only());
    }
}
