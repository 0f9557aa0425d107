//! `ADD` from URLs.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::web::{Answer, Request, Web};
use crate::harness::{Outcome, Sandbox};

const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Builds `FROM scratch` and these lines.
fn build(sandbox: &Sandbox, lines: &str, flags: &[&str]) -> Outcome {
    let context = sandbox.fresh_context(&[("Dockerfile", &dockerfile(lines))]);
    let args = ["build", "-t", "built", context.to_str().unwrap()];
    sandbox.run(args.into_iter().chain(flags.iter().copied()))
}

fn dockerfile(lines: &str) -> String {
    format!("FROM scratch\n{lines}\n")
}

fn sha256(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), text).unwrap();
    let said = crate::harness::peer("sha256sum", [folder.path().join("f")]).stdout;
    format!("sha256:{}", &said[..64])
}

/// The time of a file in the exported result.
fn mtime_of(sandbox: &Sandbox, lines: &str, path: &str) -> u64 {
    sandbox.exported(&[("Dockerfile", &dockerfile(lines))]);
    let mut archive = tar::Archive::new(fs::File::open(sandbox.path("exported.tar")).unwrap());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let entry = entries
        .find(|entry| entry.path().unwrap().ends_with(path))
        .unwrap();
    entry.header().mtime().unwrap()
}

#[test]
fn a_file_has_the_name_of_its_url_the_time_of_its_host_and_a_private_mode() {
    let sandbox = Sandbox::new();
    let web = Web::of(Answer::file("hello").with("Last-Modified", LONG_AGO));
    let lines = format!(
        "ADD {}?x=/y /\nADD --chmod=755 --chown=3:4 {} /run",
        web.url("/a/b%20c.txt"),
        web.url("/d")
    );
    let root = sandbox.exported(&[("Dockerfile", &dockerfile(&lines))]);
    assert_eq!(root.line("b c.txt"), "file 600 0:0 hello");
    assert_eq!(root.line("run"), "file 755 3:4 hello");
    assert_eq!(
        mtime_of(&sandbox, &format!("ADD {} /f", web.url("/f")), "f"),
        784_111_777
    );
}

#[test]
fn a_host_that_tells_no_time_gives_the_beginning_of_time() {
    let sandbox = Sandbox::new();
    let web = Web::of(Answer::file("x").with("Last-Modified", "yesterday"));
    assert_eq!(
        mtime_of(&sandbox, &format!("ADD {} /f", web.url("/f")), "f"),
        0
    );
}

#[test]
fn what_is_still_the_same_is_not_downloaded_again() {
    let sandbox = Sandbox::new();
    let web =
        Web::serve(
            |request| match request.headers.get("if-none-match").map(String::as_str) {
                Some("\"one\"") => Answer::status(304).with("ETag", "\"one\""),
                _ => Answer::file("one").with("ETag", "\"one\""),
            },
        );
    let lines = format!("ADD {} /f", web.url("/f"));
    build(&sandbox, &lines, &[]).success();
    assert_eq!(web.asked().len(), 1);
    let second = build(&sandbox, &lines, &[]).success();
    assert_eq!((second.ran(), web.asked().len()), (Vec::new(), 1));
    // A host that knows no conditions says the same tag again: its body is not believed.
    web.now(|_| Answer::file("other").with("ETag", "\"one\""));
    assert_eq!(
        build(&sandbox, &lines, &[]).success().ran(),
        Vec::<String>::new()
    );
    // A weak tag does not say that the bytes are the same.
    web.now(|_| Answer::file("two").with("ETag", "W/\"one\""));
    assert_ne!(
        build(&sandbox, &lines, &[]).success().ran(),
        Vec::<String>::new()
    );
}

#[test]
fn a_changed_file_is_downloaded_and_copied_again() {
    let sandbox = Sandbox::new();
    let web = Web::of(Answer::file("one").with("ETag", "\"1\""));
    let lines = format!("ADD {} /f", web.url("/f"));
    build(&sandbox, &lines, &[]).success();
    web.now(|_| Answer::file("two").with("ETag", "\"2\""));
    let root = sandbox.exported(&[("Dockerfile", &dockerfile(&lines))]);
    assert_eq!(root.text("f"), "two");
}

#[test]
fn a_time_validates_only_what_was_old_when_it_was_sent() {
    let sandbox = Sandbox::new();
    let now = || httpdate(SystemTime::now());
    let web = Web::of(
        Answer::file("x")
            .with("Last-Modified", LONG_AGO)
            .with("Date", now()),
    );
    let lines = format!("ADD {} /f", web.url("/f"));
    build(&sandbox, &lines, &[]).success();
    web.asked();
    web.now(|_| Answer::status(304));
    assert_eq!(
        build(&sandbox, &lines, &[]).success().ran(),
        Vec::<String>::new()
    );
    assert_eq!(web.asked()[0].headers["if-modified-since"], LONG_AGO);
    // Changed a moment ago, a file can change again within the same second.
    let fresh = httpdate(SystemTime::now() - Duration::from_secs(1));
    web.now(move |_| {
        Answer::file("y")
            .with("Last-Modified", fresh.clone())
            .with("Date", now())
    });
    let lines = format!("ADD {} /f", web.url("/g"));
    for _ in 0..2 {
        build(&sandbox, &lines, &[]).success();
        assert!(!web.asked()[0].headers.contains_key("if-modified-since"));
    }
}

/// The date as `date` writes it.
fn httpdate(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let format = "+%a, %d %b %Y %H:%M:%S GMT";
    let said = crate::harness::peer(
        "env",
        [
            "LC_ALL=C",
            "date",
            "-u",
            "-d",
            &format!("@{seconds}"),
            format,
        ],
    );
    said.stdout.trim().to_owned()
}

#[test]
fn a_checksum_is_checked_and_then_believed() {
    let sandbox = Sandbox::new();
    let web = Web::of(Answer::file("hello"));
    let (good, bad) = (sha256("hello"), sha256("other"));
    let lines = format!("ADD --checksum={good} {} /f", web.url("/f"));
    build(&sandbox, &lines, &[]).success();
    web.asked();
    // What is here by its digest is not asked for, not even for a step that runs again.
    build(&sandbox, &lines, &["--no-cache"]).success();
    assert!(web.asked().is_empty());
    let lines = format!("ADD --checksum={bad} {} /f", web.url("/f"));
    let parts = ["digest mismatch", &web.url("/f"), &good, &bad];
    build(&sandbox, &lines, &[]).failure(1, &parts);
}

#[test]
fn one_url_has_one_content_in_a_build() {
    let sandbox = Sandbox::new();
    let count = Arc::new(AtomicUsize::new(0));
    let web = Web::serve(move |_| Answer::file(count.fetch_add(1, Ordering::SeqCst).to_string()));
    let url = web.url("/f");
    let lines = format!("ADD {url} /a\nADD {url} /b\nADD --chmod=755 {url} /c");
    let root = sandbox.exported(&[("Dockerfile", &dockerfile(&lines))]);
    assert_eq!(
        (root.text("a"), root.text("b"), root.text("c")),
        ("0", "0", "0")
    );
    assert_eq!(web.asked().len(), 1);
}

#[test]
fn redirects_are_followed_but_not_everywhere() {
    let sandbox = Sandbox::new();
    let target = Web::of(Answer::file("found"));
    let location = target.url("/real");
    let web = Web::serve(move |request| match request.path.as_str() {
        "/file" => Answer::redirect("file:///etc/passwd"),
        "/loop" => Answer::redirect("/loop"),
        "/nowhere" => Answer::status(302),
        _ => Answer::redirect(location.clone()),
    });
    let root = sandbox.exported(&[(
        "Dockerfile",
        &dockerfile(&format!("ADD {} /", web.url("/f"))),
    )]);
    assert_eq!(root.text("f"), "found");
    for (path, part) in [
        ("/file", "neither http nor https"),
        ("/loop", "more than 10"),
        ("/nowhere", "no `Location`"),
    ] {
        build(&sandbox, &format!("ADD {} /", web.url(path)), &[]).failure(1, &[part, "redirect"]);
    }
}

#[test]
fn cve_2020_15157_secrets_go_to_their_host_alone() {
    let sandbox = Sandbox::new();
    let other = Web::of(Answer::file("x"));
    // `localhost` and `127.0.0.1` are two hosts.
    let location = other.url("/f").replace("127.0.0.1", "localhost");
    let web = Web::serve(move |_| Answer::redirect(location.clone()));
    let secret = sandbox.path("token");
    fs::write(&secret, "tell-nobody\n").unwrap();
    let flag = |name: &str| format!("id={name}_127.0.0.1,src={}", secret.display());
    let lines = format!("ADD {} /f", web.url("/f"));
    let built = build(&sandbox, &lines, &["--secret", &flag("HTTP_AUTH_TOKEN")]).success();
    assert_eq!(
        web.asked()[0].headers["authorization"],
        "Bearer tell-nobody"
    );
    assert!(!other.asked()[0].headers.contains_key("authorization"));
    assert!(!built.stderr.contains("tell-nobody"));
    build(&sandbox, &lines, &["--secret", &flag("HTTP_AUTH_HEADER")]).success();
    assert_eq!(web.asked()[0].headers["authorization"], "tell-nobody");
    assert!(!crate::harness::is_anywhere_below(
        sandbox.root(),
        b"tell-nobody"
    ));
}

#[test]
fn a_password_in_a_url_is_sent_and_told_nowhere() {
    let sandbox = Sandbox::new();
    let web = Web::of(Answer::status(403));
    let url = web.url("/f").replace("http://", "http://user:hidden@");
    let lines = format!("ADD {url} /f\nADD [\"{url}\", \"/g\"]");
    let failed = build(&sandbox, &lines, &[]).failure(1, &["xxxxx:xxxxx@", "status 403"]);
    assert!(!failed.stderr.contains("hidden"), "{}", failed.stderr);
    assert_eq!(
        web.asked()[0].headers["authorization"],
        "Basic dXNlcjpoaWRkZW4="
    );

    web.now(|_| Answer::file("content"));
    let built = build(&sandbox, &lines, &["--progress", "plain"]).success();
    assert!(built.stderr.contains("ADD http://xxxxx:xxxxx@"));
    assert!(!built.stderr.contains("hidden"), "{}", built.stderr);
    let history = sandbox.ok(["history", "--no-trunc", "built"]).stdout;
    assert!(history.contains("ADD http://xxxxx:xxxxx@"), "{history}");
    assert!(!history.contains("hidden"), "{history}");
    let why = sandbox.ok(["why", "built", "--format", "json"]).stdout;
    assert!(why.contains("xxxxx:xxxxx@") && !why.contains("hidden"));
    assert!(!crate::harness::is_anywhere_below(
        sandbox.root(),
        b"hidden"
    ));
}

/// Half of the content first, and then what `second` answers; what was asked then, and the
/// file.
fn broken_once(
    tag: &'static str,
    second: impl Fn(&[u8]) -> Answer + Send + Sync + 'static,
) -> (Vec<Request>, String) {
    let sandbox = Sandbox::new();
    let content = "0123456789abcdef".repeat(1 << 14);
    let asked = AtomicUsize::new(0);
    let web = Web::serve(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer {
            cut: true,
            ..Answer::file(content.clone())
                .with("ETag", tag)
                .with("Last-Modified", LONG_AGO)
        },
        1 => second(content.as_bytes()),
        _ => Answer::file("from the start").with("ETag", tag),
    });
    let lines = format!("ADD {} /f", web.url("/f"));
    let root = sandbox.exported(&[("Dockerfile", &dockerfile(&lines))]);
    (web.asked(), root.text("f").to_owned())
}

/// The rest of the content from its half on.
fn second_half(content: &[u8]) -> Answer {
    let (half, whole) = (content.len() / 2, content.len());
    let range = format!("bytes {half}-{}/{whole}", whole - 1);
    Answer {
        status: 206,
        ..Answer::file(&content[half..]).with("Content-Range", range)
    }
}

#[test]
fn a_download_that_breaks_goes_on_where_it_ended() {
    let (asked, text) = broken_once("\"one\"", |content| {
        second_half(content).with("ETag", "\"one\"")
    });
    assert!(text == "0123456789abcdef".repeat(1 << 14), "{}", text.len());
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].headers["range"], "bytes=131072-");
    assert_eq!(asked[1].headers["if-range"], "\"one\"");
}

#[test]
fn a_rest_that_ends_before_the_size_its_host_told_is_not_the_whole() {
    let (asked, text) = broken_once("\"one\"", |content| Answer {
        cut: true,
        lengthless: true,
        ..second_half(content).with("ETag", "\"one\"")
    });
    assert_eq!((asked.len(), text.as_str()), (3, "from the start"));
    assert_eq!(asked[2].headers["range"], "bytes=196608-");
}

#[test]
fn only_the_rest_of_the_same_content_is_gone_on_with() {
    // The content has changed meanwhile.
    let (asked, text) = broken_once("\"one\"", |_| Answer::file("new").with("ETag", "\"two\""));
    assert_eq!((asked.len(), text.as_str()), (2, "new"));
    // A tag that does not tell bytes apart, or none.
    for tag in ["W/\"one\"", ""] {
        let (asked, text) = broken_once(tag, |_| Answer::file("whole"));
        assert_eq!((asked.len(), text.as_str()), (2, "whole"), "{tag}");
        assert!(!asked[1].headers.contains_key("range"));
    }
    // Parts that nobody asked for.
    let parts: [fn(&[u8]) -> Answer; 3] = [
        |content| second_half(content).with("ETag", "\"two\""),
        |content| second_half(&content[..100]).with("ETag", "\"one\""),
        |_| Answer::status(416),
    ];
    for part in parts {
        let (asked, text) = broken_once("\"one\"", part);
        assert_eq!((asked.len(), text.as_str()), (3, "from the start"));
        assert!(!asked[2].headers.contains_key("range"));
    }
    let sandbox = Sandbox::new();
    let web = Web::serve(|_| second_half(b"0123456789"));
    build(&sandbox, &format!("ADD {} /f", web.url("/f")), &[]).failure(1, &["status 206"]);
}

#[test]
fn failures_name_the_url_and_leave_nothing() {
    let sandbox = Sandbox::new();
    let web = Web::serve(|request| match request.path.as_str() {
        "/cut" => Answer {
            cut: true,
            ..Answer::file("0123456789")
        },
        _ => Answer::status(404),
    });
    build(&sandbox, &format!("ADD {} /f", web.url("/none")), &[])
        .failure(1, &[&web.url("/none"), "status 404"]);
    web.asked();
    build(&sandbox, &format!("ADD {} /f", web.url("/cut")), &[])
        .failure(1, &[&web.url("/cut"), "connection"]);
    assert_eq!(
        web.asked().len(),
        3,
        "a download that breaks is begun again"
    );
    let closed = crate::harness::free_address();
    build(&sandbox, &format!("ADD http://{closed}/f /f"), &[]).failure(3, &[&closed, "refused"]);
    assert!(sandbox.names().is_empty());
}

#[test]
fn cve_2026_33747_names_from_hosts_stay_in_the_tree() {
    let sandbox = Sandbox::new();
    let web = Web::of(
        Answer::file("x").with("Content-Disposition", "attachment; filename=\"../../evil\""),
    );
    let root = sandbox.exported(&[(
        "Dockerfile",
        &dockerfile(&format!("ADD {} /d/", web.url("/"))),
    )]);
    assert_eq!(root.below("d"), ["__unnamed__"]);
    for name in ["a%2F..", "%2e%2e", "a%00b", &"x".repeat(300)] {
        let lines = format!("ADD {} /d/", web.url(&format!("/{name}")));
        let outcome = build(&sandbox, &lines, &[]);
        assert_eq!(outcome.code, 1, "{name}: {}", outcome.stderr);
    }
}

#[test]
fn an_archive_stays_one_unless_it_is_to_be_unpacked() {
    let sandbox = Sandbox::new();
    let folder = sandbox.context("archive", &[("in/a.txt", "a")]);
    let archive = sandbox.path("a.tar.gz");
    let path = archive.to_str().unwrap();
    crate::harness::peer("tar", ["-C", folder.to_str().unwrap(), "-czf", path, "in"]);
    let bytes = fs::read(&archive).unwrap();
    let length = bytes.len();
    // A coding that nobody asked for is not undone either.
    let web = Web::of(Answer::file(bytes).with("Content-Encoding", "gzip"));
    let url = web.url("/a.tar.gz");
    let lines = format!("ADD {url} /plain/\nADD --unpack {url} /unpacked/");
    let root = sandbox.exported(&[("Dockerfile", &dockerfile(&lines))]);
    assert_eq!(root.below("plain"), ["a.tar.gz"]);
    assert_eq!(root.text("unpacked/in/a.txt"), "a");
    assert_eq!(web.asked()[0].headers["accept-encoding"], "identity");
    let mut exported = tar::Archive::new(fs::File::open(sandbox.path("exported.tar")).unwrap());
    let sizes = exported.entries().unwrap().map(Result::unwrap);
    let size = sizes
        .filter(|entry| entry.path().unwrap().ends_with("a.tar.gz"))
        .map(|entry| entry.size())
        .next();
    assert_eq!(size, Some(length as u64));
}

#[test]
fn downloads_are_part_of_the_build_cache() {
    let sandbox = Sandbox::new();
    let web = Web::serve(
        |request| match request.headers.contains_key("if-none-match") {
            true => Answer::status(304),
            false => Answer::file("x").with("ETag", "\"x\""),
        },
    );
    let lines = format!("ADD {} /f", web.url("/f"));
    let asks_again = || {
        web.asked();
        build(&sandbox, &lines, &["--no-cache"]).success();
        web.asked()[0].headers.contains_key("if-none-match")
    };
    assert!(!asks_again() && asks_again());
    sandbox.ok(["prune", "--force"]);
    assert!(asks_again());
    sandbox.ok(["prune", "--all", "--force"]);
    assert!(!asks_again());
}
