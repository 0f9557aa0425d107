//! An upload's file: content that arrives in pieces, across processes if need be.
//!
//! The file's length is the offset. One handle at a time holds the file's lock; the kernel
//! drops it with the process, so an upload is never stuck. The digest is carried along while
//! one handle lives; a new handle hashes what is there already, once.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use longshore_oci::{Algorithm, Digest, Digester};

use crate::local::hash_file;
use crate::process::absent_is_fine;
use crate::{BlobInfo, ContentError, LocalStore, UploadId};

#[derive(Debug)]
pub(crate) struct UploadFile {
    store: LocalStore,
    file: File,
    path: PathBuf,
    digester: Digester,
    offset: u64,
}

impl UploadFile {
    pub(crate) fn open(
        store: LocalStore,
        id: &UploadId,
        algorithm: Algorithm,
    ) -> Result<Self, ContentError> {
        let path = store.upload_path(id);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(ContentError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ContentError::UploadBusy(id.to_string()));
            }
            Err(TryLockError::Error(error)) => return Err(ContentError::io("lock", &path)(error)),
        }
        let metadata = file.metadata().map_err(ContentError::io("stat", &path))?;
        if metadata.nlink() == 0 {
            // Committed or aborted between our open and our lock.
            return Err(ContentError::UploadBusy(id.to_string()));
        }
        let mut digester = Digester::new(algorithm);
        resume(&file, &mut digester).map_err(ContentError::io("read", &path))?;
        Ok(Self {
            store,
            file,
            path,
            digester,
            offset: metadata.len(),
        })
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends; takes back what a failed write left, so that the length stays the truth.
    pub(crate) fn append(&mut self, content: &[u8]) -> Result<(), ContentError> {
        if let Err(error) = self.store.inner.disk.write(&self.file, content) {
            self.file
                .set_len(self.offset)
                .map_err(ContentError::io("truncate", &self.path))?;
            return Err(ContentError::io("write", &self.path)(error));
        }
        self.digester.update(content);
        self.offset += content.len() as u64;
        Ok(())
    }

    pub(crate) fn commit(self, expected: Option<&Digest>) -> Result<BlobInfo, ContentError> {
        let carried = self.digester.clone().finish();
        let actual = match expected {
            Some(expected) if expected.algorithm() != carried.algorithm() => {
                hash_file(&self.file, expected.algorithm())
                    .map_err(ContentError::io("read", &self.path))?
            }
            _ => carried,
        };
        if let Some(expected) = expected
            && *expected != actual
        {
            return Err(ContentError::mismatch(expected, &actual));
        }
        self.store
            .place(&self.file, &self.path, &actual, self.offset)
    }

    pub(crate) fn abort(self) -> Result<(), ContentError> {
        absent_is_fine(self.store.inner.disk.remove(&self.path))
            .map_err(ContentError::io("remove", &self.path))
    }
}

fn resume(mut file: &File, digester: &mut Digester) -> io::Result<()> {
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let count = io::Read::read(&mut file, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        digester.update(&buffer[..count]);
    }
}
