//! Where in the Dockerfile a vertex comes from.

use longshore_frontend::Lowered;
use longshore_graph::{Input, VertexId};

/// The lines of a vertex's instruction. What has none of its own, as a source, has those of the
/// first instruction that uses it.
pub(super) fn lines_of(lowered: &Lowered, id: VertexId) -> Option<(u32, u32)> {
    let mut users = vec![id];
    // Inputs come before who uses them.
    for (user, vertex) in lowered.graph.iter() {
        let uses = vertex
            .inputs
            .iter()
            .any(|input| users.contains(&input.vertex));
        if !uses && user != id {
            continue;
        }
        if vertex.meta.lines.is_some() {
            return vertex.meta.lines;
        }
        users.push(user);
    }
    let stages = lowered
        .platforms
        .iter()
        .flat_map(|platform| &platform.stages);
    let is_used = |output: &Input| users.contains(&output.vertex);
    let mut stages = stages.filter(|stage| stage.output.as_ref().is_some_and(is_used));
    stages.next().map(|stage| (stage.line, stage.line))
}
