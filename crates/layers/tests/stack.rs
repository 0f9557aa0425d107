//! Random stacks of layers: in tar streams, on disk and in the merged view they are the same.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use common::{any_layer, is_root, listing, open, options, written};
use longshore_layers::copy::LayerContent;
use longshore_layers::{
    Change, ContentHash, DirectoryForm, EntryPath, FileContent, Kind, LayerIndex, LowerLayers,
    Metadata, NoLowerLayers, Node, OverlayAttributes, SquashedLayer, TarLimits, TreeView,
    diff_upper, index_of_tar, materialise, unpack,
};
use proptest::prelude::*;

/// What a view shows, as [`listing`] shows a folder.
fn shown(view: &TreeView) -> Vec<String> {
    let mut first_names = BTreeMap::new();
    let nodes = view.walk(&EntryPath::root()).skip(1);
    nodes
        .map(|node| line(view, &node, &mut first_names))
        .collect()
}

fn line(
    view: &TreeView,
    node: &Node<'_>,
    first_names: &mut BTreeMap<(usize, EntryPath), EntryPath>,
) -> String {
    let at = &node.entry.path;
    let inode = view.inode(node).unwrap();
    let kind = match &inode.entry.kind {
        Kind::Directory { .. } => "dir".to_owned(),
        Kind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
        Kind::Fifo => "fifo".to_owned(),
        Kind::File { .. } => {
            let identity = (inode.layer, inode.entry.path.clone());
            let first = first_names.entry(identity).or_insert_with(|| at.clone());
            match first == at {
                true => node.content.unwrap().to_string()[..12].to_owned(),
                false => format!("= {first}"),
            }
        }
        other => format!("{other:?}"),
    };
    let metadata = &inode.entry.metadata;
    let owner = (metadata.uid, metadata.gid);
    let (mode, time) = (metadata.mode, metadata.mtime.seconds);
    format!("{at} {kind} {mode:o} {}:{} {time}", owner.0, owner.1)
}

/// The straight way to merge: every path in one map, whiteouts looked for among all of them.
fn merged(layers: &[Arc<LayerIndex>]) -> BTreeMap<EntryPath, Kind> {
    let mut all: BTreeMap<EntryPath, Kind> = BTreeMap::new();
    for layer in layers {
        for line in layer.entries() {
            let at = &line.entry.path;
            let kind = &line.entry.kind;
            let merges = matches!(kind, Kind::Directory { opaque: false })
                && matches!(all.get(at), Some(Kind::Directory { .. }));
            if !merges {
                all.retain(|other, _| !other.starts_with(at));
            }
        }
        for line in layer.entries() {
            let mut above = line.entry.path.parent();
            while let Some(parent) = above {
                above = parent.parent();
                if !matches!(all.get(&parent), Some(Kind::Directory { .. })) && !parent.is_root() {
                    all.insert(parent, Kind::Directory { opaque: false });
                }
            }
            if line.entry.kind != Kind::Whiteout {
                all.insert(line.entry.path.clone(), line.entry.kind.clone());
            }
        }
    }
    all
}

/// The directories that a view shows.
struct Below<'a>(&'a TreeView);

impl LowerLayers for Below<'_> {
    fn directory(&self, path: &EntryPath) -> Option<Metadata> {
        let node = self.0.lookup(path).filter(Node::is_directory)?;
        Some(node.entry.metadata.clone())
    }

    fn file(&self, _path: &EntryPath) -> std::io::Result<Option<(OwnedFd, Metadata)>> {
        Ok(None)
    }
}

/// The files of layers that are in memory.
struct InMemory<'a>(&'a [Vec<Change>]);

impl LayerContent for InMemory<'_> {
    fn content(&self, file: &Node<'_>) -> std::io::Result<FileContent> {
        let mut changes = self.0[file.layer].iter();
        let found = changes.find(|change| change.entry.path == file.entry.path);
        Ok(found.unwrap().content.clone())
    }
}

/// A view shows no time for directories that no layer lists, and no opaque marks.
fn without_directory_times(lines: Vec<String>) -> Vec<String> {
    let cut = |line: String| match line.contains(" dir ") {
        true => line.rsplit_once(' ').unwrap().0.to_owned(),
        false => line,
    };
    lines.into_iter().map(cut).collect()
}

fn check_disk(folder: &Path, view: &TreeView) {
    let on_disk = without_directory_times(listing(folder));
    assert_eq!(on_disk, without_directory_times(shown(view)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn a_view_is_what_merging_gives(layers in proptest::collection::vec(any_layer(), 1..6)) {
        let layers: Vec<_> = layers.iter().map(|changes| Arc::new(written(changes).0.index)).collect();
        let view = TreeView::new(&layers);
        let expected: Vec<EntryPath> = merged(&layers).into_keys().collect();
        let found: Vec<EntryPath> = view
            .walk(&EntryPath::root())
            .skip(1)
            .map(|node| node.entry.path.clone())
            .collect();
        prop_assert_eq!(&found, &expected);
        for path in &found {
            prop_assert_eq!(&view.lookup(path).unwrap().entry.path, path);
            let parent = path.parent().unwrap();
            let siblings: Vec<_> = view.read_dir(&parent).unwrap().map(|(name, _)| name.to_vec()).collect();
            prop_assert!(siblings.contains(&path.name().to_vec()));
        }
    }

    #[test]
    fn layers_applied_on_disk_are_what_the_view_shows(
        layers in proptest::collection::vec(any_layer(), 1..5),
    ) {
        if !is_root() {
            common::skip("only root can give files their owners");
            return Ok(());
        }
        let (by_tar, by_name) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = options(DirectoryForm::Merged);
        let mut view = TreeView::empty();
        for changes in &layers {
            let (summary, tar) = written(changes);
            let unpacked =
                unpack(&tar[..], open(by_tar.path()), &options, TarLimits::LAYER, &NoLowerLayers)
                    .unwrap();
            prop_assert_eq!(&unpacked.tar.index, &summary.index);
            prop_assert_eq!(unpacked.tar.diff_id, summary.diff_id);
            materialise(changes, open(by_name.path()), &options, &NoLowerLayers).unwrap();
            view.push(Arc::new(summary.index));
        }
        check_disk(by_tar.path(), &view);
        check_disk(by_name.path(), &view);
    }

    #[test]
    fn squashed_layers_on_their_base_show_what_all_layers_show(
        layers in proptest::collection::vec(any_layer(), 1..6),
        base in 0..6_usize,
    ) {
        let base = base % layers.len();
        let indexes: Vec<_> = layers.iter().map(|changes| Arc::new(written(changes).0.index)).collect();
        let view = TreeView::new(&indexes);
        let squashed = SquashedLayer::new(&view, base);
        let changes = squashed.changes(&InMemory(&layers)).unwrap();
        let (summary, tar) = written(&changes);
        prop_assert_eq!(summary.index.layer_id(), squashed.index().unwrap().layer_id());
        let mut again = TreeView::new(&indexes[..base]);
        again.push(Arc::new(summary.index));
        prop_assert_eq!(shown(&again), shown(&view));
        if is_root() {
            let folder = tempfile::tempdir().unwrap();
            let options = options(DirectoryForm::Merged);
            let tars = layers[..base].iter().map(|changes| written(changes).1);
            for tar in tars.chain([tar]) {
                unpack(&tar[..], open(folder.path()), &options, TarLimits::LAYER, &NoLowerLayers)
                    .unwrap();
            }
            check_disk(folder.path(), &view);
        }
    }

    #[test]
    fn an_upper_directory_gives_back_what_was_put_into_it(
        layers in proptest::collection::vec(any_layer(), 1..4),
        top in any_layer(),
    ) {
        if !is_root() {
            common::skip("only root can create whiteouts");
            return Ok(());
        }
        let index = |changes: &Vec<Change>| Arc::new(written(changes).0.index);
        let lower = TreeView::new(&layers.iter().map(index).collect::<Vec<_>>());
        let upper = tempfile::tempdir().unwrap();
        let options = options(DirectoryForm::Overlay(OverlayAttributes::User));
        materialise(&top, open(upper.path()), &options, &Below(&lower)).unwrap();
        let changes =
            diff_upper(open(upper.path()), &lower, OverlayAttributes::User).unwrap();
        let (mut expected, mut found) = (lower.clone(), lower);
        expected.push(index(&top));
        found.push(index(&changes));
        prop_assert_eq!(
            without_directory_times(shown(&found)),
            without_directory_times(shown(&expected))
        );
    }

    #[test]
    fn an_index_survives_its_stored_form(changes in any_layer(), at in 0..10_000_usize, bit in 0..8_u32) {
        let index = written(&changes).0.index;
        let stored = index.encode();
        prop_assert_eq!(&LayerIndex::decode(&stored).unwrap(), &index);
        let mut damaged = stored.clone();
        let at = at % damaged.len();
        damaged[at] ^= 1_u8 << bit;
        prop_assert!(LayerIndex::decode(&damaged).is_err());
        prop_assert!(LayerIndex::decode(&stored[..at]).is_err());
    }

    #[test]
    fn stored_forms_with_a_right_checksum_never_panic(
        changes in any_layer(),
        edits in proptest::collection::vec((0..4000_usize, any::<u8>()), 1..8),
    ) {
        let mut stored = written(&changes).0.index.encode();
        let body = stored.len() - 32;
        for (at, byte) in edits {
            stored[5 + at % (body - 5)] = byte;
        }
        let checksum = ContentHash::of(&stored[..body]);
        stored[body..].copy_from_slice(&checksum.0);
        if let Ok(index) = LayerIndex::decode(&stored) {
            // Whatever it is now, it keeps the rules of an index.
            prop_assert_eq!(&LayerIndex::decode(&index.encode()).unwrap(), &index);
            TreeView::new(&[Arc::new(index)]);
        }
    }

    #[test]
    fn reading_back_gives_the_index_of_writing(changes in any_layer()) {
        let (summary, tar) = written(&changes);
        let read = index_of_tar(&tar[..], TarLimits::LAYER).unwrap();
        prop_assert_eq!(&read.index, &summary.index);
        prop_assert_eq!(read.diff_id, summary.diff_id);
        prop_assert_eq!(read.size, summary.uncompressed_size);
        prop_assert_eq!(read.index.layer_id(), summary.index.layer_id());
    }

    #[test]
    fn damaged_archives_are_errors_or_layers_but_never_panics(
        changes in any_layer(),
        edits in proptest::collection::vec((0..20_000_usize, any::<u8>()), 1..6),
        cut in 0..20_000_usize,
    ) {
        let (_, mut tar) = written(&changes);
        let length = tar.len();
        for (at, byte) in edits {
            tar[at % length] = byte;
        }
        tar.truncate(length - cut % length);
        let _either = index_of_tar(&tar[..], TarLimits::LAYER);
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let options = options(DirectoryForm::Merged);
        let _either =
            unpack(&tar[..], open(&inside), &options, TarLimits::LAYER, &NoLowerLayers);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        prop_assert_eq!(names.len(), 1);
    }
}

#[test]
fn times_of_directories_are_set_after_what_is_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let changes = [
        common::directory("d"),
        common::directory("d/e"),
        common::file("d/e/f", b"x"),
    ];
    let options = options(DirectoryForm::Merged);
    materialise(&changes, open(folder.path()), &options, &NoLowerLayers).unwrap();
    for line in listing(folder.path()) {
        assert!(line.ends_with(" 1500000000"), "{line}");
    }
    // A later layer that adds to a directory without listing it leaves its time.
    let more = [common::file("d/e/g", b"y")];
    let unknown = materialise(&more, open(folder.path()), &options, &NoLowerLayers).unwrap();
    assert!(unknown.is_empty());
    for line in listing(folder.path()) {
        assert!(line.ends_with(" 1500000000"), "{line}");
    }
}

#[test]
fn files_are_copied_whole_from_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let bytes: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&spool, &bytes).unwrap();
    let range = longshore_layers::FileRange {
        file: Arc::new(std::fs::File::open(&spool).unwrap()),
        offset: 1001,
        size: 2_000_000,
        hash: None,
    };
    let mut part = common::file("part", b"");
    part.entry.kind = Kind::File { size: range.size };
    part.content = FileContent::Range(range);
    part.entry.metadata = Metadata {
        mode: 0o600,
        ..Metadata::default()
    };
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let changes: [Change; 1] = [part];
    let options = options(DirectoryForm::Merged);
    materialise(&changes, open(&out), &options, &NoLowerLayers).unwrap();
    assert!(std::fs::read(out.join("part")).unwrap() == bytes[1001..2_001_001]);
    let (summary, tar) = written(&changes);
    let again = folder.path().join("again");
    std::fs::create_dir(&again).unwrap();
    unpack(
        &tar[..],
        open(&again),
        &options,
        TarLimits::LAYER,
        &NoLowerLayers,
    )
    .unwrap();
    assert_eq!(listing(&again), listing(&out));
    assert_eq!(
        summary.index.entries()[0].content,
        Some(ContentHash::of(&bytes[1001..2_001_001]))
    );
}

/// What a lower layer has: one file.
struct FileBelow(std::path::PathBuf);

impl LowerLayers for FileBelow {
    fn directory(&self, _path: &EntryPath) -> Option<Metadata> {
        None
    }

    fn file(&self, path: &EntryPath) -> std::io::Result<Option<(OwnedFd, Metadata)>> {
        if path.name() != b"gone" {
            return Ok(None);
        }
        let file = std::fs::File::open(&self.0)?;
        Ok(Some((file.into(), Metadata::default())))
    }
}

#[test]
fn a_link_to_what_its_layer_deletes_is_the_file_below_wherever_it_sorts() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    std::fs::write(&below, "from below").unwrap();
    let lower = FileBelow(below.clone());
    let changes = [
        common::hardlink("before", "gone"),
        common::whiteout("gone"),
        common::hardlink("later", "gone"),
    ];
    let forms = [
        DirectoryForm::Merged,
        DirectoryForm::Overlay(OverlayAttributes::Own),
    ];
    for form in forms {
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        if form == DirectoryForm::Merged {
            std::fs::copy(&below, out.join("gone")).unwrap();
        }
        materialise(&changes, open(&out), &options(form), &lower).unwrap();
        for name in ["before", "later"] {
            let found = std::fs::read_to_string(out.join(name)).unwrap();
            assert_eq!(found, "from below", "{name} in {form:?}");
        }
        let left = std::fs::read_to_string(out.join("gone"));
        assert!(left.is_err() || left.unwrap().is_empty(), "{form:?}");
        std::fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn attributes_that_a_later_layer_took_from_a_directory_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let with = |names: &[&str]| {
        let mut change = common::directory("d");
        for name in names {
            let xattrs = &mut change.entry.metadata.xattrs;
            xattrs.insert(name.as_bytes().to_vec(), b"v".to_vec());
        }
        change
    };
    let options = options(DirectoryForm::Merged);
    for layer in [with(&["user.a", "user.b"]), with(&["user.b", "user.c"])] {
        materialise(&[layer], open(folder.path()), &options, &NoLowerLayers).unwrap();
    }
    let at = folder.path().join("d");
    let mut names = vec![0; 1000];
    let length = rustix::fs::listxattr(&at, &mut names[..]).unwrap();
    let mut names: Vec<_> = names[..length].split(|byte| *byte == 0).collect();
    names.retain(|name| name.starts_with(b"user."));
    names.sort();
    assert_eq!(names, [b"user.b", b"user.c"]);
}
