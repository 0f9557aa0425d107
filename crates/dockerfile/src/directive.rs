//! Parser directives: `# syntax=`, `# escape=`, `# check=` at the top of the file.
//!
//! They are read twice, by two rules: the parser's own (a line that is not a directive ends them)
//! and the looser one that picks a frontend before anything is parsed ([`detect_syntax`]).

use crate::span::{Span, Spanned};

/// Which directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectiveName {
    /// The frontend that builds this file.
    Syntax,
    /// The escape character.
    Escape,
    /// Options of the build checks.
    Check,
}

impl DirectiveName {
    /// As written, in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Syntax, Self::Escape, Self::Check]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(name))
    }
}

/// A directive line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Which one.
    pub name: DirectiveName,
    /// Its value, outer blanks removed.
    pub value: Spanned<String>,
    /// The whole line.
    pub span: Span,
    /// Its physical line, from 1.
    pub line: u32,
}

/// The character that escapes others and continues lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Escape {
    /// `\`, the default.
    #[default]
    Backslash,
    /// `` ` ``, for Windows paths.
    Backtick,
}

impl Escape {
    /// The character.
    #[must_use]
    pub fn as_char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }

    /// The escape a directive's value names.
    pub(crate) fn from_value(value: &str) -> Option<Self> {
        match value {
            "\\" => Some(Self::Backslash),
            "`" => Some(Self::Backtick),
            _ => None,
        }
    }
}

/// Name and value on a line, with where the value stands in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DirectiveLine<'a> {
    pub(crate) name: DirectiveName,
    pub(crate) value: &'a str,
    /// Byte of the value in the line.
    pub(crate) value_start: usize,
}

/// Reads one line whose comment sign is `sign`; nothing if it is no known directive.
pub(crate) fn read_line<'a>(line: &'a str, sign: &str) -> Option<DirectiveLine<'a>> {
    let body = line.strip_prefix(sign)?.trim_start();
    let key_end = body.find(|ch: char| !ch.is_ascii_alphanumeric())?;
    let key = &body[..key_end];
    if !key.starts_with(|ch: char| ch.is_ascii_alphabetic()) {
        return None;
    }
    let rest = body[key_end..]
        .trim_start_matches(is_regex_space)
        .strip_prefix('=')?;
    let value = directive_value(rest)?;
    let name = DirectiveName::from_name(key)?;
    let value_start = value.as_ptr() as usize - line.as_ptr() as usize;
    Some(DirectiveLine {
        name,
        value,
        value_start,
    })
}

/// A value has at least one character; if there are blanks alone, the last one is the value.
fn directive_value(rest: &str) -> Option<&str> {
    let trimmed = rest.trim_matches(is_regex_space);
    if trimmed.is_empty() {
        let last = rest.char_indices().next_back()?.0;
        return Some(&rest[last..]);
    }
    Some(trimmed)
}

/// `\s` of Go's regular expressions.
fn is_regex_space(ch: char) -> bool {
    matches!(ch, '\t' | '\n' | '\u{c}' | '\r' | ' ')
}

/// The directive in a doc comment (`# check=…` above an instruction), comment sign removed.
pub(crate) fn read_comment(comment: &str) -> Option<DirectiveLine<'_>> {
    read_line(comment, "")
}

/// A frontend asked for by a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// The image: the value up to the first blank.
    pub image: String,
    /// The whole value.
    pub command_line: String,
    /// The physical line, from 1. For the JSON form, which has no line of its own: 0, or 1 after a
    /// `#!` line.
    pub line: u32,
}

/// The frontend a file asks for, by rules looser than the parser's: a first `#!` line is skipped,
/// and besides `# syntax=…` there may be `// syntax=…` or a JSON object with a `syntax` text.
#[must_use]
pub fn detect_syntax(text: &str) -> Option<Syntax> {
    let (text, skipped) = without_preamble(text);
    find(text, skipped, "#", DirectiveName::Syntax)
        .or_else(|| find(text, skipped, "//", DirectiveName::Syntax))
        .or_else(|| json_syntax(text, skipped))
}

/// The value of a directive by these rules, `#` form only, up to its first blank. Check options are
/// read so: a `#!` line may stand above them.
pub(crate) fn detect_directive(text: &str, name: DirectiveName) -> Option<Syntax> {
    let (text, skipped) = without_preamble(text);
    find(text, skipped, "#", name)
}

/// The text without byte-order mark and `#!` line, and how many lines that were.
fn without_preamble(text: &str) -> (&str, u32) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.starts_with("#!") {
        return (text, 0);
    }
    (text.split_once('\n').map_or("", |(_, rest)| rest), 1)
}

fn find(text: &str, skipped: u32, sign: &str, wanted: DirectiveName) -> Option<Syntax> {
    let mut seen = Vec::new();
    for (line, number) in text.split('\n').zip(skipped + 1..) {
        let directive = read_line(line.strip_suffix('\r').unwrap_or(line), sign)?;
        if seen.contains(&directive.name) {
            return None;
        }
        seen.push(directive.name);
        if directive.name == wanted {
            let image = directive.value.split(' ').next().unwrap_or_default();
            return Some(Syntax {
                image: image.to_owned(),
                command_line: directive.value.to_owned(),
                line: number,
            });
        }
    }
    None
}

fn json_syntax(text: &str, skipped: u32) -> Option<Syntax> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let value = object.get("syntax")?.as_str()?;
    Some(Syntax {
        image: value.to_owned(),
        command_line: value.to_owned(),
        line: skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(line: &str) -> Option<(&'static str, &str)> {
        read_line(line, "#").map(|line| (line.name.as_str(), line.value))
    }

    #[test]
    fn keys_ignore_case_and_blanks() {
        assert_eq!(value("# ESCAPE = ` "), Some(("escape", "`")));
        assert_eq!(value("#syntax=a b"), Some(("syntax", "a b")));
        assert_eq!(
            value("# check=skip=all;error=true"),
            Some(("check", "skip=all;error=true"))
        );
        assert_eq!(value("# foo=bar"), None);
        assert_eq!(value("# 1syntax=bar"), None);
        assert_eq!(value("# syntax="), None);
        assert_eq!(value("# syntax bar"), None);
        assert_eq!(value("// syntax=bar"), None);
    }

    #[test]
    fn blanks_alone_are_a_value_of_one_blank() {
        assert_eq!(value("# escape=  "), Some(("escape", " ")));
    }

    #[test]
    fn the_value_knows_its_place() {
        let line = read_line("#  syntax =  a", "#").unwrap();
        assert_eq!(line.value_start, 13);
    }

    fn image(text: &str) -> Option<(String, u32)> {
        detect_syntax(text).map(|syntax| (syntax.image, syntax.line))
    }

    fn found(image: &str, line: u32) -> Option<(String, u32)> {
        Some((image.to_owned(), line))
    }

    #[test]
    fn syntax_is_found_in_four_forms() {
        assert_eq!(image("# syntax=a/b:1 --x\nFROM a"), found("a/b:1", 1));
        assert_eq!(
            image("\u{feff}#!/usr/bin/env x\r\n# escape=`\r\n#syntax=a\r\n"),
            found("a", 3)
        );
        assert_eq!(image("// syntax=a\n{}"), found("a", 1));
        assert_eq!(image("{\"syntax\": \"a b\"}"), found("a b", 0));
        assert_eq!(image("# comment\n# syntax=a"), None);
        assert_eq!(image("# escape=`\n# escape=`\n# syntax=a"), None);
        assert_eq!(image(""), None);
    }

    #[test]
    fn the_command_line_keeps_what_follows_the_image() {
        assert_eq!(
            detect_syntax("# syntax=a --x  y").unwrap().command_line,
            "a --x  y"
        );
    }
}
