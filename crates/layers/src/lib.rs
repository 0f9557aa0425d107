//! Sources and sinks of file changes: contexts, tar streams, directories; whiteouts
//! and compression.

mod change;
mod content_hash;
pub mod context;
mod entry;
mod index;
pub mod limits;
mod tree;

pub use change::{Change, FileContent, FileRange, FileStamp, HostFile};
pub use content_hash::ContentHash;
pub use entry::{Entry, EntryPath, EntryPathError, Kind, Metadata, Timestamp};
pub use index::{INDEX_BYTES_MAX, IndexDecodeError, IndexEntry, IndexError, LayerIndex};
pub use tree::{Node, ResolveError, Resolved, TreeView, Walk};
