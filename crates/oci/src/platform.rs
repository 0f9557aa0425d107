//! Platforms: `os[/arch[/variant]]` (image-spec `image-index.md`, containerd `platforms`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system, an architecture and its variant, normalised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`, …
    #[serde(default)]
    pub os: String,
    /// The operating system's version, for Windows.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features that the operating system must have.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`, `v8`, …; empty where the architecture has one only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A component has characters outside `[A-Za-z0-9_.-]`, or there are too many.
    #[error("invalid platform `{0}`: expected `os/arch` or `os/arch/variant`")]
    Format(String),
    /// One word that is neither an operating system nor an architecture.
    #[error("unknown operating system or architecture `{0}`")]
    Unknown(String),
}

impl Platform {
    /// A platform from its parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normalise_architecture(architecture, variant);
        Self {
            architecture,
            os: normalise_os(os),
            os_version: String::new(),
            os_features: Vec::new(),
            variant,
        }
    }

    /// The platform that this program was compiled for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// Whether content for `self` runs on `host`: the same, or an older ARM variant.
    pub fn runs_on(&self, host: &Self) -> bool {
        let this = Self::new(&self.os, &self.architecture, &self.variant);
        if this.os != host.os {
            return false;
        }
        if this.architecture == host.architecture {
            return this.variant == host.variant || arm_level(&this) <= arm_level(host);
        }
        this.architecture == "arm" && host.architecture == "arm64"
    }
}

fn arm_level(platform: &Platform) -> u8 {
    match (platform.architecture.as_str(), platform.variant.as_str()) {
        ("arm64", "") => 8,
        ("arm", "") => 7,
        (_, variant) => variant
            .strip_prefix('v')
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
    }
}

fn normalise_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (
        architecture.to_ascii_lowercase(),
        variant.to_ascii_lowercase(),
    );
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (architecture.to_owned(), variant.to_owned())
}

const KNOWN_OS: [&str; 13] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];
const KNOWN_ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "sparc64", "wasm",
];

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let malformed = || PlatformError::Format(text.chars().take(160).collect());
        let allowed = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        // The operating system may carry a version: `windows(10.0.17763)/amd64`.
        let (head, tail) = text
            .split_once('/')
            .map_or((text, None), |(h, t)| (h, Some(t)));
        let (os, os_version) = match head.split_once('(') {
            Some((os, version)) => (os, version.strip_suffix(')').ok_or_else(malformed)?),
            None => (head, ""),
        };
        let parts: Vec<&str> = tail
            .map(|tail| tail.split('/').collect())
            .unwrap_or_default();
        if !allowed(os) || parts.len() > 2 || !parts.iter().all(|part| allowed(part)) {
            return Err(malformed());
        }
        let mut platform = match parts[..] {
            [] => single_word(os)?,
            [architecture] => Self::new(os, architecture, ""),
            [architecture, variant, ..] => Self::new(os, architecture, variant),
        };
        platform.os_version = os_version.to_owned();
        Ok(platform)
    }
}

fn single_word(word: &str) -> Result<Platform, PlatformError> {
    let os = normalise_os(word);
    if KNOWN_OS.contains(&os.as_str()) {
        let host = Platform::host();
        return Ok(Platform { os, ..host });
    }
    let platform = Platform::new("linux", word, "");
    if KNOWN_ARCHITECTURES.contains(&platform.architecture.as_str()) {
        return Ok(platform);
    }
    Err(PlatformError::Unknown(word.to_owned()))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_containerd_does() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ] {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                want,
                "{text}"
            );
        }
        for bad in [
            "",
            "linux/",
            "linux//amd64",
            "a/b/c/d",
            "lin ux/amd64",
            "nonsense",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn older_arm_runs_on_newer_arm() {
        let v8: Platform = "linux/arm64".parse().unwrap();
        assert!("linux/arm/v6".parse::<Platform>().unwrap().runs_on(&v8));
        assert!(!"linux/amd64".parse::<Platform>().unwrap().runs_on(&v8));
    }
}
