//! Holding the limits while a build writes.
//!
//! What is written is counted as it is written. When the count passes the limit, room is made
//! beside the running steps, and a step that is about to begin waits for it. So the build cache
//! exceeds the limit by what the running steps write at the most; unless what the build itself
//! needs exceeds it, which is said once, and made good when the build ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};

use super::SpaceLimits;
use super::room::Room;
use crate::progress::{ProgressEvent, ProgressSink};
use crate::{Engine, EngineError};

/// How often the disk is looked at, whatever this build writes: others fill it too.
const PERIOD: Duration = Duration::from_secs(5);
/// After nothing more could go: how much more is written, of the limit, before it is tried again.
const RETRY_SHARE: u64 = 20;

/// Holds the limits for one build.
pub(crate) struct SpaceKeeper {
    engine: Engine,
    limits: SpaceLimits,
    progress: Arc<dyn ProgressSink>,
    measured: Mutex<Option<Measured>>,
    /// Held while room is made, so that steps can wait for it.
    making: tokio::sync::Mutex<()>,
    wake: Notify,
    warned: AtomicBool,
    /// A cache mount was used: what it takes is not counted as it is written.
    unmeasured: AtomicBool,
}

/// What was found when room was last made.
#[derive(Clone, Copy, Debug)]
struct Measured {
    room: Room,
    /// What had been written then.
    written_bytes: u64,
}

/// Looks at the disk from time to time, until dropped.
pub(crate) struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for SpaceKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceKeeper")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl SpaceKeeper {
    pub(crate) fn new(
        engine: Engine,
        limits: SpaceLimits,
        progress: Arc<dyn ProgressSink>,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            limits,
            progress,
            measured: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            warned: AtomicBool::new(false),
            unmeasured: AtomicBool::new(false),
        })
    }

    /// Begins to look; a build that runs nothing ends before the first look.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        let keeper = Arc::clone(self);
        let task = tokio::spawn(async move {
            loop {
                let _ = tokio::time::timeout(PERIOD, keeper.wake.notified()).await;
                keeper.make_room().await;
            }
        });
        Watch(task.abort_handle())
    }

    /// Before a step runs: waits where there is too much already.
    pub(crate) async fn admit(&self) {
        match self.last() {
            None => self.wake.notify_one(),
            Some(_) if self.unmeasured.swap(false, Ordering::Relaxed) => self.wake.notify_one(),
            Some(measured) if self.is_due(&measured) => self.make_room().await,
            Some(_) => {}
        }
    }

    /// After a step ran.
    pub(crate) fn wrote(&self) {
        if self.last().is_some_and(|measured| self.is_due(&measured)) {
            self.wake.notify_one();
        }
    }

    /// A step used a cache mount.
    pub(crate) fn used_mount(&self) {
        self.unmeasured.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// After the build let go of all that it needed: what was too much while it ran goes.
    pub(crate) async fn settle(&self) {
        let is_fine = match self.last() {
            None => self.engine.layers().written_bytes() == 0,
            Some(measured) => !self.is_over(&measured),
        };
        if is_fine {
            return;
        }
        // What is new is held for an hour, for whoever stored it: nobody here needs it now.
        if self.engine.running_builds().load(Ordering::SeqCst) == 0
            && let Err(error) = self.engine.root().leases().forget_new()
        {
            tracing::warn!(%error, "what is new is held until the process ends");
        }
        self.make_room().await;
    }

    fn last(&self) -> Option<Measured> {
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is by now, as far as it was counted.
    fn estimated_bytes(&self, measured: &Measured) -> u64 {
        let written = self.engine.layers().written_bytes();
        measured.room.used_bytes + written.saturating_sub(measured.written_bytes)
    }

    fn is_over(&self, measured: &Measured) -> bool {
        self.estimated_bytes(measured) > measured.room.keep_bytes
    }

    /// Whether to make room now: not again at once where nothing could go.
    fn is_due(&self, measured: &Measured) -> bool {
        let Room {
            used_bytes,
            keep_bytes,
            ..
        } = measured.room;
        let enough = keep_bytes.max(used_bytes + keep_bytes / RETRY_SHARE);
        let limit = match measured.room.is_exceeded() {
            true => enough,
            false => keep_bytes,
        };
        self.estimated_bytes(measured) > limit
    }

    async fn make_room(&self) {
        let _alone = self.making.lock().await;
        let written_bytes = self.engine.layers().written_bytes();
        let (engine, limits) = (self.engine.clone(), self.limits);
        let made = spawn_blocking(move || engine.make_room(&limits)).await;
        match made.map_err(EngineError::from).flatten() {
            Ok(room) => {
                *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(Measured {
                    room,
                    written_bytes,
                });
                if room.is_exceeded() && !room.is_made_elsewhere {
                    self.warn(&room);
                }
            }
            // The cache's troubles are not the build's.
            Err(error) => tracing::warn!(%error, "the build cache cannot be made smaller"),
        }
    }

    fn warn(&self, room: &Room) {
        if self.warned.swap(true, Ordering::Relaxed) {
            return;
        }
        self.progress.emit(ProgressEvent::Note(format!(
            "warning: the build cache takes {} bytes and may take {}: the rest is needed by running builds",
            room.used_bytes, room.keep_bytes
        )));
    }
}
