//! Failures and cancellation: prompt, complete, and nothing that was done is lost.

use std::sync::Arc;
use std::time::Duration;

use longshore_graph::{Graph, Input, Op, Vertex, VertexId};

use super::support::*;
use crate::testkit::Recorder;
use crate::{CacheTiers, Event, NoLock, ResourceClass, SolveError, Solver};

fn bench() -> Bench {
    let bench = Bench::new();
    bench.world.context("base", &[("x", "x")]);
    bench
}

/// A step that fails beside one that would run for ever, and one on top of both.
fn fork() -> (Graph, [VertexId; 4]) {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let good = run(&mut graph, base, &["write", "good", "1"]);
    let bad = run(&mut graph, good, &["fail"]);
    let slow = run(&mut graph, base, &["write", "slow", "1"]);
    // The slow one is waited for first.
    let inputs = vec![Input::first(slow), Input::first(bad)];
    let top = graph.push(Vertex::new("top", Op::Merge, inputs)).unwrap();
    (graph, [good, bad, slow, top])
}

#[tokio::test(start_paused = true)]
async fn a_failure_stops_its_siblings_and_keeps_what_was_done() {
    let (graph, [good, bad, slow, top]) = fork();
    let bench = bench();
    bench.world.hang("write slow 1");
    let began = tokio::time::Instant::now();
    let outcome = bench.solve(&graph, &[top]).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    bench.assert_lawful();
    let Err(SolveError::Step { vertex, source, .. }) = &outcome.result else {
        panic!("{:?}", outcome.result)
    };
    assert_eq!(*vertex, bad);
    assert!(source.to_string().contains("exit code 1"));
    assert_eq!(outcome.events.canceled(), [slow]);
    assert!(outcome.events.finished().contains(&good));
    let failed = |event: &Event| matches!(event, Event::Failed { vertex, .. } if *vertex == bad);
    assert_eq!(
        outcome.events.events().iter().filter(|e| failed(e)).count(),
        1
    );
    // The good step is found by the next build.
    bench.world.mend();
    assert_eq!(bench.build(&graph, good).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_the_solve_and_every_step() {
    let (graph, [_, _, slow, _]) = fork();
    let bench = bench();
    bench.world.hang("write slow 1");
    let events = Arc::new(Recorder::default());
    let mut request = bench.request(&graph, &[slow]);
    request.events = events.clone();
    let cancel = request.cancel.clone();
    let (result, ()) = tokio::join!(in_time(bench.solver.solve(request)), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        cancel.cancel();
    });
    bench.assert_lawful();
    assert!(matches!(result, Err(SolveError::Canceled)));
    assert_eq!(events.canceled(), [slow]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_ends_well_while_the_build_stops_is_not_done_again() {
    let (mut graph, [_, _, slow, _]) = fork();
    let after = run(&mut graph, slow, &["write", "after", "1"]);
    let bench = bench();
    bench.world.linger("write slow 1");
    let events = Arc::new(Recorder::default());
    let mut request = bench.request(&graph, &[after]);
    request.events = events.clone();
    let cancel = request.cancel.clone();
    let (result, ()) = tokio::join!(in_time(bench.solver.solve(request)), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(SolveError::Canceled)));
    assert!(events.finished().contains(&slow));
    bench.world.mend();
    assert_eq!(bench.build(&graph, slow).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_solve_that_is_cancelled_before_it_begins_runs_nothing() {
    let (graph, [good, ..]) = fork();
    let bench = bench();
    let request = bench.request(&graph, &[good]);
    request.cancel.cancel();
    let result = in_time(bench.solver.solve(request)).await;
    assert!(matches!(result, Err(SolveError::Canceled)));
    assert_eq!(bench.world.runs(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_solve_stops_everything_and_frees_its_places() {
    let (graph, [good, _, slow, _]) = fork();
    let bench = Bench::with_jobs(1);
    bench.world.context("base", &[("x", "x")]);
    bench.world.hang("write slow 1");
    let request = bench.request(&graph, &[slow]);
    let soon = Duration::from_millis(10);
    let dropped = tokio::time::timeout(soon, bench.solver.solve(request)).await;
    assert!(dropped.is_err());
    tokio::time::sleep(soon).await;
    bench.assert_lawful(); // nothing is busy any more
    assert_eq!(bench.build(&graph, good).await, ["base", "write good 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_wind_down_is_dropped_after_its_grace() {
    let (graph, [good, ..]) = fork();
    let running = Arc::new(());
    let (solver, request) = stubborn(&running, graph, good);
    let cancel = request.cancel.clone();
    let began = tokio::time::Instant::now();
    let (result, ()) = tokio::join!(in_time(solver.solve(request)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(SolveError::Canceled)));
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_fails_before_anything_runs() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let built = run(&mut graph, base, &["write", "a", "1"]);
    let copied = copy(&mut graph, built, base, "absent", "/");
    let bench = bench();
    let outcome = bench.solve(&graph, &[copied]).await;
    let Err(error @ SolveError::Pin { vertex, .. }) = &outcome.result else {
        panic!("{:?}", outcome.result)
    };
    assert_eq!(*vertex, copied);
    assert_eq!(error.to_string(), "cannot read `base` for `COPY absent /`");
    assert_eq!(bench.world.runs(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_file_missing_from_a_stage_names_the_copy_and_the_stage() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let built = run(&mut graph, base, &["write", "a", "1"]);
    let copied = copy(&mut graph, base, built, "absent", "/");
    let bench = bench();
    let outcome = bench.solve(&graph, &[copied]).await;
    let error = outcome.result.unwrap_err();
    assert_eq!(
        crate::error::with_causes(&error),
        "cannot read what `COPY absent /` takes from `write a 1`: `absent` not found"
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_step_fails_the_build_and_no_more() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    // The fake finds no input for its root.
    let inputs = vec![Input::first(base)];
    let panics = graph.push(Vertex::new("diff", Op::Diff, inputs)).unwrap();
    let good = run(&mut graph, base, &["write", "a", "1"]);
    let bench = bench();
    let outcome = bench.solve(&graph, &[panics]).await;
    assert!(matches!(outcome.result, Err(SolveError::Panicked { .. })));
    let failed = |event: &Event| matches!(event, Event::Failed { vertex, .. } if *vertex == panics);
    assert!(outcome.events.events().iter().any(failed));
    assert_eq!(bench.build(&graph, good).await, ["base", "write a 1"]);
}

fn stubborn(
    running: &Arc<()>,
    graph: Graph,
    target: VertexId,
) -> (Solver<()>, crate::SolveRequest<()>) {
    let cache = CacheTiers::local(Arc::new(crate::MemoryCache::default()));
    let request = crate::SolveRequest {
        executor: Arc::new(Stubborn(running.clone())),
        graph: Arc::new(graph),
        targets: vec![Input::first(target)],
        scope: String::new(),
        events: Arc::new(crate::NoEvents),
        cancel: tokio_util::sync::CancellationToken::new(),
    };
    (Solver::new(cache, Arc::new(NoLock), limits(1)), request)
}

#[tokio::test(start_paused = true)]
async fn dropping_the_solve_does_not_wait_for_steps_to_wind_down() {
    let (graph, [good, ..]) = fork();
    let running = Arc::new(());
    let (solver, request) = stubborn(&running, graph, good);
    let moment = Duration::from_millis(10);
    let solve = tokio::time::timeout(moment, async {
        let watch = async {
            tokio::time::sleep(moment / 2).await;
            assert_eq!(Arc::strong_count(&running), 3, "executor and step hold it");
        };
        tokio::join!(solver.solve(request), watch)
    });
    assert!(solve.await.is_err());
    tokio::time::sleep(moment).await;
    assert_eq!(Arc::strong_count(&running), 1);
}

/// Steps that run for ever and do not watch for cancellation; counts those that run.
struct Stubborn(Arc<()>);

#[async_trait::async_trait]
impl crate::Executor for Stubborn {
    type Tree = ();
    async fn pin(
        &self,
        _: &crate::StepContext,
        _: &longshore_graph::Source,
        _: &longshore_graph::Selection,
    ) -> Result<crate::ContentDigest, crate::BoxError> {
        Ok(crate::ContentDigest([0; 32]))
    }
    async fn execute(
        &self,
        _: &crate::StepContext,
        vertex: &Vertex,
        _: &[()],
    ) -> Result<Vec<()>, crate::BoxError> {
        match vertex.op {
            Op::Source(_) => Ok(vec![()]),
            _ => {
                let _running = self.0.clone();
                std::future::pending().await
            }
        }
    }
    async fn digest_of(
        &self,
        _: &crate::StepContext,
        (): &(),
        _: &longshore_graph::Selection,
    ) -> Result<crate::ContentDigest, crate::BoxError> {
        Ok(crate::ContentDigest([0; 32]))
    }
    async fn encode(
        &self,
        _: &crate::StepContext,
        (): &(),
    ) -> Result<Option<Vec<u8>>, crate::BoxError> {
        Ok(None)
    }
    async fn restore(
        &self,
        _: &crate::StepContext,
        _: &[u8],
        _: &crate::Origin,
    ) -> Result<Option<()>, crate::BoxError> {
        Ok(None)
    }
    fn class(&self, _: &Vertex) -> ResourceClass {
        ResourceClass::Run
    }
}
