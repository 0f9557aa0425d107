//! Reading a tar stream on one thread while others decompress and hash it.
//!
//! ```text
//!  reader (decompresses) ─pieces─► parser ─the same pieces─► DiffId
//!      own thread                  caller                    own thread
//! ```

use std::io::{self, Read};
use std::sync::{Arc, mpsc};

use longshore_oci::DiffId;

use crate::pipeline::StreamHasher;
use crate::pool::WorkerFailed;

/// How much is read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// How many pieces may wait to be parsed.
const PIECES_WAITING_MAX: usize = 8;

/// The stream as the parser sees it. What was passed is hashed.
#[derive(Debug)]
pub(crate) struct HashedStream {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    hasher: StreamHasher,
    piece: Arc<Vec<u8>>,
    at: usize,
    bytes: u64,
}

/// Runs `parse` on the bytes of `reader`, then reads on to its end: the DiffId and the size
/// are those of the whole stream, whatever stands behind the end of the archive.
pub(crate) fn with_hashed_stream<T, E: From<io::Error> + From<WorkerFailed>>(
    reader: impl Read + Send,
    parse: impl FnOnce(&mut HashedStream) -> Result<T, E>,
) -> Result<(T, DiffId, u64), E> {
    std::thread::scope(|scope| {
        let (sender, pieces) = mpsc::sync_channel(PIECES_WAITING_MAX);
        let thread = std::thread::Builder::new().name("layer-reader".to_owned());
        thread.spawn_scoped(scope, move || read_pieces(reader, &sender))?;
        let mut stream = HashedStream {
            pieces,
            hasher: StreamHasher::start(),
            piece: Arc::default(),
            at: 0,
            bytes: 0,
        };
        let parsed = parse(&mut stream)?;
        while stream.next_piece()? {}
        let diff_id = DiffId(stream.hasher.finish()?);
        Ok((parsed, diff_id, stream.bytes))
    })
}

fn read_pieces(mut reader: impl Read, pieces: &mpsc::SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = (&mut reader)
            .take(PIECE_BYTES as u64)
            .read_to_end(&mut piece);
        let is_last = piece.is_empty() || read.is_err();
        let result = read.map(|_| piece);
        // Nobody listens any more once parsing has failed.
        if pieces.send(result).is_err() || is_last {
            return;
        }
    }
}

impl HashedStream {
    /// Takes the next piece; false at the end.
    fn next_piece(&mut self) -> io::Result<bool> {
        let piece = match self.pieces.recv() {
            Ok(piece) => piece?,
            Err(mpsc::RecvError) => Vec::new(),
        };
        self.bytes += piece.len() as u64;
        self.at = 0;
        self.piece = self.hasher.update(piece).map_err(io::Error::other)?;
        Ok(!self.piece.is_empty())
    }
}

impl Read for HashedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !buffer.is_empty() && !self.next_piece()? {
            return Ok(0);
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
