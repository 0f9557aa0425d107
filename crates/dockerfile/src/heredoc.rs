//! Heredocs: `<<EOF` words and the lines that belong to them.
//!
//! Which words of a line start a heredoc is decided on the whole logical line with shell rules
//! (quotes, escapes, `${…}`), always with `\` as escape. A line these rules cannot read has no
//! heredocs: what follows it is then read as instructions.

use std::borrow::Cow;
use std::ops::Range;

use crate::expand::{Escapes, ExpandError, Lexer, Quotes, Unset};
use crate::span::Span;

/// A heredoc with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, quotes removed.
    pub name: String,
    /// The number before `<<`, zero if there is none.
    pub descriptor: u64,
    /// Whether no part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs are not part of the content, and may stand before the end line.
    pub strip_tabs: bool,
    /// The lines as they stand in the file, leading tabs included.
    pub content: String,
    /// The word in the instruction.
    pub word: Span,
    /// The content's place.
    pub body: Span,
}

impl Heredoc {
    /// The content as a reader of the heredoc gets it.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        if self.strip_tabs {
            Cow::Owned(strip_leading_tabs(&self.content))
        } else {
            Cow::Borrowed(&self.content)
        }
    }
}

/// Removes the tabs every line starts with.
#[must_use]
pub fn strip_leading_tabs(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

/// What a `<<EOF` word says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeredocWord {
    /// The delimiter, quotes removed.
    pub name: String,
    /// The number before `<<`, zero if there is none.
    pub descriptor: u64,
    /// Whether no part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`.
    pub strip_tabs: bool,
}

/// Reads a word as a heredoc; nothing if it is none or cannot be read.
#[must_use]
pub fn parse_heredoc_word(word: &str) -> Option<HeredocWord> {
    read_delimiter(split_word(word)?).ok().flatten()
}

/// The heredoc words of a logical line, with their places in it.
pub(crate) fn words_in_line(line: &str) -> Result<Vec<(HeredocWord, Range<usize>)>, ExpandError> {
    let Ok(words) = split(line, Quotes::Keep, Escapes::Keep) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    let mut places = Places { line, at: Some(0) };
    for word in words {
        let Some(delimiter) = split_word(&word) else {
            continue;
        };
        if let Some(heredoc) = read_delimiter(delimiter)? {
            found.push((heredoc, places.next(&word)));
        }
    }
    Ok(found)
}

/// Where words stand in the line they came from. A word is its own text there, but for
/// substitutions that lexing rewrites; from the first such word on, the line is the place.
struct Places<'a> {
    line: &'a str,
    at: Option<usize>,
}

impl Places<'_> {
    fn next(&mut self, word: &str) -> Range<usize> {
        let found = self
            .at
            .and_then(|at| Some(at + self.line[at..].find(word)?));
        self.at = found.map(|start| start + word.len());
        found.map_or(0..self.line.len(), |start| start..start + word.len())
    }
}

/// Words with every variable unset and left in place.
fn split(text: &str, quotes: Quotes, escapes: Escapes) -> Result<Vec<String>, ExpandError> {
    let lexer = Lexer {
        escape: '\\',
        quotes,
        escapes,
        unset: Unset::Keep,
    };
    Ok(lexer.expand(text, &())?.words)
}

fn read_delimiter(word: Delimiter<'_>) -> Result<Option<HeredocWord>, ExpandError> {
    let mut plain = split(word.text, Quotes::Remove, Escapes::Remove)?;
    let raw = split(word.text, Quotes::Keep, Escapes::Remove)?;
    let (1, Some(name)) = (plain.len(), plain.pop()) else {
        return Ok(None);
    };
    let raw_quotes = raw.iter().map(|raw| quote_count(raw)).sum::<usize>();
    Ok(Some(HeredocWord {
        expand: quote_count(&name) == raw_quotes,
        name,
        descriptor: word.descriptor,
        strip_tabs: word.strip_tabs,
    }))
}

/// A heredoc word taken apart.
#[derive(Clone, Copy)]
struct Delimiter<'a> {
    descriptor: u64,
    strip_tabs: bool,
    text: &'a str,
}

/// Descriptor, dash and delimiter of `^(\d*)<<(-?)\s*([^<]*)$`; the delimiter is not empty.
fn split_word(word: &str) -> Option<Delimiter<'_>> {
    let digits_end = word.find(|ch: char| !ch.is_ascii_digit())?;
    let (digits, rest) = word.split_at(digits_end);
    let rest = rest.strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let text = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if text.is_empty() || text.contains('<') {
        return None;
    }
    let descriptor = if digits.is_empty() {
        0
    } else {
        digits.parse().unwrap_or(u64::MAX)
    };
    Some(Delimiter {
        descriptor,
        strip_tabs,
        text,
    })
}

fn quote_count(text: &str) -> usize {
    text.bytes()
        .filter(|byte| matches!(byte, b'\'' | b'"'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<(String, u64, bool, bool)> {
        let found = words_in_line(line).unwrap();
        let fields = |word: HeredocWord| (word.name, word.descriptor, word.expand, word.strip_tabs);
        found.into_iter().map(|(word, _)| fields(word)).collect()
    }

    fn plain(name: &str) -> (String, u64, bool, bool) {
        (name.to_owned(), 0, true, false)
    }

    #[test]
    fn several_heredocs_may_stand_on_a_line() {
        let found = words("RUN 3<<A cat <<-B 5<<'C' << \"D E\" x");
        let expected = [
            ("A".to_owned(), 3, true, false),
            ("B".to_owned(), 0, true, true),
            ("C".to_owned(), 5, false, false),
            ("D E".to_owned(), 0, false, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_looks_like_a_heredoc_may_be_none() {
        for line in [
            "RUN a <<<b",
            "RUN '<<EOF'",
            "RUN \\<<EOF",
            "RUN a<<EOF",
            "RUN <<\"\"",
            "RUN <<",
        ] {
            assert_eq!(words(line), [], "{line}");
        }
    }

    #[test]
    fn a_line_with_unbalanced_quotes_has_no_heredoc() {
        assert_eq!(words("RUN echo it's <<EOF"), []);
        assert_eq!(words("RUN ${a b} <<EOF"), []);
    }

    #[test]
    fn quotes_anywhere_in_the_delimiter_switch_expansion_off() {
        assert_eq!(words("RUN <<E'O'F"), [("EOF".to_owned(), 0, false, false)]);
        assert_eq!(words("RUN <<E\\OF"), [plain("EOF")]);
        assert_eq!(words("RUN <<$A"), [plain("$A")]);
        // What stands before a substitution in the same word is lost to the lexer.
        assert_eq!(words("RUN <<${A:-b}"), []);
    }

    #[test]
    fn words_know_their_place() {
        let line = "RUN cat <<A && 4<<B";
        let ranges: Vec<_> = words_in_line(line)
            .unwrap()
            .into_iter()
            .map(|(_, range)| &line[range])
            .collect();
        assert_eq!(ranges, ["<<A", "4<<B"]);
    }

    #[test]
    fn a_word_that_lexing_rewrites_has_the_line_as_its_place() {
        let line = "RUN <<A <<\"b\\c\" <<E";
        let ranges: Vec<_> = words_in_line(line)
            .unwrap()
            .into_iter()
            .map(|(_, range)| range)
            .collect();
        assert_eq!(ranges, [4..7, 0..line.len(), 0..line.len()]);
    }

    #[test]
    fn tabs_are_stripped_at_line_starts_only() {
        assert_eq!(strip_leading_tabs("\t\ta\tb\n\n\t c\n"), "a\tb\n\n c\n");
    }
}
