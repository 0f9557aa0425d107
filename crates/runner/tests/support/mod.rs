//! Root file systems of busybox, and running things in them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of this"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are test code"
)]

#[path = "../../../../tests/skip.rs"]
pub mod skip;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use longshore_runner::{
    Cancel, Ended, ExitStatus, ProcessIo, ProcessSpec, Rootfs, RunError, Runner, RunnerOptions,
    SandboxRunner, Stream,
};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &str = "awk cat chmod chown chroot cp cut date dd df dmesg echo env false find grep \
    head hostname id ip kill ln ls mkdir mknod mount mv ping ps pwd readlink rm rmdir sed seq setsid \
    sh sleep sort stat stty tail test touch tr true tty umount uname unshare wc which yes";

/// Whether these tests can run here; says so if not.
pub fn can_run() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new(BUSYBOX).exists() {
        "a static busybox at /bin/busybox"
    } else {
        return true;
    };
    skip::skip(format_args!("needs {missing}"));
    false
}

/// Whether root can have limits of a kind here, by what the kernel shows; says so if not.
pub fn are_controlled(controller: &str) -> bool {
    let top = Path::new("/sys/fs/cgroup");
    let unified = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
    let is_unified = unified.split_whitespace().any(|it| it == controller);
    let controlled = is_unified || top.join(controller).join("cgroup.procs").exists();
    if !controlled {
        skip::skip(format_args!("no control group limits {controller} here"));
    }
    controlled
}

pub fn new_runner() -> SandboxRunner {
    let stage = PathBuf::from(env!("CARGO_BIN_EXE_longshore-runner-stage"));
    SandboxRunner::new(&RunnerOptions {
        stage: Some(stage),
        ..RunnerOptions::default()
    })
    .unwrap()
}

fn shared_runner() -> &'static SandboxRunner {
    static RUNNER: OnceLock<SandboxRunner> = OnceLock::new();
    RUNNER.get_or_init(new_runner)
}

/// A root file system that goes with the value.
pub struct Image {
    temp: tempfile::TempDir,
    pub runner: &'static SandboxRunner,
}

/// What a run gave.
pub struct Outcome {
    pub status: Result<ExitStatus, RunError>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn ok(self) -> String {
        match &self.status {
            Ok(status) if status.success() => self.stdout,
            other => panic!("{other:?}\n{}\n{}", self.stdout, self.stderr),
        }
    }

    #[track_caller]
    pub fn error(self) -> RunError {
        match self.status {
            Ok(status) => panic!("it ran: {status:?}\n{}\n{}", self.stdout, self.stderr),
            Err(error) => error,
        }
    }

    #[track_caller]
    pub fn code(&self) -> i32 {
        match &self.status {
            Ok(ExitStatus {
                ended: Ended::Code(code),
                ..
            }) => *code,
            other => panic!("{other:?}\n{}\n{}", self.stdout, self.stderr),
        }
    }
}

impl Image {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        fill(&root);
        Self {
            temp,
            runner: shared_runner(),
        }
    }

    pub fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    /// A path inside the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// A directory beside the root.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.path(path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn spec(&self, script: &str) -> ProcessSpec {
        ProcessSpec::new(Rootfs::Path(self.root()), ["/bin/sh", "-c", script])
    }

    pub fn sh(&self, script: &str) -> Outcome {
        self.run(self.spec(script))
    }

    pub fn run(&self, spec: ProcessSpec) -> Outcome {
        self.run_with(spec, &Cancel::new().unwrap())
    }

    pub fn run_with(&self, spec: ProcessSpec, cancel: &Cancel) -> Outcome {
        run_by(self.runner, spec, cancel)
    }

    /// Compiles a static C program into the root; `false` (and a word) where there is no compiler.
    pub fn compile(&self, name: &str, source: &str) -> bool {
        let file = self.temp.path().join("source.c");
        fs::write(&file, source).unwrap();
        let output = self.path(name);
        let status = Command::new("gcc")
            .arg("-static")
            .arg("-o")
            .arg(output)
            .arg(file)
            .status();
        let compiled = status.is_ok_and(|status| status.success());
        if !compiled {
            skip::skip("needs gcc and a static C library");
        }
        compiled
    }
}

/// Runs to the end and keeps what was written.
pub fn run_by(runner: &dyn Runner, spec: ProcessSpec, cancel: &Cancel) -> Outcome {
    let collected = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let sink = Arc::clone(&collected);
    let io = ProcessIo::to_sink(move |stream, bytes| match stream {
        Stream::Stdout => sink.lock().unwrap().0.extend_from_slice(bytes),
        Stream::Stderr => sink.lock().unwrap().1.extend_from_slice(bytes),
    });
    let status = runner.run(spec, io, cancel);
    let (stdout, stderr) = std::mem::take(&mut *collected.lock().unwrap());
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// The root file system of the conformance suite.
pub fn fill(root: &Path) {
    for directory in ["bin", "etc", "root", "home/app", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    // A copy, not a link: what runs in there may write to it.
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_ascii_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:\napp:x:1000:\nwheel:x:10:app,root\nstaff:x:50:\n";
    fs::write(root.join("etc/group"), group).unwrap();
}

/// Panics if processes with this mark, or control groups that nobody holds, do not go soon.
#[track_caller]
pub fn assert_nothing_is_left(mark: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let (processes, groups) = (processes_with(mark), abandoned_groups());
        if processes.is_empty() && groups.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{processes:?} {groups:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The control groups of runs that no supervisor holds. Other tests run at the same time.
fn abandoned_groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|it| it.is_dir()) {
                let ours = entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("longshore-run-");
                let unheld = || fs::File::open(entry.path()).is_ok_and(|it| it.try_lock().is_ok());
                if ours && unheld() {
                    found.push(entry.path());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}

/// The processes whose command line contains a text.
pub fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && entry.file_name() != *std::process::id().to_string() {
            found.push(format!("{}: {line}", entry.file_name().display()));
        }
    }
    found
}
