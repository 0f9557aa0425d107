//! Hashing a file's content.

use std::io::{self, Read};

use crate::ContentHash;

/// Enough to amortise system calls, little enough for every core to have one.
const READ_BYTES: usize = 256 * 1024;

/// Reads to the end; returns the digest and the number of bytes. `size` is a hint for
/// the buffer.
pub(crate) fn hash_reader(mut reader: impl Read, size: u64) -> io::Result<(ContentHash, u64)> {
    // One byte more than is expected, so that a file that grew is noticed, and so that
    // one read tells the end of most files.
    let wanted = usize::try_from(size.saturating_add(1)).unwrap_or(READ_BYTES);
    let mut buffer = vec![0; wanted.min(READ_BYTES)];
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                total += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((hasher.finalize().into(), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_hint_gives_the_same_digest() {
        let bytes = vec![7; READ_BYTES * 2 + 11];
        for hint in [0, 1, bytes.len() as u64, u64::MAX] {
            let (hash, total) = hash_reader(&bytes[..], hint).unwrap();
            assert_eq!(total, bytes.len() as u64);
            assert_eq!(hash, ContentHash::of(&bytes));
        }
    }
}
