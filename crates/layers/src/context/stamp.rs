//! When a file's stamp vouches for its content.

use std::time::SystemTime;

use crate::{FileStamp, Timestamp};

/// A file system's clock ticks this coarsely at worst (FAT), and another machine's clock
/// (NFS) may be off by about as much. Changes that are younger than this when a file is
/// read may be followed by others with the same timestamps.
const CLOCK_GRANULARITY_SECONDS: i64 = 2;

/// Whether every change of the file after `moment` shows in its stamp.
///
/// This is git's rule for racily clean index entries: a file that changed in the same
/// clock tick in which it was read, or in the future, may change again without a trace.
pub(super) fn settled_before(stamp: &FileStamp, moment: Timestamp) -> bool {
    let newest = stamp.mtime.seconds.max(stamp.ctime.seconds);
    newest.saturating_add(CLOCK_GRANULARITY_SECONDS) < moment.seconds
}

/// The wall clock, to compare with file timestamps.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds: 999_999_999,
        }
    }

    #[test]
    fn a_stamp_settles_once_the_clock_has_moved_on() {
        let stamp = FileStamp {
            device: 1,
            inode: 2,
            size: 3,
            mtime: at(50),
            ctime: at(100),
        };
        assert!(!settled_before(&stamp, at(99)), "changed in the future");
        assert!(!settled_before(&stamp, at(100)), "changed in the same tick");
        assert!(!settled_before(&stamp, at(102)), "within the granularity");
        assert!(settled_before(&stamp, at(103)));
        let future = FileStamp {
            mtime: at(500),
            ..stamp
        };
        assert!(!settled_before(&future, at(103)), "mtime counts too");
    }
}
