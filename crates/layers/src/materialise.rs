//! Changes ► files, without a tar stream in between.

use std::os::fd::AsFd;

use crate::directory::{DirectoryError, DirectoryOptions, DirectoryWriter, FileBytes, LowerLayers};
use crate::{Change, Entry, EntryPath, Kind};

/// Creates the files of the layer that `changes` make, sorted by path, below `directory`.
/// Files of the host are copied inside the kernel, and share their blocks where the file
/// system can.
///
/// Gives the directories that were made because an entry needs them, without knowing their
/// metadata; see [`settle_implied_directories`](crate::settle_implied_directories).
///
/// # Errors
/// When a file cannot be read, has changed since it was chosen, or cannot be created. What
/// was created until then is left.
pub fn materialise(
    changes: &[Change],
    directory: impl AsFd,
    options: &DirectoryOptions,
    lower: &dyn LowerLayers,
) -> Result<Vec<EntryPath>, DirectoryError> {
    let mut writer = DirectoryWriter::new(directory.as_fd(), options)?;
    let is_whiteout = |change: &&Change| change.entry.kind == Kind::Whiteout;
    for change in changes.iter().filter(|change| !is_whiteout(change)) {
        let bytes = match change.entry.kind {
            Kind::File { .. } => Some(FileBytes::Named(change.content.clone())),
            _ => None,
        };
        writer.create(&change.entry, bytes)?;
    }
    // Whiteouts come last: a hard link may be to the lower file that one of them hides.
    writer.settle(lower)?;
    for change in changes.iter().filter(is_whiteout) {
        writer.create(&change.entry, None)?;
    }
    let listing: Vec<&Entry> = changes.iter().map(|change| &change.entry).collect();
    writer.finish(&listing, lower)
}
