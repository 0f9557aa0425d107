//! Build caches elsewhere: what a machine that has nothing runs and moves, what happens
//! when the cache fails, and what leaves the machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::harness::{Outcome, Sandbox, Server};

/// Two stages; the last one's steps stand on one another.
const DOCKERFILE: &str = "\
FROM busybox AS build
COPY a.txt /a.txt
RUN tr a-z A-Z < /a.txt > /built
FROM busybox
COPY b.txt /b.txt
RUN cat /b.txt > /b.out
COPY --from=build /built /built
";

const STEPS: usize = 5;

/// A machine with the base image and a context, and nothing built.
fn machine(dockerfile: &str) -> Option<(Sandbox, PathBuf)> {
    let sandbox = Sandbox::with_busybox()?;
    let files = [
        ("Dockerfile", dockerfile),
        ("a.txt", "alpha\n"),
        ("b.txt", "beta\n"),
    ];
    let context = sandbox.context("app", &files);
    Some((sandbox, context))
}

#[track_caller]
fn layers(sandbox: &Sandbox) -> serde_json::Value {
    sandbox.inspect("app")["RootFS"]["Layers"].clone()
}

pub(crate) fn warnings(outcome: &Outcome) -> Vec<&str> {
    let lines = outcome.stderr.lines();
    lines
        .filter(|line| line.starts_with("warning: ") && line.contains("cache"))
        .collect()
}

/// A machine that has nothing takes all from the cache: the same layers, which work.
#[track_caller]
fn cold_build_runs_nothing(from: &str) -> Outcome {
    let (cold, context) = machine(DOCKERFILE).unwrap();
    let built = cold.build_app(&context, &["--cache-from", from]);
    assert_eq!(built.ran(), Vec::<String>::new(), "{}", built.stderr);
    assert_eq!(warnings(&built), Vec::<&str>::new());
    assert_eq!(
        cold.output_of("app", &["cat", "/built", "/b.out"]),
        "ALPHA\nbeta\n"
    );
    // What came from elsewhere is this machine's own from then on.
    let again = cold.build_app(&context, &[]);
    assert_eq!(again.ran(), Vec::<String>::new(), "{}", again.stderr);
    built
}

/// Exports to a cache, and builds on a machine that has nothing.
fn goes_through(to: &str, from: &str) {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let first = warm.build_app(&context, &["--cache-to", to]);
    assert_eq!(first.ran().len(), STEPS, "{}", first.stderr);
    cold_build_runs_nothing(from);
}

#[test]
fn a_cold_machine_runs_nothing_with_our_registry() {
    let server = Server::start();
    let reference = server.reference("team/cache:main");
    goes_through(&format!("type=registry,ref={reference}"), &reference);
}

#[test]
fn a_cold_machine_runs_nothing_with_distribution() {
    let Some(server) = Server::start_docker_registry() else {
        return;
    };
    let reference = server.reference("cache");
    goes_through(
        &reference.to_string(),
        &format!("type=registry,ref={reference}"),
    );
}

#[test]
fn a_cold_machine_runs_nothing_with_a_directory() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("cache").display().to_string();
    goes_through(
        &format!("type=local,dest={folder},mode=max"),
        &format!("type=local,src={folder}"),
    );
}

#[test]
fn a_warm_machine_exports_what_it_did_not_run() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let folder = warm.path("cache").display().to_string();
    warm.build_app(&context, &[]);
    let to = format!("type=local,dest={folder},mode=max");
    let second = warm.build_app(&context, &["--cache-to", &to]);
    assert_eq!(second.ran(), Vec::<String>::new());
    assert!(
        second.stderr.contains("5 of 5 records new"),
        "{}",
        second.stderr
    );
    cold_build_runs_nothing(&format!("type=local,src={folder}"));
}

#[test]
fn a_cold_machine_runs_what_changed_and_says_why() {
    let server = Server::start();
    let reference = server.reference("cache");
    let dockerfile = "FROM busybox\nARG V\nRUN echo start > /s\nRUN echo $V > /v\n";
    let Some((warm, context)) = machine(dockerfile) else {
        return;
    };
    warm.build_app(&context, &["--cache-to", &reference, "--build-arg", "V=1"]);
    let (cold, context) = machine(dockerfile).unwrap();
    let flags = [
        "--cache-from",
        &reference,
        "--build-arg",
        "V=2",
        "--explain-cache",
    ];
    let built = cold.build_app(&context, &flags);
    assert_eq!(built.ran().len(), 2, "{}", built.stderr);
    assert!(
        built.stderr.contains("miss: env V changed"),
        "{}",
        built.stderr
    );
}

#[test]
fn the_steps_of_other_stages_are_there_with_mode_max_alone() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let folder = |mode: &str| warm.path(mode).display().to_string();
    for mode in ["min", "max"] {
        let to = format!("type=local,dest={},mode={mode}", folder(mode));
        warm.build_app(&context, &["--cache-to", &to]);
    }
    for (mode, ran) in [("min", 4), ("max", 2)] {
        let (cold, context) = machine(DOCKERFILE).unwrap();
        fs::write(context.join("b.txt"), "changed\n").unwrap();
        let from = format!("type=local,src={}", folder(mode));
        let built = cold.build_app(&context, &["--cache-from", &from]);
        let last = built.ran();
        assert_eq!(last.len(), ran + 1, "{mode}: {last:?}");
    }
}

#[test]
fn a_cache_may_be_compressed_otherwise_than_the_image() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let folder = warm.path("cache");
    let to = format!(
        "type=local,dest={},mode=max,compression=zstd",
        folder.display()
    );
    warm.build_app(&context, &["--cache-to", &to]);
    let wanted = layers(&warm);
    let documents = documents(&folder);
    assert!(documents.contains("tar+zstd"), "{documents}");
    assert!(!documents.contains("tar+gzip"), "{documents}");
    let (cold, context) = machine(DOCKERFILE).unwrap();
    let from = format!("type=local,src={}", folder.display());
    let built = cold.build_app(&context, &["--cache-from", &from]);
    assert_eq!(built.ran(), Vec::<String>::new(), "{}", built.stderr);
    assert_eq!(layers(&cold), wanted);
}

#[test]
fn what_a_cache_has_is_compressed_otherwise_where_that_is_forced() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let folder = warm.path("cache");
    let place = folder.display();
    let gzip = format!("type=local,dest={place},mode=max");
    warm.build_app(&context, &["--cache-to", &gzip]);
    let wanted = layers(&warm);
    let first = documents(&folder);
    assert!(!first.contains("tar+zstd"), "{first}");

    // A machine that has it all from there sends none of it back, unless that is forced.
    let from = format!("type=local,src={place}");
    let zstd = format!("{gzip},compression=zstd");
    let again = |to: &str| {
        let (cold, context) = machine(DOCKERFILE).unwrap();
        let built = cold.build_app(&context, &["--cache-from", &from, "--cache-to", to]);
        assert_eq!(built.ran(), Vec::<String>::new(), "{}", built.stderr);
        assert_eq!(layers(&cold), wanted);
        documents(&folder)
    };
    let kept = again(&zstd);
    assert!(!kept.contains("tar+zstd"), "{kept}");
    let forced = again(&format!("{zstd},force-compression=true"));
    // The steps below what was found were not looked at: their records stay as they are.
    assert!(forced.contains("tar+zstd"), "{forced}");
    // What was written so can be used.
    again(&format!("{zstd},force-compression=true"));
}

/// All documents of a directory, as text.
fn documents(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder.join("names")).unwrap() {
        text.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    text
}

#[test]
fn exports_at_the_same_time_add_to_each_other() {
    let server = Server::start();
    let sandbox = Sandbox::new();
    let folder = sandbox.path("cache").display().to_string();
    let reference = server.reference("cache:shared");
    for (to, from) in [
        (reference.clone(), reference.clone()),
        (
            format!("type=local,dest={folder}"),
            format!("type=local,src={folder}"),
        ),
    ] {
        let branches: Vec<String> = (0..4)
            .map(|n| format!("FROM busybox\nRUN echo shared > /s\nRUN echo {n} > /n\n"))
            .collect();
        let machines: Vec<_> = branches.iter().filter_map(|text| machine(text)).collect();
        std::thread::scope(|scope| {
            for (sandbox, context) in &machines {
                scope.spawn(|| {
                    let built = sandbox.build_app(context, &["--cache-to", &to]);
                    assert_eq!(warnings(&built), Vec::<&str>::new());
                });
            }
        });
        for text in branches.iter().take(machines.len()) {
            let (cold, context) = machine(text).unwrap();
            let built = cold.build_app(&context, &["--cache-from", &from]);
            assert_eq!(
                built.ran(),
                Vec::<String>::new(),
                "{from}: {}",
                built.stderr
            );
        }
    }
}

#[test]
fn an_image_carries_the_records_of_its_own_layers() {
    let dockerfile = "FROM busybox\nCOPY a.txt /\nRUN echo one > /one\n";
    let Some((warm, context)) = machine(dockerfile) else {
        return;
    };
    let server = Server::start();
    let image = server.reference("app:1");
    let path = context.to_str().unwrap();
    warm.ok([
        "build",
        "-t",
        &image,
        "--push",
        "--cache-to",
        "type=inline",
        path,
    ]);
    let digest = warm.format(&image, "{{.Digest}}");
    // Every step's records are in no image: it is said, and the image is the same.
    let args = ["build", "-t", &image, "--cache-to", "type=inline,mode=max"];
    let said = warm.ok(args.into_iter().chain([path])).stderr;
    let warning = "warning: --cache-to `type=inline,mode=max`";
    assert_eq!(said.matches(warning).count(), 1, "{said}");
    assert_eq!(warm.format(&image, "{{.Digest}}"), digest);
    // Built again from the cache, it is the same, records and all.
    warm.ok(["build", "-t", &image, "--cache-to", "type=inline", path]);
    assert_eq!(warm.format(&image, "{{.Digest}}"), digest);
    // Without records, the configuration is the same.
    let id = warm.format(&image, "{{.Id}}");
    warm.ok(["build", "-t", "plain", path]);
    assert_eq!(warm.format("plain", "{{.Id}}"), id);

    let (cold, context) = machine(dockerfile).unwrap();
    let built = cold.build_app(&context, &["--cache-from", &image]);
    assert_eq!(built.ran(), Vec::<String>::new(), "{}", built.stderr);
    assert_eq!(cold.output_of("app", &["cat", "/one"]), "one\n");
    fs::write(context.join("a.txt"), "other\n").unwrap();
    assert_eq!(
        cold.build_app(&context, &["--cache-from", &image])
            .ran()
            .len(),
        2
    );
}

#[test]
fn an_image_without_records_gives_nothing_and_is_warned_of() {
    let dockerfile = "FROM busybox\nRUN echo one > /one\n";
    let Some((warm, context)) = machine(dockerfile) else {
        return;
    };
    let server = Server::start();
    let image = server.reference("app:1");
    warm.ok(["build", "-t", &image, "--push", context.to_str().unwrap()]);
    let (cold, context) = machine(dockerfile).unwrap();
    let built = cold.build_app(&context, &["--cache-from", &image]);
    assert_eq!(built.ran().len(), 1);
    assert_eq!(
        warnings(&built),
        [format!(
            "warning: `{image}` holds no build cache: nothing is taken from it"
        )]
    );
    // It is an image, and stays one.
    let written = cold.build_app(&context, &["--cache-to", &image]);
    assert!(
        warnings(&written)[0].contains("is left alone"),
        "{}",
        written.stderr
    );
    warm.ok(["rmi", "-f", &image]);
    warm.ok(["pull", &image]);
}

#[test]
fn a_cache_that_is_not_there_yet_is_no_trouble() {
    let Some((sandbox, context)) = machine(DOCKERFILE) else {
        return;
    };
    let server = Server::start();
    let (reference, folder) = (server.reference("none"), sandbox.path("none"));
    let local = format!("type=local,src={}", folder.display());
    let flags = ["--cache-from", &reference, "--cache-from", &local];
    let built = sandbox.build_app(&context, &flags);
    assert_eq!(built.ran().len(), STEPS);
    assert_eq!(warnings(&built), Vec::<&str>::new());
}

#[test]
fn a_registry_that_is_down_costs_one_warning_each_way() {
    let Some((sandbox, context)) = machine(DOCKERFILE) else {
        return;
    };
    let reference = format!("{}/cache", crate::harness::free_address());
    let built = sandbox.build_app(&context, &["--cache-from", &reference]);
    assert_eq!(built.ran().len(), STEPS);
    assert_eq!(warnings(&built).len(), 1, "{}", built.stderr);

    let written = sandbox.build_app(&context, &["--cache-to", &reference]);
    assert_eq!(warnings(&written).len(), 1, "{}", written.stderr);
    let insisting = format!("type=registry,ref={reference},ignore-error=false");
    let args = ["build", "-t", "app", "--cache-to", &insisting];
    let failed = sandbox.run(args.into_iter().chain([context.to_str().unwrap()]));
    failed.failure(1, &["build cache: "]);
}

#[test]
fn a_registry_that_does_not_answer_is_given_up_soon() {
    let Some((sandbox, context)) = machine(DOCKERFILE) else {
        return;
    };
    let silent = Silent::start();
    let reference = format!("{}/cache", silent.address);
    let built = sandbox.build_app(&context, &["--cache-from", &reference]);
    assert_eq!(built.ran().len(), STEPS);
    let [warning] = warnings(&built)[..] else {
        panic!("{}", built.stderr)
    };
    // The cache's patience and the client's end at about the same moment.
    let gave_up = ["no answer within", "timed out"].map(|words| warning.contains(words));
    assert!(gave_up.contains(&true), "{warning}");
    // One question was enough, for all steps: by TLS, and where nobody speaks that, without.
    assert!(silent.asked("GET ") <= 1, "{}", built.stderr);
    assert!(silent.asked("\u{16}") <= 1, "{}", built.stderr);
    assert_ne!(silent.connections.lock().unwrap().len(), 0);
}

/// Takes every connection and never says a word. It ends with the test program.
struct Silent {
    address: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&connections);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                kept.lock().unwrap().push(connection.unwrap());
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// How many connections began with these bytes.
    fn asked(&self, words: &str) -> usize {
        let begins = |connection: &&TcpStream| {
            let mut first = vec![0; words.len()];
            connection.set_nonblocking(true).unwrap();
            connection.peek(&mut first).is_ok() && first == words.as_bytes()
        };
        self.connections
            .lock()
            .unwrap()
            .iter()
            .filter(begins)
            .count()
    }
}

/// A directory with all records of a build, and that build's machine.
fn exported() -> Option<(Sandbox, PathBuf)> {
    let (warm, context) = machine(DOCKERFILE)?;
    let folder = warm.path("cache");
    let to = format!("type=local,dest={},mode=max", folder.display());
    warm.build_app(&context, &["--cache-to", &to]);
    Some((warm, folder))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A cache that was damaged in some way costs one warning and is healed by an export.
#[track_caller]
fn damage_is_survived_and_healed(damage: impl Fn(&Path)) {
    let Some((_warm, folder)) = exported() else {
        return;
    };
    damage(&folder);
    let (cold, context) = machine(DOCKERFILE).unwrap();
    let from = format!("type=local,src={}", folder.display());
    let to = format!("type=local,dest={},mode=max", folder.display());
    let built = cold.build_app(&context, &["--cache-from", &from, "--cache-to", &to]);
    assert_eq!(warnings(&built).len(), 1, "{}", built.stderr);
    assert_eq!(
        cold.output_of("app", &["cat", "/built", "/b.out"]),
        "ALPHA\nbeta\n"
    );
    cold_build_runs_nothing(&from);
}

#[test]
fn damaged_records_are_misses() {
    for text in ["{", "{\"schemaVersion\":2}", ""] {
        damage_is_survived_and_healed(|folder| {
            for path in files(&folder.join("names")) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name.starts_with("k-") {
                    fs::write(&path, text).unwrap();
                }
            }
        });
    }
}

#[test]
fn missing_blobs_do_not_fail_a_build() {
    damage_is_survived_and_healed(|folder| {
        fs::remove_dir_all(folder.join("blobs")).unwrap();
    });
}

#[test]
fn one_missing_blob_does_not_fail_a_build() {
    damage_is_survived_and_healed(|folder| {
        // Without the last layer of the result all is well until it is exported.
        let blobs = files(&folder.join("blobs/sha256"));
        let newest = blobs
            .iter()
            .max_by_key(|path| fs::metadata(path).unwrap().len())
            .unwrap();
        fs::remove_file(newest).unwrap();
        for path in blobs.iter().filter(|path| path.exists()) {
            let mut bytes = fs::read(path).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    });
}

#[test]
fn blobs_that_are_another_layer_are_not_taken() {
    damage_is_survived_and_healed(|folder| {
        // A record with another layer's blob in its place: digests fit, the layer does not.
        let names = folder.join("names");
        let mut digests = BTreeSet::new();
        for path in files(&folder.join("blobs/sha256")) {
            digests.insert(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        let digests: Vec<String> = digests.into_iter().collect();
        for path in files(&names) {
            let text = fs::read_to_string(&path).unwrap();
            let Some(encoded) = text.split("\\\"encoded\\\":\\\"").nth(1) else {
                continue;
            };
            let encoded = encoded.split('\\').next().unwrap();
            let layers = String::from_utf8(base64(encoded)).unwrap();
            let mut swapped = layers.clone();
            for (at, digest) in digests.iter().enumerate() {
                let other = format!("<{}>", digests[(at + 1) % digests.len()]);
                swapped = swapped.replace(
                    &format!("sha256:{digest}\",\"size"),
                    &format!("sha256:{other}\",\"size"),
                );
            }
            let swapped = swapped.replace(['<', '>'], "");
            fs::write(&path, text.replace(encoded, &to_base64(swapped.as_bytes()))).unwrap();
        }
    });
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut value, mut bits) = (0u32, 0);
    for digit in text.bytes().filter(|b| *b != b'=') {
        let place = DIGITS.iter().position(|known| *known == digit).unwrap();
        value = value << 6 | u32::try_from(place).unwrap();
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits & 255) as u8);
        }
    }
    bytes
}

fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let value = three
            .iter()
            .fold(0u32, |value, b| value << 8 | u32::from(*b))
            << (8 * (3 - three.len()));
        for at in 0..4 {
            let place = (value >> (18 - 6 * at) & 63) as usize;
            text.push(if at > three.len() {
                '='
            } else {
                char::from(DIGITS[place])
            });
        }
    }
    text
}

#[test]
fn no_value_and_no_name_leaves_the_machine() {
    let dockerfile = "\
FROM busybox
ARG TOKEN
COPY private-name.txt /copied
RUN --mount=type=secret,id=key test -s /run/secrets/key && echo $TOKEN | wc -c > /n
";
    let Some((warm, context)) = machine(dockerfile) else {
        return;
    };
    fs::write(context.join("private-name.txt"), "content-of-the-file\n").unwrap();
    let key = warm.path("key");
    fs::write(&key, "value-of-the-secret\n").unwrap();
    let folder = warm.path("cache");
    let secret = format!("id=key,src={}", key.display());
    let to = format!("type=local,dest={},mode=max", folder.display());
    let flags = [
        "--build-arg",
        "TOKEN=value-of-the-argument",
        "--secret",
        &secret,
        "--cache-to",
        &to,
    ];
    warm.build_app(&context, &flags);
    let documents = documents(&folder);
    assert!(documents.contains("env TOKEN"), "fields have names");
    let scratch = warm.path("").display().to_string();
    for value in [
        "value-of-the-argument",
        "value-of-the-secret",
        "private-name",
        "content-of-the-file",
        "wc -c",
        &scratch,
    ] {
        assert!(!documents.contains(value), "`{value}` in {documents}");
    }
    for blob in files(&folder.join("blobs/sha256")) {
        let mut text = String::new();
        let bytes = fs::read(blob).unwrap();
        let _ = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text);
        for value in ["value-of-the-argument", "value-of-the-secret"] {
            assert!(!text.contains(value), "`{value}` in a layer");
        }
    }
}

#[test]
fn a_cold_build_fetches_one_record_and_its_layers() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let server = Server::start();
    let direct = server.reference("cache");
    let to = format!("type=registry,ref={direct},mode=max");
    warm.build_app(&context, &["--cache-to", &to]);

    let proxy = Proxy::start(&server.address);
    let (cold, context) = machine(DOCKERFILE).unwrap();
    let built = cold.build_app(&context, &["--cache-from", &proxy.reference("cache")]);
    assert_eq!(built.ran(), Vec::<String>::new());
    let requests = proxy.requests();
    let of = |part: &str| requests.iter().filter(|line| line.contains(part)).count();
    assert_eq!(of("GET /v2/cache/manifests/latest"), 1, "{requests:#?}");
    assert_eq!(of("/manifests/k-"), 1, "{requests:#?}");
    // The result's own layers: neither the base's nor the other stage's.
    assert_eq!(of("GET /v2/cache/blobs/"), 3, "{requests:#?}");
    assert_eq!(of("/v2/cache/"), 5, "{requests:#?}");
}

#[test]
fn an_export_of_what_is_there_sends_nothing() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let server = Server::start();
    let proxy = Proxy::start(&server.address);
    let to = format!("type=registry,ref={},mode=max", proxy.reference("cache"));
    warm.build_app(&context, &["--cache-to", &to]);
    let sent = |lines: &[String]| {
        let writes = ["PUT ", "POST ", "PATCH "];
        lines
            .iter()
            .filter(|line| writes.iter().any(|write| line.starts_with(write)))
            .count()
    };
    assert!(sent(&proxy.requests()) > STEPS);
    warm.build_app(&context, &["--cache-to", &to]);
    let requests = proxy.requests();
    assert_eq!(sent(&requests), 0, "{requests:#?}");

    // One who took it from there sends nothing back, and fetches nothing to do so.
    let (cold, context) = machine(DOCKERFILE).unwrap();
    let from = proxy.reference("cache");
    cold.build_app(&context, &["--cache-from", &from, "--cache-to", &to]);
    let requests = proxy.requests();
    assert_eq!(sent(&requests), 0, "{requests:#?}");
    let blobs = requests
        .iter()
        .filter(|line| line.starts_with("GET") && line.contains("/blobs/"));
    assert_eq!(blobs.count(), 3, "{requests:#?}");
}

#[test]
fn a_registry_that_loses_its_blobs_costs_one_warning() {
    let Some((warm, context)) = machine(DOCKERFILE) else {
        return;
    };
    let server = Server::start();
    warm.build_app(&context, &["--cache-to", &server.reference("cache")]);
    let proxy = Proxy::start(&server.address);
    proxy.refuse("/blobs/");
    let (cold, context) = machine(DOCKERFILE).unwrap();
    let built = cold.build_app(&context, &["--cache-from", &proxy.reference("cache")]);
    assert_eq!(built.ran().len(), STEPS, "{}", built.stderr);
    assert_eq!(warnings(&built).len(), 1, "{}", built.stderr);
}

#[test]
fn what_is_not_understood_is_refused() {
    let sandbox = Sandbox::new();
    for (flag, value) in [
        ("--cache-to", "type=gha"),
        ("--cache-to", "type=registry"),
        ("--cache-to", "type=local,dest=x,mode=all"),
        ("--cache-to", "type=inline,mode=all"),
        ("--cache-from", "type=s3,bucket=x"),
        ("--cache-from", "type=local"),
    ] {
        sandbox.run(["build", flag, value, "."]).failure(2, &[flag]);
    }
}

/// Passes requests on to a registry, one for each connection, and keeps their first lines.
pub(crate) struct Proxy {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<String>>>,
    refused: Arc<Mutex<Option<String>>>,
}

impl Proxy {
    pub(crate) fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
            refused: Arc::default(),
        };
        let (seen, refused) = (Arc::clone(&proxy.seen), Arc::clone(&proxy.refused));
        let upstream = upstream.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, refused) = (Arc::clone(&seen), Arc::clone(&refused));
                let upstream = upstream.clone();
                std::thread::spawn(move || pass_on(client, &upstream, &seen, &refused));
            }
        });
        proxy
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Answers requests whose line has `part` in it with 404.
    fn refuse(&self, part: &str) {
        *self.refused.lock().unwrap() = Some(part.to_owned());
    }

    /// The requests since this was last asked.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn pass_on(
    mut client: TcpStream,
    upstream: &str,
    seen: &Mutex<Vec<String>>,
    refused: &Mutex<Option<String>>,
) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // What is no plain HTTP is turned away: the client tries TLS first.
        if client.read(&mut byte).ok()? == 0
            || head.first().is_some_and(|b| !b.is_ascii_uppercase())
        {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let line = text.lines().next()?.to_owned();
    seen.lock().unwrap().push(line.clone());
    let refused = refused.lock().unwrap().clone();
    if refused.is_some_and(|part| line.contains(&part)) {
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return client.write_all(answer.as_bytes()).ok();
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes()).ok()?;
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let sending = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = sending.join();
    Some(())
}
