//! Whether a snapshot survived the last crash.
//!
//! Snapshots are not synced to disk when they are committed: that would cost more than making
//! them. Each carries a `state` file of one line instead:
//!
//! ```text
//! boot 0b5c7a6e-…     made during this boot of the machine, not synced since
//! synced              on disk, whatever happens
//! ```
//!
//! A snapshot is whole if it was synced or was made during the present boot. Everything else, an
//! empty or torn `state` file too, is treated as absent.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::error::{IoContext as _, SnapshotError};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const STATE_FILE: &str = "state";
/// `boot ` and a UUID are 41 bytes; nothing longer is ours.
const STATE_BYTES_MAX: u64 = 128;

/// This boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot(String);

/// What a snapshot's `state` file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Synced,
    /// Whole, as long as the machine stays up.
    Unsynced,
    /// Absent, of an earlier boot, or torn.
    Void,
}

impl Boot {
    pub(crate) fn current() -> Result<Self, SnapshotError> {
        let path = Path::new(BOOT_ID);
        Ok(Self(
            fs::read_to_string(path).at("read", path)?.trim().to_owned(),
        ))
    }

    /// Writes the state of a snapshot that is about to be committed.
    pub(crate) fn mark_unsynced(&self, snapshot: &Path) -> Result<(), SnapshotError> {
        let path = snapshot.join(STATE_FILE);
        fs::write(&path, format!("boot {}\n", self.0)).at("write", &path)
    }

    /// An unreadable state is an error, not [`State::Void`]: what is void gets deleted.
    pub(crate) fn state_of(&self, snapshot: &Path) -> Result<State, SnapshotError> {
        let path = snapshot.join(STATE_FILE);
        match read_line(&path) {
            Ok(line) if line == b"synced\n" => Ok(State::Synced),
            Ok(line) if line == format!("boot {}\n", self.0).as_bytes() => Ok(State::Unsynced),
            Ok(_) => Ok(State::Void),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::Void),
            Err(error) => Err(error).at("read", &path),
        }
    }
}

/// Marks a snapshot whose files were synced before. A crash on the way leaves the old state.
pub(crate) fn mark_synced(snapshot: &Path) -> Result<(), SnapshotError> {
    let (path, next) = (snapshot.join(STATE_FILE), snapshot.join("state.next"));
    let mut file = File::create(&next).at("create", &next)?;
    file.write_all(b"synced\n").at("write", &next)?;
    file.sync_all().at("sync", &next)?;
    fs::rename(&next, &path).at("rename", &next)
}

fn read_line(path: &Path) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    File::open(path)?
        .take(STATE_BYTES_MAX)
        .read_to_end(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_boot_or_synced_counts() {
        let temp = tempfile::tempdir().unwrap();
        let boot = Boot("now".to_owned());
        assert_eq!(
            boot.state_of(temp.path()).unwrap(),
            State::Void,
            "no state file"
        );
        for (line, expected) in [
            ("boot now\n", State::Unsynced),
            ("synced\n", State::Synced),
            ("boot before\n", State::Void),
            ("boot now", State::Void),
            ("", State::Void),
            ("synced", State::Void),
        ] {
            fs::write(temp.path().join(STATE_FILE), line).unwrap();
            assert_eq!(boot.state_of(temp.path()).unwrap(), expected, "{line:?}");
        }
        mark_synced(temp.path()).unwrap();
        assert_eq!(boot.state_of(temp.path()).unwrap(), State::Synced);
    }
}
