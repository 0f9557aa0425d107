//! The graph while it is built: equal operations on equal inputs are one vertex.

use std::collections::HashMap;

use longshore_graph::{Graph, Input, Op, Source, Vertex, VertexId, VertexMeta};

use crate::error::Problem;

type Key = (Vec<u8>, Vec<(u32, u32)>);

#[derive(Debug, Default)]
pub(crate) struct GraphBuilder {
    graph: Graph,
    vertices: HashMap<Key, VertexId>,
}

impl GraphBuilder {
    /// The first output of such a vertex: the one that is there, or a new one.
    pub(crate) fn add(
        &mut self,
        op: Op,
        inputs: Vec<Input>,
        meta: VertexMeta,
    ) -> Result<Input, Problem> {
        let bytes = serde_json::to_vec(&op).expect("operations are plain data");
        let places = inputs
            .iter()
            .map(|input| (input.vertex.0, input.output))
            .collect();
        let key = (bytes, places);
        if let Some(id) = self.vertices.get(&key) {
            let known = self.graph.meta_mut(*id);
            known.ignore_cache |= meta.ignore_cache;
            return Ok(Input::first(*id));
        }
        let id = self.graph.push(Vertex { op, inputs, meta })?;
        self.vertices.insert(key, id);
        Ok(Input::first(id))
    }

    pub(crate) fn add_source(&mut self, source: Source, name: String) -> Result<Input, Problem> {
        let meta = VertexMeta {
            name,
            ..VertexMeta::default()
        };
        self.add(Op::Source(source), Vec::new(), meta)
    }

    pub(crate) fn finish(self) -> Graph {
        self.graph
    }
}
