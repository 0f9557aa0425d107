//! A build, from the request to its outputs.

mod agent;
mod assemble;
mod cache;
mod cache_mount;
mod content;
mod early;
mod entitlements;
mod epoch;
mod exec;
mod executor;
mod export;
mod file;
mod inputs;
mod last_resolved;
mod lines;
mod lock;
mod locks;
mod made;
mod main_context;
mod remote_cache;
mod resolver;
mod select;
mod squash;
mod work;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_dockerfile::diagnostic::Diagnostic;
use longshore_dockerfile::{Parsed, parse_bytes};
use longshore_frontend::{
    BuildOptions, CheckReport, LowerError, Lowered, Outline, Problem, Targets,
};
use longshore_graph::{Graph, Input, Op, VertexId};
use longshore_oci::Descriptor;
use longshore_solver::{CacheTiers, EventSink, Limits, SolveError, SolveRequest, Solver};
use tokio_util::sync::CancellationToken;

pub(crate) use assemble::{ImageLayer, assemble};
pub(crate) use cache_mount::CacheMounts;
pub use exec::CommandFailed;
pub(crate) use locks::{LockedFile, sweep as sweep_locks};
pub use made::{LayerSteps, MadeStep, SeenInputs};
pub(crate) use remote_cache::cache_client;
pub use remote_cache::{CacheMode, CachePlace, CacheSource, CacheTarget};

use self::epoch::BuildEpoch;
use self::executor::BuildExecutor;
use self::inputs::Inputs;
use self::remote_cache::{MountImport, Reader};
use self::resolver::Resolver;
use self::work::Work;
use crate::builds::{BuildHistory, Recording};
use crate::lock_file::{Held, LockPlace};
use crate::progress::{ProgressEvent, ProgressSink};
use crate::remote::Remotes;
use crate::space::SpaceKeeper;
use crate::tree::Tree;
use crate::{BuildRequest, Engine, EngineError, LockError, LockUse};

pub(crate) use exec::{extra_hosts, rlimit};

/// Where the locks of steps are, below the state root's cache.
pub(crate) const FLIGHTS: &str = "flights";
/// How long what a build brought is kept for it, without a sign of life.
const LEASE: Duration = Duration::from_secs(6 * 3600);

/// The build argument that makes builds reproducible.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// A Dockerfile that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its name for messages.
    pub name: String,
    /// What it says.
    pub parsed: Parsed,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct BuildOutcome {
    /// The image's manifest or index, where an output made one.
    pub image: Option<Descriptor>,
    /// The image's configuration, of a single platform.
    pub config: Option<Descriptor>,
    /// What the Dockerfile might want to change.
    pub warnings: Vec<Diagnostic>,
    /// The Dockerfile, to show the warnings in.
    pub dockerfile: Arc<Loaded>,
    /// Which steps made the layers.
    pub layers: Vec<LayerSteps>,
    /// What was read.
    pub inputs: SeenInputs,
}

/// Why a build failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The Dockerfile is wrong: all that is wrong with its text.
    Dockerfile {
        /// The Dockerfile.
        dockerfile: Arc<Loaded>,
        /// The errors, in order.
        errors: Vec<Diagnostic>,
    },
    /// The Dockerfile cannot be built as it was asked for.
    Lower {
        /// The Dockerfile.
        dockerfile: Arc<Loaded>,
        /// Why not, and where.
        error: Box<LowerError>,
    },
    /// A step failed.
    Step {
        /// The Dockerfile.
        dockerfile: Arc<Loaded>,
        /// The step's first and last line.
        lines: Option<(u32, u32)>,
        /// The step's display name.
        name: String,
        /// Why.
        error: SolveError,
    },
    /// An input is not what the lock file says, or not in it.
    Locked {
        /// The Dockerfile.
        dockerfile: Arc<Loaded>,
        /// The lines that name it.
        lines: Option<(u32, u32)>,
        /// Why.
        error: Box<LockError>,
    },
    /// Something else failed.
    Engine(EngineError),
    /// It was asked to stop.
    Canceled,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dockerfile { errors, .. } => match errors.first() {
                Some(first) => f.write_str(&first.buildkit_text()),
                None => f.write_str("the Dockerfile has errors"),
            },
            Self::Lower { error, .. } => write!(f, "{error}"),
            Self::Step { error, .. } => write!(f, "{error}"),
            Self::Locked { error, .. } => write!(f, "{error}"),
            Self::Engine(error) => write!(f, "{error}"),
            Self::Canceled => f.write_str("the build was canceled"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lower { error, .. } => Some(error),
            Self::Step { error, .. } => std::error::Error::source(error),
            Self::Locked { error, .. } => Some(error),
            Self::Engine(error) => Some(error),
            Self::Dockerfile { .. } | Self::Canceled => None,
        }
    }
}

impl<E: Into<EngineError>> From<E> for BuildError {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

impl BuildError {
    /// The command that failed, where that is why.
    pub fn command(&self) -> Option<&CommandFailed> {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(failed) = error.downcast_ref::<CommandFailed>() {
                return Some(failed);
            }
            source = error.source();
        }
        None
    }
}

/// A build that was read and whose names can be looked up.
struct Prepared {
    inputs: Inputs,
    options: BuildOptions,
    dockerfile: Arc<Loaded>,
    resolver: Resolver,
    held: Arc<Held>,
}

impl Engine {
    /// Builds what `request` says and sends it where it says.
    ///
    /// # Errors
    /// See [`BuildError`]; no name is given and no file appears then.
    pub async fn build(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn ProgressSink>,
        cancel: CancellationToken,
    ) -> Result<BuildOutcome, BuildError> {
        let space = SpaceKeeper::new(self.clone(), self.space_limits(), Arc::clone(&progress));
        self.running_builds().fetch_add(1, Ordering::SeqCst);
        let ended = self.build_within(request, progress, cancel, &space).await;
        self.running_builds().fetch_sub(1, Ordering::SeqCst);
        space.settle().await;
        ended
    }

    async fn build_within(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn ProgressSink>,
        cancel: CancellationToken,
        space: &Arc<SpaceKeeper>,
    ) -> Result<BuildOutcome, BuildError> {
        let _watch = space.watch();
        if request.history.builds == 0 {
            return self
                .build_unrecorded(request, progress, cancel, space)
                .await;
        }
        let recording = match Recording::start(self.history(), request, Arc::clone(&progress)) {
            Ok(recording) => Arc::new(recording),
            Err(error) => {
                let text = format!("warning: the build is not recorded: {error}");
                progress.emit(ProgressEvent::Note(text));
                return self
                    .build_unrecorded(request, progress, cancel, space)
                    .await;
            }
        };
        let sink = Arc::clone(&recording) as Arc<dyn ProgressSink>;
        let ended = self.build_unrecorded(request, sink, cancel, space).await;
        if let Err(error) = recording.finish(&ended) {
            let text = format!("warning: the build's history is not complete: {error}");
            progress.emit(ProgressEvent::Note(text));
        }
        ended
    }

    /// The history of builds.
    pub fn history(&self) -> BuildHistory {
        BuildHistory::new(self.root().clone())
    }

    async fn build_unrecorded(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn ProgressSink>,
        cancel: CancellationToken,
        space: &Arc<SpaceKeeper>,
    ) -> Result<BuildOutcome, BuildError> {
        let prepared = tokio::select! {
            prepared = self.prepare_build(request, &progress) => prepared?,
            () = cancel.cancelled() => return Err(BuildError::Canceled),
        };
        let Prepared {
            mut inputs,
            options,
            dockerfile,
            resolver,
            held,
        } = prepared;
        if dockerfile.parsed.has_errors() {
            let errors = dockerfile.parsed.errors().cloned().collect();
            return Err(BuildError::Dockerfile { dockerfile, errors });
        }
        // Looked up beside the images.
        let commit_time = match epoch::wants_commit(request) {
            true => tokio::spawn(resolver.commit_time.clone()),
            false => tokio::spawn(std::future::ready(None)),
        };
        let lowered = tokio::select! {
            lowered = longshore_frontend::lower(&dockerfile.parsed, &options, &resolver) => lowered,
            () = cancel.cancelled() => return Err(BuildError::Canceled),
        };
        let mut lowered = lowered.map_err(|error| lower_error(&dockerfile, error))?;
        lock::hold_sources(&dockerfile, &lowered, &resolver.remotes)?;
        export::check(request, &lowered)?;
        entitlements::check(request.entitlements, &dockerfile, &lowered)?;
        let commit_time_s = tokio::select! {
            time = commit_time => time.map_err(EngineError::from)?,
            () = cancel.cancelled() => return Err(BuildError::Canceled),
        };
        let epoch = BuildEpoch::set(request, &mut lowered, commit_time_s);
        if let Some(text) = epoch::no_time(request, epoch) {
            progress.emit(ProgressEvent::Note(text));
        }
        if let Some(seconds) = epoch.context_s {
            inputs.date_work_tree(seconds);
        }
        let lease = Arc::clone(&resolver.lease);
        let images = Arc::clone(&resolver.found);
        let remotes = Arc::clone(&resolver.remotes);
        let uploads = self.uploads();
        let readers = remote_cache::readers(self, &request.cache_from, &progress);
        let executor = Arc::new(BuildExecutor {
            engine: self.clone(),
            exported: early::exported_vertices(&lowered, request, epoch.dating, &uploads),
            early: early::EarlyExports::default(),
            epoch_s: epoch.of_copies(),
            locals: inputs.locals,
            images,
            lease: Arc::clone(&lease),
            remotes,
            secrets: request.secrets.clone(),
            ssh_agents: request.ssh_agents.clone(),
            step_timeout: request.step_timeout,
            bases: Mutex::default(),
            mounts: MountImport::new(self, &readers, &progress),
            kept: (!request.cache_to.is_empty()).then(Mutex::default),
            trusts_caches: AtomicBool::new(true),
            held: Mutex::default(),
            space: Arc::clone(space),
            seen: Mutex::default(),
        });
        let work = Work {
            engine: self,
            request,
            dockerfile: &dockerfile,
            lowered: &lowered,
            dating: epoch.dating,
            project: inputs.place.project(),
            executor: &executor,
            readers: &readers,
            uploads: &uploads,
            lease: &lease,
            progress: &progress,
            cancel: &cancel,
        };
        let done = work.run().await;
        // What a build that failed was still sending is of no use.
        executor.early.stop();
        let exported = done?;
        if request.lock == LockUse::Write {
            let remotes = &executor.remotes;
            lock::write_lock(&inputs.lock, &lowered.graph, remotes, &held).await?;
        }
        let elsewhere = inputs.place.identity(&executor.remotes).await?;
        let outcome = BuildOutcome {
            image: exported
                .as_ref()
                .map(|exported| exported.descriptor.clone()),
            config: exported.and_then(|exported| exported.config),
            layers: made::layer_steps(&lowered, request.squash),
            warnings: lowered.diagnostics,
            inputs: made::seen_inputs(&dockerfile, &executor, &held, elsewhere),
            dockerfile: Arc::clone(&dockerfile),
        };
        Ok(outcome)
    }

    /// Checks the Dockerfile and builds nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn check(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<(Arc<Loaded>, CheckReport), BuildError> {
        let prepared = self.prepare_build(request, &progress).await?;
        let report = longshore_frontend::check(
            &prepared.dockerfile.parsed,
            &prepared.options,
            &prepared.resolver,
        )
        .await;
        Ok((prepared.dockerfile, report))
    }

    /// What the target can be given.
    ///
    /// # Errors
    /// When the Dockerfile cannot be read or is wrong.
    pub async fn outline(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Outline, BuildError> {
        let prepared = self.prepare_build(request, &progress).await?;
        longshore_frontend::outline(
            &prepared.dockerfile.parsed,
            &prepared.options,
            &prepared.resolver,
        )
        .await
        .map_err(|error| lower_error(&prepared.dockerfile, error))
    }

    /// Which targets there are.
    ///
    /// # Errors
    /// When the Dockerfile cannot be read or is wrong.
    pub async fn targets(
        &self,
        request: &BuildRequest,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Targets, BuildError> {
        let prepared = self.prepare_build(request, &progress).await?;
        longshore_frontend::targets(&prepared.dockerfile.parsed)
            .map_err(|error| lower_error(&prepared.dockerfile, error))
    }

    async fn prepare_build(
        &self,
        request: &BuildRequest,
        progress: &Arc<dyn ProgressSink>,
    ) -> Result<Prepared, BuildError> {
        let hold = |place: &LockPlace| lock::held_for(&request.lock, place);
        self.prepare(request, progress, hold).await
    }

    async fn prepare(
        &self,
        request: &BuildRequest,
        progress: &Arc<dyn ProgressSink>,
        hold: impl FnOnce(&LockPlace) -> Result<Held, EngineError>,
    ) -> Result<Prepared, BuildError> {
        let lease = Arc::new(self.root().leases().start("build", LEASE));
        let remotes = Arc::new(Remotes::new(self.clone(), request, Arc::clone(&lease)));
        let inputs = Inputs::read(self, request, &remotes).await?;
        let dockerfile = Arc::new(Loaded {
            name: inputs.dockerfile_name.clone(),
            parsed: parse_bytes(&inputs.dockerfile),
        });
        let held = Arc::new(hold(&inputs.lock)?);
        lock::hold_syntax(&dockerfile, &held)?;
        remotes.hold(Arc::clone(&held));
        let resolver = Resolver {
            engine: self.clone(),
            found: Arc::new(Mutex::new(HashMap::new())),
            lease,
            commit_time: inputs.commit_time(self, &remotes),
            remotes,
            held: Arc::clone(&held),
            progress: Arc::clone(progress),
        };
        let options = inputs.options(request)?;
        Ok(Prepared {
            inputs,
            options,
            dockerfile,
            resolver,
            held,
        })
    }

    async fn solve(
        &self,
        work: &Work<'_>,
        events: Arc<dyn EventSink>,
    ) -> Result<Vec<Tree>, BuildError> {
        let Work {
            dockerfile,
            lowered,
            executor,
            ..
        } = *work;
        let graph = Arc::new(lowered.graph.clone());
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut cache = CacheTiers::local(Arc::new(cache::StoredCache::new(self.root().clone())));
        if executor.trusts_caches.load(Ordering::Relaxed) {
            cache.remotes = work.readers.iter().map(Reader::tier).collect();
        }
        let locks = Arc::new(locks::FileLocks::new(self.cache_directory(FLIGHTS)));
        let limits = Limits::new(work.request.jobs, processors);
        let solver: Solver<Tree> = Solver::among(self.places(), cache, locks, limits);
        let targets = lowered
            .platforms
            .iter()
            .map(|platform| Input::first(platform.target))
            .collect();
        let solved = solver.solve(SolveRequest {
            executor: Arc::clone(executor) as Arc<dyn longshore_solver::Executor<Tree = Tree>>,
            graph: Arc::clone(&graph),
            targets,
            scope: format!("{} {}", work.project, dockerfile.name),
            events,
            cancel: work.cancel.clone(),
        });
        solved.await.map_err(|error| match error {
            SolveError::Canceled => BuildError::Canceled,
            error => step_error(dockerfile, lowered, error),
        })
    }
}

fn step_error(dockerfile: &Arc<Loaded>, lowered: &Lowered, error: SolveError) -> BuildError {
    let vertex = error.vertex().map(|id| lowered.graph.vertex(id));
    BuildError::Step {
        dockerfile: Arc::clone(dockerfile),
        lines: error.vertex().and_then(|id| lines::lines_of(lowered, id)),
        name: vertex
            .map(|vertex| vertex.meta.name.clone())
            .unwrap_or_default(),
        error,
    }
}

fn lower_error(dockerfile: &Arc<Loaded>, error: LowerError) -> BuildError {
    let dockerfile = Arc::clone(dockerfile);
    if let Problem::Syntax(_) = *error.problem {
        let errors = dockerfile.parsed.errors().cloned().collect();
        return BuildError::Dockerfile { dockerfile, errors };
    }
    BuildError::Lower {
        dockerfile,
        error: Box::new(error),
    }
}

/// The vertices whose layers a vertex's result contains.
fn layers_below(graph: &Graph, id: VertexId) -> Vec<VertexId> {
    let vertex = graph.vertex(id);
    match &vertex.op {
        Op::Source(_) | Op::Diff => Vec::new(),
        Op::Merge => vertex.inputs.iter().map(|input| input.vertex).collect(),
        Op::Exec(exec) => {
            let root = exec
                .mounts
                .iter()
                .find(|mount| mount.target == "/")
                .and_then(|mount| mount.input);
            root.and_then(|at| vertex.inputs.get(at))
                .map(|input| input.vertex)
                .into_iter()
                .collect()
        }
        Op::File(file) => {
            let base = file::base_input(file);
            base.and_then(|at| vertex.inputs.get(at))
                .map(|input| input.vertex)
                .into_iter()
                .collect()
        }
    }
}
