//! A private dockerd with the BuildKit in it.
//!
//! It runs in process and mount namespaces of its own, as their first process: when it
//! ends, however it or this test ends, all that it started ends too and its mounts are
//! gone with it. Only its control groups must be removed by hand.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::harness::{Outcome, tool};

/// A running dockerd, stopped when dropped.
pub(crate) struct Daemon {
    /// Its major version: 20, 28.
    pub(crate) version: u32,
    /// When it was started: all that is built is younger.
    pub(crate) started: SystemTime,
    program: Program,
    folder: PathBuf,
    control_group: String,
    child: Child,
}

/// An installed or unpacked Docker.
struct Program {
    dockerd: PathBuf,
    docker: PathBuf,
    /// What to look for other programs in: `containerd`, `runc`.
    path: String,
    plugins: PathBuf,
}

impl Daemon {
    /// Starts it with all its state below `folder`; `None`, and a message, where there is no Docker.
    pub(crate) fn start(folder: &Path) -> Option<Self> {
        let (program, version) = Program::find()?;
        fs::create_dir_all(folder).unwrap();
        let plugins = serde_json::json!({"cliPluginsExtraDirs": [program.plugins]});
        fs::write(folder.join("config.json"), plugins.to_string()).unwrap();
        fs::write(folder.join("daemon.json"), "{}").unwrap();
        let control_group = format!("longshore-test-{}", std::process::id());
        let child = program
            .daemon_command(folder, &control_group)
            .spawn()
            .unwrap();
        let daemon = Self {
            version,
            started: SystemTime::now(),
            program,
            folder: folder.to_owned(),
            control_group,
            child,
        };
        daemon.wait_until_up();
        Some(daemon)
    }

    /// Runs the client.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = Command::new(&self.program.docker);
        command
            .env("DOCKER_HOST", self.socket())
            .env("DOCKER_CONFIG", &self.folder)
            .env("DOCKER_BUILDKIT", "1")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("BUILDX_BUILDER")
            .env_remove("SOURCE_DATE_EPOCH")
            .stdin(Stdio::null())
            .args(args);
        Outcome::of(command)
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.folder.join("sock").display())
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.run(["version"]).code != 0 {
            assert!(
                Instant::now() < deadline,
                "dockerd does not answer:\n{}",
                fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `unshare` ends and takes dockerd, the first process of its namespace, with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !remove_control_groups(&self.control_group) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Program {
    /// The Docker that `LONGSHORE_TEST_DOCKER` names, else the installed one, with its version.
    fn find() -> Option<(Self, u32)> {
        let named = std::env::var_os("LONGSHORE_TEST_DOCKER").map(PathBuf::from);
        let found = named
            .map(|folder| Self::below(&folder.join("usr")))
            .and_then(|program| Some((program.version()?, program)));
        if let Some((version, program)) = found {
            return Some((program, version));
        }
        let dockerd = tool("dockerd")?;
        tool("unshare")?;
        let program = Self::below(dockerd.parent().unwrap().parent().unwrap());
        let version = program.version();
        if version.is_none() {
            crate::skip::skip(format_args!("{} does not run", dockerd.display()));
        }
        Some((program, version?))
    }

    fn below(usr: &Path) -> Self {
        let inherited = std::env::var("PATH").unwrap_or_default();
        Self {
            dockerd: usr.join("sbin/dockerd"),
            docker: usr.join("bin/docker"),
            path: format!("{0}/bin:{0}/sbin:{inherited}", usr.display()),
            plugins: usr.join("libexec/docker/cli-plugins"),
        }
    }

    /// The major version; `None` where it does not run.
    fn version(&self) -> Option<u32> {
        let output = Command::new(&self.dockerd).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.strip_prefix("Docker version ")?.split('.').next()?;
        version.parse().ok()
    }

    fn daemon_command(&self, folder: &Path, control_group: &str) -> Command {
        let place = |name: &str| folder.join(name).display().to_string();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare", "--kill-child"])
            .args(["--mount", "--pid", "--fork", "--mount-proc"])
            .arg(&self.dockerd)
            .args(["--config-file", &place("daemon.json")])
            .args(["--data-root", &place("data"), "--exec-root", &place("exec")])
            .args(["--pidfile", &place("pid")])
            .args(["--host", &format!("unix://{}", place("sock"))])
            .args(["--storage-driver", "overlay2"])
            .args(["--cgroup-parent", &format!("/{control_group}")])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .args([
                "--ip-forward=false",
                "--ip-masq=false",
                "--userland-proxy=false",
            ])
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log);
        command
    }
}

/// Removes a control group from every hierarchy; whether none is left.
fn remove_control_groups(name: &str) -> bool {
    let groups = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(groups).into_iter().flatten().flatten();
    let mut found = vec![groups.join(name)];
    found.extend(hierarchies.map(|entry| entry.path().join(name)));
    found.retain(|group| group.is_dir());
    for group in &found {
        for entry in walkdir::WalkDir::new(group).contents_first(true) {
            let _ = entry.map(|entry| fs::remove_dir(entry.path()));
        }
    }
    found.iter().all(|group| !group.exists())
}
