//! Capabilities by name, and the sandbox's set.

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// What a sandboxed process may have at most: containerd's and Docker's default, 0xa80425fb.
pub(crate) const SANDBOX: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What a sandboxed process may do as root: Docker's fourteen capabilities, unless it is given others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

/// A name of no capability.
#[derive(Debug, thiserror::Error)]
#[error("unknown capability `{0}`")]
pub struct UnknownCapability(pub String);

impl Default for Capabilities {
    fn default() -> Self {
        Self::of(SANDBOX)
    }
}

impl Capabilities {
    fn of(set: CapabilitySet) -> Self {
        Self(set.bits())
    }

    /// The usual ones, with some more and without others, as Docker counts: `ALL` added is all but those
    /// dropped, `ALL` dropped is none but those added. Names are in any case, with or without `CAP_`.
    ///
    /// # Errors
    /// When a name is that of no capability.
    pub fn changed(add: &[String], drop: &[String]) -> Result<Self, UnknownCapability> {
        let is_all = |name: &String| name.eq_ignore_ascii_case("all");
        let union = |names: &[String]| -> Result<CapabilitySet, UnknownCapability> {
            let mut each = names.iter().filter(|it| !is_all(it));
            each.try_fold(CapabilitySet::empty(), |all, it| Ok(all | named(it)?))
        };
        let (added, dropped) = (union(add)?, union(drop)?);
        let (all_added, all_dropped) = (add.iter().any(is_all), drop.iter().any(is_all));
        Ok(Self::of(match (all_added, all_dropped) {
            (true, _) => CapabilitySet::all().difference(dropped),
            (false, true) => added,
            (false, false) => SANDBOX.difference(dropped) | added,
        }))
    }

    pub(crate) fn set(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }

    /// Those that are not given without being asked for.
    pub(crate) fn added(self) -> Self {
        self.without(SANDBOX)
    }

    pub(crate) fn without(self, others: CapabilitySet) -> Self {
        Self::of(self.set().difference(others))
    }

    /// As the kernel's documentation has them.
    pub(crate) fn names(self) -> Vec<String> {
        let set = self.set();
        set.iter_names()
            .map(|(name, _)| format!("CAP_{name}"))
            .collect()
    }
}

fn named(name: &str) -> Result<CapabilitySet, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    by_name(bare).ok_or_else(|| UnknownCapability(name.to_owned()))
}

/// What this thread may do now.
pub(crate) fn effective() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |it| it.effective)
}

/// Whether this process may mount file systems in its namespaces (`CAP_SYS_ADMIN`); what else may
/// forbid it, only trying tells.
#[must_use]
pub fn may_mount() -> bool {
    effective().contains(CapabilitySet::SYS_ADMIN)
}

/// How many capabilities the kernel's 64-bit sets can hold.
pub(crate) const NUMBERS: std::ops::Range<u32> = 0..64;

/// A capability by its name without `CAP_`, in any case.
pub(crate) fn by_name(name: &str) -> Option<CapabilitySet> {
    CapabilitySet::from_name(&name.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_counts() {
        let of = |add: &[&str], drop: &[&str]| {
            let owned = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
            let (add, drop) = (owned(add), owned(drop));
            Capabilities::changed(&add, &drop).map(Capabilities::set)
        };
        let admin = CapabilitySet::SYS_ADMIN;
        assert_eq!(of(&[], &[]).unwrap(), SANDBOX);
        assert_eq!(of(&["sys_admin"], &[]).unwrap(), SANDBOX | admin);
        assert_eq!(of(&["CAP_SYS_ADMIN"], &["ALL"]).unwrap(), admin);
        assert_eq!(of(&[], &["all"]).unwrap(), CapabilitySet::empty());
        let but_kill = CapabilitySet::all().difference(CapabilitySet::KILL);
        assert_eq!(of(&["ALL"], &["Cap_Kill"]).unwrap(), but_kill);
        assert!(of(&["SYS_NOTHING"], &[]).is_err());
    }

    #[test]
    fn the_sandbox_has_docker_s_fourteen() {
        assert_eq!(SANDBOX.bits(), 0xa804_25fb);
        assert_eq!(SANDBOX.bits().count_ones(), 14);
    }
}
