//! Every miss says why, and what is named is what was changed.

use std::sync::Arc;

use longshore_graph::{
    Exec, Graph, ImageSource, Input, MountKind, NetworkMode, Op, SecurityMode, Source, Ulimit,
    Vertex, VertexId,
};
use longshore_oci::Platform;

use super::support::*;
use crate::testkit::{FakeExecutor, Recorder};
use crate::{Event, FieldChange, MissReason, PathChangeKind};

/// `FROM image`, `COPY app /`, `RUN sum` with a bind mount of `lib` from the context.
fn sample(change: impl FnOnce(&mut Exec)) -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let image = ImageSource {
        reference: "debian".parse().unwrap(),
        manifest: None,
        platform: Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            os_version: String::new(),
            os_features: vec![],
            variant: String::new(),
        },
    };
    let image = Vertex::new(
        "[1/3] FROM debian",
        Op::Source(Source::Image(image)),
        vec![],
    );
    let image = graph.push(image).unwrap();
    let context = local(&mut graph, "context");
    let copied = copy(&mut graph, image, context, "app", "/");
    let mut op = exec(&["sum", "out"]);
    op.mounts.push(bind_mount(1, "/lib", "lib"));
    change(&mut op);
    let name = format!("[3/3] RUN {}", op.args.join(" "));
    let inputs = vec![Input::first(copied), Input::first(context)];
    let target = graph.push(Vertex::new(name, Op::Exec(op), inputs)).unwrap();
    (graph, target)
}

const LIB: [(&str, &str); 3] = [("app/main", "1"), ("lib/a", "1"), ("lib/b", "1")];

fn bench() -> Bench {
    let bench = Bench::new();
    bench
        .world
        .context("docker.io/library/debian", &[("etc/os", "12")]);
    bench.world.context("context", &LIB);
    bench
}

/// Why `target` misses; `None` when it hits.
async fn reason(bench: &Bench, graph: &Graph, target: VertexId) -> Option<MissReason> {
    let outcome = bench.solve(graph, &[target]).await;
    assert!(outcome.result.is_ok(), "{:?}", outcome.result);
    bench.assert_lawful();
    let mut missed = outcome.events.missed().into_iter();
    missed
        .find(|(vertex, _)| *vertex == target)
        .map(|(_, reason)| reason)
}

/// The miss after a change of the process, in words.
async fn said(change: impl FnOnce(&mut Exec)) -> String {
    let bench = bench();
    let (graph, target) = sample(|exec| {
        exec.env.push(("VERSION".to_owned(), "1".to_owned()));
    });
    assert_eq!(
        reason(&bench, &graph, target).await,
        Some(MissReason::FirstTime)
    );
    let (graph, target) = sample(|exec| {
        exec.env.push(("VERSION".to_owned(), "1".to_owned()));
        change(exec);
    });
    let reason = reason(&bench, &graph, target).await;
    reason.map_or_else(|| "hit".to_owned(), |reason| reason.to_string())
}

#[tokio::test(start_paused = true)]
async fn each_part_of_a_process_is_named() {
    type Case = (fn(&mut Exec), &'static str);
    let cases: [Case; 17] = [
        (|_| {}, "hit"),
        (
            |e| e.args[1] = "other".to_owned(),
            "argv changed from `sum out` to `sum other`",
        ),
        (
            |e| e.env[1].1 = "2".to_owned(),
            "env VERSION changed from `1` to `2`",
        ),
        (
            |e| e.env.push(("NEW".to_owned(), "x".to_owned())),
            "env NEW is new: `x`",
        ),
        (|e| drop(e.env.pop()), "env VERSION is no longer set: `1`"),
        (
            |e| e.env.swap(0, 1),
            "env order changed from `PATH VERSION` to `VERSION PATH`",
        ),
        (|e| e.cwd = "/x".to_owned(), "cwd changed from `/` to `/x`"),
        (|e| e.user = "www".to_owned(), "user changed"),
        (|e| e.hostname = "box".to_owned(), "hostname changed"),
        (
            |e| e.network = NetworkMode::None,
            "network changed from `default` to `none`",
        ),
        (
            |e| e.security = SecurityMode::Insecure,
            "security changed from `sandbox` to `insecure`",
        ),
        (
            |e| e.shm_size_bytes = Some(64),
            "shm size changed from `default` to `64`",
        ),
        (
            |e| e.mounts[1].readonly = false,
            "mount /lib changed from `bind, read-only` to `bind, writable`",
        ),
        (
            |e| {
                e.ulimits.push(Ulimit {
                    name: "nofile".to_owned(),
                    soft: 1,
                    hard: 2,
                });
            },
            "ulimit nofile is new: `1:2`",
        ),
        (
            |e| {
                let mut mount = bind_mount(0, "/tmp", "");
                mount.input = None;
                mount.kind = MountKind::Tmpfs { size_bytes: None };
                e.mounts.push(mount);
            },
            "mount /tmp is new: `tmpfs, read-only`",
        ),
        (
            |e| e.extra_hosts.push(("db".to_owned(), "10.0.0.1".to_owned())),
            "extra hosts changed",
        ),
        (
            |e| drop(e.proxy_env.insert("HTTP_PROXY".to_owned(), "p".to_owned())),
            "hit",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(said(change).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_named_with_the_input_that_holds_them() {
    let cases: [(&[(&str, &str)], &str); 4] = [
        (
            &[("app/main", "1"), ("lib/a", "2"), ("lib/b", "1")],
            "in `context`: `lib/a` changed (content)",
        ),
        (
            &[
                ("app/main", "1"),
                ("lib/a", "1"),
                ("lib/b", "1"),
                ("lib/c", "1"),
            ],
            "in `context`: `lib/c` was added",
        ),
        (
            &[("app/main", "1"), ("lib/a", "2")],
            "in `context`: `lib/a` changed (content) and 1 more",
        ),
        (
            &[("app/main", "2"), ("lib/a", "1"), ("lib/b", "1")],
            "the result of `COPY app /` changed",
        ),
    ];
    for (files, expected) in cases {
        let bench = bench();
        let (graph, target) = sample(|_| {});
        reason(&bench, &graph, target).await;
        bench.world.context("context", files);
        let reason = reason(&bench, &graph, target).await.unwrap();
        assert_eq!(reason.to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_base_is_named_where_it_enters() {
    let bench = bench();
    let (graph, target) = sample(|_| {});
    reason(&bench, &graph, target).await;
    bench
        .world
        .context("docker.io/library/debian", &[("etc/os", "13")]);
    let outcome = bench.solve(&graph, &[target]).await;
    let said: Vec<_> = outcome
        .events
        .missed()
        .into_iter()
        .map(|(vertex, reason)| (vertex.0, reason.to_string()))
        .collect();
    let copied = (2, "the result of `[1/3] FROM debian` changed".to_owned());
    let ran = (3, "the result of `COPY app /` changed".to_owned());
    assert_eq!(said, [copied, ran]);
}

#[tokio::test(start_paused = true)]
async fn the_most_similar_of_the_last_runs_is_compared() {
    let bench = bench();
    let build = |platform: &str, file: &str| {
        let (platform, file) = (platform.to_owned(), file.to_owned());
        sample(move |exec| {
            exec.env.push(("TARGETPLATFORM".to_owned(), platform));
            exec.env.push(("FILE".to_owned(), file));
        })
    };
    for platform in ["amd64", "arm64"] {
        let (graph, target) = build(platform, "1");
        reason(&bench, &graph, target).await;
    }
    let (graph, target) = build("amd64", "2");
    let reason = reason(&bench, &graph, target).await.unwrap();
    assert_eq!(reason.to_string(), "env FILE changed from `1` to `2`");
}

#[tokio::test(start_paused = true)]
async fn an_inserted_step_does_not_confuse_the_ones_after_it() {
    let build = |inserted: bool| {
        let mut graph = Graph::default();
        let mut top = local(&mut graph, "context");
        if inserted {
            top = run(&mut graph, top, &["write", "new", "1"]);
        }
        let first = run(&mut graph, top, &["write", "a", "1"]);
        let target = run(&mut graph, first, &["sum", "b"]);
        (graph, target)
    };
    let bench = bench();
    let (graph, target) = build(false);
    reason(&bench, &graph, target).await;
    let (graph, target) = build(true);
    let reason = reason(&bench, &graph, target).await.unwrap();
    assert_eq!(reason.to_string(), "the result of `write a 1` changed");
}

#[tokio::test(start_paused = true)]
async fn what_became_of_the_record_is_told_apart() {
    let bench = bench();
    let (mut graph, target) = sample(|_| {});
    reason(&bench, &graph, target).await;
    bench.world.lose_content();
    assert_eq!(reason(&bench, &graph, target).await, Some(MissReason::Gone));
    bench.world.lose_content();
    bench.cache.forget_records();
    assert_eq!(
        reason(&bench, &graph, target).await,
        Some(MissReason::Pruned)
    );
    graph.meta_mut(target).ignore_cache = true;
    assert_eq!(
        reason(&bench, &graph, target).await,
        Some(MissReason::IgnoreCache)
    );
}

#[tokio::test(start_paused = true)]
async fn another_project_with_the_same_words_is_not_compared() {
    let bench = bench();
    let (graph, target) = sample(|_| {});
    reason(&bench, &graph, target).await;
    let (graph, target) = sample(|exec| exec.cwd = "/other".to_owned());
    let events = Arc::new(Recorder::default());
    let mut request = bench.request(&graph, &[target]);
    request.scope = "another".to_owned();
    request.events = events.clone();
    in_time(bench.solver.solve(request)).await.unwrap();
    assert_eq!(events.missed(), [(target, MissReason::FirstTime)]);
}

#[tokio::test(start_paused = true)]
async fn a_setting_of_the_executor_is_named() {
    let bench = bench();
    let (graph, target) = sample(|_| {});
    let build = async |isolation: &str| {
        let events = Arc::new(Recorder::default());
        let mut request = bench.request(&graph, &[target]);
        request.executor = FakeExecutor::with_extras(&bench.world, &[("isolation", isolation)]);
        request.events = events.clone();
        bench.world.allow_reruns();
        in_time(bench.solver.solve(request)).await.unwrap();
        let reason = events.missed().pop().unwrap().1;
        reason.to_string()
    };
    build("full").await;
    let said = build("userns").await;
    assert_eq!(said, "executor isolation changed from `full` to `userns`");
}

#[tokio::test(start_paused = true)]
async fn an_explanation_is_json_with_the_keys_fields() {
    let bench = bench();
    let (graph, target) = sample(|_| {});
    reason(&bench, &graph, target).await;
    let changed = [("app/main", "1"), ("lib/a", "2"), ("lib/b", "1")];
    bench.world.context("context", &changed);
    let outcome = bench.solve(&graph, &[target]).await;
    let events = outcome.events.events();
    let missed = events
        .iter()
        .find(|e| matches!(e, Event::Missed { .. }))
        .unwrap();
    let json = serde_json::to_value(missed).unwrap();
    assert_eq!(json["event"], "missed");
    assert_eq!(json["reason"]["reason"], "changed");
    assert_eq!(json["reason"]["inputs"][0]["paths"][0]["path"], "lib/a");
    assert_eq!(json["reason"]["inputs"][0]["paths"][0]["kind"], "modified");
    let fields = json["fields"].as_array().unwrap();
    let argv = fields.iter().find(|field| field["name"] == "argv").unwrap();
    assert_eq!(argv["shown"], "sum out");
    assert_eq!(argv["digest"].as_str().unwrap().len(), 64);
    let back: MissReason = serde_json::from_value(json["reason"].clone()).unwrap();
    let MissReason::Changed { inputs, .. } = back else {
        panic!("{back:?}")
    };
    assert_eq!(inputs[0].paths[0].kind, PathChangeKind::Modified);
}

#[test]
fn long_values_are_shortened_but_stay_apart() {
    let field = |text: String| {
        let vertex = Vertex::new("x", Op::Exec(exec(&[&text])), vec![]);
        let fields = crate::key::step_fields(&vertex, &[]);
        fields
            .0
            .into_iter()
            .find(|field| field.name == "argv")
            .unwrap()
            .shown
    };
    let (one, two) = (field("x".repeat(500) + "1"), field("x".repeat(500) + "2"));
    assert_ne!(one, two);
    assert!(one.chars().count() < 150);
    assert_eq!(field("a\nb\u{1b}[31m".to_owned()), "a b [31m");
}

#[test]
fn values_that_were_left_out_are_not_made_up() {
    let change = FieldChange {
        name: "argv".to_owned(),
        old: Some(String::new()),
        new: Some("make".to_owned()),
    };
    assert_eq!(change.to_string(), "argv changed");
}
