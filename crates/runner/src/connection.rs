//! Which network a process gets, as it is asked for on a command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The network of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Network {
    /// The caller's network.
    #[default]
    Host,
    /// A network of its own with nothing but `lo`.
    None,
    /// A network of its own that a program in user space connects to the caller's.
    Isolated(Connection),
}

/// How a network is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Connection {
    /// By which program; the first that is there when absent.
    pub helper: Option<NetworkHelper>,
    /// What listens on the caller's loopback addresses can be reached, at the gateway's address.
    pub host_loopback: bool,
}

/// A program that connects a network which is not the machine's, without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NetworkHelper {
    /// `pasta`, of the package `passt`: the same addresses inside as outside.
    Pasta,
    /// `slirp4netns`: addresses of its own, which are translated.
    Slirp4netns,
}

impl NetworkHelper {
    /// All of them, the one that is preferred first.
    pub const ALL: [Self; 2] = [Self::Pasta, Self::Slirp4netns];

    /// The program's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

/// A network that is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown network `{0}`: host, none, isolated, pasta and slirp4netns are known, the last three \
     also with `:allow_host_loopback=true`"
)]
pub struct UnknownNetwork(pub String);

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, UnknownNetwork> {
        let unknown = || UnknownNetwork(text.to_owned());
        let (name, option) = match text.split_once(':') {
            Some((name, option)) => (name, Some(option)),
            None => (text, None),
        };
        let host_loopback = match option {
            None | Some("allow_host_loopback=false") => false,
            Some("allow_host_loopback=true") => true,
            Some(_) => return Err(unknown()),
        };
        let helper = match name {
            "host" if option.is_none() => return Ok(Self::Host),
            "none" if option.is_none() => return Ok(Self::None),
            "isolated" => None,
            "pasta" => Some(NetworkHelper::Pasta),
            "slirp4netns" => Some(NetworkHelper::Slirp4netns),
            _ => return Err(unknown()),
        };
        Ok(Self::Isolated(Connection {
            helper,
            host_loopback,
        }))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::None => f.write_str("none"),
            Self::Isolated(connection) => {
                f.write_str(connection.helper.map_or("isolated", NetworkHelper::name))?;
                match connection.host_loopback {
                    true => f.write_str(":allow_host_loopback=true"),
                    false => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_they_are_shown() {
        for text in [
            "host",
            "none",
            "isolated",
            "pasta",
            "slirp4netns:allow_host_loopback=true",
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "bridge",
            "Host",
            "host:allow_host_loopback=true",
            "pasta:",
            "pasta:--map-gw",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(UnknownNetwork(bad.to_owned())));
        }
    }
}
