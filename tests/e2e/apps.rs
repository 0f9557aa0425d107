//! Real applications on a real Debian: built, pushed, pulled by digest into another
//! place, run, and asked over HTTP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{
    Outcome, REPOSITORY, Sandbox, Server, debian_root, free_address, http_get, longshore_at,
};

/// Builds `testdata/apps/NAME` on the shared Debian root under a name in a registry,
/// pushes it, and pulls it by digest into a place of its own.
fn through_the_registry(name: &str) -> Option<(Sandbox, Server, String)> {
    let root = debian_root()?;
    let (server, elsewhere) = (Server::start(), Sandbox::new());
    let reference = server.reference(&format!("apps/{name}:1"));
    let folder = format!("{REPOSITORY}/testdata/apps/{name}");
    Outcome::of(longshore_at(&root, ["build", "-t", &reference, &folder])).success();
    Outcome::of(longshore_at(&root, ["push", &reference])).success();
    let digest = Outcome::of(longshore_at(
        &root,
        ["inspect", "--format", "{{.Digest}}", &reference],
    ))
    .success();
    // The shared root keeps its cache, not the names of a registry that goes away.
    Outcome::of(longshore_at(&root, ["rmi", &reference])).success();
    let by_digest = server.reference(&format!("apps/{name}@{}", digest.stdout.trim_end()));
    elsewhere.ok(["pull", &by_digest]);
    Some((elsewhere, server, by_digest))
}

/// A container in the background that serves HTTP; killed when dropped.
struct Service {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Service {
    fn start(sandbox: &Sandbox, image: &str, command: impl Fn(&str) -> Vec<String>) -> Self {
        let (address, log) = (free_address(), sandbox.path("service.log"));
        let args = ["run", "--rm", image]
            .map(str::to_owned)
            .into_iter()
            .chain(command(&address));
        let mut run = sandbox.command(args);
        run.stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(&log).unwrap()));
        Self {
            child: run.spawn().unwrap(),
            address,
            log,
        }
    }

    /// The answer to a GET, waiting for the service to come up.
    fn get(&mut self, path: &str) -> (u16, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(answer) = http_get(&self.address, path) {
                return answer;
            }
            let ended = self.child.try_wait().unwrap();
            let log = || fs::read_to_string(&self.log).unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{ended:?}: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `kill -9` of `longshore run`: the container goes with it.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&self.address).is_ok() {
            assert!(
                Instant::now() < deadline,
                "the container outlives `longshore run`"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn privileged_a_python_web_service_is_built_carried_by_digest_and_answers() {
    let Some((sandbox, _server, image)) = through_the_registry("python-web") else {
        return;
    };
    let mut service = Service::start(&sandbox, &image, |address| {
        [
            "waitress-serve",
            &format!("--listen={address}"),
            "notes.app:app",
        ]
        .map(str::to_owned)
        .to_vec()
    });
    let (status, body) = service.get("/");
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["service"], "notes");
    assert_eq!(answer["user"], "notes");
    assert_eq!(answer["workdir"], "/srv/notes");
    assert!(
        answer["uid"]
            .as_u64()
            .is_some_and(|uid| uid > 0 && uid < 1000),
        "{body}"
    );
    service.kill();
}

#[test]
fn privileged_a_static_c_program_is_alone_in_its_image_and_reads_files_and_input() {
    let Some((sandbox, _server, image)) = through_the_registry("c-static") else {
        return;
    };
    assert_eq!(
        sandbox.inspect(&image)["RootFS"]["Layers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let text = sandbox.path("text");
    fs::write(&text, "one two\nthree\n").unwrap();
    let volume = format!("{}:/text:ro", text.display());
    assert_eq!(
        sandbox
            .ok(["run", "--rm", "-v", &volume, &image, "/text"])
            .stdout,
        "2 3 14 /text\n"
    );
    let mut piped = sandbox.command(["run", "--rm", "-i", &image, "-"]);
    piped.stdin(Stdio::from(fs::File::open(&text).unwrap()));
    assert_eq!(Outcome::of(piped).success().stdout, "2 3 14 -\n");
    assert!(
        sandbox
            .ok(["run", "--rm", &image])
            .stdout
            .starts_with("usage: wordcount")
    );
    sandbox
        .run(["run", "--rm", &image, "/absent"])
        .failure(1, &["/absent"]);
}

#[test]
fn privileged_a_node_front_end_is_bundled_and_served_as_files() {
    let Some((sandbox, _server, image)) = through_the_registry("node-front") else {
        return;
    };
    let mut service = Service::start(&sandbox, &image, |address| {
        ["busybox", "httpd", "-f", "-p", address, "-h", "/srv/www"]
            .map(str::to_owned)
            .to_vec()
    });
    let (status, page) = service.get("/index.html");
    assert!(
        status == 200 && page.contains("main.js"),
        "{status}: {page}"
    );
    let (status, script) = service.get("/main.js");
    assert!(status == 200 && script.contains("bundled by"), "{status}");
    let owners = sandbox.output_of(&image, &["stat", "-c", "%U", "/srv/www/main.js"]);
    assert_eq!(owners, "www-data\n");
    service.kill();
}

/// The second build of an application whose code changed installs nothing again.
#[test]
fn privileged_an_edit_of_the_code_does_not_install_the_packages_again() {
    let Some(root) = debian_root() else { return };
    let scratch = Sandbox::new();
    let context = scratch.path("python-web");
    copy_tree(
        Path::new(&format!("{REPOSITORY}/testdata/apps/python-web")),
        &context,
    );
    let build = || {
        Outcome::of(longshore_at(
            &root,
            [
                "build",
                "-o",
                "type=image,name=edited-app:1",
                context.to_str().unwrap(),
            ],
        ))
        .success()
    };
    build();
    let code = context.join("notes/app.py");
    // The state root outlives a run of the tests: an edit that no earlier run made.
    let edited = format!(
        "{}\n# edited in {}\n",
        fs::read_to_string(&code).unwrap(),
        context.display()
    );
    fs::write(&code, edited).unwrap();
    let ran = build().ran();
    Outcome::of(longshore_at(&root, ["rmi", "edited-app:1"])).success();
    assert_eq!(
        ran.iter()
            .filter(|step| step.starts_with("COPY . ."))
            .count(),
        1,
        "{ran:?}"
    );
    assert!(
        !ran.iter()
            .any(|step| step.contains("apt-get") || step.contains("pip install")),
        "{ran:?}"
    );
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
