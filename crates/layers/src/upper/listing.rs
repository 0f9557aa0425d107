//! What a tree of files looked like, and what has changed in it since: for root file systems that
//! are copies, where no overlay collects the changes.
//!
//! Invariant: a change that was made after the listing is found. Every change of a file's bytes,
//! owner, mode, attributes or names moves its change time, which nobody can set; whoever hands the
//! tree out waits until the clock has passed [`Listing::newest_change`], so that no later change
//! can carry a time that is listed. But where a file only lost a name, which moves the change time
//! of the others, those are not changes: to know it, what a file with several names holds is
//! listed too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType};

use super::scan::{Found, failed, inspect, names_in, path_of};
use super::{DiffError, changes_of, hash_into, same_metadata};
use crate::fs_at::open_directory;
use crate::{
    Change, ContentHash, Entry, EntryPath, FileContent, FileStamp, HostFile, Kept, Kind, Metadata,
    Timestamp,
};

/// Everything below a directory, by path, with what tells its versions apart.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    seen: BTreeMap<EntryPath, Seen>,
    /// What is no part of the tree.
    kept: Kept,
}

#[derive(Clone, Debug)]
struct Seen {
    stamp: FileStamp,
    is_directory: bool,
    /// Whether it is a regular file with several names.
    has_names: bool,
    /// What such a file holds.
    shared: Option<Arc<Shared>>,
}

/// What a file with several names holds, apart from its times and size.
#[derive(Debug)]
struct Shared {
    metadata: Metadata,
    content: ContentHash,
}

impl Seen {
    fn inode(&self) -> (u64, u64) {
        (self.stamp.device, self.stamp.inode)
    }

    /// Whether nothing has happened to it.
    fn is_same(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.is_directory == other.is_directory
    }
}

impl Listing {
    /// Lists what is below `directory`, on all cores.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn of(directory: impl AsFd) -> Result<Self, DiffError> {
        Self::around(directory, Kept::default())
    }

    /// Lists what is below `directory`, but for what is kept there; [`changes_since`] then leaves
    /// the same out.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn around(directory: impl AsFd, kept: Kept) -> Result<Self, DiffError> {
        let path = EntryPath::root();
        let root = open_directory(directory, &path).map_err(failed("open", &path))?;
        let root = Arc::new(root);
        let mut all = BTreeMap::new();
        let mut level = vec![path];
        while !level.is_empty() {
            let listed: Result<Vec<_>, DiffError> = level
                .par_iter()
                .map(|path| list_directory(&root, path))
                .collect();
            level.clear();
            for (path, seen) in listed?.into_iter().flatten() {
                if kept.covers(&path) {
                    continue;
                }
                if seen.is_directory {
                    level.push(path.clone());
                }
                all.insert(path, seen);
            }
        }
        note_shared(&root, &mut all)?;
        Ok(Self { seen: all, kept })
    }

    /// When something in it last changed.
    pub fn newest_change(&self) -> Option<Timestamp> {
        self.seen.values().map(|seen| seen.stamp.ctime).max()
    }

    /// What was left out.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    fn is_directory(&self, path: &EntryPath) -> bool {
        path.is_root() || self.seen.get(path).is_some_and(|seen| seen.is_directory)
    }
}

fn list_directory(root: &OwnedFd, path: &EntryPath) -> Result<Vec<(EntryPath, Seen)>, DiffError> {
    let (directory, names) = names_in(root, path)?;
    let mut listed = Vec::with_capacity(names.len());
    for name in names {
        let path = path_of(path, &name)?;
        let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("inspect", &path))?;
        let seen = Seen {
            stamp: FileStamp::of(&stat),
            is_directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            has_names: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_nlink > 1,
            shared: None,
        };
        listed.push((path, seen));
    }
    Ok(listed)
}

/// Notes what the files with several names hold, each read once.
fn note_shared(root: &Arc<OwnedFd>, all: &mut BTreeMap<EntryPath, Seen>) -> Result<(), DiffError> {
    let mut names: HashMap<(u64, u64), Vec<EntryPath>> = HashMap::new();
    for (path, seen) in all.iter().filter(|(_, seen)| seen.has_names) {
        names.entry(seen.inode()).or_default().push(path.clone());
    }
    let read: Result<Vec<_>, DiffError> = names
        .into_par_iter()
        .map(|(_, names)| Ok((shared_by(root, &names[0])?, names)))
        .collect();
    for (shared, names) in read? {
        for name in names {
            if let Some(seen) = all.get_mut(&name) {
                seen.shared = Some(Arc::clone(&shared));
            }
        }
    }
    Ok(())
}

fn shared_by(root: &Arc<OwnedFd>, path: &EntryPath) -> Result<Arc<Shared>, DiffError> {
    let found = look(root, path)?;
    let mut content = FileContent::Host(HostFile {
        root: Arc::clone(root),
        path: path.clone(),
        stamp: found.stamp,
        hash: None,
    });
    Ok(Arc::new(Shared {
        content: hash_into(path, &mut content)?,
        metadata: found.metadata,
    }))
}

/// Takes the files from what has changed that only lost a name.
fn keep_remaining_names(
    root: &Arc<OwnedFd>,
    before: &Listing,
    now: &Listing,
    changed: &mut BTreeSet<EntryPath>,
) -> Result<(), DiffError> {
    let mut names: HashMap<(u64, u64), Vec<EntryPath>> = HashMap::new();
    for path in changed.iter() {
        if let Some(seen) = now.seen.get(path).filter(|seen| !seen.is_directory) {
            names.entry(seen.inode()).or_default().push(path.clone());
        }
    }
    for names in names.into_values() {
        if had_these_names(before, now, &names) && holds_the_same(root, before, now, &names[0])? {
            for name in &names {
                changed.remove(name);
            }
        }
    }
    Ok(())
}

/// Whether all names of a file were names of it before.
fn had_these_names(before: &Listing, now: &Listing, names: &[EntryPath]) -> bool {
    names
        .iter()
        .all(|name| match (before.seen.get(name), now.seen.get(name)) {
            (Some(then), Some(now)) => then.shared.is_some() && then.inode() == now.inode(),
            _ => false,
        })
}

fn holds_the_same(
    root: &Arc<OwnedFd>,
    before: &Listing,
    now: &Listing,
    name: &EntryPath,
) -> Result<bool, DiffError> {
    let (Some(then), Some(now)) = (before.seen.get(name), now.seen.get(name)) else {
        return Ok(false);
    };
    let same_stamp = (then.stamp.size, then.stamp.mtime) == (now.stamp.size, now.stamp.mtime);
    let Some(shared) = then.shared.as_ref().filter(|_| same_stamp) else {
        return Ok(false);
    };
    let holds = match &now.shared {
        Some(holds) => Arc::clone(holds),
        None => shared_by(root, name)?,
    };
    Ok(same_metadata(&holds.metadata, &shared.metadata) && holds.content == shared.content)
}

/// What has changed below `directory` since `before`, sorted, with the directories above each
/// change; and how it looks now. Nothing may write to it meanwhile.
///
/// A file that was written to without being changed is part of the result, as it is of an
/// overlay's upper directory: [`diff_upper`](crate::diff_upper) tells.
///
/// # Errors
/// When something cannot be read.
pub fn changes_since(
    directory: impl AsFd,
    before: &Listing,
) -> Result<(Vec<Change>, Listing), DiffError> {
    let path = EntryPath::root();
    let root = Arc::new(open_directory(directory, &path).map_err(failed("open", &path))?);
    let now = Listing::around(&*root, before.kept.clone())?;
    let changed = now.seen.iter().filter(|(path, seen)| {
        !before
            .seen
            .get(*path)
            .is_some_and(|then| then.is_same(seen))
    });
    let mut wanted: BTreeSet<EntryPath> = changed.map(|(path, _)| path.clone()).collect();
    keep_remaining_names(&root, before, &now, &mut wanted)?;
    let gone: Vec<&EntryPath> = (before.seen.keys())
        .filter(|path| is_gone(path, &now))
        .collect();
    add_parents(&mut wanted, &gone);
    let found: Result<BTreeMap<EntryPath, Found>, DiffError> = wanted
        .into_par_iter()
        .map(|path| Ok((path.clone(), look(&root, &path)?)))
        .collect();
    let mut changes = changes_of(&found?, &root, |path| before.seen.contains_key(path));
    changes.extend(gone.into_iter().map(whiteout));
    changes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    Ok((changes, now))
}

/// Whether it is the topmost of what is gone: what was below it needs no word.
fn is_gone(path: &EntryPath, now: &Listing) -> bool {
    let parent = path.parent().unwrap_or_default();
    !now.seen.contains_key(path) && now.is_directory(&parent)
}

fn add_parents(wanted: &mut BTreeSet<EntryPath>, gone: &[&EntryPath]) {
    let changed: Vec<EntryPath> = wanted.iter().chain(gone.iter().copied()).cloned().collect();
    for path in changed {
        let mut above = path.parent();
        while let Some(path) = above.filter(|path| !path.is_root()) {
            above = path.parent();
            if !wanted.insert(path) {
                break;
            }
        }
    }
}

fn look(root: &OwnedFd, path: &EntryPath) -> Result<Found, DiffError> {
    let parent = path.parent().unwrap_or_default();
    let directory = open_directory(root, &parent).map_err(failed("open the directory", &parent))?;
    let name = std::ffi::CString::new(path.name()).map_err(failed("inspect", path))?;
    inspect(&directory, &name, path, None)
}

fn whiteout(path: &EntryPath) -> Change {
    Change::without_content(Entry {
        path: path.clone(),
        kind: Kind::Whiteout,
        metadata: Metadata::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    /// What `change` did to a tree, a line for each change.
    fn changes(change: impl FnOnce(&Path)) -> Vec<String> {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for folder in ["d/sub", "kept/deep", "gone/below"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["a", "b", "d/f", "d/sub/g", "kept/deep/h", "gone/below/x"] {
            fs::write(root.join(file), "1").unwrap();
        }
        fs::hard_link(root.join("a"), root.join("also-a")).unwrap();
        symlink("a", root.join("link")).unwrap();
        let directory = fs::File::open(root).unwrap();
        let before = Listing::of(&directory).unwrap();
        pass(&before, root);
        change(root);
        let (changes, now) = changes_since(&directory, &before).unwrap();
        let (again, _) = changes_since(&directory, &now).unwrap();
        assert!(again.is_empty(), "nothing has changed since");
        let line = |change: &Change| {
            let kind = match &change.entry.kind {
                Kind::File { size } => format!("file {size}"),
                Kind::Directory { .. } => "dir".to_owned(),
                Kind::Symlink { .. } => "link".to_owned(),
                Kind::Hardlink { target } => format!("= {target}"),
                Kind::Whiteout => "gone".to_owned(),
                other => format!("{other:?}"),
            };
            format!("{} {kind}", change.entry.path)
        };
        changes.iter().map(line).collect()
    }

    /// Waits until a change would carry a time of its own.
    fn pass(listing: &Listing, root: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        let newest = listing.newest_change().unwrap();
        let probe = tempfile::NamedTempFile::new_in(root.parent().unwrap()).unwrap();
        loop {
            fs::write(probe.path(), "").unwrap();
            let now = fs::metadata(probe.path()).unwrap();
            if (now.ctime(), now.ctime_nsec()) > (newest.seconds, newest.nanoseconds.into()) {
                return;
            }
        }
    }

    #[test]
    fn nothing_changes_by_looking() {
        assert!(changes(|root| drop(fs::read(root.join("a")).unwrap())).is_empty());
    }

    #[test]
    fn content_of_the_same_size_and_time_is_a_change() {
        let changed = changes(|root| {
            let path = root.join("kept/deep/h");
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "2").unwrap();
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(before)
                .unwrap();
        });
        assert_eq!(
            changed,
            ["/kept dir", "/kept/deep dir", "/kept/deep/h file 1"]
        );
    }

    #[test]
    fn one_of_several_names_changes_all() {
        let changed = changes(|root| fs::write(root.join("also-a"), "22").unwrap());
        assert_eq!(changed, ["/a file 2", "/also-a = /a"]);
    }

    #[test]
    fn a_name_that_goes_changes_no_other_name() {
        let changed = changes(|root| fs::remove_file(root.join("a")).unwrap());
        assert_eq!(changed, ["/a gone"]);
        let changed = changes(|root| {
            fs::remove_file(root.join("a")).unwrap();
            fs::write(root.join("a"), "another").unwrap();
        });
        assert_eq!(changed, ["/a file 7"]);
    }

    #[test]
    fn a_name_that_goes_hides_no_change_of_the_others() {
        let changed = changes(|root| {
            let path = root.join("also-a");
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "2").unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(before).unwrap();
            fs::remove_file(root.join("a")).unwrap();
        });
        assert_eq!(changed, ["/a gone", "/also-a file 1"]);
        let changed = changes(|root| {
            fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::remove_file(root.join("a")).unwrap();
        });
        assert_eq!(changed, ["/a gone", "/also-a file 1"]);
    }

    #[test]
    fn a_new_name_brings_the_file_into_the_layer() {
        let changed = changes(|root| {
            fs::hard_link(root.join("a"), root.join("d/third")).unwrap();
            fs::remove_file(root.join("also-a")).unwrap();
        });
        assert_eq!(
            changed,
            ["/a file 1", "/also-a gone", "/d dir", "/d/third = /a"]
        );
    }

    #[test]
    fn deletions_are_said_once_at_their_top() {
        let changed = changes(|root| {
            fs::remove_dir_all(root.join("gone")).unwrap();
            fs::remove_file(root.join("d/sub/g")).unwrap();
        });
        assert_eq!(
            changed,
            ["/d dir", "/d/sub dir", "/d/sub/g gone", "/gone gone"]
        );
    }

    #[test]
    fn a_directory_made_again_hides_what_was_in_it() {
        let changed = changes(|root| {
            fs::remove_dir_all(root.join("gone")).unwrap();
            fs::create_dir(root.join("gone")).unwrap();
            fs::write(root.join("gone/new"), "").unwrap();
        });
        assert_eq!(
            changed,
            ["/gone dir", "/gone/below gone", "/gone/new file 0"]
        );
    }

    #[test]
    fn kinds_and_modes() {
        let changed = changes(|root| {
            fs::remove_dir_all(root.join("d")).unwrap();
            fs::write(root.join("d"), "now a file").unwrap();
            fs::remove_file(root.join("link")).unwrap();
            fs::create_dir(root.join("link")).unwrap();
            fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o600)).unwrap();
        });
        assert_eq!(changed, ["/b file 1", "/d file 10", "/link dir"]);
    }
}
