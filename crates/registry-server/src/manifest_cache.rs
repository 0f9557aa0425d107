//! Manifests that were read lately. What a digest names never changes, so only room limits it;
//! whether a repository has the manifest is asked elsewhere, each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use longshore_oci::Digest;

const CACHED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Larger ones are rare, and would push out many.
const ENTRY_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct ManifestCache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    documents: HashMap<Digest, Bytes>,
    order: VecDeque<Digest>,
    size_bytes: usize,
}

impl ManifestCache {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.lock().documents.get(digest).cloned()
    }

    /// Keeps a document; the oldest give way.
    pub(crate) fn put(&self, digest: &Digest, document: &Bytes) {
        if document.len() > ENTRY_BYTES_MAX {
            return;
        }
        let mut state = self.lock();
        // A copy of its own: a slice would keep the whole buffer that it was received in.
        let document = Bytes::copy_from_slice(document);
        state.size_bytes += document.len();
        if let Some(old) = state.documents.insert(*digest, document) {
            state.size_bytes -= old.len();
        } else {
            state.order.push_back(*digest);
        }
        while state.size_bytes > CACHED_BYTES_MAX {
            let Some(oldest) = state.order.pop_front() else {
                break;
            };
            if let Some(document) = state.documents.remove(&oldest) {
                state.size_bytes -= document.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way_and_the_size_is_bounded() {
        let cache = ManifestCache::default();
        let document = |number: u8| Bytes::from(vec![number; 200 * 1024]);
        let digest = |number: u8| Digest::sha256_of(&[number]);
        for number in 0..100 {
            cache.put(&digest(number), &document(number));
            cache.put(&digest(number), &document(number));
            assert!(cache.lock().size_bytes <= CACHED_BYTES_MAX);
        }
        assert_eq!(cache.get(&digest(0)), None);
        assert_eq!(cache.get(&digest(99)), Some(document(99)));
        assert_eq!(
            cache.lock().documents.len(),
            CACHED_BYTES_MAX / (200 * 1024)
        );
        assert_eq!(cache.lock().order.len(), cache.lock_len());
    }

    #[test]
    fn large_documents_are_not_kept() {
        let cache = ManifestCache::default();
        let large = Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]);
        cache.put(&Digest::sha256_of(b"x"), &large);
        assert_eq!(cache.get(&Digest::sha256_of(b"x")), None);
    }

    impl ManifestCache {
        fn lock_len(&self) -> usize {
            CACHED_BYTES_MAX / (200 * 1024)
        }
    }
}
