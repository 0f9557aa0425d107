//! One run per content key at a time, shared by everyone who needs it.
//!
//! Whoever joins a flight first leads it: asks the cache, runs the step, lands it with
//! the result. The others wait. A leader that gives up (its build failed or was
//! cancelled) frees the lead for the next, who does the work with its own build's
//! executor: one build's failure never becomes another's. A landed flight stays as long
//! as a build that joined it runs. Nobody waits for another vertex while leading, so
//! flights cannot wait for one another in a ring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use crate::permit::BuildId;
use crate::{CacheKey, RecordedOutput};

/// The results of a vertex, one per output.
pub(crate) type Outputs<T> = Arc<[T]>;

/// What is being run, or was run by builds that still run.
pub(crate) struct Flights<T>(Mutex<Open<T>>);

type Open<T> = HashMap<FlightKey, Weak<Flight<T>>>;

/// A content key; with the build where its results must not be shared with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub(crate) content: CacheKey,
    pub(crate) within: Option<BuildId>,
}

impl<T> Flights<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::new())))
    }

    /// The flight for `key`, there as long as it is held.
    pub(crate) fn join(self: &Arc<Self>, key: FlightKey) -> Arc<Flight<T>> {
        let mut open = self.lock();
        if let Some(flight) = open.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            key,
            home: self.clone(),
            state: watch::Sender::new(State::Free),
        });
        open.insert(key, Arc::downgrade(&flight));
        flight
    }

    fn lock(&self) -> MutexGuard<'_, Open<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One content key's run.
pub(crate) struct Flight<T> {
    key: FlightKey,
    home: Arc<Flights<T>>,
    state: watch::Sender<State<T>>,
}

pub(crate) enum State<T> {
    /// Nobody is at it.
    Free,
    /// Somebody leads.
    Flying,
    /// It is done.
    Landed(Landed<T>),
}

/// What came of a flight.
pub(crate) struct Landed<T> {
    pub(crate) outputs: Outputs<T>,
    /// What is recorded of the outputs, and how long they took; `None` where they could
    /// not be recorded.
    pub(crate) recorded: Option<(Arc<[RecordedOutput]>, u64)>,
}

impl<T> Clone for Landed<T> {
    fn clone(&self) -> Self {
        Self {
            outputs: self.outputs.clone(),
            recorded: self.recorded.clone(),
        }
    }
}

/// What there is to do for whoever joined.
pub(crate) enum Turn<T> {
    /// Do the work.
    Lead(Lead<T>),
    /// It is done.
    Landed(Landed<T>),
    /// Somebody else is at it: wait for a change, then ask again.
    Wait(watch::Receiver<State<T>>),
}

impl<T> Flight<T> {
    pub(crate) fn turn(self: &Arc<Self>) -> Turn<T> {
        let receiver = self.state.subscribe();
        let mut turn = None;
        self.state.send_if_modified(|state| match state {
            State::Free => {
                *state = State::Flying;
                turn = Some(Turn::Lead(Lead(Some(self.clone()))));
                false
            }
            State::Flying => false,
            State::Landed(landed) => {
                turn = Some(Turn::Landed(landed.clone()));
                false
            }
        });
        turn.unwrap_or(Turn::Wait(receiver))
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        let mut open = self.home.lock();
        // Somebody may have joined anew since the last holder left.
        if open
            .get(&self.key)
            .is_some_and(|flight| flight.strong_count() == 0)
        {
            open.remove(&self.key);
        }
    }
}

/// The duty to land a flight, or, when dropped, to let another lead.
pub(crate) struct Lead<T>(Option<Arc<Flight<T>>>);

impl<T> Lead<T> {
    pub(crate) fn land(mut self, landed: Landed<T>) {
        if let Some(flight) = self.0.take() {
            flight.state.send_replace(State::Landed(landed));
        }
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        if let Some(flight) = self.0.take() {
            flight.state.send_replace(State::Free);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn key() -> FlightKey {
        FlightKey {
            content: CacheKey([7; 32]),
            within: None,
        }
    }

    #[test]
    fn a_lead_that_is_dropped_goes_to_the_next() {
        let flights = Flights::<u8>::new();
        let flight = flights.join(key());
        let Turn::Lead(lead) = flight.turn() else {
            panic!("the first leads")
        };
        let other = flights.join(key());
        let Turn::Wait(mut waiting) = other.turn() else {
            panic!("the second waits")
        };
        assert!(waiting.changed().now_or_never().is_none());
        drop(lead);
        assert!(waiting.changed().now_or_never().is_some());
        assert!(matches!(other.turn(), Turn::Lead(_)));
    }

    #[test]
    fn a_landed_flight_is_remembered_while_it_is_held() {
        let flights = Flights::<u8>::new();
        let flight = flights.join(key());
        let Turn::Lead(lead) = flight.turn() else {
            panic!("the first leads")
        };
        lead.land(Landed {
            outputs: Arc::from([1u8]),
            recorded: None,
        });
        let Turn::Landed(landed) = flights.join(key()).turn() else {
            panic!("it has landed")
        };
        assert_eq!(&*landed.outputs, &[1]);
        drop(flight);
        assert!(flights.lock().is_empty());
        assert!(matches!(flights.join(key()).turn(), Turn::Lead(_)));
    }
}
