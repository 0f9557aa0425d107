//! One run per content key at a time, shared by the builds that need it.
//!
//! Whoever joins a flight first leads it: asks the cache, runs the step, lands it with
//! the result. The others wait. A leader that gives up (its build failed or was
//! cancelled) frees the lead for the next, who does the work with its own build's
//! executor: one build's failure never becomes another's. A landed flight stays as long
//! as a build that joined it runs. Nobody waits for another vertex while leading, so
//! flights cannot wait for one another in a ring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::{CacheKey, RecordedOutput};

/// The results of a vertex, one per output.
pub(crate) type Outputs<T> = Arc<[T]>;

/// What is being run, or was run by builds that still run.
pub(crate) struct Flights<T>(Mutex<Open<T>>);

type Open<T> = HashMap<CacheKey, Weak<Flight<T>>>;

impl<T> Flights<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::new())))
    }

    /// The flight for a content key, there as long as it is held.
    pub(crate) fn join(self: &Arc<Self>, key: CacheKey) -> Arc<Flight<T>> {
        let mut open = lock(&self.0);
        if let Some(flight) = open.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            key,
            home: self.clone(),
            state: Mutex::new(State::Free),
            changed: Notify::new(),
        });
        open.insert(key, Arc::downgrade(&flight));
        flight
    }
}

/// One content key's run.
pub(crate) struct Flight<T> {
    key: CacheKey,
    home: Arc<Flights<T>>,
    state: Mutex<State<T>>,
    changed: Notify,
}

enum State<T> {
    Free,
    Flying,
    Landed(Landed<T>),
}

/// What came of a flight.
pub(crate) struct Landed<T> {
    pub(crate) outputs: Outputs<T>,
    /// What is recorded of the outputs; `None` where they could not be recorded.
    pub(crate) recorded: Option<Recorded>,
}

/// What is recorded of the outputs of a step, and how long it took.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) outputs: Arc<[RecordedOutput]>,
    pub(crate) cost_ms: u64,
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
    /// Somebody else is at it: wait until it [is settled](Flight::settled), ask again.
    Wait,
}

impl<T> Flight<T> {
    pub(crate) fn turn(self: &Arc<Self>) -> Turn<T> {
        let mut state = lock(&self.state);
        match &*state {
            State::Free => {
                *state = State::Flying;
                Turn::Lead(Lead(Some(self.clone())))
            }
            State::Flying => Turn::Wait,
            State::Landed(landed) => Turn::Landed(landed.clone()),
        }
    }

    /// Waits until nobody leads.
    pub(crate) async fn settled(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on nothing is missed.
            changed.as_mut().enable();
            if !matches!(*lock(&self.state), State::Flying) {
                return;
            }
            changed.await;
        }
    }

    fn settle(&self, state: State<T>) {
        *lock(&self.state) = state;
        self.changed.notify_waiters();
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        let mut open = lock(&self.home.0);
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
            flight.settle(State::Landed(landed));
        }
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        if let Some(flight) = self.0.take() {
            flight.settle(State::Free);
        }
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn key() -> CacheKey {
        CacheKey([7; 32])
    }

    #[test]
    fn a_lead_that_is_dropped_goes_to_the_next() {
        let flights = Flights::<u8>::new();
        let flight = flights.join(key());
        let Turn::Lead(lead) = flight.turn() else {
            panic!("the first leads")
        };
        let other = flights.join(key());
        assert!(matches!(other.turn(), Turn::Wait));
        let mut settled = Box::pin(other.settled());
        assert!((&mut settled).now_or_never().is_none());
        drop(lead);
        assert!((&mut settled).now_or_never().is_some());
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
        assert!(lock(&flights.0).is_empty());
        assert!(matches!(flights.join(key()).turn(), Turn::Lead(_)));
    }
}
