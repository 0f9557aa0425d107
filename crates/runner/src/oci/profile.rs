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
            let [low, high] = ADDRESS_FAMILIES_REFUSED.map(u64::from);
            let between = low + 1..high;
            let mut conditions = vec![
                (LinuxSeccompOperator::ScmpCmpLt, low, 0),
                (LinuxSeccompOperator::ScmpCmpGt, high, 0),
            ];
            conditions.extend(between.map(|it| (LinuxSeccompOperator::ScmpCmpEq, it, 0)));
            conditions
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
