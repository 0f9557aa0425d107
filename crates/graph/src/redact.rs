//! URLs as people may read them: in step names, histories, records and messages.

/// What stands for a user name or a password.
const HIDDEN: &str = "xxxxx";

/// A text in which no URL has a user name or a password: either may be a token. The login
/// name of an `ssh` URL stays, and so does that of scp's form (`git@host:path`), which has
/// no place for a password. What is one URL is for [`redacted_url`]: in a text, white space
/// and `"` end a URL, which both can stand in a password.
pub fn redacted(text: &str) -> String {
    let is_end = |ch: char| is_authority_end(ch) || ch == '"' || ch.is_whitespace();
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(behind) = show_authority(rest, is_end, &mut shown) {
        rest = behind;
    }
    shown + rest
}

/// As [`redacted`], of what is one URL as a whole, whatever its password has in it.
pub fn redacted_url(url: &str) -> String {
    let mut shown = String::with_capacity(url.len());
    match show_authority(url, is_authority_end, &mut shown) {
        // What is behind can hold further URLs, in a query.
        Some(behind) => shown + &redacted(behind),
        None => url.to_owned(),
    }
}

/// RFC 3986 section 3.2.
fn is_authority_end(ch: char) -> bool {
    matches!(ch, '/' | '?' | '#')
}

/// Adds the text up to the end of the first authority, redacted; what is behind that.
fn show_authority<'a>(
    text: &'a str,
    is_end: impl Fn(char) -> bool,
    shown: &mut String,
) -> Option<&'a str> {
    let (before, after) = text.split_at(text.find("://")? + "://".len());
    let (authority, behind) = after.split_at(after.find(is_end).unwrap_or(after.len()));
    shown.push_str(before);
    shown.push_str(&redacted_authority(authority, before.ends_with("ssh://")));
    Some(behind)
}

fn redacted_authority(authority: &str, is_ssh: bool) -> String {
    let Some((user, host)) = authority.rsplit_once('@') else {
        return authority.to_owned();
    };
    match user.contains(':') {
        true => format!("{HIDDEN}:{HIDDEN}@{host}"),
        false if is_ssh => authority.to_owned(),
        false => format!("{HIDDEN}@{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_hidden() {
        for (text, shown) in [
            ("https://h/a@b", "https://h/a@b"),
            ("https://token@h/a", "https://xxxxx@h/a"),
            ("https://token@h", "https://xxxxx@h"),
            ("https://u:p@ss@h:1/a#x", "https://xxxxx:xxxxx@h:1/a#x"),
            ("https://u:p@host/x@y", "https://xxxxx:xxxxx@host/x@y"),
            ("https://h?x=a@b", "https://h?x=a@b"),
            ("git@h:a/b", "git@h:a/b"),
            ("ssh://git@h/a", "ssh://git@h/a"),
            ("ssh://u:p@h/a", "ssh://xxxxx:xxxxx@h/a"),
            ("://@", "://xxxxx@"),
        ] {
            assert_eq!(redacted(text), shown);
            assert_eq!(redacted_url(text), shown);
        }
    }

    #[test]
    fn whatever_a_password_has_in_it_is_hidden() {
        for (url, shown) in [
            (r#"https://u:a"b@h/r.git"#, "https://xxxxx:xxxxx@h/r.git"),
            ("https://u:a b@h/r.git", "https://xxxxx:xxxxx@h/r.git"),
            (r#"https://to"ken@h"#, "https://xxxxx@h"),
            (r#"ssh://u:a"b@h/r"#, "ssh://xxxxx:xxxxx@h/r"),
            (
                "https://h/?of=https://u:p@i",
                "https://h/?of=https://xxxxx:xxxxx@i",
            ),
            ("git@h:a\"b@c", "git@h:a\"b@c"),
        ] {
            assert_eq!(redacted_url(url), shown);
        }
    }

    #[test]
    fn every_url_of_a_text_is_shown_so() {
        for (text, shown) in [
            (
                "ADD http://a:b@h/x https://t@i/y /d",
                "ADD http://xxxxx:xxxxx@h/x https://xxxxx@i/y /d",
            ),
            (
                r#"ADD ["http://a:b@h", "/d@e"]"#,
                r#"ADD ["http://xxxxx:xxxxx@h", "/d@e"]"#,
            ),
            ("ADD http://h mail@x", "ADD http://h mail@x"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }
}
