//! Cache mounts that go through a build cache elsewhere: to a machine that has nothing, whole,
//! and only where they are asked for and needed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use longshore_oci::{Descriptor, Manifest};

use crate::harness::{Outcome, Sandbox, Server, is_root};
use crate::remote_cache::{Proxy, warnings};

/// What a mount held before the step is in the image; the step adds to it.
const ADD: &str = "FROM busybox\nARG V\n\
    RUN --mount=type=cache,id=log,target=/c cat /c/log > /before; echo $V >> /c/log\n";

struct Machine {
    sandbox: Sandbox,
    context: PathBuf,
}

impl Machine {
    /// A machine with the base image and nothing built.
    fn new(dockerfile: &str) -> Option<Self> {
        let sandbox = Sandbox::with_busybox()?;
        let context = sandbox.context("app", &[("Dockerfile", dockerfile)]);
        Some(Self { sandbox, context })
    }

    /// Builds a version, with further flags.
    #[track_caller]
    fn build(&self, version: &str, flags: &[&str]) -> Outcome {
        let argument = format!("V={version}");
        let all: Vec<&str> = ["--build-arg", &argument]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        self.sandbox.build_app(&self.context, &all)
    }

    /// What the mount held before the step ran.
    #[track_caller]
    fn before(&self) -> String {
        self.sandbox.output_of("app", &["cat", "/before"])
    }

    /// The directories of all cache mounts.
    fn mounts(&self) -> Vec<PathBuf> {
        let folder = self.sandbox.root().join("cache/mounts");
        let folders = fs::read_dir(folder).into_iter().flatten();
        let inner = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        inner
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect()
    }
}

/// A directory with the mounts of a build of version 1.
fn exported(dockerfile: &str) -> Option<(Machine, PathBuf)> {
    let warm = Machine::new(dockerfile)?;
    let folder = warm.sandbox.path("cache");
    let built = warm.build("1", &["--cache-to", &to(&folder)]);
    assert!(
        built.stderr.contains("1 of 1 cache mounts new"),
        "{}",
        built.stderr
    );
    Some((warm, folder))
}

fn to(folder: &Path) -> String {
    format!("type=local,dest={},mode=max,mounts=true", folder.display())
}

fn from(folder: &Path) -> String {
    format!("type=local,src={},mounts=true", folder.display())
}

/// The step of a machine that has nothing finds what the step of another one left.
#[track_caller]
fn goes_through(dockerfile: &str, to: &str, from: &str) {
    let Some(warm) = Machine::new(dockerfile) else {
        return;
    };
    let built = warm.build("1", &["--cache-to", to]);
    assert_eq!(warnings(&built), Vec::<&str>::new());
    assert_eq!(warm.before(), "");
    let cold = Machine::new(dockerfile).unwrap();
    let built = cold.build("2", &["--cache-from", from]);
    assert_eq!(warnings(&built), Vec::<&str>::new());
    assert_eq!(cold.before(), "1\n", "{}", built.stderr);
    cold.build("3", &[]);
    assert_eq!(
        cold.before(),
        "1\n2\n",
        "it is the machine's own from then on"
    );
}

#[test]
fn a_cold_machine_has_the_mounts_of_a_directory() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("cache");
    goes_through(ADD, &to(&folder), &from(&folder));
}

#[test]
fn a_cold_machine_has_the_mounts_of_our_registry() {
    let server = Server::start();
    let place = format!("type=registry,ref={},mounts=true", server.reference("c:m"));
    goes_through(ADD, &place, &place);
}

#[test]
fn a_cold_machine_has_the_mounts_of_distribution() {
    let Some(server) = Server::start_docker_registry() else {
        return;
    };
    let place = format!("type=registry,ref={},mounts=true", server.reference("c"));
    goes_through(ADD, &format!("{place},compression=zstd"), &place);
}

#[test]
fn private_and_locked_mounts_go_through_too() {
    for sharing in ["private", "locked"] {
        let sandbox = Sandbox::new();
        let folder = sandbox.path("cache");
        let dockerfile = ADD.replace("id=log", &format!("id=log,sharing={sharing}"));
        goes_through(&dockerfile, &to(&folder), &from(&folder));
    }
}

#[test]
fn a_mount_that_began_with_files_goes_through_too() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("cache");
    let dockerfile = "FROM busybox AS seed\nRUN mkdir /s && echo seed > /s/log\nFROM busybox\nARG V\n\
        RUN --mount=type=cache,id=log,from=seed,source=/s,target=/c \
        grep -v seed /c/log > /before; echo $V >> /c/log\n";
    goes_through(dockerfile, &to(&folder), &from(&folder));
}

#[test]
fn a_warm_machine_exports_the_mounts_of_steps_that_it_did_not_run() {
    let dockerfile = ADD.replace("FROM busybox", "FROM busybox AS tool")
        + "\
        FROM busybox\nCOPY --from=tool /before /before\n\
        RUN --mount=type=cache,id=seeded,from=tool,target=/s echo $V > /s/new\n";
    let Some(warm) = Machine::new(&dockerfile) else {
        return;
    };
    warm.build("1", &[]);
    let folder = warm.sandbox.path("cache");
    let flags = ["--cache-to", &to(&folder).replace("max", "min")];
    let built = warm.build("1", &flags);
    assert_eq!(built.ran(), Vec::<String>::new());
    assert!(
        built.stderr.contains("2 of 2 cache mounts new"),
        "{}",
        built.stderr
    );
    let again = warm.build("1", &flags);
    assert!(
        again.stderr.contains("0 of 2 cache mounts new"),
        "{}",
        again.stderr
    );
    let cold = Machine::new(&dockerfile).unwrap();
    cold.build("2", &["--cache-from", &from(&folder)]);
    assert_eq!(cold.before(), "1\n");
}

#[test]
fn an_export_of_mounts_that_are_there_sends_nothing() {
    let Some(warm) = Machine::new(ADD) else {
        return;
    };
    let server = Server::start();
    let proxy = Proxy::start(&server.address);
    let place = format!("type=registry,ref={},mounts=true", proxy.reference("c"));
    warm.build("1", &["--cache-to", &place]);
    let sent = |requests: &[String]| {
        let writes = ["PUT ", "POST ", "PATCH "];
        let is_write = |line: &&String| writes.iter().any(|write| line.starts_with(write));
        requests.iter().filter(is_write).count()
    };
    assert!(sent(&proxy.requests()) > 0);
    warm.build("1", &["--cache-to", &place]);
    assert_eq!(sent(&proxy.requests()), 0);
    // Touched by nobody but read anew, equal contents are equal bytes.
    for mount in warm.mounts() {
        fs::remove_file(mount.with_extension("sent")).unwrap();
    }
    warm.build("1", &["--cache-to", &place]);
    assert_eq!(sent(&proxy.requests()), 0);
}

#[test]
fn mounts_are_fetched_by_steps_that_run_and_where_they_are_asked_for() {
    let Some(warm) = Machine::new(ADD) else {
        return;
    };
    let server = Server::start();
    let place = |address: &str| format!("type=registry,ref={address}/c");
    let all = format!("{},mounts=true", place(&server.address));
    warm.build("1", &["--cache-to", &all]);
    let proxy = Proxy::start(&server.address);
    let of_mounts = || {
        let requests = proxy.requests();
        requests
            .iter()
            .filter(|line| line.contains("/manifests/m-"))
            .count()
    };
    let all = format!("{},mounts=true", place(&proxy.address));

    let cold = Machine::new(ADD).unwrap();
    let found = cold.build("1", &["--cache-from", &all]);
    assert_eq!(found.ran(), Vec::<String>::new());
    assert_eq!(of_mounts(), 0, "a step that is found needs no mount");

    cold.build("2", &["--cache-from", &place(&proxy.address)]);
    assert_eq!(
        (of_mounts(), cold.before().as_str()),
        (0, ""),
        "not asked for"
    );

    cold.build("3", &["--cache-from", &all]);
    assert_eq!(cold.before(), "2\n", "what is here stays");
    assert_eq!(of_mounts(), 0);

    for mount in cold.mounts() {
        fs::remove_file(mount.join("log")).unwrap();
    }
    cold.build("4", &["--cache-from", &all]);
    assert_eq!(cold.before(), "1\n", "an empty one is as good as none");
    assert_eq!(of_mounts(), 1);
}

#[test]
fn steps_that_share_a_mount_fetch_it_once() {
    let dockerfile = "FROM busybox AS one\nARG V\n\
        RUN --mount=type=cache,id=log,target=/c cat /c/log > /one; echo $V >> /c/log\n\
        FROM busybox AS two\nARG V\n\
        RUN --mount=type=cache,id=log,target=/c grep -m1 . /c/log > /two; echo $V >> /c/log\n\
        FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n";
    let Some(warm) = Machine::new(dockerfile) else {
        return;
    };
    let server = Server::start();
    let place = |address: &str| format!("type=registry,ref={address}/c,mounts=true");
    warm.build("1", &["--cache-to", &place(&server.address)]);
    let proxy = Proxy::start(&server.address);
    let cold = Machine::new(dockerfile).unwrap();
    let built = cold.build("2", &["--cache-from", &place(&proxy.address)]);
    assert_eq!(built.stderr.matches("cache mount `log` taken").count(), 1);
    for file in ["/one", "/two"] {
        let seen = cold.sandbox.output_of("app", &["head", "-n1", file]);
        assert_eq!(seen, "1\n", "{file}");
    }
    let requests = proxy.requests();
    let of = |part: &str| requests.iter().filter(|line| line.contains(part)).count();
    assert_eq!(
        (of("/manifests/m-"), of("GET /v2/c/blobs/")),
        (1, 1),
        "{requests:#?}"
    );
}

#[test]
fn privileged_owners_modes_and_links_of_a_mount_are_kept() {
    if !is_root() {
        return;
    }
    let fill = "mkdir -p /c/d && echo x > /c/d/f && chmod 0640 /c/d/f && chown 33:50 /c/d/f && \
        ln -s d/f /c/link && ln /c/d/f /c/hard && touch -d @1000000000 /c/d/f && \
        chmod 0555 /c/d && chmod 0711 /c && chown 7:8 /c";
    let dockerfile = format!(
        "FROM busybox\nARG V\n\
         RUN --mount=type=cache,target=/c,uid=33,gid=50,mode=0750 test -e /c/d || {{ {fill}; }}\n"
    );
    let Some((_warm, folder)) = exported(&dockerfile) else {
        return;
    };
    let cold = Machine::new(&dockerfile).unwrap();
    cold.build("2", &["--cache-from", &from(&folder)]);
    let mounts = cold.mounts();
    let [mount] = &mounts[..] else {
        panic!("one mount: {mounts:?}");
    };
    let line = |name: &str| {
        let about = fs::symlink_metadata(mount.join(name)).unwrap();
        let (mode, owner) = (about.mode() & 0o7777, (about.uid(), about.gid()));
        format!("{mode:o} {}:{}", owner.0, owner.1)
    };
    assert_eq!(line(""), "711 7:8");
    assert_eq!(line("d"), "555 0:0");
    assert_eq!(line("d/f"), "640 33:50");
    let file = fs::metadata(mount.join("d/f")).unwrap();
    assert_eq!((file.mtime(), file.nlink()), (1_000_000_000, 2));
    assert_eq!(fs::metadata(mount.join("hard")).unwrap().ino(), file.ino());
    assert_eq!(fs::read_link(mount.join("link")).unwrap(), Path::new("d/f"));
}

/// The file of the document that names a mount, and what it says.
fn document(folder: &Path) -> (PathBuf, Manifest) {
    let mut names = fs::read_dir(folder.join("names")).unwrap();
    let is_mount = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("m-")
    };
    let path = names.find_map(|entry| Some(entry.unwrap().path()).filter(is_mount));
    let path = path.unwrap();
    let manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    (path, manifest)
}

fn blob(folder: &Path, descriptor: &Descriptor) -> PathBuf {
    folder.join("blobs/sha256").join(descriptor.digest.hex())
}

/// A mount that was damaged in some way is not there, which is said once; the step's own goes
/// in its place.
#[track_caller]
fn damage_is_a_miss(damage: impl Fn(&Path)) {
    let Some((_warm, folder)) = exported(ADD) else {
        return;
    };
    damage(&folder);
    let cold = Machine::new(ADD).unwrap();
    let flags = ["--cache-from", &from(&folder), "--cache-to", &to(&folder)];
    let built = cold.build("2", &flags);
    let said = warnings(&built);
    assert_eq!(said.len(), 1, "{}", built.stderr);
    assert!(
        said[0].contains("cache mount `log` was not taken"),
        "{said:?}"
    );
    assert_eq!(cold.before(), "");
    let third = Machine::new(ADD).unwrap();
    let built = third.build("3", &["--cache-from", &from(&folder)]);
    assert_eq!(third.before(), "2\n", "{}", built.stderr);
}

#[test]
fn a_damaged_mount_is_a_miss_with_one_warning() {
    damage_is_a_miss(|folder| {
        let path = blob(folder, &document(folder).1.layers[0]);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    damage_is_a_miss(|folder| {
        let path = blob(folder, &document(folder).1.layers[0]);
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
    });
}

#[test]
fn a_mount_whose_blob_or_document_is_lost_is_a_miss_with_one_warning() {
    damage_is_a_miss(|folder| {
        fs::remove_file(blob(folder, &document(folder).1.layers[0])).unwrap();
    });
    damage_is_a_miss(|folder| fs::write(document(folder).0, "{").unwrap());
}

#[test]
fn a_lost_blob_of_the_same_contents_is_sent_again() {
    let dockerfile = "FROM busybox\nARG V\n\
        RUN --mount=type=cache,id=log,target=/c touch -d @7 /c/same; rm -f /c/gone; touch -d @7 /c\n";
    let Some((_warm, folder)) = exported(dockerfile) else {
        return;
    };
    let path = blob(&folder, &document(&folder).1.layers[0]);
    fs::write(&path, "damaged").unwrap();
    let cold = Machine::new(dockerfile).unwrap();
    let flags = ["--cache-from", &from(&folder), "--cache-to", &to(&folder)];
    let built = cold.build("2", &flags);
    assert_eq!(warnings(&built).len(), 1, "{}", built.stderr);
    let third = Machine::new(dockerfile).unwrap();
    let built = third.build("3", &["--cache-from", &from(&folder)]);
    assert_eq!(warnings(&built), Vec::<&str>::new());
    assert!(built.stderr.contains("taken from"), "{}", built.stderr);
}

/// Puts an archive in the place of a mount's blob, as one who may write to the cache can.
fn replace(folder: &Path, archive: &[u8], said_bytes: usize) {
    let (path, mut manifest) = document(folder);
    let fresh = Descriptor::of(&manifest.layers[0].media_type, archive);
    fs::write(blob(folder, &fresh), archive).unwrap();
    manifest.layers[0] = fresh;
    for text in manifest.annotations.values_mut() {
        let mut about: serde_json::Value = serde_json::from_str(text).unwrap();
        about["tar_bytes"] = said_bytes.into();
        *text = about.to_string();
    }
    fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn a_hostile_mount_reaches_nothing_outside() {
    let Some((_warm, folder)) = exported(ADD) else {
        return;
    };
    let outside = folder.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    let add = |archive: &mut tar::Builder<Vec<u8>>, kind, name: &[u8], link: Option<&Path>| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_size(0);
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
    };
    let up = b"../../../../../../outside/up".as_slice();
    for (link, file) in [
        (None, up),
        (Some(outside.as_path()), b"link/through".as_slice()),
    ] {
        let mut archive = tar::Builder::new(Vec::new());
        if link.is_some() {
            add(&mut archive, tar::EntryType::Symlink, b"link", link);
        }
        add(&mut archive, tar::EntryType::Regular, file, None);
        add(&mut archive, tar::EntryType::Char, b"device", None);
        replace(&folder, &archive.into_inner().unwrap(), 1 << 20);
        let cold = Machine::new(ADD).unwrap();
        let built = cold.build("2", &["--cache-from", &from(&folder)]);
        assert!(
            built.stderr.contains("cache mount `log` "),
            "it was looked at: {}",
            built.stderr
        );
        assert_eq!(cold.before(), "");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{file:?}");
        for mount in cold.mounts() {
            assert!(
                !mount.join("device").exists(),
                "no device comes from elsewhere"
            );
        }
    }
}

#[test]
fn an_archive_that_holds_more_than_it_says_is_a_miss() {
    damage_is_a_miss(|folder| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 20);
        header.set_mode(0o644);
        let zeros = vec![0; 1 << 20];
        archive.append_data(&mut header, "log", &zeros[..]).unwrap();
        replace(folder, &archive.into_inner().unwrap(), 1 << 19);
    });
}

#[test]
fn a_mount_that_is_too_large_stays_where_it_is() {
    let dockerfile = ADD.replace("echo $V", "head -c 100000 /dev/zero > /c/large; echo $V");
    let Some((warm, folder)) = exported(&dockerfile) else {
        return;
    };
    let cold = Machine::new(&dockerfile).unwrap();
    let small = |spec: &str| format!("{spec},mounts-max-size=50k");
    let built = cold.build("2", &["--cache-from", &small(&from(&folder))]);
    let said = warnings(&built);
    assert_eq!(said.len(), 1, "{}", built.stderr);
    assert!(
        said[0].contains("more than mounts-max-size allows"),
        "{said:?}"
    );
    assert_eq!(cold.before(), "");

    let other = warm.sandbox.path("other");
    let built = warm.build("1", &["--cache-to", &small(&to(&other))]);
    let said = warnings(&built);
    assert_eq!(said.len(), 1, "{}", built.stderr);
    assert!(
        said[0].contains("cache mount `log` was not exported"),
        "{said:?}"
    );
    assert!(built.stderr.contains("0 of 0 cache mounts new"));
}

#[test]
fn of_exports_of_one_mount_at_the_same_time_one_is_there_whole() {
    let server = Server::start();
    let place = format!("type=registry,ref={},mounts=true", server.reference("c"));
    let dockerfile = "FROM busybox\nARG V\n\
        RUN --mount=type=cache,id=log,target=/c cat /c/log > /before; \
        for n in 1 2 3 4 5; do echo $V; done > /c/log; cp /c/log /c/copy\n";
    let machines: Vec<Machine> = (0..4).filter_map(|_| Machine::new(dockerfile)).collect();
    std::thread::scope(|scope| {
        for (number, machine) in machines.iter().enumerate() {
            let place = &place;
            scope.spawn(move || {
                let built = machine.build(&format!("v{number}"), &["--cache-to", place]);
                assert_eq!(warnings(&built), Vec::<&str>::new());
            });
        }
    });
    let Some(cold) = Machine::new(dockerfile) else {
        return;
    };
    let built = cold.build("cold", &["--cache-from", &place]);
    assert_eq!(warnings(&built), Vec::<&str>::new());
    let text = cold.before();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines.iter().all(|line| *line == lines[0]), "{text}");
}

#[test]
fn a_registry_that_is_down_is_warned_of_once_with_mounts_too() {
    let Some(machine) = Machine::new(ADD) else {
        return;
    };
    let reference = format!("{}/cache", crate::harness::free_address());
    let place = format!("type=registry,ref={reference},mounts=true");
    let built = machine.build("1", &["--cache-from", &place]);
    assert_eq!(warnings(&built).len(), 1, "{}", built.stderr);
    assert_eq!(built.ran().len(), 1);
}

#[test]
fn an_image_carries_no_cache_mounts() {
    let sandbox = Sandbox::new();
    sandbox
        .run(["build", "--cache-to", "type=inline,mounts=true", "."])
        .failure(2, &["--cache-to", "an image carries no cache mounts"]);
}
