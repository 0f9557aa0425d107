//! A blob being written by a pipeline of this process.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use longshore_oci::{Algorithm, Digest, Digester};

use crate::local::hash_file;
use crate::{ContentError, LocalStore};

/// Hashes while it writes. Dropped without [`LocalWriter::commit`], its bytes are gone.
#[derive(Debug)]
pub struct LocalWriter {
    store: LocalStore,
    file: File,
    path: PathBuf,
    digester: Digester,
    size_bytes: u64,
    /// A file whose writing failed may have a gap; it can only be dropped.
    failed: bool,
    placed: bool,
}

impl LocalWriter {
    pub(crate) fn create(store: LocalStore, algorithm: Algorithm) -> Result<Self, ContentError> {
        let path = store.tmp_path();
        let file = store
            .inner
            .disk
            .create(&path)
            .map_err(ContentError::io("create", &path))?;
        Ok(Self {
            store,
            file,
            path,
            digester: Digester::new(algorithm),
            size_bytes: 0,
            failed: false,
            placed: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes were written.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes what was written a blob; its digest and size.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`] when it is not `expected`; nothing is kept then.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError> {
        if self.failed {
            let lost = io::Error::other("an earlier write failed");
            return Err(ContentError::io("commit", &self.path)(lost));
        }
        let digest = self.digest_for(expected)?;
        self.store
            .place(&self.file, &self.path, &digest, self.size_bytes)?;
        self.placed = true;
        Ok((digest, self.size_bytes))
    }

    fn digest_for(&self, expected: Option<&Digest>) -> Result<Digest, ContentError> {
        let actual = self.digester.clone().finish();
        let Some(expected) = expected else {
            return Ok(actual);
        };
        let actual = if expected.algorithm() == actual.algorithm() {
            actual
        } else {
            hash_file(&self.file, expected.algorithm())
                .map_err(ContentError::io("read", &self.path))?
        };
        if actual == *expected {
            return Ok(actual);
        }
        Err(ContentError::mismatch(expected, &actual))
    }
}

impl io::Write for LocalWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.store.inner.disk.write(&self.file, content) {
            self.failed = true;
            return Err(error);
        }
        self.digester.update(content);
        self.size_bytes += content.len() as u64;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if !self.placed {
            // Best effort: what stays is swept when the process is gone.
            drop(std::fs::remove_file(&self.path));
        }
    }
}
