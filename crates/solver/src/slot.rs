//! Where the result of a vertex will stand, for all who wait for it.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::flight::Outputs;

/// Waits for a result; cheap to clone.
pub(crate) struct Slot<T>(Arc<Inner<T>>);

/// The duty to publish a result; when it is dropped without, none will come.
pub(crate) struct Publisher<T>(Arc<Inner<T>>);

struct Inner<T> {
    result: OnceLock<Option<Outputs<T>>>,
    settled: Notify,
}

pub(crate) fn slot<T>() -> (Publisher<T>, Slot<T>) {
    let inner = Arc::new(Inner {
        result: OnceLock::new(),
        settled: Notify::new(),
    });
    (Publisher(inner.clone()), Slot(inner))
}

impl<T> Slot<T> {
    /// The result; `None` when there will be none.
    pub(crate) async fn result(&self) -> Option<Outputs<T>> {
        loop {
            let mut settled = std::pin::pin!(self.0.settled.notified());
            // From here on nothing is missed.
            settled.as_mut().enable();
            if let Some(result) = self.0.result.get() {
                return result.clone();
            }
            settled.await;
        }
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Publisher<T> {
    pub(crate) fn publish(&self, outputs: Outputs<T>) {
        self.settle(Some(outputs));
    }

    fn settle(&self, result: Option<Outputs<T>>) {
        if self.0.result.set(result).is_ok() {
            self.0.settled.notify_waiters();
        }
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.settle(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn those_who_wait_get_what_is_published_or_learn_that_nothing_comes() {
        let (publisher, published) = slot::<u8>();
        let mut waiting = Box::pin(published.result());
        assert!((&mut waiting).now_or_never().is_none());
        publisher.publish(Arc::from([5u8]));
        drop(publisher);
        assert_eq!(waiting.now_or_never().flatten().as_deref(), Some(&[5][..]));
        let (publisher, never) = slot::<u8>();
        let mut waiting = Box::pin(never.result());
        assert!((&mut waiting).now_or_never().is_none());
        drop(publisher);
        assert_eq!(waiting.now_or_never(), Some(None));
    }
}
