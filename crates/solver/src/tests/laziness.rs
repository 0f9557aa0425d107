//! What is not needed is not touched; what comes out the same is not built upon again.

use std::sync::Arc;

use longshore_graph::{Graph, VertexId};

use super::support::*;
use crate::testkit::{Faults, FaultyCache};
use crate::{HitKey, MemoryCache, Origin};

/// `FROM base`, `COPY app /app`, `RUN sum`.
fn sample() -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let context = local(&mut graph, "context");
    let copied = copy(&mut graph, base, context, "app", "/");
    let target = run(&mut graph, copied, &["sum", "out"]);
    (graph, target)
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.world.context("base", &[("etc/os", "x")]);
    bench
        .world
        .context("context", &[("app/main", "1"), ("README", "1")]);
    bench
}

#[tokio::test(start_paused = true)]
async fn a_warm_build_asks_one_question_and_touches_nothing() {
    let (graph, target) = sample();
    let bench = bench();
    let cold = bench.build(&graph, target).await;
    assert_eq!(cold.len(), 4);
    let warm = bench.solve(&graph, &[target]).await;
    bench.assert_lawful();
    let hit = (target, HitKey::Definition, Origin::Local);
    assert_eq!(warm.events.cached(), [hit]);
    assert!(warm.events.started().is_empty());
    assert_eq!(bench.world.runs().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_cache_of_a_warm_build_is_asked_once_for_each_target() {
    let (graph, target) = sample();
    let cache = Arc::new(MemoryCache::default());
    let warm = bench_on(&cache, Faults::Never);
    warm.0.build(&graph, target).await;
    let (mut again, counted) = bench_on(&cache, Faults::Never);
    again.world = warm.0.world;
    again.build(&graph, target).await;
    assert_eq!(counted.calls(), 1);
}

fn bench_on(cache: &Arc<MemoryCache>, faults: Faults) -> (Bench, Arc<FaultyCache<MemoryCache>>) {
    let counted = Arc::new(FaultyCache::new(cache.clone(), faults));
    let on = Bench::on(counted.clone(), 4);
    let filled = bench();
    let world = filled.world;
    (Bench { world, ..on }, counted)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_nothing_selects_changes_nothing() {
    let (graph, target) = sample();
    let bench = bench();
    bench.build(&graph, target).await;
    bench
        .world
        .context("context", &[("app/main", "1"), ("README", "2")]);
    assert_eq!(bench.build(&graph, target).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_result_cuts_off_what_follows() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let context = local(&mut graph, "context");
    let copied = copy(&mut graph, base, context, "app", "/");
    let same = run(&mut graph, copied, &["const", "out", "always"]);
    let target = run(&mut graph, same, &["sum", "sum"]);
    let bench = bench();
    bench.build(&graph, target).await;
    bench.world.context("context", &[("app/main", "2")]);
    let ran = bench.build(&graph, target).await;
    assert_eq!(ran, ["base", "context", "COPY app /", "const out always"]);
    // The alias makes the next build as lazy as any.
    assert_eq!(bench.build(&graph, target).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_copy_from_a_stage_hits_when_what_it_takes_is_the_same() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let context = local(&mut graph, "context");
    let stage = copy(&mut graph, base, context, "app", "/");
    let target = copy(&mut graph, base, stage, "app/lib", "/lib");
    let bench = bench();
    let files = [("app/lib", "1"), ("app/main", "1")];
    bench.world.context("context", &files);
    bench.build(&graph, target).await;
    let files = [("app/lib", "1"), ("app/main", "2")];
    bench.world.context("context", &files);
    let mut ran = bench.build(&graph, target).await;
    ran.sort();
    assert_eq!(ran, ["COPY app /", "base", "context"]);
}

#[tokio::test(start_paused = true)]
async fn only_what_the_targets_need_runs() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let _other = run(&mut graph, base, &["write", "a", "1"]);
    let target = run(&mut graph, base, &["write", "b", "1"]);
    let bench = bench();
    assert_eq!(bench.build(&graph, target).await, ["base", "write b 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_is_pinned_once_for_each_selection() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let context = local(&mut graph, "context");
    let first = copy(&mut graph, base, context, "app", "/one");
    let second = copy(&mut graph, first, context, "app", "/two");
    let bench = bench();
    bench.build(&graph, second).await;
    assert_eq!(bench.world.pins(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_cache_runs_the_step_and_only_what_changes_after_it() {
    let (mut graph, target) = sample();
    let bench = bench();
    let after = run(&mut graph, target, &["write", "z", "1"]);
    bench.build(&graph, after).await;
    graph.meta_mut(target).ignore_cache = true;
    let outcome = bench.solve(&graph, &[after]).await;
    bench.assert_lawful();
    assert!(outcome.events.finished().contains(&target));
    let hit = (after, HitKey::Content, Origin::Local);
    assert!(outcome.events.cached().contains(&hit));
    // What it made is recorded for builds that do not ignore the cache.
    graph.meta_mut(target).ignore_cache = false;
    assert_eq!(bench.build(&graph, after).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn lost_content_is_made_again_and_found_afterwards() {
    let (graph, target) = sample();
    let bench = bench();
    bench.build(&graph, target).await;
    bench.world.lose_content();
    assert_eq!(bench.build(&graph, target).await.len(), 4);
    assert_eq!(bench.build(&graph, target).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn every_target_gets_its_tree() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let first = run(&mut graph, base, &["write", "a", "1"]);
    let second = run(&mut graph, first, &["write", "b", "2"]);
    let bench = bench();
    let outcome = bench.solve(&graph, &[second, base, first, second]).await;
    let files: Vec<_> = outcome
        .result
        .unwrap()
        .iter()
        .map(|t| t.files.len())
        .collect();
    assert_eq!(files, [3, 1, 2, 3]);
    assert!(bench.solve(&graph, &[]).await.result.unwrap().is_empty());
    assert!(bench.solve(&graph, &[VertexId(9)]).await.result.is_err());
}
