//! Our own registries format:
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000/hub"]
//!
//! [registry."reg.example:5000"]
//! insecure = false
//! ca = ["/etc/ssl/reg.pem"]
//! max_concurrency = 4
//! blocked = false
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{
    ConfigError, HostConfig, Mirror, MirrorUse, RegistriesConfig, RegistryRule, checked_location,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: BTreeMap<String, Table>,
    /// Not about registries: whoever has the file reads it.
    #[serde(default, rename = "gc")]
    _gc: IgnoredAny,
    #[serde(default, rename = "network")]
    _network: IgnoredAny,
    #[serde(default, rename = "unpack")]
    _unpack: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    ca: Vec<PathBuf>,
    max_concurrency: Option<std::num::NonZeroUsize>,
}

pub(super) fn parse(text: &str) -> Result<RegistriesConfig, ConfigError> {
    let file: File = toml::from_str(text)?;
    let mut config = RegistriesConfig::default();
    for (host, table) in file.registry {
        add(&mut config, &host, table)?;
    }
    Ok(config)
}

fn add(config: &mut RegistriesConfig, host: &str, table: Table) -> Result<(), ConfigError> {
    let host = checked_location(host)?;
    if host.contains('/') {
        return Err(ConfigError::Location {
            text: host,
            problem: "it must be a host without a path",
        });
    }
    let mirrors = table.mirrors.iter().map(|location| mirror(location));
    let mirrors = mirrors.collect::<Result<Vec<_>, _>>()?;
    if table.blocked || !mirrors.is_empty() {
        config.rules.push(RegistryRule {
            prefix: host.clone(),
            location: None,
            insecure: table.insecure,
            blocked: table.blocked,
            mirrors,
        });
    }
    let settings = HostConfig {
        insecure: table.insecure,
        ca_files: table.ca,
        max_concurrency: table.max_concurrency.map(std::num::NonZeroUsize::get),
    };
    config.hosts.insert(host, settings);
    Ok(())
}

/// A mirror's own security settings are those of its own `[registry."host"]` table.
fn mirror(location: &str) -> Result<Mirror, ConfigError> {
    Ok(Mirror {
        location: checked_location(location)?,
        insecure: false,
        used_for: MirrorUse::All,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_mirrors() {
        let config = parse(
            r#"
            [registry."docker.io"]
            mirrors = ["mirror.example:5000/hub/", "localhost:1"]
            [registry."reg.example:5000"]
            insecure = true
            ca = ["/etc/ca.pem"]
            max_concurrency = 4
            [registry."bad.example"]
            blocked = true
            "#,
        )
        .unwrap();
        assert_eq!(config.rules.len(), 2);
        let hub = config
            .rules
            .iter()
            .find(|r| r.prefix == "docker.io")
            .unwrap();
        assert_eq!(hub.mirrors[0].location, "mirror.example:5000/hub");
        let host = config.host("reg.example:5000");
        assert!(host.insecure);
        assert_eq!(host.max_concurrency, Some(4));
        assert_eq!(host.ca_files, [PathBuf::from("/etc/ca.pem")]);
        assert!(
            config
                .rules
                .iter()
                .any(|r| r.prefix == "bad.example" && r.blocked)
        );
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in [
            "[registry.\"a\"]\nmirror = []",
            "[registries]\n",
            "[registry.\"https://a\"]\n",
            "[registry.\"a/b\"]\n",
            "[registry.\"a\"]\nmirrors = [\"https://b\"]",
            "[registry.\"a\"]\nmirrors = [\"b/../c\"]",
            "[registry.\"a\"]\nmax_concurrency = 0",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
