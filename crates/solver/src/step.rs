//! One vertex: asked for by its definition key, then by its content key, then run.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_graph::{Op, Selection, Vertex, VertexId};
use tokio::time::Instant;

use crate::build::{Build, Stop};
use crate::error::with_causes;
use crate::flight::{Landed, Outputs, Recorded, Turn};
use crate::permit::Permit;
use crate::slot::Publisher;
use crate::tiers::{Answer, Tier};
use crate::twins::Done;
use crate::{
    CacheKey, CacheRecord, ContentDigest, Event, HitKey, KeyFields, Locking, MissReason, Origin,
    PathDigest, RecordedOutput, SolveError, Trace, key, paths,
};

/// How many inputs of a step are hashed at the same time.
const DIGESTS_CONCURRENT_MAX: usize = 16;

/// A step whose inputs are there.
struct Step<'a, T> {
    id: VertexId,
    vertex: &'a Vertex,
    inputs: &'a [T],
    definition: Option<CacheKey>,
    key: CacheKey,
    fields: KeyFields,
    /// Whether a record was found whose result is gone.
    gone: bool,
    /// Whether a cache could not answer.
    unknown: bool,
}

/// What the caches said to a key.
enum Found<T> {
    Hit(Hit<T>),
    Miss { gone: bool, unknown: bool },
}

/// A record whose result is there.
struct Hit<T> {
    outputs: Outputs<T>,
    record: Box<CacheRecord>,
    from: Origin,
}

/// A result, and how long it took.
struct Ran<T> {
    outputs: Outputs<T>,
    duration: Duration,
}

impl<T: Clone + Send + Sync + 'static> Build<T> {
    /// Finds or makes the result of a vertex and publishes it in its slot.
    ///
    /// The parts are boxed: ten thousand tasks that wait for their inputs must not each
    /// hold room for running a step.
    pub(crate) async fn solve_vertex(
        self: &Arc<Self>,
        id: VertexId,
        slot: &Publisher<T>,
    ) -> Result<(), Stop> {
        let vertex = self.request.graph.vertex(id);
        if matches!(vertex.op, Op::Source(_)) {
            let _place = self.unless_stopped(self.place(id)).await?;
            self.go_on()?;
            let ran = Box::pin(self.execute(id, vertex, &[])).await?;
            slot.publish(ran.outputs);
            return Ok(());
        }
        let planned = self.plan.get(id).ok_or(Stop::Canceled)?;
        let (mut gone, mut unknown) = (false, false);
        if let Some(key) = planned.definition.filter(|_| !planned.fresh) {
            match Box::pin(self.unless_stopped(self.find(id, &key))).await? {
                Found::Hit(hit) => {
                    Box::pin(self.found_by_definition(id, key, hit, slot)).await;
                    return Ok(());
                }
                Found::Miss {
                    gone: g,
                    unknown: u,
                } => (gone, unknown) = (g, u),
            }
        }
        let inputs = self.inputs(vertex).await?;
        let (key, fields) = Box::pin(self.content_key(id, vertex, &inputs)).await?;
        let step = Step {
            id,
            vertex,
            inputs: &inputs,
            definition: planned.definition,
            key,
            fields,
            gone,
            unknown,
        };
        Box::pin(self.fly(step, slot)).await
    }

    async fn inputs(self: &Arc<Self>, vertex: &Vertex) -> Result<Vec<T>, Stop> {
        let below = vertex.inputs.iter().map(|input| input.vertex);
        let results = self.demand_all(below).await?;
        let output_of = |(input, outputs): (&longshore_graph::Input, Outputs<T>)| {
            let output = usize::try_from(input.output).ok()?;
            outputs.get(output).cloned()
        };
        let inputs: Option<Vec<T>> = vertex.inputs.iter().zip(results).map(output_of).collect();
        // The graph holds no input without an output, and `execute` counts what it made.
        inputs.ok_or(Stop::Canceled)
    }

    async fn content_key(
        &self,
        id: VertexId,
        vertex: &Vertex,
        inputs: &[T],
    ) -> Result<(CacheKey, KeyFields), Stop> {
        let mut digests = Vec::with_capacity(inputs.len());
        for (index, tree) in inputs.iter().enumerate() {
            digests.push(self.input_digest(id, index, tree, vertex.selection(index)));
        }
        let digests = stream::iter(digests).buffered(DIGESTS_CONCURRENT_MAX);
        let digests: Vec<_> = self.unless_stopped(digests.try_collect()).await??;
        let step = key::step_fields(vertex, &self.request.executor.key_extras(vertex));
        let (key, mut fields) = key::content_key(&step, &digests);
        key::show_images(&mut fields, &self.request.graph, vertex);
        Ok((key, fields))
    }

    async fn input_digest(
        &self,
        id: VertexId,
        index: usize,
        tree: &T,
        selection: Selection,
    ) -> Result<(Selection, ContentDigest), Stop> {
        let ctx = self.context(id);
        match self
            .request
            .executor
            .digest_of(&ctx, tree, &selection)
            .await
        {
            Ok(digest) => Ok((selection, digest)),
            Err(error) => {
                let vertex = self.request.graph.vertex(id);
                let failed = SolveError::Input {
                    vertex: id,
                    name: vertex.meta.name.clone(),
                    input_name: self.name(vertex.inputs[index].vertex),
                    source: Arc::from(error),
                };
                Err(self.failed(id, failed))
            }
        }
    }

    /// Asks one cache after the other until one has a record whose result is there.
    async fn find(&self, id: VertexId, key: &CacheKey) -> Found<T> {
        let (mut gone, mut unknown) = (false, false);
        for tier in self.cache.readers() {
            match self.cache.lookup(tier, key).await {
                Answer::Failed => unknown = true,
                Answer::Known(None) => {}
                Answer::Known(Some(record)) => match self.restore(id, tier, &record).await {
                    Some(outputs) => {
                        let from = tier.origin.clone();
                        return Found::Hit(Hit {
                            outputs,
                            record: Box::new(record),
                            from,
                        });
                    }
                    None => gone = true,
                },
            }
        }
        Found::Miss { gone, unknown }
    }

    async fn restore(&self, id: VertexId, tier: &Tier, record: &CacheRecord) -> Option<Outputs<T>> {
        let expected = self.request.graph.vertex(id).output_count();
        if usize::try_from(expected) != Ok(record.outputs.len()) {
            return None;
        }
        let ctx = self.context(id);
        let mut outputs = Vec::with_capacity(record.outputs.len());
        for output in &record.outputs {
            let restored = self
                .request
                .executor
                .restore(&ctx, &output.encoded, &tier.origin);
            match restored.await {
                Ok(tree) => outputs.push(tree?),
                Err(error) => {
                    self.cache
                        .trouble(&tier.origin, "restore", with_causes(&*error));
                    return None;
                }
            }
        }
        Some(outputs.into())
    }

    async fn found_by_definition(
        &self,
        id: VertexId,
        key: CacheKey,
        hit: Hit<T>,
        slot: &Publisher<T>,
    ) {
        self.emit(Event::Cached {
            vertex: id,
            key,
            by: HitKey::Definition,
            from: hit.from.clone(),
        });
        slot.publish(hit.outputs);
        if hit.from != Origin::Local {
            self.cache.record_locally(&[key], &hit.record).await;
        }
    }

    /// Takes what this build has done under the same content key, or does it.
    async fn fly(&self, mut step: Step<'_, T>, slot: &Publisher<T>) -> Result<(), Stop> {
        let twin = self.twins.of(step.key);
        let mut done = if let Ok(free) = twin.try_lock() {
            free
        } else {
            self.emit(Event::Waiting { vertex: step.id });
            self.unless_stopped(twin.lock()).await?
        };
        let must_run = step.vertex.meta.ignore_cache;
        if let Some(done) = done.as_ref().filter(|done| done.ran || !must_run) {
            self.follow(&step, done.landed.clone(), slot).await;
            return Ok(());
        }
        *done = Some(if must_run {
            let place = self.unless_stopped(self.place(step.id)).await?;
            self.run_step(&step, place, slot).await?
        } else {
            self.share(&mut step, slot).await?
        });
        Ok(())
    }

    /// Leads the flight for the content key, or takes what it lands with.
    async fn share(&self, step: &mut Step<'_, T>, slot: &Publisher<T>) -> Result<Done<T>, Stop> {
        let flight = self.shared.flights.join(step.key);
        self.keep(flight.clone());
        let mut told = false;
        loop {
            match flight.turn() {
                Turn::Lead(lead) => {
                    let done = self.lead(step, slot).await?;
                    lead.land(done.landed.clone());
                    return Ok(done);
                }
                Turn::Landed(landed) => {
                    self.follow(step, landed.clone(), slot).await;
                    let ran = false;
                    return Ok(Done { landed, ran });
                }
                Turn::Wait => {
                    if !std::mem::replace(&mut told, true) {
                        self.emit(Event::Waiting { vertex: step.id });
                    }
                    self.unless_stopped(flight.settled()).await?;
                }
            }
        }
    }

    /// Takes what another vertex or build made.
    async fn follow(&self, step: &Step<'_, T>, landed: Landed<T>, slot: &Publisher<T>) {
        self.emit(Event::Cached {
            vertex: step.id,
            key: step.key,
            by: HitKey::Content,
            from: Origin::InFlight,
        });
        slot.publish(landed.outputs);
        if let Some(recorded) = landed.recorded {
            let files = self.describe(step).await;
            let record = self.record_of(step, &files, &recorded);
            self.cache.record(&step.keys(), &record).await;
        }
    }

    /// Asks the caches, and runs the step when they have nothing.
    async fn lead(&self, step: &mut Step<'_, T>, slot: &Publisher<T>) -> Result<Done<T>, Stop> {
        let mut told = false;
        loop {
            if let Some(hit) = self.ask(step).await? {
                return Ok(self.found_by_content(step, hit, slot).await);
            }
            let place = self.unless_stopped(self.place(step.id)).await?;
            match self.lock(step).await? {
                Locking::None => return self.run_step(step, place, slot).await,
                Locking::Locked(_guard) => {
                    // Another process may have run it since the cache was asked.
                    return match self.ask(step).await? {
                        Some(hit) => Ok(self.found_by_content(step, hit, slot).await),
                        None => self.run_step(step, place, slot).await,
                    };
                }
                Locking::Taken => {
                    drop(place);
                    if !std::mem::replace(&mut told, true) {
                        self.emit(Event::Waiting { vertex: step.id });
                    }
                    self.released(step).await?;
                }
            }
        }
    }

    /// Runs the step in its place and records what it made.
    async fn run_step(
        &self,
        step: &Step<'_, T>,
        place: Option<Permit>,
        slot: &Publisher<T>,
    ) -> Result<Done<T>, Stop> {
        let files = self.unless_stopped(self.describe(step)).await?;
        let reason = self.unless_stopped(self.reason(step, &files)).await?;
        self.go_on()?;
        self.emit(Event::Missed {
            vertex: step.id,
            key: step.key,
            reason,
            fields: step.fields.clone(),
        });
        let ran = self.execute(step.id, step.vertex, step.inputs).await?;
        slot.publish(ran.outputs.clone());
        let recorded = self.recorded(step.id, &ran).await;
        if let Some(recorded) = &recorded {
            let record = self.record_of(step, &files, recorded);
            self.cache.record_locally(&step.keys(), &record).await;
            // Not before: what follows this step asks for a place meanwhile, and may
            // matter more than what already waits. Not later: other machines are slow.
            drop(place);
            self.cache.record_remotely(&step.keys(), &record).await;
        }
        let outputs = ran.outputs;
        Ok(Done {
            landed: Landed { outputs, recorded },
            ran: true,
        })
    }

    /// Asks the caches for the content key.
    async fn ask(&self, step: &mut Step<'_, T>) -> Result<Option<Hit<T>>, Stop> {
        match self.unless_stopped(self.find(step.id, &step.key)).await? {
            Found::Hit(hit) => Ok(Some(hit)),
            Found::Miss { gone, unknown } => {
                step.gone |= gone;
                step.unknown |= unknown;
                Ok(None)
            }
        }
    }

    async fn lock(&self, step: &Step<'_, T>) -> Result<Locking, Stop> {
        let lock = self.shared.lock.try_lock(&step.key);
        Ok(self.unless_stopped(lock).await?.unwrap_or_else(|error| {
            self.lock_trouble(&*error);
            Locking::None
        }))
    }

    async fn released(&self, step: &Step<'_, T>) -> Result<(), Stop> {
        let released = self.shared.lock.released(&step.key);
        if let Err(error) = self.unless_stopped(released).await? {
            self.lock_trouble(&*error);
        }
        Ok(())
    }

    fn lock_trouble(&self, error: &(dyn std::error::Error + 'static)) {
        self.cache
            .trouble(&Origin::Local, "lock", with_causes(error));
    }

    async fn found_by_content(
        &self,
        step: &Step<'_, T>,
        hit: Hit<T>,
        slot: &Publisher<T>,
    ) -> Done<T> {
        self.emit(Event::Cached {
            vertex: step.id,
            key: step.key,
            by: HitKey::Content,
            from: hit.from.clone(),
        });
        slot.publish(hit.outputs.clone());
        let files = self.describe(step).await;
        let recorded = Recorded {
            outputs: hit.record.outputs.into(),
            cost_ms: hit.record.cost_ms,
        };
        let record = self.record_of(step, &files, &recorded);
        self.cache.record(&step.keys(), &record).await;
        Done {
            landed: Landed {
                outputs: hit.outputs,
                recorded: Some(recorded),
            },
            ran: false,
        }
    }

    /// Does the work of a vertex that has its place, and reports how it went.
    async fn execute(&self, id: VertexId, vertex: &Vertex, inputs: &[T]) -> Result<Ran<T>, Stop> {
        self.emit(Event::Started { vertex: id });
        let began = Instant::now();
        let ctx = self.context(id);
        let result = self
            .wind_down(self.request.executor.execute(&ctx, vertex, inputs))
            .await;
        let duration = began.elapsed();
        match result {
            Some(Ok(outputs)) => {
                self.count_outputs(id, vertex, outputs.len())?;
                self.emit(Event::Finished {
                    vertex: id,
                    duration,
                });
                let outputs = outputs.into();
                Ok(Ran { outputs, duration })
            }
            Some(Err(error)) if !self.stop.is_cancelled() => {
                let failed = SolveError::Step {
                    vertex: id,
                    name: vertex.meta.name.clone(),
                    source: Arc::from(error),
                };
                Err(self.failed(id, failed))
            }
            Some(Err(_)) | None => {
                self.emit(Event::Canceled { vertex: id });
                Err(Stop::Canceled)
            }
        }
    }

    /// Waits for `work`, after the build stopped only for as long as it may take to wind
    /// down.
    async fn wind_down<V>(&self, work: impl Future<Output = V>) -> Option<V> {
        let mut work = std::pin::pin!(work);
        if let Some(done) = self.stop.run_until_cancelled(work.as_mut()).await {
            return Some(done);
        }
        let grace = self.shared.limits.cancel_grace;
        tokio::time::timeout(grace, work).await.ok()
    }

    fn count_outputs(&self, id: VertexId, vertex: &Vertex, found: usize) -> Result<(), Stop> {
        let expected = usize::try_from(vertex.output_count()).unwrap_or(usize::MAX);
        if found == expected {
            return Ok(());
        }
        let failed = SolveError::Outputs {
            vertex: id,
            name: vertex.meta.name.clone(),
            expected,
            found,
        };
        Err(self.failed(id, failed))
    }

    fn failed(&self, vertex: VertexId, error: SolveError) -> Stop {
        self.emit(Event::Failed {
            vertex,
            error: with_causes(&error),
        });
        Stop::Failed(Box::new(error))
    }

    /// Makes durable what a step made. Nothing stops this, nor what records it: what was
    /// done is not to be redone.
    async fn recorded(&self, id: VertexId, ran: &Ran<T>) -> Option<Recorded> {
        let mut outputs = Vec::with_capacity(ran.outputs.len());
        for tree in &*ran.outputs {
            match self.recorded_output(id, tree).await {
                Ok(Some(output)) => outputs.push(output),
                Ok(None) => return None,
                Err(error) => {
                    let error = with_causes(&*error);
                    self.cache.trouble(&Origin::Local, "encode", error);
                    return None;
                }
            }
        }
        Some(Recorded {
            outputs: outputs.into(),
            cost_ms: u64::try_from(ran.duration.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn recorded_output(
        &self,
        id: VertexId,
        tree: &T,
    ) -> Result<Option<RecordedOutput>, crate::BoxError> {
        let ctx = self.context(id);
        let executor = &self.request.executor;
        let Some(encoded) = executor.encode(&ctx, tree).await? else {
            return Ok(None);
        };
        let identity = executor.digest_of(&ctx, tree, &Selection::Identity).await?;
        Ok(Some(RecordedOutput { identity, encoded }))
    }

    fn record_of(
        &self,
        step: &Step<'_, T>,
        files: &[Vec<PathDigest>],
        recorded: &Recorded,
    ) -> CacheRecord {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        CacheRecord {
            trace: Trace {
                step: step.vertex.meta.name.clone(),
                key: step.key,
                groups: self.groups(step),
                fields: step.fields.clone(),
                paths: files.iter().map(|files| paths::recorded(files)).collect(),
                created_s: since_1970.map_or(0, |since| since.as_secs()),
            },
            outputs: recorded.outputs.to_vec(),
            cost_ms: recorded.cost_ms,
        }
    }

    fn groups(&self, step: &Step<'_, T>) -> Vec<crate::Group> {
        let planned = self.plan.get(step.id);
        planned.map_or_else(Vec::new, |planned| {
            planned.groups(&self.request.scope, step.vertex)
        })
    }

    /// The files that are selected of each input that counts by content.
    async fn describe(&self, step: &Step<'_, T>) -> Vec<Vec<PathDigest>> {
        let ctx = self.context(step.id);
        let mut files = Vec::with_capacity(step.inputs.len());
        for (index, tree) in step.inputs.iter().enumerate() {
            let selection = step.vertex.selection(index);
            files.push(match selection {
                Selection::Identity => Vec::new(),
                Selection::Content(_) => {
                    let executor = &self.request.executor;
                    executor.describe(&ctx, tree, &selection).await
                }
            });
        }
        files
    }

    /// Why the step has to run.
    async fn reason(&self, step: &Step<'_, T>, files: &[Vec<PathDigest>]) -> MissReason {
        if step.vertex.meta.ignore_cache {
            return MissReason::IgnoreCache;
        }
        if step.gone {
            return MissReason::Gone;
        }
        let traces = self.cache.nearest(&self.groups(step)).await;
        let name_of = |index: usize| {
            let vertex = step.vertex.inputs[index].vertex;
            (vertex, self.name(vertex))
        };
        let compared = MissReason::compare(&traces, step.key, &step.fields, files, &name_of);
        match compared {
            MissReason::FirstTime | MissReason::Pruned if step.unknown => MissReason::CacheFailed,
            reason => reason,
        }
    }
}

impl<T> Step<'_, T> {
    /// The keys that the step's result is found by.
    fn keys(&self) -> Vec<CacheKey> {
        std::iter::once(self.key).chain(self.definition).collect()
    }
}
