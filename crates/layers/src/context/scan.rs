//! Walking a context directory on all cores.
//!
//! Every task opens one directory below the root's descriptor, never through a symbolic
//! link, and stats what is in it; so the number of open descriptors is the number of
//! threads, whatever the tree's shape.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{fmt, io};

use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use crate::change::mtime_of;
use crate::context::tree::KnownHash;
use crate::context::{ContextNode, ContextTree, Decision, PathFilter, StatCache, read_xattrs};
use crate::fs_at::open_directory;
use crate::limits::path_within_limits;
use crate::{EntryPath, FileStamp, Kind, Metadata, Timestamp};

/// More paths than any context has; a git repository of a stranger's must not exhaust
/// memory.
const CONTEXT_ENTRIES_MAX: usize = 20_000_000;

/// Room for some hundred names per `getdents`.
const DIRECTORY_BUFFER_BYTES: usize = 32 * 1024;

/// The root of a context has no metadata of its own: its mode is the usual one.
const ROOT_MODE: u32 = 0o755;

/// How a scan sees metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    /// Whose the files are.
    pub owner: OwnerPolicy,
    /// Which modes they have.
    pub modes: ModePolicy,
    /// When they were modified.
    pub times: TimePolicy,
}

/// Whose a context's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// Root's, whoever checked them out: what a `COPY` without `--chown` means.
    Root,
    /// Whose they are on the host.
    Host,
}

/// Which modes a context's files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModePolicy {
    /// What the host has.
    Host,
    /// What git keeps: 0755 for directories and executable files, 0644 for others, so
    /// that the umask of who checked out does not matter.
    Git,
}

/// When a context's files were modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimePolicy {
    /// When the host says.
    Host,
    /// All at this time: git keeps none, and those of a checkout mean nothing.
    At(Timestamp),
}

/// Something that a scan saw and did not take as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScanNotice {
    /// A socket counts as an empty file: a socket in an image could not be connected to.
    Socket {
        /// Where it is.
        path: EntryPath,
    },
}

impl fmt::Display for ScanNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { path } => write!(f, "`{path}` is a socket and counts as an empty file"),
        }
    }
}

/// A context could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root is not a directory that can be opened.
    #[error("cannot open the directory `{}`", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something below it cannot be looked at.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The path on the host.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A path is longer or deeper than a layer can hold.
    #[error("the path `{}` is too long", path.display())]
    TooLong {
        /// The path on the host.
        path: PathBuf,
    },
    /// There is too much below it.
    #[error("`{}` holds more than {CONTEXT_ENTRIES_MAX} paths", path.display())]
    TooManyEntries {
        /// The directory.
        path: PathBuf,
    },
}

impl ContextTree {
    /// Walks the directory `root`. Digests that `previous` vouches for are taken over;
    /// the others are made when they are asked for.
    ///
    /// # Errors
    /// When the root or a directory that is part of the context cannot be read.
    pub fn scan(
        root: &Path,
        filter: &dyn PathFilter,
        previous: &dyn StatCache,
        options: &ScanOptions,
    ) -> Result<Self, ScanError> {
        let walk = Walk::open(root, filter, previous, options)?;
        let root_node = walk.root_node()?;
        rayon::scope(|scope| walk.enter(scope, EntryPath::root(), false));
        let failure = walk.failure.into_inner();
        if let Some(error) = failure.unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut found = walk
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        found.push(root_node);
        found.par_sort_unstable_by(|a, b| a.node.path.cmp(&b.node.path));
        let mut notices = walk
            .notices
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        notices.sort_unstable();
        Ok(Self {
            root: root.to_path_buf(),
            directory: walk.directory,
            nodes: settle(found),
            notices,
        })
    }
}

/// A node, and whether it was included for its own sake.
struct Found {
    node: ContextNode,
    included: bool,
}

struct Walk<'a> {
    root: &'a Path,
    directory: Arc<OwnedFd>,
    options: &'a ScanOptions,
    filter: &'a dyn PathFilter,
    previous: &'a dyn StatCache,
    seen: AtomicUsize,
    found: Mutex<Vec<Found>>,
    notices: Mutex<Vec<ScanNotice>>,
    failure: Mutex<Option<ScanError>>,
}

/// A name of a directory that the filter did not prune.
struct Child {
    path: EntryPath,
    stat: Stat,
    included: bool,
}

impl<'a> Walk<'a> {
    fn open(
        root: &'a Path,
        filter: &'a dyn PathFilter,
        previous: &'a dyn StatCache,
        options: &'a ScanOptions,
    ) -> Result<Self, ScanError> {
        // The root itself may be a link: whoever names it means what it leads to.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|errno| {
            ScanError::Root {
                path: root.to_path_buf(),
                source: errno.into(),
            }
        })?;
        Ok(Self {
            root,
            directory: Arc::new(directory),
            options,
            filter,
            previous,
            seen: AtomicUsize::new(0),
            found: Mutex::default(),
            notices: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    fn root_node(&self) -> Result<Found, ScanError> {
        let stat = rustix::fs::fstat(&self.directory)
            .map_err(|errno| self.unreadable(&EntryPath::root(), errno))?;
        let mut metadata = self.metadata(&stat);
        metadata.mode = ROOT_MODE;
        let node = self.node(
            EntryPath::root(),
            Kind::Directory { opaque: false },
            metadata,
            &stat,
        );
        Ok(Found {
            node,
            included: true,
        })
    }

    /// Reads a directory and starts a task for each directory in it.
    fn enter<'s>(&'s self, scope: &rayon::Scope<'s>, path: EntryPath, included: bool) {
        if self.failed() {
            return;
        }
        match self.read(&path) {
            Ok(entered) => {
                for (path, included) in entered {
                    scope.spawn(move |scope| self.enter(scope, path, included));
                }
            }
            // What is not part of the context need not be readable.
            Err(ScanError::Read { source, .. })
                if !included
                    && !path.is_root()
                    && source.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => self.fail(error),
        }
    }

    /// Takes in what is in a directory; returns the directories to go on with.
    fn read(&self, path: &EntryPath) -> Result<Vec<(EntryPath, bool)>, ScanError> {
        let directory = match open_directory(&self.directory, path) {
            Ok(directory) => directory,
            // It was removed or replaced since it was seen.
            Err(error) if !path.is_root() && is_gone(&error) => return Ok(Vec::new()),
            Err(error) => return Err(self.unreadable(path, error)),
        };
        let mut entered = Vec::new();
        let mut found = Vec::new();
        for child in self.list(path, &directory)? {
            if FileType::from_raw_mode(child.stat.st_mode) == FileType::Directory {
                entered.push((child.path.clone(), child.included));
            } else if !child.included {
                continue;
            }
            if let Some(one) = self.take(&directory, child)? {
                found.push(one);
            }
        }
        self.count(found.len())?;
        lock(&self.found).extend(found);
        Ok(entered)
    }

    fn list(&self, path: &EntryPath, directory: &OwnedFd) -> Result<Vec<Child>, ScanError> {
        let mut buffer = [MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        let mut children = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.unreadable(path, errno))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            children.extend(self.child(path, directory, name, entry.file_type())?);
        }
        Ok(children)
    }

    fn child(
        &self,
        parent: &EntryPath,
        directory: &OwnedFd,
        name: &CStr,
        hint: FileType,
    ) -> Result<Option<Child>, ScanError> {
        // A name that a directory lists has no slash and is none of the dots.
        let Ok(path) = parent.join(name.to_bytes()) else {
            return Ok(None);
        };
        // The file's kind is mostly known before it is looked at, and what is pruned
        // need not be looked at.
        let decided = (hint != FileType::Unknown)
            .then(|| self.filter.decide(&path, hint == FileType::Directory));
        if decided == Some(Decision::Prune)
            || (decided == Some(Decision::Exclude) && hint != FileType::Directory)
        {
            return Ok(None);
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = match rustix::fs::statat(directory, name, flags) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.unreadable(&path, errno)),
        };
        if !path_within_limits(&path) {
            return Err(ScanError::TooLong {
                path: self.host_path(&path),
            });
        }
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let decision = decided.unwrap_or_else(|| self.filter.decide(&path, is_directory));
        Ok((decision != Decision::Prune).then_some(Child {
            path,
            stat,
            included: decision == Decision::Include,
        }))
    }

    fn take(&self, directory: &OwnedFd, child: Child) -> Result<Option<Found>, ScanError> {
        let Child {
            path,
            stat,
            included,
        } = child;
        let Some(kind) = self.kind(directory, &path, &stat)? else {
            return Ok(None);
        };
        let mut metadata = self.metadata(&stat);
        metadata.xattrs = read_xattrs(directory.as_fd(), path.name());
        let node = self.node(path, kind, metadata, &stat);
        Ok(Some(Found { node, included }))
    }

    fn kind(
        &self,
        directory: &OwnedFd,
        path: &EntryPath,
        stat: &Stat,
    ) -> Result<Option<Kind>, ScanError> {
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File {
                size: FileStamp::of(stat).size,
            },
            FileType::Directory => Kind::Directory { opaque: false },
            FileType::Symlink => {
                match rustix::fs::readlinkat(directory, path.name(), Vec::new()) {
                    Ok(target) => Kind::Symlink {
                        target: target.into_bytes(),
                    },
                    // It was removed or replaced since it was seen.
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                    Err(errno) => return Err(self.unreadable(path, errno)),
                }
            }
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => {
                lock(&self.notices).push(ScanNotice::Socket { path: path.clone() });
                Kind::File { size: 0 }
            }
            FileType::Unknown => return Ok(None),
        }))
    }

    fn metadata(&self, stat: &Stat) -> Metadata {
        let (uid, gid) = match self.options.owner {
            OwnerPolicy::Root => (0, 0),
            OwnerPolicy::Host => (stat.st_uid, stat.st_gid),
        };
        Metadata {
            mode: self.mode(stat),
            uid,
            gid,
            mtime: match self.options.times {
                TimePolicy::Host => mtime_of(stat),
                TimePolicy::At(time) => time,
            },
            ..Metadata::default()
        }
    }

    fn mode(&self, stat: &Stat) -> u32 {
        let mode = stat.st_mode & 0o7777;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => 0o777,
            _ if self.options.modes == ModePolicy::Host => mode,
            FileType::Directory => 0o755,
            // Git looks at the owner's bit alone.
            _ if mode & 0o100 != 0 => 0o755,
            _ => 0o644,
        }
    }

    fn node(&self, path: EntryPath, kind: Kind, metadata: Metadata, stat: &Stat) -> ContextNode {
        let stamp = FileStamp::of(stat);
        let hash = OnceLock::new();
        if matches!(kind, Kind::File { .. })
            && let Some(known) = self.previous.lookup(&path, &stamp)
        {
            let settled = true;
            hash.get_or_init(|| KnownHash {
                hash: known,
                settled,
            });
        }
        ContextNode {
            linked: stat.st_nlink > 1 && !matches!(kind, Kind::Directory { .. }),
            path,
            kind,
            metadata,
            stamp,
            end: 0,
            hash,
        }
    }

    fn count(&self, more: usize) -> Result<(), ScanError> {
        let before = self.seen.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > CONTEXT_ENTRIES_MAX {
            return Err(ScanError::TooManyEntries {
                path: self.root.to_path_buf(),
            });
        }
        Ok(())
    }

    fn unreadable(&self, path: &EntryPath, source: impl Into<io::Error>) -> ScanError {
        ScanError::Read {
            path: self.host_path(path),
            source: source.into(),
        }
    }

    fn host_path(&self, path: &EntryPath) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }

    fn failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    fn fail(&self, error: ScanError) {
        lock(&self.failure).get_or_insert(error);
    }
}

fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// A panic elsewhere does not make these values wrong: each is only ever added to.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops directories that were excluded and contain nothing that is included, and notes
/// where each directory's content ends.
fn settle(found: Vec<Found>) -> Vec<ContextNode> {
    let keep = wanted(&found);
    let mut nodes: Vec<ContextNode> = found
        .into_iter()
        .zip(keep)
        .filter_map(|(one, keep)| keep.then_some(one.node))
        .collect();
    let mut open: Vec<usize> = Vec::new();
    for index in 0..nodes.len() {
        close(&mut nodes, &mut open, index);
        open.push(index);
    }
    let end = nodes.len();
    for index in open {
        nodes[index].end = end;
    }
    nodes
}

fn close(nodes: &mut [ContextNode], open: &mut Vec<usize>, index: usize) {
    while let Some(&last) = open.last()
        && !nodes[index].path.starts_with(&nodes[last].path)
    {
        nodes[last].end = index;
        open.pop();
    }
}

/// What is included, and every directory above it. `found` is sorted.
fn wanted(found: &[Found]) -> Vec<bool> {
    let mut keep = vec![false; found.len()];
    let mut above: Vec<usize> = Vec::new();
    for (index, one) in found.iter().enumerate() {
        while let Some(&last) = above.last()
            && !one.node.path.starts_with(&found[last].node.path)
        {
            above.pop();
        }
        if one.included {
            keep[index] = true;
            for &directory in above.iter().rev() {
                if std::mem::replace(&mut keep[directory], true) {
                    break;
                }
            }
        }
        above.push(index);
    }
    keep
}
