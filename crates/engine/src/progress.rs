//! What an engine reports while it works.

use std::sync::Arc;

use longshore_graph::{Graph, VertexId};
use longshore_solver::{Event, EventSink};
use serde::Serialize;

/// Is told what happens. Called from any thread; may hold up what it is told about.
pub trait ProgressSink: Send + Sync {
    /// Takes note of `event`.
    fn emit(&self, event: ProgressEvent);
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProgressEvent {
    /// A remark: a line for people.
    Note(String),
    /// The steps that the build may have to look at, in the order of the Dockerfile.
    Planned {
        /// The steps.
        steps: Vec<PlannedStep>,
    },
    /// A step, by the number that its events carry, and its display name. Comes before them.
    Named {
        /// Which step.
        id: u64,
        /// Its display name.
        name: String,
    },
    /// Something happened to a step.
    Step {
        /// Which step.
        id: u64,
        /// What.
        #[serde(flatten)]
        event: Event,
    },
}

/// A step that a build may have to look at.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedStep {
    /// The number that its events carry.
    pub id: u64,
    /// Its display name.
    pub name: String,
    /// Whether it names what comes from elsewhere.
    pub source: bool,
}

/// Takes note of nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn emit(&self, _event: ProgressEvent) {}
}

/// Passes a solver's events on, each step introduced by its name.
pub(crate) struct GraphEvents {
    sink: Arc<dyn ProgressSink>,
    names: Vec<String>,
    introduced: std::sync::Mutex<Vec<bool>>,
}

impl GraphEvents {
    pub(crate) fn new(sink: Arc<dyn ProgressSink>, graph: &Graph) -> Self {
        let names: Vec<String> = graph
            .iter()
            .map(|(_, vertex)| vertex.meta.name.clone())
            .collect();
        let introduced = std::sync::Mutex::new(vec![false; names.len()]);
        Self {
            sink,
            names,
            introduced,
        }
    }

    fn introduce(&self, vertex: VertexId) {
        let mut introduced = self
            .introduced
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(known) = introduced.get_mut(vertex.index()) else {
            return;
        };
        if !std::mem::replace(known, true) {
            let name = self.names[vertex.index()].clone();
            self.sink.emit(ProgressEvent::Named {
                id: u64::from(vertex.0),
                name,
            });
        }
    }
}

impl EventSink for GraphEvents {
    fn emit(&self, event: Event) {
        let vertex = match &event {
            Event::Started { vertex }
            | Event::Waiting { vertex }
            | Event::Log { vertex, .. }
            | Event::Progress { vertex, .. }
            | Event::Cached { vertex, .. }
            | Event::Missed { vertex, .. }
            | Event::Finished { vertex, .. }
            | Event::Failed { vertex, .. }
            | Event::Canceled { vertex } => Some(*vertex),
            Event::Warning { vertex, .. } => *vertex,
            Event::Planned { .. } | Event::CacheTrouble { .. } => None,
        };
        match vertex {
            Some(vertex) => {
                self.introduce(vertex);
                self.sink.emit(ProgressEvent::Step {
                    id: u64::from(vertex.0),
                    event,
                });
            }
            None => {
                if let Event::CacheTrouble {
                    cache,
                    operation,
                    error,
                    failures,
                } = event
                {
                    let text = format!(
                        "warning: the {cache} cache failed {failures} times (first, to {operation}: {error})"
                    );
                    self.sink.emit(ProgressEvent::Note(text));
                }
            }
        }
    }
}
