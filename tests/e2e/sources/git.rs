//! `ADD` from git repositories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use super::repository::{Daemon, FIRST_COMMIT_S, Repository, files, smart_http};
use super::web::{Answer, Web};
use crate::harness::{Outcome, Sandbox, tool};

/// A sandbox, and a folder for repositories in it; nothing without `git`.
fn sandbox() -> Option<(Sandbox, std::path::PathBuf)> {
    tool("git")?;
    let sandbox = Sandbox::new();
    let folder = sandbox.path("repositories");
    Some((sandbox, folder))
}

fn dockerfile(lines: &str) -> String {
    format!("FROM scratch\n{lines}\n")
}

fn build(sandbox: &Sandbox, lines: &str, flags: &[&str]) -> Outcome {
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile(lines))]);
    let args = ["build", "-t", "built", context.to_str().unwrap()];
    sandbox.run(args.into_iter().chain(flags.iter().copied()))
}

fn exported(sandbox: &Sandbox, lines: &str) -> crate::harness::Exported {
    sandbox.exported(&[("Dockerfile", &dockerfile(lines))])
}

/// The requests that brought objects.
fn fetches(web: &Web) -> usize {
    let asked = web.asked();
    let packs = asked.iter().filter(|request| {
        request.method == "POST" && String::from_utf8_lossy(&request.body).contains("command=fetch")
    });
    packs.count()
}

#[test]
fn a_commits_files_have_gits_modes_and_the_commits_time() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::new(folder.join("r"));
    symlink("a", repository.path.join("link")).unwrap();
    fs::write(repository.path.join("run"), "#!").unwrap();
    fs::set_permissions(
        repository.path.join("run"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    repository.commit(&[("a", "one"), ("d/b", "two")]);
    let web = smart_http(&folder, None);
    let context = sandbox.fresh_context(&[(
        "Dockerfile",
        &dockerfile(&format!("ADD {} /r/", web.url("/r.git"))),
    )]);
    let archive = sandbox.path("out.tar");
    // Whatever the umask is.
    let command = format!(
        "umask 077; exec {} build -o type=tar,dest={} {}",
        crate::harness::LONGSHORE,
        archive.display(),
        context.display()
    );
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", &command])
        .env("LONGSHORE_ROOT", sandbox.root());
    Outcome::of(shell).success();
    let root = crate::harness::Exported::read(&archive);
    assert_eq!(root.below("r"), ["a", "d", "d/b", "link", "run"]);
    assert_eq!(root.line("r/a"), "file 644 0:0 one");
    assert_eq!(root.line("r/run"), "file 755 0:0 #!");
    assert_eq!(root.line("r/d"), "dir 755 0:0");
    assert_eq!(root.line("r/link"), "link a");
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    for entry in archive.entries().unwrap().map(Result::unwrap) {
        let path = entry.path().unwrap().into_owned();
        if path.starts_with("r/") && path != Path::new("r") {
            assert_eq!(
                entry.header().mtime().unwrap(),
                FIRST_COMMIT_S as u64,
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn branches_tags_commits_and_other_references() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("r"), &[("f", "one")]);
    let first = repository.head();
    repository.git(["tag", "light"]);
    repository.git(["tag", "-a", "-m", "t", "annotated"]);
    repository.git(["branch", "feature/x"]);
    repository.git(["update-ref", "refs/pull/1/head", "HEAD"]);
    repository.commit(&[("f", "two")]);
    let web = smart_http(&folder, None);
    let url = web.url("/r.git");
    let tag = repository.git(["rev-parse", "annotated"]);
    let mut lines = format!("ADD {url} /head\n");
    let references = [
        "light",
        "annotated",
        "refs/tags/annotated",
        "feature/x",
        "refs/pull/1/head",
        "pull/1/head",
        &first,
        &tag,
    ];
    for (at, reference) in references.iter().enumerate() {
        lines.push_str(&format!("ADD {url}#{reference} /{at}\n"));
    }
    lines.push_str(&format!(
        "ADD {url}?tag=light /tag\nADD {url}?branch=main /branch\n"
    ));
    let root = exported(&sandbox, &lines);
    assert_eq!(
        (
            root.text("head/f"),
            root.text("branch/f"),
            root.text("tag/f")
        ),
        ("two", "two", "one")
    );
    for (at, reference) in references.iter().enumerate() {
        assert_eq!(root.text(&format!("{at}/f")), "one", "{reference}");
    }
    build(&sandbox, &format!("ADD {url}#absent /"), &[])
        .failure(1, &["does not contain ref `absent`", &url]);
}

#[test]
fn a_checksum_is_the_beginning_of_the_commit() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("r"), &[("f", "one")]);
    let first = repository.head();
    repository.git(["tag", "-a", "-m", "t", "v1"]);
    let tag = repository.git(["rev-parse", "v1"]);
    let web = smart_http(&folder, None);
    let url = web.url("/r.git");
    for checksum in [&first[..7], &first, &tag] {
        build(
            &sandbox,
            &format!("ADD --checksum={checksum} {url}#v1 /"),
            &[],
        )
        .success();
    }
    let second = repository.commit(&[("f", "two")]);
    let parts = [&format!("expected checksum to match {first}"), &second];
    build(
        &sandbox,
        &format!("ADD --checksum={first} {url}#main /"),
        &[],
    )
    .failure(1, &parts.map(String::as_str));
    build(&sandbox, &format!("ADD {url}?ref=main&checksum=xyz /"), &[])
        .failure(1, &["invalid checksum", "xyz"]);
    // Where the branch is does not count when the commit itself is to be fetched.
    let lines = format!("ADD {url}?ref=main&checksum={first}&fetch-by-commit=true /");
    assert_eq!(exported(&sandbox, &lines).text("f"), "one");
}

#[test]
fn what_was_fetched_is_not_fetched_again() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("r"), &[("f", "one")]);
    let first = repository.head();
    let web = smart_http(&folder, None);
    let lines = format!("ADD {} /", web.url("/r.git"));
    build(&sandbox, &lines, &[]).success();
    assert_eq!(fetches(&web), 1);
    let again = build(&sandbox, &lines, &[]).success();
    assert_eq!((again.ran(), fetches(&web)), (Vec::new(), 0));
    build(&sandbox, &lines, &["--no-cache"]).success();
    assert_eq!(fetches(&web), 0);
    // A commit needs nobody to be asked, and the same commit is the same result.
    let by_commit = format!("ADD {}#{first} /", web.url("/r.git"));
    build(&sandbox, &by_commit, &[]).success();
    assert!(web.asked().is_empty());
    sandbox.ok(["prune", "--force"]);
    build(&sandbox, &by_commit, &["--no-cache"]).success();
    assert!(web.asked().is_empty());
    repository.commit(&[("f", "two")]);
    assert_eq!(exported(&sandbox, &lines).text("f"), "two");
    assert_eq!(fetches(&web), 1);
    sandbox.ok(["prune", "--all", "--force"]);
    let left = fs::read_dir(sandbox.root().join("cache/git")).unwrap();
    let folders = left
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir());
    assert_eq!(folders.count(), 0);
    build(&sandbox, &lines, &[]).success();
    assert_eq!(fetches(&web), 1);
}

#[test]
fn a_damaged_mirror_is_made_again() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("r"), &[("f", "one")]);
    let web = smart_http(&folder, None);
    let url = web.url("/r.git");
    build(&sandbox, &format!("ADD {url} /"), &[]).success();
    let mirrors = sandbox.root().join("cache/git");
    let mut damaged = 0;
    for entry in walkdir::WalkDir::new(&mirrors)
        .into_iter()
        .map(Result::unwrap)
    {
        if entry.path().extension().is_some_and(|end| end == "pack") {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644)).unwrap();
            let mut bytes = fs::read(entry.path()).unwrap();
            let (from, to) = (12, bytes.len() - 20);
            bytes[from..to].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::write(entry.path(), bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    fs::write(repository.path.join("g"), "").unwrap();
    let lines = format!("ADD --keep-git-dir=true {url} /");
    assert_eq!(exported(&sandbox, &lines).text("f"), "one");
}

#[test]
fn cve_2026_44517_subdirectories_are_of_the_repository() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::new(folder.join("r"));
    symlink("/", repository.path.join("rootlink")).unwrap();
    symlink("/etc", repository.path.join("etclink")).unwrap();
    symlink("d", repository.path.join("dlink")).unwrap();
    repository.commit(&[("d/e/f", "f"), ("d/g", "g"), ("file", "x")]);
    let web = smart_http(&folder, None);
    let url = web.url("/r.git");
    let root = exported(
        &sandbox,
        &format!("ADD {url}#main:d /a/\nADD {url}?subdir=d/e /b/\nADD {url}#:../d/../d/e /c/"),
    );
    assert_eq!(root.below("a"), ["e", "e/f", "g"]);
    assert_eq!((root.below("b"), root.below("c")), (vec!["f"], vec!["f"]));
    for subdir in [
        "rootlink",
        "rootlink/etc",
        "etclink",
        "dlink",
        "absent",
        "file",
    ] {
        build(&sandbox, &format!("ADD {url}#main:{subdir} /"), &[])
            .failure(1, &[subdir, "not a directory of the repository"]);
    }
    // `..` ends at the root of the repository.
    assert_eq!(
        exported(&sandbox, &format!("ADD {url}#:../../d /")).text("g"),
        "g"
    );
}

#[test]
fn the_git_directory_stays_where_it_is_asked_for() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("r"), &[("f", "one"), ("d/g", "")]);
    repository.git(["tag", "-a", "-m", "t", "v1"]);
    let web = smart_http(&folder, None);
    let url = web
        .url("/r.git")
        .replace("http://", "http://user:hid\\\"den@");
    // A password may hold a quotation mark, which the Dockerfile's own syntax escapes.
    let out = sandbox.path("out");
    for (query, reference) in [("", "refs/heads/main"), ("#v1", "refs/tags/v1")] {
        let lines = format!("ADD --keep-git-dir=true {url}{query} /");
        let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile(&lines))]);
        let _ = fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        sandbox.ok(["build", "-o", &output, context.to_str().unwrap()]);
        let kept = Repository { path: out.clone() };
        assert_eq!(kept.head(), repository.head());
        assert_eq!(
            kept.git(["rev-parse", reference]),
            repository.git(["rev-parse", reference])
        );
        assert_eq!(
            kept.git(["-c", "safe.directory=*", "status", "--short"]),
            ""
        );
        let config = fs::read_to_string(out.join(".git/config")).unwrap();
        assert!(
            config.contains("xxxxx:xxxxx@") && !config.contains("hid"),
            "{config}"
        );
        for left_over in ["FETCH_HEAD", "objects/info/alternates", "logs", "hooks"] {
            assert!(!out.join(".git").join(left_over).exists(), "{left_over}");
        }
    }
    // A directory alone has none.
    let root = exported(&sandbox, &format!("ADD --keep-git-dir=true {url}#:d /"));
    assert!(root.has("g") && !root.has(".git"));
}

#[test]
fn submodules_come_along_unless_they_are_not_wanted() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    Repository::with(folder.join("inner"), &[("i", "inner")]);
    let middle = Repository::with(folder.join("middle"), &[("m", "middle")]);
    let web = smart_http(&folder, None);
    add_submodule(&middle, &folder.join("inner"), "deep", "../inner.git");
    let outer = Repository::with(folder.join("r"), &[("f", "outer")]);
    add_submodule(
        &outer,
        &folder.join("middle"),
        "sub",
        &web.url("/middle.git"),
    );
    let url = web.url("/r.git");
    let lines = format!(
        "ADD {url} /a/\nADD {url}?submodules=0 /b/\nADD {url}#:sub /c/\nADD {url}#:sub/deep /d/"
    );
    let root = exported(&sandbox, &lines);
    assert_eq!(
        root.below("a"),
        [
            ".gitmodules",
            "f",
            "sub",
            "sub/.gitmodules",
            "sub/deep",
            "sub/deep/i",
            "sub/m"
        ]
    );
    assert_eq!(root.below("b"), [".gitmodules", "f", "sub"]);
    assert_eq!(root.below("c"), [".gitmodules", "deep", "deep/i", "m"]);
    assert_eq!(root.below("d"), ["i"]);
}

/// Adds a submodule that is said to be at `url`.
fn add_submodule(outer: &Repository, inner: &Path, name: &str, url: &str) {
    outer.git([
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "-q",
        inner.to_str().unwrap(),
        name,
    ]);
    outer.git([
        "config",
        "-f",
        ".gitmodules",
        &format!("submodule.{name}.url"),
        url,
    ]);
    outer.commit(&[]);
}

#[test]
fn cve_2018_17456_submodules_of_strangers_reach_nothing_of_this_machine() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let secret = Repository::with(folder.join("secret"), &[("s", "secret")]);
    let web = smart_http(&folder, None);
    let touched = sandbox.path("touched");
    let command = format!("ext::sh -c touch% {}", touched.display());
    let file = format!("file://{}", secret.path.display());
    let path = secret.path.to_str().unwrap();
    for (at, url) in [
        file.as_str(),
        path,
        &command,
        "-u./payload",
        "ssh://-oProxyCommand=x/a",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("r{at}");
        let outer = Repository::with(folder.join(&name), &[("f", "outer")]);
        add_submodule(&outer, &secret.path, "sub", url);
        let lines = format!("ADD {} /", web.url(&format!("/{name}.git")));
        let failed = build(&sandbox, &lines, &[]);
        assert_eq!(failed.code, 1, "{url}: {}", failed.stderr);
        assert!(
            failed.stderr.contains("submodules"),
            "{url}: {}",
            failed.stderr
        );
        assert!(!touched.exists(), "{url}");
    }
}

#[test]
fn cve_2024_32002_nothing_of_the_repository_or_the_user_is_run() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let touched = sandbox.path("touched");
    let script = format!("touch {}", touched.display());
    let attributes = "* filter=evil\n* diff=evil\n";
    let repository = Repository::with(
        folder.join("r"),
        &[(".gitattributes", attributes), ("f", "one")],
    );
    let modules = format!("[submodule \"x\"]\n\tpath = x\n\turl = ./x\n\tupdate = !{script}\n");
    repository.commit(&[(".gitmodules", &modules)]);
    let home = sandbox.context(
        "home",
        &[(
            ".gitconfig",
            &format!(
                "[filter \"evil\"]\n\tsmudge = {script}\n[core]\n\thooksPath = /nowhere\n\tfsmonitor = {script}\n[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = http://\n"
            ),
        )],
    );
    let web = smart_http(&folder, None);
    let context = sandbox.fresh_context(&[(
        "Dockerfile",
        &dockerfile(&format!("ADD {} /", web.url("/r.git"))),
    )]);
    let mut command = sandbox.command(["build", "-t", "built", context.to_str().unwrap()]);
    command
        .env("HOME", &home)
        .env("GIT_SSH_COMMAND", &script)
        .env("GIT_DIR", "/nowhere")
        .env("GIT_TRACE", touched.to_str().unwrap());
    command
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "core.fsmonitor")
        .env("GIT_CONFIG_VALUE_0", &script);
    Outcome::of(command).success();
    assert!(!touched.exists());
}

#[test]
fn cve_2019_13139_references_are_no_options() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    Repository::with(folder.join("r"), &[("f", "one")]);
    let web = smart_http(&folder, None);
    let touched = sandbox.path("touched");
    for reference in [
        format!("--upload-pack=touch${{IFS}}{}", touched.display()),
        "-u".to_owned(),
        "a*".to_owned(),
    ] {
        let context = sandbox.fresh_context(&[("Dockerfile", "FROM scratch\n")]);
        let place = format!("x={}#{reference}", web.url("/r.git"));
        fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY --from=x / /\n",
        )
        .unwrap();
        let args = [
            "build",
            "--build-context",
            &place,
            context.to_str().unwrap(),
        ];
        sandbox.run(args).failure(1, &["invalid git ref"]);
        assert!(!touched.exists());
    }
    assert!(web.asked().is_empty());
}

#[test]
fn cve_2023_26054_a_token_goes_to_its_repository_and_is_kept_nowhere() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    Repository::with(folder.join("inner"), &[("i", "inner")]);
    let outer = Repository::with(folder.join("r"), &[("f", "one")]);
    let elsewhere = smart_http(&folder, None);
    add_submodule(
        &outer,
        &folder.join("inner"),
        "sub",
        &elsewhere.url("/inner.git"),
    );
    // x-access-token:tell-nobody
    let web = smart_http(&folder, Some("basic eC1hY2Nlc3MtdG9rZW46dGVsbC1ub2JvZHk="));
    let url = web.url("/r.git");
    let lines = format!("ADD {url} /");
    build(&sandbox, &lines, &[]).failure(1, &[&url]);
    let secret = sandbox.path("token");
    fs::write(&secret, "tell-nobody\n").unwrap();
    for name in [
        "GIT_AUTH_TOKEN".to_owned(),
        format!("GIT_AUTH_TOKEN.{}", web.address),
    ] {
        let flag = format!("id={name},src={}", secret.display());
        let built = build(&sandbox, &lines, &["--secret", &flag, "--no-cache"]).success();
        assert!(!built.stderr.contains("tell-nobody"));
    }
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
    for text in [&b"tell-nobody"[..], b"eC1hY2Nlc3MtdG9rZW46"] {
        assert!(!crate::harness::is_anywhere_below(sandbox.root(), text));
    }
}

#[test]
fn passwords_are_not_told_in_errors() {
    let Some((sandbox, _)) = sandbox() else {
        return;
    };
    let web = Web::of(Answer::status(403));
    let url = web.url("/r.git").replace("http://", "http://user:hidden@");
    let failed = build(&sandbox, &format!("ADD {url} /"), &[]).failure(1, &["xxxxx:xxxxx@", "403"]);
    let shown = failed
        .stderr
        .lines()
        .filter(|line| line.contains("hidden") && !line.contains("ADD"));
    assert_eq!(shown.count(), 0, "{}", failed.stderr);
}

#[test]
fn the_simplest_servers_will_do() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("r"), &[("f", "one")]);
    let first = repository.head();
    repository.git(["tag", "-a", "-m", "t", "v1"]);
    repository.commit(&[("f", "two")]);
    repository.git(["update-server-info"]);
    let web = files(&folder);
    let url = web.url("/r.git");
    let root = exported(
        &sandbox,
        &format!("ADD {url} /a/\nADD {url}#v1 /b/\nADD {url}#{first} /c/"),
    );
    assert_eq!(
        (root.text("a/f"), root.text("b/f"), root.text("c/f")),
        ("two", "one", "one")
    );
    let daemon = Daemon::start(&folder);
    let root = exported(&sandbox, &format!("ADD git://{}/r#v1 /", daemon.address));
    assert_eq!(root.text("f"), "one");
}

#[test]
fn a_server_that_does_not_answer_as_git_is_told() {
    let Some((sandbox, _)) = sandbox() else {
        return;
    };
    for answer in [
        Answer::file("<html>"),
        Answer::status(500),
        Answer::redirect("file:///etc"),
        Answer::file(vec![b'0'; 1 << 20]),
    ] {
        let web = Web::of(answer);
        let url = web.url("/r.git");
        build(&sandbox, &format!("ADD {url} /"), &[]).failure(1, &[&url]);
    }
}

#[test]
fn a_few_objects_cannot_stand_for_a_disk_full_of_files() {
    use std::io::Write as _;
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    let repository = Repository::with(folder.join("bomb"), &[("f", "boom")]);
    let mut object = repository.git(["rev-parse", "HEAD:f"]);
    for level in 0..8 {
        let kind = if level == 0 {
            "100644 blob"
        } else {
            "040000 tree"
        };
        let tree: String = (0..10)
            .map(|at| format!("{kind} {object}\tn{at}\n"))
            .collect();
        let mut child = std::process::Command::new("git")
            .current_dir(&repository.path)
            .arg("mktree")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(tree.as_bytes())
            .unwrap();
        object = String::from_utf8(child.wait_with_output().unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned();
    }
    let commit = repository.git(["commit-tree", "-m", "c", &object]);
    repository.git(["update-ref", "refs/heads/bomb", &commit]);
    let web = smart_http(&folder, None);
    build(
        &sandbox,
        &format!("ADD {}#bomb /", web.url("/bomb.git")),
        &[],
    )
    .failure(1, &["more than 4194304 files"]);
}

#[test]
fn an_interrupted_build_leaves_no_git_behind() {
    let Some((sandbox, _)) = sandbox() else {
        return;
    };
    let web = Web::serve(|_| {
        std::thread::sleep(Duration::from_secs(20));
        Answer::status(404)
    });
    let url = web.url("/r.git");
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile(&format!("ADD {url} /")))]);
    // While the context is fetched, and while a source of a step is.
    for place in [url.as_str(), context.to_str().unwrap()] {
        let mut child = sandbox.command(["build", place]).spawn().unwrap();
        let began = Instant::now();
        while web.asked().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(15));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_ne!(processes_with(&url), 0);
        crate::harness::peer("kill", ["-INT", &child.id().to_string()]);
        assert!(!child.wait().unwrap().success());
        assert!(began.elapsed() < Duration::from_secs(15));
        assert_eq!(processes_with(&url), 0);
    }
}

/// How many processes have a text among their arguments.
fn processes_with(text: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let arguments = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    arguments
        .filter(|bytes| String::from_utf8_lossy(bytes).contains(text))
        .count()
}

#[test]
fn without_git_it_is_said_what_is_missing() {
    let Some((sandbox, folder)) = sandbox() else {
        return;
    };
    Repository::with(folder.join("r"), &[("f", "one")]);
    let web = smart_http(&folder, None);
    let context = sandbox.fresh_context(&[(
        "Dockerfile",
        &dockerfile(&format!("ADD {} /", web.url("/r.git"))),
    )]);
    let mut command = sandbox.command(["build", context.to_str().unwrap()]);
    command.env("PATH", "/nowhere");
    Outcome::of(command).failure(3, &["cannot run `git`"]);
}
