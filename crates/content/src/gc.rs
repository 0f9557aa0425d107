//! Garbage collection: removes the blobs that nothing needs, beside running pushes and builds.
//!
//! First a look at one consistent snapshot finds candidates, without holding anyone up. Then
//! each candidate is asked again inside a write transaction; only if nothing needs it there
//! either, its row goes. So a reference or lease that was committed before the removal prevents
//! it, and whoever comes after it sees that the blob is gone. Then the file goes, unless the
//! blob is being stored again. Children are asked after their parents are gone.
//!
//! Kept is what an image, a registry manifest, a layer record, a cache record or a lease
//! names, what a kept manifest needs, what the caller names, and what is new: a blob that was
//! stored, or whose link in a repository was touched, within the grace period.

mod directories;
mod evict;
mod files;
mod records;
mod why;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use longshore_oci::{Digest, LayerId};
use rusqlite::{Connection, Transaction, params};

use crate::database::{Durability, from_sql, parse};
use crate::layers::LayerRecord;
use crate::local;
use crate::time::{duration_ms, now_ms};
use crate::{ContentError, StateRoot, leases};

pub use directories::{Directories, NoDirectories};
pub use evict::{CacheItem, CacheUsage, Candidate};

/// How many candidates are asked in one transaction: each holds up writers for about a
/// millisecond.
const BATCH: usize = 32;
/// As long as a blob that was just stored is leased.
const PUSH_GRACE: Duration = Duration::from_secs(3600);

/// What a collection may remove.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// What is newer is kept.
    pub grace: Duration,
    /// What a push was told is here is kept for so long, for its manifest to come: blobs that
    /// no manifest needs, in repositories where they were pushed, mounted or asked for.
    pub push_grace: Duration,
    /// Uploads of which nothing arrived for longer are dropped.
    pub uploads_idle: Duration,
    /// Registry manifests without a tag that are older, that no index in their repository
    /// contains and that refer to nothing there, are removed first. `None` keeps them.
    pub untagged_older_than: Option<Duration>,
    /// Images of the local store without a name are removed first.
    pub dangling_images: bool,
    /// Cache records that were not used for longer are removed first. `None` keeps them.
    pub cache_unused_for: Option<Duration>,
    /// Layer records that no cache record and no lease names, whose blob no image needs, and
    /// that were not used within the grace period, are removed first.
    pub unreferenced_layers: bool,
    /// Further layers to keep.
    pub keep_layers: HashSet<LayerId>,
    /// Only these blobs may go; `None` for any.
    pub only: Option<HashSet<Digest>>,
    /// Only says what would be removed.
    pub dry_run: bool,
    /// Waits for a collection that runs already, rather than being refused.
    pub wait: bool,
}

impl GcOptions {
    /// Removes nothing but blobs, and uploads that were given up a week ago.
    pub fn blobs_only(grace: Duration) -> Self {
        Self {
            grace,
            push_grace: PUSH_GRACE,
            uploads_idle: Duration::from_secs(7 * 24 * 3600),
            untagged_older_than: None,
            dangling_images: false,
            cache_unused_for: None,
            unreferenced_layers: false,
            keep_layers: HashSet::new(),
            only: None,
            dry_run: false,
            wait: false,
        }
    }
}

/// Why a blob is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// The caller named it or what needs it.
    Named,
    /// It is an image of the local store, with this name if it has one.
    Image(Option<String>),
    /// It is a manifest in this repository.
    Manifest {
        /// The repository.
        repository: String,
    },
    /// A manifest needs it.
    Child {
        /// The manifest.
        parent: Digest,
    },
    /// A layer record names it.
    Layer(LayerId),
    /// A cache record names it: its key.
    CacheRecord([u8; 32]),
    /// A process needs it.
    Lease {
        /// What the process calls its lease.
        holder: String,
        /// When the lease ends by itself.
        expires: SystemTime,
    },
    /// A push to this repository may be about to use it.
    Pushed {
        /// The repository.
        repository: String,
        /// When the push last asked for it.
        touched: SystemTime,
    },
    /// It was stored a moment ago.
    New {
        /// When.
        created: SystemTime,
    },
}

impl KeepReason {
    /// The reason's kind, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Image(_) => "image",
            Self::Manifest { .. } => "manifest",
            Self::Child { .. } => "child",
            Self::Layer(_) => "layer",
            Self::CacheRecord(_) => "cache",
            Self::Lease { .. } => "lease",
            Self::Pushed { .. } => "pushed",
            Self::New { .. } => "new",
        }
    }
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// The removed blobs and their sizes.
    pub removed: Vec<(Digest, u64)>,
    /// The size of all removed files.
    pub removed_bytes: u64,
    /// How many blobs are kept, and their size, by the kind of the first reason found.
    pub kept: BTreeMap<String, (u64, u64)>,
    /// The removed images that had no name.
    pub images: Vec<Digest>,
    /// The removed layer records.
    pub layers: Vec<LayerRecord>,
    /// How many cache records were removed.
    pub cache_records: usize,
    /// The removed registry manifests: repository and digest.
    pub manifests: Vec<(String, Digest)>,
    /// How many given up uploads were dropped.
    pub uploads: usize,
    /// How many files were found that no row knows, left by crashes.
    pub orphans: usize,
}

impl StateRoot {
    /// Removes what nothing needs; `keep` and what it contains is kept besides. A layer goes
    /// with its directory, or stays while something stands on that.
    ///
    /// # Errors
    /// [`ContentError::CollectionRunning`] when another one runs and is not to be waited for;
    /// else what fails first. What was removed until then stays removed.
    pub fn collect_garbage(
        &self,
        keep: &HashSet<Digest>,
        options: &GcOptions,
        directories: &dyn Directories,
    ) -> Result<GcReport, ContentError> {
        let _only = self.lock_collection(options.wait)?;
        leases::sweep(&self.db(), &self.path().join("tmp"))?;
        let mut collection = Collection {
            root: self,
            options,
            directories,
            window: Window::new(options.grace, options.push_grace),
            named: self.closure(keep)?,
            report: GcReport::default(),
        };
        if options.dry_run {
            collection.rehearse()?;
        } else {
            collection.run()?;
        }
        Ok(collection.report)
    }

    /// The digests with all that they contain, as far as it is known.
    fn closure(&self, roots: &HashSet<Digest>) -> Result<HashSet<Digest>, ContentError> {
        self.db().read("find children", |connection| {
            let mut found = HashSet::new();
            let mut open: Vec<Digest> = roots.iter().copied().collect();
            while let Some(digest) = open.pop() {
                if found.insert(digest) {
                    let sql = "SELECT child FROM edges WHERE parent = ?1";
                    open.extend(why::digests(connection, sql, &digest)?);
                }
            }
            Ok(found)
        })
    }

    fn lock_collection(&self, wait: bool) -> Result<File, ContentError> {
        let path = self.path().join("gc.lock");
        let file = File::create(&path).map_err(ContentError::io("create", &path))?;
        let locked = if wait {
            file.lock().map_err(fs::TryLockError::Error)
        } else {
            file.try_lock()
        };
        match locked {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(ContentError::CollectionRunning(self.path().to_owned()))
            }
            Err(fs::TryLockError::Error(error)) => Err(ContentError::io("lock", &path)(error)),
        }
    }
}

/// The collection's idea of now, and of what is too new to go.
struct Window {
    now_ms: i64,
    cutoff_ms: i64,
    push_cutoff_ms: i64,
}

impl Window {
    fn new(grace: Duration, push_grace: Duration) -> Self {
        let now_ms = now_ms();
        Self {
            now_ms,
            cutoff_ms: now_ms.saturating_sub(duration_ms(grace)),
            push_cutoff_ms: now_ms.saturating_sub(duration_ms(push_grace)),
        }
    }

    fn before(&self, age: Duration) -> i64 {
        self.now_ms.saturating_sub(duration_ms(age))
    }
}

struct Collection<'a> {
    root: &'a StateRoot,
    options: &'a GcOptions,
    directories: &'a dyn Directories,
    window: Window,
    named: HashSet<Digest>,
    report: GcReport,
}

/// A blob without a reason to stay, and its size.
type Garbage = (Digest, u64);

impl Collection<'_> {
    fn run(&mut self) -> Result<(), ContentError> {
        let db = self.root.db();
        let durability = Durability::Published;
        loop {
            // Each time: a manifest that went kept the records of its layers until then.
            db.write("drop unused records", durability, |transaction| {
                self.drop_records(transaction)
            })?;
            let candidates = db.read("look for garbage", |snapshot| self.candidates(snapshot))?;
            let mut progress = false;
            for batch in candidates.chunks(BATCH) {
                progress |= self.drop_batch(batch)?;
            }
            if !progress {
                break;
            }
        }
        self.drop_uploads()?;
        self.drop_orphans()
    }

    /// Does the same to the rows, and takes it back.
    fn rehearse(&mut self) -> Result<(), ContentError> {
        let db = self.root.db();
        db.rehearse("look for garbage", |transaction| {
            loop {
                self.drop_records(transaction)?;
                let candidates = self.candidates(transaction)?;
                if candidates.is_empty() {
                    return Ok(());
                }
                for candidate in candidates {
                    local::forget(transaction, &candidate.0)?;
                    self.note_removed(candidate);
                }
            }
        })
    }

    /// Blobs that nothing needs, as far as `connection` can see; counts the others.
    fn candidates(&mut self, connection: &Connection) -> Result<Vec<Garbage>, ContentError> {
        self.report.kept.clear();
        let mut candidates = Vec::new();
        let sql = format!("SELECT digest, size, {REASON} FROM blobs");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![
            self.window.cutoff_ms,
            self.window.now_ms,
            self.window.push_cutoff_ms
        ])?;
        while let Some(row) = rows.next()? {
            let digest: Digest = parse("digest", &row.get::<_, String>(0)?)?;
            let size_bytes = from_sql(row.get(1)?);
            if self
                .options
                .only
                .as_ref()
                .is_some_and(|only| !only.contains(&digest))
            {
                continue;
            }
            let mut reason: Option<String> = row.get(2)?;
            if reason.is_none() && self.named.contains(&digest) {
                reason = Some("named".to_owned());
            }
            match reason {
                None => candidates.push((digest, size_bytes)),
                Some(reason) => {
                    let kept = self.report.kept.entry(reason).or_default();
                    kept.0 += 1;
                    kept.1 += size_bytes;
                }
            }
        }
        Ok(candidates)
    }

    /// Asks the candidates again, where nobody can add a reason meanwhile.
    fn drop_batch(&mut self, batch: &[Garbage]) -> Result<bool, ContentError> {
        let blobs = self.root.blobs();
        let db = self.root.db();
        let window = &self.window;
        let dropped = db.write("remove garbage", Durability::Published, |transaction| {
            let mut dropped = Vec::new();
            for candidate in batch {
                if is_garbage(transaction, &candidate.0, window)? {
                    local::forget(transaction, &candidate.0)?;
                    dropped.push(*candidate);
                }
            }
            Ok(dropped)
        })?;
        for candidate in &dropped {
            blobs.sweep_file(&candidate.0)?;
            self.note_removed(*candidate);
        }
        Ok(!dropped.is_empty())
    }

    fn note_removed(&mut self, (digest, size_bytes): Garbage) {
        self.report.removed.push((digest, size_bytes));
        self.report.removed_bytes += size_bytes;
    }
}

/// Why a blob stays, or null: the first that holds. `?1` is since when a blob is too new to go,
/// `?2` is now, `?3` is since when a push may still be going on. The same kinds as
/// [`KeepReason::kind`]. A manifest keeps its children also while its own bytes are damaged.
const REASON: &str = "CASE
    WHEN created_at >= ?1 THEN 'new'
    WHEN EXISTS (SELECT 1 FROM images WHERE digest = blobs.digest) THEN 'image'
    WHEN EXISTS (SELECT 1 FROM manifests WHERE digest = blobs.digest) THEN 'manifest'
    WHEN EXISTS (SELECT 1 FROM edges WHERE child = blobs.digest
                 AND (EXISTS (SELECT 1 FROM blobs AS parents WHERE digest = edges.parent)
                   OR EXISTS (SELECT 1 FROM manifests WHERE digest = edges.parent)
                   OR EXISTS (SELECT 1 FROM images WHERE digest = edges.parent))) THEN 'child'
    WHEN EXISTS (SELECT 1 FROM layers WHERE blob = blobs.digest) THEN 'layer'
    WHEN EXISTS (SELECT 1 FROM layers WHERE index_blob = blobs.digest) THEN 'layer'
    WHEN EXISTS (SELECT 1 FROM cache_blobs WHERE digest = blobs.digest) THEN 'cache'
    WHEN EXISTS (SELECT 1 FROM leases WHERE kind IN ('blob', 'placing') AND target = blobs.digest
                 AND expires_at > ?2) THEN 'lease'
    WHEN EXISTS (SELECT 1 FROM blob_links WHERE digest = blobs.digest
                 AND touched_at >= ?3) THEN 'pushed'
    END";

fn is_garbage(
    transaction: &Transaction<'_>,
    digest: &Digest,
    window: &Window,
) -> Result<bool, ContentError> {
    let sql = format!("SELECT {REASON} FROM blobs WHERE digest = ?4");
    let mut statement = transaction.prepare_cached(&sql)?;
    let digest = digest.to_string();
    let arguments = params![
        window.cutoff_ms,
        window.now_ms,
        window.push_cutoff_ms,
        digest
    ];
    let mut rows = statement.query(arguments)?;
    let Some(row) = rows.next()? else {
        return Ok(false);
    };
    let reason: Option<String> = row.get(0)?;
    Ok(reason.is_none())
}
