//! JSON arrays of strings as instruction arguments, with the place of every element.
//!
//! This follows Go's decoder in what it accepts: a lone surrogate becomes U+FFFD, a number too
//! large for a float is refused, arrays nest at most 10,000 deep. The depth is counted, not
//! recursed.

use std::ops::Range;

use crate::words::Word;

/// As in Go's decoder.
const DEPTH_MAX: usize = 10_000;

/// Why a text is no array of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not start with `[`.
    NotArray,
    /// It starts like an array, but is no JSON. What is wrong where.
    Syntax { at: usize, reason: &'static str },
    /// It is JSON, but this element is no string.
    NotStrings { element: Range<usize> },
}

/// Reads `range` of `text` as an array of strings.
pub(crate) fn parse_strings(text: &str, range: Range<usize>) -> Result<Vec<Word>, Fault> {
    let start = range.end - text[range.clone()].trim_start().len();
    if !text[start..range.end].starts_with('[') {
        return Err(Fault::NotArray);
    }
    let mut reader = Reader {
        text: &text[..range.end],
        at: start + 1,
    };
    let (elements, other) = reader.elements()?;
    reader.skip_blanks();
    if reader.at < range.end {
        return Err(reader.fault("something follows the closing bracket"));
    }
    match other {
        Some(element) => Err(Fault::NotStrings { element }),
        None => Ok(elements),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// What may come next inside an array or object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A value or key, or the closing bracket of an empty list.
    FirstItem,
    /// A value or key, after a comma.
    Item,
    /// The value of a key.
    Value,
    /// A comma or the closing bracket.
    Comma,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fault(&self, reason: &'static str) -> Fault {
        Fault::Syntax {
            at: self.at,
            reason,
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The outer array after its `[`: its strings, and the first element that is none.
    fn elements(&mut self) -> Result<(Vec<Word>, Option<Range<usize>>), Fault> {
        let mut elements = Vec::new();
        let mut other = None;
        let mut expect = Expect::FirstItem;
        loop {
            self.skip_blanks();
            let Some(byte) = self.peek() else {
                return Err(self.fault("the closing bracket is missing"));
            };
            match (byte, expect) {
                (b']', Expect::FirstItem | Expect::Comma) => {
                    self.at += 1;
                    return Ok((elements, other));
                }
                (b',', Expect::Comma) => {
                    self.at += 1;
                    expect = Expect::Item;
                }
                (_, Expect::Comma) => return Err(self.fault("a comma is missing")),
                _ => {
                    let start = self.at;
                    match self.value()? {
                        Some(text) => elements.push(Word {
                            text,
                            range: start..self.at,
                        }),
                        None => other = other.or(Some(start..self.at)),
                    }
                    expect = Expect::Comma;
                }
            }
        }
    }

    /// Any value; its text if it is a string.
    fn value(&mut self) -> Result<Option<String>, Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(Some),
            Some(b'[' | b'{') => self.nested().map(|()| None),
            _ => self.scalar().map(|()| None),
        }
    }

    /// An inner array or object, read without recursion.
    fn nested(&mut self) -> Result<(), Fault> {
        let mut open: Vec<u8> = Vec::new();
        let mut expect = Expect::Value;
        loop {
            self.skip_blanks();
            let Some(byte) = self.peek() else {
                return Err(self.fault("the closing bracket is missing"));
            };
            expect = match (byte, expect) {
                (b']' | b'}', Expect::FirstItem | Expect::Comma) => {
                    self.close(&mut open, byte)?;
                    Expect::Comma
                }
                (b',', Expect::Comma) => {
                    self.at += 1;
                    Expect::Item
                }
                (_, Expect::Comma) => return Err(self.fault("a comma is missing")),
                (_, Expect::FirstItem | Expect::Item) if open.last() == Some(&b'{') => {
                    self.key()?;
                    Expect::Value
                }
                (b'[' | b'{', _) => {
                    self.open(&mut open, byte)?;
                    Expect::FirstItem
                }
                (b'"', _) => {
                    self.string()?;
                    Expect::Comma
                }
                _ => {
                    self.scalar()?;
                    Expect::Comma
                }
            };
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    fn open(&mut self, open: &mut Vec<u8>, bracket: u8) -> Result<(), Fault> {
        open.push(bracket);
        self.at += 1;
        // The outer array is one level.
        if open.len() >= DEPTH_MAX {
            return Err(self.fault("it is nested too deeply"));
        }
        Ok(())
    }

    fn close(&mut self, open: &mut Vec<u8>, bracket: u8) -> Result<(), Fault> {
        let opening = if bracket == b']' { b'[' } else { b'{' };
        if open.pop() != Some(opening) {
            return Err(self.fault("the brackets do not match"));
        }
        self.at += 1;
        Ok(())
    }

    /// A key and the colon after it.
    fn key(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("a key must be a string"));
        }
        self.string()?;
        self.skip_blanks();
        if self.peek() != Some(b':') {
            return Err(self.fault("a colon is missing"));
        }
        self.at += 1;
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = &self.text[self.at..];
        let end =
            rest.find(|ch: char| !(ch.is_ascii_alphanumeric() || matches!(ch, '+' | '-' | '.')));
        let word = &rest[..end.unwrap_or(rest.len())];
        if !matches!(word, "true" | "false" | "null") && !is_number(word) {
            let quoted = rest.starts_with('\'');
            let reason = if quoted {
                "strings need double quotes"
            } else {
                "a string in double quotes is missing"
            };
            return Err(self.fault(reason));
        }
        self.at += word.len();
        Ok(())
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.at += 1;
        let mut value = String::new();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let length = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            let Some(length) = length else {
                return Err(self.fault("a string is not closed"));
            };
            value.push_str(&self.text[self.at..self.at + length]);
            self.at += length;
            match rest[length] {
                b'"' => {
                    self.at += 1;
                    return Ok(value);
                }
                b'\\' => self.escape(&mut value)?,
                _ => return Err(self.fault("a control character in a string must be escaped")),
            }
        }
    }

    fn escape(&mut self, value: &mut String) -> Result<(), Fault> {
        let Some(escaped) = self.text.as_bytes().get(self.at + 1).copied() else {
            return Err(self.fault("a string is not closed"));
        };
        let ch = match escaped {
            b'"' | b'\\' | b'/' => char::from(escaped),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                value.push(self.unicode_escape()?);
                return Ok(());
            }
            _ => return Err(self.fault("a backslash must be doubled")),
        };
        self.at += 2;
        value.push(ch);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<char, Fault> {
        let Some(first) = self.hex_at(self.at) else {
            return Err(self.fault("four hexadecimal digits must follow \\u"));
        };
        self.at += 6;
        if let Some(ch) = char::from_u32(first) {
            return Ok(ch);
        }
        // A pair of surrogates is one character; a lone one is replaced.
        let second = self
            .hex_at(self.at)
            .filter(|second| (0xdc00..0xe000).contains(second));
        match second {
            Some(second) if first < 0xdc00 => {
                self.at += 6;
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
            }
            _ => Ok(char::REPLACEMENT_CHARACTER),
        }
    }

    /// The code of a `\uXXXX` at `at`.
    fn hex_at(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u32::from_str_radix(digits, 16).ok()
    }
}

/// JSON's number grammar, and small enough for a float.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let all_digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_ok =
        exponent.is_none_or(|text| all_digits(text.strip_prefix(['+', '-']).unwrap_or(text)));
    all_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(all_digits)
        && exponent_ok
        && word.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(text: &str) -> Result<Vec<String>, Fault> {
        let words = parse_strings(text, 0..text.len())?;
        Ok(words.into_iter().map(|word| word.text).collect())
    }

    fn reason(text: &str) -> &'static str {
        match strings(text) {
            Err(Fault::Syntax { reason, .. }) => reason,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn reads_strings_with_escapes() {
        assert_eq!(
            strings(" [\"a b\" , \"\\u00e9\\n\\\"\\\\\\/\" ] ").unwrap(),
            ["a b", "é\n\"\\/"]
        );
        assert_eq!(strings("[]").unwrap(), [""; 0]);
        assert_eq!(
            strings("[\"\\ud83d\\ude00\\ud83d\\u0041\\ude00\"]").unwrap(),
            ["😀\u{fffd}A\u{fffd}"]
        );
    }

    #[test]
    fn other_elements_are_named() {
        for (text, element) in [
            ("[\"a\", 1]", "1"),
            ("[[\"a\"]]", "[\"a\"]"),
            ("[null]", "null"),
            ("[{\"a\": [1, {}]}, 2]", "{\"a\": [1, {}]}"),
        ] {
            let Err(Fault::NotStrings { element: found }) = strings(text) else {
                panic!("{text}")
            };
            assert_eq!(&text[found], element);
        }
    }

    #[test]
    fn broken_arrays_say_why() {
        assert_eq!(reason("['a']"), "strings need double quotes");
        assert_eq!(reason("[\"a\" \"b\"]"), "a comma is missing");
        assert_eq!(reason("[\"a\",]"), "a string in double quotes is missing");
        assert_eq!(reason("[\"c:\\x\"]"), "a backslash must be doubled");
        assert_eq!(
            reason("[\"a\"] && b"),
            "something follows the closing bracket"
        );
        assert_eq!(reason("[\"a"), "a string is not closed");
        assert_eq!(reason("[\"a\""), "the closing bracket is missing");
        assert_eq!(reason("[1e999]"), "a string in double quotes is missing");
        assert_eq!(reason("[01]"), "a string in double quotes is missing");
        assert_eq!(reason("[[}]"), "the brackets do not match");
        assert_eq!(reason("[{[]}]"), "a key must be a string");
        assert_eq!(strings("a"), Err(Fault::NotArray));
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(matches!(
            strings(&nest(10_000)),
            Err(Fault::NotStrings { .. })
        ));
        assert_eq!(reason(&nest(10_001)), "it is nested too deeply");
        let objects = format!("[{}1{}]", "{\"a\":".repeat(50_000), "}".repeat(50_000));
        assert_eq!(reason(&objects), "it is nested too deeply");
    }
}
