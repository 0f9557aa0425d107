//! Contexts that are not directories: repositories, archives and Dockerfiles by URL.

use std::fs;
use std::os::unix::fs::symlink;

use super::repository::{FIRST_COMMIT_S, Repository, smart_http};
use super::web::{Answer, Web};
use crate::harness::{Exported, Sandbox, peer, tool};

/// Builds a context by its URL and exports the result.
fn exported(sandbox: &Sandbox, context: &str, flags: &[&str]) -> Exported {
    let archive = sandbox.path("exported.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let args = ["build", "-o", &output, context];
    sandbox.ok(args.into_iter().chain(flags.iter().copied()));
    Exported::read(&archive)
}

#[test]
fn a_repository_is_a_context() {
    let Some(_) = tool("git") else { return };
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("a", "a"),
        (".dockerignore", "a\n"),
        ("d/Dockerfile", dockerfile),
        ("d/b", "b"),
        ("d/Other", "FROM scratch\nCOPY b /other\n"),
    ];
    let repository = Repository::with(folder.join("r"), &files);
    repository.git(["branch", "old"]);
    repository.commit(&[("a", "new")]);
    let web = smart_http(&folder, None);
    let url = web.url("/r.git");
    // Ignore files are for directories of this machine.
    assert_eq!(exported(&sandbox, &url, &[]).text("a"), "new");
    assert_eq!(
        exported(&sandbox, &format!("{url}#old"), &[]).text("a"),
        "a"
    );
    for context in [format!("{url}#:d"), format!("{url}?ref=main&subdir=d")] {
        let root = exported(&sandbox, &context, &[]);
        assert!(root.has("b") && !root.has("a"), "{context}");
    }
    assert_eq!(
        exported(&sandbox, &format!("{url}#main:d"), &["-f", "Other"]).text("other"),
        "b"
    );
    let kept = exported(
        &sandbox,
        &url,
        &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"],
    );
    assert!(kept.has(".git/HEAD"));
    let again = sandbox.ok(["build", &url]);
    assert_eq!(again.ran(), Vec::<String>::new());
    sandbox
        .run(["build", &format!("{url}?what=x")])
        .failure(1, &["unexpected query"]);
    sandbox
        .run(["build", &format!("{url}#:absent")])
        .failure(1, &["absent"]);
}

#[test]
fn cve_2026_33748_links_of_a_stranger_do_not_lead_out_of_the_context() {
    let Some(_) = tool("git") else { return };
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let secret = sandbox.path("Dockerfile.secret");
    fs::write(&secret, "FROM scratch\nLABEL secret=1\n").unwrap();
    let repository = Repository::new(folder.join("r"));
    symlink(&secret, repository.path.join("Dockerfile")).unwrap();
    symlink("inside/real", repository.path.join("Good")).unwrap();
    fs::create_dir_all(repository.path.join("device")).unwrap();
    repository.commit(&[("inside/real", "FROM scratch\nCOPY inside /\n")]);
    let web = smart_http(&folder, None);
    sandbox
        .run(["build", &web.url("/r.git")])
        .failure(1, &["Dockerfile"]);
    assert!(exported(&sandbox, &web.url("/r.git"), &["-f", "Good"]).has("real"));
    let archive = sandbox.path("context.tar");
    peer(
        "tar",
        [
            "-C",
            repository.path.to_str().unwrap(),
            "-cf",
            archive.to_str().unwrap(),
            "Dockerfile",
            "Good",
            "inside",
        ],
    );
    sandbox
        .run(["build", archive.to_str().unwrap()])
        .failure(1, &["Dockerfile"]);
    let bytes = fs::read(&archive).unwrap();
    let web = Web::of(Answer::file(bytes));
    sandbox
        .run(["build", &web.url("/c.tar")])
        .failure(1, &["Dockerfile"]);
    assert!(exported(&sandbox, &web.url("/c.tar"), &["-f", "Good"]).has("real"));
}

#[test]
fn an_archive_at_a_url_is_a_context() {
    let sandbox = Sandbox::new();
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY . /in/\n"),
        ("a", "a"),
        (".dockerignore", "a\n"),
    ];
    let folder = sandbox.context("archive", &files);
    for (name, flag) in [("c.tar", "-cf"), ("c.tar.gz", "-czf")] {
        let archive = sandbox.path(name);
        peer(
            "tar",
            [
                "-C",
                folder.to_str().unwrap(),
                flag,
                archive.to_str().unwrap(),
                ".",
            ],
        );
        let web = Web::of(Answer::file(fs::read(&archive).unwrap()));
        // The name says nothing, the content all.
        let root = exported(&sandbox, &web.url("/download"), &[]);
        assert_eq!(
            root.below("in"),
            [".dockerignore", "Dockerfile", "a"],
            "{name}"
        );
        assert_eq!(web.asked().len(), 1, "{name}");
    }
}

#[test]
fn a_text_at_a_url_is_a_dockerfile_alone() {
    let sandbox = Sandbox::new();
    let web = Web::of(Answer::file("FROM scratch\nCOPY <<EOF /f\nhello\nEOF\n"));
    assert_eq!(
        exported(&sandbox, &web.url("/Dockerfile"), &[]).text("f"),
        "hello\n"
    );
    let wrong = Web::of(Answer::file("FROM scratch\nNONSENSE\n"));
    sandbox
        .run(["build", &wrong.url("/x/Dockerfile")])
        .failure(1, &["NONSENSE", &wrong.url("/x/Dockerfile")]);
    let large = Web::of(Answer::file(vec![b'#'; 17 << 20]));
    sandbox
        .run(["build", &large.url("/f")])
        .failure(1, &["larger than"]);
}

#[test]
fn named_contexts_are_repositories_and_files() {
    let Some(_) = tool("git") else { return };
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    Repository::with(folder.join("r"), &[("a", "from git"), ("d/b", "b")]);
    let git = smart_http(&folder, None);
    let web = Web::of(Answer::file("from web"));
    let dockerfile = "FROM scratch\nCOPY --from=repository /a /a\nCOPY --from=file /context /b\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let (repository, file) = (
        format!("repository={}", git.url("/r.git")),
        format!("file={}", web.url("/f.txt")),
    );
    let flags = ["--build-context", &repository, "--build-context", &file];
    let root = sandbox.exported_from(&context, &flags);
    assert_eq!((root.text("a"), root.text("b")), ("from git", "from web"));
}

#[test]
fn the_epoch_can_be_the_contexts() {
    let Some(_) = tool("git") else { return };
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    let dockerfile = "FROM scratch\nCOPY a /a\n";
    let repository = Repository::with(folder.join("r"), &[("Dockerfile", dockerfile), ("a", "a")]);
    let git = smart_http(&folder, None);
    let archive = sandbox.path("c.tar");
    let mtime = "--mtime=@1400000000";
    peer(
        "tar",
        [
            "-C",
            repository.path.to_str().unwrap(),
            mtime,
            "-cf",
            archive.to_str().unwrap(),
            "Dockerfile",
            "a",
        ],
    );
    let bytes = fs::read(&archive).unwrap();
    let told =
        Web::of(Answer::file(bytes.clone()).with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"));
    let untold = Web::of(Answer::file(bytes));
    let cases = [
        (git.url("/r.git"), FIRST_COMMIT_S),
        (told.url("/c"), 784_111_777),
        (untold.url("/c"), 1_400_000_000),
    ];
    for (context, seconds) in cases {
        let arg = "SOURCE_DATE_EPOCH=context";
        sandbox.ok(["build", "-t", "built", "--build-arg", arg, &context]);
        let created = sandbox.format("built", "{{.Created}}");
        let said = peer("date", ["-u", "-d", &created, "+%s"]).stdout;
        assert_eq!(said.trim(), seconds.to_string(), "{context}");
    }
}

#[test]
fn a_context_file_that_changes_during_the_build_is_noticed_and_named() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = sandbox.context("changing", &[("data/f", "before\n"), ("data/g", "same\n")]);
    let file = context.join("data/f");
    // Edited when the build has looked at it and has not yet copied it.
    let web = Web::serve(move |_| {
        fs::write(&file, "after!\n").unwrap();
        Answer::file("edited")
    });
    let dockerfile = format!(
        "FROM busybox\nRUN wget -q -O /dev/null {}\nCOPY data /data\n",
        web.url("/edit")
    );
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    sandbox
        .run(["build", "-t", "torn", context.to_str().unwrap()])
        .failure(1, &["`/data/f` changed while it was being read"]);
    assert!(!sandbox.names().iter().any(|name| name.contains("torn")));
    // What is there now is what the next build takes.
    sandbox.ok(["build", "-t", "whole", context.to_str().unwrap()]);
    assert_eq!(sandbox.output_of("whole", &["cat", "/data/f"]), "after!\n");
}
