//! The pass over the text.

use std::collections::BTreeSet;

use super::glob::{Affix, Glob};
use super::{
    Environment, Escapes, ExpandProblem, Expansion, GROWTH_BYTES_MAX, Lexer, NESTING_MAX,
    PATTERN_CHARS_MAX, Quotes, Unset,
};

/// What Go prints for a character past the end.
const PAST_END: char = '\u{fffd}';

type Result<T> = std::result::Result<T, ExpandProblem>;

/// What the text expands to, or what is wrong and which names were not found until then.
pub(super) fn expand(
    lexer: &Lexer,
    text: &str,
    env: &dyn Environment,
) -> std::result::Result<Expansion, (ExpandProblem, BTreeSet<String>)> {
    // A byte order mark at the very start is no text.
    let rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut scan = Scan {
        lexer,
        env,
        rest,
        keep_escapes: lexer.escapes == Escapes::Keep,
        word_in_progress: String::new(),
        depth: 0,
        budget: text.len() + GROWTH_BYTES_MAX,
        matched: BTreeSet::new(),
        unmatched: BTreeSet::new(),
    };
    match scan.until(None) {
        Ok((word, words)) => Ok(Expansion {
            word,
            words,
            matched: scan.matched,
            unmatched: scan.unmatched,
        }),
        Err(problem) => Err((problem, scan.unmatched)),
    }
}

struct Scan<'a> {
    lexer: &'a Lexer,
    env: &'a dyn Environment,
    rest: &'a str,
    keep_escapes: bool,
    /// The unquoted word being collected. One for all levels: a substitution with an operand
    /// discards what the levels above have collected, as BuildKit's lexer does.
    word_in_progress: String,
    depth: usize,
    budget: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// The words of one level.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    in_word: bool,
}

impl Words {
    fn push_char(&mut self, buffer: &mut String, ch: char) {
        if !ch.is_whitespace() {
            self.push_raw_char(buffer, ch);
        } else if self.in_word && !buffer.is_empty() {
            self.done.push(std::mem::take(buffer));
            self.in_word = false;
        }
    }

    fn push_raw_char(&mut self, buffer: &mut String, ch: char) {
        buffer.push(ch);
        self.in_word = true;
    }

    fn push_raw(&mut self, buffer: &mut String, text: &str) {
        buffer.push_str(text);
        self.in_word = true;
    }

    fn finish(mut self, buffer: &mut String) -> Vec<String> {
        if !buffer.is_empty() {
            self.done.push(std::mem::take(buffer));
        }
        self.done
    }
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let ch = chars.next();
        self.rest = chars.as_str();
        ch
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        self.budget = self
            .budget
            .checked_sub(bytes)
            .ok_or(ExpandProblem::TooLong)?;
        Ok(())
    }

    /// Reads up to `stop` (consumed) or, with no stop, to the end.
    fn until(&mut self, stop: Option<char>) -> Result<(String, Vec<String>)> {
        let mut result = String::new();
        let mut words = Words::default();
        self.word_in_progress.clear();
        while let Some(ch) = self.peek() {
            if stop == Some(ch) {
                self.next();
                return Ok((result, words.finish(&mut self.word_in_progress)));
            }
            match ch {
                '$' => {
                    let value = self.dollar()?;
                    self.spend(value.len())?;
                    for ch in value.chars() {
                        words.push_char(&mut self.word_in_progress, ch);
                    }
                    result.push_str(&value);
                }
                '<' => {
                    let text = self.less_than();
                    words.push_raw(&mut self.word_in_progress, &text);
                    result.push_str(&text);
                }
                '\'' | '"' if self.lexer.quotes != Quotes::Literal => {
                    let text = if ch == '"' {
                        self.double_quoted()?
                    } else {
                        self.single_quoted()?
                    };
                    self.spend(text.len())?;
                    words.push_raw(&mut self.word_in_progress, &text);
                    result.push_str(&text);
                }
                _ if !self.plain(&mut result, &mut words) => break,
                _ => {}
            }
        }
        match stop {
            // The caller turns this into what it was looking for.
            Some(_) => Err(ExpandProblem::MissingBrace),
            None => Ok((result, words.finish(&mut self.word_in_progress))),
        }
    }

    /// One character that is neither quote nor variable; false if an escape stands at the end.
    fn plain(&mut self, result: &mut String, words: &mut Words) -> bool {
        let Some(ch) = self.next() else { return false };
        if ch != self.lexer.escape {
            words.push_char(&mut self.word_in_progress, ch);
            result.push(ch);
            return true;
        }
        if self.keep_escapes {
            words.push_raw_char(&mut self.word_in_progress, ch);
            result.push(ch);
        }
        let Some(escaped) = self.next() else {
            return false;
        };
        words.push_raw_char(&mut self.word_in_progress, escaped);
        result.push(escaped);
        true
    }

    fn single_quoted(&mut self) -> Result<String> {
        self.next();
        let end = self.rest.find('\'').ok_or_else(|| {
            self.rest = "";
            ExpandProblem::SingleQuote
        })?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(match self.lexer.quotes {
            Quotes::Keep => format!("'{text}'"),
            Quotes::Remove | Quotes::Literal => text.to_owned(),
        })
    }

    /// Within double quotes only `"`, `$` and the escape itself can be escaped.
    fn double_quoted(&mut self) -> Result<String> {
        let keep = self.lexer.quotes == Quotes::Keep;
        let mut result = String::new();
        self.next();
        if keep {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandProblem::DoubleQuote),
                Some('"') => {
                    self.next();
                    if keep {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.spend(value.len())?;
                    result.push_str(&value);
                }
                Some(ch) => {
                    self.next();
                    self.double_quoted_char(ch, &mut result);
                }
            }
        }
    }

    fn double_quoted_char(&mut self, ch: char, result: &mut String) {
        let escape = self.lexer.escape;
        if ch != escape {
            result.push(ch);
            return;
        }
        if self.keep_escapes {
            result.push(ch);
        }
        match self.peek() {
            None => {}
            Some(escaped) if matches!(escaped, '"' | '$') || escaped == escape => {
                self.next();
                result.push(escaped);
            }
            Some(_) => result.push(ch),
        }
    }

    /// `<<` and the blanks behind it stay together, so that a heredoc word is one word.
    fn less_than(&mut self) -> String {
        self.next();
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.next();
        let mut text = "<<".to_owned();
        while let Some(blank @ ('\t' | '\r' | ' ')) = self.peek() {
            text.push(blank);
            self.next();
        }
        text
    }

    fn dollar(&mut self) -> Result<String> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            self.depth += 1;
            if self.depth > NESTING_MAX {
                return Err(ExpandProblem::TooDeep);
            }
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.variable(&name) {
            Some(value) => value,
            None if self.lexer.unset == Unset::Keep => format!("${name}"),
            None => String::new(),
        })
    }

    fn braced(&mut self) -> Result<String> {
        match self.peek() {
            None => return Err(ExpandProblem::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandProblem::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.variable(&name) {
                Some(value) => value,
                None if self.lexer.unset == Unset::Keep => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => {
                let operator = self.next().unwrap_or(PAST_END);
                if matches!(operator, '#' | '%') {
                    return Err(ExpandProblem::Modifier {
                        modifier: format!(":{operator}"),
                    });
                }
                self.alternative(&name, operator, true)
            }
            Some(operator @ ('+' | '-' | '?')) => self.alternative(&name, operator, false),
            Some(operator @ ('#' | '%')) => self.trim(&name, operator),
            Some('/') => self.replace(&name),
            other => Err(ExpandProblem::Modifier {
                modifier: other.unwrap_or(PAST_END).to_string(),
            }),
        }
    }

    /// The operand up to `stop`. At the end of the text its own fault matters less than `missing`.
    fn operand(
        &mut self,
        stop: char,
        keep_escapes: bool,
        missing: ExpandProblem,
    ) -> Result<String> {
        let before = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let operand = self.until(Some(stop));
        self.keep_escapes = before;
        match operand {
            Ok((word, _)) => Ok(word),
            Err(ExpandProblem::TooDeep | ExpandProblem::TooLong) => operand.map(|(word, _)| word),
            Err(_) if self.at_end() => Err(missing),
            Err(problem) => Err(problem),
        }
    }

    /// `- + ?`, with `:` before them if empty counts as unset.
    fn alternative(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Result<String> {
        let word = self.operand('}', false, ExpandProblem::MissingBrace)?;
        let value = self.variable(name);
        let colon = if empty_is_unset { ":" } else { "" };
        if value.is_none() && self.lexer.unset == Unset::Keep {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let unset = value.is_none();
        let usable = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (operator, usable) {
            ('-', usable) => Ok(usable.unwrap_or(word)),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', Some(value)) => Ok(value),
            ('?', None) => Err(ExpandProblem::Required {
                name: name.to_owned(),
                message: match word.as_str() {
                    "" if unset => "is not allowed to be unset".to_owned(),
                    "" => "is not allowed to be empty".to_owned(),
                    _ => word,
                },
            }),
            _ => Err(ExpandProblem::Modifier {
                modifier: format!("{colon}{operator}"),
            }),
        }
    }

    /// `# ## % %%`.
    fn trim(&mut self, name: &str, operator: char) -> Result<String> {
        let word = self.operand('}', true, ExpandProblem::MissingBrace)?;
        let value = self.variable(name);
        if value.is_none() && self.lexer.unset == Unset::Keep {
            return Ok(format!("${{{name}{operator}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (pattern, greedy) = match word.strip_prefix(operator) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        check_lengths(name, pattern, &value)?;
        let affix = if operator == '#' {
            Affix::Prefix
        } else {
            Affix::Suffix
        };
        super::glob::trim(pattern, &value, affix, greedy)
    }

    /// `/p/r` and `//p/r`, the first slash already read.
    fn replace(&mut self, name: &str) -> Result<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.operand('/', true, ExpandProblem::MissingSlash)?;
        let replacement = self.operand('}', true, ExpandProblem::MissingBrace)?;
        let value = self.variable(name);
        if value.is_none() && self.lexer.unset == Unset::Keep {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        check_lengths(name, &pattern, &value)?;
        let glob = Glob::new(&pattern)?;
        if all {
            glob.replace_all(&value, &replacement, self.budget)
        } else {
            Ok(glob.replace_first(&value, &replacement))
        }
    }

    /// A name: digits, one special character, or letters, digits and `_`.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(ch) if is_digit(ch) => {
                while let Some(ch) = self.peek().filter(|ch| is_digit(*ch)) {
                    name.push(ch);
                    self.next();
                }
                return name;
            }
            Some(ch @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.next();
                return ch.to_string();
            }
            _ => {}
        }
        while let Some(ch) = self.peek().filter(|ch| is_name_char(*ch)) {
            name.push(ch);
            self.next();
        }
        name
    }

    fn variable(&mut self, name: &str) -> Option<String> {
        let value = self.env.lookup(name).map(str::to_owned);
        let names = if value.is_some() {
            &mut self.matched
        } else {
            &mut self.unmatched
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

fn check_lengths(name: &str, pattern: &str, value: &str) -> Result<()> {
    if pattern.len() > PATTERN_CHARS_MAX || value.len() > GROWTH_BYTES_MAX {
        return Err(ExpandProblem::PatternTooLong {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn is_digit(ch: char) -> bool {
    ch.is_ascii_digit()
}

fn is_name_char(ch: char) -> bool {
    ch == '_' || ch.is_alphabetic() || is_digit(ch)
}
