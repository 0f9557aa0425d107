//! Paths within an image, as BuildKit's frontend and LLB client join and clean them.
//!
//! They have slashes throughout; images for Windows get their backslashes in the configuration.

use std::borrow::Cow;

use longshore_dockerfile::quote::quote;

pub(crate) use longshore_dockerfile::ignore::clean_path as clean;

/// Why a path of a Windows image is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowsPathError {
    /// A drive alone.
    #[error("No relative path specified in {}", quote(.0))]
    DriveAlone(String),
    /// `\\host\share`.
    #[error("UNC paths are not supported")]
    Unc,
    /// A drive other than `C:`.
    #[error("The specified path is not on the system drive (C:)")]
    OtherDrive,
}

/// The path with slashes, and for Windows without its drive.
pub(crate) fn with_slashes<'p>(path: &'p str, os: &str) -> Result<Cow<'p, str>, WindowsPathError> {
    if os != "windows" {
        return Ok(Cow::Borrowed(path));
    }
    let slashed = path.replace('\\', "/");
    if slashed.starts_with("//") {
        return Err(WindowsPathError::Unc);
    }
    match slashed.split_once(':') {
        None => Ok(Cow::Owned(slashed)),
        Some((drive, "")) if drive.len() == 1 => Err(WindowsPathError::DriveAlone(path.to_owned())),
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => Ok(Cow::Owned(rest.to_owned())),
        Some(_) => Err(WindowsPathError::OtherDrive),
    }
}

/// The path as the operating system writes it.
pub(crate) fn native(path: &str, os: &str) -> String {
    if os == "windows" {
        path.replace('/', "\\")
    } else {
        path.to_owned()
    }
}

/// `path.Join`.
pub(crate) fn join(parent: &str, path: &str) -> String {
    match (parent.is_empty(), path.is_empty()) {
        (true, true) => String::new(),
        (true, false) => clean(path),
        (false, true) => clean(parent),
        (false, false) => clean(&format!("{parent}/{path}")),
    }
}

/// The last element; `.` of an empty path, `/` of the root.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

/// What `WORKDIR path` makes of the working directory. An absolute path stays as written.
pub(crate) fn working_directory(current: &str, path: &str) -> String {
    let current = join("/", current);
    match path {
        "" => current,
        path if path.starts_with('/') => path.to_owned(),
        path => join(&current, path),
    }
}

/// Where `COPY … path` copies to: absolute and clean, but a slash (or `/.`) at the end stays, for
/// it says that this is a directory.
pub(crate) fn destination(working_directory: &str, path: &str) -> String {
    let written = if matches!(path, "" | ".") { "./" } else { path };
    let absolute = if written.starts_with('/') {
        clean(written)
    } else {
        join(working_directory, written)
    };
    let absolute = join("/", &absolute);
    if written.ends_with('/') && !absolute.ends_with('/') {
        return absolute + "/";
    }
    if written.ends_with("/.") {
        let slash = if absolute == "/" { "" } else { "/" };
        return format!("{absolute}{slash}.");
    }
    absolute
}

/// A path from the root of what it is in; `..` does not leave it.
pub(crate) fn rooted(path: &str) -> String {
    clean(&format!("/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_what_makes_them_directories() {
        for (path, expected) in [
            ("x", "/w/x"),
            ("x/", "/w/x/"),
            (".", "/w/"),
            ("", "/w/"),
            ("./", "/w/"),
            ("/", "/"),
            ("/a//b/../c", "/a/c"),
            ("/a/.", "/a/."),
            ("/.", "/."),
            ("..", "/"),
        ] {
            assert_eq!(destination("/w", path), expected, "{path}");
        }
        assert_eq!(destination("", "x"), "/x");
    }

    #[test]
    fn absolute_working_directories_stay_as_written() {
        assert_eq!(working_directory("", "a"), "/a");
        assert_eq!(working_directory("/a", "../b/"), "/b");
        assert_eq!(working_directory("/a", "/b/../c/"), "/b/../c/");
        assert_eq!(working_directory("a", ""), "/a");
    }

    #[test]
    fn windows_paths_lose_their_drive() {
        let slashes = |path| with_slashes(path, "windows").map(Cow::into_owned);
        assert_eq!(slashes("C:\\a\\b"), Ok("/a/b".to_owned()));
        assert_eq!(slashes("a\\b/"), Ok("a/b/".to_owned()));
        assert_eq!(
            slashes("c:"),
            Err(WindowsPathError::DriveAlone("c:".to_owned()))
        );
        assert_eq!(slashes("d:\\a"), Err(WindowsPathError::OtherDrive));
        assert_eq!(slashes("\\\\h\\s"), Err(WindowsPathError::Unc));
        assert_eq!(with_slashes("a\\b", "linux").unwrap(), "a\\b");
        assert_eq!(native("/a/b", "windows"), "\\a\\b");
    }

    #[test]
    fn the_last_element() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("/a/b", "b"),
            ("a/b/", "b"),
            ("a", "a"),
        ] {
            assert_eq!(base(path), expected);
        }
    }
}
