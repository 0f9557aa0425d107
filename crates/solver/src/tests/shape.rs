//! Deep graphs, wide graphs, and how many steps run at the same time.

use std::sync::Arc;
use std::time::Duration;

use longshore_graph::{Graph, Input, Op, Vertex, VertexId};

use super::support::*;
use crate::plan::Plan;
use crate::testkit::Random;
use crate::{CacheTiers, NoLock, Places, ResourceClass, Solver};

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

/// Six quick steps and, asked for last, one that takes long.
fn uneven(bench: &Bench) -> (Graph, VertexId, VertexId) {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let mut step = |name: String, takes_ms| {
        let args: Vec<&str> = name.split(' ').collect();
        bench.world.takes(&name, takes_ms);
        run(&mut graph, base, &args)
    };
    let mut steps: Vec<_> = (0..6).map(|n| step(format!("const {n} x"), 10)).collect();
    let long = step("const long x".to_owned(), 100);
    steps.push(long);
    let inputs = steps.into_iter().map(Input::first).collect();
    let top = graph.push(Vertex::new("top", Op::Merge, inputs)).unwrap();
    (graph, top, long)
}

/// What a build takes on its paused clock, and when it began a step, among those that run.
async fn course(bench: &Bench, graph: &Graph, top: VertexId, step: VertexId) -> (Duration, usize) {
    let began = tokio::time::Instant::now();
    let outcome = bench.solve(graph, &[top]).await;
    bench.assert_lawful();
    let started = outcome.events.started();
    let is_run = |id: &&VertexId| matches!(graph.vertex(**id).op, Op::Exec(_));
    let place = started.iter().filter(is_run).position(|id| *id == step);
    (began.elapsed(), place.expect("it ran"))
}

#[tokio::test(start_paused = true)]
async fn what_took_long_goes_before_what_was_asked_for_first() {
    let bench = Bench::with_jobs(2);
    bench.world.context("base", &[("x", "x")]);
    let (mut graph, top, long) = uneven(&bench);
    // Nothing is known: the first to ask is the first to run.
    let (in_order, place) = course(&bench, &graph, top, long).await;
    assert_eq!(place, 6);
    for vertex in 0..graph.len() {
        graph
            .meta_mut(VertexId(u32::try_from(vertex).unwrap()))
            .ignore_cache = true;
    }
    let (by_cost, place) = course(&bench, &graph, top, long).await;
    // The first two to ask found places free.
    assert_eq!(place, 2);
    assert!(by_cost < in_order, "{by_cost:?}, {in_order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_on_something_new_counts_with_what_the_nearest_took() {
    let bench = Bench::with_jobs(2);
    bench.world.context("base", &[("x", "x")]);
    let (graph, top, long) = uneven(&bench);
    course(&bench, &graph, top, long).await;
    bench.world.context("base", &[("x", "another")]);
    let (_, place) = course(&bench, &graph, top, long).await;
    assert_eq!(place, 2);
}

#[tokio::test(start_paused = true)]
async fn solvers_on_the_same_places_take_turns() {
    let (large, top) = wide(60);
    let mut small = Graph::default();
    let base = local(&mut small, "base");
    let only = run(&mut small, base, &["const", "small", "x"]);
    let bench = Bench::with_jobs(2);
    bench.world.context("base", &[("x", "x")]);
    bench.world.pace(1);
    let places = Places::default();
    let solver = || {
        let tiers = CacheTiers::local(bench.cache.clone());
        Solver::among(&places, tiers, Arc::new(NoLock), limits(2))
    };
    let (of_large, of_small) = (solver(), solver());
    let late = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let request = bench.request(&small, &[only]);
        in_time(of_small.solve(request)).await.unwrap();
        bench.world.runs().len()
    };
    let request = bench.request(&large, &[top]);
    let (result, before) = tokio::join!(in_time(of_large.solve(request)), late);
    assert!(result.is_ok());
    assert!(
        before < 20,
        "{before} steps ran before the small build ended"
    );
    assert_eq!(bench.world.busiest(ResourceClass::Run), 2);
    bench.assert_lawful();
}

#[tokio::test(start_paused = true)]
async fn the_ways_before_steps_are_as_long_as_the_longest_of_them() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let graph = super::seeds::random_graph(&mut random);
        let top = VertexId(u32::try_from(graph.len() - 1).unwrap());
        let bench = Bench::new();
        super::seeds::fill(&bench.world, &mut random);
        let Ok(plan) = Plan::new(&bench.request(&graph, &[top])).await else {
            panic!("seed {seed}");
        };
        let costs: Vec<u64> = (0..graph.len()).map(|_| random.number() % 50 + 1).collect();
        let known = (0..).map(VertexId).zip(costs.iter().copied());
        let ways = plan.remaining_ms(&graph, known);
        for (id, _) in plan.needed() {
            let longest = longest_way(&graph, &plan, &costs, id);
            assert_eq!(ways[id.index()], longest, "seed {seed}, vertex {}", id.0);
        }
    }
}

/// By its definition, step by step.
fn longest_way(graph: &Graph, plan: &Plan, costs: &[u64], id: VertexId) -> u64 {
    let needs = |above: VertexId| {
        let inputs = &graph.vertex(above).inputs;
        inputs.iter().any(|input| input.vertex == id)
    };
    let above = plan.needed().filter(|(above, _)| needs(*above));
    let ways = above.map(|(above, _)| longest_way(graph, plan, costs, above));
    costs[id.index()] + ways.max().unwrap_or(0)
}
