//! Following a path through a tree whose root it cannot leave.

use crate::EntryPath;
use crate::copy::CopyError;
use crate::limits::SYMLINKS_FOLLOWED_MAX;

/// What stands at a path on the way.
pub(super) enum Step {
    /// Nothing: what follows is taken as it is written.
    Missing,
    Directory,
    /// A symbolic link and its text.
    Link(Vec<u8>),
    Other,
}

/// The path with `.`, `..`, doubled and trailing slashes taken out, `..` stopping at the
/// root; before any symbolic link is looked at, as Go's `filepath.Join("/", path)` does.
pub(super) fn clean(path: &str) -> Result<EntryPath, CopyError> {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    EntryPath::new(names.join("/")).map_err(|_| CopyError::InvalidPath {
        path: path.to_owned(),
    })
}

/// Follows `path`; symbolic links lead inside the root, `..` in them stops at it. The
/// last component is followed when `follow_last` is set.
///
/// # Errors
/// When links lead in circles, something on the way is no directory, or `look` fails.
pub(super) fn resolve(
    path: &EntryPath,
    follow_last: bool,
    look: impl Fn(&EntryPath) -> Result<Step, CopyError>,
) -> Result<EntryPath, CopyError> {
    let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
    let mut done = EntryPath::root();
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            done = done.parent().unwrap_or_default();
            continue;
        }
        let next = join(&done, &name)?;
        match look(&next)? {
            Step::Link(target) if follow_last || !pending.is_empty() => {
                links += 1;
                if links > SYMLINKS_FOLLOWED_MAX {
                    return Err(CopyError::TooManyLinks {
                        path: path.to_string(),
                    });
                }
                if target.first() == Some(&b'/') {
                    done = EntryPath::root();
                }
                let names = target.rsplit(|byte| *byte == b'/');
                let real = names.filter(|name| !matches!(*name, b"" | b"."));
                pending.extend(real.map(<[u8]>::to_vec));
            }
            Step::Other if !pending.is_empty() => {
                return Err(CopyError::NotADirectory { path: next });
            }
            _ => done = next,
        }
    }
    Ok(done)
}

/// A name within a directory.
pub(super) fn join(directory: &EntryPath, name: &[u8]) -> Result<EntryPath, CopyError> {
    directory.join(name).map_err(|_| CopyError::InvalidPath {
        path: format!("{directory}/{}", String::from_utf8_lossy(name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).unwrap()
    }

    fn look(at: &EntryPath) -> Result<Step, CopyError> {
        Ok(match at.as_bytes() {
            b"usr" | b"usr/lib" => Step::Directory,
            b"lib" => Step::Link(b"usr/lib".to_vec()),
            b"up" => Step::Link(b"../../usr".to_vec()),
            b"usr/abs" => Step::Link(b"/lib/./x".to_vec()),
            b"loop" => Step::Link(b"loop".to_vec()),
            b"file" => Step::Other,
            _ => Step::Missing,
        })
    }

    #[test]
    fn links_stay_inside_the_root() {
        let at = |text, follow| resolve(&path(text), follow, look).unwrap();
        assert_eq!(at("lib/a/b", true), path("usr/lib/a/b"));
        assert_eq!(at("lib", false), path("lib"));
        assert_eq!(at("up/lib", false), path("usr/lib"));
        assert_eq!(at("usr/abs", true), path("usr/lib/x"));
        assert!(matches!(
            resolve(&path("loop/x"), true, look),
            Err(CopyError::TooManyLinks { .. })
        ));
        assert!(matches!(
            resolve(&path("file/x"), true, look),
            Err(CopyError::NotADirectory { .. })
        ));
    }

    #[test]
    fn paths_are_cleaned_before_links_count() {
        for (text, expected) in [
            ("/a/../../b/", "b"),
            ("lib/../x", "x"),
            ("./a//b/.", "a/b"),
            ("", ""),
            ("..", ""),
        ] {
            assert_eq!(clean(text).unwrap(), path(expected), "{text}");
        }
        assert!(clean("a\0b").is_err());
    }
}
