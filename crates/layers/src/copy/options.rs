//! What a copy, and what other changes are told to do.

use crate::copy::{ModeChange, Owner, Selection};

/// A copy from another tree.
#[derive(Clone, Debug)]
pub struct CopyOptions<'a, P> {
    /// What is copied.
    pub selection: Selection<'a, P>,
    /// Where to, from the root. A trailing `/` or `/.` means a directory.
    pub dest: &'a str,
    /// Whose what is made becomes; `None` keeps the source's owners, and what is made
    /// because something needs it is root's.
    pub owner: Option<Owner>,
    /// How modes change; `None` keeps the source's. Archives keep theirs in any case.
    pub mode: Option<ModeChange>,
    /// A source that is an archive (by content, not by name) is unpacked.
    pub unpack: bool,
    /// A wildcard that matches nothing copies nothing, rather than being an error.
    pub allow_empty_wildcard: bool,
    /// Missing directories above the destination are made, rather than being an error.
    pub create_dest_path: bool,
    /// What stands at a destination of another kind is replaced, rather than being an
    /// error.
    pub always_replace: bool,
    /// The modification time of everything that is made, seconds since 1970; `None`
    /// keeps the source's.
    pub timestamp: Option<i64>,
}

/// A new directory.
#[derive(Clone, Debug)]
pub struct MkdirOptions<'a> {
    /// Where, from the root.
    pub path: &'a str,
    /// Its mode; special bits do not count.
    pub mode: u32,
    /// Missing directories above it are made too, with the same mode and owner.
    pub parents: bool,
    /// Whose it is; `None` is root's.
    pub owner: Option<Owner>,
    /// Its modification time, seconds since 1970; `None` is the layer's.
    pub timestamp: Option<i64>,
}

/// A new file, or new content for one.
#[derive(Clone, Debug)]
pub struct MkfileOptions<'a> {
    /// Where, from the root.
    pub path: &'a str,
    /// Its mode, unless the file exists; special bits do not count.
    pub mode: u32,
    /// Its content.
    pub content: &'a [u8],
    /// Whose it is; `None` is root's, or whose it was.
    pub owner: Option<Owner>,
    /// Its modification time, seconds since 1970; `None` is the layer's.
    pub timestamp: Option<i64>,
}

/// A removal.
#[derive(Clone, Debug)]
pub struct RemoveOptions<'a> {
    /// What, from the root; a symbolic link itself, not what it leads to.
    pub path: &'a str,
    /// A path that is not there is no error.
    pub allow_missing: bool,
    /// `path` may hold wildcards.
    pub wildcard: bool,
}
