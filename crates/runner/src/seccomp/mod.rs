//! The system call filter: Docker's default profile, compiled to classic BPF.
//!
//! ```text
//! architecture ─┬─ native ─┬─ number < 0x40000000 ─► tree over the native table
//!               │          └─ x86-64 only: else   ─► tree over the x32 table
//!               ├─ 32-bit sibling ────────────────► tree over its table
//!               └─ anything else ─────────────────► kill
//! ```
//! A tree is a binary search over ranges of numbers with the same rule. A call that the profile
//! does not name gives `EPERM`, and one that is newer than the profile gives `ENOSYS`, so that
//! C libraries fall back to what they used before (runc does so as well).
//!
//! Where Docker compares whole 64-bit arguments this filter compares the 32 bits that the kernel
//! looks at: `socket(0x1_0000_0026, …)` would else be family 38 to the kernel and none to the filter.

mod bpf;
mod offline;

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;

pub(crate) use bpf::Instruction;
pub(crate) use bpf::Verdict;
use bpf::{
    OFFSET_ARCHITECTURE, OFFSET_ARGUMENT_0, OFFSET_NUMBER, and, if_equal, if_not_less, load,
    verdict,
};
pub(crate) use offline::offline;

use crate::capabilities::by_name;

const TABLE: &str = include_str!("syscalls.txt");

/// Set in the numbers of x32 calls (asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;
/// The numbers from here on are ARM's private calls (asm/unistd.h), not newer ones.
const ARM_PRIVATE: u32 = 0x000f_0000;
/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}`
pub(crate) const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` and `AF_VSOCK`
pub(crate) const ADDRESS_FAMILIES_REFUSED: [u32; 2] = [38, 40];
/// Linux, with or without `UNAME26` and `ADDR_NO_RANDOMIZE`'s harmless kin, and asking.
pub(crate) const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Architecture {
    /// `AUDIT_ARCH_*` of linux/audit.h, as seen in `seccomp_data.arch`.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }
}

/// The native architecture and those whose programs it also runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    X86,
    Arm,
}

impl Family {
    pub(crate) fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86),
            "aarch64" => Some(Self::Arm),
            _ => None,
        }
    }
}

/// What decides about a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Fixed(Verdict),
    /// All but [`ADDRESS_FAMILIES_REFUSED`].
    Socket,
    /// Only [`PERSONALITIES`].
    Personality,
    /// No new namespaces.
    Clone,
}

/// `EPERM`
const REFUSED: Rule = Rule::Fixed(Verdict::Errno(1));
/// `ENOSYS`
pub(crate) const UNKNOWN: Rule = Rule::Fixed(Verdict::Errno(38));
const ALLOWED: Rule = Rule::Fixed(Verdict::Allow);

/// The filter for a process that may at most have these capabilities, on the machine we run on.
/// `None` if the table does not know this architecture.
pub(crate) fn default_profile(capabilities: CapabilitySet) -> Option<Vec<Instruction>> {
    Family::native().map(|family| compile(family, capabilities))
}

/// A program as the bytes in which it travels: the kernel's own layout.
pub(crate) fn to_bytes(program: &[Instruction]) -> Vec<u8> {
    program
        .iter()
        .flat_map(|it| {
            let [code_0, code_1] = it.code.to_ne_bytes();
            let [constant_0, constant_1, constant_2, constant_3] = it.constant.to_ne_bytes();
            [
                code_0,
                code_1,
                it.jump_true,
                it.jump_false,
                constant_0,
                constant_1,
                constant_2,
                constant_3,
            ]
        })
        .collect()
}

/// The opposite of [`to_bytes`].
pub(crate) fn from_bytes(bytes: &[u8]) -> Vec<Instruction> {
    let (instructions, _) = bytes.as_chunks::<8>();
    instructions
        .iter()
        .map(|it| Instruction {
            code: u16::from_ne_bytes([it[0], it[1]]),
            jump_true: it[2],
            jump_false: it[3],
            constant: u32::from_ne_bytes([it[4], it[5], it[6], it[7]]),
        })
        .collect()
}

fn compile(family: Family, capabilities: CapabilitySet) -> Vec<Instruction> {
    assemble(family, |architecture| {
        number_tree(&match architecture {
            Architecture::X32 => x32_ranges(capabilities),
            other => ranges(other, capabilities),
        })
    })
}

/// A program of a tree for each architecture; x32's has that bit in its numbers.
fn assemble(family: Family, tree: impl Fn(Architecture) -> Vec<Instruction>) -> Vec<Instruction> {
    let kill = verdict(Verdict::KillProcess);
    let mut program = vec![load(OFFSET_ARCHITECTURE)];
    program.extend(match family {
        Family::X86 => {
            let x32 = tree(Architecture::X32);
            let native = with_number(if_not_less(X32_BIT, x32, tree(Architecture::X86_64)));
            let sibling = with_number(tree(Architecture::X86));
            let others = if_equal(Architecture::X86.audit(), sibling, kill);
            if_equal(Architecture::X86_64.audit(), native, others)
        }
        Family::Arm => {
            let native = with_number(tree(Architecture::Aarch64));
            let sibling = with_number(tree(Architecture::Arm));
            let others = if_equal(Architecture::Arm.audit(), sibling, kill);
            if_equal(Architecture::Aarch64.audit(), native, others)
        }
    });
    program
}

fn with_number(tree: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = vec![load(OFFSET_NUMBER)];
    program.extend(tree);
    program
}

fn x32_ranges(capabilities: CapabilitySet) -> Vec<(u32, Rule)> {
    let ranges = ranges(Architecture::X32, capabilities).into_iter();
    ranges
        .map(|(start, rule)| (start | X32_BIT, rule))
        .collect()
}

/// The rule of every number, as the starts of ranges in ascending order, the first at 0.
fn ranges(architecture: Architecture, capabilities: CapabilitySet) -> Vec<(u32, Rule)> {
    let rules = rules(architecture, capabilities);
    let newest = rules
        .keys()
        .copied()
        .filter(|number| *number < ARM_PRIVATE)
        .max()
        .unwrap_or(0);
    let mut ranges: Vec<(u32, Rule)> = vec![(0, REFUSED)];
    let mut start_range = |start: u32, rule: Rule| match ranges.last_mut() {
        Some((last, last_rule)) if *last == start => *last_rule = rule,
        Some((_, last_rule)) if *last_rule == rule => {}
        _ => ranges.push((start, rule)),
    };
    for (number, rule) in &rules {
        start_range(*number, *rule);
        let after = number + 1;
        if !rules.contains_key(&after) {
            let newer = (newest + 1..ARM_PRIVATE).contains(&after);
            start_range(after, if newer { UNKNOWN } else { REFUSED });
        }
    }
    ranges
}

fn lines() -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter(|line| !line.starts_with('#'))
}

/// The rules by the system calls' names, which architectures share.
pub(crate) fn named_rules(
    capabilities: CapabilitySet,
) -> impl Iterator<Item = (&'static str, Rule)> {
    lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let (name, rule) = (words.next()?, words.next()?);
        Some((name, rule_of(rule, capabilities)))
    })
}

fn rules(architecture: Architecture, capabilities: CapabilitySet) -> BTreeMap<u32, Rule> {
    lines()
        .filter_map(|line| parse_line(line, architecture, capabilities))
        .collect()
}

/// A system call's number, without x32's bit.
fn number_of(name: &str, architecture: Architecture) -> Option<u32> {
    let mut words = lines()
        .map(str::split_ascii_whitespace)
        .find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.nth(architecture.column() + 1)?.parse().ok()
}

/// `name rule x86_64 x86 x32 aarch64 arm`
fn parse_line(
    line: &str,
    architecture: Architecture,
    capabilities: CapabilitySet,
) -> Option<(u32, Rule)> {
    let mut words = line.split_ascii_whitespace();
    let (_name, rule) = (words.next()?, words.next()?);
    let number = words.nth(architecture.column())?.parse().ok()?;
    Some((number, rule_of(rule, capabilities)))
}

fn rule_of(rule: &str, capabilities: CapabilitySet) -> Rule {
    let admin = capabilities.contains(CapabilitySet::SYS_ADMIN);
    match rule {
        "always" => ALLOWED,
        "socket" => Rule::Socket,
        "personality" => Rule::Personality,
        "clone" | "clone3" if admin => ALLOWED,
        "clone" => Rule::Clone,
        // Its flags are behind a pointer, where a filter cannot look; without it, libc uses clone.
        "clone3" => UNKNOWN,
        needed => {
            let mut needed = needed.split(',').filter_map(by_name);
            if needed.any(|it| capabilities.contains(it)) {
                ALLOWED
            } else {
                REFUSED
            }
        }
    }
}

fn number_tree(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    match ranges {
        [] => rule_code(REFUSED),
        [(_, rule)] => rule_code(*rule),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            if_not_less(high[0].0, number_tree(high), number_tree(low))
        }
    }
}

fn rule_code(rule: Rule) -> Vec<Instruction> {
    let allow = || rule_code(ALLOWED);
    let refuse = || rule_code(REFUSED);
    let mut code = vec![load(OFFSET_ARGUMENT_0)];
    let decision = match rule {
        Rule::Fixed(fixed) => return verdict(fixed),
        Rule::Socket => ADDRESS_FAMILIES_REFUSED
            .into_iter()
            .fold(allow(), |rest, family| if_equal(family, refuse(), rest)),
        Rule::Personality => PERSONALITIES
            .into_iter()
            .fold(refuse(), |rest, value| if_equal(value, allow(), rest)),
        Rule::Clone => {
            code.push(and(CLONE_NAMESPACES));
            if_equal(0, allow(), refuse())
        }
    };
    code.extend(decision);
    code
}

#[cfg(test)]
mod tests {
    use super::bpf::interpret;
    use super::*;
    use crate::capabilities::SANDBOX;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    const KILL: u32 = 0x8000_0000;

    fn ask(family: Family, capabilities: CapabilitySet, audit: u32, number: u32, arg: u64) -> u32 {
        interpret(&compile(family, capabilities), &data(audit, number, arg))
    }

    fn data(audit: u32, number: u32, arg: u64) -> [u8; 64] {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&audit.to_ne_bytes());
        data[16..24].copy_from_slice(&arg.to_ne_bytes());
        data
    }

    fn x86_64(number: u32, arg: u64) -> u32 {
        ask(
            Family::X86,
            SANDBOX,
            Architecture::X86_64.audit(),
            number,
            arg,
        )
    }

    #[test]
    fn the_profile_on_x86_64() {
        for (name, number, arg, expected) in [
            ("read", 0, 0, ALLOW),
            ("execve", 59, 0, ALLOW),
            ("chroot, with CAP_SYS_CHROOT", 161, 0, ALLOW),
            ("mount", 165, 0, EPERM),
            ("unshare", 272, 0, EPERM),
            ("keyctl", 250, 0, EPERM),
            ("bpf", 321, 0, EPERM),
            ("io_uring_setup", 425, 0, EPERM),
            ("userfaultfd", 323, 0, EPERM),
            ("ptrace", 101, 0, ALLOW),
            ("clone of a thread", 56, 0x003d_0f00, ALLOW),
            ("clone of a user namespace", 56, 0x1000_0000, EPERM),
            ("clone3", 435, 0, ENOSYS),
            ("socket AF_UNIX", 41, 1, ALLOW),
            ("socket AF_QIPCRTR", 41, 42, ALLOW),
            ("socket AF_ALG", 41, 38, EPERM),
            ("socket AF_NFC", 41, 39, ALLOW),
            ("socket AF_VSOCK", 41, 40, EPERM),
            ("socket AF_ALG behind high bits", 41, 0x1_0000_0026, EPERM),
            ("personality query", 135, 0xffff_ffff, ALLOW),
            ("personality READ_IMPLIES_EXEC", 135, 0x40_0000, EPERM),
            ("newer than the profile", 5000, 0, ENOSYS),
            ("x32 read", X32_BIT, 0, ALLOW),
            ("x32 execve", X32_BIT | 520, 0, ALLOW),
            ("x32 mount", X32_BIT | 165, 0, EPERM),
        ] {
            assert_eq!(x86_64(number, arg), expected, "{name}");
        }
    }

    #[test]
    fn siblings_are_filtered_by_their_own_numbers() {
        let x86 = |number, arg| ask(Family::X86, SANDBOX, Architecture::X86.audit(), number, arg);
        assert_eq!(x86(3, 0), ALLOW, "read");
        assert_eq!(x86(21, 0), EPERM, "mount");
        assert_eq!(x86(359, 38), EPERM, "socket AF_ALG");
        let arm = |number| ask(Family::Arm, SANDBOX, Architecture::Arm.audit(), number, 0);
        assert_eq!(
            (arm(3), arm(21), arm(0xf_0005)),
            (ALLOW, EPERM, ALLOW),
            "read, mount, set_tls"
        );
        assert_eq!(
            (arm(0xe_0000), arm(0x10_0000)),
            (ENOSYS, EPERM),
            "newer, not a call"
        );
        let aarch64 = |number, arg| {
            ask(
                Family::Arm,
                SANDBOX,
                Architecture::Aarch64.audit(),
                number,
                arg,
            )
        };
        assert_eq!(
            (aarch64(63, 0), aarch64(40, 0)),
            (ALLOW, EPERM),
            "read, mount"
        );
        assert_eq!(
            (aarch64(198, 40), aarch64(198, 2)),
            (EPERM, ALLOW),
            "socket"
        );
        let foreign = ask(Family::X86, SANDBOX, Architecture::Arm.audit(), 3, 0);
        assert_eq!(foreign, KILL);
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        let audit = Architecture::X86_64.audit();
        let ask = |capabilities, number| ask(Family::X86, capabilities, audit, number, 0x1000_0000);
        assert_eq!(ask(CapabilitySet::SYS_ADMIN, 165), ALLOW, "mount");
        assert_eq!(
            ask(CapabilitySet::SYS_ADMIN, 56),
            ALLOW,
            "clone with namespaces"
        );
        assert_eq!(ask(CapabilitySet::SYS_ADMIN, 435), ALLOW, "clone3");
        assert_eq!(ask(CapabilitySet::empty(), 161), EPERM, "chroot");
        assert_eq!(ask(CapabilitySet::SYSLOG, 103), ALLOW, "syslog");
    }

    #[test]
    fn every_number_of_the_table_gets_its_rule() {
        for (family, architecture, bit) in [
            (Family::X86, Architecture::X86_64, 0),
            (Family::X86, Architecture::X86, 0),
            (Family::X86, Architecture::X32, X32_BIT),
            (Family::Arm, Architecture::Aarch64, 0),
            (Family::Arm, Architecture::Arm, 0),
        ] {
            let rules = rules(architecture, SANDBOX);
            assert!(rules.len() > 250, "{architecture:?}: {}", rules.len());
            let program = compile(family, SANDBOX);
            for number in 0..600 {
                let expected = match rules.get(&number) {
                    Some(Rule::Fixed(Verdict::Allow) | Rule::Socket | Rule::Clone) => ALLOW,
                    Some(Rule::Personality) => ALLOW,
                    Some(other) if *other == UNKNOWN => ENOSYS,
                    Some(_) => EPERM,
                    None if number > *rules.range(..ARM_PRIVATE).next_back().unwrap().0 => ENOSYS,
                    None => EPERM,
                };
                let answer = interpret(&program, &data(architecture.audit(), number | bit, 0));
                assert_eq!(answer, expected, "{architecture:?} {number}");
            }
        }
    }

    #[test]
    fn a_program_survives_travelling() {
        let program = compile(Family::X86, SANDBOX);
        assert_eq!(from_bytes(&to_bytes(&program)), program);
    }

    #[test]
    fn the_kernel_takes_programs_of_this_size() {
        // linux/bpf_common.h: BPF_MAXINSNS
        for family in [Family::X86, Family::Arm] {
            let length = compile(family, SANDBOX).len();
            assert!((300..4096).contains(&length), "{length}");
        }
    }
}
