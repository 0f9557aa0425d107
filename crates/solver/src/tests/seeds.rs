//! Thousands of small worlds: random graphs, several builds at once on one solver or on two
//! that lock steps as processes do, steps that fail, builds that are cancelled or dropped,
//! caches that fail or are pruned meanwhile. All on one thread with a paused clock and a
//! scheduler that the seed decides, so that each seed takes a course of its own, and always
//! the same.
//!
//! Held against [`evaluate`]: a build that succeeds has the right files, and the fake
//! executor notes everything that runs twice or out of order. What is reported of a step is
//! one of the stories that [`Event`] tells, and nothing is reported once a build has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_graph::{
    FileAction, FileInput, FileOp, Graph, Input, Mkfile, Op, Source, Vertex, VertexId,
};

use super::shake::shake;
use super::support::*;
use crate::testkit::{
    FakeExecutor, FakeTree, Faults, FaultyCache, Random, Recorder, World, evaluate,
};
use crate::{
    CacheKey, CacheTiers, Event, FlightLock, MemoryCache, NoLock, Places, SolveError, Solver,
};

const SEEDS: u64 = 2000;
const CONTEXTS: [&str; 3] = ["base", "context", "extra"];

fn any(random: &mut Random, graph: &Graph) -> VertexId {
    // Mostly near the top, so that graphs get deep.
    let len = graph.len();
    let back = random.below(len).min(random.below(len));
    VertexId(u32::try_from(len - 1 - back).unwrap())
}

pub(super) fn random_graph(random: &mut Random) -> Graph {
    let mut graph = Graph::default();
    for name in CONTEXTS {
        local(&mut graph, name);
    }
    let scratch = Vertex::new("scratch", Op::Source(Source::Scratch), vec![]);
    graph.push(scratch).unwrap();
    for _ in 0..random.below(24) + 1 {
        random_vertex(random, &mut graph);
    }
    graph
}

fn random_vertex(random: &mut Random, graph: &mut Graph) {
    let (one, two) = (any(random, graph), any(random, graph));
    let path = ["a", "b", "c"][random.below(3)];
    let text = ["1", "2"][random.below(2)];
    let id = match random.below(9) {
        0 | 1 => run(graph, one, &["write", path, text]),
        2 => run(graph, one, &["const", path, text]),
        3 | 4 => run(graph, one, &["sum", path]),
        5 => {
            let inputs = vec![Input::first(one), Input::first(two)];
            graph.push(Vertex::new("merge", Op::Merge, inputs)).unwrap()
        }
        6 => {
            // The whole of another tree, which may be empty.
            let mut whole = copy_op("", &format!("/{path}"));
            whole.allow_empty_wildcard = true;
            let inputs = vec![Input::first(one), Input::first(two)];
            graph
                .push(Vertex::new("copy", copy_vertex(whole), inputs))
                .unwrap()
        }
        7 => {
            let mut op = exec(&["sum", path]);
            op.mounts.push(bind_mount(1, "/src", ""));
            let inputs = vec![Input::first(one), Input::first(two)];
            let name = format!("sum {path} with src");
            graph.push(Vertex::new(name, Op::Exec(op), inputs)).unwrap()
        }
        _ => {
            let mkfile = Mkfile {
                path: format!("/{path}"),
                mode: 0o644,
                content: text.as_bytes().to_vec(),
                owner: None,
                timestamp: None,
            };
            let action = FileAction {
                input: FileInput::Vertex(0),
                kind: longshore_graph::FileActionKind::Mkfile(mkfile),
            };
            let op = Op::File(FileOp {
                actions: vec![action],
            });
            let inputs = vec![Input::first(one)];
            graph.push(Vertex::new("mkfile", op, inputs)).unwrap()
        }
    };
    graph.meta_mut(id).ignore_cache = random.one_in(12);
}

pub(super) fn fill(world: &World, random: &mut Random) {
    for name in CONTEXTS {
        let text = ["old", "new"][random.below(2)];
        world.context(name, &[("f", text), ("g", name)]);
    }
}

/// How one build of a seed is treated.
struct Fate {
    solver: Arc<Solver<FakeTree>>,
    graph: Graph,
    targets: Vec<VertexId>,
    begins_ms: u64,
    canceled_ms: Option<u64>,
    dropped_ms: Option<u64>,
}

fn fate(random: &mut Random, graph: &Graph, solvers: &[Arc<Solver<FakeTree>>]) -> Fate {
    let mut at = |times| random.one_in(times).then(|| random.below(80) as u64);
    let (canceled_ms, dropped_ms) = (at(4), at(10));
    let top = VertexId(u32::try_from(graph.len() - 1).unwrap());
    Fate {
        solver: solvers[random.below(solvers.len())].clone(),
        graph: graph.clone(),
        targets: vec![top, any(random, graph)],
        begins_ms: random.below(40) as u64,
        canceled_ms,
        dropped_ms,
    }
}

async fn live(fate: &Fate, bench: &Bench, failing: bool) {
    tokio::time::sleep(Duration::from_millis(fate.begins_ms)).await;
    let events = Arc::new(Recorder::default());
    let mut request = bench.request(&fate.graph, &fate.targets);
    request.events = events.clone();
    let cancel = request.cancel.clone();
    let canceller = async {
        let Some(ms) = fate.canceled_ms else {
            return std::future::pending().await;
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let dropped = fate.dropped_ms.map_or(u64::MAX / 2, |ms| ms);
    let result = tokio::select! {
        biased;
        result = fate.solver.solve(request) => result,
        () = canceller => unreachable!(),
        () = tokio::time::sleep(Duration::from_millis(dropped)), if fate.dropped_ms.is_some() => return,
    };
    let told = events.events();
    check_stories(&told, result.is_ok());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(events.events().len(), told.len(), "something lingers");
    match result {
        Ok(trees) => {
            for (target, tree) in fate.targets.iter().zip(trees) {
                let source = |source: &Source| bench.world.source(source);
                let truth = evaluate(&fate.graph, Input::first(*target), source).unwrap();
                assert_eq!(*tree.files, truth);
            }
        }
        Err(SolveError::Canceled) => assert!(fate.canceled_ms.is_some()),
        Err(error @ SolveError::Step { .. }) => assert!(failing, "{error:?}"),
        Err(other) => panic!("{other:?}"),
    }
}

/// Each vertex reports what [`Event`] allows.
fn check_stories(events: &[Event], succeeded: bool) {
    let mut stories: BTreeMap<VertexId, String> = BTreeMap::new();
    for event in events {
        let (vertex, letter) = match event {
            Event::Cached { vertex, .. } => (vertex, 'c'),
            Event::Missed { vertex, .. } => (vertex, 'm'),
            Event::Started { vertex } => (vertex, 's'),
            Event::Finished { vertex, .. } => (vertex, 'f'),
            Event::Failed { vertex, .. } => (vertex, 'x'),
            Event::Canceled { vertex } => (vertex, 'k'),
            _ => continue,
        };
        stories.entry(*vertex).or_default().push(letter);
    }
    let good = ["c", "msf", "sf"];
    let bad = ["x", "msx", "msk", "sx", "sk"];
    for (vertex, story) in stories {
        let story = story.as_str();
        let is_told = good.contains(&story) || (bad.contains(&story) && !succeeded);
        assert!(is_told, "vertex {}: {story}", vertex.0);
    }
}

/// One solver, or two that share places or not, and lock steps as two processes do.
fn solvers(random: &mut Random, tiers: &CacheTiers, jobs: usize) -> Vec<Arc<Solver<FakeTree>>> {
    let places = Places::default();
    let solver = |places: &Places, lock: &Arc<dyn FlightLock>| {
        Arc::new(Solver::among(
            places,
            tiers.clone(),
            lock.clone(),
            limits(jobs),
        ))
    };
    let shared: Arc<dyn FlightLock> = Arc::new(SharedLock::default());
    match random.below(3) {
        0 => vec![solver(&places, &shared), solver(&places, &shared)],
        1 => vec![
            solver(&places, &shared),
            solver(&Places::default(), &shared),
        ],
        _ => vec![solver(&places, &(Arc::new(NoLock) as Arc<dyn FlightLock>))],
    }
}

/// Lives through one seed; what ran, in order.
async fn seed(seed: u64, threads: bool) -> Vec<String> {
    let mut random = Random::new(seed);
    let graph = random_graph(&mut random);
    let cache = Arc::new(MemoryCache::default());
    let faults = match random.below(3) {
        0 => Faults::OneIn(4, Mutex::new(random.clone())),
        _ => Faults::Never,
    };
    let faultless = matches!(faults, Faults::Never);
    let faulty = FaultyCache::new(cache.clone(), faults);
    let jobs = 1 + random.below(3);
    let tiers = CacheTiers::local(Arc::new(faulty));
    let solvers = solvers(&mut random, &tiers, jobs);
    let bench = Bench::tiers(tiers, jobs);
    fill(&bench.world, &mut random);
    bench.world.shuffle(random.number());
    if threads {
        bench.world.allow_threads();
    }
    // Two generations: the sources change in between.
    for generation in 0..2 {
        let mut graph = graph.clone();
        let failing = random.one_in(4);
        if failing {
            let step = any(&mut random, &graph);
            bench.world.fail(&graph.vertex(step).meta.name);
        }
        if generation > 0 {
            fill(&bench.world, &mut random);
            random_vertex(&mut random, &mut graph);
        }
        let fates: Vec<_> = (0..1 + random.below(3))
            .map(|_| fate(&mut random, &graph, &solvers))
            .collect();
        let pruned_ms = random.one_in(5).then(|| random.below(80) as u64);
        // A step that ended in a dropped solve may not have been recorded.
        if !faultless || pruned_ms.is_some() || fates.iter().any(|fate| fate.dropped_ms.is_some()) {
            bench.world.allow_reruns();
        }
        let lives = fates.iter().map(|fate| live(fate, &bench, failing));
        let prune = async {
            if let Some(ms) = pruned_ms {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                cache.forget_records();
                bench.world.lose_content();
            }
        };
        let lives = futures_util::future::join_all(lives);
        in_time(async { tokio::join!(lives, prune) }).await;
        // Dropped builds end.
        let dropped = fates.iter().any(|fate| fate.dropped_ms.is_some());
        tokio::time::sleep(Duration::from_millis(if dropped { 200 } else { 0 })).await;
        bench.assert_lawful();
        bench.world.mend();
    }
    bench.world.runs()
}

fn seed_alone(number: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    shake(Some(number));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(seed(number, false))
    }));
    shake(None);
    outcome.unwrap_or_else(|_| panic!("seed {number}"))
}

#[test]
fn random_worlds_keep_every_rule_even_seeds() {
    (0..SEEDS).step_by(2).for_each(|number| {
        seed_alone(number);
    });
}

#[test]
fn random_worlds_keep_every_rule_odd_seeds() {
    (1..SEEDS).step_by(2).for_each(|number| {
        seed_alone(number);
    });
}

#[test]
fn a_seed_takes_the_same_course_every_time() {
    for number in 0..50 {
        assert_eq!(seed_alone(number), seed_alone(number), "seed {number}");
    }
}

/// The same on several threads, where no course is like the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_worlds_keep_every_rule_on_several_threads() {
    let worlds = (0..64).map(|number| tokio::spawn(seed(number, true)));
    for (number, world) in worlds.collect::<Vec<_>>().into_iter().enumerate() {
        assert!(world.await.is_ok(), "seed {number}");
    }
}

/// Neither the order in which steps end nor how many run at once is in any key.
#[test]
fn order_and_parallelism_change_no_key_and_no_result() {
    for number in 0..200 {
        let graph = random_graph(&mut Random::new(number));
        let top = VertexId(u32::try_from(graph.len() - 1).unwrap());
        let observe = |jobs: usize, shuffle: u64| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(observed(&graph, top, jobs, shuffle))
        };
        let one = observe(1, 1);
        assert_eq!(one, observe(8, 2), "seed {number}");
        assert_eq!(one, observe(3, 3), "seed {number}");
    }
}

async fn observed(
    graph: &Graph,
    top: VertexId,
    jobs: usize,
    shuffle: u64,
) -> (crate::testkit::FakeTree, BTreeSet<CacheKey>) {
    let world = WORLD.get_or_init(World::new);
    let mut random = Random::new(7);
    fill(world, &mut random);
    world.shuffle(shuffle);
    world.allow_reruns();
    let tiers = CacheTiers::local(Arc::new(MemoryCache::default()));
    let solver = Solver::new(tiers, Arc::new(NoLock), limits(jobs));
    let events = Arc::new(Recorder::default());
    let request = crate::SolveRequest {
        executor: FakeExecutor::new(world),
        graph: Arc::new(graph.clone()),
        targets: vec![Input::first(top)],
        scope: String::new(),
        events: events.clone(),
        cancel: Default::default(),
    };
    let mut trees = in_time(solver.solve(request)).await.unwrap();
    let keys = events.missed_keys().into_iter().map(|(_, key)| key);
    (trees.remove(0), keys.collect())
}

static WORLD: std::sync::OnceLock<Arc<World>> = std::sync::OnceLock::new();
