use super::*;
use crate::Metadata;

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

fn member(text: &str, kind: Kind) -> Member {
    Member {
        entry: Entry {
            path: path(text),
            kind,
            metadata: Metadata {
                mode: 0o644,
                ..Metadata::default()
            },
        },
        data_offset: None,
    }
}

fn file(text: &str) -> Member {
    member(text, Kind::File { size: 0 })
}

fn dir(text: &str) -> Member {
    member(text, Kind::Directory { opaque: false })
}

fn sym(text: &str, target: &str) -> Member {
    let target = target.as_bytes().to_vec();
    member(text, Kind::Symlink { target })
}

fn link(text: &str, target: &str) -> Member {
    let target = path(target);
    member(text, Kind::Hardlink { target })
}

/// Files have the number of their member as content.
fn assemble(members: Vec<Member>) -> Result<Vec<String>, TarReason> {
    let mut assembly = Assembly::default();
    for (number, member) in members.into_iter().enumerate() {
        if let Some(located) = assembly.locate(member)? {
            let path = located.entry.path.clone();
            let is_file = matches!(located.entry.kind, Kind::File { .. });
            assembly.put(located);
            if is_file {
                assembly.set_content(&path, ContentHash([u8::try_from(number).unwrap(); 32]));
            }
        }
    }
    let index = assembly.finish().unwrap();
    Ok(index.entries().iter().map(line).collect())
}

fn line(entry: &IndexEntry) -> String {
    let kind = match &entry.entry.kind {
        Kind::File { .. } => format!("file {}", entry.content.unwrap().0[0]),
        Kind::Directory { opaque: true } => "opaque".to_owned(),
        Kind::Directory { opaque: false } => "dir".to_owned(),
        Kind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
        Kind::Hardlink { target } => format!("= {target}"),
        Kind::Whiteout => "gone".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{} {kind}", entry.entry.path)
}

#[test]
fn links_of_the_layer_are_followed_inside_the_root() {
    let lines = assemble(vec![
        dir("usr"),
        sym("lib", "usr/lib"),
        sym("up", "../../../../usr"),
        sym("abs", "/up/./share"),
        file("lib/a"),
        file("abs/b"),
        sym("loop", "loop"),
        sym("dots", "../../../../../../etc"),
    ])
    .unwrap();
    assert_eq!(
        lines,
        [
            "/abs -> /up/./share",
            "/dots -> ../../../../../../etc",
            "/lib -> usr/lib",
            "/loop -> loop",
            "/up -> ../../../../usr",
            "/usr dir",
            "/usr/lib/a file 4",
            "/usr/share/b file 5",
        ]
    );
    assert!(matches!(
        assemble(vec![sym("loop", "loop"), file("loop/x")]),
        Err(TarReason::Loop)
    ));
    assert!(matches!(
        assemble(vec![file("f"), file("f/x")]),
        Err(TarReason::NotADirectory(_))
    ));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let lines = assemble(vec![
        dir("a"),
        file("a/x"),
        sym("a", "/etc"),
        dir("a"),
        file("a/y"),
        file("b"),
        dir("b"),
        file("b/z"),
        file("c/implied"),
        file("c"),
    ])
    .unwrap();
    assert_eq!(
        lines,
        [
            "/a dir",
            "/a/y file 4",
            "/b dir",
            "/b/z file 7",
            "/c file 9"
        ]
    );
}

#[test]
fn whiteouts_hide_lower_layers_only_wherever_they_stand() {
    let lines = assemble(vec![
        dir("d"),
        file("d/own"),
        file("d/.wh.own"),
        file(".wh.d"),
        file(".wh.gone"),
        file("e/.wh..wh..opq"),
        file("f/.wh.x"),
        file(".wh.g"),
        file("g/new"),
        file(".wh..wh.plnk"),
        file(".wh..wh.plnk/12.34"),
        file("d/.wh..wh.aufs"),
    ])
    .unwrap();
    assert_eq!(
        lines,
        [
            "/d opaque",
            "/d/own file 1",
            "/e opaque",
            "/f/x gone",
            "/g opaque",
            "/g/new file 8",
            "/gone gone",
        ]
    );
}

#[test]
fn marks_that_mark_nothing_are_refused() {
    for name in [
        ".wh.",
        ".wh..",
        ".wh...",
        "a/.wh.",
        ".wh.x/y",
        ".wh..wh..opq",
    ] {
        let done = assemble(vec![file(name)]);
        assert!(matches!(done, Err(TarReason::Whiteout(_))), "{name}");
    }
    let device = Kind::CharDevice { major: 0, minor: 0 };
    assert!(matches!(
        assemble(vec![member("null", device)]),
        Err(TarReason::WhiteoutDevice)
    ));
}

#[test]
fn a_file_outlives_its_first_name() {
    let lines = assemble(vec![
        file("a"),
        link("b", "a"),
        link("c", "b"),
        file("a"),
        link("d", "c"),
    ])
    .unwrap();
    assert_eq!(lines, ["/a file 3", "/b file 0", "/c = /b", "/d = /b"]);
}

#[test]
fn the_first_name_of_a_file_is_the_file() {
    let lines = assemble(vec![file("m"), link("z", "m"), link("a", "m")]).unwrap();
    assert_eq!(lines, ["/a file 0", "/m = /a", "/z = /a"]);
    let lines = assemble(vec![link("a", "lower"), link("b", "a")]).unwrap();
    assert_eq!(lines, ["/a = /lower", "/b = /lower"]);
}

#[test]
fn hard_links_to_other_kinds_are_their_like() {
    let lines = assemble(vec![
        sym("s", "t"),
        link("l", "s"),
        link("lower", "base/file"),
    ])
    .unwrap();
    assert_eq!(lines, ["/l -> t", "/lower = /base/file", "/s -> t"]);
    for members in [
        vec![dir("d"), link("l", "d")],
        vec![link("l", "l")],
        vec![file("d/x"), link("l", "d")],
        vec![link("l", ".wh.x")],
    ] {
        assert!(matches!(assemble(members), Err(TarReason::LinkTarget(_))));
    }
}

#[test]
fn attributes_that_steer_overlays_are_dropped() {
    let mut assembly = Assembly::default();
    let mut member = file("f");
    for name in [
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "user.kept",
    ] {
        let xattrs = &mut member.entry.metadata.xattrs;
        xattrs.insert(name.as_bytes().to_vec(), b"/etc".to_vec());
    }
    let located = assembly.locate(member).unwrap().unwrap();
    assembly.put(located);
    assembly.set_content(&path("f"), ContentHash::of_empty());
    let index = assembly.finish().unwrap();
    let names: Vec<_> = index.entries()[0].entry.metadata.xattrs.keys().collect();
    assert_eq!(names, [b"user.kept"]);
}
