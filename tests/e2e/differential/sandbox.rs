//! What a step sees of its sandbox here and in Docker, line by line.
//!
//! Every difference is intended and stands, with its reason, in the table of docs/differences.md:
//! one that is not there fails the test, and so does a row that is not met.

use std::fs;
use std::path::Path;

use super::bases;
use super::daemon::Daemon;
use crate::harness::{REPOSITORY, Sandbox, is_root};
use crate::view::{self, Difference};

/// The Docker whose sandbox the table is about; a newer one's has fewer differences.
const VERSION: u32 = 20;

const DOCKERFILE: &str = "\
FROM base:1
COPY view /bin/view
ARG IN=1
ENV GREETING=hello
WORKDIR /work/deep
RUN mkdir -m 777 /out
RUN view calls > /out/root
USER www
RUN view > /out/www
USER 7:8
RUN view > /out/ids
USER root
RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c --mount=target=/b \\
    --mount=type=secret,id=s view > /out/mounts
";

#[test]
fn privileged_a_step_sees_what_it_sees_in_docker() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let context = sandbox.context("context", &[("Dockerfile", DOCKERFILE), ("s", "hush")]);
    if !view::compile(&context.join("view")) {
        return;
    }
    let Some(bases) = bases::write(&sandbox) else {
        return;
    };
    let Some(daemon) = Daemon::start(&sandbox.path("docker")) else {
        return;
    };
    if daemon.version != VERSION {
        crate::skip::skip(format_args!("the table is about docker {VERSION}"));
        return;
    }
    sandbox.ok(["load", "-q", "-i", bases.to_str().unwrap()]);
    daemon
        .run(["load", "-q", "-i", bases.to_str().unwrap()])
        .success();

    let secret = format!("id=s,src={}", context.join("s").display());
    let args = |folder: &Path| {
        let output = format!("type=local,dest={}", folder.display());
        let args = ["build", "--no-cache", "--secret", &secret, "-o", &output];
        let args = args.into_iter().chain([context.to_str().unwrap()]);
        args.map(str::to_owned).collect::<Vec<_>>()
    };
    let (here, there) = (sandbox.path("here"), sandbox.path("there"));
    sandbox.ok(args(&here));
    let host = ["--network=host".to_owned()];
    daemon.run(args(&there).into_iter().chain(host)).success();

    let mut differing = Vec::new();
    for name in ["root", "www", "ids", "mounts"] {
        let read = |folder: &Path| view::read(&folder.join("out").join(name));
        differing.extend(view::differing(&read(&here), &read(&there)));
    }
    // There they are those that were ignored when dockerd was started.
    differing.retain(|it| !it.is_about("status SigIgn"));
    compare(differing, &intended());
}

/// The subjects of the table, by the line that `view` prints of them.
fn intended() -> Vec<String> {
    let text = fs::read_to_string(Path::new(REPOSITORY).join("docs/differences.md")).unwrap();
    let table = text.split("| a step sees |").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let subjects = rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect::<Vec<_>>()
    });
    subjects.collect()
}

#[track_caller]
fn compare(differing: Vec<Difference>, intended: &[String]) {
    let unmet: Vec<_> = intended
        .iter()
        .filter(|row| !differing.iter().any(|it| it.is_about(row)))
        .collect();
    let unknown: Vec<_> = differing
        .iter()
        .filter(|it| !intended.iter().any(|row| it.is_about(row)))
        .collect();
    assert!(
        unknown.is_empty() && unmet.is_empty(),
        "not in the table: {unknown:#?}\nnot met: {unmet:#?}"
    );
}
