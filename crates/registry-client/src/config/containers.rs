//! `containers-registries.conf(5)`, version 2: the `[[registry]]` tables.

use serde::Deserialize;

use super::{ConfigError, Mirror, MirrorUse, RegistriesConfig, RegistryRule, checked_location};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Table>,
    /// Only version 1 has this table.
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFromMirror>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    All,
    DigestOnly,
    TagOnly,
}

pub(super) fn parse(text: &str) -> Result<RegistriesConfig, ConfigError> {
    let file: File = toml::from_str(text)?;
    if file.registries.is_some() {
        return Err(ConfigError::Version1);
    }
    let rules = file.registry.iter().map(rule).collect::<Result<_, _>>()?;
    Ok(RegistriesConfig {
        rules,
        ..RegistriesConfig::default()
    })
}

fn rule(table: &Table) -> Result<RegistryRule, ConfigError> {
    let prefix = match (table.prefix.as_str(), table.location.as_str()) {
        ("", "") => return Err(ConfigError::NoPrefix),
        ("", location) => location,
        (prefix, _) => prefix,
    };
    let location = match table.location.as_str() {
        "" => None,
        location => Some(checked_location(location)?),
    };
    let mirrors = table.mirror.iter().map(|mirror| read_mirror(table, mirror));
    Ok(RegistryRule {
        prefix: checked_prefix(prefix)?,
        location,
        insecure: table.insecure,
        blocked: table.blocked,
        mirrors: mirrors.collect::<Result<_, _>>()?,
    })
}

fn checked_prefix(prefix: &str) -> Result<String, ConfigError> {
    match prefix.strip_prefix("*.") {
        Some(domain) => Ok(format!("*.{}", checked_location(domain)?)),
        None => checked_location(prefix),
    }
}

fn read_mirror(table: &Table, mirror: &MirrorTable) -> Result<Mirror, ConfigError> {
    let used_for = match mirror.pull_from_mirror {
        Some(PullFromMirror::DigestOnly) => MirrorUse::DigestOnly,
        Some(PullFromMirror::TagOnly) => MirrorUse::TagOnly,
        Some(PullFromMirror::All) => MirrorUse::All,
        None if table.mirror_by_digest_only => MirrorUse::DigestOnly,
        None => MirrorUse::All,
    };
    Ok(Mirror {
        location: checked_location(&mirror.location)?,
        insecure: mirror.insecure,
        used_for,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_registry_tables() {
        let config = parse(
            r#"
            unqualified-search-registries = ["docker.io"]
            short-name-mode = "enforcing"
            [aliases]
            "debian" = "docker.io/library/debian"
            [[registry]]
            prefix = "example.com/foo"
            location = "internal.example/bar"
            insecure = true
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "m1.example/x"
            insecure = true
            [[registry.mirror]]
            location = "m2.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "bad.example"
            blocked = true
            [[registry]]
            prefix = "*.wild.example"
            "#,
        )
        .unwrap();
        let rule = &config.rules[0];
        assert_eq!(rule.prefix, "example.com/foo");
        assert_eq!(rule.location.as_deref(), Some("internal.example/bar"));
        assert!(rule.insecure && rule.mirrors[0].insecure);
        assert_eq!(rule.mirrors[0].used_for, MirrorUse::DigestOnly);
        assert_eq!(rule.mirrors[1].used_for, MirrorUse::TagOnly);
        assert!(config.rules[1].blocked);
        assert_eq!(config.rules[2].prefix, "*.wild.example");
    }

    #[test]
    fn refuses_version_1_and_nameless_tables() {
        assert!(matches!(
            parse("[registries.search]\nregistries = ['docker.io']"),
            Err(ConfigError::Version1)
        ));
        assert!(matches!(
            parse("[[registry]]\nblocked = true"),
            Err(ConfigError::NoPrefix)
        ));
    }
}
