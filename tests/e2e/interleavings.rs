//! Builds, pushes, pulls, names, removals and collections of several processes on one state
//! root, in an order that a seed decides, some of them killed at any moment.
//!
//! Afterwards what is named is whole and equal to what a machine of its own makes, whatever was
//! not killed has succeeded, and nothing is left that the next command does not clear.
//! `LONGSHORE_INTERLEAVINGS=N` lives through N seeds rather than a few, and
//! `LONGSHORE_INTERLEAVING=SEED` through that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Outcome, Sandbox, Server, peer, tool};
use crate::kill::{no_mount_in, runs, unpublished, wait_until};

const SEEDS: u64 = 4;
const OPERATIONS: usize = 14;
/// How many processes work on the state root at the same time.
const AT_ONCE: usize = 3;
/// A process that is to be killed is killed within so many milliseconds.
const LIFE_MS: u64 = 500;
const EPOCH: &str = "1700000000";

/// Numbers that a seed decides (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// A word that is in the command line of every step of this test, and of no one else's.
fn mark() -> String {
    format!("81{:07}", std::process::id())
}

/// Three Dockerfiles that have steps in common.
fn contexts(sandbox: &Sandbox) -> Vec<PathBuf> {
    let mark = mark();
    let first =
        format!("FROM busybox AS first\nRUN [\"sh\", \"-c\", \"echo one > /one\", \"{mark}\"]\n");
    let texts = [
        format!("{first}COPY data /data\nRUN cat /data /one > /sum\n"),
        format!(
            "{first}RUN --mount=type=cache,target=/c echo x >> /c/x; seq 20000 > /two; rm /one\n"
        ),
        format!(
            "{first}RUN seq 30000 > /many\nFROM scratch\nCOPY --from=first /one /many /d/\nCOPY data /data\n"
        ),
    ];
    let context = |(number, text): (usize, &String)| {
        let files = [("Dockerfile", text.as_str()), ("data", "data\n")];
        sandbox.context(&format!("app{number}"), &files)
    };
    texts.iter().enumerate().map(context).collect()
}

/// What a machine of its own makes of the Dockerfiles: the base they stand on, and their ids.
struct Truth {
    machine: Sandbox,
    contexts: Vec<PathBuf>,
    base: PathBuf,
    ids: Vec<String>,
}

impl Truth {
    fn new() -> Option<Self> {
        let machine = Sandbox::with_busybox()?;
        let contexts = contexts(&machine);
        let base = machine.path("base.tar");
        machine.ok(["save", "-o", base.to_str().unwrap(), "busybox"]);
        let mut ids = Vec::new();
        for (number, context) in contexts.iter().enumerate() {
            let name = format!("app{number}");
            let args = build_args(context, &format!("type=image,name={name}"));
            Outcome::of(at_epoch(machine.command(args))).success();
            ids.push(machine.format(&name, "{{.Id}}"));
        }
        Some(Self {
            machine,
            contexts,
            base,
            ids,
        })
    }
}

fn build_args(context: &Path, output: &str) -> Vec<String> {
    let output = format!("{output},rewrite-timestamp=true");
    let args = [
        "build",
        "--progress=plain",
        "-o",
        &output,
        context.to_str().unwrap(),
    ];
    args.map(str::to_owned).into()
}

fn at_epoch(mut command: Command) -> Command {
    command.env("SOURCE_DATE_EPOCH", EPOCH);
    command
}

/// One process on the state root.
struct Running {
    child: Child,
    shown: String,
    said: PathBuf,
    killed_at: Option<Instant>,
    /// What it may fail with although nobody killed it.
    excuse: Option<&'static str>,
}

/// A state root that several processes use, and what should be there when they are done.
struct Machine<'a> {
    truth: &'a Truth,
    sandbox: Sandbox,
    server: Server,
    chance: Chance,
    running: Vec<Running>,
    /// The names that were given and by which Dockerfile they should be made; those that
    /// must be there.
    names: BTreeMap<String, (usize, bool)>,
    /// The same for references in the registry.
    pushed: BTreeMap<String, (usize, bool)>,
    count: usize,
}

impl<'a> Machine<'a> {
    fn new(truth: &'a Truth, seed: u64) -> Self {
        let sandbox = Sandbox::new();
        sandbox.ok(["load", "-i", truth.base.to_str().unwrap()]);
        // The registry is on the same root, or on one of its own.
        let registry = sandbox.path("registry");
        let server = Server::start_at(if seed.is_multiple_of(2) {
            sandbox.root()
        } else {
            &registry
        });
        let mut machine = Self {
            truth,
            sandbox,
            server,
            chance: Chance(seed),
            running: Vec::new(),
            names: BTreeMap::new(),
            pushed: BTreeMap::new(),
            count: 0,
        };
        for number in 0..truth.contexts.len() {
            machine.seed_registry(number);
        }
        machine
    }

    /// An image that is in the registry, and here by two names, before anything begins.
    fn seed_registry(&mut self, number: usize) {
        let reference = self.server.reference(&format!("first{number}:1"));
        let (there, here) = (&self.truth.machine, &self.sandbox);
        there.ok(["tag", &format!("app{number}"), &reference]);
        there.ok(["push", &reference]);
        here.ok(["pull", &reference]);
        here.ok(["tag", &reference, &format!("kept{number}:latest")]);
        self.names.insert(reference.clone(), (number, true));
        self.names
            .insert(format!("kept{number}:latest"), (number, true));
        self.pushed.insert(reference, (number, true));
    }

    /// Lives through the operations.
    fn live(&mut self) {
        for _ in 0..OPERATIONS {
            while self.running.len() >= AT_ONCE {
                self.reap();
            }
            let pause = self.chance.below(60);
            std::thread::sleep(Duration::from_millis(pause));
            self.begin();
        }
        while !self.running.is_empty() {
            self.reap();
        }
    }

    fn begin(&mut self) {
        self.count += 1;
        let dies = self.chance.one_in(3);
        let (args, excuse) = self.operation(!dies);
        let said = self.sandbox.path(&format!("said-{}", self.count));
        let log = fs::File::create(&said).unwrap();
        let mut command = at_epoch(self.sandbox.command(&args));
        command.stderr(log.try_clone().unwrap()).stdout(log);
        let life = Duration::from_millis(self.chance.below(LIFE_MS));
        self.running.push(Running {
            child: command.spawn().unwrap(),
            shown: args.join(" "),
            said,
            killed_at: dies.then(|| Instant::now() + life),
            excuse,
        });
    }

    /// What to do next; `counts` when it must have succeeded in the end.
    fn operation(&mut self, counts: bool) -> (Vec<String>, Option<&'static str>) {
        let number = usize::try_from(self.chance.below(3)).unwrap();
        let count = self.count;
        let own = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
        match self.chance.below(16) {
            0..6 => {
                let name = format!("made{count}:latest");
                let args = build_args(
                    &self.truth.contexts[number],
                    &format!("type=image,name={name}"),
                );
                self.names.insert(name, (number, counts));
                (args, None)
            }
            6 | 7 => {
                let reference = self.server.reference(&format!("built{count}:1"));
                let output = format!("type=registry,name={reference}");
                let args = build_args(&self.truth.contexts[number], &output);
                self.pushed.insert(reference.clone(), (number, counts));
                self.names.insert(reference, (number, false));
                (args, None)
            }
            8 => {
                // Its name is there from the beginning.
                let reference = self.server.reference(&format!("first{number}:1"));
                (own(&["push", &reference]), None)
            }
            9 => {
                let reference = self.server.reference(&format!("first{number}:1"));
                (own(&["pull", &reference]), None)
            }
            10 => {
                let name = format!("made{count}:latest");
                let args = own(&["tag", &format!("kept{number}"), &name]);
                self.names.insert(name, (number, counts));
                (args, None)
            }
            11 | 12 => {
                // It may be gone, or still to come.
                let made: Vec<&String> = self
                    .names
                    .keys()
                    .filter(|name| name.starts_with("made"))
                    .collect();
                let Some(name) =
                    made.get(usize::try_from(self.chance.below(made.len().max(1) as u64)).unwrap())
                else {
                    return (own(&["images"]), None);
                };
                let name = (*name).clone();
                if let Some((_, must)) = self.names.get_mut(&name) {
                    *must = false;
                }
                (own(&["rmi", &name]), Some("no such image"))
            }
            13 => (own(&["prune"]), None),
            14 => (own(&["prune", "--all"]), None),
            _ => {
                let args = own(&["run", "--rm", "busybox", "true"]);
                (args, None)
            }
        }
    }

    /// Waits a moment, kills whose time has come, and looks at those that ended.
    fn reap(&mut self) {
        std::thread::sleep(Duration::from_millis(2));
        for mut running in std::mem::take(&mut self.running) {
            let now = Instant::now();
            if running.killed_at.is_some_and(|at| at <= now) {
                running.child.kill().unwrap();
                running.child.wait().unwrap();
            } else if let Some(status) = running.child.try_wait().unwrap() {
                let said = fs::read_to_string(&running.said).unwrap();
                let excused = running.excuse.is_some_and(|excuse| said.contains(excuse));
                let shown = &running.shown;
                assert!(status.success() || excused, "{shown}: {status}\n{said}");
            } else {
                self.running.push(running);
            }
        }
    }

    /// Everything that is named is whole, and what it should be.
    fn check_images(&self) {
        let here = self.sandbox.names();
        for (name, (number, must)) in &self.names {
            let is_here = here.contains(name);
            assert!(is_here || !must, "`{name}` is gone");
            if is_here {
                let id = self.sandbox.format(name, "{{.Id}}");
                assert_eq!(id, self.truth.ids[*number], "{name}");
            }
        }
        let strangers = here
            .iter()
            .filter(|name| *name != "busybox:latest" && !self.names.contains_key(*name));
        assert_eq!(strangers.count(), 0, "{here:?}");
        let (archive, copy) = (self.sandbox.path("all.tar"), Sandbox::new());
        let save = ["save", "--format=oci", "-o", archive.to_str().unwrap()];
        self.sandbox
            .ok(save.into_iter().chain(here.iter().map(String::as_str)));
        // Loading verifies every digest.
        copy.ok(["load", "-i", archive.to_str().unwrap()]);
        assert_eq!(copy.names(), here);
    }

    /// Every image in the registry is whole, says someone else.
    fn check_registry(&self) {
        if tool("skopeo").is_none() {
            return;
        }
        for (reference, (number, must)) in &self.pushed {
            let dest = self.sandbox.path("peer");
            let _ = fs::remove_dir_all(&dest);
            let mut copy = Command::new("skopeo");
            copy.args(["copy", "--src-tls-verify=false", "-q"])
                .arg(format!("docker://{reference}"))
                .arg(format!("dir:{}", dest.display()));
            let copied = Outcome::of(copy);
            if copied.code != 0 {
                let absent = copied.stderr.contains("manifest unknown")
                    || copied.stderr.contains("name unknown");
                assert!(absent && !must, "{reference}: {}", copied.stderr);
                continue;
            }
            let manifest = fs::read_to_string(dest.join("manifest.json")).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
            assert_eq!(manifest["config"]["digest"], self.truth.ids[*number]);
        }
    }

    /// Every blob's file holds what its name says.
    fn check_blobs(&self) {
        let files = blobs(self.sandbox.root());
        if files.is_empty() {
            return;
        }
        let sums = peer("sha256sum", &files).stdout;
        for line in sums.lines() {
            let (sum, path) = line.split_once("  ").unwrap();
            assert!(path.ends_with(sum), "{line}");
        }
    }

    /// Nothing is left of those that were killed, once another command has begun.
    fn check_leftovers(self) {
        wait_until("the steps' processes are gone", || !runs(&mark()));
        no_mount_in(self.sandbox.root());
        drop(self.server);
        self.sandbox.ok(["images"]);
        // What is still being uploaded may be resumed.
        let uploads = self.sandbox.root().join("uploads");
        let left: Vec<String> = unpublished(self.sandbox.root())
            .into_iter()
            .filter(|path| !Path::new(path).starts_with(&uploads))
            .collect();
        assert_eq!(left, Vec::<String>::new());
        let flights = self.sandbox.root().join("cache/flights");
        let flights = fs::read_dir(flights).into_iter().flatten();
        assert_eq!(flights.count(), 0, "locks of steps are left");
        let names = self.sandbox.names();
        self.sandbox
            .ok(["rmi"].into_iter().chain(names.iter().map(String::as_str)));
        self.sandbox.ok(["prune", "--all"]);
    }
}

/// The files of the blobs of a state root.
fn blobs(root: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(root.join("blobs")).into_iter();
    files
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

fn live(truth: &Truth, seed: u64) {
    let mut machine = Machine::new(truth, seed);
    machine.live();
    machine.check_images();
    machine.check_registry();
    machine.check_blobs();
    machine.check_leftovers();
}

/// The seeds that the environment asks for.
fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match number("LONGSHORE_INTERLEAVING") {
        Some(seed) => vec![seed],
        None => (0..number("LONGSHORE_INTERLEAVINGS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn processes_that_are_killed_at_any_moment_leave_what_is_named_whole() {
    let Some(truth) = Truth::new() else {
        return;
    };
    for seed in seeds() {
        println!("LONGSHORE_INTERLEAVING={seed}");
        live(&truth, seed);
    }
}

/// How often two processes build the same.
const ROUNDS: usize = 50;

/// Builds the same in two processes at once; what they print, and how many steps ran.
fn build_twice(sandbox: &Sandbox, context: &Path) -> (Vec<String>, usize) {
    let build = |number: usize| {
        let name = format!("both{number}");
        let args = build_args(context, &format!("type=image,name={name}"));
        Outcome::of(at_epoch(sandbox.command(args))).success()
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let running = [0, 1].map(|number| scope.spawn(move || build(number)));
        running.map(|build| build.join().unwrap()).into()
    });
    let ran = outcomes.iter().map(|outcome| outcome.ran().len()).sum();
    let printed = outcomes.into_iter().map(|outcome| outcome.stdout);
    (printed.collect(), ran)
}

#[test]
fn two_processes_that_build_the_same_fifty_times_beside_collections_all_succeed_and_agree() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN seq 2000 > /made\nCOPY data /data\nRUN cat /made /data > /sum && rm /made\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile), ("data", "data\n")]);
    let done = AtomicBool::new(false);
    let (mut images, mut ran_in) = (BTreeSet::new(), 0);
    std::thread::scope(|scope| {
        let collect = || {
            while !done.load(Ordering::Relaxed) {
                sandbox.ok(["prune", "--all"]);
            }
        };
        let _stop = OnDrop(&done);
        scope.spawn(collect);
        for round in 0..ROUNDS {
            let (printed, ran) = build_twice(&sandbox, &context);
            images.extend(printed);
            ran_in += usize::from(ran > 0);
            sandbox.ok(["rmi", "both0", "both1"]);
            if round % 10 == 0 {
                // Nothing of it is there in the next round, whatever the others do.
                sandbox.ok(["prune", "--all"]);
            }
        }
    });
    assert_eq!(images.len(), 1, "{images:?}");
    assert!(ran_in > ROUNDS / 10, "steps ran in {ran_in} rounds");
    assert_eq!(unpublished(sandbox.root()), Vec::<String>::new());
    no_mount_in(sandbox.root());
}

/// Says that it is over, also where a test fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
