//! Short ways to graphs, builds and their outcomes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_graph::{
    Copy, Exec, FileAction, FileActionKind, FileInput, FileOp, Graph, Input, LocalSource, Mount,
    MountKind, NetworkMode, Op, Resources, SecurityMode, Source, Vertex, VertexId,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use crate::testkit::{FakeExecutor, FakeTree, Recorder, World};
use crate::{
    BoxError, CacheBackend, CacheKey, CacheTiers, FlightGuard, FlightLock, Limits, Locking,
    MemoryCache, NoLock, SolveError, SolveRequest, Solver,
};

pub(super) fn local(graph: &mut Graph, name: &str) -> VertexId {
    let source = Source::Local(LocalSource {
        name: name.to_owned(),
    });
    graph
        .push(Vertex::new(name, Op::Source(source), vec![]))
        .unwrap()
}

pub(super) fn exec(args: &[&str]) -> Exec {
    Exec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: "/".to_owned(),
        user: String::new(),
        hostname: String::new(),
        extra_hosts: vec![],
        proxy_env: Default::default(),
        mounts: vec![root_mount()],
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        shm_size_bytes: None,
        ulimits: vec![],
        cgroup_parent: String::new(),
        resources: Resources::default(),
    }
}

pub(super) fn root_mount() -> Mount {
    Mount {
        target: "/".to_owned(),
        input: Some(0),
        selector: String::new(),
        readonly: false,
        output: Some(0),
        kind: MountKind::Bind,
    }
}

pub(super) fn bind_mount(input: usize, target: &str, selector: &str) -> Mount {
    Mount {
        target: target.to_owned(),
        input: Some(input),
        selector: selector.to_owned(),
        readonly: true,
        output: None,
        kind: MountKind::Bind,
    }
}

/// `RUN` of a command on `root`; named by the command.
pub(super) fn run(graph: &mut Graph, root: VertexId, args: &[&str]) -> VertexId {
    let name = args.join(" ");
    let vertex = Vertex::new(name, Op::Exec(exec(args)), vec![Input::first(root)]);
    graph.push(vertex).unwrap()
}

pub(super) fn copy_op(source: &str, dest: &str) -> Copy {
    Copy::new(FileInput::Vertex(1), source, dest)
}

pub(super) fn copy_vertex(copy: Copy) -> Op {
    Op::File(FileOp {
        actions: vec![FileAction {
            input: FileInput::Vertex(0),
            kind: FileActionKind::Copy(copy),
        }],
    })
}

/// `COPY --from=from source dest` on `base`.
pub(super) fn copy(
    graph: &mut Graph,
    base: VertexId,
    from: VertexId,
    source: &str,
    dest: &str,
) -> VertexId {
    let inputs = vec![Input::first(base), Input::first(from)];
    let op = copy_vertex(copy_op(source, dest));
    let name = format!("COPY {source} {dest}");
    graph.push(Vertex::new(name, op, inputs)).unwrap()
}

/// A world, a cache and a solver over both.
pub(super) struct Bench {
    pub(super) world: Arc<World>,
    pub(super) cache: Arc<MemoryCache>,
    pub(super) solver: Arc<Solver<FakeTree>>,
}

/// How a build went.
pub(super) struct Outcome {
    pub(super) result: Result<Vec<FakeTree>, SolveError>,
    pub(super) events: Arc<Recorder>,
}

impl Outcome {
    pub(super) fn file(&self, path: &str) -> String {
        let trees = self.result.as_ref().unwrap();
        trees[0].files.get(path).cloned().unwrap_or_default()
    }
}

pub(super) fn limits(jobs: usize) -> Limits {
    Limits {
        cancel_grace: Duration::from_secs(1),
        ..Limits::new(jobs, jobs)
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_jobs(4)
    }

    pub(super) fn with_jobs(jobs: usize) -> Self {
        let cache = Arc::new(MemoryCache::default());
        let mut bench = Self::on(cache.clone(), jobs);
        bench.cache = cache;
        bench
    }

    /// On another cache than the one in `cache`, which stays empty.
    pub(super) fn on(backend: Arc<dyn CacheBackend>, jobs: usize) -> Self {
        Self::tiers(CacheTiers::local(backend), jobs)
    }

    pub(super) fn tiers(tiers: CacheTiers, jobs: usize) -> Self {
        Self {
            world: World::new(),
            cache: Arc::default(),
            solver: Arc::new(Solver::new(tiers, Arc::new(NoLock), limits(jobs))),
        }
    }

    pub(super) fn request(&self, graph: &Graph, targets: &[VertexId]) -> SolveRequest<FakeTree> {
        SolveRequest {
            executor: FakeExecutor::new(&self.world),
            graph: Arc::new(graph.clone()),
            targets: targets.iter().map(|target| Input::first(*target)).collect(),
            scope: "test".to_owned(),
            events: Arc::new(Recorder::default()),
            cancel: CancellationToken::new(),
        }
    }

    /// One build, which must end: the clock is paused, so that waiting for nothing is
    /// noticed at once.
    pub(super) async fn solve(&self, graph: &Graph, targets: &[VertexId]) -> Outcome {
        let events = Arc::new(Recorder::default());
        let mut request = self.request(graph, targets);
        request.events = events.clone();
        let result = in_time(self.solver.solve(request)).await;
        Outcome { result, events }
    }

    /// A build that must succeed, without a rule broken; what ran in it, in order.
    pub(super) async fn build(&self, graph: &Graph, target: VertexId) -> Vec<String> {
        self.world.forget_runs();
        let outcome = self.solve(graph, &[target]).await;
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
        self.assert_lawful();
        self.world.runs()
    }

    pub(super) fn assert_lawful(&self) {
        assert_eq!(self.world.violations(), Vec::<String>::new());
    }
}

/// Fails when `work` does not end.
pub(super) async fn in_time<V>(work: impl Future<Output = V>) -> V {
    tokio::time::timeout(Duration::from_secs(600), work)
        .await
        .expect("a deadlock")
}

/// A lock that "processes" in one process share.
#[derive(Default)]
pub(super) struct SharedLock(Mutex<HashMap<CacheKey, Arc<AsyncMutex<()>>>>);

impl SharedLock {
    fn of(&self, key: &CacheKey) -> Arc<AsyncMutex<()>> {
        self.0.lock().unwrap().entry(*key).or_default().clone()
    }
}

#[async_trait]
impl FlightLock for SharedLock {
    async fn try_lock(&self, key: &CacheKey) -> Result<Locking, BoxError> {
        let lock = self.of(key).try_lock_owned();
        Ok(lock.map_or(Locking::Taken, |guard| {
            Locking::Locked(FlightGuard::new(guard))
        }))
    }

    async fn released(&self, key: &CacheKey) -> Result<(), BoxError> {
        let lock = self.of(key);
        // As with locks of files: who waits holds nothing, not even for a moment. Those who queue
        // for it can hand it to one another for ever.
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
