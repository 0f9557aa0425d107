//! Sources and sinks of file changes: contexts, tar streams, directories; whiteouts
//! and compression.

mod assembly;
mod change;
mod compress;
mod content_hash;
pub mod context;
pub mod copy;
mod decompress;
mod directory;
mod entry;
mod fs_at;
mod index;
pub mod limits;
mod materialise;
mod named;
mod pipeline;
mod pool;
mod source;
mod stream;
mod tar;
mod tree;
mod unpack;
mod upper;
mod xattr;

pub use change::{Change, FileContent, FileRange, FileStamp, HostFile};
pub use compress::{Compression, Compressor};
pub use content_hash::ContentHash;
pub use decompress::{DecompressLimitError, DecompressLimits, Decompressor, StreamFormat};
pub use directory::{
    Devices, DirectoryError, DirectoryForm, DirectoryOptions, LowerLayers, NoLowerLayers,
    OverlayAttributes, Ownership, settle_implied_directories,
};
pub use entry::{Entry, EntryPath, EntryPathError, Kind, Metadata, Timestamp};
pub use index::{INDEX_BYTES_MAX, IndexChangesError, IndexDecodeError, IndexEntry, IndexError, LayerIndex};
pub use materialise::materialise;
pub use named::{changes_of_directory, changes_of_view, host_content};
pub use pipeline::{LayerSummary, LayerWriter, WriteError, WriteOptions, write_layer};
pub use pool::{WorkerFailed, all_cores};
pub use source::ContentError;
pub use tar::{HeaderError, Member, TarError, TarLimits, TarReader, TarReason};
pub use tree::{Node, ResolveError, Resolved, TreeView, Walk};
pub use unpack::{IndexedTar, UnpackError, Unpacked, index_of_tar, unpack};
pub use upper::{DiffError, diff_upper};
