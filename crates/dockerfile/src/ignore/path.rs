//! Paths as Go's `path.Clean` sees them.

/// The shortest path with the same meaning: no `.`, no doubled or trailing slash, `..` resolved
/// as far as it goes (and dropped at a leading `/`). Empty becomes `.`.
#[must_use]
pub fn clean_path(path: &str) -> String {
    // Parts are cut at slashes and joined again: what was text stays text.
    String::from_utf8_lossy(&clean(path.as_bytes())).into_owned()
}

pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/".as_slice(), &joined].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// Where each directory above a clean `path` ends, nearest to the root first. The root of an
/// absolute path is the empty text, as for Go's `strings.Split`.
pub(super) fn directory_ends(path: &[u8]) -> Vec<usize> {
    let is_slash = |index: &usize| path[*index] == b'/';
    let Some(parent_end) = (0..path.len()).rev().find(is_slash) else {
        return Vec::new();
    };
    let parent_end = parent_end.max(1);
    (0..parent_end)
        .filter(is_slash)
        .chain([parent_end])
        .collect()
}
