//! Garbage collection: what is kept and why, and that it harms nobody who works meanwhile.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use longshore_content::cache_records::CacheRecord;
use longshore_content::gc::KeepReason;
use longshore_content::layers::{LayerBlob, LayerRecord};
use longshore_content::registry::{ManifestName, NewManifest, PutManifest};
use longshore_content::{ContentError, GcOptions, GcReport, NoDirectories, StateRoot, UploadId};
use longshore_oci::{Algorithm, Descriptor, DiffId, Digest, LayerId, media_type};

struct Bench {
    dir: tempfile::TempDir,
    root: StateRoot,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::open(dir.path()).unwrap();
        Self { dir, root }
    }

    /// What was stored is no longer leased by whoever stored it.
    fn restart(&mut self) {
        let dir = self.dir.path().to_owned();
        let placeholder = tempfile::tempdir().unwrap();
        self.root = StateRoot::open(placeholder.path()).unwrap();
        self.root = StateRoot::open(dir).unwrap();
    }

    /// As if all the time had passed for which something is leased.
    fn expire_leases(&self) {
        let database = rusqlite::Connection::open(self.dir.path().join("meta.db")).unwrap();
        let changed = database.execute("UPDATE leases SET expires_at = 1", []);
        assert_eq!(changed.unwrap(), 1);
    }

    fn put(&self, content: &str) -> Digest {
        self.root.blobs().put(content.as_bytes()).unwrap()
    }

    fn collect(&self) -> GcReport {
        self.collect_with(&options())
    }

    fn collect_with(&self, options: &GcOptions) -> GcReport {
        self.root
            .collect_garbage(&HashSet::new(), options, &NoDirectories)
            .unwrap()
    }

    fn holds(&self, digest: &Digest) -> bool {
        self.root.blobs().info(digest).unwrap().is_some()
    }

    /// A manifest of one layer, stored as a blob.
    fn manifest(&self, name: &str) -> Tree {
        let config = self.put(&format!("{name} config"));
        let layer = self.put(&format!("{name} layer"));
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":1}},
            "layers":[{{"mediaType":"l","digest":"{layer}","size":1}}]}}"#
        );
        let manifest = self.put(&json);
        Tree {
            manifest,
            config,
            layer,
            size: json.len() as u64,
        }
    }

    fn push(&self, repository: &str, tree: &Tree, subject: Option<Digest>, tags: &[&str]) {
        for blob in [&tree.config, &tree.layer] {
            assert!(self.root.registry().link_blob(repository, blob).unwrap());
        }
        let manifest = NewManifest {
            digest: tree.manifest,
            media_type: media_type::OCI_MANIFEST,
            size_bytes: tree.size,
            subject,
            artifact_type: None,
            annotations: None,
            blobs: &[tree.config, tree.layer],
            manifests: &[],
            optional_blobs: &[],
        };
        let put = self
            .root
            .registry()
            .put_manifest(repository, &manifest, tags);
        assert_eq!(put.unwrap(), PutManifest::Stored);
    }
}

struct Tree {
    manifest: Digest,
    config: Digest,
    layer: Digest,
    size: u64,
}

impl Tree {
    fn all(&self) -> [Digest; 3] {
        [self.manifest, self.config, self.layer]
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, self.manifest, self.size)
    }
}

fn options() -> GcOptions {
    GcOptions {
        push_grace: Duration::ZERO,
        ..GcOptions::blobs_only(Duration::ZERO)
    }
}

fn settle() {
    // Grace compares milliseconds; what was stored in this one is still new.
    std::thread::sleep(Duration::from_millis(3));
}

#[test]
fn what_nothing_names_goes_and_only_that() {
    let mut bench = Bench::new();
    let tree = bench.manifest("image");
    bench
        .root
        .images()
        .set("local/image:1", &tree.descriptor())
        .unwrap();
    let loose = bench.put("loose");
    bench.restart();
    settle();
    let report = bench.collect();
    assert_eq!(report.removed, [(loose, 5)]);
    assert_eq!(report.removed_bytes, 5);
    assert_eq!(report.kept["image"].0, 1);
    assert_eq!(report.kept["child"].0, 2);
    assert!(!bench.holds(&loose));
    assert!(tree.all().iter().all(|digest| bench.holds(digest)));
    assert!(!bench.root.blobs().blob_path(&loose).exists());

    bench.root.images().remove("local/image:1").unwrap();
    let report = bench.collect();
    assert_eq!(report.removed.len(), 3);
    assert_eq!(
        report.removed[0].0, tree.manifest,
        "parents go before children"
    );
}

#[test]
fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let mut bench = Bench::new();
    let tree = bench.manifest("gone");
    let kept = bench.manifest("kept");
    bench
        .root
        .images()
        .set("local/kept:1", &kept.descriptor())
        .unwrap();
    bench
        .root
        .images()
        .set("local/gone:1", &tree.descriptor())
        .unwrap();
    bench.root.images().remove("local/gone:1").unwrap();
    bench.restart();
    settle();
    let dry = bench.collect_with(&GcOptions {
        dry_run: true,
        ..options()
    });
    assert!(tree.all().iter().all(|digest| bench.holds(digest)));
    let wet = bench.collect();
    assert_eq!(dry.removed, wet.removed);
    assert_eq!(dry.kept, wet.kept);
    assert_eq!(wet.removed.len(), 3);
}

#[test]
fn new_blobs_and_leased_ones_stay() {
    let mut bench = Bench::new();
    let fresh = bench.put("fresh");
    settle();
    let report = bench.collect();
    assert_eq!(report.kept["lease"].0, 1, "whoever stored it is alive");
    bench.restart();
    let patient = GcOptions::blobs_only(Duration::from_secs(60));
    let report = bench.collect_with(&patient);
    assert_eq!(report.kept["new"].0, 1);
    let lease = bench
        .root
        .leases()
        .start("build 7", Duration::from_secs(60));
    lease.add_blobs([&fresh]).unwrap();
    assert!(bench.collect().removed.is_empty());
    let reasons = bench
        .root
        .why_kept(&fresh, Duration::ZERO, Duration::ZERO)
        .unwrap();
    assert!(
        matches!(&reasons[..], [KeepReason::Lease { holder, .. }] if holder.starts_with("build 7"))
    );
    drop(lease);
    assert_eq!(bench.collect().removed.len(), 1);
}

#[test]
fn an_expired_lease_keeps_nothing_and_a_renewed_one_does() {
    let mut bench = Bench::new();
    let digest = bench.put("x");
    bench.restart();
    settle();
    let lease = bench
        .root
        .leases()
        .start("short", Duration::from_secs(3600));
    lease.add_blobs([&digest]).unwrap();
    bench.expire_leases();
    lease.renew().unwrap();
    assert!(bench.collect().removed.is_empty());
    bench.expire_leases();
    assert_eq!(bench.collect().removed.len(), 1);
}

#[test]
fn the_caller_may_keep_more_with_all_it_contains() {
    let mut bench = Bench::new();
    let tree = bench.manifest("named");
    bench
        .root
        .images()
        .set("local/x:1", &tree.descriptor())
        .unwrap();
    bench.root.images().remove("local/x:1").unwrap();
    bench.restart();
    settle();
    let keep = HashSet::from([tree.manifest]);
    let report = bench
        .root
        .collect_garbage(&keep, &options(), &NoDirectories)
        .unwrap();
    assert!(report.removed.is_empty());
    assert_eq!(report.kept["named"].0, 1);
}

#[test]
fn layer_and_cache_records_keep_their_blobs() {
    let mut bench = Bench::new();
    let [blob, index, extra] = ["blob", "index", "extra"].map(|name| bench.put(name));
    let layer_id = LayerId([7; 32]);
    let record = LayerRecord {
        diff_id: Some(DiffId(Digest::sha256_of(b"tar"))),
        blob: Some(blob),
        index_blob: Some(index),
        snapshot_id: Some("snap".to_owned()),
        ..LayerRecord::new(layer_id)
    };
    let layers = bench.root.layers();
    layers.put(&record).unwrap();
    layers
        .put_blob(&LayerBlob {
            diff_id: DiffId(Digest::sha256_of(b"tar")),
            blob,
            media_type: media_type::OCI_LAYER_GZIP.to_owned(),
            compression: "gzip".to_owned(),
            size_bytes: 4,
        })
        .unwrap();
    let cached = CacheRecord {
        key: [1; 32],
        record: b"r".to_vec(),
        identity: vec![2; 32],
        fields: "{}".to_owned(),
        grouping: "g".to_owned(),
        cost_ms: 12,
        layers: vec![layer_id],
        blobs: vec![extra],
        created: SystemTime::now(),
        last_used: SystemTime::now(),
    };
    bench.root.cache_records().put(&[cached]).unwrap();
    bench.restart();
    settle();
    let all = GcOptions {
        unreferenced_layers: true,
        ..options()
    };
    let report = bench.collect_with(&all);
    assert!(report.removed.is_empty() && report.layers.is_empty());
    let reasons = bench
        .root
        .why_kept(&blob, Duration::ZERO, Duration::ZERO)
        .unwrap();
    assert_eq!(reasons, [KeepReason::Layer(layer_id)]);
    let reasons = bench
        .root
        .why_kept(&extra, Duration::ZERO, Duration::ZERO)
        .unwrap();
    assert_eq!(reasons, [KeepReason::CacheRecord([1; 32])]);

    let kept = GcOptions {
        cache_unused_for: Some(Duration::ZERO),
        keep_layers: HashSet::from([layer_id]),
        ..all.clone()
    };
    let report = bench.collect_with(&kept);
    assert_eq!(report.cache_records, 1);
    assert_eq!(report.removed, [(extra, 5)]);
    let report = bench.collect_with(&all);
    assert_eq!(report.layers.len(), 1);
    assert_eq!(report.layers[0].snapshot_id.as_deref(), Some("snap"));
    assert_eq!(report.removed.len(), 2);
    assert_eq!(
        bench.root.layers().form_of(&blob).unwrap(),
        None,
        "forms go with their blob"
    );
}

#[test]
fn a_push_in_progress_is_kept_by_its_links_for_a_while() {
    let mut bench = Bench::new();
    let digest = bench.put("layer of a push");
    bench.root.registry().link_blob("app", &digest).unwrap();
    bench.restart();
    settle();
    let hour = Duration::from_secs(3600);
    let reasons = bench.root.why_kept(&digest, Duration::ZERO, hour).unwrap();
    assert!(matches!(&reasons[..], [KeepReason::Pushed { repository, .. }] if repository == "app"));
    let report = bench.collect_with(&GcOptions::blobs_only(Duration::ZERO));
    assert_eq!(report.kept["pushed"], (1, 15));
    assert_eq!(bench.collect().removed.len(), 1);
    assert!(!bench.root.registry().has_blob("app", &digest).unwrap());
}

#[test]
fn what_is_known_of_a_damaged_blob_waits_for_it_to_be_healed() {
    let mut bench = Bench::new();
    let tree = bench.manifest("image");
    bench.push("app", &tree, None, &["latest"]);
    bench.push("other", &tree, None, &[]);
    bench.restart();
    settle();
    for damaged in [tree.layer, tree.manifest] {
        std::fs::write(bench.root.blobs().blob_path(&damaged), "damaged").unwrap();
        assert!(!bench.holds(&damaged));
    }
    assert!(
        bench.collect().removed.is_empty(),
        "the damaged manifest keeps its config"
    );
    bench.manifest("image");
    for repository in ["app", "other"] {
        let registry = bench.root.registry();
        assert!(registry.has_blob(repository, &tree.layer).unwrap());
    }
    assert!(tree.all().iter().all(|digest| bench.holds(digest)));
    bench
        .root
        .registry()
        .remove_manifest("app", &tree.manifest)
        .unwrap();
    bench
        .root
        .registry()
        .remove_manifest("other", &tree.manifest)
        .unwrap();
    std::fs::write(bench.root.blobs().blob_path(&tree.layer), "damaged").unwrap();
    assert!(!bench.holds(&tree.layer));
    bench.restart();
    settle();
    assert_eq!(bench.collect().removed.len(), 2);
    let registry = bench.root.registry();
    assert!(
        !registry.has_blob("app", &tree.layer).unwrap(),
        "nobody waits for it any more"
    );
}

#[test]
fn deleting_a_manifest_frees_what_only_it_needs() {
    let mut bench = Bench::new();
    let tree = bench.manifest("pushed");
    bench.push("app", &tree, None, &["latest"]);
    bench.push("other", &tree, None, &[]);
    bench.restart();
    settle();
    assert!(bench.collect().removed.is_empty());
    let registry = bench.root.registry();
    assert!(registry.remove_manifest("app", &tree.manifest).unwrap());
    assert_eq!(
        registry
            .manifest("app", ManifestName::Tag("latest"))
            .unwrap(),
        None
    );
    assert!(
        bench.collect().removed.is_empty(),
        "another repository has it"
    );
    assert!(registry.remove_manifest("other", &tree.manifest).unwrap());
    assert_eq!(bench.collect().removed.len(), 3);
}

#[test]
fn untagged_manifests_go_but_not_referrers_of_what_stays() {
    let mut bench = Bench::new();
    let tagged = bench.manifest("tagged");
    let signature = bench.manifest("signature");
    let untagged = bench.manifest("untagged");
    let its_signature = bench.manifest("its signature");
    bench.push("app", &tagged, None, &["latest"]);
    bench.push("app", &signature, Some(tagged.manifest), &[]);
    bench.push("app", &untagged, None, &[]);
    bench.push("app", &its_signature, Some(untagged.manifest), &[]);
    bench.restart();
    settle();
    let report = bench.collect_with(&GcOptions {
        untagged_older_than: Some(Duration::ZERO),
        ..options()
    });
    let gone: HashSet<_> = report.manifests.iter().map(|(_, digest)| *digest).collect();
    assert_eq!(
        gone,
        HashSet::from([untagged.manifest, its_signature.manifest])
    );
    assert_eq!(report.removed.len(), 6);
    assert!(
        tagged
            .all()
            .iter()
            .chain(&signature.all())
            .all(|digest| bench.holds(digest))
    );
}

#[test]
fn a_manifest_needs_its_children_here() {
    let bench = Bench::new();
    let tree = bench.manifest("m");
    let registry = bench.root.registry();
    registry.link_blob("app", &tree.config).unwrap();
    let absent = Digest::sha256_of(b"absent child manifest");
    let manifest = NewManifest {
        digest: tree.manifest,
        media_type: media_type::OCI_MANIFEST,
        size_bytes: tree.size,
        subject: Some(Digest::sha256_of(b"unknown subjects are fine")),
        artifact_type: None,
        annotations: None,
        blobs: &[tree.config, tree.layer],
        manifests: &[absent],
        optional_blobs: &[Digest::sha256_of(b"foreign")],
    };
    let put = registry.put_manifest("app", &manifest, &["v1"]).unwrap();
    assert_eq!(put, PutManifest::Missing(vec![tree.layer, absent]));
    assert_eq!(
        registry.manifest("app", ManifestName::Tag("v1")).unwrap(),
        None
    );
}

#[test]
fn idle_uploads_and_leftover_files_go_but_not_open_uploads() {
    let bench = Bench::new();
    let uploads = bench.dir.path().join("uploads");
    std::fs::write(uploads.join("idle"), "x").unwrap();
    std::fs::write(uploads.join("open"), "x").unwrap();
    let held = std::fs::File::open(uploads.join("open")).unwrap();
    held.lock().unwrap();
    let id: UploadId = "never-had-a-file".parse().unwrap();
    bench
        .root
        .registry()
        .start_upload("app", &id, Algorithm::Sha256)
        .unwrap();
    let orphan = Digest::sha256_of(b"orphan");
    std::fs::write(bench.root.blobs().blob_path(&orphan), "orphan").unwrap();
    settle();
    let report = bench.collect_with(&GcOptions {
        uploads_idle: Duration::ZERO,
        ..options()
    });
    assert_eq!((report.uploads, report.orphans), (1, 1));
    assert!(uploads.join("open").exists());
    assert!(!uploads.join("idle").exists());
    assert_eq!(bench.root.registry().upload(&id).unwrap(), None);
    assert!(!bench.root.blobs().blob_path(&orphan).exists());
}

/// Whether somebody waits for the lock that is held on this file, as the kernel says.
fn is_waited_for(lock: &std::fs::File) -> bool {
    let inode = lock.metadata().unwrap().ino();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let ours = format!(":{inode} ");
    locks
        .lines()
        .any(|line| line.contains("-> FLOCK") && line.contains(&ours))
}

#[test]
fn only_one_collection_runs_at_a_time() {
    let bench = Bench::new();
    let lock = std::fs::File::create(bench.dir.path().join("gc.lock")).unwrap();
    lock.lock().unwrap();
    let refused = bench
        .root
        .collect_garbage(&HashSet::new(), &options(), &NoDirectories);
    assert!(matches!(refused, Err(ContentError::CollectionRunning(_))));
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| {
            bench.collect_with(&GcOptions {
                wait: true,
                ..options()
            })
        });
        while !is_waited_for(&lock) {
            assert!(!patient.is_finished(), "it did not wait");
            std::thread::yield_now();
        }
        drop(lock);
        patient.join().unwrap();
    });
}

/// Short-lived writers of the same few contents, beside a collector that spares nothing it may
/// take: what a writer has just stored is there for as long as the writer lives.
#[test]
fn a_collector_never_takes_what_a_living_writer_stored() {
    let dir = tempfile::tempdir().unwrap();
    drop(StateRoot::open(dir.path()).unwrap());
    let done = AtomicBool::new(false);
    let removed = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let root = StateRoot::open(dir.path()).unwrap();
            let mut removed = 0;
            while !done.load(Ordering::SeqCst) {
                let report = root
                    .collect_garbage(&HashSet::new(), &options(), &NoDirectories)
                    .unwrap();
                removed += report.removed.len();
            }
            removed
        });
        let writers: Vec<_> = (0..3)
            .map(|writer: usize| {
                let path = dir.path();
                scope.spawn(move || {
                    for round in 0..40 {
                        let root = StateRoot::open(path).unwrap();
                        let content = format!("content {}", (round + writer) % 4);
                        let digest = root.blobs().put(content.as_bytes()).unwrap();
                        let manifest = format!(
                            r#"{{"schemaVersion":2,"config":{{"digest":"{digest}"}},"layers":[],"w":{writer}}}"#
                        );
                        let manifest = root.blobs().put(manifest.as_bytes()).unwrap();
                        std::thread::yield_now();
                        let read = root.blobs().read_all(&digest, 100).unwrap();
                        assert_eq!(read.unwrap(), content.as_bytes());
                        let descriptor = Descriptor::new("m", manifest, 1);
                        let name = format!("w{writer}/x:1");
                        root.images().set(&name, &descriptor).unwrap();
                        drop(root);
                        let root = StateRoot::open(path).unwrap();
                        assert!(root.blobs().info(&digest).unwrap().is_some(), "an image needs it");
                        root.images().remove(&name).unwrap();
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        let removed = collector.join().unwrap();
        outcomes.into_iter().for_each(Result::unwrap);
        removed
    });
    assert!(
        removed > 10,
        "the collector had hardly anything to do: {removed}"
    );
}
