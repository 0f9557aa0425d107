use std::sync::Arc;

use super::*;
use crate::ContentHash;

fn listed(text: &str, kind: Kind) -> IndexEntry {
    let content = matches!(kind, Kind::File { .. }).then(|| ContentHash::of(text.as_bytes()));
    let entry = Entry {
        path: EntryPath::new(text).unwrap(),
        kind,
        metadata: Metadata::default(),
    };
    IndexEntry {
        entry,
        content,
        data_offset: None,
    }
}

fn dir(text: &str) -> IndexEntry {
    listed(text, Kind::Directory { opaque: false })
}

fn file(text: &str) -> IndexEntry {
    listed(text, Kind::File { size: 1 })
}

fn gone(text: &str) -> IndexEntry {
    listed(text, Kind::Whiteout)
}

fn hard(text: &str, target: &str) -> IndexEntry {
    let target = EntryPath::new(target).unwrap();
    listed(text, Kind::Hardlink { target })
}

/// The second and later layers as one on the first: `path`, `-path` removed, `path!` opaque,
/// `path=first` a hard link.
fn squashed(layers: Vec<Vec<IndexEntry>>) -> Vec<String> {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|entries| Arc::new(LayerIndex::new(entries).unwrap()))
        .collect();
    let view = TreeView::new(&layers);
    let index = SquashedLayer::new(&view, 1).index().unwrap();
    let line = |line: &IndexEntry| match &line.entry.kind {
        Kind::Whiteout => format!("-{}", line.entry.path),
        Kind::Directory { opaque: true } => format!("{}!", line.entry.path),
        Kind::Hardlink { target } => format!("{}={target}", line.entry.path),
        _ => line.entry.path.to_string(),
    };
    index.entries().iter().map(line).collect()
}

#[test]
fn what_was_made_and_removed_above_the_base_is_not_there() {
    let base = vec![dir("a"), file("a/old")];
    let first = vec![file("a/new"), file("temporary")];
    let second = vec![gone("a/old"), gone("temporary")];
    assert_eq!(squashed(vec![base, first, second]), ["/a/new", "-/a/old"]);
}

#[test]
fn a_directory_that_was_made_again_hides_what_the_base_has_in_it() {
    let base = vec![dir("d"), dir("d/e"), file("d/e/f"), file("d/g")];
    let first = vec![gone("d")];
    let second = vec![dir("d"), file("d/g")];
    assert_eq!(squashed(vec![base, first, second]), ["/d!", "/d/g"]);
}

#[test]
fn a_directory_that_keeps_something_of_the_base_lists_what_it_lost() {
    let base = vec![dir("d"), file("d/kept"), file("d/lost")];
    let first = vec![dir("d"), gone("d/lost")];
    let second = vec![file("d/new")];
    assert_eq!(
        squashed(vec![base, first, second]),
        ["/d", "-/d/lost", "/d/new"]
    );
}

#[test]
fn a_file_in_the_place_of_a_directory_needs_no_marks() {
    let base = vec![dir("d"), file("d/a")];
    assert_eq!(squashed(vec![base, vec![file("d")]]), ["/d"]);
    let base = vec![file("d")];
    assert_eq!(
        squashed(vec![base, vec![dir("d"), file("d/a")]]),
        ["/d", "/d/a"]
    );
}

#[test]
fn names_of_one_file_stay_so_and_the_first_that_is_left_is_the_file() {
    let base = vec![file("x")];
    let first = vec![file("a"), hard("b", "a"), hard("c", "a")];
    let second = vec![file("a")];
    let layers = vec![base, first, second];
    assert_eq!(squashed(layers.clone()), ["/a", "/b", "/c=/b"]);
    let layers: Vec<_> = layers
        .into_iter()
        .map(|entries| Arc::new(LayerIndex::new(entries).unwrap()))
        .collect();
    let index = SquashedLayer::new(&TreeView::new(&layers), 1)
        .index()
        .unwrap();
    let hash = |text: &str| index.find(&EntryPath::new(text).unwrap()).unwrap().content;
    assert_eq!(hash("b"), Some(ContentHash::of(b"a")));
}

#[test]
fn nothing_above_the_base_is_nothing() {
    assert!(squashed(vec![vec![dir("a"), file("a/b")]]).is_empty());
}
