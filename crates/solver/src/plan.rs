//! What is known of a solve before anything runs: pins and definition keys.
//!
//! Everything is computed bottom-up in the graph's arena, without recursion, so that
//! deep graphs are as good as wide ones.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_graph::{Input, Op, Selection, Vertex, VertexId};

use crate::key::{self, InputDefinition};
use crate::{
    CacheKey, ContentDigest, Executor, Group, ResourceClass, SolveError, SolveRequest, StepContext,
};

/// How many sources are pinned at the same time.
const PINS_CONCURRENT_MAX: usize = 16;

/// What is known of each vertex before anything runs; by its place in the graph.
pub(crate) struct Plan {
    vertices: Vec<Option<Planned>>,
}

/// What is known of one needed vertex.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// The definition key; a source has none.
    pub(crate) definition: Option<CacheKey>,
    /// It must run, or something below it must: only the content key may be asked for.
    pub(crate) fresh: bool,
    /// What it uses while it runs.
    pub(crate) class: ResourceClass,
    /// How many vertices of its kind stand before it in its stage.
    place: usize,
}

type Pins = HashMap<(VertexId, Selection), ContentDigest>;

impl Plan {
    /// Pins what the targets need and computes the rest from it.
    pub(crate) async fn new<T: Clone + Send + Sync + 'static>(
        request: &SolveRequest<T>,
    ) -> Result<Self, PinFailure> {
        let targets: Vec<_> = request.targets.iter().map(|target| target.vertex).collect();
        let needed = request.graph.reachable(&targets);
        let pins = pin(request, &needed).await?;
        Ok(Self::with_pins(request, &needed, &pins))
    }

    fn with_pins<T>(request: &SolveRequest<T>, needed: &[VertexId], pins: &Pins) -> Self
    where
        T: Clone + Send + Sync + 'static,
    {
        let graph = &request.graph;
        let executor = &*request.executor;
        let mut plan = Self {
            vertices: vec![None; graph.len()],
        };
        let mut places = HashMap::new();
        for &id in needed {
            let vertex = graph.vertex(id);
            let kind = (vertex.meta.stage.as_deref(), key::operation(&vertex.op));
            let place = places.entry(kind).or_insert(0);
            let planned = plan.vertex(executor, id, vertex, pins, *place);
            *place += 1;
            plan.vertices[id.index()] = Some(planned);
        }
        plan
    }

    fn vertex<T: Clone + Send + Sync + 'static>(
        &self,
        executor: &dyn Executor<Tree = T>,
        id: VertexId,
        vertex: &Vertex,
        pins: &Pins,
        place: usize,
    ) -> Planned {
        let class = executor.class(vertex);
        let mut planned = Planned {
            definition: None,
            fresh: false,
            class,
            place,
        };
        if matches!(vertex.op, Op::Source(_)) {
            return planned;
        }
        let of = |(index, input)| self.input_definition(vertex, index, input, pins);
        let inputs: Option<Vec<_>> = vertex.inputs.iter().enumerate().map(of).collect();
        debug_assert!(inputs.is_some(), "vertex {} stands before its inputs", id.0);
        let step = key::step_fields(vertex, &executor.key_extras(vertex));
        planned.definition = inputs.map(|inputs| key::definition_key(&step, vertex, &inputs));
        let below = vertex.inputs.iter().map(|input| self.get(input.vertex));
        planned.fresh = vertex.meta.ignore_cache || below.flatten().any(|below| below.fresh);
        planned
    }

    fn input_definition(
        &self,
        vertex: &Vertex,
        index: usize,
        input: &Input,
        pins: &Pins,
    ) -> Option<InputDefinition> {
        if let Some(key) = self.get(input.vertex)?.definition {
            let output = input.output;
            return Some(InputDefinition::Step { key, output });
        }
        let pin = pins.get(&(input.vertex, vertex.selection(index)))?;
        Some(InputDefinition::Pinned(*pin))
    }

    /// The vertices that the targets need, inputs before what needs them.
    pub(crate) fn needed(&self) -> impl DoubleEndedIterator<Item = (VertexId, &Planned)> {
        let all = self.vertices.iter().enumerate();
        all.filter_map(|(index, planned)| {
            Some((VertexId(u32::try_from(index).ok()?), planned.as_ref()?))
        })
    }

    /// What is known of a vertex; `None` where no target needs it.
    pub(crate) fn get(&self, id: VertexId) -> Option<&Planned> {
        self.vertices.get(id.index())?.as_ref()
    }

    /// The definition keys of what the targets need.
    pub(crate) fn definitions(&self) -> Vec<(VertexId, CacheKey)> {
        self.needed()
            .filter_map(|(id, planned)| Some((id, planned.definition?)))
            .collect()
    }

    /// How many vertices the targets need.
    pub(crate) fn len(&self) -> usize {
        self.vertices.iter().flatten().count()
    }
}

impl Planned {
    /// Where traces of the same step of other builds are found.
    pub(crate) fn groups(&self, scope: &str, vertex: &Vertex) -> Vec<Group> {
        let stage = vertex.meta.stage.as_deref().unwrap_or("");
        let text = without_counter(&vertex.meta.name);
        let kind = key::operation(&vertex.op);
        vec![
            key::group_by_text(scope, stage, text),
            key::group_by_place(scope, stage, kind, self.place),
        ]
    }
}

/// A display name without the `[stage 2/5]` in front, which changes with every step that
/// is added anywhere in the stage.
fn without_counter(name: &str) -> &str {
    match name
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((_, text)) => text,
        None => name,
    }
}

/// A source that could not be pinned.
pub(crate) struct PinFailure {
    pub(crate) vertex: VertexId,
    pub(crate) error: SolveError,
}

/// Pins each selection of each source once.
async fn pin<T: Clone + Send + Sync + 'static>(
    request: &SolveRequest<T>,
    needed: &[VertexId],
) -> Result<Pins, PinFailure> {
    let mut wanted = HashMap::new();
    let mut order = Vec::new();
    for &id in needed {
        let vertex = request.graph.vertex(id);
        let takes = !matches!(vertex.op, Op::Source(_));
        for (index, input) in vertex.inputs.iter().enumerate().filter(|_| takes) {
            if matches!(request.graph.vertex(input.vertex).op, Op::Source(_)) {
                let what = (input.vertex, vertex.selection(index));
                wanted.entry(what.clone()).or_insert_with(|| {
                    order.push((what, id));
                });
            }
        }
    }
    let pins = order
        .into_iter()
        .map(|(what, by)| pin_one(request, what, by));
    stream::iter(pins)
        .buffer_unordered(PINS_CONCURRENT_MAX)
        .try_collect()
        .await
}

async fn pin_one<T: Clone + Send + Sync + 'static>(
    request: &SolveRequest<T>,
    (source_vertex, selection): (VertexId, Selection),
    by: VertexId,
) -> Result<((VertexId, Selection), ContentDigest), PinFailure> {
    let vertex = request.graph.vertex(source_vertex);
    let ctx = StepContext {
        vertex: by,
        cancel: request.cancel.clone(),
        events: request.events.clone(),
    };
    let Op::Source(source) = &vertex.op else {
        unreachable!("only sources are pinned")
    };
    match request.executor.pin(&ctx, source, &selection).await {
        Ok(digest) => Ok(((source_vertex, selection), digest)),
        Err(error) => Err(PinFailure {
            vertex: by,
            error: SolveError::Pin {
                source_vertex,
                source_name: vertex.meta.name.clone(),
                vertex: by,
                name: request.graph.vertex(by).meta.name.clone(),
                source: Arc::from(error),
            },
        }),
    }
}
