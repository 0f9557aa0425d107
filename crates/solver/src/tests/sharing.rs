//! One run per content key, whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use longshore_graph::{Graph, VertexId};

use super::support::*;
use crate::testkit::{FakeExecutor, Faults, FaultyCache, Recorder};
use crate::{
    BoxError, CacheBackend as _, CacheKey, CacheTiers, Event, FlightGuard, FlightLock, HitKey,
    Locking, MemoryCache, NoLock, Origin, RemoteCache, SolveError, Solver,
};

fn chain() -> (Graph, VertexId) {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let first = run(&mut graph, base, &["write", "a", "1"]);
    let target = run(&mut graph, first, &["sum", "b"]);
    (graph, target)
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.world.context("base", &[("x", "x")]);
    bench.world.shuffle(3);
    bench
}

#[tokio::test(start_paused = true)]
async fn two_builds_at_once_run_each_step_once() {
    let (graph, target) = chain();
    let bench = bench();
    let targets = [target];
    let (one, two) = tokio::join!(bench.solve(&graph, &targets), bench.solve(&graph, &targets));
    bench.assert_lawful();
    assert_eq!(one.result.unwrap(), two.result.unwrap());
    let runs = bench.world.runs();
    assert_eq!(runs.iter().filter(|name| *name != "base").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn twins_in_one_graph_run_once_even_where_nothing_is_remembered() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let twins: Vec<_> = (0..5)
        .map(|_| run(&mut graph, base, &["sum", "a"]))
        .collect();
    let inner = Arc::new(MemoryCache::default());
    let deaf = FaultyCache::new(inner, Faults::Every(1));
    let bench = Bench::on(Arc::new(deaf), 4);
    bench.world.context("base", &[("x", "x")]);
    let outcome = bench.solve(&graph, &twins).await;
    bench.assert_lawful();
    assert_eq!(bench.world.runs(), ["base", "sum a"]);
    let shared = outcome.events.cached();
    assert_eq!(shared.len(), 4);
    let in_flight = |(_, by, from): &(VertexId, HitKey, Origin)| {
        (*by, from) == (HitKey::Content, &Origin::InFlight)
    };
    assert!(shared.iter().all(in_flight));
}

#[tokio::test(start_paused = true)]
async fn twins_that_ignore_the_cache_run_once_in_each_build() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let twins = [0, 1].map(|_| run(&mut graph, base, &["sum", "a"]));
    for twin in twins {
        graph.meta_mut(twin).ignore_cache = true;
    }
    let bench = bench();
    let (one, two) = tokio::join!(bench.solve(&graph, &twins), bench.solve(&graph, &twins));
    bench.assert_lawful();
    assert!(one.result.is_ok() && two.result.is_ok());
    let runs = bench.world.runs();
    assert_eq!(runs.iter().filter(|name| *name == "sum a").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_one_build_is_cancelled_the_other_takes_over() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let target = run(&mut graph, base, &["write", "a", "1"]);
    let bench = bench();
    bench.world.hang("write a 1");
    let request = bench.request(&graph, &[target]);
    let cancel = request.cancel.clone();
    let world = bench.world.clone();
    let leader = bench.solver.solve(request);
    let follower = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.solve(&graph, &[target]).await
    };
    let canceller = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.mend();
        cancel.cancel();
    };
    let (leader, follower, ()) = tokio::join!(leader, follower, canceller);
    bench.assert_lawful();
    assert!(matches!(leader, Err(SolveError::Canceled)));
    assert_eq!(follower.file("a"), "1");
    let waited = |event: &Event| matches!(event, Event::Waiting { .. });
    assert!(follower.events.events().iter().any(waited));
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_one_build_is_not_the_others() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let target = run(&mut graph, base, &["write", "a", "1"]);
    let bench = bench();
    bench.world.hang("write a 1");
    let mut request = bench.request(&graph, &[target]);
    request.executor = Arc::new(Hurried(FakeExecutor::new(&bench.world)));
    let (first, second) = tokio::join!(in_time(bench.solver.solve(request)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let targets = [target];
        let second = bench.solve(&graph, &targets);
        let mend = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            bench.world.mend();
        };
        tokio::join!(second, mend).0
    });
    bench.assert_lawful();
    assert!(matches!(first, Err(SolveError::Step { .. })));
    assert_eq!(second.file("a"), "1");
}

/// Gives up on a step after 100 ms: this build's own reason to fail.
struct Hurried(Arc<FakeExecutor>);

#[async_trait]
impl crate::Executor for Hurried {
    type Tree = crate::testkit::FakeTree;

    async fn pin(
        &self,
        ctx: &crate::StepContext,
        source: &longshore_graph::Source,
        selection: &longshore_graph::Selection,
    ) -> Result<crate::ContentDigest, BoxError> {
        self.0.pin(ctx, source, selection).await
    }

    async fn execute(
        &self,
        ctx: &crate::StepContext,
        vertex: &longshore_graph::Vertex,
        inputs: &[Self::Tree],
    ) -> Result<Vec<Self::Tree>, BoxError> {
        let work = self.0.execute(ctx, vertex, inputs);
        tokio::time::timeout(Duration::from_millis(100), work).await?
    }

    async fn digest_of(
        &self,
        ctx: &crate::StepContext,
        tree: &Self::Tree,
        selection: &longshore_graph::Selection,
    ) -> Result<crate::ContentDigest, BoxError> {
        self.0.digest_of(ctx, tree, selection).await
    }

    async fn encode(
        &self,
        ctx: &crate::StepContext,
        tree: &Self::Tree,
    ) -> Result<Option<Vec<u8>>, BoxError> {
        self.0.encode(ctx, tree).await
    }

    async fn restore(
        &self,
        ctx: &crate::StepContext,
        encoded: &[u8],
        origin: &Origin,
    ) -> Result<Option<Self::Tree>, BoxError> {
        self.0.restore(ctx, encoded, origin).await
    }

    fn class(&self, vertex: &longshore_graph::Vertex) -> crate::ResourceClass {
        self.0.class(vertex)
    }
}

#[tokio::test(start_paused = true)]
async fn two_processes_with_a_lock_run_each_step_once() {
    let (graph, target) = chain();
    let bench = bench();
    let lock = Arc::new(SharedLock::default());
    let process = || {
        let cache = CacheTiers::local(bench.cache.clone());
        Solver::new(cache, lock.clone(), limits(4))
    };
    let (one, two) = (process(), process());
    let request = || bench.request(&graph, &[target]);
    let (one, two) = tokio::join!(in_time(one.solve(request())), in_time(two.solve(request())));
    bench.assert_lawful();
    assert_eq!(one.unwrap(), two.unwrap());
}

/// Notes how many steps are locked at the same time.
#[derive(Default)]
struct Counted {
    lock: SharedLock,
    held: Arc<AtomicUsize>,
    most: AtomicUsize,
}

/// Counts until it is dropped.
struct Held(
    Arc<AtomicUsize>,
    #[expect(dead_code, reason = "held for its drop")] FlightGuard,
);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl FlightLock for Counted {
    async fn try_lock(&self, key: &CacheKey) -> Result<Locking, BoxError> {
        let Locking::Locked(guard) = self.lock.try_lock(key).await? else {
            return Ok(Locking::Taken);
        };
        let held = self.held.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(held, Ordering::SeqCst);
        let guard = Held(self.held.clone(), guard);
        Ok(Locking::Locked(FlightGuard::new(guard)))
    }

    async fn released(&self, key: &CacheKey) -> Result<(), BoxError> {
        self.lock.released(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_steps_are_locked_than_run() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let steps: Vec<_> = (0..40)
        .map(|number| run(&mut graph, base, &["const", &number.to_string(), "x"]))
        .collect();
    let bench = bench();
    let lock = Arc::new(Counted::default());
    let tiers = CacheTiers::local(bench.cache.clone());
    let solver = Solver::new(tiers, lock.clone(), limits(3));
    let solved = in_time(solver.solve(bench.request(&graph, &steps))).await;
    assert!(solved.is_ok());
    bench.assert_lawful();
    assert_eq!(lock.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_another_process_runs_takes_no_place_from_others() {
    let mut graph = Graph::default();
    let base = local(&mut graph, "base");
    let theirs = run(&mut graph, base, &["write", "a", "1"]);
    let ours = run(&mut graph, base, &["write", "b", "1"]);
    let bench = bench();
    bench.world.hang("write a 1");
    let lock = Arc::new(SharedLock::default());
    let process = || {
        let tiers = CacheTiers::local(bench.cache.clone());
        Solver::new(tiers, lock.clone(), limits(1))
    };
    let (there, here) = (process(), process());
    let there_request = bench.request(&graph, &[theirs]);
    let cancel = there_request.cancel.clone();
    let here_request = bench.request(&graph, &[theirs, ours]);
    let watch = async {
        let runs_ours = || bench.world.runs().contains(&"write b 1".to_owned());
        while !runs_ours() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Only now does the other process give its step up.
        bench.world.mend();
        cancel.cancel();
    };
    let here = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        here.solve(here_request).await
    };
    let (there, here, ()) =
        in_time(async { tokio::join!(there.solve(there_request), here, watch) }).await;
    assert!(matches!(there, Err(SolveError::Canceled)));
    assert!(here.is_ok(), "{here:?}");
    bench.assert_lawful();
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_fails_costs_nothing_but_a_word() {
    struct Broken;
    #[async_trait]
    impl FlightLock for Broken {
        async fn try_lock(&self, _key: &CacheKey) -> Result<Locking, BoxError> {
            Err("no locks here".into())
        }

        async fn released(&self, _key: &CacheKey) -> Result<(), BoxError> {
            unreachable!("nothing is taken")
        }
    }
    let (graph, target) = chain();
    let bench = bench();
    let tiers = CacheTiers::local(bench.cache.clone());
    let solver = Solver::new(tiers, Arc::new(Broken), limits(4));
    let events = Arc::new(Recorder::default());
    let mut request = bench.request(&graph, &[target]);
    request.events = events.clone();
    assert!(in_time(solver.solve(request)).await.is_ok());
    let troubles: Vec<_> = events
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::CacheTrouble { .. }))
        .collect();
    assert!(
        matches!(
            &troubles[..],
            [Event::CacheTrouble {
                failures: 2,
                operation: "lock",
                ..
            }]
        ),
        "{troubles:?}"
    );
}

fn remote(backend: Arc<MemoryCache>, read: bool, write: bool) -> RemoteCache {
    RemoteCache {
        name: "ci".to_owned(),
        backend,
        read,
        write,
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_machine_ran_is_not_run_again_and_remembered_here() {
    let (graph, target) = chain();
    let there = bench();
    let shared = Arc::new(MemoryCache::default());
    let solver = |local: &Arc<MemoryCache>, read, write| {
        let tiers = CacheTiers {
            local: local.clone(),
            remotes: vec![remote(shared.clone(), read, write)],
        };
        Arc::new(Solver::new(tiers, Arc::new(NoLock), limits(4)))
    };
    let there = Bench {
        solver: solver(&there.cache, false, true),
        ..there
    };
    there.build(&graph, target).await;
    let here = Arc::new(MemoryCache::default());
    let bench = Bench {
        world: there.world,
        solver: solver(&here, true, false),
        cache: here,
    };
    let outcome = bench.solve(&graph, &[target]).await;
    bench.assert_lawful();
    let from = Origin::Remote("ci".to_owned());
    let hit = (target, HitKey::Definition, from);
    assert_eq!(outcome.events.cached(), [hit]);
    let outcome = bench.solve(&graph, &[target]).await;
    let hit = (target, HitKey::Definition, Origin::Local);
    assert_eq!(outcome.events.cached(), [hit]);
}

#[tokio::test(start_paused = true)]
async fn no_value_leaves_the_machine() {
    let (graph, target) = chain();
    let bench = bench();
    let shared = Arc::new(MemoryCache::default());
    let tiers = CacheTiers {
        local: bench.cache.clone(),
        remotes: vec![remote(shared.clone(), true, true)],
    };
    let solver = Solver::new(tiers, Arc::new(NoLock), limits(4));
    let events = Arc::new(Recorder::default());
    let mut request = bench.request(&graph, &[target]);
    request.events = events.clone();
    solver.solve(request).await.unwrap();
    for (_, key) in events.missed_keys() {
        let record = shared.lookup(&key).await.unwrap().unwrap();
        let text = String::from_utf8(record.to_bytes()).unwrap();
        assert!(text.contains("env PATH"), "names do leave: {text}");
        for value in ["/bin", "write", "sum b"] {
            assert!(!text.contains(value), "`{value}` left: {text}");
        }
    }
}
