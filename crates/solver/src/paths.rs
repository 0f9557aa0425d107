//! Which files of an input changed, from lists that are kept short.
//!
//! A list that would be too long tells files apart down to a depth only; what is deeper
//! is taken together by directory. The next list is brought to the same depth before the
//! two are compared.

use std::collections::BTreeMap;

use crate::{PathAspect, PathChange, PathChangeKind, PathDigest, RecordedPath, RecordedPaths};

/// The most entries that are kept of one input: some 60 KB in a record.
const ENTRIES_MAX: usize = 1000;

/// The most changed files that are named.
const CHANGES_SHOWN_MAX: usize = 20;

/// Shortens the list of an input's files to what a record keeps.
pub(crate) fn recorded(files: &[PathDigest]) -> RecordedPaths {
    let deepest = files.iter().map(|file| components(&file.path)).max();
    let mut recorded = at_depth(files, None);
    let mut depth = deepest.unwrap_or(0);
    while recorded.entries.len() > ENTRIES_MAX {
        depth = depth.saturating_sub(1);
        recorded = at_depth(files, Some(depth));
    }
    recorded
}

/// The files that differ, the first of them named, and how many there are.
pub(crate) fn changes(old: &RecordedPaths, new: &[PathDigest]) -> (Vec<PathChange>, usize) {
    if old.entries.is_empty() || new.is_empty() {
        return (Vec::new(), 0);
    }
    let new = at_depth(new, old.depth);
    let mut pairs = BTreeMap::<&str, (Option<&RecordedPath>, Option<&RecordedPath>)>::new();
    for entry in &old.entries {
        pairs.entry(&entry.path).or_default().0 = Some(entry);
    }
    for entry in &new.entries {
        pairs.entry(&entry.path).or_default().1 = Some(entry);
    }
    let mark = |entry: &Option<&RecordedPath>| entry.map(|entry| entry.mark);
    let changed = pairs
        .iter()
        .filter(|(_, (old, new))| mark(old) != mark(new));
    let mut changes: Vec<_> = changed
        .map(|(path, pair)| PathChange {
            path: (*path).to_owned(),
            kind: match pair {
                (None, _) => PathChangeKind::Added,
                (_, None) => PathChangeKind::Removed,
                (Some(_), Some(_)) => PathChangeKind::Modified,
            },
            aspects: aspects_that_differ(pair.0, pair.1),
        })
        .collect();
    let total = changes.len();
    changes.truncate(CHANGES_SHOWN_MAX);
    (changes, total)
}

fn aspects_that_differ(old: Option<&RecordedPath>, new: Option<&RecordedPath>) -> Vec<PathAspect> {
    let aspects = |entry: Option<&RecordedPath>| entry.and_then(|entry| entry.aspects);
    let (Some(old), Some(new)) = (aspects(old), aspects(new)) else {
        return Vec::new();
    };
    let marks = old.iter().zip(&new).zip(PathAspect::ALL);
    marks
        .filter(|((old, new), _)| old != new)
        .map(|(_, aspect)| aspect)
        .collect()
}

fn at_depth(files: &[PathDigest], depth: Option<usize>) -> RecordedPaths {
    let mut directories = BTreeMap::<String, blake3::Hasher>::new();
    let mut entries = BTreeMap::<String, RecordedPath>::new();
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    for file in sorted {
        match depth.filter(|depth| components(&file.path) > *depth) {
            None => {
                entries.insert(file.path.clone(), single(file));
            }
            Some(depth) => {
                let hasher = directories.entry(prefix(&file.path, depth)).or_default();
                hasher.update(&(file.path.len() as u64).to_le_bytes());
                hasher.update(file.path.as_bytes());
                hasher.update(&digest(file));
            }
        }
    }
    for (path, hasher) in directories {
        let entry = RecordedPath {
            path: path.clone(),
            mark: mark(hasher.finalize().as_bytes()),
            aspects: None,
        };
        entries.insert(path, entry);
    }
    RecordedPaths {
        depth,
        entries: entries.into_values().collect(),
    }
}

/// A file that is told apart from all others.
fn single(file: &PathDigest) -> RecordedPath {
    let (user, group) = file.owner;
    let owner = (u64::from(user) << 32) | u64::from(group);
    RecordedPath {
        path: file.path.clone(),
        mark: mark(&digest(file)),
        aspects: Some([
            short_mark(&file.content.0),
            file.mode,
            short_mark(blake3::hash(&owner.to_le_bytes()).as_bytes()),
            short_mark(&file.attributes.0),
        ]),
    }
}

fn digest(file: &PathDigest) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file.content.0);
    for number in [file.mode, file.owner.0, file.owner.1] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&file.attributes.0);
    *hasher.finalize().as_bytes()
}

fn components(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// The first `depth` components, with a slash at the end.
fn prefix(path: &str, depth: usize) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let mut prefix = parts.take(depth).collect::<Vec<_>>().join("/");
    prefix.push('/');
    prefix
}

fn mark(digest: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

fn short_mark(digest: &[u8; 32]) -> u32 {
    let mut first = [0; 4];
    first.copy_from_slice(&digest[..4]);
    u32::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> PathDigest {
        PathDigest {
            path: path.to_owned(),
            content: blake3::hash(content.as_bytes()).into(),
            mode: 0o644,
            owner: (0, 0),
            attributes: blake3::hash(b"").into(),
        }
    }

    #[test]
    fn a_changed_file_says_what_of_it_changed() {
        let before = file("a", "1");
        let said = |after: PathDigest| {
            let (changes, _) = changes(&recorded(std::slice::from_ref(&before)), &[after]);
            changes[0].to_string()
        };
        assert_eq!(said(file("a", "2")), "`a` changed (content)");
        let mut after = before.clone();
        after.mode = 0o755;
        assert_eq!(said(after.clone()), "`a` changed (mode)");
        after.owner = (0, 7);
        after.attributes = blake3::hash(b"x").into();
        assert_eq!(said(after), "`a` changed (mode, owner, attributes)");
        // A record of an earlier version has no marks of aspects.
        let mut old = recorded(&[before]);
        old.entries[0].aspects = None;
        let (changes, _) = changes(&old, &[file("a", "2")]);
        assert_eq!(changes[0].to_string(), "`a` changed");
    }

    #[test]
    fn changed_added_and_removed_files_are_named() {
        let old = recorded(&[file("a", "1"), file("b/c", "1"), file("d", "1")]);
        let new = [file("a", "1"), file("b/c", "2"), file("e", "1")];
        let (changes, total) = changes(&old, &new);
        let named: Vec<_> = changes.iter().map(|c| (c.path.as_str(), c.kind)).collect();
        assert_eq!(total, 3);
        assert_eq!(
            named,
            [
                ("b/c", PathChangeKind::Modified),
                ("d", PathChangeKind::Removed),
                ("e", PathChangeKind::Added),
            ]
        );
    }

    #[test]
    fn long_lists_are_kept_by_directory_and_still_name_the_right_one() {
        let tree = |changed: usize| -> Vec<PathDigest> {
            let content = |n: usize| if n == changed { "new" } else { "old" };
            let path = |n: usize| format!("src/{}/{n}.rs", n % 30);
            (0..5000).map(|n| file(&path(n), content(n))).collect()
        };
        let old = recorded(&tree(usize::MAX));
        assert_eq!(old.depth, Some(2));
        assert_eq!(old.entries.len(), 30);
        let (changes, total) = changes(&old, &tree(61));
        assert_eq!(total, 1);
        assert_eq!(changes[0].path, "src/1/");
        let flat: Vec<_> = (0..5000).map(|n| file(&n.to_string(), "")).collect();
        assert_eq!(recorded(&flat).entries.len(), 1);
    }

    #[test]
    fn unknown_lists_name_nothing() {
        assert_eq!(
            changes(&RecordedPaths::default(), &[file("a", "")]),
            (vec![], 0)
        );
        assert_eq!(changes(&recorded(&[file("a", "")]), &[]), (vec![], 0));
    }
}
