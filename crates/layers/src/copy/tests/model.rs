//! Copies of random trees, against a plain implementation on a real file system.
//!
//! The model does with system calls, one after the other, what the rules say; the copier
//! only computes. Both must fail alike, or end with the same tree.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::fixture::{Fixture, copy};
use super::globs::Globs;
use crate::copy::{CopyOptions, Selection};
use crate::{Change, ContentHash, EntryPath, IndexEntry, Kind, LayerIndex, TreeView};

/// What one path of a random tree is.
#[derive(Clone, Debug)]
enum Thing {
    File(&'static str),
    Directory(u32),
    Link(&'static str),
}

type Tree = BTreeMap<String, Thing>;

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn thing() -> impl Strategy<Value = Thing> {
    let targets = vec![
        "a", "b", "../c", "/a", "/b/c", "c/a", "..", "/", "../../b", "/none",
    ];
    prop_oneof![
        3 => prop::sample::select(vec!["", "one", "two"]).prop_map(Thing::File),
        3 => prop::sample::select(vec![0o755, 0o700, 0o1777]).prop_map(Thing::Directory),
        2 => prop::sample::select(targets).prop_map(Thing::Link),
    ]
}

/// Things at paths of up to three names; one that would lie below a file is left out.
fn tree() -> impl Strategy<Value = Tree> {
    let path = prop::collection::vec(name(), 1..=3).prop_map(|names| names.join("/"));
    prop::collection::vec((path, thing()), 0..10).prop_map(|things| {
        let mut tree = Tree::new();
        for (path, thing) in things {
            let above: Vec<String> = path
                .match_indices('/')
                .map(|(at, _)| path[..at].to_owned())
                .collect();
            let fits = |above: &String| matches!(tree.get(above), None | Some(Thing::Directory(_)));
            if above.iter().all(fits) && !tree.contains_key(&path) {
                for directory in above {
                    tree.entry(directory).or_insert(Thing::Directory(0o755));
                }
                tree.insert(path, thing);
            }
        }
        tree
    })
}

fn options() -> impl Strategy<Value = CopyOptions<'static, Globs>> {
    let sources = vec![
        "a", "b", "/a/", "a/b", "c/.", "/", ".", "*", "a/*", "*/b", "?/[ab]", "b/../c", "none*",
    ];
    let dests = vec![
        "/", "/a", "/a/", "/b", "/b/c", "/c/a/", "/new", "/new/x/", "/a/new/b", "/b/..", "/c/.",
    ];
    let source = prop::sample::select(sources);
    let dest = prop::sample::select(dests);
    (source, dest, any::<[bool; 3]>()).prop_map(|(source, dest, [contents, follow, replace])| {
        CopyOptions {
            selection: Selection {
                wildcard: true,
                follow_links: follow,
                directory_contents_only: contents,
                ..Selection::literal(source)
            },
            always_replace: replace,
            ..copy(source, dest)
        }
    })
}

fn text(tree: &Tree) -> String {
    let line = |(path, thing): (&String, &Thing)| match thing {
        Thing::File(content) => format!("file /{path} ={content}\n"),
        Thing::Directory(mode) => format!("dir /{path} {mode:o}\n"),
        Thing::Link(target) => format!("link /{path} {target}\n"),
    };
    tree.iter().map(line).collect()
}

fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn make(root: &Path, tree: &Tree) {
    for (path, thing) in tree {
        let at = root.join(path);
        match thing {
            Thing::File(content) => {
                fs::write(&at, content).unwrap();
                chmod(&at, 0o644).unwrap();
            }
            Thing::Directory(mode) => {
                fs::create_dir(&at).unwrap();
                chmod(&at, *mode).unwrap();
            }
            Thing::Link(target) => symlink(target, &at).unwrap(),
        }
    }
}

/// Every path below `root` and what it is, but modes of links.
fn found(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let what = if metadata.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                pending.push(path.clone());
                format!("dir {mode:o}")
            } else {
                format!("file {mode:o} {}", fs::read_to_string(&path).unwrap())
            };
            let below = path.strip_prefix(root).unwrap();
            found.insert(below.to_str().unwrap().to_owned(), what);
        }
    }
    found
}

/// What the view shows, in the form of [`found`].
fn shown(view: &TreeView) -> BTreeMap<String, String> {
    let hash_names: BTreeMap<ContentHash, &str> = ["", "one", "two"]
        .into_iter()
        .map(|text| (ContentHash::of(text.as_bytes()), text))
        .collect();
    view.walk(&EntryPath::root())
        .filter(|node| !node.entry.path.is_root())
        .map(|node| {
            let mode = node.entry.metadata.mode;
            let what = match &node.entry.kind {
                Kind::Symlink { target } => format!("link {}", String::from_utf8_lossy(target)),
                Kind::Directory { .. } => format!("dir {mode:o}"),
                _ => format!("file {mode:o} {}", hash_names[&node.content.unwrap()]),
            };
            (node.entry.path.to_string()[1..].to_owned(), what)
        })
        .collect()
}

fn index(changes: &[Change]) -> LayerIndex {
    let listed = changes.iter().map(|change| IndexEntry {
        entry: change.entry.clone(),
        content: match &change.content {
            crate::FileContent::Inline(bytes) => Some(ContentHash::of(bytes)),
            _ => matches!(change.entry.kind, Kind::File { .. }).then(ContentHash::of_empty),
        },
        data_offset: None,
    });
    LayerIndex::new(listed.collect()).unwrap()
}

/// The model.
struct Model<'a> {
    source: &'a Path,
    dest: &'a Path,
    options: &'a CopyOptions<'a, Globs>,
}

/// The path without `.` and `..`, none of which leaves the root.
fn lexical(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => _ = clean.pop(),
            _ => {}
        }
    }
    clean
}

/// As if `root` were the root; what does not exist is taken as written.
fn in_root(root: &Path, path: &Path, follow_last: bool) -> io::Result<PathBuf> {
    let parts = |path: &Path| -> Vec<String> {
        let names = path.components().rev();
        let names = names.filter(|it| !matches!(it, Component::RootDir | Component::CurDir));
        names
            .map(|it| it.as_os_str().to_str().unwrap().to_owned())
            .collect()
    };
    let mut pending = parts(path);
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        match fs::read_link(root.join(&next)) {
            Ok(target) if follow_last || !pending.is_empty() => {
                links += 1;
                if links > 255 {
                    return Err(io::Error::other("loop"));
                }
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                pending.extend(parts(&target));
            }
            _ => {
                let metadata = fs::symlink_metadata(root.join(&next));
                if metadata.is_ok_and(|it| !it.is_dir()) && !pending.is_empty() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                done = next;
            }
        }
    }
    Ok(root.join(done))
}

fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make_directories(path.parent().unwrap())?;
    fs::create_dir(path)?;
    chmod(path, 0o755)
}

fn matches(root: &Path, base: &Path, pattern: &str, below: &str, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(base.join(below)) else {
        return;
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names {
        let relative = match below {
            "" => name.clone(),
            below => format!("{below}/{name}"),
        };
        let wildcard = crate::copy::wildcard::Wildcard::new(pattern.as_bytes()).unwrap();
        let path = base.join(&relative);
        if wildcard.matches(relative.as_bytes()) {
            out.push(path.strip_prefix(root).unwrap().to_path_buf());
        } else if path.is_dir() && !path.is_symlink() {
            matches(root, base, pattern, &relative, out);
        }
    }
}

impl Model<'_> {
    fn run(&self) -> io::Result<()> {
        for source in self.sources()? {
            self.copy_one(&source)?;
        }
        Ok(())
    }

    fn follow(&self) -> bool {
        self.options.selection.follow_links
    }

    fn sources(&self) -> io::Result<Vec<PathBuf>> {
        let whole = lexical(self.options.selection.path);
        let text = whole.to_str().unwrap();
        let names: Vec<&str> = text.split('/').collect();
        let is_wild = |name: &&str| name.contains(['*', '?', '[']);
        let Some(first) = names.iter().position(is_wild) else {
            return Ok(vec![whole]);
        };
        let above = PathBuf::from(names[..first].join("/"));
        let base = in_root(self.source, &above, self.follow())?;
        fs::symlink_metadata(&base)?;
        let mut found = Vec::new();
        if !base.is_symlink() {
            matches(
                self.source,
                &base,
                &names[first..].join("/"),
                "",
                &mut found,
            );
        }
        Ok(found)
    }

    fn copy_one(&self, named: &Path) -> io::Result<()> {
        let source = in_root(self.source, named, self.follow())?;
        let metadata = fs::symlink_metadata(&source)?;
        let text = self.options.dest;
        let clean = lexical(text);
        let ensured = match text.ends_with('/') || text.ends_with("/.") {
            true => clean.clone(),
            false => clean.parent().map(Path::to_path_buf).unwrap_or_default(),
        };
        make_directories(&in_root(self.dest, &ensured, true)?)?;
        let mut dest = in_root(self.dest, &clean, true)?;
        let contents = self.options.selection.directory_contents_only && metadata.is_dir();
        let exists = dest.exists();
        if !contents && exists && (metadata.is_dir() || dest.is_dir()) {
            dest = match named.file_name() {
                Some(name) => dest.join(name),
                None => dest,
            };
        }
        match contents && !exists {
            true => make_directories(&dest)?,
            false if dest != self.dest => make_directories(dest.parent().unwrap())?,
            false => {}
        }
        self.copy_item(&source, &dest, true)
    }

    fn copy_item(&self, source: &Path, dest: &Path, top: bool) -> io::Result<()> {
        let metadata = fs::symlink_metadata(source)?;
        let existing = fs::symlink_metadata(dest).ok();
        let mode = metadata.permissions().mode() & 0o7777;
        let both_directories = |it: &fs::Metadata| it.is_dir() && metadata.is_dir();
        let replaced = existing.filter(|it| self.options.always_replace && !both_directories(it));
        match replaced {
            Some(it) if it.is_dir() => fs::remove_dir_all(dest)?,
            Some(_) => fs::remove_file(dest)?,
            None => {}
        }
        let existing = fs::symlink_metadata(dest).ok();
        if metadata.is_dir() {
            match &existing {
                None => {
                    fs::create_dir(dest)?;
                    chmod(dest, mode)?;
                }
                Some(it) if !it.is_dir() => return Err(io::Error::other("not a directory")),
                Some(_) if !top => chmod(dest, mode)?,
                Some(_) => {}
            }
            for entry in fs::read_dir(source)? {
                let name = entry?.file_name();
                self.copy_item(&source.join(&name), &dest.join(&name), false)?;
            }
            return Ok(());
        }
        if let Some(it) = existing {
            if it.is_dir() {
                return Err(io::Error::other("a directory"));
            }
            fs::remove_file(dest)?;
        }
        if metadata.is_symlink() {
            return symlink(fs::read_link(source)?, dest);
        }
        fs::write(dest, fs::read(source)?)?;
        chmod(dest, mode)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_copies_end_as_on_a_file_system(
        source in tree(),
        base in tree(),
        copies in prop::collection::vec(options(), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().join("source"), dir.path().join("dest")];
        for (root, tree) in roots.iter().zip([&source, &base]) {
            fs::create_dir(root).unwrap();
            make(root, tree);
        }
        let (from, onto) = (Fixture::new(&text(&source)), Fixture::new(&text(&base)));
        let mut builder = onto.builder();
        let mut failed = false;
        for options in &copies {
            let model = Model { source: &roots[0], dest: &roots[1], options };
            let (expected, got) = (model.run(), builder.copy(options, &from.source()));
            prop_assert_eq!(expected.is_err(), got.is_err(), "{:?} {:?}", expected, got);
            failed |= got.is_err();
            if failed {
                break;
            }
        }
        if !failed {
            let mut view = onto.view.clone();
            view.push(Arc::new(index(&builder.finish())));
            prop_assert_eq!(shown(&view), found(&roots[1]));
        }
    }
}
