//! What the end-to-end tests stand on: a state root of their own, contexts made from
//! text, a registry on loopback, and other people's tools.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const LONGSHORE: &str = env!("CARGO_BIN_EXE_longshore");
/// The repository.
pub(crate) const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A state root and a scratch directory, gone when dropped.
pub(crate) struct Sandbox {
    scratch: tempfile::TempDir,
    root: PathBuf,
}

impl Sandbox {
    /// Nothing in it.
    pub(crate) fn new() -> Self {
        let scratch = tempfile::Builder::new()
            .prefix("longshore-e2e-")
            .tempdir()
            .unwrap();
        let root = scratch.path().join("state");
        Self { scratch, root }
    }

    /// A tiny image named `busybox` in it: a static busybox with its applets. `None`, with a
    /// message, where there is no busybox, or this user cannot run containers.
    pub(crate) fn with_busybox() -> Option<Self> {
        let sandbox = Self::new();
        let tar = busybox_tar(&sandbox.path("busybox.tar"))?;
        sandbox.ok([
            "import",
            tar.to_str().unwrap(),
            "busybox",
            "-c",
            "CMD [\"sh\"]",
        ]);
        // As root it has to work: no test is skipped for a fault of ours.
        if !runs_as_root() && sandbox.run(["run", "busybox", "true"]).code != 0 {
            crate::skip::skip("this user cannot run containers here");
            return None;
        }
        Some(sandbox)
    }

    /// The state root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the scratch directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Writes a context directory; a name that ends in a slash is a directory.
    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        for (path, text) in files {
            write_file(&folder.join(path), text);
        }
        folder
    }

    /// The program with this sandbox's state, ready for arguments.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        longshore_at(&self.root, args)
    }

    /// Runs the program.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(self.command(args))
    }

    /// Runs the program, which must succeed.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        self.run(args).success()
    }

    /// Builds a context of a Dockerfile alone (or with files) as `tag`; must succeed.
    #[track_caller]
    pub(crate) fn build(&self, tag: &str, files: &[(&str, &str)]) -> Outcome {
        let context = self.context(&format!("context-{}", tag.replace([':', '/'], "-")), files);
        self.ok(["build", "-t", tag, context.to_str().unwrap()])
    }

    /// Builds a context without a name and fails; the outcome.
    #[track_caller]
    pub(crate) fn fail_to_build(
        &self,
        files: &[(&str, &str)],
        code: i32,
        parts: &[&str],
    ) -> Outcome {
        let context = self.fresh_context(files);
        self.run(["build", "-t", "failed", context.to_str().unwrap()])
            .failure(code, parts)
    }

    /// Builds a context directory as the image `app`, with further flags.
    #[track_caller]
    pub(crate) fn build_app(&self, context: &Path, flags: &[&str]) -> Outcome {
        let args = ["build", "-t", "app", context.to_str().unwrap()];
        self.ok(args.into_iter().chain(flags.iter().copied()))
    }

    /// Builds a context and exports its root file system.
    #[track_caller]
    pub(crate) fn exported(&self, files: &[(&str, &str)]) -> Exported {
        let context = self.fresh_context(files);
        self.exported_from(&context, &[])
    }

    /// Builds a context directory, with further flags, and exports its root file system.
    #[track_caller]
    pub(crate) fn exported_from(&self, context: &Path, flags: &[&str]) -> Exported {
        let archive = self.path("exported.tar");
        let output = format!("type=tar,dest={}", archive.display());
        let args = ["build", "-o", &output, context.to_str().unwrap()];
        self.ok(args.into_iter().chain(flags.iter().copied()));
        Exported::read(&archive)
    }

    /// A context directory of a name that was not used before.
    pub(crate) fn fresh_context(&self, files: &[(&str, &str)]) -> PathBuf {
        let number = (0..)
            .find(|number| !self.path(&format!("context-{number}")).exists())
            .unwrap();
        self.context(&format!("context-{number}"), files)
    }

    /// Runs a command in an image, which must succeed; its standard output.
    #[track_caller]
    pub(crate) fn output_of(&self, image: &str, command: &[&str]) -> String {
        let args = ["run", "--rm", image]
            .into_iter()
            .chain(command.iter().copied());
        self.ok(args).stdout
    }

    /// What `inspect` says of an image.
    #[track_caller]
    pub(crate) fn inspect(&self, image: &str) -> serde_json::Value {
        let text = self.ok(["inspect", "--format", "json", image]).stdout;
        let mut images: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        images.remove(0)
    }

    /// What a template gives for an image.
    #[track_caller]
    pub(crate) fn format(&self, image: &str, template: &str) -> String {
        self.ok(["inspect", "--format", template, image])
            .stdout
            .trim_end()
            .to_owned()
    }

    /// The names of the images that are here, sorted.
    #[track_caller]
    pub(crate) fn names(&self) -> Vec<String> {
        let text = self
            .ok(["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .stdout;
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

/// A root file system that was exported as a tar: what is at each path.
pub(crate) struct Exported(BTreeMap<String, Node>);

struct Node {
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    link: String,
    text: String,
}

impl Exported {
    /// Reads a tar.
    pub(crate) fn read(archive: &Path) -> Self {
        Self::from_reader(fs::File::open(archive).unwrap())
    }

    /// Reads a tar.
    pub(crate) fn from_reader(reader: impl std::io::Read) -> Self {
        let mut nodes = BTreeMap::new();
        for entry in tar::Archive::new(reader).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry
                .path()
                .unwrap()
                .to_string_lossy()
                .trim_matches('/')
                .to_owned();
            let header = entry.header().clone();
            let link = entry
                .link_name()
                .unwrap()
                .map(|link| link.to_string_lossy().into_owned());
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let node = Node {
                kind: header.entry_type(),
                mode: header.mode().unwrap(),
                owner: (header.uid().unwrap(), header.gid().unwrap()),
                link: link.unwrap_or_default(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            };
            nodes.insert(path, node);
        }
        Self(nodes)
    }

    /// Whether there is something at a path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// A file's text.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> &str {
        &self.node(path).text
    }

    /// What is at a path, in one line: `file 644 0:0 text`, `dir 755 0:0`, `link target`.
    #[track_caller]
    pub(crate) fn line(&self, path: &str) -> String {
        let Node {
            kind,
            mode,
            owner: (uid, gid),
            link,
            text,
        } = self.node(path);
        match kind {
            tar::EntryType::Directory => format!("dir {mode:o} {uid}:{gid}"),
            tar::EntryType::Symlink => format!("link {link}"),
            tar::EntryType::Link => format!("hardlink {link}"),
            _ => format!("file {mode:o} {uid}:{gid} {}", text.trim_end()),
        }
    }

    /// Every path, sorted.
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Every path below a directory, sorted; the busybox base is left out.
    pub(crate) fn below(&self, folder: &str) -> Vec<&str> {
        let prefix = format!("{folder}/");
        self.0
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .collect()
    }

    #[track_caller]
    fn node(&self, path: &str) -> &Node {
        match self.0.get(path) {
            Some(node) => node,
            None => panic!(
                "no `{path}` in {:?}",
                self.0
                    .keys()
                    .filter(|p| !p.starts_with("bin/"))
                    .collect::<Vec<_>>()
            ),
        }
    }
}

/// The program with a state root, ready for arguments; nothing of the user's is read.
pub(crate) fn longshore_at<S: AsRef<OsStr>>(
    root: &Path,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(LONGSHORE);
    command
        .env("LONGSHORE_ROOT", root)
        .env("DOCKER_CONFIG", root.with_extension("docker"))
        .env("REGISTRY_AUTH_FILE", root.with_extension("auth.json"))
        .env_remove("SOURCE_DATE_EPOCH")
        .env_remove("BUILDKIT_PROGRESS")
        .stdin(Stdio::null())
        .args(args);
    command
}

/// Writes a file and its parents; a path that ends in a slash is a directory.
pub(crate) fn write_file(path: &Path, text: &str) {
    if path.as_os_str().to_string_lossy().ends_with('/') {
        return fs::create_dir_all(path).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What a finished program said.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    shown: String,
}

impl Outcome {
    /// Runs a command to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let shown = format!("{command:?}");
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        Self::from(output, shown)
    }

    fn from(output: Output, shown: String) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            shown,
        }
    }

    /// Fails the test, with all that was said, unless the program succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(
            self.code, 0,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown, self.stdout, self.stderr
        );
        self
    }

    /// Fails the test unless the program failed with `code` and said every one of `parts`.
    #[track_caller]
    pub(crate) fn failure(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(
            self.code, code,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown, self.stdout, self.stderr
        );
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{}: no `{part}` in\n{}",
                self.shown,
                self.stderr
            );
        }
        self
    }

    /// The display names of the steps that were taken from the cache.
    pub(crate) fn cached(&self) -> Vec<String> {
        self.named(|rest| rest == "CACHED")
    }

    /// The instructions that ran, without their stage and number: `RUN make`.
    /// Sources (the context, base images) are looked at in every build, and are left out.
    pub(crate) fn ran(&self) -> Vec<String> {
        let steps = self.named(|rest| rest.starts_with("DONE "));
        let mut ran: Vec<String> = steps
            .iter()
            .filter(|name| !name.starts_with("[internal]") && !name.contains("] FROM "))
            .filter_map(|name| {
                name.split_once("] ")
                    .map(|(_, instruction)| instruction.to_owned())
            })
            .collect();
        ran.sort();
        ran
    }

    fn named(&self, ends: impl Fn(&str) -> bool) -> Vec<String> {
        let mut names = BTreeMap::new();
        let mut found = Vec::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line
                .split_once(' ')
                .filter(|(number, _)| number.starts_with('#'))
            else {
                continue;
            };
            if rest.starts_with('[') {
                names
                    .entry(number.to_owned())
                    .or_insert_with(|| rest.to_owned());
            } else if ends(rest) {
                found.extend(names.get(number).cloned());
            }
        }
        found
    }
}

/// The bytes of all files below a folder.
pub(crate) fn disk_usage(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file());
    files
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

/// A registry on loopback with a state root of its own; stopped when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    _scratch: Option<tempfile::TempDir>,
    _further: Option<tempfile::TempDir>,
}

impl Server {
    /// `longshore serve` on a fresh root.
    pub(crate) fn start() -> Self {
        let scratch = tempfile::Builder::new()
            .prefix("longshore-serve-")
            .tempdir()
            .unwrap();
        let mut server = Self::start_at(&scratch.path().join("state"));
        server._scratch = Some(scratch);
        server
    }

    /// `longshore serve` on a given root.
    pub(crate) fn start_at(root: &Path) -> Self {
        let address = free_address();
        let child = longshore_at(root, ["serve", "--listen", &address])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            address,
            _scratch: None,
            _further: None,
        };
        server.wait_until_up();
        server
    }

    /// Debian's `docker-registry`, where it is installed.
    pub(crate) fn start_docker_registry() -> Option<Self> {
        Self::start_docker_registry_with("")
    }

    /// Debian's `docker-registry` that asks for the user `dock` with the password `worker`.
    pub(crate) fn start_docker_registry_with_login() -> Option<Self> {
        // bcrypt, as that registry wants it.
        let line = "dock:$2b$04$nOMxp7/3kNx1NKTw2cnxe.CgpJEYDe5T8iI1Nw3k0dj8EklKI65e2\n";
        let folder = tempfile::Builder::new()
            .prefix("longshore-htpasswd-")
            .tempdir()
            .unwrap();
        let file = folder.path().join("htpasswd");
        fs::write(&file, line).unwrap();
        let auth = format!(
            "auth: {{htpasswd: {{realm: docks, path: {}}}}}\n",
            file.display()
        );
        let mut server = Self::start_docker_registry_with(&auth)?;
        server._further = Some(folder);
        Some(server)
    }

    fn start_docker_registry_with(further: &str) -> Option<Self> {
        tool("docker-registry")?;
        let scratch = tempfile::Builder::new()
            .prefix("longshore-peer-")
            .tempdir()
            .unwrap();
        let address = free_address();
        let config = scratch.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '{address}'}}\n{further}",
            scratch.path().join("data").display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            address,
            _scratch: Some(scratch),
            _further: None,
        };
        server.wait_until_up();
        Some(server)
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while http_get(&self.address, "/v2/").is_none() {
            assert!(
                Instant::now() < deadline,
                "nothing answers at {}",
                self.address
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A reference in this registry.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that nothing listens on.
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

/// A plain HTTP GET: status and body.
pub(crate) fn http_get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Some((status, body))
}

/// The path of another tool, or a message that the test is skipped.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    });
    if found.is_none() {
        crate::skip::skip(format_args!("{name} is not installed"));
    }
    found
}

/// Runs another tool, which must succeed.
#[track_caller]
pub(crate) fn peer<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Outcome {
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::null());
    Outcome::of(command).success()
}

/// Whether the test runs as root, or a message that it is skipped.
pub(crate) fn is_root() -> bool {
    if !runs_as_root() {
        crate::skip::skip("needs root");
    }
    runs_as_root()
}

fn runs_as_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// A root file system of a static busybox and its applets, as a tar.
pub(crate) fn busybox_tar(path: &Path) -> Option<PathBuf> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        crate::skip::skip("busybox-static is not installed");
        return None;
    };
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    let mut directory = |name: &str, mode: u32| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_mtime(1_577_836_800);
        header.set_size(0);
        archive
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    };
    for name in [
        "bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "usr/sbin", "var",
    ] {
        directory(name, 0o755);
    }
    directory("root", 0o700);
    directory("tmp", 0o1777);
    let mut file = |name: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_mtime(1_577_836_800);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).unwrap();
    };
    file("bin/busybox", 0o755, &fs::read(busybox).unwrap());
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    file(
        "etc/group",
        0o644,
        b"root:x:0:\nwww:x:33:\nstaff:x:50:www\nnogroup:x:65534:\n",
    );
    let applets = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        header.set_mtime(1_577_836_800);
        archive
            .append_link(&mut header, format!("bin/{applet}"), "/bin/busybox")
            .unwrap();
    }
    archive.finish().unwrap();
    Some(path.to_owned())
}

/// A real Debian's root file system as a tar, or a message that the test is skipped.
/// `LONGSHORE_TEST_BASE` names it; `scripts/test` makes one.
pub(crate) fn debian_base() -> Option<PathBuf> {
    let tar = std::env::var_os("LONGSHORE_TEST_BASE")
        .map(PathBuf::from)
        .filter(|path| path.exists());
    if tar.is_none() {
        crate::skip::skip("LONGSHORE_TEST_BASE names no Debian root file system");
    }
    tar
}

/// A state root, shared by the tests that need it, in which a real Debian is `debian:bookworm-slim`.
pub(crate) fn debian_root() -> Option<PathBuf> {
    let tar = debian_base()?;
    if !is_root() {
        return None;
    }
    let stamp = fs::metadata(&tar)
        .unwrap()
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("debian-{}", stamp.as_secs()));
    fs::create_dir_all(&folder).unwrap();
    let lock = fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let root = folder.join("state");
    let environment = [
        "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt",
    ];
    if Outcome::of(longshore_at(&root, ["inspect", "debian:bookworm-slim"])).code != 0 {
        let import = [
            "import",
            tar.to_str().unwrap(),
            "debian:bookworm-slim",
            "-c",
            environment[0],
        ];
        Outcome::of(longshore_at(&root, import)).success();
    }
    Some(root)
}

/// Every path below a directory with its type, mode, owner, size or target, sorted.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut lines = Vec::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.unwrap();
        let meta = entry.path().symlink_metadata().unwrap();
        let path = entry
            .path()
            .strip_prefix(root)
            .unwrap()
            .display()
            .to_string();
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if meta.is_file() {
            format!(
                "{:o} {} bytes",
                meta.permissions().mode() & 0o7777,
                meta.len()
            )
        } else {
            format!("{:o}", meta.permissions().mode())
        };
        lines.push(format!("{path} {}:{} {what}", meta.uid(), meta.gid()));
    }
    lines
}

/// Whether some file below a folder has these bytes in it.
pub(crate) fn is_anywhere_below(folder: &Path, bytes: &[u8]) -> bool {
    let files = walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap);
    files
        .filter(|entry| entry.file_type().is_file())
        .any(|entry| {
            let content = fs::read(entry.path()).unwrap();
            content.windows(bytes.len()).any(|window| window == bytes)
        })
}
