//! Stopping a running process from another thread.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// A handle that ends a run, or sends its process a signal. Clones are the same handle.
///
/// One handle may serve many runs, also at once: [`cancel`](Self::cancel) ends all of them, and
/// every later one before it starts. [`signal`](Self::signal) reaches one of those that run, so a
/// handle that is used for it should serve one at a time.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cancelled: AtomicBool,
    /// Readable for good once cancelled.
    cancelled_fd: OwnedFd,
    signals: Mutex<Vec<i32>>,
    signals_fd: OwnedFd,
}

impl Cancel {
    /// A handle that has not been cancelled.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(Inner {
            cancelled: AtomicBool::new(false),
            cancelled_fd: eventfd(0, flags)?,
            signals: Mutex::default(),
            signals_fd: eventfd(0, flags)?,
        })))
    }

    /// Kills the process and everything it started.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        wake(&self.0.cancelled_fd);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Sends a signal to the process itself (not to what it started).
    pub fn signal(&self, signal: i32) {
        self.signals().push(signal);
        wake(&self.0.signals_fd);
    }

    pub(crate) fn cancelled_fd(&self) -> BorrowedFd<'_> {
        self.0.cancelled_fd.as_fd()
    }

    pub(crate) fn signals_fd(&self) -> BorrowedFd<'_> {
        self.0.signals_fd.as_fd()
    }

    /// Takes the signals asked for since the last call and makes the descriptor quiet again.
    pub(crate) fn take_signals(&self) -> Vec<i32> {
        let mut count = [0; 8];
        // Nothing to read means that nobody called since: the list is empty then.
        let _quiet = rustix::io::read(&self.0.signals_fd, &mut count);
        std::mem::take(&mut *self.signals())
    }

    fn signals(&self) -> std::sync::MutexGuard<'_, Vec<i32>> {
        self.0
            .signals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(fd: &OwnedFd) {
    // A full counter is readable already, which is all that is wanted.
    let _full = rustix::io::write(fd, &1u64.to_ne_bytes());
}
