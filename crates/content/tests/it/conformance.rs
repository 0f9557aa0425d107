//! Every content store passes the same checks.

use std::sync::Arc;

use longshore_content::{ContentStore, Durability, MemoryStore, StateRoot, conformance};

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_conforms() {
    let store = MemoryStore::new();
    conformance::check(|| Arc::new(store.clone())).await;
}

async fn check_local(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    // Each handle is a process of its own as far as the store can tell.
    let open = || -> Arc<dyn ContentStore> {
        let root = StateRoot::open(dir.path()).unwrap();
        Arc::new(root.blobs().with_durability(durability))
    };
    conformance::check(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_conforms() {
    check_local(Durability::Published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_cache_store_conforms() {
    check_local(Durability::Cache).await;
}

#[tokio::test]
async fn local_store_conforms_on_one_thread() {
    check_local(Durability::PublishedByNext).await;
}
