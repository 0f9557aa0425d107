//! A build whose graph is known: solved, sent where it should go, and remembered.
//!
//! Where a build cache elsewhere promised a result and does not keep its word, the work is
//! done once more without counting on such caches: what was done already is found in this
//! machine's own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use longshore_content::Lease;
use longshore_frontend::Lowered;
use longshore_graph::{Op, VertexId};
use tokio_util::sync::CancellationToken;

use super::cache_mount::MountSpec;
use super::executor::BuildExecutor;
use super::export::{Exported, Exporter, PlatformResult};
use super::remote_cache::{CacheExport, CacheTarget, Plans, Reader};
use super::squash::{squash, squash_history};
use super::{BuildError, Loaded, layers_below};
use crate::layer::{Dating, Epoch};
use crate::progress::{GraphEvents, PlannedStep, ProgressEvent, ProgressSink};
use crate::upload::Uploads;
use crate::{BuildRequest, Engine, EngineError, with_causes};

/// What a build is made of once its graph is known.
pub(super) struct Work<'a> {
    pub(super) engine: &'a Engine,
    pub(super) request: &'a BuildRequest,
    pub(super) dockerfile: &'a Arc<Loaded>,
    pub(super) lowered: &'a Lowered,
    pub(super) dating: Dating,
    /// What tells the context from other projects' on every machine.
    pub(super) project: String,
    pub(super) executor: &'a Arc<BuildExecutor>,
    pub(super) readers: &'a [Reader],
    pub(super) uploads: &'a Uploads,
    pub(super) lease: &'a Lease,
    pub(super) progress: &'a Arc<dyn ProgressSink>,
    pub(super) cancel: &'a CancellationToken,
}

impl Work<'_> {
    /// Does it; the last output that made an image.
    pub(super) async fn run(&self) -> Result<Option<Exported>, BuildError> {
        let graph = Arc::new(self.lowered.graph.clone());
        self.progress.emit(ProgressEvent::Planned {
            steps: self.planned(),
        });
        let events = GraphEvents::new(Arc::clone(self.progress), &graph);
        let plans = Arc::new(Plans::new(Arc::new(events)));
        let mut done = self.solve_and_send(&plans).await;
        if done.is_err() && !self.cancel.is_cancelled() && self.was_let_down() {
            done = self.solve_and_send(&plans).await;
        }
        let exported = done?;
        self.write_caches(&plans).await?;
        Ok(exported)
    }

    fn targets(&self) -> Vec<VertexId> {
        let platforms = self.lowered.platforms.iter();
        platforms.map(|platform| platform.target).collect()
    }

    /// The steps that the targets stand on.
    fn planned(&self) -> Vec<PlannedStep> {
        let (graph, targets) = (&self.lowered.graph, self.targets());
        let of = |id: VertexId| PlannedStep {
            id: u64::from(id.0),
            name: graph.vertex(id).meta.name.clone(),
            source: matches!(graph.vertex(id).op, Op::Source(_)),
        };
        graph.reachable(&targets).into_iter().map(of).collect()
    }

    /// Whether a cache elsewhere broke a promise; it is not counted on from then on.
    fn was_let_down(&self) -> bool {
        let lost = self.engine.layers().take_lost();
        let Some(first) = lost.first() else {
            return false;
        };
        self.note(format!(
            "warning: a build cache lost {} of the layers that it promised ({first}): going on without it",
            lost.len()
        ));
        self.executor.trusts_caches.store(false, Ordering::Relaxed);
        true
    }

    async fn solve_and_send(&self, plans: &Arc<Plans>) -> Result<Option<Exported>, BuildError> {
        let trees = self.engine.solve(self, Arc::clone(plans) as _).await;
        for local in self.executor.locals.values() {
            if let Some(tree) = local.scanned.get() {
                tree.remember();
            }
        }
        let inline_steps = self.inline_steps(plans).await?;
        let mut results = Vec::new();
        for (platform, tree) in self.lowered.platforms.iter().zip(trees?) {
            let layers = self.executor.as_layers(&tree).await;
            let layers = layers.map_err(|source| EngineError::Layer {
                layer: "result".to_owned(),
                source,
            })?;
            results.push(PlatformResult {
                lowered: platform.clone(),
                layers,
                inline_steps: inline_steps.clone(),
            });
            if self.request.squash
                && let Some(result) = results.last_mut()
            {
                squash_result(self.engine, self.lease, result).await?;
            }
        }
        let exporter = Exporter {
            engine: self.engine,
            results: &results,
            multi_platform: self.lowered.multi_platform,
            tags: &self.request.tags,
            annotations: &self.request.annotations,
            dating: self.dating,
            progress: &**self.progress,
            uploads: self.uploads,
            lease: self.lease,
        };
        let mut last = None;
        for output in &self.request.outputs {
            if let Some(exported) = exporter.export(output).await? {
                last = Some(exported);
            }
        }
        Ok(last)
    }

    /// The records that go into the image itself.
    async fn inline_steps(&self, plans: &Plans) -> Result<super::export::Steps, BuildError> {
        let is_inline = |target: &CacheTarget| target.place.is_none();
        if !self.request.cache_to.iter().any(is_inline) {
            return Ok(Arc::default());
        }
        let chain = self.chain();
        let records = plans.records(self.engine, Some(&chain)).await;
        Ok(Arc::new(records.map_err(EngineError::Cache)?))
    }

    /// The steps whose layers are in the result.
    fn chain(&self) -> HashSet<VertexId> {
        let mut chain = HashSet::new();
        let mut open = self.targets();
        while let Some(id) = open.pop() {
            if chain.insert(id) {
                open.extend(layers_below(&self.lowered.graph, id));
            }
        }
        chain
    }

    /// After the outputs: a cache that is slow does not keep the image waiting.
    async fn write_caches(&self, plans: &Plans) -> Result<(), BuildError> {
        let chain = self.chain();
        let epoch = self.lowered.platforms.iter().find_map(|made| made.epoch);
        let export = CacheExport {
            engine: self.engine,
            plans,
            chain: &chain,
            lease: self.lease,
            progress: &**self.progress,
            mounts: &MountSpec::of_graph(&self.lowered.graph, &self.targets()),
            import: &self.executor.mounts,
            epoch: epoch.map(|seconds| Epoch {
                seconds,
                dating: self.dating,
            }),
        };
        for target in &self.request.cache_to {
            let Some(place) = &target.place else { continue };
            let written = tokio::select! {
                written = export.run(target, place) => written,
                () = self.cancel.cancelled() => return Err(BuildError::Canceled),
            };
            match written {
                Err(error) if target.ignore_error => self.note(format!(
                    "warning: the cache was not exported to {place}: {}",
                    with_causes(&*error)
                )),
                Err(error) => return Err(EngineError::Cache(error).into()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn note(&self, text: String) {
        self.progress.emit(ProgressEvent::Note(text));
    }
}

/// Makes the layers above the base one.
async fn squash_result(
    engine: &Engine,
    lease: &Lease,
    result: &mut PlatformResult,
) -> Result<(), EngineError> {
    let base = result.lowered.config.rootfs.diff_ids.len();
    let before = result.layers.len();
    let layers = std::mem::take(&mut result.layers);
    result.layers = squash(engine.layers(), layers, base).await?;
    if result.layers.len() < before {
        squash_history(&mut result.lowered.config, base);
        let made = result.layers[base..].iter();
        let made: Vec<_> = made.map(|layer| layer.key.record_id()).collect();
        lease.add_layers(&made)?;
    }
    Ok(())
}
