//! Which files of an input changed, from lists that are kept short.
//!
//! A list that would be too long tells files apart down to a depth only; what is deeper
//! is taken together by directory. The next list is brought to the same depth before the
//! two are compared.

use std::collections::BTreeMap;

use crate::{PathChange, PathChangeKind, PathDigest, RecordedPath, RecordedPaths};

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
    let mut marks = BTreeMap::<&str, (Option<u64>, Option<u64>)>::new();
    for entry in &old.entries {
        marks.entry(&entry.path).or_default().0 = Some(entry.mark);
    }
    for entry in &new.entries {
        marks.entry(&entry.path).or_default().1 = Some(entry.mark);
    }
    let changed = marks.iter().filter(|(_, (old, new))| old != new);
    let mut changes: Vec<_> = changed
        .map(|(path, marks)| PathChange {
            path: (*path).to_owned(),
            kind: match marks {
                (None, _) => PathChangeKind::Added,
                (_, None) => PathChangeKind::Removed,
                (Some(_), Some(_)) => PathChangeKind::Modified,
            },
        })
        .collect();
    let total = changes.len();
    changes.truncate(CHANGES_SHOWN_MAX);
    (changes, total)
}

fn at_depth(files: &[PathDigest], depth: Option<usize>) -> RecordedPaths {
    let mut directories = BTreeMap::<String, blake3::Hasher>::new();
    let mut entries = BTreeMap::<String, u64>::new();
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    for file in sorted {
        match depth.filter(|depth| components(&file.path) > *depth) {
            None => {
                entries.insert(file.path.clone(), mark(&file.digest.0));
            }
            Some(depth) => {
                let hasher = directories.entry(prefix(&file.path, depth)).or_default();
                hasher.update(&(file.path.len() as u64).to_le_bytes());
                hasher.update(file.path.as_bytes());
                hasher.update(&file.digest.0);
            }
        }
    }
    for (path, hasher) in directories {
        entries.insert(path, mark(hasher.finalize().as_bytes()));
    }
    let entries = entries.into_iter();
    RecordedPaths {
        depth,
        entries: entries
            .map(|(path, mark)| RecordedPath { path, mark })
            .collect(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> PathDigest {
        PathDigest {
            path: path.to_owned(),
            digest: blake3::hash(content.as_bytes()).into(),
        }
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
