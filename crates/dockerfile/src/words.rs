//! How a logical line is cut into keyword, flags and words. Each instruction has its own way.
//!
//! All functions take a text and answer ranges in it, so that spans survive. White space is of two
//! kinds, as in BuildKit: the five ASCII blanks of [`is_separator`] separate most words, while
//! quote-aware words and trimming go by Unicode's white space.

use std::ops::Range;

use crate::directive::Escape;

/// A word and the range it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

impl Word {
    pub(crate) fn new(text: &str, range: Range<usize>) -> Self {
        Self {
            text: text[range.clone()].to_owned(),
            range,
        }
    }
}

/// `[\t\v\f\r ]`.
pub(crate) fn is_separator(ch: char) -> bool {
    matches!(ch, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// `range` without white space at both ends.
pub(crate) fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let slice = &text[range.clone()];
    let start = range.start + (slice.len() - slice.trim_start().len());
    let length = slice.trim().len();
    start..start + length
}

/// The first word and what follows the separators after it, if anything separates.
pub(crate) fn split_first(text: &str, range: Range<usize>) -> (Range<usize>, Option<Range<usize>>) {
    let slice = &text[range.clone()];
    let Some(end) = slice.find(is_separator) else {
        return (range, None);
    };
    let rest = slice[end..].trim_start_matches(is_separator);
    (
        range.start..range.start + end,
        Some(range.end - rest.len()..range.end),
    )
}

/// Words between separators.
pub(crate) fn split_blank(text: &str, range: Range<usize>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = Some(range);
    while let Some(range) = rest {
        let (word, after) = split_first(text, range);
        words.push(Word::new(text, word));
        rest = after;
    }
    words
}

/// Reads characters of a range one by one.
struct Chars<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

impl Chars<'_> {
    fn next(&mut self) -> Option<char> {
        let ch = self.text[self.at..self.end].chars().next()?;
        self.at += ch.len_utf8();
        Some(ch)
    }

    fn is_done(&self) -> bool {
        self.at == self.end
    }

    fn skip_blanks(&mut self) {
        let rest = &self.text[self.at..self.end];
        self.at = self.end - rest.trim_start().len();
    }

    fn starts_with(&self, prefix: &str) -> bool {
        self.text[self.at..self.end].starts_with(prefix)
    }
}

/// Words of `ENV`, `LABEL` and `ARG`: blanks inside quotes do not separate; quotes and escapes stay.
pub(crate) fn split_quoted(text: &str, range: Range<usize>, escape: Escape) -> Vec<Word> {
    let mut chars = Chars {
        text,
        at: range.start,
        end: range.end,
    };
    let mut words = Vec::new();
    loop {
        chars.skip_blanks();
        if chars.is_done() {
            return words;
        }
        let start = chars.at;
        let (word, kept) = quoted_word(&mut chars, escape.as_char());
        if kept || !word.is_empty() {
            let end = start + text[start..chars.at].trim_end().len();
            words.push(Word {
                text: word,
                range: start..end.max(start),
            });
        }
    }
}

/// One word up to a blank outside quotes; answers it and whether it counts even if empty.
fn quoted_word(chars: &mut Chars<'_>, escape: char) -> (String, bool) {
    let mut word = String::new();
    let mut quote = None;
    let mut quoted = false;
    while let Some(ch) = chars.next() {
        match quote {
            None if ch.is_whitespace() => break,
            None if matches!(ch, '\'' | '"') => {
                quote = Some(ch);
                quoted = true;
            }
            Some(open) if open == ch => quote = None,
            _ => {}
        }
        // An escape protects the next character everywhere but in single quotes; at the end of the
        // line it is dropped.
        if ch == escape && quote != Some('\'') {
            let Some(escaped) = chars.next() else { break };
            word.push(ch);
            word.push(escaped);
        } else {
            word.push(ch);
        }
    }
    (word, quoted)
}

/// Flags at the start of `range` (`--name[=value]`), quotes and escapes removed, and where the
/// arguments after them start. A lone `--` ends the flags.
pub(crate) fn split_flags(text: &str, range: Range<usize>, escape: Escape) -> (Vec<Word>, usize) {
    let mut chars = Chars {
        text,
        at: range.start,
        end: range.end,
    };
    let mut flags = Vec::new();
    loop {
        chars.skip_blanks();
        if !chars.starts_with("--") {
            return (flags, chars.at);
        }
        let start = chars.at;
        let (flag, end) = flag_word(&mut chars, escape.as_char());
        if flag == "--" {
            return (flags, end);
        }
        flags.push(Word {
            text: flag,
            range: start..end,
        });
    }
}

/// One flag up to a blank outside quotes; answers it and where it ends.
fn flag_word(chars: &mut Chars<'_>, escape: char) -> (String, usize) {
    let mut flag = String::new();
    let mut quote = None;
    loop {
        let end = chars.at;
        let Some(ch) = chars.next() else {
            return (flag, end);
        };
        match quote {
            None if ch.is_whitespace() => return (flag, end),
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            Some(open) if open == ch => quote = None,
            _ if ch == escape => flag.extend(chars.next()),
            _ => flag.push(ch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<Word>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    fn quoted(text: &str) -> Vec<String> {
        texts(split_quoted(text, 0..text.len(), Escape::Backslash))
    }

    #[test]
    fn quotes_and_escapes_keep_blanks_together() {
        assert_eq!(
            quoted("a=\"b c\" d=e\\ f g='h\\' i=''"),
            ["a=\"b c\"", "d=e\\ f", "g='h\\'", "i=''"]
        );
        assert_eq!(quoted("a=b\\"), ["a=b"]);
        assert_eq!(quoted("a=\"b\\"), ["a=\"b"]);
        assert_eq!(quoted("  "), [""; 0]);
        assert_eq!(quoted("\\"), [""; 0]);
        assert_eq!(quoted("a=\"open b"), ["a=\"open b"]);
    }

    fn flags(text: &str) -> (Vec<String>, &str) {
        let (flags, rest) = split_flags(text, 0..text.len(), Escape::Backslash);
        (texts(flags), &text[rest..])
    }

    #[test]
    fn flags_end_at_the_first_other_word() {
        assert_eq!(
            flags("--a --b=c d --e"),
            (vec!["--a".into(), "--b=c".into()], "d --e")
        );
        assert_eq!(
            flags("--a=\"b c\" -- --d"),
            (vec!["--a=b c".into()], " --d")
        );
        assert_eq!(flags("--a='b\\'c' d"), (vec!["--a=b'c".into()], "d"));
        assert_eq!(flags("- --a"), (vec![], "- --a"));
        assert_eq!(flags("--"), (vec![], ""));
        assert_eq!(flags("--a\\"), (vec!["--a".into()], ""));
    }

    #[test]
    fn flags_keep_text_outside_ascii() {
        assert_eq!(flags("--a=é\u{a0}b"), (vec!["--a=é".into()], "b"));
    }

    #[test]
    fn blank_words_know_their_ranges() {
        let text = "a \t b";
        let words = split_blank(text, 0..text.len());
        assert_eq!(words[1].range, 4..5);
        assert_eq!(texts(words), ["a", "b"]);
    }
}
