//! Compressing a stream on all cores, to the same bytes at any number of threads.
//!
//! Why gzip is members end to end is in `docs/decisions/parallel-gzip.md`, and with what
//! parameters Zstandard works in `docs/decisions/zstd.md`.

mod gzip;
mod noise;
mod zstd;

use std::io::{self, Write};
use std::num::NonZeroUsize;

use longshore_oci::media_type;

use self::gzip::ParallelGzip;
use self::zstd::ParallelZstd;

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip at a level from 0 to 9.
    Gzip {
        /// [`GZIP_LEVEL_DEFAULT`], if there is no wish.
        level: u32,
    },
    /// Zstandard at a level from 1 to 22.
    Zstd {
        /// 3 is what peers use.
        level: i32,
    },
}

/// Layers as small as those of peers at their usual level (`docs/decisions/parallel-gzip.md`).
pub const GZIP_LEVEL_DEFAULT: u32 = 3;

impl Compression {
    /// gzip at its usual level.
    pub const GZIP: Self = Self::Gzip {
        level: GZIP_LEVEL_DEFAULT,
    };
    /// Zstandard at its usual level.
    pub const ZSTD: Self = Self::Zstd { level: 3 };

    /// The OCI media type of a layer that is compressed so.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER_TAR,
            Self::Gzip { .. } => media_type::OCI_LAYER_GZIP,
            Self::Zstd { .. } => media_type::OCI_LAYER_ZSTD,
        }
    }

    /// Whether the level exists.
    pub fn is_valid(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip { level } => level <= 9,
            Self::Zstd { level } => (1..=22).contains(&level),
        }
    }
}

/// Compresses what is written to it into `sink`. The stream is whole only after
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct Compressor<W: Write>(Kind<W>);

enum Kind<W: Write> {
    None(W),
    Gzip(Box<ParallelGzip<W>>),
    Zstd(Box<ParallelZstd<W>>),
}

impl<W: Write> std::fmt::Debug for Kind<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None(_) => "None",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<W: Write> Compressor<W> {
    /// Starts a stream on `threads` threads.
    ///
    /// # Errors
    /// When the level does not exist.
    pub fn new(compression: Compression, threads: NonZeroUsize, sink: W) -> io::Result<Self> {
        if !compression.is_valid() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no such compression level: {compression:?}"),
            ));
        }
        Ok(Self(match compression {
            Compression::None => Kind::None(sink),
            Compression::Gzip { level } => {
                Kind::Gzip(Box::new(ParallelGzip::new(level, threads, sink)))
            }
            Compression::Zstd { level } => {
                Kind::Zstd(Box::new(ParallelZstd::new(level, threads, sink)?))
            }
        }))
    }

    /// Ends the stream and hands the sink back.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Kind::None(sink) => Ok(sink),
            Kind::Gzip(gzip) => gzip.finish(),
            Kind::Zstd(zstd) => zstd.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::None(sink) => sink.write(bytes),
            Kind::Gzip(gzip) => gzip.write(bytes),
            Kind::Zstd(zstd) => zstd.write(bytes),
        }
    }

    /// Flushes the sink alone: cutting the compressed stream here would make its bytes
    /// depend on when it was flushed.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::None(sink) => sink.flush(),
            Kind::Gzip(gzip) => gzip.sink_mut().flush(),
            Kind::Zstd(zstd) => zstd.sink_mut().flush(),
        }
    }
}

#[cfg(test)]
mod tests;
