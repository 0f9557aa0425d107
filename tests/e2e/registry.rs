//! Pushing, pulling and serving, against our own registry, Debian's, skopeo and buildah.

use std::fs;
use std::process::Stdio;

use crate::harness::{Outcome, Sandbox, Server, free_address, http_get, longshore_at, peer, tool};

const FILES: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM scratch\nCOPY hello.txt /hello.txt\nCMD [\"/hello\"]\n",
    ),
    ("hello.txt", "hello\n"),
];

/// Builds the small image under a name in a registry and pushes it.
#[track_caller]
fn push_small(sandbox: &Sandbox, server: &Server, name: &str) -> String {
    let reference = server.reference(name);
    sandbox.build(&reference, FILES);
    let pushed = sandbox.ok(["push", &reference]);
    let digest = sandbox.format(&reference, "{{.Digest}}");
    assert!(pushed.stdout.contains(&digest), "{}", pushed.stdout);
    digest
}

#[test]
fn an_image_goes_through_our_registry_by_tag_and_by_digest() {
    let Some(one) = Sandbox::with_busybox() else {
        return;
    };
    let (server, two) = (Server::start(), Sandbox::new());
    let reference = server.reference("team/app:1");
    one.build(
        &reference,
        &[(
            "Dockerfile",
            "FROM busybox\nRUN echo carried > /cargo\nCMD [\"cat\", \"/cargo\"]\n",
        )],
    );
    one.ok(["push", &reference]);
    let digest = one.format(&reference, "{{.Digest}}");

    let by_digest = server.reference(&format!("team/app@{digest}"));
    two.ok(["pull", &by_digest]);
    assert_eq!(two.ok(["run", "--rm", &by_digest]).stdout, "carried\n");
    two.ok(["pull", &reference]);
    assert_eq!(two.format(&reference, "{{.Digest}}"), digest);
}

#[test]
fn a_push_of_what_is_there_moves_no_blob() {
    let (sandbox, server) = (Sandbox::new(), Server::start());
    push_small(&sandbox, &server, "app:1");
    let again = sandbox.ok(["push", &server.reference("app:1")]);
    assert!(!again.stderr.contains("upload"), "{}", again.stderr);
    sandbox.ok([
        "tag",
        &server.reference("app:1"),
        &server.reference("app:2"),
    ]);
    let other_tag = sandbox.ok(["push", &server.reference("app:2")]);
    assert!(!other_tag.stderr.contains("upload"), "{}", other_tag.stderr);
    // In another repository of the same registry the blobs are mounted.
    sandbox.ok([
        "tag",
        &server.reference("app:1"),
        &server.reference("other/app:1"),
    ]);
    let other_repository = sandbox.ok(["push", &server.reference("other/app:1")]);
    assert!(
        !other_repository.stderr.contains("upload"),
        "{}",
        other_repository.stderr
    );
    assert_eq!(
        http_get(&server.address, "/v2/other/app/tags/list")
            .unwrap()
            .0,
        200
    );
}

#[test]
fn a_pull_of_what_is_here_moves_no_blob() {
    let (sandbox, server) = (Sandbox::new(), Server::start());
    push_small(&sandbox, &server, "app:1");
    let pulled = sandbox.ok(["pull", &server.reference("app:1")]);
    assert!(!pulled.stderr.contains("download"), "{}", pulled.stderr);
}

#[test]
fn the_registry_lists_its_repositories_and_tags() {
    let (sandbox, server) = (Sandbox::new(), Server::start());
    for name in ["b/app:2", "b/app:1", "a/app:1"] {
        push_small(&sandbox, &server, name);
    }
    let (status, body) = http_get(&server.address, "/v2/_catalog").unwrap();
    assert_eq!(
        (status, body.trim_end()),
        (200, r#"{"repositories":["a/app","b/app"]}"#)
    );
    let (status, body) = http_get(&server.address, "/v2/b/app/tags/list").unwrap();
    assert_eq!(
        (status, body.trim_end()),
        (200, r#"{"name":"b/app","tags":["1","2"]}"#)
    );
    assert_eq!(
        http_get(&server.address, "/v2/c/app/tags/list").unwrap().0,
        404
    );
}

#[test]
fn skopeo_reads_what_we_pushed_to_our_registry() {
    if tool("skopeo").is_none() {
        return;
    }
    let (sandbox, server) = (Sandbox::new(), Server::start());
    let digest = push_small(&sandbox, &server, "app:1");
    let place = format!("docker://{}", server.reference("app:1"));
    let seen = peer(
        "skopeo",
        [
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &place,
        ],
    );
    assert_eq!(seen.stdout.trim_end(), digest);
    let copy = sandbox.path("copy");
    peer(
        "skopeo",
        [
            "copy",
            "-q",
            "--src-tls-verify=false",
            &place,
            &format!("oci:{}:1", copy.display()),
        ],
    );
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(copy.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
    let tags = peer(
        "skopeo",
        [
            "list-tags",
            "--tls-verify=false",
            &format!("docker://{}", server.reference("app")),
        ],
    );
    assert!(tags.stdout.contains("\"1\""), "{}", tags.stdout);
}

#[test]
fn we_pull_what_skopeo_copied_into_our_registry() {
    if tool("skopeo").is_none() {
        return;
    }
    let (one, server, two) = (Sandbox::new(), Server::start(), Sandbox::new());
    let context = one.context("app", FILES);
    let archive = one.path("app.tar");
    one.ok([
        "build",
        "-t",
        "app:1",
        "-o",
        &format!("type=oci,dest={}", archive.display()),
        context.to_str().unwrap(),
    ]);
    let source = format!("oci-archive:{}", archive.display());
    let target = format!("docker://{}", server.reference("copied:1"));
    peer(
        "skopeo",
        ["copy", "-q", "--dest-tls-verify=false", &source, &target],
    );
    two.ok(["pull", &server.reference("copied:1")]);
    assert_eq!(
        two.format(&server.reference("copied:1"), "{{.Config.Cmd}}"),
        "[/hello]"
    );
    peer("skopeo", ["delete", "--tls-verify=false", &target]);
    assert_eq!(
        http_get(&server.address, "/v2/copied/manifests/1")
            .unwrap()
            .0,
        404
    );
}

#[test]
fn skopeo_reads_what_we_pushed_to_docker_registry() {
    if tool("skopeo").is_none() {
        return;
    }
    let Some(server) = Server::start_docker_registry() else {
        return;
    };
    let sandbox = Sandbox::new();
    let digest = push_small(&sandbox, &server, "app:1");
    let place = format!("docker://{}", server.reference(&format!("app@{digest}")));
    let copy = sandbox.path("copy");
    peer(
        "skopeo",
        [
            "copy",
            "-q",
            "--src-tls-verify=false",
            &place,
            &format!("dir:{}", copy.display()),
        ],
    );
    let again = sandbox.ok(["push", &server.reference("app:1")]);
    assert!(!again.stderr.contains("upload"), "{}", again.stderr);
}

#[test]
fn privileged_we_pull_and_run_what_buildah_pushed_to_docker_registry() {
    if tool("buildah").is_none() || !crate::harness::is_root() {
        return;
    }
    let Some(server) = Server::start_docker_registry() else {
        return;
    };
    let sandbox = Sandbox::new();
    let folder = sandbox.context("rootfs", &[("bin/", "")]);
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| fs::exists(path).unwrap())
    else {
        crate::skip::skip("busybox-static is not installed");
        return;
    };
    fs::copy(busybox, folder.join("bin/busybox")).unwrap();
    let storage = [
        "--root",
        &sandbox.path("b").display().to_string(),
        "--runroot",
        &sandbox.path("r").display().to_string(),
        "--storage-driver",
        "vfs",
    ]
    .map(str::to_owned);
    let buildah = |args: &[&str]| {
        peer(
            "buildah",
            storage
                .iter()
                .map(String::as_str)
                .chain(args.iter().copied()),
        )
        .stdout
    };
    let container = buildah(&["from", "scratch"]);
    let container = container.trim_end();
    buildah(&["copy", "-q", container, folder.to_str().unwrap(), "/"]);
    buildah(&[
        "config",
        "--cmd",
        "[\"/bin/busybox\", \"echo\", \"from buildah\"]",
        "--env",
        "A=b",
        container,
    ]);
    // Docker's media types, which the other tests do not see.
    buildah(&["commit", "-q", "--format", "docker", container, "built"]);
    buildah(&[
        "push",
        "-q",
        "--tls-verify=false",
        "built",
        &format!("docker://{}", server.reference("built:1")),
    ]);
    sandbox.ok(["pull", &server.reference("built:1")]);
    assert_eq!(
        sandbox
            .ok(["run", "--rm", &server.reference("built:1")])
            .stdout,
        "from buildah\n"
    );
    // And it is a base.
    let dockerfile = format!(
        "FROM {}\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo $A > /a\"]\n",
        server.reference("built:1")
    );
    assert_eq!(
        sandbox.exported(&[("Dockerfile", &dockerfile)]).text("a"),
        "b\n"
    );
}

#[test]
fn a_base_image_is_pulled_by_the_build() {
    let Some(one) = Sandbox::with_busybox() else {
        return;
    };
    let (server, two) = (Server::start(), Sandbox::new());
    let base = server.reference("base:1");
    one.ok(["tag", "busybox", &base]);
    one.ok(["push", &base]);
    let dockerfile = format!("FROM {base}\nRUN echo built on it > /note\n");
    two.build("app", &[("Dockerfile", &dockerfile)]);
    assert_eq!(two.output_of("app", &["cat", "/note"]), "built on it\n");
    // The registry is not needed for what is here and is named by its digest.
    let digest = one.format(&base, "{{.Digest}}");
    server.kill();
    let pinned = dockerfile.replace(&base, &format!("{base}@{digest}"));
    two.build("app2", &[("Dockerfile", &pinned)]);
}

#[test]
fn build_push_puts_the_image_in_the_registry() {
    let (one, server, two) = (Sandbox::new(), Server::start(), Sandbox::new());
    let context = one.context("app", FILES);
    one.ok([
        "build",
        "--push",
        "-t",
        &server.reference("app:1"),
        context.to_str().unwrap(),
    ]);
    two.ok(["pull", &server.reference("app:1")]);
    let output = format!("type=registry,name={}", server.reference("app:2"));
    one.ok(["build", "-o", &output, context.to_str().unwrap()]);
    two.ok(["pull", &server.reference("app:2")]);
    assert_eq!(
        two.names(),
        [server.reference("app:1"), server.reference("app:2")]
    );
}

#[test]
fn login_is_asked_for_kept_and_forgotten() {
    let Some(server) = Server::start_docker_registry_with_login() else {
        return;
    };
    let sandbox = Sandbox::new();
    let reference = server.reference("app:1");
    sandbox.build(&reference, FILES);
    sandbox
        .run(["push", &reference])
        .failure(1, &[&server.address]);
    sandbox
        .run(["login", "-u", "dock", "-p", "wrong", &server.address])
        .failure(1, &[&server.address]);
    let mut login = sandbox.command(["login", "-u", "dock", "--password-stdin", &server.address]);
    let word = sandbox.path("password");
    fs::write(&word, "worker\n").unwrap();
    login.stdin(Stdio::from(fs::File::open(&word).unwrap()));
    let said = Outcome::of(login).success();
    assert!(!format!("{}{}", said.stdout, said.stderr).contains("worker"));
    sandbox.ok(["push", &reference]);
    sandbox.ok(["logout", &server.address]);
    sandbox
        .run(["pull", &reference])
        .failure(1, &[&server.address]);
}

#[test]
fn a_digest_that_is_not_there_is_not_found() {
    let (sandbox, server) = (Sandbox::new(), Server::start());
    push_small(&sandbox, &server, "app:1");
    let before = sandbox.names();
    let digest = format!("sha256:{}", "0".repeat(64));
    sandbox
        .run(["pull", &server.reference(&format!("app@{digest}"))])
        .failure(1, &[&digest]);
    sandbox
        .run(["pull", &server.reference("app:nope")])
        .failure(1, &["app:nope"]);
    assert_eq!(sandbox.names(), before);
}

#[test]
fn a_registry_that_is_down_is_named() {
    let sandbox = Sandbox::new();
    let address = free_address();
    let reference = format!("{address}/app:1");
    sandbox.build(&reference, FILES);
    for command in ["push", "pull"] {
        let outcome = sandbox.run([command, &reference]);
        assert!([1, 3].contains(&outcome.code), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&address), "{}", outcome.stderr);
    }
    let dockerfile = format!("FROM {address}/base\n");
    let outcome = sandbox.run([
        "build",
        sandbox
            .fresh_context(&[("Dockerfile", &dockerfile)])
            .to_str()
            .unwrap(),
    ]);
    assert!([1, 3].contains(&outcome.code), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&address), "{}", outcome.stderr);
}

#[test]
fn a_registry_keeps_what_it_took_when_it_is_started_again() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("registry");
    let server = Server::start_at(&root);
    let digest = push_small(&sandbox, &server, "app:1");
    server.kill();
    let server = Server::start_at(&root);
    let two = Sandbox::new();
    two.ok(["pull", &server.reference(&format!("app@{digest}"))]);
}

#[test]
fn two_servers_do_not_share_an_address() {
    let (server, sandbox) = (Server::start(), Sandbox::new());
    let outcome = Outcome::of(longshore_at(
        sandbox.root(),
        ["serve", "--listen", &server.address],
    ));
    outcome.failure(1, &[&server.address]);
}
