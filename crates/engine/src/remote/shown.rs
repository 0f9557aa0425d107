//! URLs as messages show them.

/// What stands for a user name or password.
const HIDDEN: &str = "xxxxx";

/// A URL without the user name and password in it: either may be a token. A reference of
/// scp's form has only a login name, which stays.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => {
            let hidden = if rest[..at].contains(':') {
                format!("{HIDDEN}:{HIDDEN}")
            } else {
                HIDDEN.to_owned()
            };
            format!("{scheme}://{hidden}{}", &rest[at..])
        }
        None => url.to_owned(),
    }
}

/// A stranger's text fit to print: no control characters but line breaks.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|ch| if ch == '\r' { '\n' } else { ch })
        .filter(|ch| *ch == '\n' || !ch.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_hidden() {
        for (url, shown) in [
            ("https://h/a@b", "https://h/a@b"),
            ("https://token@h/a", "https://xxxxx@h/a"),
            ("https://u:p@ss@h:1/a#x", "https://xxxxx:xxxxx@h:1/a#x"),
            ("git@h:a/b", "git@h:a/b"),
            ("https://h?x=a@b", "https://h?x=a@b"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn a_remote_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[31mb\rc\n\u{7}"), "a[31mb\nc");
    }
}
