//! Who may work next: bounded per class, fair between builds, critical path first.
//!
//! A free place goes to the build with the fewest places taken in that class (the one
//! served longest ago among equals), and within it to the step with the highest
//! priority (the one that asked first among equals).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::ResourceClass;
use crate::solver::Limits;

/// Tells the solves of one solver apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BuildId(pub(crate) u64);

/// The places of every class.
#[derive(Debug)]
pub(crate) struct Permits {
    network: Arc<Class>,
    cpu: Arc<Class>,
    run: Arc<Class>,
}

impl Permits {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            network: Class::new(limits.network_jobs),
            cpu: Class::new(limits.cpu_jobs),
            run: Class::new(limits.run_jobs),
        }
    }

    /// Waits for a place; `None` where the class has no limit. Gives up its turn when
    /// dropped.
    pub(crate) async fn acquire(
        &self,
        class: ResourceClass,
        build: BuildId,
        priority: u64,
    ) -> Option<Permit> {
        let class = match class {
            ResourceClass::Network => &self.network,
            ResourceClass::Cpu => &self.cpu,
            ResourceClass::Run => &self.run,
            ResourceClass::None => return None,
        };
        Some(class.queue(build, priority).granted().await)
    }
}

#[derive(Debug)]
struct Class(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    clock: u64,
    builds: BTreeMap<BuildId, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    running: usize,
    served: u64,
    waiting: BTreeMap<Rank, oneshot::Sender<()>>,
}

/// The order within a build: higher priorities first, then who asked first.
type Rank = (Reverse<u64>, u64);

impl Class {
    fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: places.max(1),
            clock: 0,
            builds: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(self: &Arc<Self>, build: BuildId, priority: u64) -> Waiter {
        let (granted, receiver) = oneshot::channel();
        let mut state = self.lock();
        let rank = (Reverse(priority), state.tick());
        let queue = state.builds.entry(build).or_default();
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
        state.free += 1;
        if let Some(queue) = state.builds.get_mut(&build) {
            queue.running -= 1;
        }
        state.grant();
        state.forget(build);
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn grant(&mut self) {
        while self.free > 0 {
            let now = self.tick();
            let waiting = self.builds.values_mut().filter(|q| !q.waiting.is_empty());
            let Some(queue) = waiting.min_by_key(|queue| (queue.running, queue.served)) else {
                return;
            };
            let Some((_, granted)) = queue.waiting.pop_first() else {
                return;
            };
            queue.running += 1;
            queue.served = now;
            self.free -= 1;
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

    fn one_place() -> Permits {
        Permits::new(&Limits::new(1, 1))
    }

    #[test]
    fn the_critical_path_goes_first() {
        let permits = one_place();
        let run = ResourceClass::Run;
        let held = permits.acquire(run, BuildId(1), 0).now_or_never().unwrap();
        let mut low = Box::pin(permits.acquire(run, BuildId(1), 3));
        let mut high = Box::pin(permits.acquire(run, BuildId(1), 7));
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
        let permits = Permits::new(&Limits::new(2, 1));
        let run = ResourceClass::Run;
        let mut first = Vec::new();
        for priority in 0..2 {
            let permit = permits.acquire(run, BuildId(1), 100 + priority);
            first.push(permit.now_or_never().unwrap());
        }
        let mut greedy = Box::pin(permits.acquire(run, BuildId(1), 100));
        let mut modest = Box::pin(permits.acquire(run, BuildId(2), 1));
        assert!((&mut greedy).now_or_never().is_none());
        assert!((&mut modest).now_or_never().is_none());
        first.pop();
        assert!((&mut greedy).now_or_never().is_none());
        assert!(modest.now_or_never().is_some());
    }

    #[test]
    fn a_waiter_that_leaves_gives_up_its_turn_even_when_granted() {
        let permits = one_place();
        let run = ResourceClass::Run;
        let held = permits.acquire(run, BuildId(1), 0).now_or_never().unwrap();
        let mut gone = Box::pin(permits.acquire(run, BuildId(1), 9));
        let mut granted = Box::pin(permits.acquire(run, BuildId(2), 9));
        let mut last = Box::pin(permits.acquire(run, BuildId(1), 0));
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut granted).now_or_never().is_none());
        assert!((&mut last).now_or_never().is_none());
        drop(gone);
        drop(held); // grants build 2, which never looks
        drop(granted);
        assert!(last.now_or_never().is_some());
        assert!(permits.run.lock().builds.is_empty());
    }

    #[test]
    fn classes_do_not_wait_for_one_another() {
        let permits = one_place();
        let classes = [ResourceClass::Run, ResourceClass::Cpu, ResourceClass::None];
        let held = classes.map(|class| permits.acquire(class, BuildId(1), 0).now_or_never());
        assert!(held.iter().all(Option::is_some));
    }
}
