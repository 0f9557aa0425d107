//! Creating a layer's files below a directory, on all cores.
//!
//! ```text
//!  overlay form   a layer of its own: whiteout = character device 0:0,
//!                 opaque directory = attribute trusted.overlay.opaque (or user.overlay.opaque)
//!  merged form    on top of what is there: whiteouts and opaque directories delete
//! ```
//!
//! Invariants: every file is created through a descriptor of its parent directory, which was
//! reached from the root without following a symbolic link; a file is created anew, never
//! opened. Nothing is synced: what is not published may be lost.
//! Modes, owners and times of directories are set last, children first, because creating
//! files changes times and needs permission.

mod kept;
mod node;
mod remove;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

pub use self::kept::{Kept, clear_around};
pub(crate) use self::node::FileBytes;
use self::node::{FileJob, apply_metadata, remove_other_attributes};
use self::remove::{remove_tree, remove_unlisted};
use crate::change::mtime_of;
use crate::fs_at::{open_beneath, open_directory};
use crate::pool::{InOrder, Pending, Pool, WorkerFailed, all_cores};
use crate::source::ContentError;
use crate::tree::implied_metadata;
use crate::{ContentHash, Entry, EntryPath, Kind, Metadata, Timestamp};

/// What a directory on disk is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryForm {
    /// One layer of an overlay file system, in a directory of its own.
    Overlay(OverlayAttributes),
    /// The whole tree: the layer is applied to what is there.
    Merged,
}

/// Which attributes an overlay file system reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayAttributes {
    /// `trusted.overlay.*`, for mounts by root.
    Trusted,
    /// `user.overlay.*`, for mounts with `userxattr` in a user namespace.
    User,
    /// Our own, for layers that are copied and never mounted, where overlay's cannot be made: on
    /// an overlay file system, or without the right to `trusted.*`. A whiteout is an empty file
    /// with an attribute.
    Own,
}

impl OverlayAttributes {
    /// The attribute that makes a directory opaque.
    pub const fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
            Self::Own => "user.longshore.opaque",
        }
    }

    /// The attribute of a directory whose lower names are those of another.
    pub const fn redirect(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.redirect",
            Self::User => "user.overlay.redirect",
            Self::Own => "user.longshore.redirect",
        }
    }

    /// The attribute of a file that stands for a deletion, where no device does.
    pub const fn whiteout(self) -> Option<&'static str> {
        match self {
            Self::Trusted | Self::User => None,
            Self::Own => Some("user.longshore.whiteout"),
        }
    }

    /// The attribute of a file whose bytes are in a lower layer.
    pub const fn metacopy(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.metacopy",
            Self::User => "user.overlay.metacopy",
            Self::Own => "user.longshore.metacopy",
        }
    }
}

/// Whose files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Whose the layer says.
    Restore,
    /// Whoever unpacks, who may have no right to give files away.
    Ignore,
}

/// What becomes of device files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// They are created.
    Create,
    /// They are left out, because a user namespace cannot create them.
    Skip,
}

/// How files are created.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryOptions {
    /// What the directory is to be.
    pub form: DirectoryForm,
    /// Whose files are.
    pub ownership: Ownership,
    /// What becomes of device files.
    pub devices: Devices,
    /// How many threads create files.
    pub threads: NonZeroUsize,
}

impl DirectoryOptions {
    /// For root, on all cores.
    pub fn new(form: DirectoryForm) -> Self {
        Self {
            form,
            ownership: Ownership::Restore,
            devices: Devices::Create,
            threads: all_cores(),
        }
    }
}

/// The layers below one that is unpacked.
pub trait LowerLayers {
    /// The metadata of the directory at `path`, for a directory that the layer needs but does
    /// not list.
    fn directory(&self, path: &EntryPath) -> Option<Metadata>;

    /// The regular file at `path` and its metadata, for a hard link to it.
    ///
    /// # Errors
    /// When the file is there but cannot be opened.
    fn file(&self, path: &EntryPath) -> io::Result<Option<(OwnedFd, Metadata)>>;
}

/// There is nothing below.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLowerLayers;

impl LowerLayers for NoLowerLayers {
    fn directory(&self, _path: &EntryPath) -> Option<Metadata> {
        None
    }

    fn file(&self, _path: &EntryPath) -> io::Result<Option<(OwnedFd, Metadata)>> {
        Ok(None)
    }
}

/// Why files could not be created.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A system call failed.
    #[error("cannot {doing} `{path}`: {source}")]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: EntryPath,
        /// Why it was not.
        source: io::Error,
    },
    /// The bytes of a file could not be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A hard link names nothing in the layer or below it.
    #[error("the hard link `{path}` names `{target}`, which does not exist")]
    LinkTarget {
        /// The link.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// A worker thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
}

pub(crate) fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: &EntryPath,
) -> impl FnOnce(E) -> DirectoryError {
    let path = path.clone();
    move |source| DirectoryError::Io {
        doing,
        path,
        source: source.into(),
    }
}

/// How many directories are kept open.
const OPEN_DIRECTORIES_MAX: usize = 16;
/// How many files may be under way for each thread.
const FILES_PER_THREAD_MAX: usize = 16;

/// A file that was created: where, and the hash of its bytes unless the kernel copied them.
pub(crate) type Created = Result<(EntryPath, Option<ContentHash>), DirectoryError>;

/// Creates files below a directory.
#[derive(Debug)]
pub(crate) struct DirectoryWriter<'a> {
    root: Arc<OwnedFd>,
    options: &'a DirectoryOptions,
    pool: Pool,
    under_way: InOrder<Pending<Created>>,
    done: Vec<(EntryPath, ContentHash)>,
    links: Vec<(EntryPath, EntryPath)>,
    open: Vec<(EntryPath, Arc<OwnedFd>)>,
    /// Directories that entries need and that no entry was seen for, with the time of those
    /// that were there before.
    implied: HashMap<EntryPath, Option<Timestamp>>,
}

impl<'a> DirectoryWriter<'a> {
    pub(crate) fn new(
        root: BorrowedFd<'_>,
        options: &'a DirectoryOptions,
    ) -> Result<Self, DirectoryError> {
        let path = EntryPath::root();
        let root = open_directory(root, &path).map_err(failed("open", &path))?;
        Ok(Self {
            root: Arc::new(root),
            options,
            pool: Pool::new(options.threads),
            under_way: InOrder::new(options.threads.get() * FILES_PER_THREAD_MAX),
            done: Vec::new(),
            links: Vec::new(),
            open: Vec::new(),
            implied: HashMap::new(),
        })
    }

    /// Creates what `entry` says; for a file, with these bytes. Files are created behind the
    /// caller's back and hard links only in [`settle`](Self::settle).
    pub(crate) fn create(
        &mut self,
        entry: &Entry,
        bytes: Option<FileBytes>,
    ) -> Result<(), DirectoryError> {
        let path = &entry.path;
        let parent = self.directory(&path.parent().unwrap_or_default())?;
        match &entry.kind {
            Kind::File { .. } => self.start_file(entry, bytes.unwrap_or(FileBytes::Empty), parent),
            Kind::Hardlink { target } => {
                self.links.push((path.clone(), target.clone()));
                Ok(())
            }
            Kind::Directory { .. } => {
                self.implied.remove(path);
                self.make_directory(&parent, path)?;
                Ok(())
            }
            Kind::Whiteout => self.create_whiteout(&parent, path),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. }
                if self.options.devices == Devices::Skip =>
            {
                tracing::warn!(path = %path, "device file left out");
                Ok(())
            }
            _ => {
                self.clear(&parent, path)?;
                node::create_special(parent.as_fd(), entry)?;
                node::set_link_metadata(parent.as_fd(), entry, self.options.ownership)
            }
        }
    }

    /// Waits for all files that are under way, then creates the hard links. Gives the hashes
    /// of the files since the last time.
    pub(crate) fn settle(
        &mut self,
        lower: &dyn LowerLayers,
    ) -> Result<Vec<(EntryPath, ContentHash)>, DirectoryError> {
        while let Some(pending) = self.under_way.pop() {
            self.collect(pending)?;
        }
        for (path, target) in std::mem::take(&mut self.links) {
            self.create_link(&path, &target, lower)?;
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Removes what stands at `path`, with all below it. Nothing may be under way.
    pub(crate) fn remove(&mut self, path: &EntryPath) -> Result<(), DirectoryError> {
        self.open.retain(|(open, _)| !open.starts_with(path));
        self.implied.retain(|implied, _| !implied.starts_with(path));
        remove_tree(self.root.as_fd(), path)
    }

    /// Deletes what the layer hides (merged form) or marks it (overlay form), then gives
    /// directories their metadata, those that no entry lists what `lower` says.
    /// `listing` is the layer's entries, sorted.
    /// Returns the directories that were made without knowing their metadata.
    pub(crate) fn finish(
        mut self,
        listing: &[&Entry],
        lower: &dyn LowerLayers,
    ) -> Result<Vec<EntryPath>, DirectoryError> {
        self.settle(lower)?;
        self.finish_marks(listing)?;
        self.open.clear();
        for entry in listing.iter().rev() {
            if matches!(entry.kind, Kind::Directory { .. }) {
                self.finish_directory(&entry.path, &entry.metadata)?;
            }
        }
        self.finish_implied(listing, lower)
    }

    fn finish_marks(&mut self, listing: &[&Entry]) -> Result<(), DirectoryError> {
        for entry in listing {
            let path = &entry.path;
            match (&entry.kind, self.options.form) {
                (Kind::Directory { opaque: true }, DirectoryForm::Overlay(attributes)) => {
                    let directory = self.directory(path)?;
                    let name = attributes.opaque();
                    rustix::fs::fsetxattr(&*directory, name, b"y", XattrFlags::empty())
                        .map_err(failed("make opaque", path))?;
                }
                (Kind::Directory { opaque: true }, DirectoryForm::Merged) => {
                    self.directory(path)?;
                    remove_unlisted(self.root.as_fd(), path, listing)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn finish_directory(
        &self,
        path: &EntryPath,
        metadata: &Metadata,
    ) -> Result<(), DirectoryError> {
        let directory =
            open_directory(&*self.root, path).map_err(failed("open the directory", path))?;
        if self.options.form == DirectoryForm::Merged {
            // It may be a lower layer's, with attributes that this layer took away.
            remove_other_attributes(directory.as_fd(), path, metadata)?;
        }
        apply_metadata(directory.as_fd(), path, metadata, self.options.ownership)
    }

    fn finish_implied(
        &mut self,
        listing: &[&Entry],
        lower: &dyn LowerLayers,
    ) -> Result<Vec<EntryPath>, DirectoryError> {
        let bare = implied_below_opaque(listing);
        for path in bare.iter().rev() {
            self.finish_directory(path, &implied_metadata())?;
        }
        let mut implied: Vec<_> = std::mem::take(&mut self.implied).into_iter().collect();
        implied.sort_by(|a, b| b.0.cmp(&a.0));
        let mut unknown = Vec::new();
        for (path, found) in implied {
            let is_listed = listing.binary_search_by(|own| own.path.cmp(&path)).is_ok();
            if is_listed || bare.contains(&path) {
                continue;
            }
            match (found, lower.directory(&path)) {
                (Some(mtime), _) => self.restore_time(&path, mtime)?,
                (None, Some(metadata)) => self.finish_directory(&path, &metadata)?,
                (None, None) => {
                    self.finish_directory(&path, &implied_metadata())?;
                    unknown.push(path);
                }
            }
        }
        unknown.reverse();
        Ok(unknown)
    }

    fn restore_time(&self, path: &EntryPath, mtime: Timestamp) -> Result<(), DirectoryError> {
        // An opaque directory above may have taken it away.
        match open_directory(&*self.root, path) {
            Ok(directory) => rustix::fs::futimens(&directory, &node::times(mtime))
                .map_err(failed("set the time of", path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("open the directory", path)(error)),
        }
    }

    fn start_file(
        &mut self,
        entry: &Entry,
        bytes: FileBytes,
        parent: Arc<OwnedFd>,
    ) -> Result<(), DirectoryError> {
        self.clear(&parent, &entry.path)?;
        let job = FileJob {
            parent,
            path: entry.path.clone(),
            metadata: entry.metadata.clone(),
            ownership: self.options.ownership,
            bytes,
        };
        let pending = self.pool.run(move || job.run());
        match self.under_way.push(pending) {
            Some(oldest) => self.collect(oldest),
            None => Ok(()),
        }
    }

    /// Creates a file on the caller's thread and hands it over for writing.
    pub(crate) fn create_file(
        &mut self,
        entry: &Entry,
    ) -> Result<(std::fs::File, FinishFile), DirectoryError> {
        let path = &entry.path;
        let parent = self.directory(&path.parent().unwrap_or_default())?;
        self.clear(&parent, path)?;
        let file = node::create_file(parent.as_fd(), path)?;
        let finish = FinishFile {
            ownership: self.options.ownership,
        };
        Ok((file, finish))
    }

    fn collect(&mut self, pending: Pending<Created>) -> Result<(), DirectoryError> {
        let (path, hash) = pending.wait()??;
        self.done.extend(hash.map(|hash| (path, hash)));
        Ok(())
    }

    /// In merged form, removes what lower layers have where a new file will stand.
    fn clear(&mut self, parent: &OwnedFd, path: &EntryPath) -> Result<(), DirectoryError> {
        if self.options.form != DirectoryForm::Merged {
            return Ok(());
        }
        match rustix::fs::unlinkat(parent, path.name(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => self.remove(path),
            Err(errno) => Err(failed("remove", path)(errno)),
        }
    }

    fn create_whiteout(
        &mut self,
        parent: &OwnedFd,
        path: &EntryPath,
    ) -> Result<(), DirectoryError> {
        match self.options.form {
            DirectoryForm::Merged => self.clear(parent, path),
            DirectoryForm::Overlay(attributes) => {
                make_whiteout(parent, path, attributes).map_err(failed("create the whiteout", path))
            }
        }
    }

    fn create_link(
        &mut self,
        path: &EntryPath,
        target: &EntryPath,
        lower: &dyn LowerLayers,
    ) -> Result<(), DirectoryError> {
        let parent = self.directory(&path.parent().unwrap_or_default())?;
        self.clear(&parent, path)?;
        if let Some(from) = self.existing_directory(&target.parent().unwrap_or_default())? {
            let (from, to) = ((&*from, target.name()), (&*parent, path.name()));
            match rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("create the hard link", path)(errno)),
            }
        }
        let below = lower.file(target).map_err(failed("open", target))?;
        let (file, metadata) = below.ok_or_else(|| DirectoryError::LinkTarget {
            path: path.clone(),
            target: target.clone(),
        })?;
        node::copy_file(
            parent.as_fd(),
            path,
            file,
            &metadata,
            self.options.ownership,
        )
    }

    fn existing_directory(
        &mut self,
        path: &EntryPath,
    ) -> Result<Option<Arc<OwnedFd>>, DirectoryError> {
        if let Some(open) = self.opened(path) {
            return Ok(Some(open));
        }
        match open_directory(&*self.root, path) {
            Ok(directory) => Ok(Some(self.keep_open(path, directory))),
            Err(error) if is_no_directory(&error) => Ok(None),
            Err(error) => Err(failed("open the directory", path)(error)),
        }
    }

    /// The directory at `path`, made where it does not exist, with all above it.
    fn directory(&mut self, path: &EntryPath) -> Result<Arc<OwnedFd>, DirectoryError> {
        if path.is_root() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(directory) = self.existing_directory(path)? {
            return Ok(directory);
        }
        let mut missing = vec![path.clone()];
        let mut above = path.parent().unwrap_or_default();
        let mut parent = loop {
            if above.is_root() {
                break Arc::clone(&self.root);
            }
            if let Some(directory) = self.existing_directory(&above)? {
                break directory;
            }
            let next = above.parent().unwrap_or_default();
            missing.push(std::mem::replace(&mut above, next));
        };
        while let Some(path) = missing.pop() {
            self.implied.insert(path.clone(), None);
            parent = self.make_directory(&parent, &path)?;
        }
        Ok(parent)
    }

    fn make_directory(
        &mut self,
        parent: &OwnedFd,
        path: &EntryPath,
    ) -> Result<Arc<OwnedFd>, DirectoryError> {
        let name = path.name();
        let made = match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("inspect", path))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(()),
                    _ => {
                        self.clear(parent, path)?;
                        rustix::fs::mkdirat(parent, name, Mode::RWXU)
                    }
                }
            }
            made => made,
        };
        made.map_err(failed("create the directory", path))?;
        let name = EntryPath::new(name).unwrap_or_default();
        let directory = open_beneath(parent, &name, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed("open the directory", path))?;
        self.open.retain(|(open, _)| open != path);
        Ok(self.push_open(path, directory))
    }

    fn opened(&mut self, path: &EntryPath) -> Option<Arc<OwnedFd>> {
        if path.is_root() {
            return Some(Arc::clone(&self.root));
        }
        let at = self.open.iter().position(|(open, _)| open == path)?;
        let found = self.open.remove(at);
        let directory = Arc::clone(&found.1);
        self.open.push(found);
        Some(directory)
    }

    /// Keeps a directory that was there before, and remembers its time in merged form.
    fn keep_open(&mut self, path: &EntryPath, directory: OwnedFd) -> Arc<OwnedFd> {
        if self.options.form == DirectoryForm::Merged
            && !self.implied.contains_key(path)
            && let Ok(stat) = rustix::fs::fstat(&directory)
        {
            self.implied.insert(path.clone(), Some(mtime_of(&stat)));
        }
        self.push_open(path, directory)
    }

    fn push_open(&mut self, path: &EntryPath, directory: OwnedFd) -> Arc<OwnedFd> {
        if self.open.len() >= OPEN_DIRECTORIES_MAX {
            self.open.remove(0);
        }
        let directory = Arc::new(directory);
        self.open.push((path.clone(), Arc::clone(&directory)));
        directory
    }
}

fn make_whiteout(
    parent: &OwnedFd,
    path: &EntryPath,
    attributes: OverlayAttributes,
) -> rustix::io::Result<()> {
    let Some(attribute) = attributes.whiteout() else {
        let (kind, device) = (FileType::CharacterDevice, rustix::fs::makedev(0, 0));
        return rustix::fs::mknodat(parent, path.name(), kind, Mode::empty(), device);
    };
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(parent, path.name(), flags, mode)?;
    rustix::fs::fsetxattr(file, attribute, b"y", XattrFlags::empty())
}

/// Directories that the layer needs and does not list, below one that hides the lower
/// layers: what those say of them does not count.
fn implied_below_opaque(listing: &[&Entry]) -> BTreeSet<EntryPath> {
    let mut found = BTreeSet::new();
    let mut opaque: Option<&EntryPath> = None;
    for entry in listing {
        // Sorted: everything below a directory follows it.
        if opaque.is_some_and(|opaque| !entry.path.starts_with(opaque)) {
            opaque = None;
        }
        let mut above = entry.path.parent();
        while let (Some(opaque), Some(path)) = (opaque, above) {
            above = path.parent();
            if path == *opaque || found.contains(&path) {
                break;
            }
            if listing.binary_search_by(|own| own.path.cmp(&path)).is_err() {
                found.insert(path);
            }
        }
        if opaque.is_none() && matches!(entry.kind, Kind::Directory { opaque: true }) {
            opaque = Some(&entry.path);
        }
    }
    found
}

fn is_no_directory(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Gives a file that [`DirectoryWriter::create_file`] made its metadata, once it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FinishFile {
    ownership: Ownership,
}

impl FinishFile {
    pub(crate) fn finish(self, file: &std::fs::File, entry: &Entry) -> Result<(), DirectoryError> {
        apply_metadata(file.as_fd(), &entry.path, &entry.metadata, self.ownership)
    }
}

/// Gives directories that a layer made without listing them the metadata that the layers
/// below have for them; those that are not below keep what they have.
///
/// # Errors
/// When a directory cannot be opened or changed.
pub fn settle_implied_directories(
    root: impl AsFd,
    directories: &[EntryPath],
    lower: &dyn LowerLayers,
    ownership: Ownership,
) -> Result<(), DirectoryError> {
    for path in directories.iter().rev() {
        let Some(metadata) = lower.directory(path) else {
            continue;
        };
        let directory =
            open_directory(root.as_fd(), path).map_err(failed("open the directory", path))?;
        apply_metadata(directory.as_fd(), path, &metadata, ownership)?;
    }
    Ok(())
}
