//! Percent-encoding of paths and queries (RFC 3986, section 2.1).

/// Decodes `%xx`; `None` for a broken escape or what is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2)?;
        bytes.push(nibble(digits[0])? << 4 | nibble(digits[1])?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Encodes all but letters, digits and `-._~`.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A query's parameters in order, decoded; `None` if one cannot be. `+` is a space.
pub(crate) fn query(text: &str) -> Option<Vec<(String, String)>> {
    text.split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let decoded = |text: &str| decode(&text.replace('+', " "));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn broken_escapes_are_refused() {
        for broken in ["%", "%a", "%zz", "a%f", "%ff", "%C3", "%+1"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
        assert_eq!(decode("a%2Fb%3a").as_deref(), Some("a/b:"));
    }

    #[test]
    fn a_query_keeps_order_and_repetition() {
        let pairs = query("tag=a&tag=b%20c&&n&x=1=2&p=a+b").unwrap();
        let expected = [
            ("tag", "a"),
            ("tag", "b c"),
            ("n", ""),
            ("x", "1=2"),
            ("p", "a b"),
        ];
        assert!(
            pairs
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .eq(expected)
        );
        assert_eq!(query("a=%"), None);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text: String) {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn decoding_is_total(text: String) {
            if let Some(decoded) = decode(&text) {
                prop_assert!(decoded.len() <= text.len());
            }
            query(&text);
        }
    }
}
