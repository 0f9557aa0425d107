//! A cache that fails costs time, never a build.

use std::sync::Arc;

use longshore_graph::{Graph, VertexId};

use super::support::*;
use crate::testkit::{Faults, FaultyCache, cache_conformance};
use crate::{CacheTiers, Event, MemoryCache, MissReason, Origin, RemoteCache};

fn sample() -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let context = local(&mut graph, "context");
    let copied = copy(&mut graph, base, context, "app", "/");
    let first = run(&mut graph, copied, &["write", "a", "1"]);
    let twin = run(&mut graph, copied, &["write", "a", "1"]);
    let other = copy(&mut graph, first, twin, "a", "/b");
    let target = run(&mut graph, other, &["sum", "sum"]);
    (graph, target)
}

fn fill(bench: &Bench) {
    bench.world.context("base", &[("x", "x")]);
    bench.world.context("context", &[("app", "1")]);
    bench.world.allow_reruns();
}

fn troubles(events: &[Event]) -> Vec<(Origin, u64)> {
    let of = |event: &Event| match event {
        Event::CacheTrouble {
            cache, failures, ..
        } => Some((cache.clone(), *failures)),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn the_memory_cache_conforms() {
    cache_conformance(&MemoryCache::default()).await;
    let inner = Arc::new(MemoryCache::default());
    cache_conformance(&FaultyCache::new(inner, Faults::Never)).await;
}

/// Fails the nth call of a build, for every n until a build has fewer calls: cold, then
/// warm after a change.
#[tokio::test(start_paused = true)]
async fn no_single_fault_fails_a_build_or_changes_its_result() {
    let (graph, target) = sample();
    let truth = {
        let bench = Bench::new();
        fill(&bench);
        bench.solve(&graph, &[target]).await.file("sum")
    };
    for warm in [false, true] {
        for nth in 0.. {
            let inner = Arc::new(MemoryCache::default());
            let before = Bench::on(inner.clone(), 4);
            fill(&before);
            if warm {
                before.world.context("context", &[("app", "0")]);
                before.build(&graph, target).await;
                fill(&before);
            }
            let faulty = Arc::new(FaultyCache::new(inner, Faults::Nth(nth)));
            let bench = Bench {
                world: before.world,
                ..Bench::on(faulty.clone(), 4)
            };
            let outcome = bench.solve(&graph, &[target]).await;
            bench.assert_lawful();
            assert_eq!(outcome.file("sum"), truth);
            let told = troubles(&outcome.events.events());
            if faulty.calls() <= nth {
                assert!(nth > 5 && told.is_empty());
                break;
            }
            assert_eq!(told, [(Origin::Local, 1)]);
            // And the next build is right, too.
            assert_eq!(bench.solve(&graph, &[target]).await.file("sum"), truth);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_always_fails_is_reported_once_with_a_count() {
    let (graph, target) = sample();
    let faulty = Arc::new(FaultyCache::new(
        Arc::new(MemoryCache::default()),
        Faults::Every(1),
    ));
    let bench = Bench::on(faulty.clone(), 4);
    fill(&bench);
    let outcome = bench.solve(&graph, &[target]).await;
    bench.assert_lawful();
    assert!(outcome.result.is_ok());
    let told = troubles(&outcome.events.events());
    assert_eq!(told, [(Origin::Local, faulty.failures())]);
    let missed = outcome.events.missed();
    assert!(
        missed
            .iter()
            .all(|(_, reason)| *reason == MissReason::CacheFailed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_never_answers_is_given_up() {
    let (graph, target) = sample();
    let local = Arc::new(MemoryCache::default());
    let silent = Arc::new(FaultyCache::new(local.clone(), Faults::Hang));
    let tiers = CacheTiers {
        local,
        remotes: vec![RemoteCache {
            name: "far".to_owned(),
            backend: silent.clone(),
            read: true,
            write: true,
        }],
    };
    let bench = Bench::tiers(tiers, 4);
    fill(&bench);
    let outcome = bench.solve(&graph, &[target]).await;
    assert!(outcome.result.is_ok());
    assert!(silent.calls() <= 8, "{} calls", silent.calls());
    let told = troubles(&outcome.events.events());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, Origin::Remote("far".to_owned()));
}
