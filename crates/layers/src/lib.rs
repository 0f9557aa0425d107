//! Sources and sinks of file changes: contexts, tar streams, directories; whiteouts
//! and compression.

mod assembly;
mod change;
mod compress;
mod content_hash;
pub mod context;
pub mod copy;
mod entry;
mod fs_at;
mod index;
pub mod limits;
mod pipeline;
mod pool;
mod source;
mod tar;
mod tree;
mod xattr;

pub use change::{Change, FileContent, FileRange, FileStamp, HostFile};
pub use compress::{Compression, Compressor};
pub use content_hash::ContentHash;
pub use entry::{Entry, EntryPath, EntryPathError, Kind, Metadata, Timestamp};
pub use index::{INDEX_BYTES_MAX, IndexDecodeError, IndexEntry, IndexError, LayerIndex};
pub use pipeline::{LayerSummary, LayerWriter, WriteError, WriteOptions, write_layer};
pub use pool::{WorkerFailed, all_cores};
pub use source::ContentError;
pub use tar::{HeaderError, Member, TarError, TarLimits, TarReader, TarReason};
pub use tree::{Node, ResolveError, Resolved, TreeView, Walk};
