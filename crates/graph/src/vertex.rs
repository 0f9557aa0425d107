//! The graph itself: an arena of vertices in topological order.

use serde::{Deserialize, Serialize};

use crate::{Exec, FileOp, Selection, Source};

/// A vertex's place in its graph's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VertexId(pub u32);

impl VertexId {
    /// The place as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One of the outputs of another vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Input {
    /// The vertex.
    pub vertex: VertexId,
    /// Which of its outputs.
    pub output: u32,
}

impl Input {
    /// The first (for most operations the only) output of `vertex`.
    pub const fn first(vertex: VertexId) -> Self {
        Self { vertex, output: 0 }
    }
}

/// What a vertex does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Brings content in from outside.
    Source(Source),
    /// Runs a process; input 0 is its root file system unless it starts from scratch.
    Exec(Exec),
    /// Changes files without running anything.
    File(FileOp),
    /// Lays the inputs over one another, the first lowest.
    Merge,
    /// What input 1 changes against input 0.
    Diff,
}

/// What is shown of a vertex and what scheduling may know; never part of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VertexMeta {
    /// The display name: `[build 2/5] RUN make`.
    pub name: String,
    /// Run even where the cache has a result (`--no-cache`).
    pub ignore_cache: bool,
    /// The stage that the vertex belongs to.
    pub stage: Option<String>,
    /// The first and last line in the Dockerfile, from 1.
    pub lines: Option<(u32, u32)>,
}

/// An operation, its inputs and what is shown of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// What it works on.
    pub inputs: Vec<Input>,
    /// What is shown of it.
    pub meta: VertexMeta,
}

impl Vertex {
    /// A vertex with a display name.
    pub fn new(name: impl Into<String>, op: Op, inputs: Vec<Input>) -> Self {
        Self {
            op,
            inputs,
            meta: VertexMeta {
                name: name.into(),
                ..VertexMeta::default()
            },
        }
    }

    /// How input `index` enters the vertex's cache key.
    pub fn selection(&self, index: usize) -> Selection {
        match &self.op {
            Op::Exec(exec) => exec.selection(index),
            Op::File(file) => file.selection(index),
            Op::Source(_) | Op::Merge | Op::Diff => Selection::Identity,
        }
    }

    /// How many outputs the vertex has.
    pub fn output_count(&self) -> u32 {
        match &self.op {
            Op::Exec(exec) => exec.output_count(),
            Op::Source(_) | Op::File(_) | Op::Merge | Op::Diff => 1,
        }
    }
}

/// Why a vertex cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An input stands at or after the vertex itself.
    #[error("`{name}` takes input {index} from vertex {vertex}, which does not stand before it")]
    UnknownInput {
        /// The vertex's display name.
        name: String,
        /// Which input.
        index: usize,
        /// What it named.
        vertex: u32,
    },
    /// An input names an output that its vertex does not have.
    #[error("`{name}` takes output {output} of vertex {vertex}, which has fewer")]
    UnknownOutput {
        /// The vertex's display name.
        name: String,
        /// What it named.
        vertex: u32,
        /// Which output.
        output: u32,
    },
    /// More vertices than an id can count.
    #[error("the graph has more than {} vertices", u32::MAX)]
    TooLarge,
}

/// An arena of vertices in topological order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    vertices: Vec<Vertex>,
}

impl Graph {
    /// Adds a vertex behind all that stand.
    ///
    /// # Errors
    /// When an input does not stand before it; see [`GraphError`].
    pub fn push(&mut self, vertex: Vertex) -> Result<VertexId, GraphError> {
        let id = u32::try_from(self.vertices.len()).map_err(|_| GraphError::TooLarge)?;
        for (index, input) in vertex.inputs.iter().enumerate() {
            let Some(source) = self.vertices.get(input.vertex.index()) else {
                return Err(GraphError::UnknownInput {
                    name: vertex.meta.name.clone(),
                    index,
                    vertex: input.vertex.0,
                });
            };
            if input.output >= source.output_count() {
                return Err(GraphError::UnknownOutput {
                    name: vertex.meta.name.clone(),
                    vertex: input.vertex.0,
                    output: input.output,
                });
            }
        }
        self.vertices.push(vertex);
        Ok(VertexId(id))
    }

    /// The vertex at `id`.
    ///
    /// # Panics
    /// When `id` is another graph's.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.index()]
    }

    /// The vertex at `id`, to be shown or scheduled differently.
    pub fn meta_mut(&mut self, id: VertexId) -> &mut VertexMeta {
        &mut self.vertices[id.index()].meta
    }

    /// Every vertex in topological order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (VertexId, &Vertex)> {
        (0u32..)
            .map(VertexId)
            .zip(&self.vertices)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// The vertices that `targets` need, themselves included, in topological order.
    pub fn reachable(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut needed = vec![false; self.vertices.len()];
        for target in targets {
            needed[target.index()] = true;
        }
        for index in (0..self.vertices.len()).rev() {
            if needed[index] {
                for input in &self.vertices[index].inputs {
                    needed[input.vertex.index()] = true;
                }
            }
        }
        (0u32..)
            .zip(needed)
            .filter(|(_, needed)| *needed)
            .map(|(id, _)| VertexId(id))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> Vertex {
        Vertex::new("scratch", Op::Source(Source::Scratch), vec![])
    }

    #[test]
    fn inputs_must_stand_before() {
        let mut graph = Graph::default();
        let forward = Vertex::new("merge", Op::Merge, vec![Input::first(VertexId(0))]);
        assert!(matches!(
            graph.push(forward),
            Err(GraphError::UnknownInput { .. })
        ));
        let base = graph.push(scratch()).unwrap();
        let wrong = Vertex::new(
            "merge",
            Op::Merge,
            vec![Input {
                vertex: base,
                output: 1,
            }],
        );
        assert!(matches!(
            graph.push(wrong),
            Err(GraphError::UnknownOutput { .. })
        ));
    }

    #[test]
    fn unneeded_vertices_are_not_reachable() {
        let mut graph = Graph::default();
        let base = graph.push(scratch()).unwrap();
        let left = graph
            .push(Vertex::new("l", Op::Merge, vec![Input::first(base)]))
            .unwrap();
        let _right = graph
            .push(Vertex::new("r", Op::Merge, vec![Input::first(base)]))
            .unwrap();
        assert_eq!(graph.reachable(&[left]), vec![base, left]);
    }
}
