//! One standard gzip stream from blocks that are compressed side by side.
//!
//! ```text
//!  content   |----- block -----|----- block -----|--- last ---|
//!                         32 KiB├ dictionary     |
//!  stream    header | deflate … sync | deflate … sync | deflate … final | crc32 size
//! ```
//!
//! Each block is compressed with the 32 KiB before it as its dictionary and ends at a byte
//! boundary (a sync flush), so that blocks join into one deflate stream (RFC 1951).
//! Blocks are cut at fixed places of the content: the bytes depend on content and level.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use flate2::{Compress, FlushCompress, Status};

use crate::pool::{InOrder, Pending, Pool};

/// Content compressed by one job. See `docs/decisions/parallel-gzip.md` for why this much.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// How far back deflate can refer.
const DICTIONARY_BYTES: usize = 32 << 10;

pub(super) struct ParallelGzip<W: Write> {
    sink: W,
    level: u32,
    pool: Pool,
    pending: InOrder<Pending<io::Result<Deflated>>>,
    /// The dictionary, then the block that is being filled.
    buffer: Vec<u8>,
    dictionary_bytes: usize,
    crc: crc32fast::Hasher,
    content_bytes: u64,
    has_header: bool,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: crc32fast::Hasher,
    content_bytes: u64,
}

impl<W: Write> ParallelGzip<W> {
    pub(super) fn new(level: u32, threads: NonZeroUsize, sink: W) -> Self {
        let pool = Pool::new(threads);
        let pending = InOrder::new(pool.jobs_max());
        Self {
            sink,
            level,
            pool,
            pending,
            buffer: Vec::with_capacity(DICTIONARY_BYTES + BLOCK_BYTES),
            dictionary_bytes: 0,
            crc: crc32fast::Hasher::new(),
            content_bytes: 0,
            has_header: false,
        }
    }

    pub(super) fn sink_mut(&mut self) -> &mut W {
        &mut self.sink
    }

    /// Takes as much of `bytes` as fits into the block. A full block waits until more
    /// comes, because the last block of a stream is ended differently.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.room() == 0 {
            self.start_block(FlushCompress::Sync)?;
        }
        let taken = bytes.len().min(self.room());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.start_block(FlushCompress::Finish)?;
        while let Some(block) = self.pending.pop() {
            self.put(block)?;
        }
        self.sink.write_all(&self.crc.finalize().to_le_bytes())?;
        // The size modulo 2^32: its lower four bytes.
        self.sink
            .write_all(&self.content_bytes.to_le_bytes()[..4])?;
        Ok(self.sink)
    }

    fn room(&self) -> usize {
        self.dictionary_bytes + BLOCK_BYTES - self.buffer.len()
    }

    fn start_block(&mut self, flush: FlushCompress) -> io::Result<()> {
        let kept = self.buffer.len().saturating_sub(DICTIONARY_BYTES);
        let mut next = Vec::with_capacity(DICTIONARY_BYTES + BLOCK_BYTES);
        next.extend_from_slice(&self.buffer[kept..]);
        let dictionary_bytes = std::mem::replace(&mut self.dictionary_bytes, next.len());
        let block = std::mem::replace(&mut self.buffer, next);
        let level = self.level;
        let job = self
            .pool
            .run(move || deflate(&block, dictionary_bytes, level, flush));
        match self.pending.push(job) {
            Some(oldest) => self.put(oldest),
            None => Ok(()),
        }
    }

    fn put(&mut self, block: Pending<io::Result<Deflated>>) -> io::Result<()> {
        let block = block.wait().map_err(io::Error::other)??;
        if !self.has_header {
            self.sink.write_all(&header(self.level))?;
            self.has_header = true;
        }
        self.crc.combine(&block.crc);
        self.content_bytes += block.content_bytes;
        self.sink.write_all(&block.bytes)
    }
}

/// RFC 1952: no name, no time, unknown system; the fifth last byte says how hard was tried.
const fn header(level: u32) -> [u8; 10] {
    let effort = match level {
        9 => 2,
        1 => 4,
        _ => 0,
    };
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, effort, 255]
}

fn deflate(
    block: &[u8],
    dictionary_bytes: usize,
    level: u32,
    flush: FlushCompress,
) -> io::Result<Deflated> {
    let (dictionary, content) = block.split_at(dictionary_bytes);
    // A new one each time: a compressor that was reset need not give the same bytes.
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary)?;
    }
    let mut bytes = Vec::with_capacity(content.len() / 2 + 64);
    loop {
        let taken = usize::try_from(compress.total_in()).map_err(io::Error::other)?;
        let status = compress.compress_vec(&content[taken..], &mut bytes, flush)?;
        let is_whole = compress.total_in() == content.len() as u64;
        let has_room = bytes.len() < bytes.capacity();
        match flush {
            FlushCompress::Finish if status == Status::StreamEnd => break,
            FlushCompress::Sync if is_whole && has_room => break,
            _ => bytes.reserve(content.len() / 4 + 64),
        }
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(content);
    Ok(Deflated {
        bytes,
        crc,
        content_bytes: content.len() as u64,
    })
}
