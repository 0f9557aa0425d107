//! Shell words of a line with every variable unset and left in place.
//!
//! This finds heredoc words. It follows BuildKit's shell lexer with an empty environment, down to
//! which lines it cannot read, because that decides where an instruction ends. Expansion with real
//! variables is [`expand`](crate::expand)'s.

use std::ops::Range;

/// `${a:-${b:-…}}` deeper than this is refused: each level is a level of recursion.
const NESTING_MAX: usize = 128;

/// Why a text could not be cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LexError {
    /// A `'` without its partner.
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    /// A `"` without its partner.
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    /// A `${` without `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// A `${name/pattern` without its second `/`.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:…`, `${{…`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// Something else than a known operator after the name.
    #[error("unsupported modifier in substitution")]
    Modifier,
    /// Too many `${` inside each other.
    #[error("substitutions are nested too deeply")]
    Nesting,
    /// The delimiter is one word with its quotes removed and several with them kept.
    #[error("internal lexing of heredoc produced inconsistent results")]
    UnevenWords,
}

/// A word and where it stood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LexedWord {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

/// Reads one text once.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    raw_quotes: bool,
    raw_escapes: bool,
    depth: usize,
    words: Words,
}

/// Words finished so far and the one being read.
#[derive(Default)]
struct Words {
    done: Vec<LexedWord>,
    current: String,
    start: usize,
    end: usize,
    open: bool,
}

impl Words {
    /// A character that ends the word if it is blank.
    fn push(&mut self, ch: char, at: Range<usize>) {
        if !ch.is_whitespace() {
            self.push_raw(ch.encode_utf8(&mut [0; 4]), at);
        } else if self.open && !self.current.is_empty() {
            self.finish();
        }
    }

    /// Text that belongs to the word whatever it holds.
    fn push_raw(&mut self, text: &str, at: Range<usize>) {
        if self.current.is_empty() {
            self.start = at.start;
        }
        self.current.push_str(text);
        self.end = at.end;
        self.open = true;
    }

    fn finish(&mut self) {
        if self.current.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.current);
        self.done.push(LexedWord { text, range: self.start..self.end });
        self.open = false;
    }
}

impl<'a> Lexer<'a> {
    /// `raw_quotes` and `raw_escapes` keep them in the words.
    pub(crate) fn new(text: &'a str, raw_quotes: bool, raw_escapes: bool) -> Self {
        Self { text, at: 0, raw_quotes, raw_escapes, depth: 0, words: Words::default() }
    }

    pub(crate) fn words(mut self) -> Result<Vec<LexedWord>, LexError> {
        while let Some(ch) = self.peek() {
            self.word_part(ch)?;
        }
        self.words.finish();
        Ok(self.words.done)
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let ch = self.peek()?;
        self.at += ch.len_utf8();
        Some(ch)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// One step at the top level, where words are collected.
    fn word_part(&mut self, ch: char) -> Result<(), LexError> {
        let start = self.at;
        match ch {
            '$' => {
                let text = self.dollar()?;
                let end = self.at;
                text.chars().for_each(|ch| self.words.push(ch, start..end));
            }
            '\'' | '"' | '<' => {
                let text = self.special(ch)?;
                let end = self.at;
                self.words.push_raw(&text, start..end);
            }
            '\\' => {
                self.next();
                if self.raw_escapes {
                    self.words.push_raw("\\", start..self.at);
                }
                if let Some(escaped) = self.next() {
                    self.words.push_raw(escaped.encode_utf8(&mut [0; 4]), start..self.at);
                }
            }
            _ => {
                self.next();
                self.words.push(ch, start..self.at);
            }
        }
        Ok(())
    }

    fn special(&mut self, ch: char) -> Result<String, LexError> {
        match ch {
            '\'' => self.single_quote(),
            '"' => self.double_quote(),
            '<' => Ok(self.possible_heredoc()),
            _ => self.dollar(),
        }
    }

    /// Reads up to `stop`, inside a substitution.
    fn until(&mut self, stop: char, raw_escapes: bool, missing: LexError) -> Result<String, LexError> {
        // BuildKit collects words of all levels in one buffer and empties it here, so that what
        // stood before `${` in the same word is lost to word splitting.
        self.words.current.clear();
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let text = self.until_stop(stop, missing);
        self.raw_escapes = outer;
        text
    }

    fn until_stop(&mut self, stop: char, missing: LexError) -> Result<String, LexError> {
        let mut text = String::new();
        while let Some(ch) = self.peek() {
            if ch == stop {
                self.next();
                return Ok(text);
            }
            if matches!(ch, '$' | '\'' | '"' | '<') {
                let part = self.special(ch);
                // At the end of the text the outermost missing partner is the one to tell of.
                let part = part.map_err(|error| if self.peek().is_none() { missing } else { error })?;
                text.push_str(&part);
                continue;
            }
            self.next();
            if ch == '\\' {
                if self.raw_escapes {
                    text.push(ch);
                }
                text.extend(self.next());
            } else {
                text.push(ch);
            }
        }
        Err(missing)
    }

    fn single_quote(&mut self) -> Result<String, LexError> {
        self.next();
        let Some(length) = self.text[self.at..].find('\'') else {
            self.at = self.text.len();
            return Err(LexError::SingleQuote);
        };
        let inner = &self.text[self.at..self.at + length];
        self.at += length + 1;
        Ok(if self.raw_quotes { format!("'{inner}'") } else { inner.to_owned() })
    }

    fn double_quote(&mut self) -> Result<String, LexError> {
        self.next();
        let mut text = String::new();
        self.push_quote(&mut text);
        loop {
            match self.peek() {
                None => return Err(LexError::DoubleQuote),
                Some('"') => {
                    self.next();
                    self.push_quote(&mut text);
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some('\\') => self.escape_in_quotes(&mut text),
                Some(ch) => {
                    self.next();
                    text.push(ch);
                }
            }
        }
    }

    fn push_quote(&self, text: &mut String) {
        if self.raw_quotes {
            text.push('"');
        }
    }

    fn escape_in_quotes(&mut self, text: &mut String) {
        self.next();
        if self.raw_escapes {
            text.push('\\');
        }
        match self.peek() {
            None => {}
            Some(ch @ ('"' | '$' | '\\')) => {
                self.next();
                text.push(ch);
            }
            Some(_) => text.push('\\'),
        }
    }

    /// `<<` takes the blanks after it along, so that `<< EOF` is one word.
    fn possible_heredoc(&mut self) -> String {
        self.next();
        if !self.eat('<') {
            return "<".to_owned();
        }
        let start = self.at;
        while self.peek().is_some_and(|ch| matches!(ch, '\t' | '\r' | ' ')) {
            self.next();
        }
        format!("<<{}", &self.text[start..self.at])
    }

    fn dollar(&mut self) -> Result<String, LexError> {
        let start = self.at;
        self.next();
        if !self.eat('{') {
            self.name();
            return Ok(self.text[start..self.at].to_owned());
        }
        if self.depth == NESTING_MAX {
            return Err(LexError::Nesting);
        }
        self.depth += 1;
        let text = self.braces();
        self.depth -= 1;
        text
    }

    fn braces(&mut self) -> Result<String, LexError> {
        match self.peek() {
            None => return Err(LexError::MissingBrace),
            Some('{' | '}' | ':') => return Err(LexError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(format!("${{{name}}}")),
            Some(':') => self.null_operator(name),
            Some(operator @ ('+' | '-' | '?' | '#' | '%')) => {
                let raw = matches!(operator, '#' | '%');
                let word = self.until('}', raw, LexError::MissingBrace)?;
                Ok(format!("${{{name}{operator}{word}}}"))
            }
            Some('/') => self.replacement(name),
            _ => Err(LexError::Modifier),
        }
    }

    /// After `${name:`. An unset variable is left in place before its operator is looked at, so
    /// any character passes for one here.
    fn null_operator(&mut self, name: &str) -> Result<String, LexError> {
        match self.next() {
            Some('#' | '%') => Err(LexError::Modifier),
            Some(operator) => {
                let word = self.until('}', false, LexError::MissingBrace)?;
                Ok(format!("${{{name}:{operator}{word}}}"))
            }
            None => Err(LexError::MissingBrace),
        }
    }

    fn replacement(&mut self, name: &str) -> Result<String, LexError> {
        self.eat('/');
        let pattern = self.until('/', true, LexError::MissingSlash)?;
        let replacement = self.until('}', true, LexError::MissingBrace)?;
        Ok(format!("${{{name}/{pattern}/{replacement}}}"))
    }

    /// A variable's name: digits, or one special character, or letters, digits and underscores.
    fn name(&mut self) -> &'a str {
        let text = self.text;
        let rest = &text[self.at..];
        let length = match rest.chars().next() {
            Some(ch) if ch.is_numeric() => rest.find(|ch: char| !ch.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => rest.find(|ch: char| !(ch.is_alphanumeric() || ch == '_')),
        };
        let name = &rest[..length.unwrap_or(rest.len())];
        self.at += name.len();
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>, LexError> {
        let words = Lexer::new(text, true, true).words()?;
        Ok(words.into_iter().map(|word| word.text).collect())
    }

    #[test]
    fn variables_stay_in_place() {
        assert_eq!(words("$a ${b} ${c:-d e} \"$f g\" $").unwrap(), ["$a", "${b}", "${c:-d", "e}", "\"$f g\"", "$"]);
        assert_eq!(words("${a//b/c}").unwrap(), ["${a/b/c}"]);
        assert_eq!(words("${a:x}").unwrap(), ["${a:x}"]);
    }

    #[test]
    fn text_before_a_nested_word_is_lost() {
        assert_eq!(words("x${a:-b} y").unwrap(), ["${a:-b}", "y"]);
    }

    #[test]
    fn unreadable_texts_are_told_apart() {
        assert_eq!(words("'a"), Err(LexError::SingleQuote));
        assert_eq!(words("\"a"), Err(LexError::DoubleQuote));
        assert_eq!(words("${a"), Err(LexError::Modifier));
        assert_eq!(words("${a:-b"), Err(LexError::MissingBrace));
        assert_eq!(words("${}"), Err(LexError::BadSubstitution));
        assert_eq!(words("${a:#b}"), Err(LexError::Modifier));
        assert_eq!(words("${a/b}"), Err(LexError::MissingSlash));
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion_trouble() {
        assert!(words(&"${a:-".repeat(100_000)).is_err());
        let deep = format!("{}{}", "${a:-".repeat(100), "}".repeat(100));
        assert!(words(&deep).is_ok());
    }
}
