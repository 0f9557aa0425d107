//! Files by URL, as trees, and contexts by URL.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use longshore_dockerfile::TEXT_BYTES_MAX;
use longshore_graph::{HttpSource, redacted_url};
use longshore_layers::{
    Change, Decompressor, Entry, EntryPath, FileContent, FileRange, Kind, LayerIndex, Metadata,
    StreamFormat, TarLimits, Timestamp, index_of_tar,
};
use longshore_oci::Digest;
use tokio::task::spawn_blocking;

use super::download::Download;
use super::{RemoteError, Remotes, Watcher};
use crate::EngineError;
use crate::tree::Tree;

/// The mode of a file that was downloaded, where nothing else is said.
const MODE: u32 = 0o600;
/// The longest name of a file: the kernel's `NAME_MAX`.
const NAME_BYTES_MAX: usize = longshore_layers::limits::NAME_BYTES_MAX;
/// What a context by URL is called in its tree.
const CONTEXT_FILE: &str = "context";
/// The size of a tar header.
const TAR_BLOCK: usize = 512;

/// A context that was downloaded.
#[derive(Debug)]
pub(crate) enum HttpContext {
    /// An archive, which is the context: its file in the store.
    Archive(HttpSource, PathBuf),
    /// Anything else is a Dockerfile alone.
    Dockerfile(HttpSource, Vec<u8>),
}

impl Remotes {
    /// What identifies the file at a URL: a checksum that was given, else what is there now.
    pub(crate) async fn pin_http(
        &self,
        source: &HttpSource,
        watcher: Watcher<'_>,
    ) -> Result<String, EngineError> {
        file_path(source)?;
        let (digest, modified_s) = match self.expected(source)? {
            Some(digest) => (digest, None),
            None => {
                let download = self.download(&source.url, watcher).await?;
                (download.digest, download.modified_s)
            }
        };
        self.found(source, digest);
        let HttpSource {
            filename,
            mode,
            owner,
            ..
        } = source;
        Ok(format!(
            "http 1 {digest} {filename:?} {modified_s:?} {:o} {owner:?}",
            mode.unwrap_or(MODE)
        ))
    }

    /// One file from a URL, as a tree.
    pub(crate) async fn http(
        &self,
        source: &HttpSource,
        watcher: Watcher<'_>,
    ) -> Result<Tree, EngineError> {
        let path = file_path(source)?;
        let download = self.file(source, watcher).await?;
        let change = file_of(source, path, &download);
        let (store, url) = (Arc::clone(self.engine.layers()), redacted_url(&source.url));
        spawn_blocking(move || {
            let changes = vec![change];
            let index = LayerIndex::of_changes(&changes).map_err(EngineError::layer(url))?;
            Ok(Tree::Layers(vec![store.made(index, changes)]))
        })
        .await?
    }

    /// What a lock knows of a file; nothing where the Dockerfile itself says which it is.
    fn locked(&self, source: &HttpSource) -> Result<Option<Digest>, EngineError> {
        match self.held.get() {
            Some(held) if source.checksum.is_none() && !self.is_context(source) => {
                Ok(held.url(&redacted_url(&source.url))?)
            }
            _ => Ok(None),
        }
    }

    /// The digest that a file must have: one that was given, else what the lock says.
    pub(super) fn expected(&self, source: &HttpSource) -> Result<Option<Digest>, EngineError> {
        Ok(source.checksum.or(self.locked(source)?))
    }

    /// Remembers for a lock which file a URL had.
    fn found(&self, source: &HttpSource, digest: Digest) {
        if let Some(held) = self.held.get()
            && source.checksum.is_none()
            && !self.is_context(source)
        {
            held.found_url(redacted_url(&source.url), digest);
        }
    }

    async fn file(
        &self,
        source: &HttpSource,
        watcher: Watcher<'_>,
    ) -> Result<Arc<Download>, EngineError> {
        let Some(expected) = self.expected(source)? else {
            let download = self.download(&source.url, watcher).await?;
            self.found(source, download.digest);
            return Ok(download);
        };
        let download = self.download_of(&source.url, &expected, watcher).await;
        download.map_err(|error| match (error, self.held.get()) {
            (EngineError::Remote(error), Some(held)) if source.checksum.is_none() => match *error {
                RemoteError::Checksum {
                    url,
                    actual,
                    expected,
                } => held.changed(url, *expected, *actual).into(),
                other => other.into(),
            },
            (error, _) => error,
        })
    }

    fn is_context(&self, source: &HttpSource) -> bool {
        self.context_archive.get() == Some(&source.url)
    }

    /// The context at a URL.
    pub(crate) async fn http_context(&self, url: &str) -> Result<HttpContext, EngineError> {
        let source = HttpSource {
            url: url.to_owned(),
            checksum: None,
            filename: CONTEXT_FILE.to_owned(),
            mode: None,
            owner: None,
        };
        let download = self.download(url, None).await?;
        let shown = redacted_url(url);
        let file = Arc::clone(&download.file);
        let (start, size) = (
            spawn_blocking(move || start_of(&file)).await?,
            download.size_bytes,
        );
        if is_archive(&start.map_err(EngineError::io("read", &shown))?) {
            // Only one context is the main one.
            let _ = self.context_archive.set(url.to_owned());
            let path = self.engine.root().blobs().blob_path(&download.digest);
            return Ok(HttpContext::Archive(source, path));
        }
        let limit = TEXT_BYTES_MAX as u64;
        if size > limit {
            return Err(RemoteError::TooLarge { url: shown, limit }.into());
        }
        let text = spawn_blocking(move || read_whole(&download));
        let text = text.await?.map_err(EngineError::io("read", shown))?;
        Ok(HttpContext::Dockerfile(source, text))
    }

    /// When the file was last changed; of a context's archive that does not say, the time of
    /// the newest file in it.
    pub(super) async fn time_of_download(
        &self,
        source: &HttpSource,
    ) -> Result<Option<i64>, EngineError> {
        let download = self.file(source, None).await?;
        if download.modified_s.is_some() || !self.is_context(source) {
            return Ok(download.modified_s);
        }
        let (path, url) = (
            self.engine.root().blobs().blob_path(&download.digest),
            redacted_url(&source.url),
        );
        let limits = self.engine.unpack_limits();
        spawn_blocking(move || {
            let file = File::open(&path).map_err(EngineError::io("open", &path))?;
            let input = Decompressor::new(file, limits).map_err(EngineError::layer(&url))?;
            let archive = index_of_tar(input, TarLimits::within(&limits))
                .map_err(EngineError::layer(&url))?;
            let files = archive
                .index
                .entries()
                .iter()
                .filter(|entry| matches!(entry.entry.kind, Kind::File { .. }));
            Ok(files.map(|entry| entry.entry.metadata.mtime.seconds).max())
        })
        .await?
    }
}

/// Where the file stands in its tree.
fn file_path(source: &HttpSource) -> Result<EntryPath, RemoteError> {
    let name = source.filename.as_str();
    let is_name = name.len() <= NAME_BYTES_MAX && !name.contains('/');
    let path = EntryPath::new(name)
        .ok()
        .filter(|path| is_name && !path.is_root());
    path.ok_or_else(|| RemoteError::FileName {
        url: redacted_url(&source.url),
        name: name.to_owned(),
    })
}

fn file_of(source: &HttpSource, path: EntryPath, download: &Download) -> Change {
    let (uid, gid) = source.owner.unwrap_or_default();
    let size = download.size_bytes;
    let metadata = Metadata {
        mode: source.mode.unwrap_or(MODE),
        uid,
        gid,
        mtime: Timestamp {
            seconds: download.modified_s.unwrap_or(0),
            nanoseconds: 0,
        },
        ..Metadata::default()
    };
    let content = match size {
        0 => FileContent::Empty,
        _ => FileContent::Range(FileRange {
            file: Arc::clone(&download.file),
            offset: 0,
            size,
            hash: None,
        }),
    };
    Change {
        entry: Entry {
            path,
            kind: Kind::File { size },
            metadata,
        },
        content,
    }
}

fn start_of(file: &File) -> std::io::Result<Vec<u8>> {
    let mut start = vec![0; TAR_BLOCK];
    let mut filled = 0;
    while filled < start.len() {
        match file.read_at(&mut start[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    start.truncate(filled);
    Ok(start)
}

fn read_whole(download: &Download) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(download.size_bytes).unwrap_or(usize::MAX)];
    download.file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Whether a file that starts so is a tar archive, or compressed as one would be.
fn is_archive(start: &[u8]) -> bool {
    StreamFormat::of(start) != StreamFormat::Plain || is_tar_header(start)
}

/// Whether this is a tar header, of the oldest kind too: its checksum fits.
fn is_tar_header(block: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(block) = block.get(..TAR_BLOCK) else {
        return false;
    };
    let octal = block[CHECKSUM].iter().skip_while(|byte| **byte == b' ');
    let digits = octal.take_while(|byte| (b'0'..=b'7').contains(byte));
    let mut written = None;
    for digit in digits {
        written = Some(written.unwrap_or(0_u32) * 8 + u32::from(digit - b'0'));
    }
    let counted = block.iter().enumerate().map(|(at, byte)| {
        if CHECKSUM.contains(&at) {
            u32::from(b' ')
        } else {
            u32::from(*byte)
        }
    });
    block[0] != 0 && written == Some(counted.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_beginning() {
        let mut header = tar::Header::new_old();
        header.set_path("Dockerfile").unwrap();
        header.set_size(0);
        header.set_cksum();
        assert!(is_archive(header.as_bytes()));
        let mut other = *header.as_bytes();
        other[0] ^= 1;
        assert!(!is_archive(&other));
        assert!(is_archive(&[0x1f, 0x8b, 8, 0]));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(&[0; TAR_BLOCK]));
        assert!(!is_archive(&[b' '; TAR_BLOCK]));
        assert!(!is_archive(b""));
    }

    #[test]
    fn names_of_files_stay_in_their_tree() {
        let path = |filename: &str| {
            file_path(&HttpSource {
                url: "http://u:p@h/".to_owned(),
                checksum: None,
                filename: filename.to_owned(),
                mode: None,
                owner: None,
            })
        };
        assert_eq!(path("a b").unwrap().as_bytes(), b"a b");
        for bad in ["..", ".", "", "/", "a/b", "../x", "a\0b", &"x".repeat(300)] {
            let error = path(bad).unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
