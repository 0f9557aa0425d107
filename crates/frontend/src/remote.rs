//! Sources of `ADD` that are URLs of files.

use crate::git;
use crate::paths::base;
use crate::url::Url;

/// What a file is called whose URL does not tell.
const UNNAMED: &str = "__unnamed__";

/// Whether this is the URL of a file, and no repository.
pub(crate) fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://"))
        && git::parse(source).is_none()
}

/// What the URL's file is called.
pub(crate) fn file_name(url: &str) -> String {
    let parsed = Url::parse(url);
    let name = parsed.as_ref().map_or("", |url| base(&url.path));
    if matches!(name, "" | "." | "/") {
        UNNAMED.to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_as_their_urls_end() {
        for (url, expected) in [
            ("https://h/a/b.txt?x=/y", "b.txt"),
            ("http://h:80/a%20b", "a b"),
            ("http://h/", UNNAMED),
            ("http://h", UNNAMED),
            ("http://h/%zz", UNNAMED),
        ] {
            assert_eq!(file_name(url), expected);
        }
        assert!(is_http("https://h/x") && !is_http("https://h/x.git") && !is_http("./x"));
    }
}
