//! URLs as people may read them: in step names, histories, records and messages.

/// What stands for a user name or a password.
const HIDDEN: &str = "xxxxx";

/// A text in which no URL has a user name or a password: either may be a token. The login
/// name of an `ssh` URL stays, and so does that of scp's form (`git@host:path`), which has
/// no place for a password.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        let is_end = |ch: char| matches!(ch, '/' | '?' | '#' | '"') || ch.is_whitespace();
        let end = after.find(is_end).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        shown += before;
        shown += &redacted_authority(authority, before.ends_with("ssh://"));
        rest = behind;
    }
    shown + rest
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
