//! Zstandard: frames that the library compresses on several threads, and frames in which
//! content that does not shrink is stored.
//!
//! ```text
//!  content   |-- text --|-- text --|-- noise --|-- noise --| … |-- text --|
//!  stream    |------- a frame -----|--- one ---|--- one ---| … |- a frame -|
//! ```
//!
//! Frames laid end to end are one stream (RFC 8878, section 3). Content is judged in blocks
//! that are cut at fixed places, and the library cuts its jobs at fixed places of a frame: the
//! bytes depend on content and level.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use ::zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation as _, OutBuffer};

use super::noise;

/// What is judged at once.
pub(super) const BLOCK_BYTES: usize = 1 << 20;
/// So many blocks of noise in a row are worth the end of a frame: what comes after them is
/// compressed without what came before.
const NOISY_BLOCKS_MIN: usize = 4;
/// The most that a block of the format holds.
const STORED_BYTES_MAX: usize = 128 << 10;
const OUTPUT_BYTES: usize = 256 << 10;
const WORKERS_MAX: usize = 64;
/// The level whose parameters are ours: see `docs/decisions/zstd.md`.
const USUAL_LEVEL: i32 = 3;

pub(super) struct ParallelZstd<W: Write> {
    sink: W,
    encoder: Encoder<'static>,
    output: Vec<u8>,
    /// The block that is being filled.
    block: Vec<u8>,
    /// Blocks of noise, too few so far.
    noisy: Vec<Vec<u8>>,
    is_storing: bool,
    /// Whether the library's frame has begun.
    is_open: bool,
    has_frame: bool,
}

impl<W: Write> ParallelZstd<W> {
    pub(super) fn new(level: i32, threads: NonZeroUsize, sink: W) -> io::Result<Self> {
        let mut encoder = Encoder::new(level)?;
        // At least one worker, always: without any the bytes are other ones.
        let workers = u32::try_from(threads.get().min(WORKERS_MAX)).map_err(io::Error::other)?;
        encoder.set_parameter(CParameter::NbWorkers(workers))?;
        if level == USUAL_LEVEL {
            set_usual_parameters(&mut encoder)?;
        }
        Ok(Self {
            sink,
            encoder,
            output: vec![0; OUTPUT_BYTES],
            block: Vec::with_capacity(BLOCK_BYTES),
            noisy: Vec::new(),
            is_storing: false,
            is_open: false,
            has_frame: false,
        })
    }

    pub(super) fn sink_mut(&mut self) -> &mut W {
        &mut self.sink
    }

    /// Takes as much of `bytes` as fits into the block.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.put_block()?;
        }
        Ok(taken)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.has_frame && !self.is_open && self.noisy.is_empty() {
            // All there is: then readers need no larger window than that.
            let size = self.block.len() as u64;
            self.encoder.set_pledged_src_size(Some(size))?;
        }
        if !self.block.is_empty() {
            self.put_block()?;
        }
        self.encode_noisy()?;
        // Nothing at all is a frame too.
        if self.is_open || !self.has_frame {
            self.end_frame()?;
        }
        Ok(self.sink)
    }

    fn put_block(&mut self) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        if noise::is_noise(&block) {
            self.put_noise(block)?;
            self.block.reserve_exact(BLOCK_BYTES);
            return Ok(());
        }
        self.is_storing = false;
        self.encode_noisy()?;
        self.encode(&block)?;
        block.clear();
        self.block = block;
        Ok(())
    }

    fn put_noise(&mut self, block: Vec<u8>) -> io::Result<()> {
        if self.is_storing {
            return self.store(&block);
        }
        self.noisy.push(block);
        if self.noisy.len() < NOISY_BLOCKS_MIN {
            return Ok(());
        }
        if self.is_open {
            self.end_frame()?;
        }
        self.is_storing = true;
        for block in std::mem::take(&mut self.noisy) {
            self.store(&block)?;
        }
        Ok(())
    }

    fn encode_noisy(&mut self) -> io::Result<()> {
        for block in std::mem::take(&mut self.noisy) {
            self.encode(&block)?;
        }
        Ok(())
    }

    fn encode(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.is_open = true;
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut output = OutBuffer::around(&mut self.output[..]);
            self.encoder.run(&mut input, &mut output)?;
            self.sink.write_all(output.as_slice())?;
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        loop {
            let mut output = OutBuffer::around(&mut self.output[..]);
            let left = self.encoder.finish(&mut output, false)?;
            self.sink.write_all(output.as_slice())?;
            if left == 0 {
                break;
            }
        }
        self.encoder.reinit()?;
        (self.is_open, self.has_frame) = (false, true);
        Ok(())
    }

    fn store(&mut self, block: &[u8]) -> io::Result<()> {
        self.has_frame = true;
        store_frame(block, &mut self.sink)
    }
}

/// A third less work than the library's own parameters for this level, and no larger layers: tables
/// that stay in the processor's cache find a little less; repeats that are farther away,
/// which only the search for long ones sees, make up for it.
fn set_usual_parameters(encoder: &mut Encoder<'_>) -> io::Result<()> {
    // The window that every reader has to have (RFC 8878, section 3.1.1.1.2).
    encoder.set_parameter(CParameter::WindowLog(23))?;
    encoder.set_parameter(CParameter::HashLog(16))?;
    encoder.set_parameter(CParameter::ChainLog(15))?;
    encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))
}

/// Writes a frame in which `content`, which is not empty, is stored as it is.
fn store_frame(content: &[u8], sink: &mut impl Write) -> io::Result<()> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    // The window is the content, whose size follows in four bytes; no checksum, no dictionary.
    const SINGLE_SEGMENT: u8 = 0xa0;
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    sink.write_all(&MAGIC)?;
    sink.write_all(&[SINGLE_SEGMENT])?;
    sink.write_all(&size.to_le_bytes())?;
    let mut blocks = content.chunks(STORED_BYTES_MAX).peekable();
    while let Some(block) = blocks.next() {
        let is_last = u32::from(blocks.peek().is_none());
        let size = u32::try_from(block.len()).map_err(io::Error::other)?;
        sink.write_all(&(size << 3 | is_last).to_le_bytes()[..3])?;
        sink.write_all(block)?;
    }
    Ok(())
}
