//! What every cache has to do.

use crate::key::{self, KeyFields};
use crate::{
    CacheBackend, CacheKey, CacheRecord, ContentDigest, Group, NEAREST_MAX, PastStep,
    RecordedOutput, Trace,
};

/// Runs the contract of [`CacheBackend`] against an empty `cache`.
///
/// # Panics
/// When the cache does not keep it.
pub async fn cache_conformance(cache: &dyn CacheBackend) {
    nothing_is_known_at_first(cache).await;
    a_record_stands_under_each_of_its_keys(cache).await;
    the_last_record_of_a_key_counts(cache).await;
    traces_come_newest_first_and_are_bounded(cache).await;
    a_key_that_ran_again_has_one_trace(cache).await;
    costs_are_the_records_own_or_not_known(cache).await;
}

async fn costs_are_the_records_own_or_not_known(cache: &dyn CacheBackend) {
    let mut record = sample(50, 5, b"x");
    record.cost_ms = 70;
    put(cache, &[50], &record).await;
    let step = |number: u8, group: u8| PastStep {
        key: key(number),
        groups: vec![Group([group; 32])],
    };
    let steps = [step(50, 9), step(51, 5), step(52, 9)];
    let costs = cache.costs(&steps).await.expect("a cache that works");
    let knows = [Some(70), Some(70), None];
    assert!(costs == knows || costs == [None; 3], "{costs:?}");
}

async fn nothing_is_known_at_first(cache: &dyn CacheBackend) {
    assert!(lookup(cache, 1).await.is_none());
    assert!(nearest(cache, 1).await.is_empty());
}

async fn a_record_stands_under_each_of_its_keys(cache: &dyn CacheBackend) {
    let record = sample(1, 1, b"one");
    put(cache, &[1, 2], &record).await;
    assert_eq!(lookup(cache, 1).await.as_ref(), Some(&record));
    assert_eq!(lookup(cache, 2).await.as_ref(), Some(&record));
    assert!(lookup(cache, 3).await.is_none());
    assert_eq!(nearest(cache, 1).await, [record.trace]);
}

async fn the_last_record_of_a_key_counts(cache: &dyn CacheBackend) {
    let again = sample(1, 1, b"again");
    put(cache, &[2], &again).await;
    let (first, second) = (lookup(cache, 1).await, lookup(cache, 2).await);
    assert_eq!(
        first.map(|record| record.outputs),
        Some(sample(1, 1, b"one").outputs)
    );
    assert_eq!(second, Some(again));
}

async fn traces_come_newest_first_and_are_bounded(cache: &dyn CacheBackend) {
    for number in 0..12 {
        put(cache, &[20 + number], &sample(20 + number, 2, b"x")).await;
    }
    let keys: Vec<_> = nearest(cache, 2)
        .await
        .iter()
        .map(|trace| trace.key)
        .collect();
    let newest = (0..12).rev().map(|number| key(20 + number));
    assert_eq!(keys, newest.take(NEAREST_MAX).collect::<Vec<_>>());
    assert_eq!(nearest(cache, 1).await.len(), 1, "groups are apart");
}

async fn a_key_that_ran_again_has_one_trace(cache: &dyn CacheBackend) {
    for number in [40, 41, 40] {
        put(cache, &[number], &sample(number, 3, b"x")).await;
    }
    let keys: Vec<_> = nearest(cache, 3)
        .await
        .iter()
        .map(|trace| trace.key)
        .collect();
    assert_eq!(keys, [key(40), key(41)]);
}

async fn lookup(cache: &dyn CacheBackend, number: u8) -> Option<CacheRecord> {
    cache
        .lookup(&key(number))
        .await
        .expect("a cache that works")
}

async fn nearest(cache: &dyn CacheBackend, number: u8) -> Vec<Trace> {
    let group = Group([number; 32]);
    cache.nearest(&group).await.expect("a cache that works")
}

async fn put(cache: &dyn CacheBackend, keys: &[u8], record: &CacheRecord) {
    let keys: Vec<_> = keys.iter().map(|number| key(*number)).collect();
    cache
        .record(&keys, record)
        .await
        .expect("a cache that works");
}

fn key(number: u8) -> CacheKey {
    CacheKey([number; 32])
}

fn sample(number: u8, group: u8, encoded: &[u8]) -> CacheRecord {
    let (_, fields) = key::content_key(&KeyFields::default(), &[]);
    CacheRecord {
        trace: Trace {
            step: format!("RUN {number}"),
            key: key(number),
            groups: vec![Group([group; 32])],
            fields,
            paths: Vec::new(),
            created_s: 1,
        },
        outputs: vec![RecordedOutput {
            identity: ContentDigest([number; 32]),
            encoded: encoded.to_vec(),
        }],
        cost_ms: 5,
    }
}
