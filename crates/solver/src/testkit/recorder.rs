//! A sink that remembers what it is told.

use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_graph::VertexId;

use crate::{CacheKey, Event, EventSink, HitKey, MissReason, Origin};

/// Remembers every event.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// What happened so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// The vertices that ran to their end, in the order in which they ended.
    pub fn finished(&self) -> Vec<VertexId> {
        self.pick(|event| match event {
            Event::Finished { vertex, .. } => Some(*vertex),
            _ => None,
        })
    }

    /// The vertices that began to run, in order.
    pub fn started(&self) -> Vec<VertexId> {
        self.pick(|event| match event {
            Event::Started { vertex } => Some(*vertex),
            _ => None,
        })
    }

    /// The vertices that were stopped.
    pub fn canceled(&self) -> Vec<VertexId> {
        self.pick(|event| match event {
            Event::Canceled { vertex } => Some(*vertex),
            _ => None,
        })
    }

    /// The vertices that had a result, by which key and where.
    pub fn cached(&self) -> Vec<(VertexId, HitKey, Origin)> {
        self.pick(|event| match event {
            Event::Cached {
                vertex, by, from, ..
            } => Some((*vertex, *by, from.clone())),
            _ => None,
        })
    }

    /// The vertices that had none, and why.
    pub fn missed(&self) -> Vec<(VertexId, MissReason)> {
        self.pick(|event| match event {
            Event::Missed { vertex, reason, .. } => Some((*vertex, reason.clone())),
            _ => None,
        })
    }

    /// The content keys of the vertices that missed.
    pub fn missed_keys(&self) -> Vec<(VertexId, CacheKey)> {
        self.pick(|event| match event {
            Event::Missed { vertex, key, .. } => Some((*vertex, *key)),
            _ => None,
        })
    }

    fn pick<V>(&self, pick: impl Fn(&Event) -> Option<V>) -> Vec<V> {
        self.lock().iter().filter_map(pick).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Recorder {
    fn emit(&self, event: Event) {
        self.lock().push(event);
    }
}
