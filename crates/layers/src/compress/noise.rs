//! Content that does not shrink: archives, images, ciphertext. Looking for repeats in it takes
//! as long as in anything else, and finds none.

use super::gzip::compressed;

/// What is looked at first, and searched for repeats: twice as far as deflate refers back.
const SAMPLE_BYTES: usize = 64 << 10;

/// Whether a block is to be stored as it is: its bytes are all about as frequent as one
/// another, so that no code for them is shorter, and a sample of it repeats nothing.
///
/// A block that is wrongly taken for noise is stored; nothing else happens.
pub(super) fn is_noise(block: &[u8]) -> bool {
    let middle = (block.len() / 2).saturating_sub(SAMPLE_BYTES / 2);
    let Some(sample) = block.get(middle..middle + SAMPLE_BYTES) else {
        return false;
    };
    is_even(sample) && is_even(block) && is_incompressible(sample)
}

/// Whether the squares of the bytes' frequencies add up to what they do for random bytes
/// (`n² / 256`), within a hundredth: then a code saves a few thousandths at most.
fn is_even(bytes: &[u8]) -> bool {
    // Four tables: an addition need not wait for the one before it.
    let mut counts = [[0_u32; 256]; 4];
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        for (table, &byte) in counts.iter_mut().zip(quad) {
            table[usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        counts[0][usize::from(byte)] += 1;
    }
    let count_of = |byte: usize| {
        counts
            .iter()
            .map(|table| u64::from(table[byte]))
            .sum::<u64>()
    };
    let squares: u64 = (0..256).map(|byte| count_of(byte).pow(2)).sum();
    let length = bytes.len() as u64;
    squares * 256 * 100 <= length * length * 101
}

fn is_incompressible(sample: &[u8]) -> bool {
    compressed(sample, 1).is_ok_and(|bytes| bytes.len() * 100 >= sample.len() * 99)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    #[test]
    fn random_bytes_are_noise() {
        for length in [SAMPLE_BYTES, SAMPLE_BYTES + 1, 1 << 20] {
            assert!(is_noise(&random(length)), "{length}");
        }
    }

    #[test]
    fn what_deflate_can_shrink_is_not() {
        let text = b"fn main() { println!(\"hello\"); }\n".repeat(40_000);
        assert!(!is_noise(&text[..1 << 20]));
        let repeated = random(16 << 10).repeat(64);
        assert!(!is_noise(&repeated));
        // Text around a middle of noise.
        let mut mixed = text[..1 << 20].to_vec();
        mixed[460 << 10..580 << 10].copy_from_slice(&random(120 << 10));
        assert!(!is_noise(&mixed));
        // Bytes of seven bits.
        let seven: Vec<u8> = random(1 << 20).iter().map(|byte| byte & 0x7f).collect();
        assert!(!is_noise(&seven));
    }

    #[test]
    fn a_short_block_is_compressed() {
        assert!(!is_noise(&random(SAMPLE_BYTES - 1)));
        assert!(!is_noise(&[]));
    }
}
