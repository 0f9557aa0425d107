//! Lists that come in pages: repositories and tags.

use serde::Serialize;

use crate::RepositoryName;
use crate::error::{ApiError, Code};
use crate::percent;
use crate::route::Page;
use crate::service::Service;

/// A page's size if the client does not say, and the largest it may say.
pub(crate) const ENTRIES_MAX: usize = 10_000;

#[derive(Debug, Serialize)]
pub(crate) struct Tags {
    name: String,
    tags: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Repositories {
    repositories: Vec<String>,
}

/// A page of a list, and the query that asks for the next one.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    pub(crate) entries: T,
    pub(crate) next: Option<String>,
}

impl Service {
    pub(crate) async fn list_tags(
        &self,
        repository: &RepositoryName,
        page: &Page,
    ) -> Result<Listed<Tags>, ApiError> {
        let (name, last, size) = (repository.clone(), page.last.clone(), size(page));
        let found = self
            .ask(move |db| db.tags(name.as_str(), last.as_deref(), size + 1))
            .await?;
        let Some(mut tags) = found else {
            return Err(self.not_found(repository, Code::NameUnknown, "").await);
        };
        let next = next(&mut tags, size, String::as_str);
        let name = repository.to_string();
        Ok(Listed {
            entries: Tags { name, tags },
            next,
        })
    }

    pub(crate) async fn list_repositories(
        &self,
        page: &Page,
    ) -> Result<Listed<Repositories>, ApiError> {
        let (last, size) = (page.last.clone(), size(page));
        let mut repositories = self
            .ask(move |db| db.repositories(last.as_deref(), size + 1))
            .await?;
        let next = next(&mut repositories, size, String::as_str);
        Ok(Listed {
            entries: Repositories { repositories },
            next,
        })
    }
}

pub(crate) fn size(page: &Page) -> usize {
    page.n.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX)
}

/// Cuts a list that was asked for with one entry more than the page has; that entry says
/// whether there is a next page. An empty page has none, or clients would ask forever.
pub(crate) fn next<T>(
    entries: &mut Vec<T>,
    size: usize,
    key: impl Fn(&T) -> &str,
) -> Option<String> {
    let more = entries.len() > size;
    entries.truncate(size);
    let last = entries.last().filter(|_| more)?;
    Some(format!("n={size}&last={}", percent::encode(key(last))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_page_with_more_behind_it_has_a_next_one() {
        let cut = |entries: &[&str], size| {
            let mut entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
            let next = next(&mut entries, size, String::as_str);
            (entries.len(), next)
        };
        assert_eq!(cut(&["a", "b"], 2), (2, None));
        assert_eq!(
            cut(&["a/b", "b"], 1),
            (1, Some("n=1&last=a%2Fb".to_owned()))
        );
        assert_eq!(cut(&["a"], 0), (0, None));
        assert_eq!(cut(&[], 5), (0, None));
    }
}
