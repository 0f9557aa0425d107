//! Changing files without running anything.

use serde::{Deserialize, Serialize};

use crate::{PathSelector, Selection};

/// Actions that follow one another; the last one's result is the vertex's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOp {
    /// At least one.
    pub actions: Vec<FileAction>,
}

/// What an action works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileInput {
    /// An empty tree.
    Scratch,
    /// One of the vertex's inputs.
    Vertex(usize),
    /// The result of an earlier action of this vertex.
    Action(usize),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAction {
    /// The tree that it changes.
    pub input: FileInput,
    /// What it does.
    pub kind: FileActionKind,
}

impl FileAction {
    /// Makes a directory in `input`.
    pub fn mkdir(input: FileInput, mkdir: Mkdir) -> Self {
        Self {
            input,
            kind: FileActionKind::Mkdir(mkdir),
        }
    }
}

/// The sorts of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileActionKind {
    /// Copies from another tree.
    Copy(Copy),
    /// Makes a directory.
    Mkdir(Mkdir),
    /// Writes a file.
    Mkfile(Mkfile),
    /// Removes a path.
    Remove(Remove),
}

/// Copies from another tree, with the rules of `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// The tree that is copied from.
    pub from: FileInput,
    /// The path in it, from its root.
    pub source: String,
    /// Where to, absolute; a trailing slash means a directory.
    pub dest: String,
    /// The owner of what is made; `None` keeps the source's.
    pub owner: Option<Owner>,
    /// The mode of what is made; `None` keeps the source's.
    pub mode: Option<ModeSpec>,
    /// A symbolic link that is itself the source is followed.
    pub follow_link: bool,
    /// A directory's contents are copied, not the directory.
    pub directory_contents_only: bool,
    /// An archive is unpacked (`ADD`).
    pub unpack: bool,
    /// `source` may hold wildcards.
    pub wildcard: bool,
    /// A wildcard that matches nothing is no error.
    pub allow_empty_wildcard: bool,
    /// Missing parents of `dest` are made.
    pub create_dest_path: bool,
    /// What stands at the destination is replaced whatever it is.
    pub always_replace: bool,
    /// Only what matches, relative to the source's root (`--parents`).
    pub include: Vec<String>,
    /// Nothing that matches (`--exclude`).
    pub exclude: Vec<String>,
    /// Paths that must exist (`--parents` with literal sources).
    pub required: Vec<String>,
    /// The time of what is made, seconds since 1970; `None` keeps the source's.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    /// Absolute.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// Make missing parents too, with the same owner and mode.
    pub parents: bool,
    /// Its owner; `None` is 0:0.
    pub owner: Option<Owner>,
    /// Its time, seconds since 1970.
    pub timestamp: Option<i64>,
}

impl Mkdir {
    /// A directory 0755 of root's, with its parents.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            mode: 0o755,
            parents: true,
            owner: None,
            timestamp: None,
        }
    }
}

/// Writes a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkfile {
    /// Absolute.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// Its content.
    pub content: Vec<u8>,
    /// Its owner; `None` is 0:0.
    pub owner: Option<Owner>,
    /// Its time, seconds since 1970.
    pub timestamp: Option<i64>,
}

/// Removes a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Absolute.
    pub path: String,
    /// A path that is not there is no error.
    pub allow_missing: bool,
    /// `path` may hold wildcards.
    pub wildcard: bool,
}

/// An owner: names are looked up in the tree that is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user; `None` is 0.
    pub user: Option<Principal>,
    /// The group; `None` is the user's own: its number, or its primary group by name.
    pub group: Option<Principal>,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// A mode for what is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModeSpec {
    /// Up to 07777.
    Octal(u32),
    /// `u=rwX,go=rX`.
    Symbolic(String),
}

impl FileOp {
    /// A tree that is only copied from counts by the content of what is copied; one
    /// that is changed counts whole.
    pub(crate) fn selection(&self, index: usize) -> Selection {
        let mut paths = Vec::new();
        for action in &self.actions {
            if action.input == FileInput::Vertex(index) {
                return Selection::Identity;
            }
            if let FileActionKind::Copy(copy) = &action.kind
                && copy.from == FileInput::Vertex(index)
            {
                paths.push(copy.selector());
            }
        }
        if paths.is_empty() {
            Selection::Identity
        } else {
            Selection::Content(paths)
        }
    }
}

impl Copy {
    /// A copy of one path, with nothing special.
    pub fn new(from: FileInput, source: impl Into<String>, dest: impl Into<String>) -> Self {
        Self {
            from,
            source: source.into(),
            dest: dest.into(),
            owner: None,
            mode: None,
            follow_link: false,
            directory_contents_only: false,
            unpack: false,
            wildcard: false,
            allow_empty_wildcard: false,
            create_dest_path: true,
            always_replace: false,
            include: Vec::new(),
            exclude: Vec::new(),
            required: Vec::new(),
            timestamp: None,
        }
    }

    /// What of the source tree is copied.
    pub fn selector(&self) -> PathSelector {
        PathSelector {
            path: self.source.clone(),
            wildcard: self.wildcard,
            follow_links: self.follow_link,
            directory_contents_only: self.directory_contents_only,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
        }
    }
}
