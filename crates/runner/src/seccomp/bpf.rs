//! Classic BPF, as far as a system call filter needs it.
//!
//! Code is built from the leaves up: each piece is a list of instructions that ends in a `return`
//! on every path, and jumps only forward inside itself, so pieces can be put one after the other.

/// One instruction: the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) constant: u32,
}

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Errno(u16),
    KillProcess,
}

// Offsets in `struct seccomp_data` (linux/seccomp.h); the low half of a 64-bit argument comes first
// on little-endian machines, which all those supported are.
pub(crate) const OFFSET_NUMBER: u32 = 0;
pub(crate) const OFFSET_ARCHITECTURE: u32 = 4;
pub(crate) const OFFSET_ARGUMENT_0: u32 = 16;

// linux/bpf_common.h
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `Instruction` without jumps.
fn plain(code: u16, constant: u32) -> Instruction {
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        constant,
    }
}

pub(crate) fn load(offset: u32) -> Instruction {
    plain(LOAD_WORD, offset)
}

pub(crate) fn and(mask: u32) -> Instruction {
    plain(AND, mask)
}

pub(crate) fn verdict(verdict: Verdict) -> Vec<Instruction> {
    // linux/seccomp.h: SECCOMP_RET_*
    let value = match verdict {
        Verdict::Allow => 0x7fff_0000,
        Verdict::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Verdict::KillProcess => 0x8000_0000,
    };
    vec![plain(RETURN, value)]
}

/// `if loaded == value { then } else { otherwise }`
pub(crate) fn if_equal(
    value: u32,
    then: Vec<Instruction>,
    otherwise: Vec<Instruction>,
) -> Vec<Instruction> {
    branch(JUMP_IF_EQUAL, value, then, otherwise)
}

/// `if loaded >= value { then } else { otherwise }`
pub(crate) fn if_not_less(
    value: u32,
    then: Vec<Instruction>,
    otherwise: Vec<Instruction>,
) -> Vec<Instruction> {
    branch(JUMP_IF_NOT_LESS, value, then, otherwise)
}

fn branch(
    code: u16,
    constant: u32,
    then: Vec<Instruction>,
    otherwise: Vec<Instruction>,
) -> Vec<Instruction> {
    let mut program = Vec::with_capacity(then.len() + otherwise.len() + 2);
    match u8::try_from(otherwise.len()) {
        Ok(jump_true) => program.push(Instruction {
            code,
            jump_true,
            jump_false: 0,
            constant,
        }),
        // A conditional jump reaches 255 instructions; an unconditional one, anything.
        Err(_) => {
            program.push(Instruction {
                code,
                jump_true: 0,
                jump_false: 1,
                constant,
            });
            let distance = u32::try_from(otherwise.len()).unwrap_or(u32::MAX);
            program.push(plain(JUMP, distance));
        }
    }
    program.extend(otherwise);
    program.extend(then);
    program
}

/// Runs a program as the kernel would: the tests' reference.
#[cfg(test)]
pub(crate) fn interpret(program: &[Instruction], data: &[u8; 64]) -> u32 {
    let (mut at, mut loaded) = (0, 0);
    loop {
        let it = program[at];
        at += 1;
        match it.code {
            LOAD_WORD => {
                let start = it.constant as usize;
                loaded = u32::from_ne_bytes(data[start..start + 4].try_into().unwrap());
            }
            AND => loaded &= it.constant,
            JUMP => at += it.constant as usize,
            JUMP_IF_EQUAL | JUMP_IF_NOT_LESS => {
                let met = match it.code {
                    JUMP_IF_EQUAL => loaded == it.constant,
                    _ => loaded >= it.constant,
                };
                at += usize::from(if met { it.jump_true } else { it.jump_false });
            }
            RETURN => return it.constant,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}
