//! How much the build cache may take, and what goes when it takes more.
//!
//! The build cache is what no image, no repository of the registry and no push needs: blobs,
//! layers' directories, cache mounts, mirrors of git repositories. [`Engine::make_room`] lets go
//! of what is worth least (see `content::gc`) until the limits hold; [`SpaceKeeper`] has that
//! done while a build writes. What a running build has leased stays, whatever the limits say.
//!
//! [`Engine::make_room`]: crate::Engine::make_room

mod keeper;
mod others;
mod prune;
mod room;

use std::path::Path;

use crate::EngineError;

pub(crate) use keeper::SpaceKeeper;
pub use prune::{CacheKind, PruneRequest, Pruned, PrunedItem};
pub use room::CacheSpace;

const GB: u64 = 1_000_000_000;
/// What stays in any case, by default: this, or a tenth of the file system where that is less.
const RESERVED_DEFAULT: u64 = 10 * GB;
/// What may be taken, by default: this, or four fifths of the file system where that is less.
const MAX_USED_DEFAULT: u64 = 100 * GB;
/// What must stay free of the file system, by default, percent.
const MIN_FREE_DEFAULT_PERCENT: u8 = 20;

/// An amount of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Bytes.
    Bytes(u64),
    /// Percent of the file system.
    Percent(u8),
}

impl Space {
    fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total_bytes / 100 * u64::from(percent.min(100)),
        }
    }
}

/// What the build cache may take; BuildKit's words. What is not said has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceLimits {
    /// So much stays, even when the disk is full.
    pub reserved: Option<Space>,
    /// No more than this; 0 for any amount.
    pub max_used: Option<Space>,
    /// So much of the file system stays free; 0 for none.
    pub min_free: Option<Space>,
}

/// A file system's size.
#[derive(Clone, Copy, Debug)]
struct Disk {
    total_bytes: u64,
    free_bytes: u64,
}

impl Disk {
    fn of(path: &Path) -> Result<Self, EngineError> {
        let found = rustix::fs::statvfs(path)
            .map_err(|error| EngineError::io("measure the file system of", path)(error.into()))?;
        Ok(Self {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }
}

impl SpaceLimits {
    /// How many of `used_bytes` may stay.
    fn keep_bytes(&self, used_bytes: u64, disk: Disk) -> u64 {
        let total = disk.total_bytes;
        let max_used = match self.max_used {
            Some(space) => space.of(total),
            None => MAX_USED_DEFAULT.min(Space::Percent(80).of(total)),
        };
        let max_used = if max_used == 0 { u64::MAX } else { max_used };
        let min_free = self
            .min_free
            .unwrap_or(Space::Percent(MIN_FREE_DEFAULT_PERCENT));
        let lacking = min_free.of(total).saturating_sub(disk.free_bytes);
        let reserved = match self.reserved {
            Some(space) => space.of(total),
            // A cap below the default means what it says.
            None => RESERVED_DEFAULT.min(total / 10).min(max_used),
        };
        let keep = match lacking {
            0 => max_used,
            lacking => max_used.min(used_bytes.saturating_sub(lacking)),
        };
        keep.max(reserved)
    }

    /// How much to go down to where there is more than `keep_bytes`: a little below, so that
    /// the next layer does not begin it again.
    fn target_bytes(&self, keep_bytes: u64, disk: Disk) -> u64 {
        let reserved = self.reserved.map_or(0, |space| space.of(disk.total_bytes));
        (keep_bytes / 10 * 9).max(reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Disk = Disk {
        total_bytes: 1000 * GB,
        free_bytes: 500 * GB,
    };

    fn limits(reserved: Option<u64>, max_used: Option<u64>, min_free: Option<u64>) -> SpaceLimits {
        let space = |gb: Option<u64>| gb.map(|gb| Space::Bytes(gb * GB));
        SpaceLimits {
            reserved: space(reserved),
            max_used: space(max_used),
            min_free: space(min_free),
        }
    }

    #[test]
    fn by_default_a_large_disk_keeps_100_gb_and_a_small_one_four_fifths() {
        let defaults = SpaceLimits::default();
        assert_eq!(defaults.keep_bytes(300 * GB, DISK), 100 * GB);
        let small = Disk {
            total_bytes: 50 * GB,
            free_bytes: 20 * GB,
        };
        assert_eq!(defaults.keep_bytes(45 * GB, small), 40 * GB);
    }

    #[test]
    fn a_full_disk_takes_from_the_cache_down_to_what_is_reserved() {
        let full = Disk {
            total_bytes: 1000 * GB,
            free_bytes: 150 * GB,
        };
        let defaults = SpaceLimits::default();
        assert_eq!(defaults.keep_bytes(80 * GB, full), 30 * GB);
        assert_eq!(defaults.keep_bytes(20 * GB, full), 10 * GB);
        let nothing_reserved = limits(Some(0), None, None);
        assert_eq!(nothing_reserved.keep_bytes(20 * GB, full), 0);
    }

    #[test]
    fn a_cap_below_what_is_reserved_by_default_holds() {
        assert_eq!(limits(None, Some(2), None).keep_bytes(5 * GB, DISK), 2 * GB);
        let reserved = limits(Some(3), Some(2), None);
        assert_eq!(reserved.keep_bytes(5 * GB, DISK), 3 * GB);
        assert_eq!(reserved.target_bytes(3 * GB, DISK), 3 * GB);
    }

    #[test]
    fn zero_is_no_limit() {
        let none = limits(None, Some(0), Some(0));
        assert_eq!(none.keep_bytes(900 * GB, DISK), u64::MAX);
    }

    #[test]
    fn percentages_are_of_the_file_system() {
        let third = SpaceLimits {
            max_used: Some(Space::Percent(30)),
            ..SpaceLimits::default()
        };
        assert_eq!(third.keep_bytes(900 * GB, DISK), 300 * GB);
    }
}
