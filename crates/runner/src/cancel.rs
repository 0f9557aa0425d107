//! Stopping a running process from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// A handle that ends a run, or sends its process a signal. Clones are the same handle.
///
/// One handle serves one [`Runner::run`](crate::Runner::run) after another: once cancelled, it
/// stays so, and every later run with it ends before it starts.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cancelled: AtomicBool,
    signals: Mutex<Vec<i32>>,
    wake: OwnedFd,
}

impl Cancel {
    /// A handle that has not been cancelled.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let cancelled = AtomicBool::new(false);
        Ok(Self(Arc::new(Inner { cancelled, signals: Mutex::default(), wake })))
    }

    /// Kills the process and everything it started.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Sends a signal to the process itself (not to what it started).
    pub fn signal(&self, signal: i32) {
        self.signals().push(signal);
        self.wake();
    }

    /// Readable when there is something to look at.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    /// Takes the signals asked for since the last call and makes the descriptor quiet again.
    pub(crate) fn take_signals(&self) -> Vec<i32> {
        let mut count = [0; 8];
        // Nothing to read means that nobody called since: the list is empty then.
        let _quiet = rustix::io::read(&self.0.wake, &mut count);
        std::mem::take(&mut *self.signals())
    }

    fn signals(&self) -> std::sync::MutexGuard<'_, Vec<i32>> {
        self.0.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full counter is readable already, which is all that is wanted.
        let _full = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}
