//! Digests of passing streams.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use longshore_oci::{Algorithm, Digest, Digester};

use crate::pool::WorkerFailed;

/// How many pieces may wait for the hashing thread.
const PIECES_WAITING_MAX: usize = 8;

/// Hashes a stream on a thread of its own: SHA-256 cannot be split, and beside everything
/// else on one thread it would hold the compressing threads up.
#[derive(Debug)]
pub(crate) struct StreamHasher(Hashing);

#[derive(Debug)]
enum Hashing {
    Thread {
        pieces: mpsc::SyncSender<Arc<Vec<u8>>>,
        thread: JoinHandle<Digest>,
    },
    /// Where no thread could be had.
    Here(Box<Digester>),
}

impl StreamHasher {
    pub(crate) fn start() -> Self {
        let (pieces, receiver) = mpsc::sync_channel::<Arc<Vec<u8>>>(PIECES_WAITING_MAX);
        let thread = std::thread::Builder::new().name("diff-id".to_owned());
        let started = thread.spawn(move || {
            let mut digester = Digester::new(Algorithm::Sha256);
            for piece in receiver {
                digester.update(&piece);
            }
            digester.finish()
        });
        Self(match started {
            Ok(thread) => Hashing::Thread { pieces, thread },
            Err(_) => Hashing::Here(Box::new(Digester::new(Algorithm::Sha256))),
        })
    }

    /// Hashes the next piece and hands it back.
    pub(crate) fn update(&mut self, piece: Vec<u8>) -> Result<Arc<Vec<u8>>, WorkerFailed> {
        let piece = Arc::new(piece);
        match &mut self.0 {
            Hashing::Thread { pieces, .. } => {
                pieces.send(Arc::clone(&piece)).map_err(|_| WorkerFailed)?;
            }
            Hashing::Here(digester) => digester.update(&piece),
        }
        Ok(piece)
    }

    pub(crate) fn finish(self) -> Result<Digest, WorkerFailed> {
        match self.0 {
            Hashing::Thread { pieces, thread } => {
                drop(pieces);
                thread.join().map_err(|_| WorkerFailed)
            }
            Hashing::Here(digester) => Ok(digester.finish()),
        }
    }
}

/// Hashes and counts what goes into a sink.
#[derive(Debug)]
pub(crate) struct HashingSink<W> {
    sink: W,
    digester: Digester,
    size: u64,
}

impl<W: Write> HashingSink<W> {
    pub(crate) fn new(sink: W) -> Self {
        Self {
            sink,
            digester: Digester::new(Algorithm::Sha256),
            size: 0,
        }
    }

    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64, W)> {
        self.sink.flush()?;
        Ok((self.digester.finish(), self.size, self.sink))
    }
}

impl<W: Write> Write for HashingSink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.digester.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
