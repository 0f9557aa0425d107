//! Control groups in a directory that looks like theirs: what is written where, in each layout, also
//! on a machine that has another one.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Groups, Hierarchies, group_name};
use crate::spec::Limits;
use crate::status::Warning;

/// A hierarchy with a group `own` in which the caller is.
struct Tree {
    temp: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self {
            temp: tempfile::tempdir().unwrap(),
        };
        for group in ["", "own"] {
            fs::create_dir_all(tree.path(group)).unwrap();
            for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.kill"] {
                fs::write(tree.path(group).join(file), "").unwrap();
            }
        }
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn run_group(&self, parent: &str) -> PathBuf {
        self.path(parent).join(group_name("test"))
    }
}

fn unified(tree: &Tree) -> Hierarchies {
    Hierarchies {
        unified: Some(tree.path("own")),
        ..Hierarchies::default()
    }
}

fn text(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap_or_else(|_| "absent".to_owned())
}

fn made(hierarchies: &Hierarchies, limits: &Limits) -> (Groups, Vec<Warning>) {
    let mut warnings = Vec::new();
    let groups = Groups::new(hierarchies, "test", limits, &mut warnings);
    (groups, warnings)
}

fn all_limits() -> Limits {
    Limits {
        memory_bytes: Some(1 << 20),
        memory_swap_bytes: Some(3 << 20),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(50_000),
        cpu_shares: Some(2048),
        cpuset_cpus: Some("0-1".to_owned()),
        cpuset_mems: Some("0".to_owned()),
        pids_max: Some(7),
        parent: None,
    }
}

#[test]
fn a_parent_is_a_path_from_the_top_and_is_made() {
    let tree = Tree::new();
    let limits = Limits {
        parent: Some("/ci/job".to_owned()),
        memory_bytes: Some(1 << 20),
        ..Limits::default()
    };
    // Its directory has no files of its own here, as the kernel's would.
    let (_groups, warnings) = made(&unified(&tree), &limits);
    assert_eq!(warnings, []);
    assert_eq!(text(&tree.run_group("ci/job"), "memory.max"), "1048576");
    assert!(!tree.run_group("own").exists());

    let old = Hierarchies {
        unified: None,
        old: [("cpu".to_owned(), tree.path("own"))].into(),
    };
    let (groups, _) = made(
        &old,
        &Limits {
            parent: Some("other".to_owned()),
            ..Limits::default()
        },
    );
    assert!(tree.run_group("other").exists(), "also without a limit");
    drop(groups);

    let out = Limits {
        parent: Some("../../etc".to_owned()),
        ..Limits::default()
    };
    let (_groups, warnings) = made(&unified(&tree), &out);
    assert_eq!(warnings.len(), 1);
    assert!(tree.run_group("own").exists());
}

#[test]
fn in_the_unified_hierarchy_all_limits_are_in_one_group() {
    let tree = Tree::new();
    let (groups, warnings) = made(&unified(&tree), &all_limits());
    assert_eq!(warnings, []);
    let group = tree.run_group("own");
    for (file, value) in [
        ("memory.max", "1048576"),
        ("memory.swap.max", "2097152"),
        ("cpu.max", "20000 50000"),
        ("cpu.weight", "79"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "7"),
    ] {
        assert_eq!(text(&group, file), value, "{file}");
    }
    groups.add(rustix::process::getpid(), true).unwrap();
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    assert_eq!(text(&group, "cgroup.procs"), own);
    fs::write(group.join("cgroup.procs"), "").unwrap();
    groups.kill();
    assert_eq!(text(&group, "cgroup.kill"), "1");
}

#[test]
fn where_the_callers_group_may_have_no_controllers_the_topmost_is_the_parent() {
    let tree = Tree::new();
    // Processes are in it: the kernel refuses to hand controllers on.
    let control = tree.path("own/cgroup.subtree_control");
    fs::remove_file(&control).unwrap();
    fs::create_dir(&control).unwrap();
    let (_groups, warnings) = made(&unified(&tree), &all_limits());
    assert_eq!(warnings, []);
    assert_eq!(text(&tree.run_group(""), "memory.max"), "1048576");
    assert!(!tree.run_group("own").exists());
    assert_eq!(text(&tree.path(""), "cgroup.subtree_control"), "+pids");
    // Without a limit nothing has to be handed on.
    let tree = Tree::new();
    let (_groups, _) = made(&unified(&tree), &Limits::default());
    assert!(tree.run_group("own").exists());
    assert_eq!(text(&tree.path("own"), "cgroup.subtree_control"), "");
}

#[test]
fn a_limit_that_cannot_be_set_is_a_warning_that_names_it() {
    let tree = Tree::new();
    // A kernel without accounting for swap has no such file to write to.
    let group = tree.run_group("own");
    fs::create_dir_all(group.join("memory.swap.max")).unwrap();
    let (_groups, warnings) = made(&unified(&tree), &all_limits());
    let what: Vec<_> = warnings.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(what, ["swap limit"]);
    assert_eq!(text(&group, "memory.max"), "1048576");
    // Nowhere at all, as for a user without delegation.
    let (_groups, warnings) = made(&Hierarchies::default(), &all_limits());
    assert_eq!(warnings.len(), 8, "{warnings:?}");
}

#[test]
fn a_lack_of_memory_is_read_from_the_groups_events() {
    let tree = Tree::new();
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        ..Limits::default()
    };
    let (groups, _) = made(&unified(&tree), &limits);
    let events = tree.run_group("own").join("memory.events");
    assert!(!groups.oom_killed(), "there is no such file yet");
    let count = |oom_kill: u32| {
        format!("low 0\nhigh 3\nmax 12\noom 1\noom_kill {oom_kill}\noom_group_kill 0\n")
    };
    for (killed, expected) in [(0, false), (1, true), (25, true)] {
        fs::write(&events, count(killed)).unwrap();
        assert_eq!(groups.oom_killed(), expected, "{killed}");
    }
    // Where the limit is that of a group above, or the machine's memory, the kernel counts here too.
    let tree = Tree::new();
    let (groups, _) = made(&unified(&tree), &Limits::default());
    assert!(
        !groups.oom_killed(),
        "without the controller there is no such file"
    );
    fs::write(tree.run_group("own").join("memory.events"), count(1)).unwrap();
    assert!(groups.oom_killed());
}

#[test]
fn what_a_process_is_in_is_the_run_s_group_or_the_caller_s() {
    let (memory, pids) = (Tree::new(), Tree::new());
    let old = [("memory", &memory), ("pids", &pids)];
    let hierarchies = Hierarchies {
        unified: None,
        old: old
            .map(|(name, tree)| (name.to_owned(), tree.path("own")))
            .into(),
    };
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        ..Limits::default()
    };
    let (groups, _) = made(&hierarchies, &limits);
    let shown = groups.shown(&hierarchies).old;
    assert_eq!(shown["memory"], memory.run_group("own"));
    assert_eq!(shown["pids"], pids.path("own"));
    // Below a parent of the caller's choice, too.
    let limits = Limits {
        parent: Some("/ci".to_owned()),
        ..Limits::default()
    };
    let (groups, _) = made(&hierarchies, &limits);
    let shown = groups.shown(&hierarchies).old;
    assert_eq!(shown["memory"], memory.run_group("ci"));
}

#[test]
fn a_group_that_somebody_else_holds_is_not_waited_for_without_end() {
    let tree = Tree::new();
    let group = tree.run_group("own");
    fs::create_dir(&group).unwrap();
    let held = fs::File::open(&group).unwrap();
    held.lock().unwrap();
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        ..Limits::default()
    };
    let (groups, warnings) = made(&unified(&tree), &limits);
    assert!(groups.unified().is_none());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_controller_in_its_old_hierarchy_is_used_there() {
    let (new, memory, cpu, cpuset) = (Tree::new(), Tree::new(), Tree::new(), Tree::new());
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fs::write(cpuset.path("own").join(file), "0-3\n").unwrap();
    }
    let old = [("memory", &memory), ("cpu", &cpu), ("cpuset", &cpuset)];
    let old = old.map(|(name, tree)| (name.to_owned(), tree.path("own")));
    let hierarchies = Hierarchies {
        old: old.into(),
        ..unified(&new)
    };
    let limits = Limits {
        cpuset_mems: None,
        ..all_limits()
    };
    let (groups, warnings) = made(&hierarchies, &limits);
    assert_eq!(warnings, []);
    for (tree, file, value) in [
        (&memory, "memory.limit_in_bytes", "1048576"),
        (&memory, "memory.memsw.limit_in_bytes", "3145728"),
        (&cpu, "cpu.shares", "2048"),
        (&cpu, "cpu.cfs_quota_us", "20000"),
        (&cpu, "cpu.cfs_period_us", "50000"),
        (&cpuset, "cpuset.cpus", "0-1"),
        // A group takes no process before it has both.
        (&cpuset, "cpuset.mems", "0-3\n"),
        // This one is in the unified hierarchy, of which the others take no part.
        (&new, "pids.max", "7"),
        (&new, "memory.max", "absent"),
    ] {
        assert_eq!(text(&tree.run_group("own"), file), value, "{file}");
    }
    let control = memory.run_group("own").join("memory.oom_control");
    fs::write(&control, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n").unwrap();
    assert!(groups.oom_killed());
    fs::write(&control, "oom_kill_disable 0\nunder_oom 1\noom_kill 0\n").unwrap();
    assert!(!groups.oom_killed());
}

#[test]
fn without_a_unified_hierarchy_the_old_ones_do() {
    let (memory, pids) = (Tree::new(), Tree::new());
    let old = [("memory", &memory), ("pids", &pids)];
    let hierarchies = Hierarchies {
        unified: None,
        old: old
            .map(|(name, tree)| (name.to_owned(), tree.path("own")))
            .into(),
    };
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        pids_max: Some(7),
        cpu_shares: Some(2),
        ..Limits::default()
    };
    let (groups, warnings) = made(&hierarchies, &limits);
    let what: Vec<_> = warnings.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(what, ["CPU shares"]);
    assert!(groups.unified().is_none());
    assert_eq!(text(&pids.run_group("own"), "pids.max"), "7");
    assert_eq!(
        text(&memory.run_group("own"), "memory.limit_in_bytes"),
        "1048576"
    );
}
