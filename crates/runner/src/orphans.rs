//! Processes that outlive their parents, where no process namespace ends with its first: they become
//! the supervisor's children and are killed by it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::plan::{Doing as _, Failure};

/// Processes that are being killed get this long to go.
const KILL_TIME_MAX: Duration = Duration::from_secs(5);

/// Makes what loses its parent a child of this process.
pub(crate) fn adopt() -> Result<(), Failure> {
    set_child_subreaper(Some(getpid())).doing("adopt orphaned processes")
}

/// Kills everything below this process, and fails if something is there still after a while.
pub(crate) fn kill() -> Result<(), Failure> {
    kill_within(KILL_TIME_MAX).doing("kill what the process left running")
}

fn kill_within(time: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + time;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) if Instant::now() < deadline => continue,
            Ok(_) | Err(Errno::INTR) => {}
            // No children: nothing is left.
            Err(_) => return Ok(()),
        }
        let processes = descendants();
        // What stands still makes no others meanwhile.
        for signal in [Signal::STOP, Signal::KILL] {
            for process in &processes {
                // It may have gone by itself.
                let _gone = kill_process(*process, signal);
            }
        }
        if Instant::now() >= deadline {
            return Err(Errno::BUSY);
        }
        std::thread::sleep(Duration::from_millis(1));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{self, Cloned};
    use rustix::process::waitpid;

    /// In a process of its own, with a child that does not end by itself: 1 if that is not killed in
    /// time, 0 if it is.
    fn killed_within(time: Duration) -> Option<i32> {
        let Cloned::Parent(process) = sys::fork().unwrap() else {
            if matches!(sys::fork(), Ok(Cloned::Child)) {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            sys::exit_now(i32::from(kill_within(time) == Err(Errno::BUSY)))
        };
        let ended = waitpid(Some(process), WaitOptions::empty()).unwrap();
        ended.and_then(|(_, status)| status.exit_status())
    }

    #[test]
    fn what_is_not_killed_in_time_is_a_failure() {
        assert_eq!(killed_within(Duration::ZERO), Some(1));
        assert_eq!(killed_within(Duration::from_secs(60)), Some(0));
    }
}
