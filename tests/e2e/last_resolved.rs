//! A base image's tag while its registry cannot be asked.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::harness::{Sandbox, Server};

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
