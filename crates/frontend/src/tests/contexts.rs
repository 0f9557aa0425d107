//! Named contexts and main contexts that are no directory.

use longshore_graph::{FileActionKind, GitSource, HttpSource, Source};

use super::{Images, files, linux, lowered, names, sources, try_lower};
use crate::{BuildOptions, ContextSource, FollowPaths, MainContext, NamedContext};

fn with_context(name: &str, context: NamedContext) -> BuildOptions {
    BuildOptions {
        named_contexts: vec![(name.to_owned(), context)],
        ..linux()
    }
}

#[test]
fn an_image_may_be_replaced_by_another() {
    let options = with_context("alpine", NamedContext::Image("other:1".to_owned()));
    let images = Images::new(&["other:1"]);
    let lowered = try_lower("FROM alpine\nRUN x\n", &options, &images).unwrap();
    assert_eq!(images.asked(), ["other:1 linux/amd64"]);
    assert_eq!(names(&lowered), ["[context alpine] other:1", "[1/2] RUN x"]);
    assert!(lowered.platforms[0].base.is_some());
}

#[test]
fn a_context_for_one_platform_goes_first() {
    let mut options = with_context("alpine", NamedContext::Image("other".to_owned()));
    let own = NamedContext::Image("base".to_owned());
    options
        .named_contexts
        .insert(0, ("alpine::linux/amd64".to_owned(), own));
    let images = Images::new(&["base"]);
    try_lower("FROM alpine\n", &options, &images).unwrap();
    assert_eq!(images.asked(), ["base:latest linux/amd64"]);
}

#[test]
fn a_stage_may_be_replaced_and_never_runs() {
    let options = with_context("build", NamedContext::Local("dir".to_owned()));
    let text = "FROM missing AS build\nRUN never\nFROM scratch\nCOPY --from=build /a/b /\n";
    let lowered = lowered(text, &options);
    assert_eq!(names(&lowered)[0], "[context build] load from client");
    assert_eq!(names(&lowered).len(), 2);
    assert_eq!(
        lowered.local_paths["dir"],
        FollowPaths::Paths(vec!["a/b".to_owned()])
    );
    assert!(!lowered.local_paths.contains_key("context"));
}

#[test]
fn what_is_run_on_is_used_whole() {
    let options = with_context("alpine", NamedContext::Local("dir".to_owned()));
    let lowered = lowered("FROM alpine\nRUN x\n", &options);
    assert_eq!(lowered.local_paths["dir"], FollowPaths::All);
    assert!(lowered.platforms[0].base.is_none());
    assert!(lowered.platforms[0].config.config.env[0].starts_with("PATH="));
}

#[test]
fn contexts_may_be_repositories_files_and_layouts() {
    let git = with_context(
        "src",
        NamedContext::Git("https://h/r.git#v1:sub".to_owned()),
    );
    let found = lowered("FROM base\nCOPY --from=src / /\n", &git);
    let is_git = |source: &&&Source| matches!(source, Source::Git(git) if git.reference == "v1" && git.subdir == "sub");
    assert!(sources(&found).iter().any(|source| is_git(&source)));

    let http = with_context("src", NamedContext::Http("https://h/f".to_owned()));
    let found = lowered("FROM base\nCOPY --from=src /context /\n", &http);
    assert!(matches!(sources(&found)[1], Source::Http(http) if http.filename == "context"));

    let layout = NamedContext::OciLayout {
        directory: "d".to_owned(),
        reference: "t".to_owned(),
    };
    let images = Images::new(&["layout"]);
    let found = try_lower("FROM app\nRUN x\n", &with_context("app", layout), &images).unwrap();
    assert_eq!(images.asked(), ["d@t"]);
    assert!(matches!(sources(&found)[0], Source::OciLayout(layout) if layout.manifest.is_some()));

    let scratch = with_context("src", NamedContext::Image("scratch".to_owned()));
    let found = lowered("FROM src\nCOPY a /\n", &scratch);
    assert_eq!(names(&found).len(), 2);
}

#[test]
fn the_main_context_may_be_a_part_of_a_repository() {
    let source = GitSource {
        remote: "https://h/r.git".to_owned(),
        reference: String::new(),
        commit: None,
        checksum: None,
        subdir: String::new(),
        keep_git_dir: false,
        submodules: true,
    };
    let mut options = linux();
    options.main_context = MainContext {
        source: ContextSource::Git(source),
        subdirectory: "../docs".to_owned(),
    };
    options.build_args = vec![("BUILDKIT_CONTEXT_KEEP_GIT_DIR".to_owned(), "1".to_owned())];
    let found = lowered("FROM scratch\nCOPY a /\nCOPY b /\n", &options);
    assert!(matches!(sources(&found)[0], Source::Git(git) if git.keep_git_dir));
    let FileActionKind::Copy(part) = &files(&found)[0].actions[0].kind else {
        panic!("a copy")
    };
    assert!(part.source == "/docs" && part.directory_contents_only);
    assert!(found.local_paths.is_empty());
}

#[test]
fn the_main_context_may_be_an_archive_or_nothing() {
    let source = HttpSource {
        url: "https://h/c.tar".to_owned(),
        checksum: None,
        filename: "context".to_owned(),
        mode: None,
        owner: None,
    };
    let mut options = linux();
    options.main_context = MainContext::of(ContextSource::Http {
        source,
        archive: true,
    });
    let found = lowered("FROM scratch\nCOPY a /\n", &options);
    let FileActionKind::Copy(unpacked) = &files(&found)[0].actions[0].kind else {
        panic!("a copy")
    };
    assert!(unpacked.unpack && unpacked.source == "/context");

    options.main_context = MainContext::of(ContextSource::Empty);
    let found = lowered("FROM scratch\nCOPY a /\n", &options);
    assert!(sources(&found).is_empty());
}
