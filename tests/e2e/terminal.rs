//! `run -it`: a person's terminal in front of a process that has its own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{Sandbox, is_root};

const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal, the program that runs in it, and what it showed so far.
struct Session {
    ours: OwnedFd,
    theirs: OwnedFd,
    before: Termios,
    child: Child,
    shown: String,
    output: Receiver<Vec<u8>>,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Session {
    fn start(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&ours, size(33, 77)).unwrap();
        let before = tcgetattr(&theirs).unwrap();
        let stdio = || Stdio::from(theirs.try_clone().unwrap());
        let child = command
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let mut reader = File::from(ours.try_clone().unwrap());
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            ours,
            theirs,
            before,
            child,
            shown: String::new(),
            output,
        }
    }

    fn types(&self, text: &str) {
        File::from(self.ours.try_clone().unwrap())
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[track_caller]
    fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no `{text}` in {:?}", self.shown),
            }
        }
        self.shown.clear();
    }

    /// Ctrl-C, once there is something in the foreground that it ends.
    fn is_interrupted_in_a_sleep(&mut self) {
        let word = crate::endings::unused_seconds(85);
        self.types(&format!("sleep {word}\r"));
        self.shows(&format!("sleep {word}\r\n"));
        crate::kill::wait_until("it sleeps", || crate::kill::runs(&word));
        self.types("\x03");
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(self.theirs.as_fd()).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the end, after which the terminal is as it was.
    #[track_caller]
    fn ends(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let after = tcgetattr(&self.theirs).unwrap();
        let modes = |it: &Termios| {
            (
                it.local_modes,
                it.input_modes,
                it.output_modes,
                it.control_modes,
            )
        };
        assert_eq!(modes(&after), modes(&self.before));
        status
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

fn session(sandbox: &Sandbox, args: &[&str]) -> Session {
    Session::start(sandbox.command(args))
}

#[test]
fn privileged_a_shell_in_a_terminal_of_its_own() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let mut session = session(&sandbox, &["run", "-it", "busybox", "sh"]);
    session.shows("# ");
    assert!(session.is_raw());
    session.types("tty; stty size; echo $TERM $((6 * 7))\r");
    session.shows("/dev/pts/0\r\n33 77\r\nxterm 42\r\n");
    // The size follows ours.
    tcsetwinsize(&session.ours, size(40, 100)).unwrap();
    session.types("trap 'echo resized' WINCH; while [ \"$(stty size)\" != '40 100' ]; do :; done; echo now $((20 * 2))\r");
    session.shows("now 40\r\n");
    // Ctrl-C belongs to the process behind it.
    session.is_interrupted_in_a_sleep();
    session.types("echo code $?\r");
    session.shows("code 130\r\n");
    session.types("exit 7\r");
    assert_eq!(session.ends().code(), Some(7));
}

/// Its device is the caller's, so it has no name inside; all else is as with one of its own.
#[test]
fn privileged_by_chroot_a_shell_has_a_terminal_too() {
    let Some(sandbox) = is_root().then(Sandbox::with_busybox).flatten() else {
        return;
    };
    let args = ["run", "--isolation=chroot", "-it", "busybox", "sh"];
    let mut session = session(&sandbox, &args);
    session.shows("# ");
    assert!(session.is_raw());
    session.types("stty size; echo $TERM $((6 * 7)); test -t 0 && echo is a terminal\r");
    session.shows("33 77\r\nxterm 42\r\nis a terminal\r\n");
    session.is_interrupted_in_a_sleep();
    session.types("echo code $?\r");
    session.shows("code 130\r\n");
    session.types("exit 7\r");
    assert_eq!(session.ends().code(), Some(7));
}

#[test]
fn privileged_the_terminal_is_as_it_was_after_every_ending() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let missing = session(&sandbox, &["run", "-it", "busybox", "no-such-program"]);
    assert_eq!(missing.ends().code(), Some(127));
    let wrong = session(&sandbox, &["run", "-it", "no-such-image", "--pull=never"]);
    assert_eq!(wrong.ends().code(), Some(125));
    // Ctrl-D ends a shell.
    let mut shell = session(&sandbox, &["run", "-it", "busybox", "sh"]);
    shell.shows("# ");
    shell.types("\x04");
    assert_eq!(shell.ends().code(), Some(0));
    // Signals to the program reach the process.
    for (signal, name) in [
        (rustix::process::Signal::TERM, "TERM"),
        (rustix::process::Signal::HUP, "HUP"),
        (rustix::process::Signal::USR2, "USR2"),
    ] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.1; done");
        let mut waiting = session(&sandbox, &["run", "-it", "busybox", "sh", "-c", &script]);
        waiting.shows("ready");
        waiting.signal(signal);
        assert_eq!(waiting.ends().code(), Some(9), "{name}");
    }
    let mut killed = session(&sandbox, &["run", "-it", "busybox", "sh"]);
    killed.shows("# ");
    killed.types(
        "kill -9 $$; sh -c 'kill -9 $PPID'; exec sh -c 'ulimit -t 1; while :; do :; done'\r",
    );
    assert_eq!(killed.ends().code(), Some(137));
}

#[test]
fn privileged_a_terminal_is_asked_for_where_there_is_none() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox
        .run(["run", "-it", "busybox", "true"])
        .failure(125, &["needs a terminal"]);
    // Without -i nothing is typed, so that none is needed.
    let out = sandbox
        .ok(["run", "-t", "busybox", "sh", "-c", "tty; stty size"])
        .stdout;
    assert_eq!(out, "/dev/pts/0\r\n24 80\r\n");
    // And with a terminal but no -t, the process has none of its own.
    let mut plain = session(
        &sandbox,
        &[
            "run",
            "-i",
            "busybox",
            "sh",
            "-c",
            "test -c /dev/tty; cat < /dev/tty || echo none",
        ],
    );
    plain.shows("none");
    assert!(plain.ends().success());
}

/// Types into whatever terminal it can reach, as CVE-2017-5226 did into that of its caller.
const TYPIST: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
int main(void) {
    int opened = open("/dev/tty", O_RDWR);
    int typed = 0;
    for (int fd = 0; fd <= (opened < 3 ? 2 : opened); fd++) {
        ioctl(fd, TIOCSCTTY, 1);
        for (const char *at = "echo smuggled\n"; *at; at++)
            typed += ioctl(fd, TIOCSTI, at) == 0;
    }
    printf("typed %d, done\n", typed);
    return 0;
}
"#;

#[test]
fn privileged_cve_2017_5226_nothing_is_typed_into_the_terminal_behind() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = sandbox.context(
        "context",
        &[("Dockerfile", "FROM busybox\nCOPY typist /\n")],
    );
    let source = sandbox.path("typist.c");
    std::fs::write(&source, TYPIST).unwrap();
    let mut compiler = Command::new("gcc");
    compiler
        .arg("-static")
        .arg("-o")
        .arg(context.join("typist"));
    if !compiler.arg(&source).status().is_ok_and(|it| it.success()) {
        crate::skip::skip("needs gcc and a static C library");
        return;
    }
    sandbox.build_app(&context, &[]);
    // With the caller's own terminal as its three streams.
    let inner = sandbox.command(["run", "-i", "app", "/typist"]);
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut plain = Session::start(command);
    plain.shows("typed 0, done");
    assert!(plain.ends().success());
    // With one of its own it may type into that, which only itself reads.
    let mut own = session(&sandbox, &["run", "-it", "app", "/typist"]);
    own.shows("done");
    let reads = own.theirs.try_clone().unwrap();
    assert!(own.ends().success());
    let waiting = rustix::io::ioctl_fionread(&reads).unwrap();
    assert_eq!(waiting, 0, "nothing is left to be read from the caller's");
}
