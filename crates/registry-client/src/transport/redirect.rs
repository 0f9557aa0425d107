//! Which redirects are followed, and where to.

use http::{Method, StatusCode, header};
use url::Url;

use super::{Answer, Request};
use crate::{Error, Result};

/// The URL that an answer redirects to, `None` when it does not.
pub(super) fn next(request: &Request, answer: &Answer) -> Result<Option<Url>> {
    let status = answer.status();
    let reading = matches!(request.method, Method::GET | Method::HEAD);
    let follows = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        // These may turn a method into GET, which is right only where it is one already.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => reading,
        _ => return Ok(None),
    };
    let refuse = |problem: &str| Error::Redirect {
        host: answer.host().to_owned(),
        what: request.what.clone(),
        problem: problem.to_owned(),
    };
    if !follows {
        return Err(refuse("the status does not allow the method"));
    }
    let location = answer.header(&header::LOCATION);
    let location = location.ok_or_else(|| refuse("there is no `Location`"))?;
    target(&request.url, location).map(Some).map_err(refuse)
}

/// Resolves `location` against `from` and checks that it may be gone to.
pub(crate) fn target(from: &Url, location: &str) -> Result<Url, &'static str> {
    let mut url = from.join(location).map_err(|_| "`Location` is not a URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("`Location` is neither http nor https");
    }
    if from.scheme() == "https" && url.scheme() == "http" {
        return Err("it leads from https to http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("`Location` carries a user name or password");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("`Location` has no host");
    }
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolves_and_refuses() {
        let from: Url = "https://reg.example/v2/a/blobs/x?y=1".parse().unwrap();
        for (location, expected) in [
            ("/b?c", Ok("https://reg.example/b?c")),
            ("https://cdn.example/z#f", Ok("https://cdn.example/z")),
            ("//cdn.example/z", Ok("https://cdn.example/z")),
            ("http://reg.example/b", Err("it leads from https to http")),
            (
                "file:///etc/passwd",
                Err("`Location` is neither http nor https"),
            ),
            (
                "https://u:p@cdn.example/",
                Err("`Location` carries a user name or password"),
            ),
            ("https://", Err("`Location` is not a URL")),
        ] {
            let result = target(&from, location);
            assert_eq!(
                result.as_ref().map(Url::as_str),
                expected.as_deref(),
                "{location}"
            );
        }
        let plain: Url = "http://localhost:5000/".parse().unwrap();
        assert!(target(&plain, "https://cdn.example/").is_ok());
    }

    proptest! {
        #[test]
        fn https_never_becomes_http(location in ".{0,80}") {
            let from: Url = "https://reg.example/v2/".parse().unwrap();
            if let Ok(url) = target(&from, &location) {
                prop_assert_eq!(url.scheme(), "https");
            }
        }
    }
}
