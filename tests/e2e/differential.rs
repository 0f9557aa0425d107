//! The same Dockerfiles, built here and by BuildKit, give the same images.
//!
//! Each folder of `testdata/differential` is a case: a Dockerfile whose first comment says
//! what it holds, and its context. A private dockerd (the BuildKit in it) and Longshore build
//! all of them from the same bases; both write their images as Docker archives, and one
//! routine flattens the layers of both. What may differ stands, with its reason, in
//! `testdata/differential/README.md`: a difference that is not there fails the test, and so
//! does a line of it that is not met.
//!
//! `LONGSHORE_TEST_DOCKER` names a folder in which another dockerd is unpacked
//! (`usr/sbin/dockerd`, `usr/bin/docker`, …), for a BuildKit that is newer than the
//! distribution's; `LONGSHORE_TEST_CASES` picks the cases whose names contain it.

mod archive;
mod bases;
mod case;
mod compare;
mod daemon;
mod sandbox;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Outcome, Sandbox, is_root};
use archive::Archive;
use case::Case;
use compare::{Known, Verdict};
use daemon::Daemon;

/// How many cases are built at once: they wait for the peer more than they compute.
const WORKERS: usize = 6;

#[test]
fn privileged_images_are_those_that_buildkit_makes() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let Some(bases) = bases::write(&sandbox) else {
        return;
    };
    let Some(daemon) = Daemon::start(&sandbox.path("docker")) else {
        return;
    };
    sandbox.ok(["load", "-q", "-i", bases.to_str().unwrap()]);
    daemon
        .run(["load", "-q", "-i", bases.to_str().unwrap()])
        .success();

    let cases = judged(&daemon);
    let outcomes = build_all(&sandbox, &daemon, &cases);
    let seen = verdict(&sandbox, &daemon, &cases, &outcomes);
    Known::read(daemon.version, &cases).check(&seen);
}

/// The cases that this peer is new enough for.
fn judged(daemon: &Daemon) -> Vec<Case> {
    let (judged, left): (Vec<_>, Vec<_>) = case::all()
        .into_iter()
        .partition(|case| case.since <= daemon.version);
    assert!(!judged.is_empty());
    println!(
        "{} cases judged by docker {}; too new for it: {:?}",
        judged.len(),
        daemon.version,
        left.iter().map(|case| &case.name).collect::<Vec<_>>()
    );
    judged
}

/// What the two builders said of a case.
struct Built {
    here: Outcome,
    there: Outcome,
}

/// Builds every case on both sides, several at once.
fn build_all(sandbox: &Sandbox, daemon: &Daemon, cases: &[Case]) -> BTreeMap<String, Built> {
    let next = AtomicUsize::new(0);
    let built = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = build(sandbox, daemon, case);
                    built.lock().unwrap().insert(case.name.clone(), outcome);
                }
            });
        }
    });
    built.into_inner().unwrap()
}

fn build(sandbox: &Sandbox, daemon: &Daemon, case: &Case) -> Built {
    let context = sandbox.path(&format!("context-{}", case.name));
    case.lay_out(&context);
    let tag = case.tag();
    let common = ["build", "--progress=plain", "--network=none", "-t", &tag];
    let args = || {
        let flags = case.flags.iter().map(String::as_str);
        common
            .into_iter()
            .chain(flags)
            .chain([context.to_str().unwrap()])
    };
    Built {
        here: sandbox.run(args()),
        there: daemon.run(args()),
    }
}

/// Compares what was built.
fn verdict(
    sandbox: &Sandbox,
    daemon: &Daemon,
    cases: &[Case],
    outcomes: &BTreeMap<String, Built>,
) -> Verdict {
    let both: Vec<&Case> = cases
        .iter()
        .filter(|case| outcomes[&case.name].here.code == 0 && outcomes[&case.name].there.code == 0)
        .collect();
    let save = |path: &Path| {
        let args = ["save", "-o", path.to_str().unwrap()].map(str::to_owned);
        args.into_iter().chain(both.iter().map(|case| case.tag()))
    };
    let (ours, theirs) = (sandbox.path("ours.tar"), sandbox.path("theirs.tar"));
    sandbox.ok(save(&ours));
    daemon.run(save(&theirs)).success();
    let (ours, theirs) = (Archive::read(&ours), Archive::read(&theirs));

    let mut verdict = Verdict::default();
    for case in cases {
        let built = &outcomes[&case.name];
        verdict.outcomes(case, &built.here, &built.there);
    }
    for case in both {
        verdict.images(
            case,
            &ours.image(&case.tag(), daemon.started),
            &theirs.image(&case.tag(), daemon.started),
        );
    }
    verdict
}
