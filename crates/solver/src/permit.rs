//! Who may work next: bounded per class, fair between builds, critical path first.
//!
//! A free place goes to the build with the fewest places taken in that class (the one
//! served longest ago among equals), and within it to the step with the highest
//! priority (the one that asked first among equals). A build takes no more places than it
//! is allowed itself, and all together no more than the most generous of them is allowed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::ResourceClass;
use crate::solver::Limits;

/// Tells the solves that share places apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BuildId(pub(crate) u64);

/// The places that steps run in: shared by the builds that should take turns. Each build
/// brings its own [`Limits`].
#[derive(Clone, Default)]
pub struct Places(Arc<Classes>);

#[derive(Default)]
struct Classes {
    builds: AtomicU64,
    network: Arc<Class>,
    cpu: Arc<Class>,
    run: Arc<Class>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

/// A build's way to the places.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    places: Places,
    build: BuildId,
    network: usize,
    cpu: usize,
    run: usize,
}

/// What came of asking for a place.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Here it is; none is needed where the class has no limit.
    Place(Option<Permit>),
    /// All are taken.
    Full,
}

impl Places {
    /// The way of a new build to the places.
    pub(crate) fn enter(&self, limits: &Limits) -> Seat {
        Seat {
            places: self.clone(),
            build: BuildId(self.0.builds.fetch_add(1, Ordering::Relaxed)),
            network: limits.network_jobs.max(1),
            cpu: limits.cpu_jobs.max(1),
            run: limits.run_jobs.max(1),
        }
    }
}

impl Seat {
    /// Takes a place if there is a free one.
    pub(crate) fn try_take(&self, class: ResourceClass) -> Taken {
        let Some((class, allowed)) = self.class(class) else {
            return Taken::Place(None);
        };
        match class.try_take(self.build, allowed) {
            true => Taken::Place(Some(Permit {
                class: class.clone(),
                build: self.build,
            })),
            false => Taken::Full,
        }
    }

    /// Waits for a place; `None` where the class has no limit. Gives up its turn when
    /// dropped.
    pub(crate) async fn take(&self, class: ResourceClass, priority: u64) -> Option<Permit> {
        let (class, allowed) = self.class(class)?;
        Some(class.queue(self.build, allowed, priority).granted().await)
    }

    /// The class, and how many of its places this build may take.
    fn class(&self, class: ResourceClass) -> Option<(&Arc<Class>, usize)> {
        let classes = &self.places.0;
        match class {
            ResourceClass::Network => Some((&classes.network, self.network)),
            ResourceClass::Cpu => Some((&classes.cpu, self.cpu)),
            ResourceClass::Run => Some((&classes.run, self.run)),
            ResourceClass::None => None,
        }
    }
}

#[derive(Debug, Default)]
struct Class(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: usize,
    clock: u64,
    /// Those that have or want a place.
    builds: BTreeMap<BuildId, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    allowed: usize,
    running: usize,
    served: u64,
    waiting: BTreeMap<Rank, oneshot::Sender<()>>,
}

/// The order within a build: higher priorities first, then who asked first.
type Rank = (Reverse<u64>, u64);

impl Class {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_take(&self, build: BuildId, allowed: usize) -> bool {
        let mut state = self.lock();
        state.queue_of(build, allowed);
        // Whoever waits and could have a place has it already.
        let is_free = state.has_room() && state.builds[&build].may_run_more();
        if is_free {
            let now = state.tick();
            state.running += 1;
            state.queue_of(build, allowed).serve(now);
            // There may be room for more with a generous build among them.
            state.grant();
        }
        state.forget(build);
        is_free
    }

    fn queue(self: &Arc<Self>, build: BuildId, allowed: usize, priority: u64) -> Waiter {
        let (granted, receiver) = oneshot::channel();
        let mut state = self.lock();
        let rank = (Reverse(priority), state.tick());
        let queue = state.queue_of(build, allowed);
        queue.waiting.insert(rank, granted);
        state.grant();
        drop(state);
        Waiter {
            class: self.clone(),
            build,
            rank,
            receiver,
            taken: false,
        }
    }

    fn release(&self, build: BuildId) {
        let mut state = self.lock();
        state.running -= 1;
        if let Some(queue) = state.builds.get_mut(&build) {
            queue.running -= 1;
        }
        state.forget(build);
        state.grant();
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn queue_of(&mut self, build: BuildId, allowed: usize) -> &mut Queue {
        let queue = self.builds.entry(build).or_default();
        queue.allowed = allowed;
        queue
    }

    /// Whether all builds together may run one more.
    fn has_room(&self) -> bool {
        let most = self.builds.values().map(|queue| queue.allowed).max();
        most.is_some_and(|most| self.running < most)
    }

    fn grant(&mut self) {
        while self.has_room() {
            let now = self.tick();
            let builds = self.builds.values_mut();
            let waiting = builds.filter(|queue| !queue.waiting.is_empty() && queue.may_run_more());
            let Some(queue) = waiting.min_by_key(|queue| (queue.running, queue.served)) else {
                return;
            };
            let Some((_, granted)) = queue.waiting.pop_first() else {
                return;
            };
            queue.serve(now);
            self.running += 1;
            // The receiver outlives its place in the queue: see `Waiter::drop`.
            let _ = granted.send(());
        }
    }

    fn forget(&mut self, build: BuildId) {
        let idle = |queue: &Queue| queue.running == 0 && queue.waiting.is_empty();
        if self.builds.get(&build).is_some_and(idle) {
            self.builds.remove(&build);
        }
    }
}

impl Queue {
    fn may_run_more(&self) -> bool {
        self.running < self.allowed
    }

    fn serve(&mut self, now: u64) {
        self.running += 1;
        self.served = now;
    }
}

/// A place in the queue.
struct Waiter {
    class: Arc<Class>,
    build: BuildId,
    rank: Rank,
    receiver: oneshot::Receiver<()>,
    taken: bool,
}

impl Waiter {
    async fn granted(mut self) -> Permit {
        // The sender only goes away by sending.
        let _ = (&mut self.receiver).await;
        self.taken = true;
        Permit {
            class: self.class.clone(),
            build: self.build,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.class.lock();
        let queue = state.builds.get_mut(&self.build);
        let waited = queue.is_some_and(|queue| queue.waiting.remove(&self.rank).is_some());
        state.forget(self.build);
        drop(state);
        if !waited {
            self.class.release(self.build);
        }
    }
}

/// A place that is taken until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    class: Arc<Class>,
    build: BuildId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.class.release(self.build);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const RUN: ResourceClass = ResourceClass::Run;

    fn seat(places: &Places, jobs: usize) -> Seat {
        places.enter(&Limits::new(jobs, 1))
    }

    #[track_caller]
    fn taken(seat: &Seat) -> Permit {
        match seat.try_take(RUN) {
            Taken::Place(Some(permit)) => permit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_critical_path_goes_first() {
        let seat = seat(&Places::default(), 1);
        let held = taken(&seat);
        let mut low = Box::pin(seat.take(RUN, 3));
        let mut high = Box::pin(seat.take(RUN, 7));
        assert!((&mut low).now_or_never().is_none());
        assert!((&mut high).now_or_never().is_none());
        drop(held);
        assert!((&mut low).now_or_never().is_none());
        let held = (&mut high).now_or_never().unwrap();
        assert!((&mut low).now_or_never().is_none());
        drop(held);
        assert!(low.now_or_never().is_some());
    }

    #[test]
    fn builds_take_turns_whatever_their_priorities() {
        let places = Places::default();
        let (large, small) = (seat(&places, 2), seat(&places, 2));
        let mut first = vec![taken(&large), taken(&large)];
        let mut greedy = Box::pin(large.take(RUN, 100));
        let mut modest = Box::pin(small.take(RUN, 1));
        assert!((&mut greedy).now_or_never().is_none());
        assert!((&mut modest).now_or_never().is_none());
        first.pop();
        assert!((&mut greedy).now_or_never().is_none());
        assert!(modest.now_or_never().is_some());
    }

    #[test]
    fn a_build_takes_what_it_is_allowed_and_all_what_the_most_generous_is() {
        let places = Places::default();
        let (one, three) = (seat(&places, 1), seat(&places, 3));
        let first = taken(&one);
        assert!(matches!(one.try_take(RUN), Taken::Full));
        let more = [taken(&three), taken(&three)];
        assert!(matches!(three.try_take(RUN), Taken::Full));
        drop(first);
        let last = taken(&three);
        assert!(matches!(one.try_take(RUN), Taken::Full), "three run");
        // Those who have and want nothing do not count.
        drop((more, last));
        let _held = taken(&one);
        assert!(matches!(one.try_take(RUN), Taken::Full));
    }

    #[test]
    fn a_waiter_that_leaves_gives_up_its_turn_even_when_granted() {
        let places = Places::default();
        let (one, two) = (seat(&places, 1), seat(&places, 1));
        let held = taken(&one);
        let mut gone = Box::pin(one.take(RUN, 9));
        let mut granted = Box::pin(two.take(RUN, 9));
        let mut last = Box::pin(one.take(RUN, 0));
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut granted).now_or_never().is_none());
        assert!((&mut last).now_or_never().is_none());
        drop(gone);
        drop(held); // grants build 2, which never looks
        drop(granted);
        assert!(last.now_or_never().is_some());
        assert!(places.0.run.lock().builds.is_empty());
    }

    #[test]
    fn classes_do_not_wait_for_one_another() {
        let seat = seat(&Places::default(), 1);
        let classes = [RUN, ResourceClass::Cpu, ResourceClass::None];
        let held = classes.map(|class| seat.try_take(class));
        assert!(held.iter().all(|taken| matches!(taken, Taken::Place(_))));
    }
}
