//! Root file systems that are copies of their layers, for where no overlay can be mounted.
//!
//! ```text
//! layers ──apply, lowest first──► root/ ──a process runs in it──► root/
//!                                   └─ Listing before ──changes_since──► snapshot/fs, overlay's form
//! ```
//!
//! Files are copied inside the kernel and share their blocks where the file system can. The copy of
//! a step whose changes were committed shows just what the step after it stands on: it is kept, and
//! taken by that step instead of a copy of its own.
//!
//! Invariant: a copy shares no writable file with a layer or another copy (no hard links), so what
//! runs in one changes nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_layers::{
    Change, Devices, DirectoryForm, DirectoryOptions, EntryPath, Kept, Listing, NoLowerLayers,
    OverlayAttributes, Ownership, Timestamp, changes_of_overlay, changes_since, materialise,
};

use crate::SnapshotId;
use crate::claim::Claim;
use crate::error::{CopyContext as _, IoContext as _, SnapshotError};
use crate::handles::{copy_root_metadata, open_dir};
use crate::in_place::{Place, shown};
use crate::overlay::OverlayMarks;
use crate::store::{Owners, Pinned, makes_devices};

/// How many copies of committed steps are kept: as many chains of steps go side by side without
/// copying.
const WARM_MAX: usize = 4;

/// Longer than a tick of any file system's clock (FAT: 2 s).
const CLOCK_TICK_MAX: Duration = Duration::from_secs(3);

/// A copy of layers in a claimed directory.
#[derive(Debug)]
pub(crate) struct CopiedRoot {
    directory: PathBuf,
    before: Listing,
    marks: OverlayMarks,
    owners: Owners,
    /// It was handed out, and what changed is not collected yet.
    used: bool,
    /// Where layers have something that it does not show, because something else is kept there.
    left_out: Vec<String>,
}

/// A copy that is no one's at the moment.
#[derive(Debug)]
pub(crate) struct Warm {
    /// What it shows, lowest first.
    pub(crate) layers: Vec<SnapshotId>,
    pub(crate) claim: Claim,
}

impl Warm {
    /// Takes the one that needs the fewest layers more to show `wanted`.
    pub(crate) fn take_longest(kept: &mut Vec<Self>, wanted: &[SnapshotId]) -> Option<Self> {
        let fits = kept.iter().enumerate();
        let fits = fits.filter(|(_, warm)| wanted.starts_with(&warm.layers));
        let (at, _) = fits.max_by_key(|(_, warm)| warm.layers.len())?;
        Some(kept.remove(at))
    }

    /// Keeps one more, and gives back the oldest where there are too many. To drop it deletes a
    /// whole tree, which nobody else should have to wait for.
    #[must_use]
    pub(crate) fn keep(kept: &mut Vec<Self>, warm: Self) -> Option<Self> {
        let oldest = (kept.len() >= WARM_MAX).then(|| kept.remove(0));
        kept.push(warm);
        oldest
    }
}

impl CopiedRoot {
    /// Makes the copy in the claim's `root`, which has the first `have` layers already.
    pub(crate) fn make(
        claim: &Claim,
        parents: &[Pinned],
        have: usize,
        marks: OverlayMarks,
        owners: Owners,
    ) -> Result<Self, SnapshotError> {
        let directory = if have == 0 {
            claim.fresh("root")?
        } else {
            claim.beside("root")
        };
        let kept = &mut Kept::default();
        apply(&parents[have..], &directory, (marks, owners), kept)?;
        Self::list(directory, claim, (marks, owners), kept.clone())
    }

    /// Makes the copy in a place that somebody else is in too.
    pub(crate) fn make_in_place(
        place: &Place,
        claim: &Claim,
        parents: &[Pinned],
        (marks, owners): (OverlayMarks, Owners),
    ) -> Result<Self, SnapshotError> {
        let ids: Vec<SnapshotId> = parents.iter().map(|it| it.id().clone()).collect();
        let (have, mut kept) = place.make_ready(&ids)?;
        let layers = &parents[have..];
        let left_out = apply(layers, &place.directory, (marks, owners), &mut kept)?;
        let mut copied = Self::list(place.directory.clone(), claim, (marks, owners), kept)?;
        copied.left_out = shown(left_out);
        Ok(copied)
    }

    fn list(
        directory: PathBuf,
        claim: &Claim,
        (marks, owners): (OverlayMarks, Owners),
        kept: Kept,
    ) -> Result<Self, SnapshotError> {
        let listed = Listing::around(open_dir(&directory)?, kept);
        let before = listed.copying("list the copied layers")?;
        if let Some(newest) = before.newest_change() {
            wait_until_after(newest, claim)?;
        }
        Ok(Self {
            directory,
            before,
            marks,
            owners,
            used: false,
            left_out: Vec::new(),
        })
    }

    /// What is no part of it.
    pub(crate) fn kept(&self) -> &Kept {
        self.before.kept()
    }

    pub(crate) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The directory, for a process to run in.
    pub(crate) fn hand_out(&mut self) -> &Path {
        self.used = true;
        &self.directory
    }

    /// Copies what has changed to the claim's tree.
    pub(crate) fn collect(&mut self, claim: &Claim) -> Result<(), SnapshotError> {
        if !self.used {
            return Ok(());
        }
        claim.empty_tree()?;
        let (root, tree) = (open_dir(&self.directory)?, claim.tree());
        let attributes = attributes(self.marks);
        let (changes, _) = changes_since(&root, &self.before)
            .copying("tell what has changed in a copy of layers")?;
        let options = options(DirectoryForm::Overlay(attributes), self.owners);
        materialise(&changes, open_dir(&tree)?, &options, &NoLowerLayers)
            .copying("copy what has changed")?;
        copy_root_metadata(root.as_fd(), &tree)?;
        self.used = false;
        Ok(())
    }
}

/// Applies layers to a directory, lowest first, around what is kept there. Gives the paths at
/// which the layers have something that is not there then.
pub(crate) fn apply(
    layers: &[Pinned],
    directory: &Path,
    (marks, owners): (OverlayMarks, Owners),
    kept: &mut Kept,
) -> Result<BTreeSet<EntryPath>, SnapshotError> {
    let options = options(DirectoryForm::Merged, owners);
    let mut left_out = BTreeSet::new();
    for layer in layers {
        let mut changes = changes_of_layer(layer, marks)?;
        let fitted = kept.fit(open_dir(directory)?, &mut changes);
        left_out.extend(fitted.copying("remove what a layer hides")?);
        materialise(&changes, open_dir(directory)?, &options, &NoLowerLayers)
            .copying("copy a layer")?;
    }
    if let Some(top) = layers.last() {
        copy_root_metadata(top.tree().open_root()?.as_fd(), directory)?;
    }
    Ok(left_out)
}

fn changes_of_layer(layer: &Pinned, marks: OverlayMarks) -> Result<Vec<Change>, SnapshotError> {
    changes_of_overlay(layer.tree().open_root()?, attributes(marks))
        .copying("read a layer's directory")
}

/// Waits until whatever changes from now on carries a later time: a tick of the kernel's clock at
/// the most. Where the clock was set back, times differ anyhow.
fn wait_until_after(newest: Timestamp, claim: &Claim) -> Result<(), SnapshotError> {
    let path = claim.beside("clock");
    let deadline = Instant::now() + CLOCK_TICK_MAX;
    while Instant::now() < deadline {
        fs::write(&path, "").at("write", &path)?;
        let now = fs::metadata(&path).at("read", &path)?;
        if (now.ctime(), now.ctime_nsec()) > (newest.seconds, i64::from(newest.nanoseconds)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn attributes(marks: OverlayMarks) -> OverlayAttributes {
    match marks {
        OverlayMarks::Trusted => OverlayAttributes::Trusted,
        OverlayMarks::User => OverlayAttributes::User,
        OverlayMarks::Own => OverlayAttributes::Own,
    }
}

fn options(form: DirectoryForm, owners: Owners) -> DirectoryOptions {
    let mut options = DirectoryOptions::new(form);
    options.ownership = match owners {
        Owners::All => Ownership::Restore,
        Owners::OwnOnly => Ownership::Ignore,
    };
    if !makes_devices() {
        options.devices = Devices::Skip;
    }
    options
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::OverlaySnapshots;
    use crate::trash::Trash;

    #[test]
    fn the_oldest_copy_is_given_back_and_deleted_when_it_is_dropped() {
        let temp = tempfile::tempdir().unwrap();
        OverlaySnapshots::open(temp.path()).unwrap();
        let trash = Arc::new(Trash(temp.path().join("trash")));
        let warm = |n: usize| Warm {
            layers: vec![SnapshotId::new(format!("layer{n}")).unwrap()],
            claim: Claim::new(temp.path(), Arc::clone(&trash)).unwrap(),
        };
        let mut kept = Vec::new();
        for n in 0..WARM_MAX {
            assert!(Warm::keep(&mut kept, warm(n)).is_none());
        }
        let oldest = Warm::keep(&mut kept, warm(WARM_MAX)).unwrap();
        assert_eq!(oldest.layers[0].as_str(), "layer0");
        assert_eq!(kept.len(), WARM_MAX);
        let tree = oldest.claim.tree();
        assert!(tree.exists(), "nothing was deleted yet");
        drop(oldest);
        assert!(!tree.exists());
    }
}
