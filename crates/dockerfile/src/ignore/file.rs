//! Reading an ignore file (`moby/patternmatcher/ignorefile`).

use super::path::clean_path;

/// More than this is no ignore file.
pub const IGNORE_FILE_BYTES_MAX: usize = 4 << 20;

/// The longest line; BuildKit's reader has the same limit.
pub const IGNORE_LINE_BYTES_MAX: usize = 64 << 10;

/// The patterns of an ignore file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoreFile {
    /// In order, cleaned, without leading slash; a `!` stands directly before its path.
    pub patterns: Vec<String>,
}

/// Why an ignore file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreFileError {
    /// Longer than [`IGNORE_FILE_BYTES_MAX`].
    #[error("the ignore file is larger than {IGNORE_FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// A line longer than [`IGNORE_LINE_BYTES_MAX`].
    #[error("line {line} of the ignore file is longer than {IGNORE_LINE_BYTES_MAX} bytes")]
    LineTooLong {
        /// From 1.
        line: usize,
    },
    /// A line that is no text.
    #[error("line {line} of the ignore file is not UTF-8")]
    NotUtf8 {
        /// From 1.
        line: usize,
    },
}

impl IgnoreFile {
    /// Reads the file's content.
    ///
    /// # Errors
    /// What [`IgnoreFileError`] says. Patterns are judged by [`Matcher::new`](super::Matcher::new).
    pub fn parse(content: &[u8]) -> Result<Self, IgnoreFileError> {
        if content.len() > IGNORE_FILE_BYTES_MAX {
            return Err(IgnoreFileError::TooLarge);
        }
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let mut patterns = Vec::new();
        for (line, number) in content.split(|byte| *byte == b'\n').zip(1..) {
            if line.len() >= IGNORE_LINE_BYTES_MAX {
                return Err(IgnoreFileError::LineTooLong { line: number });
            }
            let line =
                std::str::from_utf8(line).map_err(|_| IgnoreFileError::NotUtf8 { line: number })?;
            patterns.extend(read_line(line));
        }
        Ok(Self { patterns })
    }
}

/// The pattern on a line. A `#` makes a comment in the first column only.
fn read_line(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let (sign, path) = match line.strip_prefix('!') {
        Some(path) => ("!", path.trim()),
        None => ("", line),
    };
    if path.is_empty() {
        return Some(sign.to_owned());
    }
    let path = clean_path(path);
    let relative = path.strip_prefix('/').filter(|rest| !rest.is_empty());
    Some(format!("{sign}{}", relative.unwrap_or(&path)))
}
