//! The part of Go's regular expressions that translated patterns consist of, as an automaton.
//!
//! `[`, `]`, `^` and `\` of a pattern reach the expression unchanged, so what they mean there is
//! what they mean to Docker: `\d` is a digit, `[[:alpha:]]` a letter.
//!
//! ```text
//!  (.*/)?   zero or more directories      [^/]*  within a name      .*  anything
//! ```

use std::ops::RangeInclusive;

#[derive(Clone, Debug)]
pub(super) struct Regex {
    nodes: Vec<Node>,
    /// Every match starts with this: most paths are refused here.
    prefix: String,
    /// Every match ends with this.
    suffix: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// One character of the set.
    One(Set),
    /// Any number of characters of the set.
    Many(Set),
    /// The start of `(.*/)?`: leads into it and past it.
    Directories,
    /// The inside of `(.*/)?`, always behind its start: a slash also leads out.
    InDirectories,
    /// The start of the path.
    Start,
    /// The end of the path.
    End,
    /// Between a word's characters and others, or not.
    WordBoundary(bool),
}

#[derive(Clone, Debug, PartialEq)]
enum Set {
    Char(char),
    /// Everything but a line break.
    Dot,
    Ranges {
        ranges: Vec<RangeInclusive<char>>,
        negated: bool,
    },
}

impl Regex {
    /// Reads an expression; nothing if Go refuses it.
    pub(super) fn new(expression: &str) -> Option<Self> {
        let nodes = Parser { rest: expression }.nodes()?;
        let literal = |node: &Node| match node {
            Node::One(Set::Char(ch)) => Some(*ch),
            _ => None,
        };
        let prefix = nodes.iter().map_while(literal).collect();
        let mut suffix: Vec<char> = nodes.iter().rev().map_while(literal).collect();
        suffix.reverse();
        Some(Self {
            prefix,
            suffix: suffix.into_iter().collect(),
            nodes,
        })
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        if !path.starts_with(self.prefix.as_bytes()) || !path.ends_with(self.suffix.as_bytes()) {
            return false;
        }
        let text: Vec<char> = String::from_utf8_lossy(path).chars().collect();
        self.run(&text).last() == Some(&true)
    }

    /// Whether some state is left behind `directory/`.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut text: Vec<char> = String::from_utf8_lossy(directory).chars().collect();
        text.push('/');
        self.run(&text).contains(&true)
    }

    /// The states after reading all of `text`.
    fn run(&self, text: &[char]) -> Vec<bool> {
        let mut states = vec![false; self.nodes.len() + 1];
        let mut next = states.clone();
        states[0] = true;
        for position in 0..=text.len() {
            self.advance_for_free(&mut states, text, position);
            let Some(ch) = text.get(position) else { break };
            next.fill(false);
            for (index, node) in self.nodes.iter().enumerate().filter(|(i, _)| states[*i]) {
                match node {
                    Node::One(set) => next[index + 1] |= set.contains(*ch),
                    Node::Many(set) => next[index] |= set.contains(*ch),
                    Node::InDirectories if *ch != '\n' => {
                        next[index] = true;
                        next[index + 1] |= *ch == '/';
                    }
                    _ => {}
                }
            }
            std::mem::swap(&mut states, &mut next);
        }
        states
    }

    /// Moves over nodes that need no character here.
    fn advance_for_free(&self, states: &mut [bool], text: &[char], position: usize) {
        let is_word =
            |at: Option<&char>| at.is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_');
        for (index, node) in self.nodes.iter().enumerate() {
            if !states[index] {
                continue;
            }
            let free = match node {
                Node::Many(_) => true,
                Node::Directories => {
                    states[index + 2] = true;
                    true
                }
                Node::Start => position == 0,
                Node::End => position == text.len(),
                Node::WordBoundary(wanted) => {
                    let before = position.checked_sub(1).and_then(|before| text.get(before));
                    (is_word(before) != is_word(text.get(position))) == *wanted
                }
                Node::One(_) | Node::InDirectories => false,
            };
            states[index + 1] |= free;
        }
    }
}

impl Set {
    fn contains(&self, ch: char) -> bool {
        match self {
            Self::Char(own) => *own == ch,
            Self::Dot => ch != '\n',
            Self::Ranges { ranges, negated } => {
                ranges.iter().any(|range| range.contains(&ch)) != *negated
            }
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn nodes(mut self) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        while !self.rest.is_empty() {
            if self.skip("(.*/)?") {
                nodes.extend([Node::Directories, Node::InDirectories]);
            } else if self.skip(".*") {
                nodes.push(Node::Many(Set::Dot));
            } else if self.skip("^") {
                nodes.push(Node::Start);
            } else if self.skip("[") {
                let set = self.class()?;
                nodes.push(if self.skip("*") {
                    Node::Many(set)
                } else {
                    Node::One(set)
                });
            } else if self.skip("\\Q") {
                let (literal, after) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                nodes.extend(literal.chars().map(|ch| Node::One(Set::Char(ch))));
                self.rest = after;
            } else if self.skip("\\") {
                nodes.push(self.escaped()?);
            } else {
                nodes.push(Node::One(Set::Char(self.next()?)));
            }
        }
        Some(nodes)
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let ch = chars.next();
        self.rest = chars.as_str();
        ch
    }

    fn skip(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// What stands behind a `\` outside of a class.
    fn escaped(&mut self) -> Option<Node> {
        let ch = self.rest.chars().next()?;
        let node = match ch {
            'A' => Node::Start,
            'z' => Node::End,
            'b' => Node::WordBoundary(true),
            'B' => Node::WordBoundary(false),
            _ => match perl_class(ch) {
                Some((ranges, negated)) => Node::One(Set::Ranges { ranges, negated }),
                None => return Some(Node::One(Set::Char(self.escaped_char()?))),
            },
        };
        self.next();
        Some(node)
    }

    /// `\n`, `\.`, `\x41`, `\101`: a single character. Letters that mean nothing are refused.
    fn escaped_char(&mut self) -> Option<char> {
        let ch = self.next()?;
        match ch {
            'a' => Some('\u{7}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            'x' => self.hexadecimal(),
            '1'..='7' if !self.rest.starts_with(|next: char| next.is_digit(8)) => None,
            '0'..='7' => self.octal(ch),
            _ if ch.is_ascii() && !ch.is_ascii_alphanumeric() => Some(ch),
            _ => None,
        }
    }

    fn octal(&mut self, first: char) -> Option<char> {
        let mut value = first.to_digit(8)?;
        for _ in 0..2 {
            let Some(digit) = self.rest.chars().next().and_then(|ch| ch.to_digit(8)) else {
                break;
            };
            value = value * 8 + digit;
            self.next();
        }
        char::from_u32(value)
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if self.skip("{") {
            let (digits, after) = self.rest.split_once('}')?;
            self.rest = after;
            digits
        } else {
            let digits = self.rest.get(..2)?;
            self.rest = &self.rest[2..];
            digits
        };
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        char::from_u32(u32::from_str_radix(digits, 16).ok()?)
    }

    /// A class whose `[` has been read.
    fn class(&mut self) -> Option<Set> {
        let negated = self.skip("^");
        let mut ranges = Vec::new();
        let mut first = true;
        while first || !self.skip("]") {
            first = false;
            if let Some(named) = self.named_class()? {
                ranges.extend(named);
                continue;
            }
            let perl = self
                .rest
                .strip_prefix('\\')
                .and_then(|rest| rest.chars().next());
            if let Some((perl, negated)) = perl.and_then(perl_class) {
                self.rest = &self.rest[2..];
                if negated {
                    ranges.extend(inverted(perl));
                } else {
                    ranges.extend(perl);
                }
                continue;
            }
            let low = self.class_char()?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let high = if is_range {
                self.next();
                self.class_char()?
            } else {
                low
            };
            if high < low {
                return None;
            }
            ranges.push(low..=high);
        }
        Some(Set::Ranges { ranges, negated })
    }

    fn class_char(&mut self) -> Option<char> {
        if self.skip("\\") {
            self.escaped_char()
        } else {
            self.next()
        }
    }

    /// `[:alpha:]` and its like; the outer nothing is a name that there is not.
    #[expect(clippy::option_option, reason = "no named class here, or a faulty one")]
    fn named_class(&mut self) -> Option<Option<Vec<RangeInclusive<char>>>> {
        let Some((name, after)) = self
            .rest
            .strip_prefix("[:")
            .and_then(|rest| rest.split_once(":]"))
        else {
            return Some(None);
        };
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let ranges = posix_class(name)?;
        self.rest = after;
        Some(Some(if negated { inverted(ranges) } else { ranges }))
    }
}

/// `\d`, `\s`, `\w` and their opposites.
fn perl_class(letter: char) -> Option<(Vec<RangeInclusive<char>>, bool)> {
    let ranges = match letter.to_ascii_lowercase() {
        'd' => vec!['0'..='9'],
        's' => vec!['\t'..='\n', '\u{c}'..='\r', ' '..=' '],
        'w' => vec!['0'..='9', 'A'..='Z', '_'..='_', 'a'..='z'],
        _ => return None,
    };
    Some((ranges, letter.is_ascii_uppercase()))
}

fn posix_class(name: &str) -> Option<Vec<RangeInclusive<char>>> {
    Some(match name {
        "alnum" => vec!['0'..='9', 'A'..='Z', 'a'..='z'],
        "alpha" => vec!['A'..='Z', 'a'..='z'],
        "ascii" => vec!['\0'..='\u{7f}'],
        "blank" => vec!['\t'..='\t', ' '..=' '],
        "cntrl" => vec!['\0'..='\u{1f}', '\u{7f}'..='\u{7f}'],
        "digit" => vec!['0'..='9'],
        "graph" => vec!['!'..='~'],
        "lower" => vec!['a'..='z'],
        "print" => vec![' '..='~'],
        "punct" => vec!['!'..='/', ':'..='@', '['..='`', '{'..='~'],
        "space" => vec!['\t'..='\r', ' '..=' '],
        "upper" => vec!['A'..='Z'],
        "word" => vec!['0'..='9', 'A'..='Z', '_'..='_', 'a'..='z'],
        "xdigit" => vec!['0'..='9', 'A'..='F', 'a'..='f'],
        _ => return None,
    })
}

/// Everything but these ranges, which are in order and do not overlap.
fn inverted(ranges: Vec<RangeInclusive<char>>) -> Vec<RangeInclusive<char>> {
    let mut others = Vec::new();
    let mut next = Some('\0');
    for range in ranges {
        if let (Some(from), Some(to)) = (next, previous(*range.start()))
            && from <= to
        {
            others.push(from..=to);
        }
        next = (*range.end()..=char::MAX).nth(1);
    }
    others.extend(next.map(|from| from..=char::MAX));
    others
}

fn previous(ch: char) -> Option<char> {
    ('\0'..ch).next_back()
}
