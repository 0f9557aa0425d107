//! Building one layer out of several changes, each of which sees the ones before.

use std::fmt;
use std::path::Path;

use crate::copy::archive::Spool;
use crate::copy::overlay::{Overlay, Shown};
use crate::copy::owner::NameFile;
use crate::copy::source::{no_file, view_content, view_hash};
use crate::copy::{
    CopyError, CopyOptions, CopySource, LayerContent, NoContent, Owner, PathPatterns, SourceChild,
    SourceError, SourceNode,
};
use crate::source::OpenContent;
use crate::{
    Change, ContentError, ContentHash, DecompressLimits, EntryPath, FileContent, FileRange,
    HostFile, Kind, Metadata, Timestamp, TreeView,
};

/// As much of `/etc/passwd` and `/etc/group` as is looked at; BuildKit's bound.
const NAME_FILE_BYTES_MAX: u64 = 10 << 20;

/// One layer in the making.
///
/// ```
/// use longshore_layers::copy::{LayerBuilder, MkdirOptions, NoContent};
/// use longshore_layers::TreeView;
///
/// let mut layer = LayerBuilder::new(TreeView::empty(), &NoContent);
/// layer
///     .mkdir(&MkdirOptions {
///         path: "/srv/app",
///         mode: 0o755,
///         parents: true,
///         owner: None,
///         timestamp: None,
///     })
///     .unwrap();
/// let changes = layer.finish();
/// assert_eq!(changes.len(), 2);
/// assert_eq!(changes[1].entry.path.to_string(), "/srv/app");
/// ```
pub struct LayerBuilder<'a> {
    pub(super) overlay: Overlay,
    pub(super) content: &'a dyn LayerContent,
    pub(super) time: Timestamp,
    pub(super) spool: Spool,
    pub(super) limits: DecompressLimits,
    notices: Vec<CopyNotice>,
}

/// Something that was not taken as it was meant, perhaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyNotice {
    /// A user is not in `/etc/passwd`: what is copied becomes root's.
    UnknownUser(String),
    /// A group is not in `/etc/group`: the user's own group is taken.
    UnknownGroup(String),
}

impl fmt::Display for CopyNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUser(name) => {
                write!(f, "user `{name}` is not in /etc/passwd: root is taken")
            }
            Self::UnknownGroup(name) => {
                write!(
                    f,
                    "group `{name}` is not in /etc/group: the user's own is taken"
                )
            }
        }
    }
}

impl fmt::Debug for LayerBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBuilder")
            .field("overlay", &self.overlay)
            .field("time", &self.time)
            .field("notices", &self.notices)
            .finish_non_exhaustive()
    }
}

/// The changes of a layer that is one copy onto `base`.
///
/// # Errors
/// As [`LayerBuilder::copy`].
pub fn resolve_copy<P: PathPatterns>(
    options: &CopyOptions<'_, P>,
    source: &dyn CopySource,
    base: TreeView,
    content: &dyn LayerContent,
) -> Result<Vec<Change>, CopyError> {
    let mut layer = LayerBuilder::new(base, content);
    layer.copy(options, source)?;
    Ok(layer.finish())
}

impl<'a> LayerBuilder<'a> {
    /// An empty layer on `base`, whose files `content` knows.
    pub fn new(base: TreeView, content: &'a dyn LayerContent) -> Self {
        Self {
            overlay: Overlay::new(base),
            content,
            time: Timestamp::default(),
            spool: Spool::default(),
            limits: DecompressLimits::LAYER,
            notices: Vec::new(),
        }
    }

    /// Gives what is made from nothing, and without a time of its own, a modification time
    /// other than the start of 1970.
    #[must_use]
    pub fn made_at(mut self, time: Timestamp) -> Self {
        self.time = time;
        self
    }

    /// Puts files without a name into `directory`, rather than into the system's temporary
    /// directory: what compressed archives contain, until the changes are dropped.
    #[must_use]
    pub fn spool_in(mut self, directory: &Path) -> Self {
        self.spool.directory = Some(directory.to_path_buf());
        self
    }

    /// What archives that are unpacked may hold, other than [`DecompressLimits::LAYER`].
    #[must_use]
    pub fn limits(mut self, limits: DecompressLimits) -> Self {
        self.limits = limits;
        self
    }

    /// An empty layer on nothing, with the same limits.
    #[must_use]
    pub fn aside(&self) -> LayerBuilder<'static> {
        LayerBuilder::new(TreeView::empty(), &NoContent).limits(self.limits)
    }

    /// The changes: sorted, without the root, with every directory above what they write.
    pub fn finish(self) -> Vec<Change> {
        self.overlay.changes()
    }

    /// What should be told about the changes so far.
    pub fn notices(&self) -> &[CopyNotice] {
        &self.notices
    }

    /// User and group numbers; names are those of the base, whatever this layer changes.
    pub(super) fn owner(&mut self, owner: Option<&Owner>) -> Result<Option<(u32, u32)>, CopyError> {
        let Some(owner) = owner else {
            return Ok(None);
        };
        let numbers = owner.numbers(|file| self.name_file(file))?;
        let unknown = numbers.unknown.into_iter();
        self.notices.extend(unknown.map(|(file, name)| match file {
            NameFile::Users => CopyNotice::UnknownUser(name),
            NameFile::Groups => CopyNotice::UnknownGroup(name),
        }));
        Ok(Some((numbers.uid, numbers.gid)))
    }

    fn name_file(&self, file: NameFile) -> Result<Option<Vec<u8>>, CopyError> {
        let base = Overlay::new(self.overlay.base.clone());
        let asked = EntryPath::new(file.path()).expect("a literal path is clean");
        let path = match base.resolve(&asked) {
            Err(CopyError::NotADirectory { .. }) => return Ok(None),
            other => other?,
        };
        let failed = |source: std::io::Error| CopyError::Names {
            path: asked.clone(),
            source,
        };
        match base.show(&path).map(|shown| shown.node().kind) {
            None => return Ok(None),
            Some(Kind::File { .. }) => {}
            Some(_) => return Err(failed(std::io::Error::other("not a regular file"))),
        }
        let content = view_content(&self.overlay.base, self.content, &path)?;
        if content.size() > NAME_FILE_BYTES_MAX {
            return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
        }
        let mut bytes = Vec::new();
        OpenContent::open(&path, &content)
            .and_then(|file| file.read_into(&mut bytes))
            .map_err(SourceError::from)?;
        Ok(Some(bytes))
    }

    /// Makes the directories that are missing on the way to `path`, which is resolved.
    pub(super) fn make_directories(
        &mut self,
        path: &EntryPath,
        metadata: &Metadata,
    ) -> Result<(), CopyError> {
        let mut at = EntryPath::root();
        for name in path.components() {
            at = super::resolve::join(&at, name)?;
            match self.overlay.show(&at).map(|shown| shown.is_directory()) {
                Some(true) => {}
                Some(false) => return Err(CopyError::NotADirectory { path: at }),
                None => self.overlay.make_directory(&at, metadata.clone())?,
            }
        }
        Ok(())
    }
}

/// What the layer shows over its base: later actions copy from the results of earlier
/// ones.
impl CopySource for LayerBuilder<'_> {
    fn lookup(&self, path: &EntryPath) -> Result<Option<SourceNode>, SourceError> {
        Ok(self.overlay.show(path).map(|shown| shown.node()))
    }

    fn read_dir(&self, path: &EntryPath) -> Result<Vec<SourceChild>, SourceError> {
        Ok(self.overlay.children(path))
    }

    fn content(&self, path: &EntryPath) -> Result<FileContent, SourceError> {
        match self.overlay.show(path) {
            Some(Shown::Leaf(leaf)) if matches!(leaf.kind, Kind::File { .. }) => {
                Ok(leaf.content.clone())
            }
            Some(Shown::Base(_)) => view_content(&self.overlay.base, self.content, path),
            _ => Err(no_file(path)),
        }
    }

    fn content_hashes(&self, paths: &[EntryPath]) -> Result<Vec<ContentHash>, SourceError> {
        let hash = |path: &EntryPath| match self.overlay.show(path) {
            Some(Shown::Base(_)) => {
                view_hash(&self.overlay.base, path).ok_or_else(|| no_file(path))
            }
            _ => Ok(hash_content(path, &self.content(path)?)?),
        };
        paths.iter().map(hash).collect()
    }
}

fn hash_content(path: &EntryPath, content: &FileContent) -> Result<ContentHash, ContentError> {
    match content {
        FileContent::Inline(bytes) => Ok(ContentHash::of(bytes)),
        FileContent::Host(HostFile {
            hash: Some(hash), ..
        })
        | FileContent::Range(FileRange {
            hash: Some(hash), ..
        }) => Ok(*hash),
        content => OpenContent::open(path, content)?.hash(),
    }
}
