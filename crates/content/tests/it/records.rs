//! The typed stores over the metadata database.

use std::time::{Duration, SystemTime};

use longshore_content::cache_records::{CacheRecord, CostQuestion};
use longshore_content::layers::{LayerBlob, LayerRecord};
use longshore_content::registry::{ManifestName, NewManifest, PutManifest};
use longshore_content::{StateRoot, UploadId};
use longshore_oci::{Algorithm, Descriptor, DiffId, Digest, LayerId};

fn root() -> (tempfile::TempDir, StateRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = StateRoot::open(dir.path()).unwrap();
    (dir, root)
}

fn descriptor(name: &str) -> Descriptor {
    Descriptor::of("application/x", name.as_bytes())
}

#[test]
fn a_name_that_moves_leaves_a_dangling_image() {
    let (_dir, root) = root();
    let images = root.images();
    images.set("a:1", &descriptor("one")).unwrap();
    images.set("a:1", &descriptor("two")).unwrap();
    assert_eq!(
        images.get("a:1").unwrap().unwrap().descriptor,
        descriptor("two")
    );
    let dangling = images.dangling().unwrap();
    assert_eq!(dangling.len(), 1);
    assert_eq!(dangling[0].descriptor, descriptor("one"));

    images.set("a:2", &descriptor("one")).unwrap();
    assert!(images.dangling().unwrap().is_empty(), "it has a name again");
    images.set("a:3", &descriptor("one")).unwrap();
    images.set("a:3", &descriptor("two")).unwrap();
    assert!(images.dangling().unwrap().is_empty(), "it has another name");
    let names: Vec<_> = images
        .list()
        .unwrap()
        .into_iter()
        .filter_map(|i| i.reference)
        .collect();
    assert_eq!(names, ["a:1", "a:2", "a:3"]);
    assert_eq!(
        images.by_digest(&descriptor("two").digest).unwrap().len(),
        2
    );
}

#[test]
fn setting_the_same_name_again_changes_nothing_but_the_time() {
    let (_dir, root) = root();
    let images = root.images();
    images.set("a:1", &descriptor("one")).unwrap();
    images.set("a:1", &descriptor("one")).unwrap();
    assert_eq!(images.list().unwrap().len(), 1);
}

#[test]
fn images_are_removed_by_name_or_as_dangling() {
    let (_dir, root) = root();
    let images = root.images();
    images.add_dangling(&descriptor("one")).unwrap();
    images.add_dangling(&descriptor("one")).unwrap();
    assert_eq!(images.dangling().unwrap().len(), 1);
    assert!(images.remove_dangling(&descriptor("one").digest).unwrap());
    assert!(!images.remove_dangling(&descriptor("one").digest).unwrap());
    images.set("a:1", &descriptor("one")).unwrap();
    assert!(!images.remove_dangling(&descriptor("one").digest).unwrap());
    assert!(images.remove("a:1").unwrap().is_some());
    assert_eq!(images.remove("a:1").unwrap(), None);
}

#[test]
fn layer_records_grow_and_can_be_changed() {
    let (_dir, root) = root();
    let layers = root.layers();
    let id = LayerId([1; 32]);
    let diff_id = DiffId(Digest::sha256_of(b"tar"));
    let mut record = LayerRecord::new(id);
    layers.put(&record).unwrap();
    record.diff_id = Some(diff_id);
    record.tar_bytes = 10;
    layers.put(&record).unwrap();
    let with_snapshot = LayerRecord {
        snapshot_id: Some("s".to_owned()),
        ..LayerRecord::new(id)
    };
    layers.put(&with_snapshot).unwrap();
    let found = layers.get(&id).unwrap().unwrap();
    assert_eq!((found.diff_id, found.tar_bytes), (Some(diff_id), 10));
    assert_eq!(found.snapshot_id.as_deref(), Some("s"));
    assert_eq!(
        layers.by_diff_id(&diff_id).unwrap(),
        std::slice::from_ref(&found)
    );
    assert_eq!(layers.by_snapshot("s").unwrap(), [found]);
    assert!(
        layers
            .update(&id, |record| record.snapshot_id = None)
            .unwrap()
    );
    assert!(layers.by_snapshot("s").unwrap().is_empty());
    assert!(!layers.update(&LayerId([9; 32]), |_| ()).unwrap());
    assert_eq!(layers.list().unwrap().len(), 1);
    assert!(layers.remove(&id).unwrap());
    assert!(!layers.remove(&id).unwrap());
}

#[test]
fn the_least_recently_used_layer_comes_first() {
    let (_dir, root) = root();
    let layers = root.layers();
    let old = SystemTime::now() - Duration::from_secs(100);
    for number in [1, 2] {
        layers
            .put(&LayerRecord {
                last_used: old,
                ..LayerRecord::new(LayerId([number; 32]))
            })
            .unwrap();
    }
    layers.touch(&[LayerId([1; 32])]).unwrap();
    let order: Vec<_> = layers
        .list()
        .unwrap()
        .iter()
        .map(|layer| layer.layer_id.0[0])
        .collect();
    assert_eq!(order, [2, 1]);
}

#[test]
fn a_tar_stream_may_have_several_forms() {
    let (_dir, root) = root();
    let layers = root.layers();
    let diff_id = DiffId(Digest::sha256_of(b"tar"));
    for compression in ["gzip", "zstd"] {
        let form = LayerBlob {
            diff_id,
            blob: Digest::sha256_of(compression.as_bytes()),
            media_type: format!("x+{compression}"),
            compression: compression.to_owned(),
            size_bytes: 3,
        };
        layers.put_blob(&form).unwrap();
        layers.put_blob(&form).unwrap();
        assert_eq!(layers.form_of(&form.blob).unwrap(), Some(form));
    }
    assert_eq!(layers.blobs_of(&diff_id).unwrap().len(), 2);
    assert!(
        layers
            .blobs_of(&DiffId(Digest::sha256_of(b"")))
            .unwrap()
            .is_empty()
    );
}

fn cache_record(number: u8) -> CacheRecord {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + u64::from(number));
    CacheRecord {
        key: [number; 32],
        record: vec![number, 0, 255],
        identity: vec![9; 32],
        fields: format!("{{\"n\":{number}}}"),
        grouping: "step".to_owned(),
        cost_ms: 5,
        layers: vec![LayerId([number; 32])],
        blobs: vec![Digest::sha256_of(&[number])],
        created: time,
        last_used: time,
    }
}

#[test]
fn cache_records_come_back_as_they_were() {
    let (_dir, root) = root();
    let cache = root.cache_records();
    cache.put(&[cache_record(1), cache_record(2)]).unwrap();
    assert_eq!(cache.get(&[1; 32]).unwrap(), Some(cache_record(1)));
    assert_eq!(cache.get(&[7; 32]).unwrap(), None);
    assert_eq!(cache.in_group("step", 1).unwrap(), [cache_record(2)]);
    assert!(cache.in_group("other", 9).unwrap().is_empty());
    cache.touch(&[[1; 32]]).unwrap();
    let order: Vec<_> = cache
        .list()
        .unwrap()
        .iter()
        .map(|record| record.key[0])
        .collect();
    assert_eq!(order, [2, 1]);
    let replaced = CacheRecord {
        layers: Vec::new(),
        ..cache_record(2)
    };
    cache.put(std::slice::from_ref(&replaced)).unwrap();
    assert_eq!(cache.get(&[2; 32]).unwrap(), Some(replaced));
    assert_eq!(cache.remove(&[[1; 32], [7; 32]]).unwrap(), 1);
    assert_eq!(cache.list().unwrap().len(), 1);
}

#[test]
fn what_a_result_cost_is_known_by_its_key_and_else_by_the_last_similar_one() {
    let (_dir, root) = root();
    let cache = root.cache_records();
    let cost = |number: u8, grouping: &str, cost_ms| CacheRecord {
        grouping: grouping.to_owned(),
        cost_ms,
        ..cache_record(number)
    };
    // The higher the number, the later it was used.
    let records = [
        cost(1, "text", 10),
        cost(2, "place", 20),
        cost(3, "text", 30),
    ];
    cache.put(&records).unwrap();
    let ask = |number: u8, groupings: &[&str]| CostQuestion {
        key: [number; 32],
        groupings: groupings.iter().map(|&name| name.to_owned()).collect(),
    };
    let questions = [
        ask(1, &["place"]),
        ask(7, &["text", "place"]),
        ask(7, &["none", "place"]),
        ask(7, &["none"]),
    ];
    let costs = cache.costs_ms(&questions).unwrap();
    assert_eq!(costs, [Some(10), Some(30), Some(20), None]);
}

#[test]
fn builds_are_listed_newest_first() {
    let (_dir, root) = root();
    let builds = root.builds();
    builds.start("b1", "{}", None).unwrap();
    std::thread::sleep(Duration::from_millis(3));
    builds.start("b2", "{}", Some("/log")).unwrap();
    assert!(
        builds.start("b2", "{}", None).is_err(),
        "an id is used once"
    );
    assert!(builds.finish("b1", "{\"ok\":true}").unwrap());
    assert!(!builds.finish("b9", "{}").unwrap());
    let listed = builds.list(10).unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|build| build.id.as_str())
            .collect::<Vec<_>>(),
        ["b2", "b1"]
    );
    assert_eq!(listed[0].log_path.as_deref(), Some("/log"));
    assert!(listed[0].finished.is_none() && listed[1].finished.is_some());
    assert_eq!(&listed[0].process, root.process());
    assert_eq!(
        builds.remove("b1").unwrap().unwrap().record,
        "{\"ok\":true}"
    );
    assert_eq!(builds.get("b1").unwrap(), None);
}

#[test]
fn small_values_are_kept_by_bucket() {
    let (_dir, root) = root();
    let kv = root.kv();
    kv.put("a", "k", b"1").unwrap();
    kv.put("b", "k", b"2").unwrap();
    kv.put("a", "k", b"3").unwrap();
    kv.put_all("a", [("x", b"y".as_slice())]).unwrap();
    assert_eq!(kv.get("a", "k").unwrap().unwrap(), b"3");
    assert_eq!(kv.list("a").unwrap().len(), 2);
    assert!(kv.remove("a", "k").unwrap());
    assert!(!kv.remove("a", "k").unwrap());
    kv.clear("a").unwrap();
    assert!(kv.list("a").unwrap().is_empty());
    assert_eq!(kv.get("b", "k").unwrap().unwrap(), b"2");
}

fn put(root: &StateRoot, repository: &str, content: &str, tags: &[&str]) -> Digest {
    let digest = root.blobs().put(content.as_bytes()).unwrap();
    let manifest = NewManifest {
        digest,
        media_type: "m",
        size_bytes: content.len() as u64,
        subject: None,
        artifact_type: Some("type/x"),
        annotations: Some("{\"a\":\"b\"}"),
        blobs: &[],
        manifests: &[],
        optional_blobs: &[],
    };
    let put = root.registry().put_manifest(repository, &manifest, tags);
    assert_eq!(put.unwrap(), PutManifest::Stored);
    digest
}

#[test]
fn tags_and_repositories_are_listed_in_byte_order_by_pages() {
    let (_dir, root) = root();
    let registry = root.registry();
    put(&root, "b/x", "m1", &["v2", "v10", "V1", "latest"]);
    put(&root, "a", "m2", &[]);
    let page = |last, limit| registry.tags("b/x", last, limit).unwrap().unwrap();
    assert_eq!(page(None, 10), ["V1", "latest", "v10", "v2"]);
    assert_eq!(page(None, 2), ["V1", "latest"]);
    assert_eq!(page(Some("latest"), 2), ["v10", "v2"]);
    assert_eq!(page(Some("m"), 1), ["v10"]);
    assert!(page(None, 0).is_empty());
    assert_eq!(registry.tags("a", None, 10).unwrap(), Some(Vec::new()));
    assert_eq!(registry.tags("unknown", None, 10).unwrap(), None);
    assert_eq!(registry.repositories(None, 10).unwrap(), ["a", "b/x"]);
    assert_eq!(registry.repositories(Some("a"), 10).unwrap(), ["b/x"]);
}

#[test]
fn a_tag_can_move_and_be_removed_alone() {
    let (_dir, root) = root();
    let registry = root.registry();
    let first = put(&root, "a", "m1", &["t", "u"]);
    let second = put(&root, "a", "m2", &["t"]);
    let by_tag = |tag| registry.manifest("a", ManifestName::Tag(tag)).unwrap();
    assert_eq!(by_tag("t").unwrap().digest, second);
    assert_eq!(by_tag("u").unwrap().digest, first);
    assert!(registry.remove_tag("a", "t").unwrap());
    assert!(!registry.remove_tag("a", "t").unwrap());
    assert!(
        registry
            .manifest("a", ManifestName::Digest(&second))
            .unwrap()
            .is_some()
    );
    assert!(registry.remove_manifest("a", &first).unwrap());
    assert_eq!(by_tag("u"), None);
    assert!(!registry.remove_manifest("a", &first).unwrap());
    assert!(!registry.remove_manifest("b", &first).unwrap());
}

#[test]
fn a_blob_is_visible_only_where_it_is_linked() {
    let (_dir, root) = root();
    let registry = root.registry();
    let digest = root.blobs().put(b"layer").unwrap();
    assert!(
        !registry.mount_blob("b", &digest, None).unwrap(),
        "nobody has it yet"
    );
    assert!(registry.link_blob("a", &digest).unwrap());
    assert!(!registry.has_blob("b", &digest).unwrap());
    assert!(!registry.mount_blob("b", &digest, Some("c")).unwrap());
    assert!(registry.mount_blob("b", &digest, Some("a")).unwrap());
    assert!(registry.mount_blob("c", &digest, None).unwrap());
    assert_eq!(registry.holders(&digest).unwrap(), ["a", "b", "c"]);
    assert!(registry.unlink_blob("a", &digest).unwrap());
    assert!(!registry.unlink_blob("a", &digest).unwrap());
    assert!(registry.touch_blob("b", &digest).unwrap());
    assert!(!registry.touch_blob("a", &digest).unwrap());
    assert!(
        !registry
            .link_blob("a", &Digest::sha256_of(b"absent"))
            .unwrap()
    );
}

#[test]
fn a_blob_that_was_asked_for_counts_as_pushed_anew() {
    let (dir, root) = root();
    let registry = root.registry();
    let digest = root.blobs().put(b"layer").unwrap();
    registry.link_blob("a", &digest).unwrap();
    let database = rusqlite::Connection::open(dir.path().join("meta.db")).unwrap();
    let touched_at = || -> i64 {
        let sql = "SELECT touched_at FROM blob_links";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let first = touched_at();
    assert!(registry.touch_blob("a", &digest).unwrap());
    assert_eq!(touched_at(), first, "a moment later nothing is written");
    let sql = "UPDATE blob_links SET touched_at = touched_at - 600000";
    database.execute(sql, []).unwrap();
    assert!(registry.touch_blob("a", &digest).unwrap());
    assert!(touched_at() >= first);
    database.execute(sql, []).unwrap();
    root.blobs().remove(&digest).unwrap();
    assert!(!registry.touch_blob("a", &digest).unwrap());
}

#[test]
fn uploads_are_known_until_they_are_finished_or_cancelled() {
    let (_dir, root) = root();
    let registry = root.registry();
    let [one, two] = [UploadId::random(), UploadId::random()];
    registry.start_upload("a", &one, Algorithm::Sha512).unwrap();
    registry.start_upload("a", &two, Algorithm::Sha256).unwrap();
    assert!(registry.start_upload("a", &two, Algorithm::Sha256).is_err());
    registry.touch_upload(&one).unwrap();
    assert_eq!(
        registry.upload(&one).unwrap().unwrap().algorithm,
        Algorithm::Sha512
    );
    let digest = root.blobs().put(b"x").unwrap();
    assert!(registry.finish_upload("a", &one, &digest).unwrap());
    assert_eq!(registry.upload(&one).unwrap(), None);
    assert!(registry.has_blob("a", &digest).unwrap());
    assert!(registry.cancel_upload(&two).unwrap());
    assert!(!registry.cancel_upload(&two).unwrap());
}
