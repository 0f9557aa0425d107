//! Wildcards in source paths: Go's `path/filepath.Match`.
//!
//! `*` and `?` stop at `/`; `[a-z]` and `[^a-z]` do not (a quirk that is kept); `\` takes
//! the next character literally. Bytes that are not UTF-8 count as one character each.

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wildcard {
    tokens: Vec<Token>,
    /// Whether the pattern matches component by component.
    by_component: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// The pattern is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPattern;

/// Whether a path component holds a wildcard that is not escaped.
pub(super) fn has_wildcard(component: &[u8]) -> bool {
    let mut bytes = component.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

impl Wildcard {
    pub(super) fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            tokens.push(match first {
                b'*' => Token::Star,
                b'?' => Token::Any,
                b'[' => class(&mut rest)?,
                b'\\' => {
                    let (&escaped, tail) = rest.split_first().ok_or(BadPattern)?;
                    rest = tail;
                    Token::Byte(escaped)
                }
                byte => Token::Byte(byte),
            });
        }
        let crosses = |token: &Token| matches!(token, Token::Class { .. });
        Ok(Self {
            by_component: !tokens.iter().any(crosses),
            tokens,
        })
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        matches(&self.tokens, name)
    }

    /// Whether anything below `directory` may match. Only a class can match a `/`, so
    /// without one the first components of the pattern decide.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        if !self.by_component {
            return true;
        }
        let depth = directory.split(|byte| *byte == b'/').count();
        let slash = |(_, token): &(usize, &Token)| **token == Token::Byte(b'/');
        let slashes = self.tokens.iter().enumerate().filter(slash);
        match slashes.map(|(at, _)| at).nth(depth - 1) {
            Some(end) => matches(&self.tokens[..end], directory),
            None => false,
        }
    }
}

/// Matches with one point of return: the last star. A star stops at `/`, so an earlier
/// one never has to take more.
fn matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut at, mut rest) = (0, name);
    let mut star: Option<(usize, &[u8])> = None;
    loop {
        if at == tokens.len() && rest.is_empty() {
            return true;
        }
        if let Some(Token::Star) = tokens.get(at) {
            star = Some((at + 1, rest));
            at += 1;
            continue;
        }
        if let Some(tail) = tokens.get(at).and_then(|token| step(token, rest)) {
            (at, rest) = (at + 1, tail);
            continue;
        }
        match star {
            Some((after, [byte, tail @ ..])) if *byte != b'/' => {
                star = Some((after, tail));
                (at, rest) = (after, tail);
            }
            _ => return false,
        }
    }
}

fn step<'a>(token: &Token, name: &'a [u8]) -> Option<&'a [u8]> {
    match token {
        Token::Byte(byte) => name.strip_prefix(&[*byte]),
        Token::Any if name.first() == Some(&b'/') => None,
        Token::Any => Some(&name[first_char(name)?.1..]),
        Token::Class { negated, ranges } => {
            let (character, length) = first_char(name)?;
            let inside = ranges
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&character));
            (inside != *negated).then_some(&name[length..])
        }
        Token::Star => None,
    }
}

/// The first character and its length; the replacement character for a byte that begins
/// none.
fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let end = bytes.len().min(4);
    let valid = match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(character) => Some((character, character.len_utf8())),
        None => (!bytes.is_empty()).then_some((char::REPLACEMENT_CHARACTER, 1)),
    }
}

/// What stands after `[`, up to and with the closing bracket.
fn class(rest: &mut &[u8]) -> Result<Token, BadPattern> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if let Some((b']', tail)) = rest.split_first()
            && !ranges.is_empty()
        {
            *rest = tail;
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let mut high = low;
        if let Some((b'-', tail)) = rest.split_first() {
            *rest = tail;
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut &[u8]) -> Result<char, BadPattern> {
    match rest.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (character, length) = first_char(rest).ok_or(BadPattern)?;
    if character == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err(BadPattern);
    }
    *rest = &rest[length..];
    // The closing bracket has to follow.
    if rest.is_empty() {
        return Err(BadPattern);
    }
    Ok(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, name: &str) -> Option<bool> {
        let wildcard = Wildcard::new(pattern.as_bytes()).ok()?;
        Some(wildcard.matches(name.as_bytes()))
    }

    #[test]
    fn matches_as_go_does() {
        // From the documented rules of Go's filepath.Match; None is a malformed pattern.
        let cases = [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "aäb", Some(true)),
            ("a[^a]b", "aäb", Some(true)),
            ("a???b", "aäb", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("a[^x]b", "a/b", Some(true)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[\\-x]", "a", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("*x", "xxx", Some(true)),
            ("*.go", ".go", Some(true)),
            ("", "", Some(true)),
            ("", "a", Some(false)),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(check(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_characters() {
        let wildcard = Wildcard::new(b"a?\xffc").unwrap();
        assert!(wildcard.matches(b"a\xfe\xffc"));
        assert!(!wildcard.matches(b"a\xfe\xfec"));
    }

    #[test]
    fn walks_enter_only_what_may_match() {
        let wildcard = Wildcard::new(b"s*/*/dir2/foo").unwrap();
        assert!(wildcard.may_match_below(b"sub"));
        assert!(wildcard.may_match_below(b"sub/x"));
        assert!(wildcard.may_match_below(b"sub/x/dir2"));
        assert!(!wildcard.may_match_below(b"other"));
        assert!(!wildcard.may_match_below(b"sub/x/dir3"));
        assert!(!wildcard.may_match_below(b"sub/x/dir2/foo"));
        assert!(
            Wildcard::new(b"[^a]")
                .unwrap()
                .may_match_below(b"deep/down")
        );
    }
}
