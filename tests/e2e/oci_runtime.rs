//! `--oci-runtime`: the same steps and containers by somebody else's runtime, with the same
//! results.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Sandbox, is_root, tool};
use crate::{ssh, view};

/// What a step sees otherwise in a runtime's sandbox, and why.
const DIFFERENCES: [(&str, &str); 9] = [
    (
        "environment WHICH=*",
        "the argument that tells the two builds apart",
    ),
    (
        "process signal at the parent's death",
        "there it is the runtime that is killed",
    ),
    ("descriptor 0", "a runtime hands on a pipe of its own"),
    ("mount *", "masks have fewer options"),
    ("guarded *", "and other modes"),
    (
        "device character 10:200",
        "runc lets tun be opened, which is no use without CAP_NET_ADMIN",
    ),
    (
        "call * 135",
        "the high half of a personality, which the kernel ignores",
    ),
    ("call * 440-470", "calls that are newer than its libseccomp"),
    ("node /dev/core", "runc looks for its target elsewhere"),
];

pub(crate) fn runc() -> Option<PathBuf> {
    is_root().then(|| tool("runc")).flatten()
}

const DOCKERFILE: &str = "\
FROM busybox
COPY view /bin/view
ARG WHICH
ENV GREETING=hello
WORKDIR /work/deep
RUN mkdir -m 777 /out
RUN view calls > /out/root
USER www
RUN view > /out/www
USER 7:8
RUN view > /out/ids
USER root
RUN --network=none view > /out/none
RUN --mount=type=tmpfs,target=/t,size=1m --mount=type=cache,target=/c --mount=target=/b \\
    --mount=type=secret,id=s view > /out/mounts
RUN --mount=type=cache,target=/c cat /c/* > /out/cached; echo $WHICH >> /c/seen
RUN --mount=type=secret,id=s,env=WORD --mount=type=secret,id=s \\
    echo $WORD > /out/word; cat /run/secrets/s > /out/secret
RUN --mount=type=ssh view talk $SSH_AUTH_SOCK > /out/agent
RUN <<END
#!/bin/sh
echo $0 > /out/script
END
";

#[test]
fn privileged_steps_see_the_same_in_runc() {
    let (Some(runc), Some(sandbox)) = (runc(), Sandbox::with_busybox()) else {
        return;
    };
    let context = sandbox.context("context", &[("Dockerfile", DOCKERFILE), ("s", "hush")]);
    if !view::compile(&context.join("view")) {
        return;
    }
    let agent = sandbox.path("agent");
    ssh::echo(&agent);
    let build = |name: &str, flags: &[&str]| {
        let folder = sandbox.path(name);
        let secret = format!("id=s,src={}", context.join("s").display());
        let forwarded = format!("default={}", agent.display());
        let output = format!("type=local,dest={}", folder.display());
        let which = format!("WHICH={name}");
        let args = [
            "build",
            "--no-cache",
            "--secret",
            &secret,
            "--ssh",
            &forwarded,
            "--build-arg",
            &which,
            "-o",
            &output,
        ];
        let context = context.to_str().unwrap();
        let args = args.into_iter().chain(flags.iter().copied());
        sandbox.ok(args.chain([context]));
        folder.join("out")
    };
    let ours = build("ours", &[]);
    let theirs = build("theirs", &["--oci-runtime", runc.to_str().unwrap()]);
    for name in ["root", "www", "ids", "none", "mounts"] {
        let read = |folder: &Path| view::read(&folder.join(name));
        let mut differing = view::differing(&read(&ours), &read(&theirs));
        differing.retain(|it| !DIFFERENCES.iter().any(|(known, _)| it.is_about(known)));
        assert!(differing.is_empty(), "{name}: {differing:#?}");
    }
    let read = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for folder in [&ours, &theirs] {
        assert_eq!(read(folder, "secret"), "hush");
        assert_eq!(read(folder, "word"), "hush\n");
        assert_eq!(read(folder, "agent"), "600 0:0 hello\n");
    }
    assert_eq!(read(&ours, "script"), read(&theirs, "script"));
    assert_eq!(read(&theirs, "cached"), "ours\n", "one cache for both");
}

#[test]
fn privileged_containers_end_the_same_in_runc() {
    let (Some(runc), Some(sandbox)) = (runc(), Sandbox::with_busybox()) else {
        return;
    };
    let runtime = ["--oci-runtime", runc.to_str().unwrap()];
    let run = |flags: &[&str], command: &[&str]| {
        let args = ["run"].into_iter().chain(flags.iter().copied());
        let args = args.chain(["busybox"]).chain(command.iter().copied());
        sandbox.run(args)
    };
    for script in [
        "exit 0",
        "exit 42",
        "echo out; echo err >&2; kill -9 $$; exit 5",
        "sh -c 'kill -SEGV $$'; echo $?; exit 7",
        "no-such-command",
    ] {
        let (ours, theirs) = (
            run(&[], &["sh", "-c", script]),
            run(&runtime, &["sh", "-c", script]),
        );
        let all = |it: &crate::harness::Outcome| (it.code, it.stdout.clone(), it.stderr.clone());
        assert_eq!(all(&ours), all(&theirs), "{script}");
    }
    for (command, code) in [("/no/such/file", 127), ("/etc/passwd", 126)] {
        assert_eq!(run(&runtime, &[command]).code, code, "{command}");
    }
    let read_only = [&runtime[..], &["--read-only"]].concat();
    let refused = run(&read_only, &["touch", "/file"]);
    assert!(refused.stderr.contains("Read-only"), "{}", refused.stderr);
    let absent = run(&["--oci-runtime", "/no/such/runc"], &["true"]);
    assert_eq!(absent.code, 125);
    assert!(absent.stderr.contains("/no/such/runc"), "{}", absent.stderr);
}

#[test]
fn privileged_a_step_that_is_out_of_memory_in_runc_is_said_to_be() {
    let (Some(runc), Some(sandbox)) = (runc(), Sandbox::with_busybox()) else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN tail /dev/zero\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    for runtime in [None, Some(runc.to_str().unwrap())] {
        let flags = runtime.map(|path| ["--oci-runtime", path]);
        let args = ["build", "--memory", "32m"].into_iter();
        let outcome = sandbox.run(
            args.chain(flags.into_iter().flatten())
                .chain([context.to_str().unwrap()]),
        );
        assert_ne!(outcome.code, 0);
        let said = match crate::limits::are_controlled("memory") {
            true => "out of memory",
            false => "memory limit",
        };
        let is_said = outcome.stderr.contains(said);
        assert!(is_said, "{runtime:?}: {}", outcome.stderr);
    }
}
