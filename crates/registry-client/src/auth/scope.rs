//! The rights that a token carries: `repository:library/debian:pull,push`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The most resources that are taken over from a server's text.
const FOREIGN_SCOPES_MAX: usize = 16;

/// What is done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    /// Writing always comes with reading: an upload asks what is there.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Pull => &["pull"],
            Self::Push => &["pull", "push"],
            Self::Delete => &["delete", "pull"],
        }
    }
}

/// A set of rights, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// No rights: enough for asking whether the credentials are known.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// An action on one repository.
    pub(crate) fn repository(path: &str, action: Action) -> Self {
        Self::none().and_repository(path, action)
    }

    /// The right to list a registry's repositories.
    pub(crate) fn catalog() -> Self {
        let mut scopes = Self::none();
        scopes.add("registry:catalog", ["*"]);
        scopes
    }

    #[must_use]
    pub(crate) fn and_repository(mut self, path: &str, action: Action) -> Self {
        self.add(
            &format!("repository:{path}"),
            action.words().iter().copied(),
        );
        self
    }

    /// With the rights of a challenge's `scope` parameter.
    #[must_use]
    pub(crate) fn and_text(mut self, text: &str) -> Self {
        for scope in text.split(' ').take(FOREIGN_SCOPES_MAX) {
            // A resource's name may hold colons, its type and actions do not.
            let Some((resource, actions)) = scope.rsplit_once(':') else {
                continue;
            };
            if resource.contains(':') && !actions.is_empty() {
                self.add(resource, actions.split(','));
            }
        }
        self
    }

    /// Whether everything in `other` is in here.
    pub(crate) fn cover(&self, other: &Self) -> bool {
        other.0.iter().all(|(resource, actions)| {
            let held = self.0.get(resource);
            held.is_some_and(|held| actions.is_subset(held))
        })
    }

    /// Each resource with its actions, as a token service reads it.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }

    fn add<'a>(&mut self, resource: &str, actions: impl IntoIterator<Item = &'a str>) {
        let held = self.0.entry(resource.to_owned()).or_default();
        held.extend(actions.into_iter().map(str::to_owned));
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.texts().collect();
        f.write_str(&texts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mount_asks_for_both_repositories_at_once() {
        let scopes = Scopes::repository("b/c", Action::Push).and_repository("a", Action::Pull);
        assert_eq!(
            scopes.to_string(),
            "repository:a:pull repository:b/c:pull,push"
        );
    }

    #[test]
    fn a_stronger_token_serves_for_less() {
        let push = Scopes::repository("a", Action::Push);
        let pull = Scopes::repository("a", Action::Pull);
        assert!(push.cover(&pull) && !pull.cover(&push));
        assert!(pull.cover(&Scopes::none()));
        assert!(!push.cover(&Scopes::repository("b", Action::Pull)));
    }

    #[test]
    fn a_challenge_adds_rights() {
        let scopes = Scopes::repository("a", Action::Pull).and_text(
            "repository:a:pull,push registry:catalog:* nonsense x: repository:h:1/p:pull",
        );
        assert_eq!(
            scopes.to_string(),
            "registry:catalog:* repository:a:pull,push repository:h:1/p:pull"
        );
    }

    proptest! {
        #[test]
        fn foreign_scopes_are_total(text in ".{0,200}") {
            let scopes = Scopes::none().and_text(&text);
            prop_assert!(scopes.0.len() <= FOREIGN_SCOPES_MAX);
        }
    }
}
