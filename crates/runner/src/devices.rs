//! Which devices a sandboxed process may use.
//!
//! It holds `CAP_MKNOD` (package managers make nodes), so it could make the host's disk and read
//! it. A program attached to its control group decides at `mknod` and `open`: any node may be
//! made, but only these may be opened.

/// `(name, major, minor)` of the nodes in `/dev`, all mode 0666.
pub(crate) const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// More of them, under `--security=insecure`. Directories of the names are made.
pub(crate) const NODES_INSECURE: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];

/// Loop devices' major, and how many of them there are under `--security=insecure`.
pub(crate) const LOOP: u32 = 7;
pub(crate) const LOOPS_INSECURE: u32 = 8;

pub(crate) const PTMX: (u32, u32) = (5, 2);
/// Unix98 terminals' majors begin here; one is enough for a terminal instance.
pub(crate) const PTS_MAJOR: u32 = 136;

// linux/bpf_common.h, linux/bpf.h
const LOAD_WORD: u64 = 0x61;
const AND: u64 = 0x57;
const SHIFT_RIGHT: u64 = 0x77;
const MOVE: u64 = 0xb7;
const JUMP_IF_NOT_EQUAL: u64 = 0x55;
const EXIT: u64 = 0x95;
/// `bpf_cgroup_dev_ctx.access_type`: the device's type in the low half, the access in the high.
const TYPE_CHARACTER: u32 = 2;
const ACCESS_MKNOD: u32 = 1;

/// `struct bpf_insn`
fn instruction(code: u64, destination: u64, source: u64, offset: u16, constant: u32) -> u64 {
    code | destination << 8 | source << 12 | u64::from(offset) << 16 | u64::from(constant) << 32
}

/// The program: registers 2 … 5 hold access, type, major and minor.
pub(crate) fn program() -> Vec<u64> {
    let load = |register, offset| instruction(LOAD_WORD, register, 1, offset, 0);
    let mut program = vec![
        load(2, 0),
        load(3, 0),
        instruction(SHIFT_RIGHT, 2, 0, 0, 16),
        instruction(AND, 3, 0, 0, 0xffff),
        load(4, 4),
        load(5, 8),
    ];
    allow_if(&mut program, &[(2, ACCESS_MKNOD)]);
    for (_, major, minor) in NODES {
        allow_if(&mut program, &[(3, TYPE_CHARACTER), (4, major), (5, minor)]);
    }
    allow_if(
        &mut program,
        &[(3, TYPE_CHARACTER), (4, PTMX.0), (5, PTMX.1)],
    );
    allow_if(&mut program, &[(3, TYPE_CHARACTER), (4, PTS_MAJOR)]);
    answer(&mut program, 0);
    program
}

/// If all registers hold these values, the answer is yes; else what follows decides.
fn allow_if(program: &mut Vec<u64>, conditions: &[(u64, u32)]) {
    const ANSWER_LENGTH: u16 = 2;
    let mut to_jump_over = u16::try_from(conditions.len()).unwrap_or(u16::MAX) + ANSWER_LENGTH;
    for (register, value) in conditions {
        to_jump_over -= 1;
        program.push(instruction(
            JUMP_IF_NOT_EQUAL,
            *register,
            0,
            to_jump_over,
            *value,
        ));
    }
    answer(program, 1);
}

fn answer(program: &mut Vec<u64>, value: u32) {
    program.push(instruction(MOVE, 0, 0, 0, value));
    program.push(instruction(EXIT, 0, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn ask(kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 10];
        let program = program();
        let mut at = 0;
        loop {
            let it = program[at];
            at += 1;
            let register = (it >> 8 & 0xf) as usize;
            let (offset, constant) = ((it >> 16 & 0xffff) as usize, it >> 32);
            match it & 0xff {
                LOAD_WORD => registers[register] = u64::from(context[offset / 4]),
                AND => registers[register] &= constant,
                SHIFT_RIGHT => registers[register] >>= constant,
                MOVE => registers[register] = constant,
                JUMP_IF_NOT_EQUAL => {
                    at += if registers[register] == constant {
                        0
                    } else {
                        offset
                    }
                }
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn any_node_may_be_made_but_only_a_few_opened() {
        const BLOCK: u32 = 1;
        const CHARACTER: u32 = 2;
        const READ_WRITE: u32 = 6;
        for (_, major, minor) in NODES {
            assert!(ask(CHARACTER, READ_WRITE, major, minor));
            assert!(!ask(BLOCK, READ_WRITE, major, minor));
        }
        assert!(ask(CHARACTER, READ_WRITE, 136, 77) && ask(CHARACTER, READ_WRITE, 5, 2));
        assert!(
            ask(BLOCK, ACCESS_MKNOD, 8, 0),
            "a node of the disk may be made"
        );
        assert!(!ask(BLOCK, 2, 8, 0), "but not read");
        assert!(!ask(CHARACTER, 2, 1, 1), "/dev/mem");
        assert!(
            !ask(CHARACTER, 2 | ACCESS_MKNOD, 1, 1),
            "an access that is more than making"
        );
        assert!(!ask(CHARACTER, 4, 5, 1), "the machine's console");
    }
}
