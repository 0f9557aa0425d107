//! Which way of isolating a process this machine and this caller allow.
//!
//! From the strongest down. Nothing weaker is chosen silently:
//! [`SandboxRunner::isolation`](crate::SandboxRunner::isolation) says what was chosen, and the error
//! of a forced choice says what is missing.

use std::fmt;
use std::str::FromStr;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// A way of isolating processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The strongest that can be had.
    #[default]
    Auto,
    /// Namespaces, as root of the machine: everything a sandbox has.
    Full,
    /// Namespaces, as root of a user namespace: no own devices, no control groups unless delegated.
    /// Enter it with [`become_root_in_user_namespace`](crate::become_root_in_user_namespace).
    Userns,
    /// `chroot` and a process group, for root in a container that may not mount: no `/proc`, no
    /// mounts, no network of its own, and the process can see and signal the container's others.
    Chroot,
    /// In the container's own root directory, for root in a container that may do nothing: the step's
    /// files take the place of all that is there. Only ever by request.
    InPlace,
    /// No processes at all.
    None,
}

impl Isolation {
    const NAMES: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("full", Self::Full),
        ("userns", Self::Userns),
        ("chroot", Self::Chroot),
        ("inplace", Self::InPlace),
        ("none", Self::None),
    ];
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES
            .iter()
            .find(|(_, it)| it == self)
            .map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// A name of no [`Isolation`].
#[derive(Debug, thiserror::Error)]
#[error("unknown isolation `{0}` (auto, full, userns, chroot, inplace or none)")]
pub struct UnknownIsolation(pub String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(name: &str) -> Result<Self, UnknownIsolation> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, it)| *it)
            .ok_or_else(|| UnknownIsolation(name.to_owned()))
    }
}

/// What decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means {
    pub(crate) capabilities: CapabilitySet,
    pub(crate) initial_user_namespace: bool,
    /// Namespaces and mounts were tried, and work. A container may forbid them to root, too.
    pub(crate) can_mount: bool,
}

/// Chooses, and says why it is not stronger; or why what was wanted cannot be.
pub(crate) fn choose(
    wanted: Isolation,
    means: Means,
) -> Result<(Isolation, Option<&'static str>), &'static str> {
    const NO_MOUNTS: &str = "namespaces and mounts are not allowed here: run as root with \
        CAP_SYS_ADMIN (in a container, a privileged one), or as any user where user namespaces are \
        allowed";
    const NOT_ROOT: &str = "full isolation needs root of the machine itself";
    const NO_CHROOT: &str = "chroot needs root with CAP_SYS_CHROOT";
    let can_chroot = means.capabilities.contains(CapabilitySet::SYS_CHROOT);
    let namespaces = match (means.can_mount, means.initial_user_namespace) {
        (true, true) => Some(Isolation::Full),
        (true, false) => Some(Isolation::Userns),
        (false, _) => None,
    };
    match wanted {
        Isolation::None => Ok((Isolation::None, None)),
        Isolation::Auto => match namespaces {
            Some(Isolation::Full) => Ok((Isolation::Full, None)),
            Some(other) => Ok((other, Some(NOT_ROOT))),
            None if can_chroot => Ok((Isolation::Chroot, Some(NO_MOUNTS))),
            None => Ok((Isolation::None, Some(NO_MOUNTS))),
        },
        Isolation::Chroot if can_chroot => Ok((Isolation::Chroot, None)),
        Isolation::Chroot => Err(NO_CHROOT),
        // Whether the root directory may be taken is decided elsewhere.
        Isolation::InPlace => Ok((Isolation::InPlace, None)),
        wanted if namespaces == Some(wanted) => Ok((wanted, None)),
        _ if namespaces.is_none() => Err(NO_MOUNTS),
        Isolation::Full => Err(NOT_ROOT),
        _ => Err("this process is root of the machine: it is not in a user namespace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_way_that_is_allowed() {
        let means = |capabilities, initial_user_namespace, can_mount| Means {
            capabilities,
            initial_user_namespace,
            can_mount,
        };
        let chosen = |wanted, means| choose(wanted, means).map(|(it, _)| it).ok();
        let root = means(CapabilitySet::all(), true, true);
        let rootless = means(CapabilitySet::all(), false, true);
        let container = means(CapabilitySet::SYS_CHROOT, true, false);
        let nobody = means(CapabilitySet::empty(), true, false);
        for (wanted, expected) in [
            (
                Isolation::Auto,
                [
                    Some(Isolation::Full),
                    Some(Isolation::Userns),
                    Some(Isolation::Chroot),
                    Some(Isolation::None),
                ],
            ),
            (Isolation::Full, [Some(Isolation::Full), None, None, None]),
            (
                Isolation::Userns,
                [None, Some(Isolation::Userns), None, None],
            ),
            (
                Isolation::Chroot,
                [
                    Some(Isolation::Chroot),
                    Some(Isolation::Chroot),
                    Some(Isolation::Chroot),
                    None,
                ],
            ),
            (Isolation::InPlace, [Some(Isolation::InPlace); 4]),
            (Isolation::None, [Some(Isolation::None); 4]),
        ] {
            let got = [root, rootless, container, nobody].map(|means| chosen(wanted, means));
            assert_eq!(got, expected, "{wanted}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for (name, isolation) in Isolation::NAMES {
            assert_eq!(name.parse::<Isolation>().unwrap(), isolation);
            assert_eq!(isolation.to_string(), name);
        }
        assert!("FULL".parse::<Isolation>().is_err());
    }
}
