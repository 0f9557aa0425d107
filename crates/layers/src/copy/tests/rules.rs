//! The rules of `COPY` and `ADD`, one test each.

use expect_test::{Expect, expect};

use super::fixture::{Fixture, copy, layer, render, shown};
use super::globs::Globs;
use crate::Timestamp;
use crate::copy::{
    CopyError, CopyNotice, CopyOptions, MkdirOptions, MkfileOptions, ModeChange, Owner, Principal,
    RemoveOptions, Selection,
};

fn check(source: &str, base: &str, copies: &[CopyOptions<'_, Globs>], expected: Expect) {
    expected.assert_eq(&shown(source, base, copies));
}

fn chmod(mode: &str) -> Option<ModeChange> {
    Some(ModeChange::parse(mode).unwrap())
}

fn named(user: &str, group: Option<&str>) -> Option<Owner> {
    let name = |name: &str| Principal::Name(name.to_owned());
    Some(Owner {
        user: Some(name(user)),
        group: group.map(name),
    })
}

const TREE: &str = "
    file /foo.go 644 @10 =foo
    file /bar.go 600 @11 =bar
    dir /sub 700 @20
    dir /sub/dir1 750 5:6 @21
    dir /sub/dir1/dir2 711 7:8 @22
    file /sub/dir1/dir2/foo 4755 9:9 @23 =deep
    dir /empty 700 @30
";

#[test]
fn a_file_becomes_the_destination_or_goes_into_it() {
    check(
        TREE,
        "dir /dir 1777 3:3 @1",
        &[
            copy("foo.go", "/x"),
            copy("foo.go", "/dir"),
            copy("/bar.go", "/new/"),
        ],
        expect![[r#"
            dir /dir 1777 3:3 @1
            file /dir/foo.go 644 0:0 @10 =foo
            dir /new 755 0:0 @11
            file /new/bar.go 600 0:0 @11 =bar
            file /x 644 0:0 @10 =foo
        "#]],
    );
}

#[test]
fn a_directory_gives_its_contents() {
    // A new destination is made like any implied directory, not like the source; what is
    // in it is as in the source.
    for source in ["sub", "sub/", "sub/.", "/sub", "./sub", "../../sub"] {
        check(
            TREE,
            "",
            &[copy(source, "/d")],
            expect![[r#"
                dir /d 755 0:0 @20
                dir /d/dir1 750 5:6 @21
                dir /d/dir1/dir2 711 7:8 @22
                file /d/dir1/dir2/foo 4755 9:9 @23 =deep
            "#]],
        );
    }
}

#[test]
fn an_existing_directory_keeps_its_metadata_at_the_top_alone() {
    check(
        TREE,
        "
        dir /d 1700 50:60 @1
        dir /d/dir1 700 51:61 @2
        file /d/dir1/kept 600 52:62 @3 =kept
        ",
        &[copy("sub/.", "/d")],
        expect![[r#"
            dir /d 1700 50:60 @20
            dir /d/dir1 750 5:6 @21
            dir /d/dir1/dir2 711 7:8 @22
            file /d/dir1/dir2/foo 4755 9:9 @23 =deep
        "#]],
    );
}

#[test]
fn the_whole_context_goes_anywhere() {
    let tree = "file /a =1\ndir /b 700 @4\nfile /b/c =2";
    check(
        tree,
        "",
        &[copy(".", "/")],
        expect![[r#"
            file /a 644 0:0 =1
            dir /b 700 0:0 @4
            file /b/c 644 0:0 =2
        "#]],
    );
    check(
        tree,
        "",
        &[copy("/", "all/")],
        expect![[r#"
            dir /all 755 0:0
            file /all/a 644 0:0 =1
            dir /all/b 700 0:0 @4
            file /all/b/c 644 0:0 =2
        "#]],
    );
}

#[test]
fn an_empty_directory_is_made_and_nothing_more() {
    check(
        TREE,
        "",
        &[copy("empty", "/e")],
        expect![[r#"
            dir /e 755 0:0 @30
        "#]],
    );
}

#[test]
fn wildcards_match_as_in_go_and_directories_merge() {
    check(
        TREE,
        "",
        &[
            copy("*.go", "/go/"),
            copy("f*.go", "/foo2.go"),
            copy("sub/*", "/subdest/"),
            copy("sub/*/dir2/foo", "/subdest2/"),
            copy("sub/*/dir2/foo", "/subdest3/bar"),
        ],
        expect![[r#"
            file /foo2.go 644 0:0 @10 =foo
            dir /go 755 0:0 @11
            file /go/bar.go 600 0:0 @11 =bar
            file /go/foo.go 644 0:0 @10 =foo
            dir /subdest 755 0:0 @21
            dir /subdest/dir2 711 7:8 @22
            file /subdest/dir2/foo 4755 9:9 @23 =deep
            dir /subdest2 755 0:0 @23
            file /subdest2/foo 4755 9:9 @23 =deep
            dir /subdest3 755 0:0 @23
            file /subdest3/bar 4755 9:9 @23 =deep
        "#]],
    );
}

#[test]
fn a_wildcard_that_matches_nothing_copies_nothing() {
    check(TREE, "", &[copy("none*", "/new/")], expect![""]);
    let strict = CopyOptions {
        allow_empty_wildcard: false,
        ..copy("none*", "/new/")
    };
    check(
        TREE,
        "",
        &[strict],
        expect![[r#"
        error: "none*": not found
    "#]],
    );
    check(
        TREE,
        "",
        &[copy("[", "/")],
        expect![[r#"
        error: syntax error in pattern "["
    "#]],
    );
}

#[test]
fn a_literal_path_must_exist() {
    let missing = |path: &str| match layer(TREE, "", &[copy(path, "/")]) {
        Err(CopyError::NotFound { path, suggestion }) => (path, suggestion),
        other => panic!("{other:?}"),
    };
    let (path, suggestion) = missing("fooo.go");
    assert_eq!(path, "/fooo.go");
    assert_eq!(suggestion.as_deref(), Some("/foo.go"));
    assert_eq!(
        missing("sub/Dir1/dir3/foo").1.as_deref(),
        Some("/sub/dir1/dir2/foo")
    );
    assert_eq!(missing("elsewhere").1, None);
    // Also through a file, and before a wildcard.
    assert_eq!(missing("foo.go/x").0, "/foo.go/x");
    assert_eq!(missing("nowhere/*").0, "/nowhere");
}

#[test]
fn several_sources_onto_one_file_overwrite_one_another() {
    // The documentation asks for a slash; BuildKit does not.
    check(
        TREE,
        "",
        &[copy("*.go", "/x")],
        expect![[r#"
            file /x 644 0:0 @10 =foo
        "#]],
    );
}

#[test]
fn links_are_copied_as_links_but_followed_as_sources() {
    let tree = "
        dir /real
        file /real/file =text
        link /real/inner file
        link /dirlink real
        link /abs /real/file
        link /up ../../../real/file
        link /dangling nowhere
        link /loop loop
    ";
    check(
        tree,
        "",
        &[
            copy("abs", "/a"),
            copy("up", "/u/"),
            copy("dirlink", "/d"),
            copy("dirlink/file", "/f"),
        ],
        expect![[r#"
            file /a 644 0:0 =text
            dir /d 755 0:0
            file /d/file 644 0:0 =text
            link /d/inner file 777 0:0
            file /f 644 0:0 =text
            dir /u 755 0:0
            file /u/up 644 0:0 =text
        "#]],
    );
    check(
        tree,
        "",
        &[copy("dangling", "/")],
        expect![[r#"
        error: "/dangling": not found
    "#]],
    );
    check(
        tree,
        "",
        &[copy("loop", "/")],
        expect![[r#"
        error: too many symbolic links on the way to `/loop`
    "#]],
    );
    let unfollowed = CopyOptions {
        selection: Selection {
            follow_links: false,
            ..Selection::literal("dirlink")
        },
        ..copy("", "/x")
    };
    check(
        tree,
        "",
        &[unfollowed],
        expect![[r#"
        link /x real 777 0:0
    "#]],
    );
}

#[test]
fn the_destination_follows_links_inside_the_root() {
    let base = "
        dir /usr
        dir /usr/lib @4
        link /lib usr/lib
        link /abs /usr
        link /out ../../../../new
        file /usr/target =old
        link /file usr/target
    ";
    check(
        "file /f =new",
        base,
        &[
            copy("f", "/lib/"),
            copy("f", "/abs"),
            copy("f", "/out/sub/g"),
            copy("f", "/file"),
        ],
        expect![[r#"
            dir /new 755 0:0
            dir /new/sub 755 0:0
            file /new/sub/g 644 0:0 =new
            dir /usr 755 0:0
            file /usr/f 644 0:0 =new
            dir /usr/lib 755 0:0 @4
            file /usr/lib/f 644 0:0 =new
            file /usr/target 644 0:0 =new
        "#]],
    );
}

#[test]
fn a_link_below_the_destination_is_replaced_by_a_file_and_in_the_way_of_a_directory() {
    let base = "
        dir /d
        link /d/f /etc
        link /d/sub /etc
        dir /etc
    ";
    check(
        "file /f =new",
        base,
        &[copy("f", "/d/")],
        expect![[r#"
        dir /d 755 0:0
        file /d/f 644 0:0 =new
    "#]],
    );
    let source = "dir /s\ndir /s/sub\nfile /s/sub/x =1";
    check(
        source,
        base,
        &[copy("s", "/d")],
        expect![[r#"
        error: cannot copy to non-directory: /d/sub
    "#]],
    );
    let replace = CopyOptions {
        always_replace: true,
        ..copy("s", "/d")
    };
    check(
        source,
        base,
        &[replace],
        expect![[r#"
        dir /d 755 0:0
        dir /d/sub 755 0:0
        file /d/sub/x 644 0:0 =1
    "#]],
    );
}

#[test]
fn files_and_directories_do_not_replace_each_other() {
    let source = "file /f =1\ndir /d\nfile /d/x =2\ndir /deep\ndir /deep/f\nfile /deep/f/y =3";
    let base = "file /file =old\ndir /dir\ndir /dir/f\nfile /dir/f/in =kept\nfile /top/f =4";
    check(
        source,
        base,
        &[copy("d", "/file")],
        expect![[r#"
        error: cannot copy to non-directory: /file
    "#]],
    );
    check(
        source,
        base,
        &[copy("f", "/dir")],
        expect![[r#"
        error: cannot replace to directory /dir/f with file
    "#]],
    );
    check(
        source,
        base,
        &[copy("deep", "/top")],
        expect![[r#"
        error: cannot copy to non-directory: /top/f
    "#]],
    );
    check(
        source,
        base,
        &[copy("f", "/file/x")],
        expect![[r#"
        error: `/file` is not a directory
    "#]],
    );
    check(
        source,
        base,
        &[copy("f", "/file/")],
        expect![[r#"
        error: `/file` is not a directory
    "#]],
    );
    let replacing = |from, to| CopyOptions {
        always_replace: true,
        ..copy(from, to)
    };
    check(
        source,
        base,
        &[
            replacing("f", "/dir"),
            replacing("deep", "/top"),
            replacing("d", "/file"),
        ],
        expect![[r#"
            dir /dir 755 0:0
            file /dir/f 644 0:0 =1
            dir /file 755 0:0
            file /file/x 644 0:0 =2
            dir /top 755 0:0
            dir /top/f 755 0:0
            file /top/f/y 644 0:0 =3
        "#]],
    );
}

#[test]
fn a_directory_that_was_removed_and_made_again_is_opaque() {
    let base = Fixture::new("dir /d\nfile /d/old =1\ndir /d/sub\nfile /d/sub/older =2");
    let source = Fixture::new("dir /s\ndir /s/sub\nfile /s/sub/new =3");
    let mut builder = base.builder();
    builder
        .remove(&RemoveOptions {
            path: "/d",
            allow_missing: false,
            wildcard: false,
        })
        .unwrap();
    builder.copy(&copy("s", "/d"), &source.source()).unwrap();
    // What the base has there is neither in the way nor removed once more.
    builder
        .copy(&copy("s/sub/new", "/d/old/sub"), &source.source())
        .unwrap();
    builder
        .remove(&RemoveOptions {
            path: "/d/old",
            allow_missing: false,
            wildcard: false,
        })
        .unwrap();
    expect![[r#"
        dir! /d 755 0:0
        dir /d/sub 755 0:0
        file /d/sub/new 644 0:0 =3
    "#]]
    .assert_eq(&render(&builder.finish()));
}

#[test]
fn chown_applies_to_everything_made_and_to_nothing_else() {
    let owned = |from, to| CopyOptions {
        owner: Some(Owner::ids(300, 400)),
        ..copy(from, to)
    };
    check(
        "
        dir /dir 755 100:200
        dir /dir/subdir 700 101:201
        file /dir/subdir/nested 644 102:202 =x
        link /dir/link nested
        ",
        "
        dir /existing 755 500:600
        dir /existing/existingsub 755 501:601
        ",
        &[
            owned("dir/.", "/existing"),
            owned("dir/subdir/nested", "/a/b/c"),
        ],
        expect![[r#"
            dir /a 755 300:400
            dir /a/b 755 300:400
            file /a/b/c 644 300:400 =x
            dir /existing 755 500:600
            link /existing/link nested 777 300:400
            dir /existing/subdir 700 300:400
            file /existing/subdir/nested 644 300:400 =x
        "#]],
    );
}

#[test]
fn without_chown_a_stage_keeps_its_owners_but_implied_directories_are_roots() {
    check(
        "dir /dir 755 100:200\nfile /dir/f 644 102:202 =x",
        "",
        &[copy("dir", "/dir"), copy("dir/f", "/g/f")],
        expect![[r#"
            dir /dir 755 0:0
            file /dir/f 644 102:202 =x
            dir /g 755 0:0
            file /g/f 644 102:202 =x
        "#]],
    );
}

#[test]
fn names_are_those_of_the_base() {
    let base = Fixture::new(
        "
        dir /usr
        file /usr/passwd =app:x:1000:1001::/:
        dir /etc
        link /etc/passwd /usr/passwd
        file /etc/group =staff:x:50:
        ",
    );
    let source = Fixture::new("file /f =x");
    let mut builder = base.builder();
    for (to, owner) in [
        ("/user", named("app", None)),
        ("/both", named("app", Some("staff"))),
        ("/unknown", named("nobody", Some("none"))),
    ] {
        let options = CopyOptions {
            owner,
            ..copy("f", to)
        };
        builder.copy(&options, &source.source()).unwrap();
    }
    assert_eq!(
        builder.notices(),
        [
            CopyNotice::UnknownUser("nobody".to_owned()),
            CopyNotice::UnknownGroup("none".to_owned())
        ]
    );
    expect![[r#"
        file /both 644 1000:50 =x
        file /unknown 644 0:0 =x
        file /user 644 1000:1001 =x
    "#]]
    .assert_eq(&render(&builder.finish()));
}

#[test]
fn names_are_read_from_regular_files_alone() {
    let owned = || CopyOptions {
        owner: named("app", None),
        ..copy("f", "/f")
    };
    for base in ["dir /etc\nfifo /etc/passwd", "dir /etc\ndir /etc/passwd"] {
        let error = layer("file /f =x", base, &[owned()]).unwrap_err();
        assert!(matches!(error, CopyError::Names { .. }), "{base}: {error}");
    }
    for base in [
        "",
        "dir /etc",
        "file /etc =x",
        "dir /etc\nlink /etc/passwd nowhere",
    ] {
        let changes = layer("file /f =x", base, &[owned()]).unwrap();
        assert_eq!(changes.last().unwrap().entry.metadata.uid, 0, "{base}");
    }
}

#[test]
fn an_octal_chmod_applies_to_directories_and_implied_parents_too() {
    let options = CopyOptions {
        mode: chmod("4640"),
        ..copy("sub", "/a/b")
    };
    check(
        TREE,
        "",
        &[options],
        expect![[r#"
            dir /a 640 0:0 @20
            dir /a/b 640 0:0 @20
            dir /a/b/dir1 4640 5:6 @21
            dir /a/b/dir1/dir2 4640 7:8 @22
            file /a/b/dir1/dir2/foo 4640 9:9 @23 =deep
        "#]],
    );
}

#[test]
fn a_symbolic_chmod_changes_what_is_copied_but_not_implied_parents() {
    let options = CopyOptions {
        mode: chmod("u=rwX,go=rX"),
        ..copy("/t", "/a/b")
    };
    check(
        "dir /t 700\ndir /t/d 100\nfile /t/x 700 =1\nfile /t/y 600 =2\nlink /t/l x",
        "dir /a 711",
        &[options],
        expect![[r#"
            dir /a 711 0:0
            dir /a/b 755 0:0
            dir /a/b/d 755 0:0
            link /a/b/l x 777 0:0
            file /a/b/x 755 0:0 =1
            file /a/b/y 644 0:0 =2
        "#]],
    );
}

#[test]
fn parents_keep_the_path_and_make_only_what_is_needed() {
    let tree = "
        dir /foo1 700 1:1 @5
        dir /foo1/foo2 710 2:2 @6
        file /foo1/foo2/bar @7 =bar
        file /foo1/foo2/baz @8 =baz
        dir /foo1/other
    ";
    let parents = |include: &str, to| CopyOptions {
        selection: Selection {
            wildcard: true,
            include: Some(Globs::new(&[include])),
            ..Selection::literal("/")
        },
        ..copy("", to)
    };
    check(
        tree,
        "dir /test\ndir /test/foo1 500 9:9 @1",
        &[
            parents("foo1/foo2/bar", "/"),
            parents("foo1/foo2/ba*", "/test"),
        ],
        expect![[r#"
            dir /foo1 700 1:1 @5
            dir /foo1/foo2 710 2:2 @6
            file /foo1/foo2/bar 644 0:0 @7 =bar
            dir /test 755 0:0
            dir /test/foo1 700 9:9 @1
            dir /test/foo1/foo2 710 2:2 @6
            file /test/foo1/foo2/bar 644 0:0 @7 =bar
            file /test/foo1/foo2/baz 644 0:0 @8 =baz
        "#]],
    );
}

const PIVOTS: &str = "
    dir /test\ndir /test/a\ndir /test/a/b\ndir /test/a/b/c\ndir /test/a/b/c/d
    dir /test/a/b/c/d/e\nfile /test/a/b/c/d/foo\nfile /test/a/b/c/d/e/bay
    dir /test/a/b2\ndir /test/a/b2/c\ndir /test/a/b2/c/d\ndir /test/a/b2/c/d/e
    file /test/a/b2/c/d/e/bar
    dir /test/a/b/c2\ndir /test/a/b/c2/d\ndir /test/a/b/c2/d/e\nfile /test/a/b/c2/d/e/baz
    dir /test/a/b/c2/d/e2\nfile /test/a/b/c2/d/e2/baz
";

/// `COPY --parents BASE/./PATTERN DEST`: paths of what is made.
fn pivot(copies: &[(&str, &str)]) -> String {
    let copies: Vec<CopyOptions<'_, Globs>> = copies
        .iter()
        .map(|(base, pattern)| CopyOptions {
            selection: Selection {
                wildcard: true,
                include: Some(Globs::new(&[pattern])),
                ..Selection::literal(base)
            },
            ..copy("", "/out/")
        })
        .collect();
    let changes = layer(PIVOTS, "", &copies).unwrap();
    let paths: Vec<String> = changes
        .iter()
        .map(|change| change.entry.path.to_string())
        .collect();
    paths.join(" ")
}

#[test]
fn parents_pivot_and_wildcards_combine() {
    assert_eq!(
        pivot(&[("/test/a/b", "c/d")]),
        "/out /out/c /out/c/d /out/c/d/e /out/c/d/e/bay /out/c/d/foo"
    );
    assert_eq!(
        pivot(&[("/test/a/b*", "c/**/e")]),
        "/out /out/c /out/c/d /out/c/d/e /out/c/d/e/bar /out/c/d/e/bay"
    );
    assert_eq!(
        pivot(&[("/test/a/b/c*", "d/**/baz"), ("/test/a/b*", "c/**/bar")]),
        "/out /out/c /out/c/d /out/c/d/e /out/c/d/e/bar /out/d /out/d/e /out/d/e/baz \
         /out/d/e2 /out/d/e2/baz"
    );
    assert_eq!(pivot(&[("/test/a/b2*", "none")]), "/out");
    assert_eq!(pivot(&[("/test/a/b3*", "c")]), "");
}

#[test]
fn required_paths_must_be_selected() {
    let run = |include: &str, required: &str| {
        let required = [required.to_owned()];
        let options = CopyOptions {
            selection: Selection {
                wildcard: true,
                include: Some(Globs::new(&[include])),
                required: &required,
                ..Selection::literal("/")
            },
            ..copy("", "/")
        };
        layer(PIVOTS, "", &[options]).map(|changes| changes.len())
    };
    assert_eq!(run("test/a/b2", "/test/a/b2").unwrap(), 7);
    let error = run("test/none", "/test/none").unwrap_err();
    assert_eq!(error.to_string(), "\"/test/none\": not found");
    // `COPY --parents ./ /`: no pattern is left, and nothing is selected.
    assert_eq!(run("", "/").unwrap_err().to_string(), "\"/\": not found");
}

#[test]
fn excludes_are_relative_to_each_source_and_never_drop_it() {
    let tree = "
        file /a.txt =1
        dir /dir1
        file /dir1/x.png =2
        file /dir1/y.txt =3
        dir /dir1/deep
        file /dir1/deep/z.png =4
        file /dir1/deep/keep.png =5
    ";
    let excluding = |patterns: &[&str], from, to| CopyOptions {
        selection: Selection {
            wildcard: true,
            exclude: Some(Globs::new(patterns)),
            ..Selection::literal(from)
        },
        ..copy("", to)
    };
    check(
        tree,
        "",
        &[
            excluding(&["*.txt"], "*.txt", "/top/"),
            excluding(&["x.png", "deep"], "dir1", "/one/"),
            excluding(&["deep", "!deep/keep.png"], "dir1", "/two/"),
        ],
        expect![[r#"
            dir /one 755 0:0
            file /one/y.txt 644 0:0 =3
            dir /top 755 0:0
            file /top/a.txt 644 0:0 =1
            dir /two 755 0:0
            dir /two/deep 755 0:0
            file /two/deep/keep.png 644 0:0 =5
            file /two/x.png 644 0:0 =2
            file /two/y.txt 644 0:0 =3
        "#]],
    );
}

#[test]
fn hard_links_stay_links_within_one_source() {
    let tree = "
        dir /d
        file /d/b =x
        hard /d/a /d/b
        hard /d/c /d/b
        file /d/other =x
    ";
    check(
        tree,
        "",
        &[copy("d", "/one"), copy("d/*", "/two/")],
        expect![[r#"
            dir /one 755 0:0
            file /one/a 644 0:0 =x
            hard /one/b /one/a 644 0:0
            hard /one/c /one/a 644 0:0
            file /one/other 644 0:0 =x
            dir /two 755 0:0
            file /two/a 644 0:0 =x
            file /two/b 644 0:0 =x
            file /two/c 644 0:0 =x
            file /two/other 644 0:0 =x
        "#]],
    );
    // Overwriting the first name leaves the others one file.
    check(
        "dir /d\nfile /d/a =x\nhard /d/b /d/a\nhard /d/c /d/a\nfile /n =new",
        "",
        &[copy("d", "/d"), copy("n", "/d/a")],
        expect![[r#"
            dir /d 755 0:0
            file /d/a 644 0:0 =new
            file /d/b 644 0:0 =x
            hard /d/c /d/b 644 0:0
        "#]],
    );
}

#[test]
fn devices_pipes_and_attributes_are_copied() {
    check(
        "
        fifo /s/pipe 600 1:2
        char /s/null 1 3
        file /s/f =x +security.capability=cap +user.a=b
        dir /s/d +user.c=d
        ",
        "dir /o\ndir /o/d +user.c=old +user.e=f",
        &[copy("s", "/o")],
        expect![[r#"
            dir /o 755 0:0
            dir /o/d 755 0:0 +user.c=d +user.e=f
            file /o/f 644 0:0 =x +security.capability=cap +user.a=b
            char /o/null 1 3 644 0:0
            fifo /o/pipe 600 1:2
        "#]],
    );
}

#[test]
fn a_timestamp_replaces_every_time() {
    let options = CopyOptions {
        timestamp: Some(99),
        ..copy("sub", "/a/b")
    };
    check(
        TREE,
        "dir /a @1",
        &[options],
        expect![[r#"
            dir /a 755 0:0 @1
            dir /a/b 755 0:0 @99
            dir /a/b/dir1 750 5:6 @99
            dir /a/b/dir1/dir2 711 7:8 @99
            file /a/b/dir1/dir2/foo 4755 9:9 @99 =deep
        "#]],
    );
}

#[test]
fn a_directory_itself_can_be_copied() {
    let whole = |to| CopyOptions {
        selection: Selection {
            directory_contents_only: false,
            ..Selection::literal("sub/dir1")
        },
        ..copy("", to)
    };
    check(
        TREE,
        "dir /there 700",
        &[whole("/new"), whole("/there")],
        expect![[r#"
            dir /new 750 5:6 @21
            dir /new/dir2 711 7:8 @22
            file /new/dir2/foo 4755 9:9 @23 =deep
            dir /there 700 0:0
            dir /there/dir1 750 5:6 @21
            dir /there/dir1/dir2 711 7:8 @22
            file /there/dir1/dir2/foo 4755 9:9 @23 =deep
        "#]],
    );
}

#[test]
fn a_missing_parent_is_an_error_when_it_must_exist() {
    let strict = |to| CopyOptions {
        create_dest_path: false,
        ..copy("foo.go", to)
    };
    check(
        TREE,
        "dir /d",
        &[strict("/d/x"), strict("/y")],
        expect![[r#"
        dir /d 755 0:0
        file /d/x 644 0:0 @10 =foo
        file /y 644 0:0 @10 =foo
    "#]],
    );
    check(
        TREE,
        "dir /d",
        &[strict("/e/x")],
        expect![[r#"
        error: `/e` does not exist
    "#]],
    );
}

#[test]
fn removal_marks_cannot_be_copied() {
    check(
        "file /.wh.x =1",
        "",
        &[copy(".wh.x", "/")],
        expect![[r#"
        error: `/.wh.x` cannot be in a layer: names that start with `.wh.` mark removals
    "#]],
    );
    check(
        "dir /d\ndir /d/.wh.y",
        "",
        &[copy("d", "/")],
        expect![[r#"
        error: `/.wh.y` cannot be in a layer: names that start with `.wh.` mark removals
    "#]],
    );
}

#[test]
fn unicode_and_percent_names_are_taken_literally() {
    check(
        "file /test-äöü.txt =1\nfile /test-%C3%A4.txt =2\nfile /test+aou.txt =3",
        "",
        &[
            copy("test-äöü.txt", "/"),
            copy("test-%C3%A4.txt", "/"),
            copy("test+*.txt", "/"),
        ],
        expect![[r#"
            file /test+aou.txt 644 0:0 =3
            file /test-%C3%A4.txt 644 0:0 =2
            file /test-äöü.txt 644 0:0 =1
        "#]],
    );
}

#[test]
fn paths_cannot_leave_their_roots() {
    check(
        "dir /in\nfile /in/f =1\nlink /in/up ../../../in/f",
        "dir /d\nlink /d/esc ../../../../outside",
        &[copy("../../in/f", "/../../x"), copy("in/up", "/d/esc/y")],
        expect![[r#"
            dir /outside 755 0:0
            file /outside/y 644 0:0 =1
            file /x 644 0:0 =1
        "#]],
    );
}

#[test]
fn mkdir_makes_what_is_missing() {
    let base = Fixture::new("dir /a 700 5:5\nlink /l a\nfile /f =x");
    let mut builder = base.builder().made_at(Timestamp {
        seconds: 7,
        nanoseconds: 0,
    });
    let mkdir = |path, parents, timestamp| MkdirOptions {
        path,
        mode: 0o1750,
        parents,
        owner: Some(Owner::ids(3, 4)),
        timestamp,
    };
    builder.mkdir(&mkdir("/l/b/c", true, None)).unwrap();
    builder.mkdir(&mkdir("/a", true, None)).unwrap();
    builder.mkdir(&mkdir("/d", false, Some(9))).unwrap();
    builder.mkdir(&mkdir("/f", false, None)).unwrap();
    let error = builder.mkdir(&mkdir("/f", true, None)).unwrap_err();
    assert!(matches!(error, CopyError::NotADirectory { .. }));
    let error = builder.mkdir(&mkdir("/x/y", false, None)).unwrap_err();
    assert!(matches!(error, CopyError::Missing { .. }));
    expect![[r#"
        dir /a 700 5:5
        dir /a/b 750 3:4 @7
        dir /a/b/c 750 3:4 @7
        dir /d 750 3:4 @9
    "#]]
    .assert_eq(&render(&builder.finish()));
}

#[test]
fn mkfile_writes_and_a_later_copy_sees_it() {
    let base = Fixture::new("dir /d\nfile /d/old 600 8:8 =old +security.capability=c");
    let mut builder = base.builder();
    let mkfile = |path, content| MkfileOptions {
        path,
        mode: 0o644,
        content,
        owner: None,
        timestamp: Some(5),
    };
    builder.mkfile(&mkfile("/new", b"text")).unwrap();
    builder.mkfile(&mkfile("/d/old", b"")).unwrap();
    let error = builder.mkfile(&mkfile("/d", b"x")).unwrap_err();
    assert!(matches!(error, CopyError::FileOverDirectory { .. }));
    let error = builder.mkfile(&mkfile("/none/x", b"x")).unwrap_err();
    assert!(matches!(error, CopyError::Missing { .. }));

    let empty = Fixture::new("");
    let mut other = empty.builder();
    let heredoc = CopyOptions {
        mode: chmod("755"),
        ..copy("/new", "/bin/script")
    };
    other.copy(&heredoc, &builder).unwrap();
    other.copy(&copy("/d", "/all"), &builder).unwrap();
    expect![[r#"
        dir /all 755 0:0
        file /all/old 600 8:8 @5 =
        dir /bin 755 0:0 @5
        file /bin/script 755 0:0 @5 =text
    "#]]
    .assert_eq(&render(&other.finish()));
    expect![[r#"
        dir /d 755 0:0
        file /d/old 600 8:8 @5 =
        file /new 644 0:0 @5 =text
    "#]]
    .assert_eq(&render(&builder.finish()));
}

#[test]
fn removals_hide_the_base_and_forget_the_layers_own() {
    let base = Fixture::new("dir /d\nfile /d/a =1\nfile /d/b =2\nlink /l d\ndir /e\nfile /e/x =3");
    let source = Fixture::new("file /n =new");
    let mut builder = base.builder();
    builder.copy(&copy("n", "/d/n"), &source.source()).unwrap();
    builder.copy(&copy("n", "/d/a"), &source.source()).unwrap();
    let remove = |path, wildcard| RemoveOptions {
        path,
        allow_missing: false,
        wildcard,
    };
    builder.remove(&remove("/d/n", false)).unwrap();
    builder.remove(&remove("/l/a", false)).unwrap();
    builder.remove(&remove("/l", false)).unwrap();
    builder.remove(&remove("/../e/*", true)).unwrap();
    for (path, wildcard) in [("/d/a", false), ("/none", false)] {
        let error = builder.remove(&remove(path, wildcard)).unwrap_err();
        assert!(matches!(error, CopyError::Missing { .. }), "{path}");
    }
    let error = builder.remove(&remove("a/../..", false)).unwrap_err();
    assert!(matches!(error, CopyError::Root));
    builder
        .remove(&RemoveOptions {
            path: "/d/b/none",
            allow_missing: true,
            wildcard: false,
        })
        .unwrap();
    expect![[r#"
        dir /d 755 0:0
        gone /d/a
        dir /e 755 0:0
        gone /e/x
        gone /l
    "#]]
    .assert_eq(&render(&builder.finish()));
}
