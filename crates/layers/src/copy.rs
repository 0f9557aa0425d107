//! `COPY`, `ADD` and their kin as pure functions: which changes a layer has, given the
//! trees that are copied from and the merged view of the layers below.
//!
//! ```text
//!  ContextTree ┐                       TreeView (layers below)
//!  TreeSource  ├─► dyn CopySource           │
//!  LayerBuilder┘        │                   ▼
//!              Selection, CopyOptions ► LayerBuilder ► sorted Vec<Change>
//!                       │
//!                       └► selection_digest: the cache key of what is copied
//! ```
//!
//! Invariants:
//! - No file is created, and none is read but an archive to unpack, `/etc/passwd` and
//!   `/etc/group`: a layer names its files.
//! - Neither a source path nor a destination leads outside its root, whatever symbolic
//!   links and `..` say.
//! - The changes contain every directory above what they write, with its metadata, and a
//!   hard link's target before the link.
//! - [`selection_digest`] covers whatever of the source decides the outcome, except for
//!   modification times and for which files are hard links of one another.
//!
//! The rules are those of BuildKit's file operations (its `fsutil` copier), which differ
//! from `cp` in places; each such place says so.

mod actions;
mod archive;
mod builder;
mod content;
mod error;
mod files;
mod mode;
mod options;
mod overlay;
mod owner;
mod pattern;
mod resolve;
mod select;
mod selection;
mod source;
mod suggest;
mod wildcard;

pub use builder::{CopyNotice, LayerBuilder, resolve_copy};
pub use content::{LayerContent, NoContent};
pub use error::{CopyError, SourceError};
pub use mode::{ModeChange, ModeError, SymbolicMode};
pub use options::{CopyOptions, MkdirOptions, MkfileOptions, RemoveOptions};
pub use owner::{Owner, Principal};
pub use pattern::{NoPatterns, PathPatterns};
pub use selection::{SelectedPath, Selection, SelectionDigest, selected_paths, selection_digest};
pub use source::{CopySource, LinkIdentity, SourceChild, SourceNode, TreeSource};

#[cfg(test)]
mod tests;
