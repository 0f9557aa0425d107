//! `WWW-Authenticate` (RFC 9110 section 11): what a server wants to be shown.

use http::{HeaderMap, header};

/// The most bytes of one header line that are looked at.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// A challenge of a kind that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user name and password are wanted.
    Basic,
    /// A token is wanted, to be had from the realm.
    Bearer {
        /// The URL of the token service.
        realm: String,
        /// The name by which the token service knows the registry.
        service: Option<String>,
        /// The rights that were missing.
        scope: Option<String>,
    },
}

/// The challenge to answer: a token where one can be had, else a password.
pub(crate) fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let lines = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let known = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(parse)
        .filter_map(Parsed::known);
    let mut basic = None;
    for challenge in known {
        match challenge {
            Challenge::Bearer { .. } => return Some(challenge),
            Challenge::Basic => basic = Some(Challenge::Basic),
        }
    }
    basic
}

/// One challenge as it stands in the header.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Parsed {
    fn known(self) -> Option<Challenge> {
        match self.scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: self.parameter("realm")?,
                service: self.parameter("service"),
                scope: self.parameter("scope"),
            }),
            _ => None,
        }
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    }
}

/// Reads all challenges of one header line. Never fails: what makes no sense is skipped.
///
/// A word that `=` follows is a parameter of the challenge before it, any other word
/// begins a new challenge; commas only separate.
fn parse(line: &str) -> Vec<Parsed> {
    let mut cursor = Cursor(line.get(..HEADER_BYTES_MAX).unwrap_or(line).as_bytes());
    let mut challenges: Vec<Parsed> = Vec::new();
    if line.len() > HEADER_BYTES_MAX {
        return challenges;
    }
    while !cursor.0.is_empty() {
        let Some(word) = cursor.word() else {
            cursor.skip_one();
            continue;
        };
        match (cursor.value(), challenges.last_mut()) {
            (Some(value), Some(challenge)) => challenge.parameters.push((word, value)),
            // A parameter without a challenge.
            (Some(_), None) => {}
            (None, _) => challenges.push(Parsed {
                scheme: word,
                parameters: Vec::new(),
            }),
        }
    }
    challenges
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip_one(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }

    fn skip_spaces(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// A token (RFC 9110 section 5.6.2), in lower case.
    fn word(&mut self) -> Option<String> {
        self.skip_spaces();
        let end = self.0.iter().position(|b| !is_token_byte(*b));
        let (word, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        (!word.is_empty()).then(|| String::from_utf8_lossy(word).to_ascii_lowercase())
    }

    /// `= value`, where one follows.
    fn value(&mut self) -> Option<String> {
        let before = self.0;
        self.skip_spaces();
        let [b'=', rest @ ..] = self.0 else {
            self.0 = before;
            return None;
        };
        self.0 = rest;
        self.skip_spaces();
        if let [b'"', rest @ ..] = self.0 {
            self.0 = rest;
            return Some(self.quoted());
        }
        Some(self.bare())
    }

    /// Up to the closing quote, or to the end where there is none.
    fn quoted(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            match self.0 {
                [] => break,
                [b'"', rest @ ..] => {
                    self.0 = rest;
                    break;
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    text.push(*byte);
                    self.0 = rest;
                }
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// An unquoted value; more generous than a token, since some servers do not quote URLs.
    fn bare(&mut self) -> String {
        let end = self.0.iter().position(|b| b", \t".contains(b));
        let (text, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn chosen(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(header::WWW_AUTHENTICATE, value);
        }
        choose(&headers)
    }

    fn bearer(realm: &str, service: &str, scope: &str) -> Option<Challenge> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: some(service),
            scope: some(scope),
        })
    }

    #[test]
    fn reads_what_registries_send() {
        for (line, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull,push",error="invalid_token""#,
                bearer(
                    "https://auth.docker.io/token",
                    "registry.docker.io",
                    "repository:library/debian:pull,push",
                ),
            ),
            (
                r#"bearer Realm = "https://a/t" , SERVICE=s"#,
                bearer("https://a/t", "s", ""),
            ),
            (
                r#"Bearer realm=https://a/t?x=1,service=s"#,
                bearer("https://a/t?x=1", "s", ""),
            ),
            (r#"Basic realm="a \"b\", c""#, Some(Challenge::Basic)),
            (r#"Basic"#, Some(Challenge::Basic)),
            (
                r#"Basic realm="x", Bearer realm="https://a/t",service="s""#,
                bearer("https://a/t", "s", ""),
            ),
            (
                r#"Negotiate abc==, Basic realm="x""#,
                Some(Challenge::Basic),
            ),
            (r#"Bearer service="no realm""#, None),
            (r#"Bearer realm=""#, None),
            (r#"Digest realm="x""#, None),
            ("", None),
            (
                r#"Bearer realm="unterminated"#,
                bearer("unterminated", "", ""),
            ),
        ] {
            assert_eq!(chosen(&[line]), expected, "{line}");
        }
    }

    #[test]
    fn several_lines_are_read_and_tokens_preferred() {
        let lines = [r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#];
        assert_eq!(chosen(&lines), bearer("https://a/t", "", ""));
    }

    #[test]
    fn an_overlong_line_is_not_read() {
        let line = format!("Bearer realm=\"{}\"", "x".repeat(HEADER_BYTES_MAX));
        assert_eq!(chosen(&[&line]), None);
    }

    proptest! {
        #[test]
        fn parsing_is_total(line in ".{0,300}") {
            let _ = parse(&line);
        }

        #[test]
        fn parsing_is_total_near_the_grammar(line in r#"((Bearer|Basic|x)[ ,="\\a-z/:]{0,20}){0,6}"#) {
            for challenge in parse(&line) {
                prop_assert!(!challenge.scheme.is_empty());
            }
        }

        #[test]
        fn any_quoted_value_round_trips(realm in "[ -~]{1,60}", scope in "[ -~]{1,60}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("Bearer realm=\"{}\",scope=\"{}\"", quote(&realm), quote(&scope));
            let expected = Challenge::Bearer { realm, service: None, scope: Some(scope) };
            prop_assert_eq!(chosen(&[&line]), Some(expected));
        }
    }
}
