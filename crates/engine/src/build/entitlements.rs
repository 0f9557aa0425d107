//! Privileges that steps ask for and a build must be granted (`--allow`).
//!
//! Invariant: they are asked of the whole graph before the first step begins, so that neither a
//! cached result nor an earlier step's failure hides that one is missing.

use std::sync::Arc;

use longshore_frontend::Lowered;
use longshore_graph::{Exec, NetworkMode, Op, SecurityMode};
use longshore_solver::{BoxError, SolveError};

use super::{BuildError, Loaded, step_error};
use crate::Entitlements;

/// That the build may do what its steps ask for.
///
/// # Errors
/// The first step that may not, as its failure.
pub(super) fn check(
    granted: Entitlements,
    dockerfile: &Arc<Loaded>,
    lowered: &Lowered,
) -> Result<(), BuildError> {
    let graph = &lowered.graph;
    let targets = lowered.platforms.iter().map(|platform| platform.target);
    for id in graph.reachable(&targets.collect::<Vec<_>>()) {
        let vertex = graph.vertex(id);
        let Op::Exec(op) = &vertex.op else { continue };
        if let Some(name) = missing(granted, op) {
            let error = SolveError::Step {
                vertex: id,
                name: vertex.meta.name.clone(),
                source: Arc::from(BoxError::from(format!(
                    "{name} is not allowed: --allow {name}"
                ))),
            };
            return Err(step_error(dockerfile, lowered, error));
        }
    }
    Ok(())
}

fn missing(granted: Entitlements, op: &Exec) -> Option<&'static str> {
    if op.security == SecurityMode::Insecure && !granted.security_insecure {
        return Some("security.insecure");
    }
    (op.network == NetworkMode::Host && !granted.network_host).then_some("network.host")
}
