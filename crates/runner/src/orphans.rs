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

/// Kills everything below this process.
pub(crate) fn kill() {
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
