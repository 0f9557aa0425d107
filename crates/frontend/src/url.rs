//! As much of URLs as decides what a source of `ADD` is and what its file is called.

/// The scheme in lower case, if there is one with `://` behind it.
pub(crate) fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let letters = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    letters.then(|| scheme.to_ascii_lowercase())
}

/// A URL's parts. `path` is decoded, the others are as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url<'a> {
    scheme: String,
    /// Authority and path as written.
    location: &'a str,
    pub(crate) path: String,
    pub(crate) query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    /// Nothing if Go's parser finds fault with it: control characters, faulty escapes, a port that
    /// is no number.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text.chars().any(char::is_control) {
            return None;
        }
        let scheme = scheme(text)?;
        let rest = text.get(scheme.len() + 3..)?;
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path_start = location.find('/').unwrap_or(location.len());
        let (authority, path) = location.split_at(path_start);
        if !is_authority(authority) {
            return None;
        }
        let path = percent_decode(path, false)?;
        Some(Self {
            scheme,
            location,
            path,
            query,
            fragment,
        })
    }

    /// Scheme, authority and path.
    pub(crate) fn without_query(&self) -> String {
        format!("{}://{}", self.scheme, self.location)
    }

    /// The fragment, decoded.
    pub(crate) fn fragment(&self) -> Option<String> {
        percent_decode(self.fragment, false)
    }
}

fn is_authority(authority: &str) -> bool {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.contains(']'))
        .map(|(_, port)| port);
    port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        && !host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}'])
}

/// `key=value&…`, decoded; pairs that cannot be decoded are left out.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'));
    let decoded = pairs.filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((percent_decode(key, true)?, percent_decode(value, true)?))
    });
    decoded.collect()
}

fn percent_decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus_is_blank => b' ',
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_decoded() {
        let url = Url::parse("HTTPS://u@h:80/a%20b/c?x=1#f%3Ag").unwrap();
        assert_eq!(url.path, "/a b/c");
        assert_eq!(url.query, "x=1");
        assert_eq!(url.fragment().unwrap(), "f:g");
        assert_eq!(url.without_query(), "https://u@h:80/a%20b/c");
        assert_eq!(Url::parse("http://h").unwrap().path, "");
        for bad in [
            "http://h:x/",
            "http://h/%zz",
            "http://h/\n",
            "//h/a",
            "http://a b/",
        ] {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries_are_pairs() {
        let pairs = query_pairs("a=b+c&d&&e=%41&f=%");
        let expected = [("a", "b c"), ("d", ""), ("e", "A")];
        assert_eq!(
            pairs,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }
}
