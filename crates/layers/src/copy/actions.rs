//! Making directories and files, and removing.

use crate::copy::overlay::{Leaf, Shown};
use crate::copy::resolve::{clean, join};
use crate::copy::selection::expand;
use crate::copy::{CopyError, LayerBuilder, MkdirOptions, MkfileOptions, RemoveOptions};
use crate::{EntryPath, FileContent, Kind, Metadata, Timestamp};

/// An extended attribute that the kernel drops when a file is written to.
const CAPABILITY: &[u8] = b"security.capability";

impl LayerBuilder<'_> {
    /// Makes a directory; one that exists stays as it is.
    ///
    /// # Errors
    /// When something on the way is missing or no directory.
    pub fn mkdir(&mut self, options: &MkdirOptions<'_>) -> Result<(), CopyError> {
        let (uid, gid) = self.owner(options.owner.as_ref())?.unwrap_or_default();
        let metadata = Metadata {
            mode: options.mode & 0o777,
            uid,
            gid,
            mtime: self.stated(options.timestamp),
            ..Metadata::default()
        };
        let path = self.overlay.resolve(&clean(options.path)?)?;
        if options.parents {
            return self.make_directories(&path, &metadata);
        }
        match self.overlay.show(&path) {
            // Like BuildKit, even where it is no directory.
            Some(_) => Ok(()),
            None => self.overlay.make_directory(&path, metadata),
        }
    }

    /// Writes a file; one that exists keeps its mode, and its owner unless one is given.
    ///
    /// # Errors
    /// When its directory is missing, or it is itself a directory.
    pub fn mkfile(&mut self, options: &MkfileOptions<'_>) -> Result<(), CopyError> {
        let owner = self.owner(options.owner.as_ref())?;
        let path = self.overlay.resolve(&clean(options.path)?)?;
        let mut metadata = match self.overlay.show(&path) {
            Some(Shown::Directory(_)) => return Err(CopyError::FileOverDirectory { path }),
            Some(shown) => shown.node().metadata,
            None => Metadata {
                mode: options.mode & 0o777,
                ..Metadata::default()
            },
        };
        if let Some((uid, gid)) = owner {
            (metadata.uid, metadata.gid) = (uid, gid);
        }
        metadata.mtime = self.stated(options.timestamp);
        metadata.xattrs.remove(CAPABILITY);
        let content = match options.content {
            [] => FileContent::Empty,
            bytes => FileContent::Inline(bytes.into()),
        };
        // Other names of the same file keep their content, as on an overlay file system,
        // where writing parts them.
        let leaf = Leaf {
            kind: Kind::File {
                size: options.content.len() as u64,
            },
            metadata,
            content,
            link: None,
        };
        self.overlay.put(&path, leaf)
    }

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// When nothing is there, unless that is allowed, or it is the root.
    pub fn remove(&mut self, options: &RemoveOptions<'_>) -> Result<(), CopyError> {
        let paths = match options.wildcard {
            true => expand(self, options.path, false)?,
            false => vec![clean(options.path)?],
        };
        for path in paths {
            self.remove_one(&path, options.allow_missing)?;
        }
        Ok(())
    }

    fn remove_one(&mut self, path: &EntryPath, allow_missing: bool) -> Result<(), CopyError> {
        let parent = path.parent().ok_or(CopyError::Root)?;
        let path = match self.overlay.resolve(&parent) {
            Err(CopyError::NotADirectory { .. }) if allow_missing => return Ok(()),
            parent => join(&parent?, path.name())?,
        };
        match self.overlay.show(&path) {
            Some(_) => self.overlay.remove(&path),
            None if allow_missing => Ok(()),
            None => Err(CopyError::Missing { path }),
        }
    }

    fn stated(&self, seconds: Option<i64>) -> Timestamp {
        match seconds {
            None => self.time,
            Some(seconds) => Timestamp {
                seconds,
                nanoseconds: 0,
            },
        }
    }
}
