//! The system call filter's rules, as an OCI runtime takes them: for libseccomp to compile.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use rustix::thread::CapabilitySet;

use crate::seccomp::{
    ADDRESS_FAMILIES_REFUSED, CLONE_NAMESPACES, Family, PERSONALITIES, Rule, UNKNOWN, Verdict,
    named_rules,
};

/// A power of two that is larger than all of [`ADDRESS_FAMILIES_REFUSED`]: from there on, a bit that is
/// set is enough to be none of them.
const ADDRESS_FAMILIES: u32 = 64;
/// What the kernel looks at of an argument that is an `int`; libseccomp compares all 64 bits, and can
/// leave some out only in comparing for equality.
const INT: u64 = 0xffff_ffff;

/// `None` where the table of system calls does not know the machine's architecture.
pub(super) fn seccomp(capabilities: CapabilitySet) -> Result<Option<LinuxSeccomp>, OciSpecError> {
    let Some(family) = Family::native() else {
        return Ok(None);
    };
    let architectures = match family {
        Family::X86 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Family::Arm => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
    };
    let (mut allowed, mut calls) = (Vec::new(), Vec::new());
    for (name, rule) in named_rules(capabilities) {
        match rule {
            Rule::Fixed(Verdict::Allow) => allowed.push(name.to_owned()),
            UNKNOWN => calls.push(unknown(name)?),
            Rule::Fixed(_) => {}
            Rule::Socket | Rule::Personality | Rule::Clone => {
                for condition in conditions(rule) {
                    calls.push(allow_if(name, condition)?);
                }
            }
        }
    }
    let always = LinuxSyscallBuilder::default()
        .names(allowed)
        .action(LinuxSeccompAction::ScmpActAllow);
    calls.push(always.build()?);
    let seccomp = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM.unsigned_abs())
        .architectures(architectures)
        .syscalls(calls);
    seccomp.build().map(Some)
}

/// How the first argument is compared; any of them is enough.
type Condition = (LinuxSeccompOperator, u64, u64);

fn conditions(rule: Rule) -> Vec<Condition> {
    match rule {
        Rule::Socket => {
            let small = (0..ADDRESS_FAMILIES)
                .filter(|it| !ADDRESS_FAMILIES_REFUSED.contains(it))
                .map(|it| (LinuxSeccompOperator::ScmpCmpMaskedEq, INT, u64::from(it)));
            let large = (ADDRESS_FAMILIES.trailing_zeros()..u32::BITS)
                .map(|bit| 1 << bit)
                .map(|it| (LinuxSeccompOperator::ScmpCmpMaskedEq, it, it));
            small.chain(large).collect()
        }
        Rule::Personality => {
            let values = PERSONALITIES.map(u64::from);
            values
                .map(|it| (LinuxSeccompOperator::ScmpCmpEq, it, 0))
                .to_vec()
        }
        Rule::Clone => {
            let none_of = u64::from(CLONE_NAMESPACES);
            vec![(LinuxSeccompOperator::ScmpCmpMaskedEq, none_of, 0)]
        }
        Rule::Fixed(_) => Vec::new(),
    }
}

fn allow_if(
    name: &str,
    (operator, value, masked): Condition,
) -> Result<LinuxSyscall, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .value_two(masked)
        .op(operator)
        .build()?;
    LinuxSyscallBuilder::default()
        .names([name.to_owned()])
        .action(LinuxSeccompAction::ScmpActAllow)
        .args([argument])
        .build()
}

fn unknown(name: &str) -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names([name.to_owned()])
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(libc::ENOSYS.unsigned_abs())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libseccomp compares.
    fn holds((operator, value, masked): Condition, argument: u64) -> bool {
        match operator {
            LinuxSeccompOperator::ScmpCmpLt => argument < value,
            LinuxSeccompOperator::ScmpCmpGt => argument > value,
            LinuxSeccompOperator::ScmpCmpEq => argument == value,
            LinuxSeccompOperator::ScmpCmpMaskedEq => argument & value == masked,
            other => panic!("not used: {other:?}"),
        }
    }

    #[test]
    fn address_families_are_compared_as_the_kernel_does() {
        for (name, argument, expected) in [
            ("AF_UNIX", 1, true),
            ("AF_NFC", 39, true),
            ("AF_MCTP, the last", 45, true),
            ("one that is not there", 0x66, true),
            ("none", 0xffff_ffff, true),
            ("AF_ALG", 38, false),
            ("AF_VSOCK", 40, false),
            ("AF_UNIX with high bits", 0x1_0000_0001, true),
            ("AF_ALG with high bits", 0x1_0000_0026, false),
            ("AF_VSOCK with high bits", 0xffff_ffff_0000_0028, false),
        ] {
            let mut conditions = conditions(Rule::Socket).into_iter();
            let allowed = conditions.any(|it| holds(it, argument));
            assert_eq!(allowed, expected, "{name}");
        }
    }
}
