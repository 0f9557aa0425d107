//! Which steps matter most: those with the longest way to a target before them.
//!
//! A step counts with what it took when it ran last, the same one or the nearest to it; one
//! that is not known counts with what steps of its kind take, roughly. Costs decide on the
//! order of work alone: they are in no key.

use longshore_graph::{Graph, VertexId};

use crate::plan::Plan;
use crate::{PastStep, ResourceClass};

impl Plan {
    /// What to ask a cache for the costs of the needed steps.
    pub(crate) fn past(&self, scope: &str, graph: &Graph) -> (Vec<VertexId>, Vec<PastStep>) {
        let steps = self.needed().filter_map(|(id, planned)| {
            let step = PastStep {
                key: planned.definition?,
                groups: planned.groups(scope, graph.vertex(id)),
            };
            Some((id, step))
        });
        steps.unzip()
    }

    /// How long the way from each vertex to a target takes, with its own work, by its place in
    /// the graph. `known` are costs of some vertices. Linear in the graph's size.
    pub(crate) fn remaining_ms(
        &self,
        graph: &Graph,
        known: impl IntoIterator<Item = (VertexId, u64)>,
    ) -> Vec<u64> {
        let mut ways = vec![0_u64; graph.len()];
        let mut costs = vec![0; graph.len()];
        for (id, planned) in self.needed() {
            costs[id.index()] = usual_ms(planned.class);
        }
        for (id, cost_ms) in known {
            // Not nothing, so that of quick steps those deepest below go first.
            costs[id.index()] = cost_ms.max(1);
        }
        // Inputs stand before what needs them, which is therefore done when they are looked at.
        for (id, _) in self.needed().rev() {
            let way = ways[id.index()].saturating_add(costs[id.index()]);
            ways[id.index()] = way;
            for input in &graph.vertex(id).inputs {
                let below = &mut ways[input.vertex.index()];
                *below = way.max(*below);
            }
        }
        ways
    }
}

/// What a step takes of which nothing is known, in comparison with others.
fn usual_ms(class: ResourceClass) -> u64 {
    match class {
        ResourceClass::Run => 4000,
        ResourceClass::Network => 2000,
        ResourceClass::Cpu => 200,
        ResourceClass::None => 1,
    }
}
