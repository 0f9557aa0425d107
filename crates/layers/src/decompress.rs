//! Decompressing a layer, whatever it is compressed with, within limits.
//!
//! The format is told by the first bytes, not by a media type, because registries hold both
//! wrong ways round. A stream may be several members or frames in a row.

use std::fmt;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a decompressor gives before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecompressLimits {
    /// The most bytes that come out.
    pub output_bytes_max: u64,
    /// The most bytes that come out for each byte that goes in, once
    /// [`ratio_free_bytes`](Self::ratio_free_bytes) have come out.
    pub ratio_max: u64,
    /// How much may come out at any ratio: files of zeros are legitimate.
    pub ratio_free_bytes: u64,
    /// The largest window of a Zstandard frame, as a power of two: its memory.
    pub zstd_window_log_max: u32,
    /// The most memory of an xz stream.
    pub xz_memory_bytes_max: u64,
}

impl DecompressLimits {
    /// For image layers. Whole layers seldom expand more than 20 times, and those above 200 hold
    /// little but zeros: gzip reaches 1,032, Zstandard 16,000 and bzip2 a million, so the
    /// ratio is what bounds what a small file can do. A file of zeros as large as
    /// [`ratio_free_bytes`](Self::ratio_free_bytes) is taken whatever it is packed with.
    /// `zstd --long` uses a window of 2^27, and `xz -9` takes 65 MiB.
    pub const LAYER: Self = Self {
        output_bytes_max: 256 << 30,
        ratio_max: 200,
        ratio_free_bytes: 4 << 30,
        zstd_window_log_max: 27,
        xz_memory_bytes_max: 256 << 20,
    };
}

/// What a stream is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Nothing that is known.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl StreamFormat {
    /// The most bytes that [`of`](Self::of) looks at.
    pub const MAGIC_BYTES: usize = 10;

    /// The format of a stream that starts with `start`.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
                ..,
            ]
            | [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x17,
                0x72,
                0x45,
                0x38,
                0x50,
                0x90,
                ..,
            ] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// A limit of [`DecompressLimits`] was exceeded; it is the source of an [`io::Error`] of the
/// kind [`io::ErrorKind::FileTooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressLimitError {
    /// Too much came out.
    #[error("the stream is longer than {0} bytes (`maxSize` of [unpack] in the configuration)")]
    Output(u64),
    /// Too much came out for what went in.
    #[error(
        "the stream expands more than {max} times, to over {free_bytes} bytes (`maxRatio` and \
         `freeSize` of [unpack] in the configuration)"
    )]
    Ratio {
        /// How many times more may come out than goes in.
        max: u64,
        /// How much may come out at any ratio.
        free_bytes: u64,
    },
}

/// Reads the decompressed stream.
pub struct Decompressor<R: Read> {
    decoder: Decoder<R>,
    format: StreamFormat,
    limits: DecompressLimits,
    input_bytes: Arc<AtomicU64>,
    output_bytes: u64,
}

impl<R: Read> fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("format", &self.format)
            .field("output_bytes", &self.output_bytes)
            .finish_non_exhaustive()
    }
}

type Input<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Counted<R>>>;

enum Decoder<R: Read> {
    Plain(Input<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<Input<R>>>),
    Xz(Box<liblzma::bufread::XzDecoder<Input<R>>>),
}

struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<R: Read> Decompressor<R> {
    /// Looks at the start of `stream` and makes ready to decompress it.
    ///
    /// # Errors
    /// When the stream cannot be read or a decoder cannot be made.
    pub fn new(stream: R, limits: DecompressLimits) -> io::Result<Self> {
        const INPUT_BYTES: usize = 128 << 10;
        let input_bytes = Arc::<AtomicU64>::default();
        let mut counted = Counted {
            inner: stream,
            bytes: Arc::clone(&input_bytes),
        };
        let mut start = Vec::with_capacity(StreamFormat::MAGIC_BYTES);
        (&mut counted)
            .take(StreamFormat::MAGIC_BYTES as u64)
            .read_to_end(&mut start)?;
        let format = StreamFormat::of(&start);
        let input = BufReader::with_capacity(INPUT_BYTES, Cursor::new(start).chain(counted));
        Ok(Self {
            decoder: Decoder::new(format, input, limits)?,
            format,
            limits,
            input_bytes,
            output_bytes: 0,
        })
    }

    /// What the stream is compressed with.
    pub fn format(&self) -> StreamFormat {
        self.format
    }

    fn check_limits(&self) -> Result<(), DecompressLimitError> {
        let limits = &self.limits;
        if self.output_bytes > limits.output_bytes_max {
            return Err(DecompressLimitError::Output(limits.output_bytes_max));
        }
        let input = self.input_bytes.load(Ordering::Relaxed);
        let fair = input.saturating_mul(limits.ratio_max);
        if self.output_bytes > fair.max(limits.ratio_free_bytes) {
            return Err(DecompressLimitError::Ratio {
                max: limits.ratio_max,
                free_bytes: limits.ratio_free_bytes,
            });
        }
        Ok(())
    }
}

impl<R: Read> Decoder<R> {
    fn new(format: StreamFormat, input: Input<R>, limits: DecompressLimits) -> io::Result<Self> {
        Ok(match format {
            StreamFormat::Plain => Self::Plain(input),
            StreamFormat::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            StreamFormat::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(limits.zstd_window_log_max)?;
                Self::Zstd(Box::new(decoder))
            }
            StreamFormat::Bzip2 => {
                Self::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(input)))
            }
            StreamFormat::Xz => {
                let members = liblzma::stream::CONCATENATED;
                let memory = limits.xz_memory_bytes_max;
                let stream = liblzma::stream::Stream::new_stream_decoder(memory, members)?;
                Self::Xz(Box::new(liblzma::bufread::XzDecoder::new_stream(
                    input, stream,
                )))
            }
        })
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(input) => input.read(buffer)?,
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(decoder) => decoder.read(buffer)?,
            Decoder::Bzip2(decoder) => decoder.read(buffer)?,
            Decoder::Xz(decoder) => decoder.read(buffer)?,
        };
        self.output_bytes += count as u64;
        self.check_limits()
            .map_err(|error| io::Error::new(io::ErrorKind::FileTooLarge, error))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn compressed_by(program: &str, content: &[u8]) -> Option<Vec<u8>> {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut stdin = child.stdin.take().unwrap();
        let content = content.to_vec();
        let writing = std::thread::spawn(move || stdin.write_all(&content).unwrap());
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        output.status.success().then_some(output.stdout)
    }

    fn read(stream: &[u8]) -> io::Result<(StreamFormat, Vec<u8>)> {
        let mut out = Vec::new();
        let mut decompressor = Decompressor::new(stream, DecompressLimits::LAYER)?;
        decompressor.read_to_end(&mut out)?;
        Ok((decompressor.format(), out))
    }

    #[test]
    fn every_format_is_told_by_its_start_and_may_have_members() {
        let content: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        for (program, format) in [
            ("gzip", StreamFormat::Gzip),
            ("zstd", StreamFormat::Zstd),
            ("bzip2", StreamFormat::Bzip2),
            ("xz", StreamFormat::Xz),
        ] {
            let Some(once) = compressed_by(program, &content) else {
                crate::skip::skip(format_args!("no {program} here"));
                continue;
            };
            let (found, out) = read(&once).unwrap();
            assert_eq!(found, format);
            assert!(out == content, "{program}");
            let (_, out) = read(&[&once[..], &once].concat()).unwrap();
            assert!(out == [&content[..], &content].concat(), "{program} twice");
            assert!(read(&once[..once.len() / 2]).is_err(), "{program} cut");
        }
    }

    #[test]
    fn short_and_empty_streams_are_plain() {
        for stream in [&b""[..], b"\x1f", b"BZh", b"hello"] {
            assert_eq!(
                read(stream).unwrap(),
                (StreamFormat::Plain, stream.to_vec())
            );
        }
    }

    #[test]
    fn bombs_are_stopped() {
        let limits = DecompressLimits {
            output_bytes_max: 10 << 20,
            ratio_max: 100,
            ratio_free_bytes: 1 << 20,
            ..DecompressLimits::LAYER
        };
        let bomb = |bytes: usize| zstd::encode_all(&vec![0; bytes][..], 1).unwrap();
        let drained = |stream: Vec<u8>, limits| {
            let mut decompressor = Decompressor::new(&stream[..], limits).unwrap();
            io::copy(&mut decompressor, &mut io::sink())
        };
        assert_eq!(drained(bomb(1 << 20), limits).unwrap(), 1 << 20);
        let error = drained(bomb(2 << 20), limits).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let text = error.to_string();
        assert!(
            text.contains("more than 100 times, to over 1048576 bytes"),
            "{text}"
        );
        assert!(text.contains("`maxRatio`"), "{text}");
        let limits = DecompressLimits {
            ratio_free_bytes: u64::MAX,
            ..limits
        };
        let error = drained(bomb(11 << 20), limits).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("longer than 10485760 bytes (`maxSize`"),
            "{text}"
        );
    }

    #[test]
    fn zeros_up_to_what_is_free_pass_and_a_gzip_bomb_beyond_does_not() {
        let limits = DecompressLimits {
            ratio_free_bytes: 8 << 20,
            ..DecompressLimits::LAYER
        };
        let zeros = |bytes: usize| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&vec![0; bytes]).unwrap();
            encoder.finish().unwrap()
        };
        let drained = |stream: Vec<u8>| {
            let mut decompressor = Decompressor::new(&stream[..], limits).unwrap();
            io::copy(&mut decompressor, &mut io::sink())
        };
        assert_eq!(drained(zeros(8 << 20)).unwrap(), 8 << 20);
        // gzip reaches 1,032: a limit above that would be none.
        let error = drained(zeros(9 << 20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"x").unwrap();
        encoder.flush().unwrap();
        encoder.write_all(b"y").unwrap();
        let frame = encoder.finish().unwrap();
        let limits = DecompressLimits {
            zstd_window_log_max: 20,
            ..DecompressLimits::LAYER
        };
        let refused = Decompressor::new(&frame[..], limits)
            .unwrap()
            .read(&mut [0; 8]);
        assert!(refused.is_err());
        assert_eq!(read(&frame).unwrap().1, b"xy");
    }
}
