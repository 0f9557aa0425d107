//! A filter that keeps a process off the network where it cannot have a network of its own.
//!
//! Nothing but local sockets can be made: no network, and no loopback interface either. What could
//! make sockets without the call of that name (the 32-bit `socketcall`, `io_uring`) is refused as a
//! whole.

use super::bpf::{Instruction, OFFSET_ARGUMENT_0, Verdict, if_equal, load, verdict};
use super::{Architecture, Family, X32_BIT, assemble, number_of};

/// `AF_UNIX` (linux/socket.h)
const LOCAL: u32 = 1;
/// The same on all architectures; Docker's profile, and so the table, does not have it.
const IO_URING_SETUP: u32 = 425;
const EPERM: Verdict = Verdict::Errno(1);
const ENOSYS: Verdict = Verdict::Errno(38);

/// The filter, for the machine that we run on; `None` if the table does not know it.
pub(crate) fn offline() -> Option<Vec<Instruction>> {
    Family::native().map(|family| assemble(family, tree))
}

fn tree(architecture: Architecture) -> Vec<Instruction> {
    let bit = match architecture {
        Architecture::X32 => X32_BIT,
        _ => 0,
    };
    let mut local_alone = vec![load(OFFSET_ARGUMENT_0)];
    local_alone.extend(if_equal(LOCAL, verdict(Verdict::Allow), verdict(EPERM)));
    let uring = IO_URING_SETUP | bit;
    let mut tree = if_equal(uring, verdict(ENOSYS), verdict(Verdict::Allow));
    for (name, then) in [("socketcall", verdict(EPERM)), ("socket", local_alone)] {
        if let Some(number) = number_of(name, architecture) {
            tree = if_equal(number | bit, then, tree);
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::super::bpf::interpret;
    use super::*;

    #[test]
    fn only_local_sockets_can_be_made_on_any_architecture() {
        const ALLOW: u32 = 0x7fff_0000;
        const REFUSE: u32 = 0x0005_0001;
        const UNKNOWN: u32 = 0x0005_0026;
        let ask = |family, audit: u32, number: u32, argument: u64| {
            let mut data = [0; 64];
            data[..4].copy_from_slice(&number.to_ne_bytes());
            data[4..8].copy_from_slice(&audit.to_ne_bytes());
            data[16..24].copy_from_slice(&argument.to_ne_bytes());
            interpret(&assemble(family, tree), &data)
        };
        let (x86, arm) = (Family::X86, Family::Arm);
        for (family, architecture, socket) in [
            (x86, Architecture::X86_64, 41),
            (x86, Architecture::X86, 359),
            (x86, Architecture::X32, 41 | X32_BIT),
            (arm, Architecture::Aarch64, 198),
            (arm, Architecture::Arm, 281),
        ] {
            let bit = socket & X32_BIT;
            let audit = architecture.audit();
            for (number, argument, expected) in [
                (socket, 1, ALLOW),
                (socket, 2, REFUSE),
                (socket, 10, REFUSE),
                (socket, 16, REFUSE),
                // The kernel takes the low half alone for the family.
                (socket, 0x1_0000_0002, REFUSE),
                (425 | bit, 8, UNKNOWN),
                (bit, 0, ALLOW),
            ] {
                let got = ask(family, audit, number, argument);
                assert_eq!(got, expected, "{architecture:?} {number} {argument:#x}");
            }
        }
        let sibling = Architecture::X86.audit();
        assert_eq!(ask(x86, sibling, 102, 1), REFUSE, "socketcall");
    }
}
