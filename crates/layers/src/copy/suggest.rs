//! Did you mean …?

use crate::EntryPath;
use crate::copy::{CopySource, SourceError};

/// Longer names are not compared: the comparison takes the product of both lengths.
const NAME_BYTES_MAX: usize = 255;

/// The path in the source that looks most like `wanted`, which is not there.
pub(super) fn suggest(
    source: &dyn CopySource,
    wanted: &EntryPath,
) -> Result<Option<String>, SourceError> {
    let mut found = EntryPath::root();
    let mut guessed = false;
    for name in wanted.components() {
        let children = source.read_dir(&found)?;
        let names = children.iter().map(|child| &child.name[..]);
        let Some(best) = closest(name, names) else {
            return Ok(None);
        };
        guessed |= best != name;
        let Ok(next) = found.join(best) else {
            return Ok(None);
        };
        found = next;
    }
    Ok(guessed.then(|| found.to_string()))
}

/// The name itself, else the nearest one within a third of its length.
fn closest<'a>(wanted: &[u8], names: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let limit = (wanted.len() / 3).max(1);
    names
        .filter(|name| name.len() <= NAME_BYTES_MAX && wanted.len() <= NAME_BYTES_MAX)
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions and replacements; one for another case of the same letters.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a == b {
        return 0;
    }
    if a.eq_ignore_ascii_case(b) {
        return 1;
    }
    strsim::generic_levenshtein(&a.to_vec(), &b.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_close_enough_or_none() {
        let names: [&[u8]; 4] = [b"package.json", b"package-lock.json", b"src", b"README.md"];
        let check = |wanted: &[u8]| closest(wanted, names.into_iter());
        assert_eq!(check(b"packge.json"), Some(names[0]));
        assert_eq!(check(b"SRC"), Some(names[2]));
        assert_eq!(check(b"readme.md"), Some(names[3]));
        assert_eq!(check(b"target"), None);
        assert_eq!(check(b"src"), Some(names[2]));
    }

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"abc", b""), 3);
    }
}
