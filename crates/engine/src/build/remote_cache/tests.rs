//! The caches keep the solver's contract.

use longshore_registry_client::{Client, ClientOptions};
use longshore_solver::testkit::cache_conformance;

use super::CachePlace;
use super::keyed::KeyedCache;
use super::place::Place;

#[tokio::test]
async fn a_directory_is_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let place = CachePlace::Directory(folder.path().join("cache"));
    let client = Client::new(ClientOptions::anonymous());
    cache_conformance(&KeyedCache::new(Place::new(client, &place))).await;
}
