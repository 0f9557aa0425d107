//! Blobs by digest on disk, crash-safe, with the metadata database, leases and garbage collection.
//!
//! Everything Longshore keeps lives under one directory, the state root:
//!
//! ```text
//! <root>/                         0700
//! ├── format                      the layout's version, one line: `longshore-state 1`
//! ├── lock                        locked while a process opens the root; nothing in it
//! ├── gc.lock                     locked while a collection runs; nothing in it
//! ├── boot                        the boot that last opened the root
//! ├── meta.db (-wal, -shm)        SQLite: what the blobs are for (see [`mod@schema`])
//! ├── blobs/<alg>/<2 hex>/<hex>   content; the name is its digest
//! ├── uploads/<id>                content that is still arriving and may be resumed
//! ├── tmp/<process>.lock          locked while that process lives
//! ├── tmp/<process>/…             its unfinished files; removed once it is dead
//! ├── snapshots/, cache/          of other crates
//! ```
//!
//! Invariants:
//!
//! 1. A blob is readable only after its digest was verified, its bytes and its directory
//!    entry are on disk, and its row in `meta.db` is committed, in this order. A file
//!    without a row is invisible and is swept.
//! 2. A row remembers the file's stamp (inode, size, times). A file that no longer matches
//!    is hashed again before anyone reads it, and removed if it is damaged; writing the
//!    same content again always replaces the file, so a re-push heals.
//! 3. Garbage collection removes a blob only inside a write transaction that finds no
//!    reference and no lease; whoever adds a blob holds a lease before its file appears.
//! 4. Content that needs no durability ([`Durability::Cache`]) skips the syncs and is
//!    hashed again before its first use after a reboot.
//!
//! ```
//! use longshore_content::StateRoot;
//! use std::io::Write as _;
//!
//! let dir = tempfile::tempdir().unwrap();
//! let root = StateRoot::open(dir.path()).unwrap();
//! let mut writer = root.blobs().writer().unwrap();
//! writer.write_all(b"hello").unwrap();
//! let (digest, size_bytes) = writer.commit(None).unwrap();
//! assert_eq!(size_bytes, 5);
//! assert_eq!(root.blobs().read_all(&digest, 1024).unwrap().unwrap(), b"hello");
//! ```

pub mod builds;
pub mod cache_records;
pub mod conformance;
mod database;
pub mod disk;
mod edges;
mod error;
pub mod gc;
pub mod images;
mod ingest;
pub mod kv;
pub mod layers;
pub mod leases;
mod local;
mod memory;
mod process;
mod reader;
pub mod registry;
mod root;
pub mod schema;
mod store;
mod time;
mod upload;
mod writer;

pub use builds::Builds;
pub use cache_records::CacheRecords;
pub use database::Durability;
pub use error::ContentError;
pub use gc::{Directories, GcOptions, GcReport, NoDirectories};
pub use images::Images;
pub use kv::Kv;
pub use layers::Layers;
pub use leases::{Lease, Leases};
pub use local::{LocalStore, Soundness};
pub use memory::MemoryStore;
pub use process::ProcessToken;
pub use reader::BlobReader;
pub use registry::Registry;
pub use root::StateRoot;
pub use store::{BlobInfo, ByteRange, ContentStore, Ingest, UploadId};
pub use writer::LocalWriter;
