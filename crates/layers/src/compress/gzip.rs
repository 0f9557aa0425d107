//! gzip from blocks that are compressed side by side, each a member of its own.
//!
//! ```text
//!  content   |----- block -----|----- block -----|--- last ---|
//!  stream    |----- member ----|----- member ----|-- member --|
//! ```
//!
//! Members laid end to end are one gzip file (RFC 1952, section 2.2). Blocks are cut at fixed
//! places of the content: the bytes depend on content and level.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use libdeflater::{CompressionLvl, Compressor};

use super::noise;
use crate::pool::{InOrder, Pending, Pool};

/// Content compressed by one job. See `docs/decisions/parallel-gzip.md` for why this much.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

pub(super) struct ParallelGzip<W: Write> {
    sink: W,
    level: u32,
    pool: Pool,
    pending: InOrder<Pending<io::Result<Vec<u8>>>>,
    /// The block that is being filled.
    block: Vec<u8>,
    has_member: bool,
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
            block: Vec::with_capacity(BLOCK_BYTES),
            has_member: false,
        }
    }

    pub(super) fn sink_mut(&mut self) -> &mut W {
        &mut self.sink
    }

    /// Takes as much of `bytes` as fits into the block.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.start_member()?;
        }
        Ok(taken)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        // Nothing at all is a member too.
        if !self.block.is_empty() || !self.has_member {
            self.start_member()?;
        }
        while let Some(member) = self.pending.pop() {
            self.put(member)?;
        }
        Ok(self.sink)
    }

    fn start_member(&mut self) -> io::Result<()> {
        self.has_member = true;
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        let level = self.level;
        let job = self.pool.run(move || member(&block, level));
        match self.pending.push(job) {
            Some(oldest) => self.put(oldest),
            None => Ok(()),
        }
    }

    fn put(&mut self, member: Pending<io::Result<Vec<u8>>>) -> io::Result<()> {
        let member = member.wait().map_err(io::Error::other)??;
        self.sink.write_all(&member)
    }
}

/// A block as a gzip member; the bytes depend on nothing else.
fn member(block: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let level = match level {
        0 => 0,
        _ if noise::is_noise(block) => 0,
        level => level,
    };
    compressed(block, level)
}

pub(super) fn compressed(block: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let level = i32::try_from(level).map_err(io::Error::other)?;
    let level = CompressionLvl::new(level)
        .map_err(|error| io::Error::other(format!("gzip level {level}: {error:?}")))?;
    let mut compressor = Compressor::new(level);
    let mut bytes = vec![0; compressor.gzip_compress_bound(block.len())];
    let length = compressor
        .gzip_compress(block, &mut bytes)
        .map_err(io::Error::other)?;
    bytes.truncate(length);
    Ok(bytes)
}
