//! What a tree of files looked like, and what has changed in it since: for root file systems that
//! are copies, where no overlay collects the changes.
//!
//! Invariant: a change that was made after the listing is found. Every change of a file's bytes,
//! owner, mode, attributes or names moves its change time, which nobody can set; whoever hands the
//! tree out waits until the clock has passed [`Listing::newest_change`], so that no later change
//! can carry a time that is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType};

use super::scan::{Found, failed, inspect, names_in, path_of};
use super::{DiffError, changes_of};
use crate::fs_at::open_directory;
use crate::{Change, Entry, EntryPath, FileStamp, Kind, Metadata, Timestamp};

/// Everything below a directory, by path, with what tells its versions apart.
#[derive(Clone, Debug, Default)]
pub struct Listing(BTreeMap<EntryPath, Seen>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    stamp: FileStamp,
    is_directory: bool,
}

impl Listing {
    /// Lists what is below `directory`, on all cores.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn of(directory: impl AsFd) -> Result<Self, DiffError> {
        let path = EntryPath::root();
        let root = open_directory(directory, &path).map_err(failed("open", &path))?;
        let mut all = BTreeMap::new();
        let mut level = vec![path];
        while !level.is_empty() {
            let listed: Result<Vec<_>, DiffError> = level
                .par_iter()
                .map(|path| list_directory(&root, path))
                .collect();
            level.clear();
            for (path, seen) in listed?.into_iter().flatten() {
                if seen.is_directory {
                    level.push(path.clone());
                }
                all.insert(path, seen);
            }
        }
        Ok(Self(all))
    }

    /// When something in it last changed.
    pub fn newest_change(&self) -> Option<Timestamp> {
        self.0.values().map(|seen| seen.stamp.ctime).max()
    }

    fn is_directory(&self, path: &EntryPath) -> bool {
        path.is_root() || self.0.get(path).is_some_and(|seen| seen.is_directory)
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
        };
        listed.push((path, seen));
    }
    Ok(listed)
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
    let now = Listing::of(&*root)?;
    let changed = now
        .0
        .iter()
        .filter(|(path, seen)| before.0.get(*path) != Some(*seen));
    let mut wanted: BTreeSet<EntryPath> = changed.map(|(path, _)| path.clone()).collect();
    let gone: Vec<&EntryPath> = before.0.keys().filter(|path| is_gone(path, &now)).collect();
    add_parents(&mut wanted, &gone);
    let found: Result<BTreeMap<EntryPath, Found>, DiffError> = wanted
        .into_par_iter()
        .map(|path| Ok((path.clone(), look(&root, &path)?)))
        .collect();
    let mut changes = changes_of(&found?, &root, |path| before.0.contains_key(path));
    changes.extend(gone.into_iter().map(whiteout));
    changes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    Ok((changes, now))
}

/// Whether it is the topmost of what is gone: what was below it needs no word.
fn is_gone(path: &EntryPath, now: &Listing) -> bool {
    let parent = path.parent().unwrap_or_default();
    !now.0.contains_key(path) && now.is_directory(&parent)
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
