//! The networks of steps and containers: the machine's, none, and isolated ones that a helper
//! program connects. All traffic stays in network namespaces that are made here.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::{Exported, LONGSHORE, Outcome, Sandbox, busybox_tar, is_root, tool};

const HELPERS: [&str; 2] = ["pasta", "slirp4netns"];
/// What a server says that listens on the loopback address of a machine, and one of another machine.
const NEAR: &str = "only on loopback";
const FAR: &str = "from over the water";

/// A machine of its own, with one other that it has a cable to: 10.77.0.1 and 10.77.0.2. The other
/// is its router and its name server.
struct Machine {
    sandbox: Sandbox,
    /// Ends everything on it.
    init: Child,
    /// A process on it.
    shell: String,
}

const SETUP: &str = r#"
set -e
ip link set lo up
ip link add v0 type veth peer name v1
unshare -n sleep 1000000 &
until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
ip link set v1 netns $!
ip addr add 10.77.0.1/24 dev v0
ip link set v0 up
nsenter -t $! -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev v1; ip link set v1 up'
ip route add default via 10.77.0.2
mount --bind "$1/resolv.conf" /etc/resolv.conf
mknod -m 666 "$1/tun" c 10 200
mount --bind "$1/tun" /dev/net/tun
echo ready
wait
"#;

impl Machine {
    /// Needs root, who makes it; with an image `busybox`.
    fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        for name in ["ip", "unshare", "nsenter", "setpriv"] {
            tool(name)?;
        }
        if !Path::new("/dev/net/tun").exists() {
            crate::skip::skip("there is no /dev/net/tun");
            return None;
        }
        let sandbox = Sandbox::with_busybox()?;
        fs::write(
            sandbox.path("resolv.conf"),
            "search harbour.example\nnameserver 10.77.0.2\n",
        )
        .unwrap();
        let mut init = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "--propagation", "private"])
            .args(["sh", "-c", SETUP, "sh"])
            .arg(sandbox.path(""))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        init.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        let shell = children_of(&init.id().to_string()).remove(0);
        let machine = Self {
            sandbox,
            init,
            shell,
        };
        machine.serve();
        Some(machine)
    }

    fn serve(&self) {
        let (own, other) = (self.shell.clone(), children_of(&self.shell).remove(0));
        answer(&own, "127.0.0.1:9001", NEAR);
        answer(&other, "10.77.0.2:8000", FAR);
        let names = in_network(&other, || UdpSocket::bind("10.77.0.2:53").unwrap());
        thread::spawn(move || answer_questions(&names));
    }

    /// A program on this machine.
    fn on(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered
            .args(["-t", &self.shell, "-m", "-n", "-p", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered
    }

    /// The program under test on this machine, as root.
    fn longshore(&self, args: &[&str]) -> Command {
        self.on(&self.sandbox.command(args))
    }

    /// Builds a Dockerfile and reads what came out.
    #[track_caller]
    fn exported(&self, dockerfile: &str, flags: &[&str]) -> Exported {
        let context = self.sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
        let archive = self.sandbox.path("exported.tar");
        let output = format!("type=tar,dest={}", archive.display());
        let args = [
            "build",
            "--no-cache",
            "-o",
            &output,
            context.to_str().unwrap(),
        ];
        let args: Vec<&str> = args.into_iter().chain(flags.iter().copied()).collect();
        Outcome::of(self.longshore(&args)).success();
        Exported::read(&archive)
    }

    /// The helpers that run on it.
    fn helpers(&self) -> Vec<String> {
        let mut list = Command::new("sh");
        list.args(["-c", "cat /proc/[0-9]*/comm 2>/dev/null; true"]);
        let all = Outcome::of(self.on(&list)).success().stdout;
        // pasta executes itself by another name.
        let names = ["pasta", "passt", "slirp4netns"];
        let helper = |name: &&str| names.iter().any(|helper| name.starts_with(helper));
        all.lines().filter(helper).map(str::to_owned).collect()
    }

    #[track_caller]
    fn has_no_helper_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.helpers().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.helpers());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its parent is killed with it, and with that all on the machine.
        let _gone = self.init.kill();
        let _status = self.init.wait();
    }
}

fn children_of(pid: &str) -> Vec<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(str::to_owned).collect()
}

/// Makes something in the network of a process, which it then stays in.
fn in_network<T: Send + 'static>(pid: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let network = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let inside = thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        make()
    });
    inside.join().unwrap()
}

/// A server that says one thing to everybody.
fn answer(pid: &str, address: &'static str, text: &'static str) {
    let listener = in_network(pid, move || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            // Whoever does not listen has an answer too.
            let _gone = writeln!(client, "{text}");
        }
    });
}

/// A name server that knows every name: 10.77.0.9, and no other address.
fn answer_questions(socket: &UdpSocket) {
    let mut message = [0; 512];
    while let Ok((count, from)) = socket.recv_from(&mut message) {
        let question = &message[12..count];
        let name_end = question.iter().position(|byte| *byte == 0).unwrap();
        let question = &question[..name_end + 5];
        let is_v4 = question[name_end + 2] == 1;
        let mut answer = message[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
        answer.extend(question);
        if is_v4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 77, 0, 9]);
        }
        socket.send_to(&answer, from).unwrap();
    }
}

/// What there is of a network, and whether another machine is reached. Older pastas lose the end of a
/// connection that both sides end at the same time, so the step listens on for a while.
const LOOKS: &str = "FROM busybox\n\
    RUN ip addr > /addresses && ip route > /routes && cat /etc/resolv.conf > /resolver\n\
    RUN sleep 2 | timeout 20 nc 10.77.0.2 8000 > /far; test -s /far\n\
    RUN nslookup pier.harbour.example > /names 2>&1; true\n";

/// Tries every address at which the machine's loopback could be.
const LOOKS_NEAR: &str = "FROM busybox\n\
    RUN for at in 127.0.0.1 10.0.2.2 10.0.2.3 10.77.0.1 10.77.0.2 169.254.1.1; do \\\n\
    \x20   sleep 1 | timeout 3 nc $at 9001; done > /near 2>&1; true\n";

#[test]
fn privileged_an_isolated_network_reaches_others_but_not_the_machine_s_loopback() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for helper in HELPERS {
        if tool(helper).is_none() {
            continue;
        }
        let root = machine.exported(LOOKS, &["--default-network", helper]);
        is_isolated(&root, helper);
        let root = machine.exported(LOOKS_NEAR, &["--default-network", helper]);
        assert!(
            !root.text("near").contains(NEAR),
            "{helper}: {}",
            root.text("near")
        );
        machine.has_no_helper_left();
        // Unless it is asked for: so the test would see it.
        let flag = format!("{helper}:allow_host_loopback=true");
        let root = machine.exported(LOOKS_NEAR, &["--default-network", &flag]);
        assert!(
            root.text("near").contains(NEAR),
            "{helper}: {}",
            root.text("near")
        );
    }
    let root = machine.exported(LOOKS_NEAR, &[]);
    assert!(
        root.text("near").contains(NEAR),
        "the machine's own by default"
    );
}

#[track_caller]
fn is_isolated(root: &Exported, helper: &str) {
    assert!(
        root.text("far").contains(FAR),
        "{helper}: {}",
        root.text("far")
    );
    let (interface, server) = match helper {
        "pasta" => ("v0", "169.254.1.1"),
        _ => ("tap0", "10.0.2.3"),
    };
    assert!(
        root.text("addresses").contains(interface),
        "{}",
        root.text("addresses")
    );
    assert!(
        root.text("routes").contains("default via"),
        "{}",
        root.text("routes")
    );
    assert_eq!(
        root.text("resolver"),
        format!("nameserver {server}\nsearch harbour.example\n")
    );
    assert!(
        root.text("names").contains("10.77.0.9"),
        "{helper}: {}",
        root.text("names")
    );
}

#[test]
fn privileged_an_ordinary_user_has_isolated_networks_too() {
    let Some(machine) = Machine::new() else {
        return;
    };
    // Nobody's id; with that id alone.
    let folder = tempfile::tempdir().unwrap();
    let owner = 4_200_000 + std::process::id() % 1000;
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let Some(tar) = busybox_tar(&folder.path().join("busybox.tar")) else {
        return;
    };
    fs::copy(LONGSHORE, path("longshore")).unwrap();
    fs::create_dir(path("context")).unwrap();
    let both = format!("{LOOKS}{}", LOOKS_NEAR.replace("FROM busybox\n", ""));
    fs::write(path("context/Dockerfile"), both).unwrap();
    let given = Command::new("chown")
        .args(["-R", &owner.to_string()])
        .arg(folder.path())
        .status();
    assert!(given.unwrap().success());
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &owner.to_string(), "--regid", &owner.to_string()])
            .args([
                "--clear-groups",
                "--inh-caps=-all",
                "--",
                &path("longshore"),
            ])
            .args(args)
            .env("HOME", folder.path());
        machine.on(&command)
    };
    Outcome::of(as_user(&["import", tar.to_str().unwrap(), "busybox"])).success();
    for helper in HELPERS {
        if tool(helper).is_none() {
            continue;
        }
        let output = format!("type=tar,dest={}", path("out.tar"));
        let context = path("context");
        let args = [
            "build",
            "--no-cache",
            "--default-network",
            helper,
            "-o",
            &output,
            &context,
        ];
        Outcome::of(as_user(&args)).success();
        let root = Exported::read(Path::new(&path("out.tar")));
        is_isolated(&root, helper);
        assert!(
            !root.text("near").contains(NEAR),
            "{helper}: {}",
            root.text("near")
        );
        let args = [
            "run",
            "--network",
            helper,
            "busybox",
            "sh",
            "-c",
            "sleep 2 | timeout 20 nc 10.77.0.2 8000; true",
        ];
        let ran = Outcome::of(as_user(&args)).success();
        assert!(ran.stdout.contains(FAR), "{}", ran.stdout);
        machine.has_no_helper_left();
    }
}

#[test]
fn privileged_a_helper_dies_with_whoever_it_serves() {
    let Some(machine) = Machine::new() else {
        return;
    };
    for helper in HELPERS {
        if tool(helper).is_none() {
            continue;
        }
        let context = machine.sandbox.fresh_context(&[(
            "Dockerfile",
            "FROM busybox\nRUN true\nRUN true\nRUN sleep 100000\n",
        )]);
        let context: PathBuf = context;
        let args = ["build", "--no-cache", "--default-network", helper];
        let args: Vec<&str> = args.into_iter().chain(context.to_str()).collect();
        let mut build = machine
            .longshore(&args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains("RUN sleep 100000") {
            let count = build.stderr.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(count, 1, "{}", String::from_utf8_lossy(&seen));
            seen.extend(byte);
        }
        while machine.helpers().is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
        // nsenter's child is the program.
        let program = children_of(&build.id().to_string()).remove(0);
        let killed = Command::new("kill").args(["-9", &program]).status();
        assert!(killed.unwrap().success());
        build.wait().unwrap();
        machine.has_no_helper_left();
    }
}

#[test]
fn privileged_no_step_meets_what_another_left_in_its_network() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    if !is_root() {
        return;
    }
    let step = "RUN --network=none --security=insecure ip addr show dev lo | grep -q 127.0.0.1 && \
        ! ip addr | grep 10.9.9.9 && ! ip link show left 2>/dev/null && \
        ip addr add 10.9.9.9/32 dev lo && ip link add left type veth peer name right && echo ";
    let steps: String = (0..8).map(|n| format!("{step}{n} >> /count\n")).collect();
    let context = sandbox.fresh_context(&[("Dockerfile", &format!("FROM busybox\n{steps}"))]);
    let root = sandbox.exported_from(&context, &["--allow", "security.insecure"]);
    assert_eq!(root.text("count"), "0\n1\n2\n3\n4\n5\n6\n7\n");
}

#[test]
fn privileged_the_default_network_is_a_setting() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let config = sandbox.path("config.toml");
    fs::write(&config, "[network]\ndefault = \"none\"\n").unwrap();
    let links = |flags: &[&str], variable: Option<&str>| {
        let args = ["run"].into_iter().chain(flags.iter().copied());
        let mut command = sandbox.command(args.chain(["busybox", "ls", "/sys/class/net"]));
        command.env_remove("LONGSHORE_DEFAULT_NETWORK");
        if let Some(value) = variable {
            command.env("LONGSHORE_DEFAULT_NETWORK", value);
        }
        Outcome::of(command).success().stdout
    };
    let with_file = ["--config", config.to_str().unwrap()];
    let (own, machine_s) = ("lo\n".to_owned(), links(&[], None));
    assert_ne!(
        machine_s, own,
        "this machine has more than a loopback interface"
    );
    assert_eq!(links(&with_file, None), own);
    assert_eq!(links(&with_file, Some("host")), machine_s);
    assert_eq!(
        links(&["--default-network", "host"], Some("none")),
        machine_s
    );
    assert_eq!(links(&["--network", "default"], Some("none")), own);
    assert_eq!(links(&["--network", "host"], Some("none")), machine_s);

    // A step that asks for the machine's network gets it only where that is allowed.
    let dockerfile = "FROM busybox\nRUN ls /sys/class/net > /default\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let root = sandbox.exported_from(&context, &["--default-network", "none"]);
    assert_eq!(root.text("default"), own);
    let dockerfile = "FROM busybox\nRUN --network=host ls /sys/class/net > /host\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let path = context.to_str().unwrap();
    sandbox
        .run(["build", "--default-network", "none", path])
        .failure(1, &["network.host is not allowed"]);
    let allowed = ["--default-network", "none", "--allow", "network.host"];
    let root = sandbox.exported_from(&context, &allowed);
    assert_eq!(root.text("host"), machine_s);
}

#[test]
fn privileged_a_network_that_cannot_be_had_is_an_error_that_says_why() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox
        .run(["run", "--default-network", "bridge", "busybox", "true"])
        .failure(2, &["bridge"]);
    let config = sandbox.path("config.toml");
    for (text, part) in [
        ("[network]\ndefault = \"cni\"\n", "cni"),
        ("[network]\nmode = \"none\"\n", "mode"),
    ] {
        fs::write(&config, text).unwrap();
        let args = [
            "run",
            "--config",
            config.to_str().unwrap(),
            "busybox",
            "true",
        ];
        sandbox.run(args).failure(125, &["config.toml", part]);
    }
    for (network, part) in [
        ("pasta", "passt"),
        ("slirp4netns", "slirp4netns is not in PATH"),
        ("isolated", "pasta or slirp4netns"),
    ] {
        let context = sandbox.fresh_context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
        let args = ["build", "--no-cache", "--default-network", network];
        let mut command = sandbox.command(args.into_iter().chain(context.to_str()));
        command.env("PATH", sandbox.path("empty"));
        Outcome::of(command).failure(3, &[part]);
    }
    // A helper that ends at once says its own reason.
    let folder = sandbox.context(
        "programs",
        &[("slirp4netns", "#!/bin/sh\necho no water here >&2; exit 1\n")],
    );
    let made = Command::new("chmod")
        .arg("755")
        .arg(folder.join("slirp4netns"))
        .status();
    assert!(made.unwrap().success());
    let mut command = sandbox.command(["run", "--network", "slirp4netns", "busybox", "true"]);
    command.env("PATH", &folder);
    Outcome::of(command).failure(125, &["no water here"]);
}
