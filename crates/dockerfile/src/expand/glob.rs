//! Patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, which stop at line breaks; no
//! `[…]`. Matched by keeping the set of all states, so the cost is pattern times value.

use super::ExpandProblem;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
}

/// Which end is trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affix {
    Prefix,
    Suffix,
}

/// A pattern ready to be matched.
pub(super) struct Glob {
    tokens: Vec<Token>,
}

/// `value` without the shortest or longest prefix or suffix that matches `pattern`.
pub(super) fn trim(
    pattern: &str,
    value: &str,
    affix: Affix,
    greedy: bool,
) -> Result<String, ExpandProblem> {
    let mut text: Vec<char> = value.chars().collect();
    let reversed;
    let pattern = match affix {
        Affix::Prefix => pattern,
        // A suffix of the value is a prefix of it read backwards.
        Affix::Suffix => {
            text.reverse();
            reversed = reverse_pattern(pattern);
            &reversed
        }
    };
    let end = Glob::new(pattern)?.match_at(&text, 0, greedy).unwrap_or(0);
    let kept = text.get(end..).unwrap_or_default().iter();
    Ok(match affix {
        Affix::Prefix => kept.collect(),
        Affix::Suffix => kept.rev().collect(),
    })
}

/// `a\*c` becomes `c\*a`.
fn reverse_pattern(pattern: &str) -> String {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(ch) = chars.next() {
        match (ch, chars.clone().next()) {
            ('\\', Some(escaped)) => {
                chars.next();
                pieces.extend([escaped, '\\']);
            }
            _ => pieces.push(ch),
        }
    }
    pieces.iter().rev().collect()
}

impl Glob {
    pub(super) fn new(pattern: &str) -> Result<Self, ExpandProblem> {
        let mut tokens = Vec::new();
        let mut chars = pattern
            .strip_prefix('\u{feff}')
            .unwrap_or(pattern)
            .chars()
            .peekable();
        while let Some(ch) = chars.next() {
            tokens.push(match ch {
                '*' => Token::Any,
                '?' => Token::One,
                // These end the operand, so they are escaped in it; the escape says no more.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\')) => Token::Char(escaped),
                    other => {
                        return Err(ExpandProblem::PatternEscape {
                            pattern: pattern.to_owned(),
                            character: other.unwrap_or('\u{fffd}'),
                        });
                    }
                },
                _ => Token::Char(ch),
            });
        }
        Ok(Self { tokens })
    }

    /// Where the longest (or shortest) match that begins at `start` ends.
    fn match_at(&self, text: &[char], start: usize, greedy: bool) -> Option<usize> {
        let last = self.tokens.len();
        let mut states = vec![false; last + 1];
        let mut next = states.clone();
        states[0] = true;
        let mut best = None;
        for position in start..=text.len() {
            self.skip_stars(&mut states);
            if states[last] {
                best = Some(position);
                if !greedy {
                    break;
                }
            }
            let Some(ch) = text.get(position) else { break };
            next.fill(false);
            let mut alive = false;
            for (index, token) in self.tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                let target = if *token == Token::Any {
                    index
                } else {
                    index + 1
                };
                if token.accepts(*ch) {
                    next[target] = true;
                    alive = true;
                }
            }
            std::mem::swap(&mut states, &mut next);
            if !alive {
                break;
            }
        }
        best
    }

    fn skip_stars(&self, states: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if *token == Token::Any && states[index] {
                states[index + 1] = true;
            }
        }
    }

    /// For every position whether some match begins there, found from the end.
    fn starts(&self, text: &[char]) -> Vec<bool> {
        let last = self.tokens.len();
        let mut starts = vec![false; text.len() + 1];
        let mut after = vec![false; last + 1];
        for position in (0..=text.len()).rev() {
            let mut here = vec![false; last + 1];
            here[last] = true;
            for (index, token) in self.tokens.iter().enumerate().rev() {
                let consumes = text.get(position).is_some_and(|ch| token.accepts(*ch));
                here[index] = match token {
                    Token::Any => here[index + 1] || (consumes && after[index]),
                    Token::One | Token::Char(_) => consumes && after[index + 1],
                };
            }
            starts[position] = here[0];
            after = here;
        }
        starts
    }

    /// The leftmost, then longest match at or after `from`.
    fn find(&self, text: &[char], starts: &[bool], from: usize) -> Option<(usize, usize)> {
        let start = from + starts.get(from..)?.iter().position(|begins| *begins)?;
        Some((start, self.match_at(text, start, true)?))
    }

    pub(super) fn replace_first(&self, value: &str, replacement: &str) -> String {
        let text: Vec<char> = value.chars().collect();
        let Some((start, end)) = self.find(&text, &self.starts(&text), 0) else {
            return value.to_owned();
        };
        let mut result: String = text[..start].iter().collect();
        result.push_str(replacement);
        result.extend(&text[end..]);
        result
    }

    /// Replaces every match. As in Go's `ReplaceAllString`, `$0` in the replacement is the match,
    /// other `$name` are nothing, `$$` is `$`; an empty match right behind another one is none.
    pub(super) fn replace_all(
        &self,
        value: &str,
        replacement: &str,
        bytes_max: usize,
    ) -> Result<String, ExpandProblem> {
        let text: Vec<char> = value.chars().collect();
        let starts = self.starts(&text);
        let mut result = String::new();
        let (mut copied, mut from) = (0, 0);
        while let Some((start, end)) = self.find(&text, &starts, from) {
            result.extend(&text[copied..start]);
            if end > copied || start == 0 {
                expand_template(replacement, &text[start..end], &mut result);
            }
            if result.len() > bytes_max {
                return Err(ExpandProblem::TooLong);
            }
            copied = end;
            from = end.max(from + 1);
        }
        result.extend(&text[copied..]);
        Ok(result)
    }
}

impl Token {
    fn accepts(self, ch: char) -> bool {
        match self {
            Self::Char(own) => own == ch,
            Self::One | Self::Any => ch != '\n',
        }
    }
}

fn expand_template(template: &str, matched: &[char], result: &mut String) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = template_name(after) else {
            result.push('$');
            rest = after;
            continue;
        };
        if name == "0" {
            result.extend(matched);
        }
        rest = after;
    }
    result.push_str(rest);
}

/// `name` or `{name}` at the start of `text`, and what follows.
fn template_name(text: &str) -> Option<(&str, &str)> {
    let (text, braced) = match text.strip_prefix('{') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let end = text
        .find(|ch: char| ch != '_' && !ch.is_alphanumeric())
        .unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    let after = if braced {
        after.strip_prefix('}')?
    } else {
        after
    };
    Some((name, after))
}
