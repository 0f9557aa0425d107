//! Which hosts are asked for a repository, and how they are spoken to.
//!
//! A [`RegistriesConfig`] is a value; it is made by hand, from our own format
//! ([`RegistriesConfig::parse`]) or from `containers-registries.conf(5)` version 2
//! ([`RegistriesConfig::parse_containers`]). Files are the caller's business: both
//! take text.

mod containers;
mod host;
mod native;
mod route;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

pub(crate) use host::{is_loopback, network_authority};
pub(crate) use route::{PullRemotes, Remote};

/// The largest configuration text that is read, in bytes.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// Why a registries configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not TOML of the expected shape.
    #[error("registries configuration is not valid: {0}")]
    Toml(#[from] toml::de::Error),
    /// The text is larger than [`CONFIG_BYTES_MAX`].
    #[error("registries configuration is larger than {CONFIG_BYTES_MAX} bytes")]
    TooLarge,
    /// A table lacks the name it is for.
    #[error("a `[[registry]]` table has neither `prefix` nor `location`")]
    NoPrefix,
    /// A host, prefix or location is not one.
    #[error("`{text}` is not a registry location: {problem}")]
    Location {
        /// The text.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file is of the format's first version.
    #[error("registries configuration is of version 1, which is not read; use `[[registry]]`")]
    Version1,
    /// A certificate file cannot be read.
    #[error("cannot read CA file `{path}`: {error}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// A certificate file holds no usable certificate.
    #[error("CA file `{path}` has no usable certificate: {problem}")]
    CaContent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The TLS client could not be made.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// How one host is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Certificates are not verified, and plain HTTP is tried when HTTPS fails.
    pub insecure: bool,
    /// PEM files of further certificate authorities to trust for this host.
    pub ca_files: Vec<PathBuf>,
    /// Blob transfers to this host at a time, in each direction; `None` takes the client's.
    pub max_concurrency: Option<usize>,
}

/// For which references a mirror is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MirrorUse {
    /// For all pulls.
    #[default]
    All,
    /// Only where a digest is known, so that the mirror need not be trusted.
    DigestOnly,
    /// Only where a tag is resolved.
    TagOnly,
}

/// A copy of a registry, asked before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `host[:port][/path]`; the path replaces the rule's prefix.
    pub location: String,
    /// As [`HostConfig::insecure`], for this mirror.
    pub insecure: bool,
    /// When it is asked.
    pub used_for: MirrorUse,
}

/// What is done for the repositories under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRule {
    /// `host[:port][/path]` or `*.domain`: the repositories that the rule is for.
    pub prefix: String,
    /// What the prefix is replaced with; `None` leaves names as they are.
    pub location: Option<String>,
    /// As [`HostConfig::insecure`], for the location.
    pub insecure: bool,
    /// Nothing under the prefix may be pulled or pushed.
    pub blocked: bool,
    /// Asked first, in this order, and for pulls only.
    pub mirrors: Vec<Mirror>,
}

/// Rules by prefix and settings by host. The longest matching prefix rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesConfig {
    /// The rules.
    pub rules: Vec<RegistryRule>,
    /// The settings, by host as references name it (`docker.io`, `localhost:5000`).
    pub hosts: BTreeMap<String, HostConfig>,
}

impl RegistriesConfig {
    /// Reads our own format; see the crate's documentation for it.
    ///
    /// # Errors
    /// When the text is not valid.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        check_size(text)?;
        native::parse(text)
    }

    /// Reads `containers-registries.conf(5)` version 2: its `[[registry]]` tables and
    /// their mirrors. Names are always normalised as Docker does it, so the file's
    /// search list and short-name aliases have no meaning here.
    ///
    /// # Errors
    /// When the text is not valid or of version 1.
    pub fn parse_containers(text: &str) -> Result<Self, ConfigError> {
        check_size(text)?;
        containers::parse(text)
    }

    /// Adds what `other` says; where both speak of the same host or prefix, `other` wins.
    pub fn extend(&mut self, other: Self) {
        self.rules
            .retain(|rule| other.rules.iter().all(|new| new.prefix != rule.prefix));
        self.rules.extend(other.rules);
        self.hosts.extend(other.hosts);
    }

    /// The settings for a host, the default ones where it is not named.
    pub(crate) fn host(&self, host: &str) -> HostConfig {
        self.hosts.get(host).cloned().unwrap_or_default()
    }
}

fn check_size(text: &str) -> Result<(), ConfigError> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge);
    }
    Ok(())
}

/// Checks `host[:port][/path]` and gives it back without a trailing slash.
fn checked_location(text: &str) -> Result<String, ConfigError> {
    let bad = |problem| ConfigError::Location {
        text: text.chars().take(255).collect(),
        problem,
    };
    if text.contains("://") {
        return Err(bad("it must not have a scheme"));
    }
    let trimmed = text.trim_end_matches('/');
    let (host, path) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    if !host::is_authority(host) {
        return Err(bad("it must begin with a host name"));
    }
    let is_path_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
    let is_component = |part: &str| !matches!(part, "" | "." | "..");
    let is_path = path.bytes().all(is_path_byte) && path.split('/').all(is_component);
    if !path.is_empty() && !is_path {
        return Err(bad("its path must be a repository path"));
    }
    Ok(trimmed.to_owned())
}
