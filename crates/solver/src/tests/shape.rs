//! Deep graphs, wide graphs, and how many steps run at the same time.

use std::time::Duration;

use longshore_graph::{Graph, Input, Op, Vertex, VertexId};

use super::support::*;
use crate::ResourceClass;

/// As many steps on one base as asked for, which need nothing of one another.
fn wide(steps: usize) -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let step = |number: usize| run(&mut graph, base, &["const", &number.to_string(), "x"]);
    let inputs = (0..steps).map(step).map(Input::first).collect();
    let top = graph.push(Vertex::new("top", Op::Merge, inputs)).unwrap();
    (graph, top)
}

#[tokio::test]
async fn fifty_thousand_steps_deep() {
    let mut graph = Graph::default();
    let mut top = local(&mut graph, "base");
    for _ in 0..50_000 {
        let inputs = vec![Input::first(top)];
        top = graph.push(Vertex::new("merge", Op::Merge, inputs)).unwrap();
    }
    let bench = Bench::new();
    bench.world.context("base", &[("x", "x")]);
    // Every level makes what the first made: one runs, all others are cut off.
    assert_eq!(bench.build(&graph, top).await, ["base", "merge"]);
    assert_eq!(bench.build(&graph, top).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_steps_wide() {
    let (graph, top) = wide(10_000);
    let bench = Bench::with_jobs(8);
    bench.world.context("base", &[("x", "x")]);
    assert_eq!(bench.build(&graph, top).await.len(), 10_002);
    assert!(bench.world.busiest(ResourceClass::Run) <= 8);
    assert_eq!(bench.build(&graph, top).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn as_many_steps_run_at_once_as_there_are_places_and_no_more() {
    let (graph, top) = wide(40);
    let bench = Bench::with_jobs(3);
    bench.world.context("base", &[("x", "x")]);
    bench.world.shuffle(1);
    bench.build(&graph, top).await;
    assert_eq!(bench.world.busiest(ResourceClass::Run), 3);
}

#[tokio::test(start_paused = true)]
async fn the_longest_way_is_gone_first() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let mut inputs: Vec<_> = (0..5)
        .map(|number| Input::first(run(&mut graph, base, &["const", &number.to_string(), "x"])))
        .collect();
    let mut long = base;
    for number in 0..4 {
        long = run(&mut graph, long, &["write", &number.to_string(), "long"]);
    }
    inputs.push(Input::first(long));
    let top = graph.push(Vertex::new("top", Op::Merge, inputs)).unwrap();
    let bench = Bench::with_jobs(1);
    bench.world.context("base", &[("x", "x")]);
    bench.world.pace(1);
    let ran = bench.build(&graph, top).await;
    // The first to ask found the place free; from then on the long way is first.
    let expected = [
        "base",
        "const 0 x",
        "write 0 long",
        "write 1 long",
        "write 2 long",
    ];
    assert_eq!(ran[..5], expected);
    assert_eq!(ran.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_small_build_does_not_wait_behind_all_of_a_large_one() {
    let (large, top) = wide(60);
    let mut small = Graph::default();
    let base = local(&mut small, "base");
    let only = run(&mut small, base, &["const", "small", "x"]);
    let bench = Bench::with_jobs(2);
    bench.world.context("base", &[("x", "x")]);
    bench.world.pace(1);
    let targets = [top];
    let ((), _) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            bench.solve(&small, &[only]).await;
            let before = bench.world.runs().len();
            assert!(
                before < 20,
                "{before} steps ran before the small build ended"
            );
        },
        bench.solve(&large, &targets)
    );
    bench.assert_lawful();
}
