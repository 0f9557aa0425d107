//! Many runs, one after the other and all at once, and what is left of them: a test program of its
//! own, because it counts what its process has open.
#![expect(clippy::unwrap_used, reason = "helpers of tests are test code")]

mod support;

use std::fs;

use support::{Image, assert_nothing_is_left, can_run};

const IN_A_ROW: usize = 500;
const AT_ONCE: usize = 64;

/// What this process has open, and which processes are its children.
fn held() -> (usize, String) {
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    let mut children = String::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("children");
        children += &fs::read_to_string(path).unwrap_or_default();
    }
    (open, children)
}

fn mounts() -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().count()
}

#[test]
fn privileged_500_runs_in_a_row_and_64_at_once_leave_nothing() {
    if !can_run() {
        return;
    }
    let script = "(setsid sleep 7654 &); mkdir -p /made; echo x > /made/file; rm -r /made";
    let image = Image::new();
    image.sh(script).ok();
    let before = (held(), mounts());
    for _ in 0..IN_A_ROW {
        image.sh(script).ok();
    }
    assert_eq!((held(), mounts()), before, "in a row");
    let images: Vec<Image> = (0..AT_ONCE).map(|_| Image::new()).collect();
    let before = (held(), mounts());
    std::thread::scope(|scope| {
        for image in &images {
            scope.spawn(|| image.sh(script).ok());
        }
    });
    assert_eq!((held(), mounts()), before, "at once");
    assert_nothing_is_left("sleep 7654");
    for image in images.iter().chain([&image]) {
        assert!(!image.path("made").exists() && !image.path("proc").exists());
    }
}
