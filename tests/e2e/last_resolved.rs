//! A base image's tag: asked for with one request, and while its registry cannot be asked.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::harness::{Sandbox, Server};
use crate::remote_cache::Proxy;

/// A machine that built on a tag of a registry, which was stopped then; the tag's name.
fn after_a_build(sandbox: &Sandbox) -> (String, std::path::PathBuf) {
    let server = Server::start();
    let base = format!("{}/base:1", server.address);
    let elsewhere = Sandbox::new();
    elsewhere.build(
        &base,
        &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /base\n")],
    );
    elsewhere.ok(["push", &base]);
    let dockerfile = format!("FROM {base}\nARG A=1\nCOPY Dockerfile /own\nLABEL a=$A\n");
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    sandbox.ok(["build", "-t", "app", context.to_str().unwrap()]);
    (base, context)
}

#[test]
fn a_tag_is_what_it_was_while_the_registry_is_down() {
    let sandbox = Sandbox::new();
    let (base, context) = after_a_build(&sandbox);
    let id = sandbox.format("app", "{{.Id}}");
    let context = context.to_str().unwrap();

    let again = sandbox.ok(["build", "-t", "app", context]);
    let said = again.stderr.matches("warning: ").count();
    assert_eq!(said, 1, "{}", again.stderr);
    assert!(
        again.stderr.contains(&base) && again.stderr.contains("last resolved"),
        "{}",
        again.stderr
    );
    assert_eq!(sandbox.format("app", "{{.Id}}"), id);

    // The manifest's own blobs are not what this depends on.
    sandbox.ok(["prune"]);
    sandbox.ok(["build", "-t", "app", context, "--build-arg", "A=2"]);

    // Who asks for what is there now is not told what was.
    let args = ["build", "-t", "other", "--pull", context];
    sandbox.run(args).failure(1, &[&base]);
    assert_eq!(sandbox.format("app", "{{.Config.Labels.a}}"), "2");
    // What was never resolved is not known.
    let other = base.replace(":1", ":2");
    let unknown = sandbox.context("unknown", &[("Dockerfile", &format!("FROM {other}\n"))]);
    sandbox
        .run(["build", unknown.to_str().unwrap()])
        .failure(1, &[&other]);
    sandbox.ok(["prune", "--all"]);
    sandbox
        .run(["build", "-t", "app", context])
        .failure(1, &[&base]);
}

/// Pushes a base of two platforms, whose files are `text`.
fn push_base(elsewhere: &Sandbox, reference: &str, text: &str) {
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY base /base\n"),
        ("base", text),
    ];
    let context = elsewhere.fresh_context(&files);
    let platforms = "linux/amd64,linux/arm64";
    let context = context.to_str().unwrap();
    elsewhere.ok(["build", "--platform", platforms, "-t", reference, context]);
    elsewhere.ok(["push", reference]);
}

#[test]
fn a_base_that_is_as_it_was_costs_one_request_without_a_body() {
    let (server, elsewhere, sandbox) = (Server::start(), Sandbox::new(), Sandbox::new());
    let proxy = Proxy::start(&server.address);
    push_base(&elsewhere, &server.reference("base:1"), "first");
    let dockerfile = format!("FROM {}\nCOPY Dockerfile /own\n", proxy.reference("base:1"));
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    let build = |flags: &[&str]| {
        let args = ["build", "-t", "app", context.to_str().unwrap()];
        sandbox.ok(args.into_iter().chain(flags.iter().copied()));
        let requests = proxy.requests();
        let shown = requests.iter().map(|line| line.replace(" HTTP/1.1", ""));
        // Whether a host of this machine speaks TLS is asked once for each process.
        shown.filter(|line| line != "GET /v2/").collect::<Vec<_>>()
    };
    let cold = build(&[]);
    assert!(
        cold.iter()
            .any(|line| line.starts_with("GET /v2/base/blobs/"))
    );
    let layers = sandbox.format("app", "{{json .RootFS.Layers}}");
    for flags in [&[][..], &["--pull"], &["--build-arg=X=1"]] {
        assert_eq!(build(flags), ["HEAD /v2/base/manifests/1"], "{flags:?}");
    }
    // A tag that moved is followed.
    push_base(&elsewhere, &server.reference("base:1"), "second");
    let moved = build(&[]);
    assert_eq!(moved[0], "HEAD /v2/base/manifests/1", "{moved:?}");
    assert_ne!(sandbox.format("app", "{{json .RootFS.Layers}}"), layers);
    assert_eq!(build(&[]), ["HEAD /v2/base/manifests/1"]);
}

#[test]
fn a_miss_names_what_a_base_was_and_is() {
    let (server, elsewhere) = (Server::start(), Sandbox::new());
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let base = server.reference("base:1");
    let digest = |text: &str| {
        let dockerfile = format!("FROM scratch\nCOPY base /base\nLABEL text={text}\n");
        elsewhere.build(&base, &[("Dockerfile", &dockerfile), ("base", text)]);
        elsewhere.ok(["push", &base]);
        elsewhere.format(&base, "{{.Digest}}")
    };
    let dockerfile = format!(
        "FROM {base}\nCOPY --from=busybox /bin/busybox /bin/\nRUN [\"/bin/busybox\", \"true\"]\n"
    );
    let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
    let build = || {
        let context = context.to_str().unwrap();
        sandbox.ok(["build", "--explain-cache", context]).stderr
    };
    let first = digest("first");
    build();
    let second = digest("second");
    let said = build();
    let expected = format!("changed from `{first}` to `{second}`");
    assert!(said.contains(&expected), "{expected}:\n{said}");
}

#[test]
fn a_base_of_the_same_registry_is_mounted_and_never_comes_here() {
    for server in [Some(Server::start()), Server::start_docker_registry()] {
        let Some(server) = server else {
            crate::skip::skip("docker-registry is not installed");
            continue;
        };
        let (elsewhere, sandbox) = (Sandbox::new(), Sandbox::new());
        let proxy = Proxy::start(&server.address);
        push_base(&elsewhere, &server.reference("base:1"), "shared");
        let base = proxy.reference("base:1");
        // No step has to look into it.
        let dockerfile = format!("FROM {base}\nLABEL a=b\n");
        let context = sandbox.context("app", &[("Dockerfile", &dockerfile)]);
        let context = context.to_str().unwrap();
        for name in ["app:1", "base:2"] {
            let name = proxy.reference(name);
            let output = format!("type=registry,name={name}");
            sandbox.ok(["build", "-o", &output, context]);
            let requests = proxy.requests();
            let layer = elsewhere.format(&server.reference("base:1"), "{{json .Manifest.layers}}");
            let layer = layer
                .split('"')
                .find(|part| part.starts_with("sha256:"))
                .unwrap();
            let fetched = |line: &&String| line.starts_with("GET") && line.contains(layer);
            assert_eq!(requests.iter().find(fetched), None, "{requests:?}");
            if name.contains("app") {
                let mounted = |line: &String| line.contains("mount=") && line.contains("from=base");
                assert!(requests.iter().any(mounted), "{requests:?}");
            }
            Sandbox::new().ok(["pull", &name]);
            proxy.requests();
        }
        // An image that is also kept is whole, and what is here is mounted all the same.
        let name = proxy.reference("kept:1");
        sandbox.ok(["build", "-t", &name, "--push", context]);
        let requests = proxy.requests();
        let is_mount = |line: &String| line.contains("/kept/") && line.contains("from=");
        assert!(requests.iter().any(is_mount), "{requests:?}");
        sandbox.ok([
            "save",
            "-o",
            sandbox.path("kept.tar").to_str().unwrap(),
            &name,
        ]);
    }
}

/// A registry that has nothing, at this address, for as long as the test runs.
fn serve_nothing(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such manifest"}]}"#;
            let _ = write!(
                connection,
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
}

#[test]
fn a_tag_that_the_registry_no_longer_has_is_an_error() {
    let sandbox = Sandbox::new();
    let (base, context) = after_a_build(&sandbox);
    serve_nothing(base.split('/').next().unwrap());
    sandbox
        .run(["build", "-t", "app", context.to_str().unwrap()])
        .failure(1, &[&base]);
}
