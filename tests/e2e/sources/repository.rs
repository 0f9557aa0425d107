//! Repositories made by the tests, and the servers that give them away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::web::{Answer, Request, Web};
use crate::harness::{free_address, write_file};

/// When the first commit of every repository was made.
pub(crate) const FIRST_COMMIT_S: i64 = 1_500_000_000;

/// A work tree with a repository.
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
}

impl Repository {
    /// An empty one, with the branch `main`.
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let repository = Self { path };
        repository.git(["init", "-q", "-b", "main"]);
        repository
    }

    /// One with a commit of these files.
    pub(crate) fn with(path: PathBuf, files: &[(&str, &str)]) -> Self {
        let repository = Self::new(path);
        repository.commit(files);
        repository
    }

    /// Runs `git` in it; what it says.
    #[track_caller]
    pub(crate) fn git<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        self.git_at(FIRST_COMMIT_S, args)
    }

    /// Runs `git` in it, at a time; what it says.
    #[track_caller]
    pub(crate) fn git_at<'a>(
        &self,
        seconds: i64,
        args: impl IntoIterator<Item = &'a str>,
    ) -> String {
        let mut command = Command::new("git");
        command
            .current_dir(&self.path)
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", format!("@{seconds} +0000"))
            .env("GIT_COMMITTER_DATE", format!("@{seconds} +0000"))
            .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "t")))
            .envs(
                ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "t@example.invalid")),
            );
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits files; the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        self.commit_at(FIRST_COMMIT_S, files)
    }

    /// Commits files at a time; the commit.
    pub(crate) fn commit_at(&self, seconds: i64, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            write_file(&self.path.join(path), text);
        }
        self.git(["add", "-A"]);
        self.git_at(seconds, ["commit", "-q", "--allow-empty", "-m", "c"]);
        self.head()
    }

    /// The newest commit.
    pub(crate) fn head(&self) -> String {
        self.git(["rev-parse", "HEAD"])
    }
}

/// Gives away every repository below a folder: `http://…/NAME.git`, as `git http-backend`
/// does. `secret` is the `Authorization` that is asked for.
pub(crate) fn smart_http(root: &Path, secret: Option<&'static str>) -> Web {
    let root = root.to_owned();
    Web::serve(move |request| {
        if let Some(secret) = secret
            && request.headers.get("authorization").map(String::as_str) != Some(secret)
        {
            return Answer::status(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        backend(&root, request)
    })
}

/// One call of `git http-backend`.
pub(crate) fn backend(root: &Path, request: &Request) -> Answer {
    use std::io::Write as _;
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let path = path.replacen(".git/", "/.git/", 1);
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&request.body)
        .unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let end = output
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let mut answer = Answer::file(&output[end + 4..]);
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        match name {
            "Status" => answer.status = value[..3].parse().unwrap(),
            name => answer = answer.with(name, value),
        }
    }
    answer
}

/// Gives away the files below a folder, as the simplest of servers does.
pub(crate) fn files(root: &Path) -> Web {
    let root = root.to_owned();
    Web::serve(move |request| {
        let path = request.path.split('?').next().unwrap();
        let path = path.trim_start_matches('/').replacen(".git/", "/.git/", 1);
        fs::read(root.join(path)).map_or_else(|_| Answer::status(404), Answer::file)
    })
}

/// `git daemon`; stopped when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: String,
}

impl Daemon {
    pub(crate) fn start(root: &Path) -> Self {
        let address = free_address();
        let (host, port) = address.split_once(':').unwrap();
        let child = Command::new(format!("{}/git-daemon", exec_path()))
            .args(["--export-all", "--reuseaddr"])
            .arg(format!("--listen={host}"))
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", root.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&daemon.address).is_err() {
            assert!(Instant::now() < deadline, "git daemon does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

fn exec_path() -> String {
    let output = Command::new("git").arg("--exec-path").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
