//! Giving up what the process must not have.

use rustix::process::{Resource as RawResource, Rlimit as RawRlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::capabilities::{Capabilities, NUMBERS};
use crate::plan::{Doing as _, Failure};
use crate::seccomp;
use crate::spec::{Resource, Rlimit, Security};
use crate::status::Warning;
use crate::sys;
use crate::user::Identity;
use crate::userns;

/// Becomes the user, with that user's capabilities and the system call filter.
///
/// The filter is loaded while `CAP_SYS_ADMIN` is still held: without it, `no_new_privs` would have
/// to be set, and `sudo` would stop working in builds.
pub(crate) fn become_user(
    (security, wanted): (Security, Capabilities),
    identity: &Identity,
    filter: Option<&[u8]>,
) -> Result<(), Failure> {
    let own = capabilities(None).doing("read the capabilities")?.permitted;
    let kept = match security {
        Security::Sandbox => own & wanted.set(),
        Security::Insecure => own,
    };
    drop_from_bounding_set(kept)?;
    if let Some(filter) = filter {
        let program = seccomp::from_bytes(filter);
        sys::load_seccomp(&program).doing("load the system call filter")?;
    }
    set_keep_capabilities(security == Security::Insecure).doing("keep the capabilities")?;
    set_identity(identity)?;
    match security {
        Security::Sandbox => set_sandbox_capabilities(identity, kept),
        Security::Insecure => set_all_capabilities(kept),
    }
}

fn drop_from_bounding_set(kept: CapabilitySet) -> Result<(), Failure> {
    for number in NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Beyond the last one this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            other => other.doing("drop capabilities")?,
        }
    }
    Ok(())
}

fn set_identity(identity: &Identity) -> Result<(), Failure> {
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|gid| rustix::fs::Gid::from_raw(*gid))
        .collect();
    let (uid, gid) = (identity.uid(), identity.gid());
    if !userns::groups_are_fixed() {
        set_thread_groups(&groups)
            .doing("set the supplementary groups")
            .map_err(unmapped)?;
    }
    set_thread_res_gid(gid, gid, gid)
        .doing("set the group")
        .map_err(unmapped)?;
    set_thread_res_uid(uid, uid, uid)
        .doing("set the user")
        .map_err(unmapped)
}

/// What the kernel says of ids that the user namespace does not have.
fn unmapped(failure: Failure) -> Failure {
    match failure {
        Failure::Setup {
            action,
            path,
            hint: None,
            errno: libc::EINVAL,
        } => {
            let hint = "this user namespace has no such id; /etc/subuid and /etc/subgid grant more";
            Failure::Setup {
                action,
                path,
                hint: Some(hint.to_owned()),
                errno: libc::EINVAL,
            }
        }
        other => other,
    }
}

/// Nothing inheritable, nothing ambient (CVE-2022-24769 and kin). Whoever is not root has lost the
/// rest by becoming so.
fn set_sandbox_capabilities(identity: &Identity, kept: CapabilitySet) -> Result<(), Failure> {
    clear_ambient_capability_set().doing("clear the ambient capabilities")?;
    let held = if identity.uid == 0 {
        kept
    } else {
        CapabilitySet::empty()
    };
    let inheritable = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: held,
        permitted: held,
        inheritable,
    };
    set_capabilities(None, sets).doing("set the capabilities")
}

fn set_all_capabilities(all: CapabilitySet) -> Result<(), Failure> {
    let sets = CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: all,
    };
    set_capabilities(None, sets).doing("set the capabilities")?;
    for number in NUMBERS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if all.contains(capability) {
            configure_capability_in_ambient_set(capability, true)
                .doing("set the ambient capabilities")?;
        }
    }
    Ok(())
}

/// Sets limits as far as allowed: raising a hard one takes `CAP_SYS_RESOURCE`, which the caller may
/// not have.
pub(crate) fn set_rlimits(limits: &[Rlimit], warn: impl Fn(Warning)) {
    for limit in reachable_rlimits(limits, &warn) {
        let wanted = RawRlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        if let Err(error) = setrlimit(raw(limit.resource), wanted) {
            warn(not_applied(limit.resource, error.to_string()));
        }
    }
}

/// The same limits, but none above what this process may set.
pub(crate) fn reachable_rlimits(limits: &[Rlimit], warn: impl Fn(Warning)) -> Vec<Rlimit> {
    let reachable = limits.iter().map(|limit| {
        let (resource, before) = (raw(limit.resource), getrlimit(raw(limit.resource)));
        if !is_above(limit.hard, before.maximum) {
            return *limit;
        }
        let raised = RawRlimit {
            maximum: limit.hard,
            ..before
        };
        let hard = before.maximum;
        match setrlimit(resource, raised).and_then(|()| setrlimit(resource, before)) {
            Ok(()) => *limit,
            Err(error) => {
                let soft = [limit.soft, hard].into_iter().flatten().min();
                let instead = soft.map(|value| format!(" (set to {value} instead)"));
                let why = format!("{error}{}", instead.unwrap_or_default());
                warn(not_applied(limit.resource, why));
                Rlimit {
                    soft,
                    hard,
                    ..*limit
                }
            }
        }
    });
    reachable.collect()
}

/// `None` is above everything.
fn is_above(limit: Option<u64>, other: Option<u64>) -> bool {
    other.is_some_and(|other| limit.is_none_or(|limit| limit > other))
}

fn not_applied(resource: Resource, why: String) -> Warning {
    Warning {
        what: format!("rlimit {}", resource.name()),
        why,
    }
}

fn raw(resource: Resource) -> RawResource {
    match resource {
        Resource::Core => RawResource::Core,
        Resource::Cpu => RawResource::Cpu,
        Resource::Data => RawResource::Data,
        Resource::Fsize => RawResource::Fsize,
        Resource::Locks => RawResource::Locks,
        Resource::Memlock => RawResource::Memlock,
        Resource::Msgqueue => RawResource::Msgqueue,
        Resource::Nice => RawResource::Nice,
        Resource::Nofile => RawResource::Nofile,
        Resource::Nproc => RawResource::Nproc,
        Resource::Rss => RawResource::Rss,
        Resource::Rtprio => RawResource::Rtprio,
        Resource::Rttime => RawResource::Rttime,
        Resource::Sigpending => RawResource::Sigpending,
        Resource::Stack => RawResource::Stack,
        Resource::As => RawResource::As,
    }
}
