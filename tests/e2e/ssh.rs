//! `RUN --mount=type=ssh`: an agent of the caller's, for the steps that ask.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::harness::{Sandbox, is_root};
use crate::view;

/// In an agent's place: answers each line on a socket with itself.
pub(crate) fn echo(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
        }
    });
}

pub(crate) const DOCKERFILE: &str = "\
FROM busybox
COPY view /bin/view
RUN mkdir -m 777 /out
RUN --mount=type=ssh view talk $SSH_AUTH_SOCK > /out/root
USER www
RUN --mount=type=ssh ! view talk $SSH_AUTH_SOCK
RUN --mount=type=ssh,uid=33,gid=50,mode=0660 view talk $SSH_AUTH_SOCK > /out/www
RUN --mount=type=ssh,id=absent test ! -e $SSH_AUTH_SOCK
RUN --mount=type=ssh,target=/tmp/there,mode=0666 view talk /tmp/there > /out/there
RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit && test ! -e /tmp/there
";

#[test]
fn privileged_an_agent_s_socket_is_its_user_s_and_leaves_no_trace() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let context = sandbox.context("context", &[("Dockerfile", DOCKERFILE)]);
    if !view::compile(&context.join("view")) {
        return;
    }
    let agent = sandbox.path("agent");
    echo(&agent);
    let forwarded = format!("default={}", agent.display());
    let folder = sandbox.path("exported");
    let output = format!("type=local,dest={}", folder.display());
    let args = ["build", "--ssh", &forwarded, "-o", &output];
    sandbox.ok(args.into_iter().chain([context.to_str().unwrap()]));
    for (name, expected) in [
        ("root", "600 0:0 hello\n"),
        ("www", "660 33:50 hello\n"),
        ("there", "666 0:0 hello\n"),
    ] {
        let said = fs::read_to_string(folder.join("out").join(name)).unwrap();
        assert_eq!(said, expected, "{name}");
    }
    let left = walkdir::WalkDir::new(sandbox.root().join("tmp")).into_iter();
    let left = left.map(Result::unwrap);
    let names: Vec<_> = left.map(|it| it.path().display().to_string()).collect();
    assert!(!names.iter().any(|it| it.contains("ssh-")), "{names:?}");

    let required = "FROM busybox\nRUN --mount=type=ssh,required true\n";
    sandbox.fail_to_build(&[("Dockerfile", required)], 1, &["--ssh default"]);
}
