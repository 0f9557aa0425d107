//! What the key of a selection covers.

use super::fixture::Fixture;
use super::globs::Globs;
use crate::copy::{CopyError, Selection, SelectionDigest, selection_digest};

const TREE: &str = "
    dir /src 755 1:1 @1
    file /src/a 644 1:1 @2 =one +user.x=y
    dir /src/sub 755 @3
    file /src/sub/b @4 =two
    link /src/link a
    fifo /src/pipe
    char /src/dev 1 3
    file /other =three
";

fn selection(path: &str) -> Selection<'_, Globs> {
    Selection {
        wildcard: true,
        ..Selection::literal(path)
    }
}

fn digest(tree: &str, selection: &Selection<'_, Globs>) -> SelectionDigest {
    selection_digest(&Fixture::new(tree).source(), selection).unwrap()
}

#[test]
fn everything_that_is_copied_counts_but_no_times() {
    let original = digest(TREE, &selection("src"));
    let changed = |from: &str, to: &str| {
        let tree = TREE.replace(from, to);
        assert_ne!(tree, TREE);
        digest(&tree, &selection("src"))
    };
    for (from, to) in [
        ("=one", "=two"),
        ("/src/a 644", "/src/a 600"),
        ("644 1:1 @2", "644 2:1 @2"),
        ("644 1:1 @2", "644 1:2 @2"),
        ("user.x=y", "user.x=z"),
        (" +user.x=y", ""),
        ("file /src/a", "file /src/c"),
        ("/src/sub 755", "/src/sub 700"),
        ("link a", "link b"),
        ("fifo", "file"),
        ("dev 1 3", "dev 1 5"),
        ("file /src/sub/b @4 =two", ""),
    ] {
        assert_ne!(changed(from, to), original, "{from} -> {to}");
    }
    for (from, to) in [
        ("@2", "@9"),
        ("@3", "@9"),
        ("=three", "=four"),
        ("file /other =three", ""),
        // The directory whose contents are copied gives nothing but its time.
        ("/src 755 1:1 @1", "/src 700 2:2 @9"),
    ] {
        assert_eq!(changed(from, to), original, "{from} -> {to}");
    }
}

#[test]
fn a_directory_that_is_copied_itself_counts() {
    let whole = Selection {
        directory_contents_only: false,
        ..selection("src")
    };
    let tree = TREE.replace("/src 755", "/src 700");
    assert_ne!(digest(TREE, &whole), digest(&tree, &whole));
}

#[test]
fn what_is_excluded_does_not_count() {
    let excluding = Selection {
        exclude: Some(Globs::new(&["sub", "pipe"])),
        ..selection("src")
    };
    let tree = TREE.replace("=two", "=other").replace("fifo /src/pipe", "");
    assert_eq!(digest(TREE, &excluding), digest(&tree, &excluding));
    assert_ne!(digest(TREE, &excluding), digest(TREE, &selection("src")));
}

#[test]
fn only_what_is_included_counts_with_its_directories() {
    let including = Selection {
        include: Some(Globs::new(&["src/sub/b"])),
        ..selection("/")
    };
    let tree = TREE.replace("=one", "=other").replace("=three", "");
    assert_eq!(digest(TREE, &including), digest(&tree, &including));
    let tree = TREE.replace("/src/sub 755", "/src/sub 700");
    assert_ne!(digest(TREE, &including), digest(&tree, &including));
}

#[test]
fn names_count_for_wildcards() {
    let both = |a: &str, b: &str| format!("file /{a} =x\nfile /{b} =y");
    let wild = selection("f*");
    assert_eq!(
        digest(&both("fa", "z"), &wild),
        digest("file /fa =x", &wild)
    );
    assert_ne!(
        digest(&both("fa", "fb"), &wild),
        digest(&both("fb", "fa"), &wild)
    );
    assert_ne!(digest("file /fa =x", &wild), digest("file /fb =x", &wild));
    assert_eq!(digest("", &wild), digest("file /g =x", &wild));
}

#[test]
fn boundaries_between_fields_count() {
    let a = digest("dir /d\nfile /d/ab =c", &selection("d"));
    let b = digest("dir /d\nfile /d/a =bc", &selection("d"));
    assert_ne!(a, b);
    let nested = digest("dir /d\ndir /d/a\nfile /d/a/b =c", &selection("d"));
    assert_ne!(a, nested);
}

#[test]
fn links_are_followed_as_they_are_copied() {
    let tree = "dir /real\nfile /real/f =x\nlink /l real\nlink /real/f2 f";
    let through = selection("l/f");
    let changed = tree.replace("=x", "=y");
    assert_ne!(digest(tree, &through), digest(&changed, &through));
    let unfollowed = Selection {
        follow_links: false,
        ..selection("l")
    };
    assert_eq!(digest(tree, &unfollowed), digest(&changed, &unfollowed));
}

#[test]
fn hard_links_count_as_files() {
    let linked = "dir /d\nfile /d/a =x\nhard /d/b /d/a";
    let copied = "dir /d\nfile /d/a =x\nfile /d/b =x";
    assert_eq!(
        digest(linked, &selection("d")),
        digest(copied, &selection("d"))
    );
}

#[test]
fn missing_paths_are_told() {
    let tree = Fixture::new(TREE);
    let error = selection_digest(&tree.source(), &selection("srcs/a")).unwrap_err();
    let CopyError::NotFound { path, suggestion } = error else {
        panic!("{error}");
    };
    assert_eq!(
        (path.as_str(), suggestion.as_deref()),
        ("/srcs/a", Some("/src/a"))
    );
    let required = ["/src/none".to_owned()];
    let including = Selection {
        include: Some(Globs::new(&["src/none"])),
        required: &required,
        ..selection("/")
    };
    assert!(selection_digest(&tree.source(), &including).is_err());
}
