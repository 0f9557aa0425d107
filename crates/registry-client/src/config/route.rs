//! From a repository's name to the hosts that are asked for it, in order.

use super::{MirrorUse, RegistriesConfig, RegistryRule};
use crate::{Error, Repository, Result};

/// A repository on one particular host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// The host as references and settings name it.
    pub(crate) host: String,
    /// The repository's name on that host.
    pub(crate) path: String,
    /// Whether the rule that led here allows an insecure connection.
    pub(crate) insecure: bool,
    /// The registry that this host mirrors; `None` for the registry itself.
    pub(crate) mirror_of: Option<String>,
}

/// The hosts to pull a repository from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullRemotes {
    /// Asked first, in this order.
    pub(crate) mirrors: Vec<Remote>,
    /// The registry itself.
    pub(crate) upstream: Remote,
}

impl RegistriesConfig {
    /// The hosts to pull from: the mirrors, then the registry itself.
    pub(crate) fn pull_remotes(
        &self,
        repository: &Repository,
        by_digest: bool,
    ) -> Result<PullRemotes> {
        let upstream = self.push_remote(repository)?;
        let applies = |used_for| match used_for {
            MirrorUse::All => true,
            MirrorUse::DigestOnly => by_digest,
            MirrorUse::TagOnly => !by_digest,
        };
        let mirrors = match self.rule_for(repository) {
            None => Vec::new(),
            Some((rule, rest)) => rule
                .mirrors
                .iter()
                .filter(|mirror| applies(mirror.used_for))
                .map(|mirror| Remote {
                    mirror_of: Some(repository.registry().to_owned()),
                    ..remote(&mirror.location, rest, mirror.insecure)
                })
                .collect(),
        };
        Ok(PullRemotes { mirrors, upstream })
    }

    /// Whether a rule for the whole registry allows insecure connections to it.
    pub(crate) fn is_insecure(&self, registry: &str) -> bool {
        let concerns = |rule: &&RegistryRule| match &rule.location {
            Some(location) => location == registry,
            None => rule.prefix == registry,
        };
        self.rules.iter().filter(concerns).any(|rule| rule.insecure)
    }

    /// The host to push to: never a mirror.
    pub(crate) fn push_remote(&self, repository: &Repository) -> Result<Remote> {
        let plain = Remote {
            host: repository.registry().to_owned(),
            path: repository.path().to_owned(),
            insecure: false,
            mirror_of: None,
        };
        let Some((rule, rest)) = self.rule_for(repository) else {
            return Ok(plain);
        };
        if rule.blocked {
            return Err(Error::Blocked {
                name: repository.to_string(),
            });
        }
        Ok(match &rule.location {
            Some(location) => remote(location, rest, rule.insecure),
            None => Remote {
                insecure: rule.insecure,
                ..plain
            },
        })
    }

    /// The rule with the longest prefix of the name, and what follows the prefix.
    fn rule_for<'a>(&'a self, repository: &'a Repository) -> Option<(&'a RegistryRule, &'a str)> {
        let matching = self.rules.iter().filter_map(|rule| {
            let rest = match_prefix(&rule.prefix, repository)?;
            Some((rule, rest))
        });
        matching.max_by_key(|(rule, _)| rule.prefix.len())
    }
}

/// What follows `prefix` in the repository's name, if it begins with it at a slash.
fn match_prefix<'a>(prefix: &str, repository: &'a Repository) -> Option<&'a str> {
    let (host, path) = prefix.split_once('/').unwrap_or((prefix, ""));
    let host_matches = match host.strip_prefix('*') {
        // `*.example.com` is for subdomains only; the name then keeps its own host.
        Some(suffix) => repository.registry().ends_with(suffix),
        None => repository.registry() == host,
    };
    if !host_matches {
        return None;
    }
    if path.is_empty() {
        return Some(repository.path());
    }
    match repository.path().strip_prefix(path)? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

fn remote(location: &str, rest: &str, insecure: bool) -> Remote {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    let path = match (path, rest) {
        ("", rest) => rest.to_owned(),
        (path, "") => path.to_owned(),
        (path, rest) => format!("{path}/{rest}"),
    };
    Remote {
        host: host.to_owned(),
        path,
        insecure,
        mirror_of: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
        [[registry]]
        prefix = "docker.io"
        [[registry.mirror]]
        location = "mirror.example:5000/hub"
        [[registry.mirror]]
        location = "digests.example"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "docker.io/corp"
        location = "corp.example/images"
        [[registry]]
        prefix = "*.blocked.example"
        blocked = true
    "#;

    fn names(name: &str, by_digest: bool) -> Vec<String> {
        let config = RegistriesConfig::parse_containers(CONF).unwrap();
        let repository: Repository = name.parse().unwrap();
        let remotes = config.pull_remotes(&repository, by_digest).unwrap();
        let name = |remote: &Remote| format!("{}/{}", remote.host, remote.path);
        let all = remotes.mirrors.iter().chain([&remotes.upstream]);
        all.map(name).collect()
    }

    #[test]
    fn mirrors_come_first_and_rewrite_the_prefix() {
        assert_eq!(
            names("debian", false),
            [
                "mirror.example:5000/hub/library/debian",
                "docker.io/library/debian"
            ]
        );
        assert_eq!(
            names("debian", true),
            [
                "mirror.example:5000/hub/library/debian",
                "digests.example/library/debian",
                "docker.io/library/debian"
            ]
        );
    }

    #[test]
    fn the_longest_prefix_rules() {
        assert_eq!(names("corp/app", false), ["corp.example/images/app"]);
        assert_eq!(
            names("corporate/app", false)[1],
            "docker.io/corporate/app",
            "a prefix ends at a slash"
        );
        assert_eq!(names("other.example/a", false), ["other.example/a"]);
    }

    #[test]
    fn blocked_names_fail_both_ways() {
        let config = RegistriesConfig::parse_containers(CONF).unwrap();
        let repository: Repository = "a.blocked.example/x".parse().unwrap();
        assert!(matches!(
            config.pull_remotes(&repository, false),
            Err(Error::Blocked { .. })
        ));
        let outside: Repository = "blocked.example/x".parse().unwrap();
        assert!(config.push_remote(&outside).is_ok());
    }

    #[test]
    fn pushes_never_go_to_a_mirror() {
        let config = RegistriesConfig::parse_containers(CONF).unwrap();
        let remote = config.push_remote(&"debian".parse().unwrap()).unwrap();
        assert_eq!(remote.host, "docker.io");
        assert_eq!(remote.mirror_of, None);
    }
}
