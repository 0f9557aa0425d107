//! Lists: a repository's tags, a registry's repositories.
//!
//! Lists come in pages. The next page's place is the registry's word (`Link`), of
//! which only path and query are taken: a list never leads to another host.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::auth::{Action, Scopes};
use crate::client::Access;
use crate::transport::Request;
use crate::{Client, Error, Repository, Result};

/// The most that is read of one page, in bytes.
pub(crate) const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most pages of one list.
pub(crate) const PAGES_MAX: usize = 10_000;
/// The most entries of one list.
const ENTRIES_MAX: usize = 5_000_000;
/// How many entries are asked for at once; registries give fewer as they like.
const PAGE_ENTRIES: &str = "1000";

#[derive(Deserialize)]
struct Tags {
    /// `null` for a repository whose tags were all deleted, on some registries.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Option<Vec<String>>,
}

/// One page, and where the next one is.
pub(crate) struct Page<T> {
    pub(crate) content: T,
    pub(crate) next: Option<Url>,
}

impl Client {
    /// The repository's tags, as the registry sorts them.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such repository, and as [`Error`] lists.
    pub async fn list_tags(&self, repository: &Repository) -> Result<Vec<String>> {
        let access = self.origin_access(repository, Action::Pull)?;
        let what = format!("tags of `{repository}`");
        self.list(&access, "tags/list", &what, |page: Tags| page.tags)
            .await
    }

    /// The registry's repositories, as far as it lists them.
    ///
    /// # Errors
    /// As [`Error`] lists; many registries refuse this.
    pub async fn catalog(&self, registry: &str) -> Result<Vec<String>> {
        let access = self.registry_access(registry, Scopes::catalog());
        let what = format!("catalog of `{registry}`");
        self.list(&access, "_catalog", &what, |page: Catalog| {
            page.repositories
        })
        .await
    }

    async fn list<P: DeserializeOwned>(
        &self,
        access: &Access,
        tail: &str,
        what: &str,
        entries: impl Fn(P) -> Option<Vec<String>>,
    ) -> Result<Vec<String>> {
        let mut url = match access.path {
            Some(_) => access.url(&self.inner, tail).await?,
            None => self.registry_url(access, tail).await?,
        };
        url.query_pairs_mut().append_pair("n", PAGE_ENTRIES);
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.page::<P>(access, url, what, None).await?;
            all.extend(entries(page.content).unwrap_or_default());
            match page.next {
                Some(next) if all.len() < ENTRIES_MAX => url = next,
                Some(_) => break,
                None => return Ok(all),
            }
        }
        Err(Error::Protocol {
            host: access.host.authority.clone(),
            what: what.to_owned(),
            problem: format!("the list has no end after {} entries", all.len()),
        })
    }

    pub(crate) async fn registry_url(&self, access: &Access, tail: &str) -> Result<Url> {
        let base = self.inner.transport.base_url(&access.host).await?;
        base.join(tail).map_err(|_| Error::Protocol {
            host: access.host.authority.clone(),
            what: tail.to_owned(),
            problem: "not a URL path".to_owned(),
        })
    }

    /// Fetches one page; one of another type than `expected_type` is a 404 to us.
    pub(crate) async fn page<P: DeserializeOwned>(
        &self,
        access: &Access,
        url: Url,
        what: &str,
        expected_type: Option<&'static str>,
    ) -> Result<Page<P>> {
        let accept = HeaderValue::from_static(expected_type.unwrap_or("application/json"));
        let request = Request::new(Method::GET, url.clone(), what).header(header::ACCEPT, accept);
        let answer = self.inner.send(access, &request).await?;
        let answer = answer.expect(&[StatusCode::OK], what).await?;
        let served = answer.media_type();
        if expected_type.is_some() && served != expected_type {
            return Err(answer.protocol(what, "another type of document than asked for"));
        }
        let next = next_page(&url, answer.headers());
        let host = answer.host().to_owned();
        let body = answer.bytes(PAGE_BYTES_MAX, what).await?;
        let content = serde_json::from_slice(&body).map_err(|_| Error::Protocol {
            host,
            what: what.to_owned(),
            problem: "not the expected JSON".to_owned(),
        })?;
        Ok(Page { content, next })
    }
}

/// The page after this one: the target of `rel="next"`, on this page's origin.
fn next_page(this: &Url, headers: &HeaderMap) -> Option<Url> {
    let lines = headers.get_all(header::LINK).iter();
    let mut targets = lines
        .filter_map(|line| line.to_str().ok())
        .filter_map(next_target);
    let target = this.join(targets.next()?).ok()?;
    let mut next = this.clone();
    next.set_path(target.path());
    next.set_query(target.query());
    // A page that names itself as the next one would never end.
    (next != *this).then_some(next)
}

/// The target of the link with `rel="next"` in a `Link` header (RFC 8288).
fn next_target(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let parameters = &after[..after.find('<').unwrap_or(after.len())];
        if parameters.split([';', ',']).any(is_rel_next) {
            return Some(target.trim());
        }
        rest = after;
    }
    None
}

fn is_rel_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let mut relations = value.trim().trim_matches('"').split_whitespace();
    name.trim().eq_ignore_ascii_case("rel")
        && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_to_the_next_page() {
        for (line, expected) in [
            (
                r#"</v2/a/tags/list?n=2&last=b>; rel="next""#,
                Some("/v2/a/tags/list?n=2&last=b"),
            ),
            ("</a>;rel=next", Some("/a")),
            (r#"</p>; rel="prev", </n>; rel="next""#, Some("/n")),
            (r#"</n>; title="x"; REL="last Next""#, Some("/n")),
            (r#"</p>; rel="prev""#, None),
            ("</unclosed", None),
            ("", None),
        ] {
            assert_eq!(next_target(line), expected, "{line}");
        }
    }

    #[test]
    fn the_next_page_is_on_the_same_origin() {
        let this: Url = "https://reg.example/v2/a/tags/list?n=1".parse().unwrap();
        let next = |line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, HeaderValue::from_static(line));
            next_page(&this, &headers).map(String::from)
        };
        assert_eq!(
            next("<http://evil.example/x?last=b>; rel=next").as_deref(),
            Some("https://reg.example/x?last=b")
        );
        assert_eq!(next("<?n=1>; rel=next"), None);
    }

    proptest! {
        #[test]
        fn link_parsing_is_total(line in ".{0,200}", near in "[<>;, =a-z\"]{0,60}") {
            let _ = next_target(&line);
            let _ = next_target(&near);
        }
    }
}
