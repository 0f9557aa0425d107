//! Uploads that are open in this process.
//!
//! Between two chunks the ingest stays open, so that its digest need not be computed anew; one
//! request at a time holds it. An idle one is closed: its bytes are on disk, and the next chunk
//! opens it again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longshore_content::{Ingest, UploadId};
use tokio::sync::OwnedMutexGuard;

/// Sessions that are kept open while nobody uses them.
const IDLE_MAX: usize = 256;
/// How long an unused session is kept open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a request waits for the one before it on the same upload, which may have been
/// broken off and not know it yet.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<UploadId, Session>>,
}

#[derive(Clone, Debug)]
struct Session {
    slot: Slot,
    offset: Arc<AtomicU64>,
    used: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Box<dyn Ingest>>>>;

/// An upload that this request alone may write to. The ingest is there once it was opened.
#[derive(Debug)]
pub(crate) struct HeldSession {
    pub(crate) ingest: OwnedMutexGuard<Option<Box<dyn Ingest>>>,
    /// How far it got, for others to see.
    pub(crate) offset: Arc<AtomicU64>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<UploadId, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, id: &UploadId) -> Session {
        let mut open = self.lock();
        let session = open.entry(id.clone()).or_insert_with(|| Session {
            slot: Slot::default(),
            offset: Arc::default(),
            used: Instant::now(),
        });
        session.used = Instant::now();
        session.clone()
    }

    /// Takes the upload for one request; `None` if another keeps it.
    pub(crate) async fn hold(&self, id: &UploadId) -> Option<HeldSession> {
        let session = self.touch(id);
        let held = tokio::time::timeout(WAIT, session.slot.lock_owned()).await;
        Some(HeldSession {
            ingest: held.ok()?,
            offset: session.offset,
        })
    }

    /// How far the upload got, if some request is writing to it right now.
    pub(crate) fn offset_while_busy(&self, id: &UploadId) -> Option<u64> {
        let session = self.lock().get(id)?.clone();
        let busy = session.slot.try_lock().is_err();
        busy.then(|| session.offset.load(Ordering::Acquire))
    }

    /// The upload is finished or gone.
    pub(crate) fn remove(&self, id: &UploadId) {
        self.lock().remove(id);
    }

    /// Closes what nobody uses: what is idle for long, and the oldest if there are many.
    pub(crate) fn close_idle(&self) {
        let mut open = self.lock();
        let mut idle: Vec<(Instant, UploadId)> = open
            .iter()
            .filter(|(_, session)| session.slot.try_lock().is_ok())
            .map(|(id, session)| (session.used, id.clone()))
            .collect();
        idle.sort();
        let surplus = idle.len().saturating_sub(IDLE_MAX);
        for (at, (used, id)) in idle.iter().enumerate() {
            if at < surplus || used.elapsed() > IDLE_TIMEOUT {
                open.remove(id);
            }
        }
    }
}
