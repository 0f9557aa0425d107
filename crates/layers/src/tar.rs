//! Tar streams: our own reader and writer.
//!
//! ```text
//! [x header, records]  header 512  content, padded to 512   …   two zero blocks
//! ```
//!
//! The writer lays bytes out as Go's `archive/tar` does in its PAX format, which is what
//! BuildKit and containerd write: ustar headers, a PAX header only where a value does not
//! fit, keys sorted, whole seconds. The reader takes what Go takes (ustar, PAX, old GNU,
//! star, v7) and refuses what archivers disagree about.

pub(crate) mod block;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Member, TarError, TarLimits, TarReader, TarReason};
pub use writer::HeaderError;
pub(crate) use writer::{END_OF_ARCHIVE, encode_headers, padding_of, put_marker};

/// The name prefix of a whiteout (image-spec `layer.md#whiteouts`).
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name prefix of AUFS's own files; all but the opaque marker mean nothing elsewhere.
pub(crate) const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
/// The marker of an opaque directory (image-spec `layer.md#opaque-whiteout`).
pub(crate) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
