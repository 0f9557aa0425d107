//! Capabilities by name, and the sandbox's set.

use rustix::thread::CapabilitySet;

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

/// The capabilities that the profile's rules name, in lower case and without `cap_`.
pub(crate) fn by_name(name: &str) -> Option<CapabilitySet> {
    Some(match name {
        "dac_read_search" => CapabilitySet::DAC_READ_SEARCH,
        "sys_admin" => CapabilitySet::SYS_ADMIN,
        "sys_boot" => CapabilitySet::SYS_BOOT,
        "sys_chroot" => CapabilitySet::SYS_CHROOT,
        "sys_module" => CapabilitySet::SYS_MODULE,
        "sys_pacct" => CapabilitySet::SYS_PACCT,
        "sys_ptrace" => CapabilitySet::SYS_PTRACE,
        "sys_rawio" => CapabilitySet::SYS_RAWIO,
        "sys_time" => CapabilitySet::SYS_TIME,
        "sys_tty_config" => CapabilitySet::SYS_TTY_CONFIG,
        "sys_nice" => CapabilitySet::SYS_NICE,
        "syslog" => CapabilitySet::SYSLOG,
        "bpf" => CapabilitySet::BPF,
        "perfmon" => CapabilitySet::PERFMON,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_has_docker_s_fourteen() {
        assert_eq!(SANDBOX.bits(), 0xa804_25fb);
        assert_eq!(SANDBOX.bits().count_ones(), 14);
    }
}
