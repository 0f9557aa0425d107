//! One pattern: its text, and the cheapest way to match it.

use super::PatternError;
use super::path::clean_path;
use super::regex::Regex;

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    exclusion: bool,
    form: Form,
}

/// Most patterns need no automaton.
#[derive(Clone, Debug)]
enum Form {
    /// No wildcard.
    Exact,
    /// `text**`: everything that starts with `text`.
    Prefix,
    /// `**text`: everything that ends with `text`; `**/x` also `x` itself.
    Suffix,
    /// Anything else.
    Regex(Regex),
}

/// How far the form is known while a pattern is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

impl Pattern {
    /// Compiles one pattern; nothing if it is blank.
    pub(super) fn new(text: &str) -> Result<Option<Self>, PatternError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(None);
        }
        let mut text = clean_path(trimmed);
        let exclusion = text.starts_with('!');
        if exclusion {
            text.remove(0);
            if text.is_empty() {
                return Err(PatternError::LoneExclusion);
            }
        }
        let syntax = || PatternError::Syntax {
            pattern: trimmed.to_owned(),
        };
        if !is_well_formed(&text) {
            return Err(syntax());
        }
        let (shape, regex) = translate(&text);
        let form = match shape {
            Shape::Exact => Form::Exact,
            Shape::Prefix => Form::Prefix,
            Shape::Suffix => Form::Suffix,
            Shape::Regex => Form::Regex(Regex::new(&regex).ok_or_else(syntax)?),
        };
        Ok(Some(Self {
            text,
            exclusion,
            form,
        }))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.form {
            Form::Exact => path == self.text.as_bytes(),
            Form::Prefix => path.starts_with(self.without_stars_behind()),
            Form::Suffix => {
                let suffix = &self.text.as_bytes()[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Form::Regex(regex) => regex.matches(path),
        }
    }

    /// Whether some path below `directory` may match.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        match &self.form {
            Form::Exact => is_below(self.text.as_bytes(), directory),
            Form::Prefix => {
                let prefix = self.without_stars_behind();
                is_below(prefix, directory) || starts_with_slash_added(directory, prefix)
            }
            Form::Suffix => true,
            Form::Regex(regex) => regex.may_match_below(directory),
        }
    }

    fn without_stars_behind(&self) -> &[u8] {
        &self.text.as_bytes()[..self.text.len() - 2]
    }
}

/// Whether `path` starts with `directory/`.
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// Whether `directory/` starts with `prefix`.
fn starts_with_slash_added(directory: &[u8], prefix: &[u8]) -> bool {
    directory.starts_with(prefix) || prefix.strip_suffix(b"/") == Some(directory)
}

/// The regular expression that says what the pattern means, and whether it is needed.
fn translate(pattern: &str) -> (Shape, String) {
    let mut regex = String::new();
    let mut shape = Shape::Exact;
    let mut chars = pattern.chars().peekable();
    let mut first = true;
    while let Some(ch) = chars.next() {
        match ch {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    regex.push_str("(.*/)?");
                    shape = Shape::Regex;
                } else if shape == Shape::Exact {
                    shape = Shape::Prefix;
                } else {
                    regex.push_str(".*");
                    shape = Shape::Regex;
                }
                if first {
                    shape = Shape::Suffix;
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                shape = Shape::Regex;
            }
            '?' => {
                regex.push_str("[^/]");
                shape = Shape::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                regex.push('\\');
                regex.push(ch);
            }
            '\\' => {
                regex.push('\\');
                if let Some(escaped) = chars.next() {
                    regex.push(escaped);
                    shape = Shape::Regex;
                }
            }
            '[' | ']' => {
                regex.push(ch);
                shape = Shape::Regex;
            }
            _ => regex.push(ch),
        }
        first = false;
    }
    (shape, regex)
}

/// Go's `filepath.Match` finds no fault with the pattern: every `[` has its `]` with at least one
/// full range between them, and no `\` stands at the end.
fn is_well_formed(pattern: &str) -> bool {
    let mut rest = pattern;
    while let Some(ch) = rest.chars().next() {
        rest = &rest[ch.len_utf8()..];
        match ch {
            '[' => match skip_class(rest) {
                Some(after) => rest = after,
                None => return false,
            },
            '\\' => match rest.chars().next() {
                Some(escaped) => rest = &rest[escaped.len_utf8()..],
                None => return false,
            },
            _ => {}
        }
    }
    true
}

/// What follows a class whose `[` has been read.
fn skip_class(class: &str) -> Option<&str> {
    let mut rest = class.strip_prefix('^').unwrap_or(class);
    let mut ranges = 0;
    loop {
        if ranges > 0
            && let Some(after) = rest.strip_prefix(']')
        {
            return Some(after);
        }
        rest = skip_class_char(rest)?;
        if let Some(after) = rest.strip_prefix('-') {
            rest = skip_class_char(after)?;
        }
        ranges += 1;
    }
}

/// What follows one character of a class; there has to be something.
fn skip_class_char(class: &str) -> Option<&str> {
    if class.starts_with(['-', ']']) {
        return None;
    }
    let class = class.strip_prefix('\\').unwrap_or(class);
    let mut chars = class.chars();
    chars.next()?;
    Some(chars.as_str()).filter(|rest| !rest.is_empty())
}
