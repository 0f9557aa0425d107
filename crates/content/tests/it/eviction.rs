//! What of the build cache goes first, and what stays whatever is asked for.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::time::{Duration, SystemTime};

use longshore_content::cache_records::CacheRecord;
use longshore_content::gc::{CacheItem, Candidate};
use longshore_content::layers::LayerRecord;
use longshore_content::{Directories, GcOptions, StateRoot};
use longshore_oci::{Descriptor, Digest, LayerId, media_type};

const HOUR: Duration = Duration::from_secs(3600);
const PUSH_GRACE: Duration = Duration::ZERO;

struct Bench {
    _dir: tempfile::TempDir,
    root: StateRoot,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::open(dir.path()).unwrap();
        Self { _dir: dir, root }
    }

    /// A layer with a blob of so many bytes, and a directory of so many.
    fn layer(&self, number: u8, blob_bytes: usize, directory_bytes: u64) -> LayerId {
        let id = LayerId([number; 32]);
        let mut record = LayerRecord::new(id);
        if blob_bytes > 0 {
            let blob = self.root.blobs().put(&vec![number; blob_bytes]).unwrap();
            record.blob = Some(blob);
        }
        if directory_bytes > 0 {
            record.snapshot_id = Some(format!("directory{number}"));
            record.snapshot_bytes = directory_bytes;
        }
        record.last_used = SystemTime::UNIX_EPOCH;
        self.root.layers().put(&record).unwrap();
        // What this process stored is held for it, as if it were about to refer to it.
        self.root.leases().forget_new().unwrap();
        id
    }

    fn blob_of(&self, layer: &LayerId) -> Digest {
        let record = self.root.layers().get(layer).unwrap().unwrap();
        record.blob.unwrap()
    }

    /// A result of these layers that took so long and was last of use so long ago.
    fn result(&self, number: u8, layers: &[LayerId], cost_ms: u64, age: Duration) {
        let used = SystemTime::now() - age;
        let record = CacheRecord {
            key: [number; 32],
            record: vec![number],
            identity: vec![number],
            fields: "[]".to_owned(),
            grouping: String::new(),
            cost_ms,
            layers: layers.to_vec(),
            blobs: Vec::new(),
            created: used,
            last_used: used,
        };
        self.root.cache_records().put(&[record]).unwrap();
    }

    fn plan(&self, free_bytes: u64) -> Vec<Candidate> {
        let everything = |_: &Candidate| true;
        self.root
            .plan_eviction(free_bytes, &[], PUSH_GRACE, &everything)
            .unwrap()
    }

    fn order(&self, free_bytes: u64) -> Vec<CacheItem> {
        let plan = self.plan(free_bytes);
        plan.into_iter().map(|candidate| candidate.item).collect()
    }
}

fn result(number: u8) -> CacheItem {
    CacheItem::Result(vec![[number; 32]])
}

#[test]
fn what_takes_more_costs_less_or_was_used_longer_ago_goes_first() {
    let bench = Bench::new();
    for (number, bytes) in [(1, 1000), (2, 1000), (3, 1000), (4, 200_000)] {
        bench.layer(number, bytes, 0);
    }
    let of = |number| [LayerId([number; 32])];
    bench.result(1, &of(1), 1000, HOUR);
    bench.result(2, &of(2), 10, HOUR);
    bench.result(3, &of(3), 1000, 100 * HOUR);
    bench.result(4, &of(4), 1000, HOUR);
    assert_eq!(
        bench.order(u64::MAX),
        // Per byte: the large one, the cheap one, the old one, the rest.
        [result(4), result(2), result(3), result(1)],
    );
    assert_eq!(bench.order(50_000), [result(4)], "no more than asked for");
}

#[test]
fn what_results_stand_on_goes_after_them_and_is_as_fresh_as_they() {
    let bench = Bench::new();
    let (base, top) = (bench.layer(1, 1000, 0), bench.layer(2, 1000, 0));
    let other = bench.layer(3, 1000, 0);
    bench.result(1, &[base], 100, 1000 * HOUR);
    bench.result(2, &[base, top], 100, HOUR);
    bench.result(3, &[other], 100, 10 * HOUR);
    // A warm build asks for the last result alone: what is below it was of use all the same.
    assert_eq!(bench.order(u64::MAX), [result(3), result(2), result(1)]);
    assert_eq!(bench.plan(u64::MAX)[1].bytes, 1000, "its own layer alone");
}

#[test]
fn a_directory_whose_blob_is_here_goes_before_what_it_was_unpacked_from() {
    let bench = Bench::new();
    let both = bench.layer(1, 1000, 1_000_000);
    let alone = bench.layer(2, 0, 1_000_000);
    bench.result(1, &[both], 60_000, HOUR);
    bench.result(2, &[alone], 60_000, HOUR);
    let order = bench.order(u64::MAX);
    assert_eq!(order[0], CacheItem::Directory(both));
    assert_eq!(order[1], result(2), "its only form");
    assert_eq!(order[2], result(1));
}

#[test]
fn what_is_leased_tagged_or_pushed_frees_nothing() {
    let bench = Bench::new();
    let (leased, tagged) = (bench.layer(1, 1000, 500), bench.layer(2, 1000, 0));
    let blob_leased = bench.layer(3, 1000, 0);
    bench.result(1, &[leased], 1, HOUR);
    bench.result(2, &[tagged], 1, HOUR);
    bench.result(3, &[blob_leased], 1, HOUR);
    let lease = bench.root.leases().start("a build", HOUR);
    lease.add_layers([&leased]).unwrap();
    lease.add_blobs([&bench.blob_of(&blob_leased)]).unwrap();
    let config = bench.root.blobs().put(b"{}").unwrap();
    let json = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},
        "layers":[{{"mediaType":"l","digest":"{}","size":1000}}]}}"#,
        bench.blob_of(&tagged)
    );
    let manifest = bench.root.blobs().put(json.as_bytes()).unwrap();
    let descriptor = Descriptor::new(media_type::OCI_MANIFEST, manifest, json.len() as u64);
    bench.root.images().set("app:1", &descriptor).unwrap();
    assert_eq!(bench.order(u64::MAX), []);
    drop(lease);
    assert_eq!(bench.order(u64::MAX), [result(1), result(3)]);
    let usage = bench.root.cache_usage(PUSH_GRACE).unwrap();
    assert_eq!(
        (usage.blobs, usage.blob_bytes),
        (2, 2000),
        "not the image's"
    );
    assert_eq!((usage.directories, usage.directory_bytes), (1, 500));
}

#[test]
fn what_is_not_meant_stays() {
    let bench = Bench::new();
    let layer = bench.layer(1, 1000, 0);
    bench.result(1, &[layer], 1, HOUR);
    let other = Candidate {
        item: CacheItem::Other("a mount".to_owned()),
        bytes: 10,
        cost_ms: 1,
        last_used: SystemTime::now(),
    };
    let others = |candidate: &Candidate| matches!(candidate.item, CacheItem::Other(_));
    let plan =
        bench
            .root
            .plan_eviction(u64::MAX, std::slice::from_ref(&other), PUSH_GRACE, &others);
    assert_eq!(plan.unwrap(), [other]);
}

/// Directories of which one is in use.
#[derive(Default)]
struct Shelf {
    in_use: HashSet<String>,
    gone: RefCell<Vec<String>>,
}

impl Directories for Shelf {
    fn discard(&self, snapshot_id: &str) -> io::Result<bool> {
        if self.in_use.contains(snapshot_id) {
            return Ok(false);
        }
        self.gone.borrow_mut().push(snapshot_id.to_owned());
        Ok(true)
    }
}

#[test]
fn a_layer_goes_with_its_directory_and_stays_while_that_is_in_use() {
    let bench = Bench::new();
    let (free, used) = (bench.layer(1, 0, 10), bench.layer(2, 0, 10));
    let shelf = Shelf {
        in_use: HashSet::from(["directory2".to_owned()]),
        ..Shelf::default()
    };
    let options = GcOptions {
        unreferenced_layers: true,
        ..GcOptions::blobs_only(Duration::ZERO)
    };
    let collect = |options: &GcOptions| {
        let keep = HashSet::new();
        let report = bench.root.collect_garbage(&keep, options, &shelf);
        report.unwrap().layers.len()
    };
    let rehearsal = GcOptions {
        dry_run: true,
        ..options.clone()
    };
    assert_eq!(collect(&rehearsal), 2);
    assert!(shelf.gone.borrow().is_empty(), "only said");
    assert_eq!(collect(&options), 1);
    assert_eq!(*shelf.gone.borrow(), ["directory1"]);
    assert!(bench.root.layers().get(&free).unwrap().is_none());
    assert!(bench.root.layers().get(&used).unwrap().is_some());
}

#[test]
fn a_leased_layer_keeps_its_directory() {
    let bench = Bench::new();
    let layer = bench.layer(1, 100, 10);
    let shelf = Shelf::default();
    let lease = bench.root.leases().start("a build", HOUR);
    lease.add_layers([&layer]).unwrap();
    assert!(!bench.root.drop_directory(&layer, &shelf).unwrap());
    drop(lease);
    assert!(bench.root.drop_directory(&layer, &shelf).unwrap());
    let record = bench.root.layers().get(&layer).unwrap().unwrap();
    assert_eq!((record.snapshot_id, record.snapshot_bytes), (None, 0));
    assert!(record.blob.is_some(), "its other form stays");
}
