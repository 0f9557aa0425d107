use super::*;

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

fn listed(text: &str, kind: Kind) -> IndexEntry {
    let content = matches!(kind, Kind::File { .. }).then(|| ContentHash::of(text.as_bytes()));
    IndexEntry {
        entry: Entry {
            path: path(text),
            kind,
            metadata: Metadata::default(),
        },
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

fn link(text: &str, target: &str) -> IndexEntry {
    let target = target.as_bytes().to_vec();
    listed(text, Kind::Symlink { target })
}

fn layer(entries: Vec<IndexEntry>) -> Arc<LayerIndex> {
    Arc::new(LayerIndex::new(entries).unwrap())
}

fn shown(view: &TreeView) -> Vec<String> {
    view.walk(&EntryPath::root())
        .map(|node| format!("{}@{}", node.entry.path, node.layer))
        .collect()
}

#[test]
fn whiteouts_and_opaque_directories_hide_lower_layers_only() {
    let base = layer(vec![
        dir("a"),
        file("a/x"),
        file("a/y"),
        dir("b"),
        file("b/z"),
    ]);
    let top = layer(vec![
        listed("a/x", Kind::Whiteout),
        listed("b", Kind::Directory { opaque: true }),
        file("b/new"),
    ]);
    let view = TreeView::new(&[base, top]);
    assert_eq!(shown(&view), ["/@0", "/a@0", "/a/y@0", "/b@1", "/b/new@1"]);
}

#[test]
fn a_file_replaces_a_directory_and_a_needed_parent_replaces_a_link() {
    let base = layer(vec![dir("d"), file("d/x"), link("l", "d")]);
    let top = layer(vec![file("d"), file("l/in")]);
    let view = TreeView::new(&[base, top]);
    assert_eq!(shown(&view), ["/@0", "/d@1", "/l@1", "/l/in@1"]);
    assert!(view.lookup(&path("l")).unwrap().is_directory());
}

#[test]
fn an_unlisted_parent_keeps_what_lower_layers_say() {
    let mut owned = dir("a");
    owned.entry.metadata.uid = 7;
    let view = TreeView::new(&[layer(vec![owned]), layer(vec![file("a/b/c")])]);
    assert_eq!(view.lookup(&path("a")).unwrap().entry.metadata.uid, 7);
    let implied = view.lookup(&path("a/b")).unwrap();
    assert_eq!((implied.entry.metadata.mode, implied.layer), (0o755, 1));
}

#[test]
fn links_are_followed_inside_the_root() {
    let view = TreeView::new(&[layer(vec![
        dir("usr"),
        dir("usr/lib"),
        link("lib", "usr/lib"),
        link("usr/up", "../../../../usr"),
        link("abs", "/usr/up/lib"),
        link("loop", "loop"),
        file("f"),
    ])]);
    let at = |text: &str, follow| view.resolve(text, follow).unwrap();
    assert_eq!(at("/lib/x/y", true).path, path("usr/lib/x/y"));
    assert_eq!(at("/lib/x/y", true).missing, 2);
    assert_eq!(at("abs", true).path, path("usr/lib"));
    assert_eq!(at("abs", false).path, path("abs"));
    assert_eq!(at("../..//abs/./..", true).path, path("usr"));
    assert_eq!(at("lib/new/../other", true).path, path("usr/lib/other"));
    assert!(matches!(
        view.resolve("loop", true),
        Err(ResolveError::Loop(_))
    ));
    assert_eq!(at("loop", false).path, path("loop"));
    assert!(matches!(
        view.resolve("f/x", true),
        Err(ResolveError::NotADirectory { .. })
    ));
}

#[test]
fn hard_links_lead_to_their_file_even_when_its_name_is_gone() {
    let base = layer(vec![
        file("a"),
        listed("b", Kind::Hardlink { target: path("a") }),
    ]);
    let top = layer(vec![
        listed("a", Kind::Whiteout),
        listed("c", Kind::Hardlink { target: path("a") }),
    ]);
    let view = TreeView::new(&[base, top]);
    for name in ["b", "c"] {
        let node = view.lookup(&path(name)).unwrap();
        assert_eq!(node.content, Some(ContentHash::of(b"a")), "{name}");
        assert_eq!(view.inode(&node).unwrap().entry.path, path("a"));
    }
}

#[test]
fn pushing_a_layer_leaves_clones_as_they_were() {
    let view = TreeView::new(&[layer(vec![dir("a"), file("a/x")])]);
    let mut more = view.clone();
    more.push(layer(vec![listed("a/x", Kind::Whiteout), file("a/y")]));
    assert_eq!(shown(&view), ["/@0", "/a@0", "/a/x@0"]);
    assert_eq!(shown(&more), ["/@0", "/a@0", "/a/y@1"]);
}

#[test]
fn the_deepest_allowed_tree_is_walked_and_dropped() {
    let deep = vec!["d"; crate::limits::PATH_COMPONENTS_MAX].join("/");
    let view = TreeView::new(&[layer(vec![file(&deep)])]);
    let count = view.walk(&EntryPath::root()).count();
    assert_eq!(count, crate::limits::PATH_COMPONENTS_MAX + 1);
}
