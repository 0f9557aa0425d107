//! What a build was made of and which steps made its layers: for who wants to do it again, or
//! to know whose doing a difference is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use longshore_frontend::{Lowered, LoweredPlatform};
use longshore_graph::{Graph, Op, VertexId};
use longshore_oci::{Digest, Platform};
use serde::{Deserialize, Serialize};

use super::Loaded;
use super::executor::BuildExecutor;
use super::inputs::CONTEXT;
use crate::Pins;
use crate::lock_file::Held;

/// The steps that made the uppermost layers of a platform's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSteps {
    /// The platform that the image's configuration names.
    pub platform: Platform,
    /// One for each layer above the base's, lowest first.
    pub steps: Vec<MadeStep>,
}

/// A step that made a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeStep {
    /// Its display name.
    pub name: String,
    /// Its first and last line in the Dockerfile.
    pub lines: Option<(u32, u32)>,
}

/// What a build read, by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenInputs {
    /// The digest of the Dockerfile's text.
    pub dockerfile: Digest,
    /// Digests of what steps took from directories, by the names of the contexts, without times;
    /// the commit or file of a main context on another machine.
    pub contexts: BTreeMap<String, BTreeSet<String>>,
    /// What names stood for.
    pub pins: Pins,
}

/// The steps of each platform's layers; none where the layers were made one.
pub(super) fn layer_steps(lowered: &Lowered, is_squashed: bool) -> Vec<LayerSteps> {
    if is_squashed {
        return Vec::new();
    }
    let of = |made: &LoweredPlatform| LayerSteps {
        platform: made.config.platform(),
        steps: steps_of(&lowered.graph, made.target),
    };
    lowered.platforms.iter().map(of).collect()
}

fn steps_of(graph: &Graph, target: VertexId) -> Vec<MadeStep> {
    let mut steps = Vec::new();
    let mut next = Some(target);
    while let Some(id) = next {
        let vertex = graph.vertex(id);
        if matches!(vertex.op, Op::Source(_) | Op::Diff) {
            break;
        }
        let below = super::layers_below(graph, id);
        // What is merged above the rest is a copy of its own.
        let parts = below
            .iter()
            .skip(1)
            .map(|part| graph.vertex(*part).meta.lines);
        steps.push(MadeStep {
            name: vertex.meta.name.clone(),
            lines: vertex.meta.lines.or_else(|| parts.flatten().next()),
        });
        next = below.first().copied();
    }
    steps.reverse();
    steps
}

/// What a build read, its context `elsewhere` by what identifies that. A directory that nothing was taken from is no input.
pub(super) fn seen_inputs(
    dockerfile: &Loaded,
    executor: &BuildExecutor,
    held: &Held,
    elsewhere: Option<String>,
) -> SeenInputs {
    let mut contexts = executor
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    contexts.extend(elsewhere.map(|identity| (CONTEXT.to_owned(), BTreeSet::from([identity]))));
    SeenInputs {
        dockerfile: Digest::sha256_of(dockerfile.parsed.text.as_bytes()),
        contexts,
        pins: held.pins(),
    }
}
