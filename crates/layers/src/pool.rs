//! Threads that work for one pipeline, and results in the order they were asked for.
//!
//! Invariant: a job waits for nothing but its own input and output, so that a full pool
//! always moves on. Threads start when there is work for them and end with the pool.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Debug)]
pub(crate) struct Pool {
    jobs: Option<mpsc::Sender<Job>>,
    queue: Arc<Mutex<mpsc::Receiver<Job>>>,
    unfinished: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
}

/// A result that comes.
#[derive(Debug)]
pub(crate) struct Pending<T>(mpsc::Receiver<T>);

/// A job ended without a result: it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread failed")]
pub struct WorkerFailed;

impl<T> Pending<T> {
    /// Waits for the result.
    pub(crate) fn wait(self) -> Result<T, WorkerFailed> {
        self.0.recv().map_err(|_| WorkerFailed)
    }
}

/// As many threads as there are processors.
pub fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

impl Pool {
    pub(crate) fn new(threads: NonZeroUsize) -> Self {
        let (jobs, queue) = mpsc::channel();
        Self {
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
            unfinished: Arc::default(),
            threads: Vec::new(),
            threads_max: threads.get(),
        }
    }

    /// How many jobs keep every thread busy.
    pub(crate) fn jobs_max(&self) -> usize {
        self.threads_max * 2
    }

    /// Starts `job` on a thread; here and now when no thread can be had.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Pending<T> {
        let (result, pending) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            // Whoever asked may have given up; then nobody wants the result.
            let _unwanted = result.send(job());
        });
        let unfinished = self.unfinished.fetch_add(1, Ordering::Relaxed) + 1;
        if unfinished > self.threads.len() && self.threads.len() < self.threads_max {
            self.start_thread();
        }
        match &self.jobs {
            Some(jobs) if !self.threads.is_empty() => {
                if let Err(mpsc::SendError(job)) = jobs.send(job) {
                    job();
                }
            }
            _ => job(),
        }
        Pending(pending)
    }

    fn start_thread(&mut self) {
        let queue = Arc::clone(&self.queue);
        let unfinished = Arc::clone(&self.unfinished);
        let thread = std::thread::Builder::new().name("layers".to_owned());
        // Fewer threads than asked for are still enough.
        if let Ok(thread) = thread.spawn(move || work(&queue, &unfinished)) {
            self.threads.push(thread);
        }
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>, unfinished: &AtomicUsize) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A panic drops the job's result channel, which tells whoever waits for it.
        let _panicked = catch_unwind(AssertUnwindSafe(job));
        unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Jobs' panics are caught, so that a thread cannot end in one.
            let _ended = thread.join();
        }
    }
}

/// Results that are taken in the order in which their jobs were started.
#[derive(Debug)]
pub(crate) struct InOrder<T> {
    pending: VecDeque<T>,
    max: usize,
}

impl<T> InOrder<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            pending: VecDeque::new(),
            max: max.max(1),
        }
    }

    /// Adds one, and hands back the oldest when there are too many now.
    pub(crate) fn push(&mut self, pending: T) -> Option<T> {
        self.pending.push_back(pending);
        if self.pending.len() > self.max {
            return self.pending.pop_front();
        }
        None
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.pending.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_panics_are_errors() {
        let mut pool = Pool::new(NonZeroUsize::new(3).unwrap());
        let pending: Vec<_> = (0..100).map(|n| pool.run(move || n * n)).collect();
        let bad = pool.run(|| -> u32 { panic!("on purpose") });
        let after = pool.run(|| 7);
        for (n, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait(), Ok(n * n));
        }
        assert_eq!(bad.wait(), Err(WorkerFailed));
        assert_eq!(after.wait(), Ok(7));
    }
}
