use std::io::Read as _;

use super::*;

/// Text that repeats far apart and some noise: what a layer is like.
pub(super) fn sample(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 8 {
            0 => out.extend_from_slice(&state.to_le_bytes()),
            n => {
                let words = [
                    "layer ",
                    "/usr/lib/",
                    "fn main() {\n",
                    "0000644",
                    "}\n",
                    "é",
                    " = ",
                ];
                out.extend_from_slice(words[usize::try_from(n).unwrap() - 1].as_bytes());
                out.extend_from_slice((state >> 40).to_string().as_bytes());
            }
        }
    }
    out.truncate(bytes);
    out
}

fn compressed(content: &[u8], compression: Compression, threads: usize, cut: usize) -> Vec<u8> {
    let threads = NonZeroUsize::new(threads).unwrap();
    let mut compressor = Compressor::new(compression, threads, Vec::new()).unwrap();
    for piece in content.chunks(cut) {
        compressor.write_all(piece).unwrap();
    }
    compressor.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader = flate2::bufread::MultiGzDecoder::new(bytes);
    reader.read_to_end(&mut out).unwrap();
    out
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_how_they_were_written() {
    let content = sample(3 * gzip::BLOCK_BYTES + 17);
    for compression in [
        Compression::Gzip { level: 1 },
        Compression::GZIP,
        Compression::ZSTD,
    ] {
        let one = compressed(&content, compression, 1, usize::MAX);
        for (threads, cut) in [(1, 1000), (2, 4096), (5, 65_537)] {
            assert_eq!(compressed(&content, compression, threads, cut), one);
        }
    }
}

#[test]
fn zstd_bytes_do_not_depend_on_threads_beyond_one_job() {
    // Workers take jobs of several megabytes each.
    let content = sample(20 << 20);
    let one = compressed(&content, Compression::ZSTD, 1, 1 << 16);
    assert_eq!(compressed(&content, Compression::ZSTD, 4, 1 << 18), one);
    assert_eq!(::zstd::decode_all(&one[..]).unwrap(), content);
}

#[test]
fn every_length_around_a_block_is_read_back() {
    let content = sample(2 * gzip::BLOCK_BYTES + 2);
    let block = gzip::BLOCK_BYTES;
    for length in [0, 1, block - 1, block, block + 1, 2 * block, 2 * block + 1] {
        for level in [0, 1, 6, 9] {
            let bytes = compressed(&content[..length], Compression::Gzip { level }, 2, 100_000);
            assert!(gunzip(&bytes) == content[..length], "{length} at {level}");
        }
    }
}

#[test]
fn noise_is_stored_and_read_back() {
    let mut content = sample(gzip::BLOCK_BYTES);
    let mut noise = vec![0; 2 * gzip::BLOCK_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    content.extend_from_slice(&noise);
    let bytes = compressed(&content, Compression::GZIP, 2, 100_000);
    let of_text = compressed(&content[..gzip::BLOCK_BYTES], Compression::GZIP, 2, 100_000);
    let overhead = bytes.len() - of_text.len() - noise.len();
    assert!(overhead < noise.len() / 1000, "{overhead}");
    assert!(gunzip(&bytes) == content);
}

/// Blocks of text (`t`) and of noise (`n`).
fn blocks(kinds: &str) -> Vec<u8> {
    let mut content = Vec::new();
    let mut noise = vec![0; kinds.len() * zstd::BLOCK_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let text = sample(kinds.len() * zstd::BLOCK_BYTES);
    for (number, kind) in kinds.chars().enumerate() {
        let at = number * zstd::BLOCK_BYTES..(number + 1) * zstd::BLOCK_BYTES;
        content.extend_from_slice(if kind == 'n' { &noise[at] } else { &text[at] });
    }
    content
}

#[test]
fn zstd_stores_noise_and_every_order_is_read_back() {
    for kinds in [
        "nnnnn",
        "ttnnnntt",
        "nt",
        "tnnnt",
        "nnnnnntnnnnt",
        "tnnn",
        "tnnnn",
    ] {
        let mut content = blocks(kinds);
        content.extend_from_slice(b"the end");
        let one = compressed(&content, Compression::ZSTD, 1, 1 << 20);
        for (threads, cut) in [(2, 100_003), (5, usize::MAX)] {
            let same = compressed(&content, Compression::ZSTD, threads, cut) == one;
            assert!(same, "{kinds} on {threads} threads");
        }
        assert!(::zstd::decode_all(&one[..]).unwrap() == content, "{kinds}");
        let noise = kinds.matches('n').count() * zstd::BLOCK_BYTES;
        let text = kinds.matches('t').count() * zstd::BLOCK_BYTES;
        assert!(one.len() < noise + noise / 1000 + text / 2 + 100, "{kinds}");
    }
}

#[test]
fn every_length_of_a_zstd_stream_is_read_back() {
    let block = zstd::BLOCK_BYTES;
    let content = blocks("tnnnntt");
    for length in [
        0,
        1,
        100,
        block - 1,
        block,
        block + 1,
        5 * block,
        5 * block + 1,
        6 * block,
    ] {
        for level in [1, 3] {
            let bytes = compressed(&content[..length], Compression::Zstd { level }, 2, 100_000);
            let read = ::zstd::decode_all(&bytes[..]).unwrap();
            assert!(read == content[..length], "{length} at {level}");
        }
    }
}

#[test]
fn a_small_zstd_stream_says_how_long_it_is_and_a_large_one_needs_the_common_window() {
    use ::zstd::zstd_safe::get_frame_content_size;
    let small = compressed(b"small", Compression::ZSTD, 2, 5);
    assert_eq!(get_frame_content_size(&small).ok(), Some(Some(5)));
    let large = compressed(&sample(20 << 20), Compression::ZSTD, 2, 1 << 20);
    let mut reader = ::zstd::stream::read::Decoder::new(&large[..]).unwrap();
    reader.window_log_max(23).unwrap();
    assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), 20 << 20);
}

#[test]
fn blocks_cost_less_than_two_percent() {
    let content = sample(4 << 20);
    for level in [1, 6, 9] {
        let plain = {
            let level = flate2::Compression::new(level);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&content).unwrap();
            encoder.finish().unwrap().len()
        };
        let blocks = compressed(&content, Compression::Gzip { level }, 2, 1 << 20).len();
        assert!(
            blocks * 100 < plain * 102,
            "level {level}: {blocks} against {plain}"
        );
    }
}

#[test]
fn levels_that_do_not_exist_are_refused() {
    for compression in [
        Compression::Gzip { level: 10 },
        Compression::Zstd { level: 0 },
        Compression::Zstd { level: 23 },
    ] {
        let made = Compressor::new(compression, NonZeroUsize::MIN, Vec::new());
        assert_eq!(made.err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}
