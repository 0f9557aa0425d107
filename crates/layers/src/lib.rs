//! Sources and sinks of file changes: contexts, tar streams, directories; whiteouts
//! and compression.
//!
//! A layer is an ordered list of [`Change`]s that name their files. It becomes a blob by
//! [`write_layer`], a directory by [`materialise`] and a table of contents, [`LayerIndex`],
//! on the way; a blob becomes an index by [`index_of_tar`] and a directory by [`unpack`]. In
//! place of a directory either becomes an EROFS image, by [`image_of_changes`] and
//! [`unpack_image`]. An overlay mount's upper directory becomes changes by [`diff_upper`].
//! What a stack of layers shows is answered by a [`TreeView`] of their indexes.
//!
//! ```
//! use std::sync::Arc;
//! use longshore_layers::{
//!     Change, Compression, Entry, EntryPath, FileContent, Kind, Metadata, TreeView, WriteOptions,
//!     write_layer,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hello = Change {
//!     entry: Entry {
//!         path: EntryPath::new("/etc/hello")?,
//!         kind: Kind::File { size: 6 },
//!         metadata: Metadata { mode: 0o644, ..Metadata::default() },
//!     },
//!     content: FileContent::Inline(b"hello\n"[..].into()),
//! };
//! let mut blob = Vec::new();
//! let layer = write_layer([hello], &WriteOptions::new(Compression::GZIP), &mut blob)?;
//! assert_eq!(layer.size, blob.len() as u64);
//!
//! let view = TreeView::new(&[Arc::new(layer.index)]);
//! assert!(view.resolve("etc/../etc/hello", true)?.exists());
//! # Ok(())
//! # }
//! ```

mod assembly;
mod change;
mod clamp;
mod compress;
mod content_hash;
pub mod context;
pub mod copy;
mod decompress;
mod directory;
mod entry;
mod erofs;
mod field_hasher;
mod fs_at;
mod index;
pub mod limits;
mod materialise;
mod named;
mod pipeline;
mod pool;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
mod source;
mod squash;
mod stream;
mod tar;
mod tree;
mod unpack;
mod upper;
mod xattr;

pub use change::{Change, FileContent, FileRange, FileStamp, HostFile};
pub use clamp::{
    ClampError, ClampedLayer, TimeLimit, clamp_changes, clamp_tar, latest_time_of_tar,
};
pub use compress::{Compression, Compressor, GZIP_LEVEL_DEFAULT};
pub use content_hash::ContentHash;
pub use decompress::{DecompressLimitError, DecompressLimits, Decompressor, StreamFormat};
pub use directory::{
    Devices, DirectoryError, DirectoryForm, DirectoryOptions, Kept, LowerLayers, NoLowerLayers,
    OverlayAttributes, Ownership, clear_around, settle_implied_directories,
};
pub use entry::{Entry, EntryPath, EntryPathError, Kind, Metadata, Timestamp};
pub use erofs::{ImageError, image_of_changes, unpack_image};
pub use index::{
    INDEX_BYTES_MAX, IndexChangesError, IndexDecodeError, IndexEntry, IndexError, LayerIndex,
};
pub use materialise::materialise;
pub use named::{changes_of_directory, changes_of_view, host_content};
pub use pipeline::{LayerSummary, LayerWriter, WriteError, WriteOptions, write_layer};
pub use pool::{WorkerFailed, all_cores};
pub use source::ContentError;
pub use squash::SquashedLayer;
pub use tar::{HeaderError, Member, TarError, TarLimits, TarReader, TarReason};
pub use tree::{Node, ResolveError, Resolved, TreeView, Walk};
pub use unpack::{IndexedTar, UnpackError, Unpacked, index_of_tar, unpack};
pub use upper::{DiffError, Listing, changes_of_overlay, changes_since, diff_upper};
