//! A layer's files straight from its archive, for who only reads them: no directory is made of it.
//!
//! Invariant: what is read is what the layer's index says, by hash.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use longshore_layers::{
    ContentHash, EntryPath, FileContent, FileRange, IndexEntry, Kind, LayerIndex, index_of_tar,
};
use longshore_oci::Digest;

use super::{Layer, LayerStore};
use crate::EngineError;

/// The largest file that is read alone: `/etc/passwd` of a large system is far smaller.
const SINGLE_FILE_BYTES_MAX: u64 = 1 << 20;

/// A layer's archive, uncompressed, in a file without a name.
#[derive(Debug)]
pub(crate) struct LayerArchive {
    file: Arc<File>,
    index: LayerIndex,
}

impl LayerArchive {
    /// The bytes of the regular file at `path`; `None` where they are not in one piece.
    pub(crate) fn content(&self, path: &EntryPath) -> Option<FileContent> {
        let line = self.index.find(path)?;
        let Kind::File { size } = line.entry.kind else {
            return None;
        };
        Some(FileContent::Range(FileRange {
            file: Arc::clone(&self.file),
            offset: line.data_offset?,
            size,
            hash: line.content,
        }))
    }
}

impl LayerStore {
    /// Whether the layer's directory is here.
    pub(crate) fn has_directory(&self, layer: &Layer) -> Result<bool, EngineError> {
        Ok(self.usable_snapshot(layer)?.is_some())
    }

    /// The layer's archive, of any blob, in one pass.
    pub(crate) async fn archive(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
    ) -> Result<LayerArchive, EngineError> {
        let blob = self.any_blob(layer).await?;
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || store.copy_archive(&layer, blob)).await?
    }

    fn copy_archive(&self, layer: &Layer, blob: Digest) -> Result<LayerArchive, EngineError> {
        let place = self.root.path();
        let file =
            tempfile::tempfile_in(place).map_err(EngineError::io("make a file in", place))?;
        let input = Copied {
            input: self.open_archive(layer, &blob)?,
            copy: &file,
        };
        let read =
            index_of_tar(input, self.tar_limits()).map_err(EngineError::layer(layer.key.text()))?;
        self.check_diff_id(layer, blob, read.diff_id)?;
        Ok(LayerArchive {
            file: Arc::new(file),
            index: read.index,
        })
    }

    /// A small file of a layer, for which the archive is read up to it and no further; `None`
    /// where that cannot be done.
    pub(crate) async fn single_file(
        self: &Arc<Self>,
        layer: &Arc<Layer>,
        path: &EntryPath,
    ) -> Result<Option<FileContent>, EngineError> {
        let index = self.index(layer).await?;
        let Some((offset, size, hash)) = index.find(path).and_then(small_file) else {
            return Ok(None);
        };
        let blob = self.any_blob(layer).await?;
        let (store, layer) = (Arc::clone(self), Arc::clone(layer));
        tokio::task::spawn_blocking(move || {
            let archive = store.open_archive(&layer, &blob)?;
            let bytes =
                read_part(archive, offset, size).map_err(EngineError::layer(layer.key.text()))?;
            // The index may be of another archive with the same files in other places.
            let is_it = ContentHash::of(&bytes) == hash;
            Ok(is_it.then(|| FileContent::Inline(bytes.into())))
        })
        .await?
    }
}

fn small_file(line: &IndexEntry) -> Option<(u64, u64, ContentHash)> {
    match line.entry.kind {
        Kind::File { size } if size <= SINGLE_FILE_BYTES_MAX => {
            Some((line.data_offset?, size, line.content?))
        }
        _ => None,
    }
}

fn read_part(mut archive: impl Read, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    io::copy(&mut archive.by_ref().take(offset), &mut io::sink())?;
    let mut bytes = Vec::new();
    archive.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Copies to a file what is read.
struct Copied<'a, R> {
    input: R,
    copy: &'a File,
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}
