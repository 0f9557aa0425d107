//! Root file systems in a place that is somebody's already: the container's own root directory,
//! where nothing else can be had (no mount, no `chroot`).
//!
//! ```text
//! place ──clear──► what is kept ──apply layers──► a step's root ──changes──► snapshot
//!                                                   └─ the next step stands on it: only what it lacks is applied
//! ```
//!
//! One at a time: the lock of the place is held by the process, and whoever prepares a root waits
//! for the one before. After `kill -9` the place holds whatever was in it then; the next process
//! does not know what that is, and clears it.
//!
//! Invariant: what is kept is neither listed, written nor removed (see `longshore_layers::Kept`).

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use longshore_layers::{EntryPath, Kept, clear_around};

use crate::SnapshotId;
use crate::error::{CopyContext as _, IoContext as _, SnapshotError};
use crate::handles::open_dir;

/// The place, and what it shows.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    kept: Kept,
    /// The layers that it shows, where that is known, and what is kept then; taken by whoever
    /// prepares a root in it.
    shows: Mutex<Option<(Vec<SnapshotId>, Kept)>>,
    _lock: File,
}

impl Place {
    /// Takes a directory over; `kept` are absolute paths below it.
    pub(crate) fn take(directory: &Path, kept: &[PathBuf]) -> Result<Self, SnapshotError> {
        let lock = File::open(directory).at("open", directory)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SnapshotError::PlaceTaken {
                    path: directory.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(error).at("lock", directory),
        }
        let mut all = Kept::default();
        for path in kept {
            all.add(path_below(directory, path)?);
        }
        Ok(Self {
            directory: directory.to_owned(),
            kept: all,
            shows: Mutex::default(),
            _lock: lock,
        })
    }

    /// How many of these layers the place shows already, and what is kept there; if it shows
    /// anything else it is cleared. From here on nobody knows what it shows, until
    /// [`Self::now_shows`] is called.
    pub(crate) fn make_ready(&self, wanted: &[SnapshotId]) -> Result<(usize, Kept), SnapshotError> {
        if let Some((shown, kept)) = self.shows().take()
            && wanted.starts_with(&shown)
        {
            return Ok((shown.len(), kept));
        }
        clear_around(open_dir(&self.directory)?, &self.kept)
            .copying("clear what an earlier step left in the root directory")?;
        Ok((0, self.kept.clone()))
    }

    pub(crate) fn now_shows(&self, layers: Vec<SnapshotId>, kept: Kept) {
        *self.shows() = Some((layers, kept));
    }

    fn shows(&self) -> std::sync::MutexGuard<'_, Option<(Vec<SnapshotId>, Kept)>> {
        self.shows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole place must not be kept: nothing could ever be put there.
fn path_below(directory: &Path, path: &Path) -> Result<EntryPath, SnapshotError> {
    let below = path.strip_prefix(directory).ok();
    let entry = below.map(|below| EntryPath::new(below.as_os_str().as_encoded_bytes()));
    match entry {
        Some(Ok(entry)) if !entry.is_root() => Ok(entry),
        _ => Err(SnapshotError::NotBelowPlace {
            path: path.to_owned(),
            place: directory.to_owned(),
        }),
    }
}

/// The paths of entries, as a person reads them.
pub(crate) fn shown(paths: BTreeSet<EntryPath>) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{OverlaySnapshots, RootFs, Snapshotter as _};

    struct Fixture {
        temp: tempfile::TempDir,
        store: OverlaySnapshots,
    }

    /// A place with files of its own, and the store in it.
    fn fixture() -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join("place");
        for folder in ["own/state", "usr/lib", "etc"] {
            fs::create_dir_all(place.join(folder)).unwrap();
        }
        for file in ["own/key", "usr/lib/leftover", "etc/hosts"] {
            fs::write(place.join(file), "the container's").unwrap();
        }
        let store = reopen(&place).unwrap();
        Fixture { temp, store }
    }

    fn reopen(place: &Path) -> Result<OverlaySnapshots, SnapshotError> {
        let kept = ["own", "etc/hosts"].map(|it| place.join(it));
        OverlaySnapshots::open_in_place(place.join("own/state"), place, &kept)
    }

    impl Fixture {
        fn place(&self, name: &str) -> PathBuf {
            self.temp.path().join("place").join(name)
        }

        /// A layer with these files.
        fn layer(&self, id: &str, files: &[&str]) -> SnapshotId {
            let id = SnapshotId::new(id).unwrap();
            let pending = self.store.begin(&id).unwrap();
            for file in files {
                let path = pending.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, file).unwrap();
            }
            pending.commit().unwrap();
            id
        }

        /// Runs `step` on layers, and commits what it did.
        fn step(&self, on: &[SnapshotId], id: &str, step: impl FnOnce()) -> SnapshotId {
            let mut active = self.store.prepare_root(on).unwrap();
            let RootFs::Path(path) = active.rootfs().unwrap() else {
                panic!("it is a directory");
            };
            assert_eq!(path, self.place(""));
            step();
            let id = SnapshotId::new(id).unwrap();
            self.store.commit(active, &id).unwrap();
            id
        }

        fn files_of(&self, id: &SnapshotId) -> Vec<String> {
            let tree = self.store.get(id).unwrap().unwrap().tree;
            let crate::tree::Tree::Directory(root) = tree else {
                panic!("it is a directory");
            };
            let mut found = Vec::new();
            let mut todo = vec![root.clone()];
            while let Some(at) = todo.pop() {
                for entry in fs::read_dir(at).unwrap() {
                    let path = entry.unwrap().path();
                    found.push(path.strip_prefix(&root).unwrap().display().to_string());
                    todo.extend(path.is_dir().then_some(path));
                }
            }
            found.sort();
            found
        }
    }

    #[test]
    fn steps_follow_one_another_and_stages_start_clean() {
        let it = fixture();
        let base = it.layer("base", &["bin/sh", "etc/passwd", "etc/hosts"]);
        let first = it.step(std::slice::from_ref(&base), "first", || {
            assert!(it.place("bin/sh").exists() && !it.place("usr").exists());
            fs::write(it.place("made"), "by the first").unwrap();
            fs::write(it.place("own/secret"), "not the step's").unwrap();
        });
        assert_eq!(it.files_of(&first), ["made"]);
        // The next stands on it: what is there is not made again.
        fs::write(it.place("own/state/witness"), "").unwrap();
        let second = it.step(&[base.clone(), first], "second", || {
            assert_eq!(
                fs::read_to_string(it.place("made")).unwrap(),
                "by the first"
            );
            fs::remove_file(it.place("bin/sh")).unwrap();
        });
        assert_eq!(it.files_of(&second), ["bin", "bin/sh"]);
        // Another stage sees nothing of them.
        let third = it.step(&[base], "third", || {
            assert!(it.place("bin/sh").exists() && !it.place("made").exists());
            fs::create_dir(it.place("dir")).unwrap();
        });
        assert_eq!(it.files_of(&third), ["dir"]);
        for path in ["own/key", "etc/hosts"] {
            let text = fs::read_to_string(it.place(path)).unwrap();
            assert_eq!(text, "the container's", "{path}");
        }
    }

    #[test]
    fn a_step_that_was_not_kept_leaves_nothing_to_the_next() {
        let it = fixture();
        let base = it.layer("base", &["a"]);
        let active = it.store.prepare_root(std::slice::from_ref(&base)).unwrap();
        fs::write(it.place("torn"), "").unwrap();
        drop(active);
        it.step(&[base], "next", || assert!(!it.place("torn").exists()));
        // On nothing at all.
        it.step(&[], "scratch", || assert!(!it.place("a").exists()));
    }

    #[test]
    fn what_a_layer_has_in_the_place_of_what_is_kept_is_told() {
        let it = fixture();
        let base = it.layer("base", &["own/key", "etc/hosts", "x"]);
        let active = it.store.prepare_root(&[base]).unwrap();
        assert_eq!(active.left_out(), ["/etc/hosts", "/own"]);
        drop(active);
        assert_eq!(
            fs::read_to_string(it.place("own/key")).unwrap(),
            "the container's"
        );
    }

    #[test]
    fn a_place_is_one_process_s_and_cannot_be_kept_whole() {
        let it = fixture();
        let error = reopen(&it.place("")).unwrap_err();
        assert!(matches!(error, SnapshotError::PlaceTaken { .. }), "{error}");
        drop(it.store);
        let place = it.temp.path().join("place");
        let whole = OverlaySnapshots::open_in_place(
            place.join("own/state"),
            &place,
            std::slice::from_ref(&place),
        );
        assert!(matches!(whole, Err(SnapshotError::NotBelowPlace { .. })));
    }
}
