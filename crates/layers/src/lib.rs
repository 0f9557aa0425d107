//! Sources and sinks of file changes: contexts, tar streams, directories; whiteouts
//! and compression.

mod entry;

pub use entry::{Entry, EntryPath, EntryPathError, Kind, Metadata, Timestamp};
