//! The stage, when it is asked for a connected network: it makes one, has a helper program connect
//! it, and ends the program when the caller no longer needs it.
//!
//! ```text
//! stage ──clone(network)────────────────► a child that hands the namespace back and ends
//!       ──clone(processes, mounts)──► init ──► pasta or slirp4netns
//! ```
//! The helper cannot outlive anybody: it is in a process namespace whose first process the kernel
//! kills with the stage, and the stage ends when its channel to the caller closes.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, setsid, wait};

use crate::channel::{Channel, Received};
use crate::connection::{Connection, NetworkHelper};
use crate::etc;
use crate::network;
use crate::plan::{Doing as _, Event, Failure, Go};
use crate::planner::file_in_memory;
use crate::supervisor::{Process, readable};
use crate::sys::{self, Cloned};

/// Where the helper finds the namespace: a file that is everywhere and that no helper reads. pasta
/// looks up nothing of other processes in `/proc`.
const PLACE: &str = "/proc/cmdline";
/// As much as is quoted of what a helper said.
const SAID_BYTES_MAX: u64 = 2000;

/// Makes the network, hands it out, and keeps it connected until the caller closes the channel or the
/// helper ends.
pub(crate) fn serve(
    channel: &Channel,
    program: &Path,
    connection: Connection,
) -> Result<(), Failure> {
    setsid().doing("start a session")?;
    let namespace = make_namespace()?;
    let (ours, theirs) = Channel::pair().doing("make a channel")?;
    let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let (cloned, _) = sys::clone_process(namespaces, None).doing("create namespaces")?;
    let init = match cloned {
        Cloned::Child => {
            drop(ours);
            enter(&theirs, &namespace, program, connection)
        }
        Cloned::Parent(init) => Process::of(init).doing("open the new process")?,
    };
    drop(theirs);
    let served = attend(channel, &ours, &init, &namespace);
    init.signal(Signal::KILL);
    init.wait().doing("wait for the network's helper")?;
    served
}

fn attend(
    channel: &Channel,
    notes: &Channel,
    init: &Process,
    namespace: &OwnedFd,
) -> Result<(), Failure> {
    notes.send(&Go, &[]).doing("start the network's helper")?;
    match notes.receive::<Result<(), Failure>>() {
        Ok(Received::Message(connected, _)) => connected?,
        Ok(Received::Closed) => return Err(Errno::PIPE).doing("start the network's helper"),
        Err(error) => return Err(error).doing("hear from the network's helper"),
    }
    let connected = channel.send(&Event::Connected, &[namespace.as_fd()]);
    connected.doing("hand over the network")?;
    // The caller says nothing more: it closes the channel.
    let fds = [Some(init.fd().as_fd()), Some(channel.as_fd())];
    readable(fds).doing("watch the network's helper").map(drop)
}

/// A new network whose `lo` is up, made by a child that goes into it, because nobody in a user
/// namespace comes back from there.
fn make_namespace() -> Result<OwnedFd, Failure> {
    let (ours, theirs) = Channel::pair().doing("make a channel")?;
    let (cloned, _) = sys::clone_process(libc::CLONE_NEWNET, None).doing("create a network")?;
    let child = match cloned {
        Cloned::Child => {
            let made = network::set_up("/proc/self/ns/net").doing("set up the network");
            let sent = match made {
                Ok(namespace) => theirs.send(&Ok::<_, Failure>(()), &[namespace.as_fd()]),
                Err(failure) => theirs.send(&Err::<(), _>(failure), &[]),
            };
            sys::exit_now(i32::from(sent.is_err()))
        }
        Cloned::Parent(child) => Process::of(child).doing("open the new process")?,
    };
    drop(theirs);
    let answer = ours.receive::<Result<(), Failure>>();
    child.wait().doing("wait for the new network")?;
    match answer.doing("receive the network")? {
        Received::Message(made, fds) => {
            made?;
            let namespace = fds.into_iter().next().ok_or(Errno::BADF);
            namespace.doing("receive the network")
        }
        Received::Closed => Err(Errno::PIPE).doing("receive the network"),
    }
}

/// The first process of the helper's namespaces.
fn enter(channel: &Channel, namespace: &OwnedFd, program: &Path, connection: Connection) -> ! {
    let started = start(channel, namespace, program, connection);
    let failed = started.is_err();
    let told = channel.send(&started.map(drop), &[]);
    if failed || told.is_err() {
        sys::exit_now(1);
    }
    // When all children are gone there is no helper left.
    while !matches!(wait(WaitOptions::empty()), Err(error) if error != Errno::INTR) {}
    sys::exit_now(0)
}

fn start(
    channel: &Channel,
    namespace: &OwnedFd,
    program: &Path,
    connection: Connection,
) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).doing("tie the process to its parent")?;
    match channel.receive::<Go>().doing("hear from the stage")? {
        Received::Message(Go, _) => {}
        Received::Closed => sys::exit_now(1),
    }
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).doing("make the mounts private")?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount_bind(source.as_str(), PLACE).doing("mount the network's namespace")?;
    match connection.helper {
        Some(NetworkHelper::Slirp4netns) => start_slirp4netns(program, connection),
        Some(NetworkHelper::Pasta) | None => start_pasta(program, connection),
    }
}

/// pasta leaves a process in the background once the network is connected.
fn start_pasta(program: &Path, connection: Connection) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(["--config-net", "--quiet", "--netns", PLACE]);
    // No port is forwarded by itself, neither inwards nor, past the gateway, outwards.
    command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    command.args(["--dns-forward", etc::forwarder(NetworkHelper::Pasta)]);
    if !connection.host_loopback {
        command.arg("--no-map-gw");
    }
    if crate::userns::is_initial() {
        // As anybody else it may not enter root's network.
        command.args(["--runas", "0:0"]);
    }
    let said = quietly(&mut command)?;
    let status = command.status().doing_at("start", program_name(program))?;
    match status.success() {
        true => Ok(()),
        false => Err(explain(program, said)),
    }
}

/// slirp4netns says that it is ready, and stays.
fn start_slirp4netns(program: &Path, connection: Connection) -> Result<(), Failure> {
    let what = "start the network's helper";
    let (ready, readied) = pipe_with(PipeFlags::CLOEXEC).doing(what)?;
    // Inherited, unlike what is close-on-exec.
    let inherited = rustix::io::dup(&readied).doing(what)?;
    drop(readied);
    let mut command = Command::new(program);
    command.args(["--configure", "--mtu=65520", "--enable-sandbox"]);
    command.args(["--enable-seccomp", "--netns-type=path"]);
    command.arg(format!("--ready-fd={}", inherited.as_raw_fd()));
    if !connection.host_loopback {
        command.arg("--disable-host-loopback");
    }
    command.args([PLACE, "tap0"]);
    let said = quietly(&mut command)?;
    // It is waited for with all other children.
    drop(command.spawn().doing_at("start", program_name(program))?);
    drop(inherited);
    let mut byte = [0];
    let count = File::from(ready).read(&mut byte).doing(what)?;
    match count {
        1 => Ok(()),
        _ => Err(explain(program, said)),
    }
}

/// With nothing of ours but its own standard error, which is read where it fails.
fn quietly(command: &mut Command) -> Result<OwnedFd, Failure> {
    let what = "keep what the network's helper says";
    let said = file_in_memory(b"").doing(what)?;
    let errors = said.try_clone().doing(what)?;
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(errors));
    Ok(said)
}

fn program_name(program: &Path) -> &str {
    program.to_str().unwrap_or("the network's helper")
}

fn explain(program: &Path, said: OwnedFd) -> Failure {
    let mut said = File::from(said);
    let mut text = String::new();
    let read = said
        .rewind()
        .and_then(|()| said.take(SAID_BYTES_MAX).read_to_string(&mut text));
    let lines = text.lines().map(str::trim).filter(|line| {
        // There is no system log in a container.
        !line.is_empty() && !line.contains("syslog")
    });
    let hint = match read {
        Ok(_) => lines.collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    };
    Failure::Setup {
        action: "connect the network by".to_owned(),
        path: Some(program.to_owned()),
        hint: Some(hint).filter(|it| !it.is_empty()),
        errno: libc::EIO,
    }
}
