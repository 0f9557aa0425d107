//! What a tree of files has that is no part of it: where layers are applied to a directory that is
//! somebody's already.
//!
//! Invariant: nothing at or below a kept path is listed, written or removed, and no directory above
//! one is removed or replaced. Where a layer would have to, what stands there is kept as well.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use super::remove::{children, remove_tree};
use super::{DirectoryError, failed};
use crate::fs_at::open_directory;
use crate::{Change, EntryPath, Kind};

/// Paths that are left alone, each with all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept(BTreeSet<EntryPath>);

impl Kept {
    /// Leaves one more alone.
    pub fn add(&mut self, path: EntryPath) {
        self.0.insert(path);
    }

    /// Whether `path` is left alone.
    pub fn covers(&self, path: &EntryPath) -> bool {
        self.topmost(path).is_some()
    }

    /// What is left alone and has `path` in it.
    fn topmost(&self, path: &EntryPath) -> Option<&EntryPath> {
        if self.0.is_empty() {
            return None;
        }
        let mut found = None;
        let mut at = Some(path.clone());
        while let Some(path) = at {
            found = self.0.get(&path).or(found);
            at = path.parent();
        }
        found
    }

    /// Whether something below `path` is left alone.
    fn is_below(&self, path: &EntryPath) -> bool {
        self.0
            .range(path..)
            .skip_while(|kept| *kept == path)
            .take_while(|kept| kept.starts_with(path))
            .next()
            .is_some()
            || (path.is_root() && !self.0.is_empty())
    }

    /// Fits the changes of a layer, sorted, to what is left alone below `directory`: what they hide
    /// there is removed, what can be applied stays in `changes`, and what stands in the place of
    /// something else is left alone from now on. Gives the paths at which the layer has something
    /// that is not applied.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn fit(
        &mut self,
        directory: impl AsFd,
        changes: &mut Vec<Change>,
    ) -> Result<BTreeSet<EntryPath>, DirectoryError> {
        let mut left_out = BTreeSet::new();
        let mut fitting = Vec::with_capacity(changes.len());
        for mut change in changes.drain(..) {
            let path = change.entry.path.clone();
            if let Kind::Hardlink { target } = &change.entry.kind
                && self.covers(target)
            {
                left_out.insert(path);
                continue;
            }
            if let Some(kept) = self.topmost(&path) {
                left_out.insert(kept.clone());
                continue;
            }
            if !self.is_below(&path) {
                fitting.push(change);
                continue;
            }
            match &mut change.entry.kind {
                Kind::Whiteout => clear_below(directory.as_fd(), &path, self)?,
                Kind::Directory { opaque } => {
                    if std::mem::take(opaque) {
                        clear_below(directory.as_fd(), &path, self)?;
                    }
                    fitting.push(change);
                }
                _ => {
                    self.add(path.clone());
                    left_out.insert(path);
                }
            }
        }
        *changes = fitting;
        Ok(left_out)
    }
}

/// Removes all that is below `directory` but for what is kept.
///
/// # Errors
/// When something cannot be removed.
pub fn clear_around(directory: impl AsFd, kept: &Kept) -> Result<(), DirectoryError> {
    clear_below(directory.as_fd(), &EntryPath::root(), kept)
}

fn clear_below(root: BorrowedFd<'_>, path: &EntryPath, kept: &Kept) -> Result<(), DirectoryError> {
    // `remove_tree` takes what is no directory too, which has no children.
    open_directory(root, path).map_err(failed("open the directory", path))?;
    let mut pending = vec![path.clone()];
    while let Some(directory) = pending.pop() {
        for child in children(root, &directory)? {
            if kept.covers(&child) {
                continue;
            }
            if kept.is_below(&child) {
                pending.push(child);
            } else {
                remove_tree(root, &child)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::{
        DirectoryForm, DirectoryOptions, Listing, NoLowerLayers, OverlayAttributes,
        changes_of_overlay, changes_since, materialise,
    };

    fn kept(paths: &[&str]) -> Kept {
        let mut kept = Kept::default();
        for path in paths {
            kept.add(EntryPath::new(path).unwrap());
        }
        kept
    }

    fn below(root: &Path) -> Vec<String> {
        let mut found: Vec<String> = walkdir(root, root);
        found.sort();
        found
    }

    fn walkdir(root: &Path, at: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() && !path.is_symlink() {
                found.extend(walkdir(root, &path));
            }
            found.push(shown);
        }
        found
    }

    fn make(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "old").unwrap();
        }
    }

    #[test]
    fn all_but_what_is_kept_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        make(temp.path(), &["a/b/c", "a/x/y", "a/b2", "keep/all/of", "z"]);
        symlink("keep", temp.path().join("link")).unwrap();
        let root = fs::File::open(temp.path()).unwrap();
        clear_around(&root, &kept(&["a/b", "keep", "absent/too"])).unwrap();
        let left = ["a", "a/b", "a/b/c", "keep", "keep/all", "keep/all/of"];
        assert_eq!(below(temp.path()), left);
        clear_around(&root, &Kept::default()).unwrap();
        assert_eq!(below(temp.path()), Vec::<String>::new());
    }

    #[test]
    fn a_layer_cannot_touch_what_is_kept_in_any_way() {
        let temp = tempfile::tempdir().unwrap();
        let (layer, tree) = (temp.path().join("layer"), temp.path().join("tree"));
        make(
            &tree,
            &[
                "own/state/file",
                "other/own/file",
                "gone/own/file",
                "gone/x",
                "op/own/f",
                "op/x",
            ],
        );
        make(&layer, &["own/state/file", "own/new", "op/new"]);
        // In place of the directories above: a link, a deletion, one that hides what is below.
        symlink("/own", layer.join("other")).unwrap();
        fs::write(layer.join("gone"), "").unwrap();
        let mark = |path: &str, name: &str| {
            let file = fs::File::open(layer.join(path)).unwrap();
            rustix::fs::fsetxattr(file, name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        };
        mark("gone", "user.longshore.whiteout");
        mark("op", "user.longshore.opaque");
        fs::hard_link(layer.join("own/state/file"), layer.join("stolen")).unwrap();
        let mut own = kept(&["own/state", "other/own", "gone/own", "op/own"]);
        let attributes = OverlayAttributes::Own;
        let mut changes = changes_of_overlay(fs::File::open(&layer).unwrap(), attributes).unwrap();
        let root = fs::File::open(&tree).unwrap();
        let left_out: Vec<String> = (own.fit(&root, &mut changes).unwrap().iter())
            .map(ToString::to_string)
            .collect();
        assert_eq!(left_out, ["/other", "/own/state", "/stolen"]);
        let options = DirectoryOptions::new(DirectoryForm::Merged);
        materialise(&changes, &root, &options, &NoLowerLayers).unwrap();
        let expected = [
            "gone",
            "gone/own",
            "gone/own/file",
            "op",
            "op/new",
            "op/own",
            "op/own/f",
            "other",
            "other/own",
            "other/own/file",
            "own",
            "own/new",
            "own/state",
            "own/state/file",
        ];
        assert_eq!(below(&tree), expected);
        for file in ["own/state/file", "other/own/file", "gone/own/file"] {
            assert_eq!(fs::read_to_string(tree.join(file)).unwrap(), "old");
        }
        // Nor is it listed.
        let before = Listing::around(&root, own).unwrap();
        fs::write(tree.join("own/state/file"), "changed").unwrap();
        fs::write(tree.join("other/x"), "kept since a link should stand there").unwrap();
        let (changes, _) = changes_since(&root, &before).unwrap();
        assert!(changes.is_empty(), "{changes:?}");
    }
}
