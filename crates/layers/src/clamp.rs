//! Layers whose files are no later than a point in time (`SOURCE_DATE_EPOCH`).
//!
//! ```text
//!  blob ─► decompress, hash ─► headers: time = at most latest ────► DiffId
//!            own thread          content passes as it is         └► compress ─► digest ─► sink
//! ```
//!
//! Invariant: of a layer that [`write_layer`](crate::write_layer) wrote, nothing but times
//! changes; where no file is later, the tar stream comes out byte for byte.

use std::io::{self, Read, Write};

use longshore_oci::{DiffId, Digest};

use crate::pipeline::{Stream, WriteError, WriteOptions};
use crate::pool::WorkerFailed;
use crate::stream::with_hashed_stream;
use crate::tar::{
    END_OF_ARCHIVE, HeaderError, Member, TarError, TarLimits, TarReader, WHITEOUT_PREFIX,
    encode_headers, padding_of, put_marker,
};
use crate::{Change, Kind, Timestamp};

/// How much of the stream is gathered before it is passed on.
const PIECE_BYTES: usize = 256 << 10;

/// What a clamped blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClampedLayer {
    /// The digest of the tar stream as it was.
    pub source_diff_id: DiffId,
    /// The digest of the tar stream now.
    pub diff_id: DiffId,
    /// How long the tar stream is now.
    pub uncompressed_size: u64,
    /// The digest of the blob.
    pub digest: Digest,
    /// How long the blob is.
    pub size: u64,
}

/// Why a blob's times could not be clamped.
#[derive(Debug, thiserror::Error)]
pub enum ClampError {
    /// The stream could not be read or decompressed.
    #[error("cannot read the layer: {0}")]
    Stream(#[from] io::Error),
    /// The stream is no layer.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The new stream could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A worker thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
}

impl From<HeaderError> for ClampError {
    fn from(error: HeaderError) -> Self {
        Self::Write(error.into())
    }
}

/// Which times a layer's files may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// No time is later.
    pub latest: Timestamp,
    /// What is not older was made by the layer's step, at whatever time that ran: it gets
    /// the latest time, also where that is later than its own.
    pub made: Timestamp,
}

impl TimeLimit {
    /// What is later than `latest` gets that time; the rest keeps its own.
    pub fn at(latest: Timestamp) -> Self {
        Self {
            latest,
            made: latest,
        }
    }

    /// The time that a file with this one gets.
    #[must_use]
    pub fn apply(self, time: Timestamp) -> Timestamp {
        if time >= self.made.min(self.latest) {
            return self.latest;
        }
        time
    }

    /// Whether files that are no later than `time` all keep their times.
    #[must_use]
    pub fn keeps_until(self, time: Timestamp) -> bool {
        time <= self.latest && (self.made >= self.latest || time < self.made)
    }
}

/// Limits the times of changes that are not written yet.
pub fn clamp_changes(changes: &mut [Change], limit: TimeLimit) {
    for change in changes {
        let mtime = &mut change.entry.metadata.mtime;
        *mtime = limit.apply(*mtime);
    }
}

/// The latest time in a layer's uncompressed tar stream, and the stream's digest; the start
/// of time where nothing has one.
///
/// # Errors
/// When the stream fails, is no layer, or exceeds a limit.
pub fn latest_time_of_tar(
    stream: impl Read + Send,
    limits: TarLimits,
) -> Result<(Timestamp, DiffId), ClampError> {
    let (latest, diff_id, _) = with_hashed_stream(stream, |stream| {
        let mut reader = TarReader::new(stream, limits);
        let mut latest = Timestamp {
            seconds: i64::MIN,
            nanoseconds: 0,
        };
        while let Some(member) = reader.next_member()? {
            latest = latest.max(member.entry.metadata.mtime);
        }
        Ok::<_, ClampError>(latest)
    })?;
    Ok((latest, diff_id))
}

/// Writes a layer's uncompressed tar stream to `sink` again, its times within the limit.
///
/// # Errors
/// When the stream fails, is no layer or exceeds a limit, or the sink fails.
pub fn clamp_tar<W: Write>(
    stream: impl Read + Send,
    limit: TimeLimit,
    limits: TarLimits,
    options: &WriteOptions,
    sink: W,
) -> Result<(ClampedLayer, W), ClampError> {
    let mut output = Output {
        stream: Stream::new(options, sink)?,
        waiting: Vec::with_capacity(PIECE_BYTES),
    };
    let ((), source_diff_id, _) = with_hashed_stream(stream, |stream| {
        let mut reader = TarReader::new(stream, limits);
        while let Some(mut member) = reader.next_member()? {
            let mtime = &mut member.entry.metadata.mtime;
            *mtime = limit.apply(*mtime);
            put_headers(&member, &mut output.waiting)?;
            if let Kind::File { size } = member.entry.kind {
                output.take_content(&mut reader, size)?;
            }
            output.pass_on_when_full()?;
        }
        Ok::<_, ClampError>(())
    })?;
    output.waiting.extend_from_slice(&END_OF_ARCHIVE);
    output.pass_on()?;
    let uncompressed_size = output.stream.offset();
    let (diff_id, digest, size, sink) = output.stream.finish()?;
    let clamped = ClampedLayer {
        source_diff_id,
        diff_id,
        uncompressed_size,
        digest,
        size,
    };
    Ok((clamped, sink))
}

/// A stream marks deletions by files with reserved names, which no entry can have.
fn put_headers(member: &Member, out: &mut Vec<u8>) -> Result<(), HeaderError> {
    let path = &member.entry.path;
    let is_mark = path.name().starts_with(WHITEOUT_PREFIX);
    if is_mark && matches!(member.entry.kind, Kind::File { size: 0 }) {
        put_marker(&path.parent().unwrap_or_default(), path.name(), out);
        return Ok(());
    }
    encode_headers(&member.entry, out)
}

/// The new stream, handed on in pieces that are worth it.
struct Output<W: Write> {
    stream: Stream<W>,
    waiting: Vec<u8>,
}

impl<W: Write> Output<W> {
    fn take_content(&mut self, reader: &mut impl Read, size: u64) -> Result<(), ClampError> {
        let mut left = size;
        while left > 0 {
            let count = left.min(PIECE_BYTES as u64);
            let read = reader.take(count).read_to_end(&mut self.waiting)? as u64;
            if read < count {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            left -= read;
            self.pass_on_when_full()?;
        }
        self.waiting
            .resize(self.waiting.len() + padding_of(size), 0);
        Ok(())
    }

    fn pass_on_when_full(&mut self) -> Result<(), WriteError> {
        match self.waiting.len() >= PIECE_BYTES {
            true => self.pass_on(),
            false => Ok(()),
        }
    }

    fn pass_on(&mut self) -> Result<(), WriteError> {
        let next = Vec::with_capacity(self.waiting.capacity());
        self.stream
            .write(std::mem::replace(&mut self.waiting, next))
    }
}

#[cfg(test)]
mod tests;
