//! The caches keep the solver's contract, and documents stay what they are.

use longshore_content::StateRoot;
use longshore_oci::Descriptor;
use longshore_registry_client::{Client, ClientOptions};
use longshore_registry_server::{Options, RegistryServer};
use longshore_solver::testkit::cache_conformance;
use longshore_solver::{
    CacheBackend, CacheKey, CacheRecord, ContentDigest, Group, KeyFields, RecordedOutput, Trace,
};

use super::keyed::KeyedCache;
use super::place::Place;
use super::{CachePlace, document, portable};
use crate::build::cache::StoredCache;
use crate::layer::BlobPlace;

fn client() -> Client {
    Client::new(ClientOptions::anonymous())
}

#[tokio::test]
async fn this_machine_has_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let root = StateRoot::open(folder.path().join("state")).unwrap();
    cache_conformance(&StoredCache::new(root)).await;
}

#[tokio::test]
async fn a_directory_is_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let place = CachePlace::Directory(folder.path().join("cache"));
    cache_conformance(&KeyedCache::new(Place::new(client(), &place))).await;
}

#[tokio::test]
async fn a_repository_is_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let root = StateRoot::open(folder.path().join("state")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = RegistryServer::new(&root, Options::open_to_all());
    let serving = tokio::spawn(server.serve(listener, std::future::pending()));
    let place = CachePlace::Registry(format!("{address}/a/cache:x").parse().unwrap());
    cache_conformance(&KeyedCache::new(Place::new(client(), &place))).await;
    serving.abort();
}

fn record(encoded: &[u8]) -> CacheRecord {
    CacheRecord {
        trace: Trace {
            step: String::new(),
            key: CacheKey([1; 32]),
            groups: vec![Group([2; 32])],
            fields: KeyFields::default(),
            paths: Vec::new(),
            created_s: 3,
        },
        outputs: vec![RecordedOutput {
            identity: ContentDigest([4; 32]),
            encoded: encoded.to_vec(),
        }],
        cost_ms: 5,
    }
}

#[test]
fn a_record_survives_its_document() {
    let blob = Descriptor::of("a/layer", b"blob");
    let written = document::record(&record(b"x"), vec![blob]).unwrap();
    assert_eq!(document::read_record(&written).unwrap(), record(b"x"));
    assert!(
        document::read_traces(&written).is_err(),
        "it is no list of traces"
    );
    assert_eq!(
        document::record_name(&CacheKey([0xab; 32])),
        format!("k-{}", "ab".repeat(20))
    );
}

#[test]
fn what_is_no_document_is_an_error() {
    for bytes in [&b""[..], b"{}", b"[]", b"null", b"\xff", b"{\"layers\":1}"] {
        assert!(document::read_record(bytes).is_err(), "{bytes:?}");
        assert!(document::read_traces(bytes).is_err(), "{bytes:?}");
    }
    let marker = document::marker().unwrap();
    assert!(document::read_record(&marker).is_err());
}

#[test]
fn traces_are_cut_to_what_a_registry_takes() {
    let mut long = record(b"").trace;
    long.step = "x".repeat(1 << 20);
    let traces = vec![long; 8];
    let written = document::traces(&traces).unwrap();
    assert_eq!(document::read_traces(&written).unwrap().len(), 2);
}

#[test]
fn a_record_from_elsewhere_names_a_blob_for_each_layer_that_a_step_made() {
    let place = BlobPlace::Directory("/cache".into());
    let id = "0".repeat(64);
    let made = format!("[{{\"key\":{{\"made\":\"{id}\"}},\"created_s\":1}}]");
    assert!(portable::import(record(made.as_bytes()), &place).is_err());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let place = CachePlace::Directory(folder.path().to_owned());
    let cache = KeyedCache::new(Place::new(client(), &place));
    let key = CacheKey([7; 32]);
    let path = folder
        .path()
        .join("names")
        .join(document::record_name(&key));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "no record").unwrap();
    assert!(cache.lookup(&key).await.is_err());
    cache.record(&[key], &record(b"y")).await.unwrap();
    assert_eq!(cache.lookup(&key).await.unwrap(), Some(record(b"y")));
}
