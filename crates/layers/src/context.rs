//! Build contexts, read by content.
//!
//! ```text
//!  host directory ──ContextTree::scan──► sorted nodes: path, kind, metadata, stamp
//!        │                                       │ content_hash, hash_all (lazy, all cores)
//!        │ StatCache: what the last build hashed │
//!        └──────────────◄── store ───────────────┘
//! ```
//!
//! Invariants:
//! - What a context contains is decided by content: a digest is reused only while device,
//!   inode, size, mtime and ctime of its file are unchanged and were settled when it was
//!   taken (git's rule for racily clean index entries). Size and mtime alone are never trusted.
//! - The walk never follows a symbolic link, not even one swapped in while it runs.
//! - Two scans of equal directories give equal trees, in any order of the file system's.

mod cache;
mod filter;
mod scan;
mod stamp;
mod tree;
mod xattr;

pub use cache::{NoStatCache, StatCache, StatCacheFile};
pub use filter::{Decision, IncludeAll, PathFilter};
pub use scan::{ModePolicy, OwnerPolicy, ScanError, ScanNotice, ScanOptions, TimePolicy};
pub use tree::{ContextNode, ContextTree};

use xattr::read_xattrs;

#[cfg(test)]
mod tests;
