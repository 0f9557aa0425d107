//! `--init`: a process number 1 that reaps what is left behind and passes signals on.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, setpgid, wait,
};
use rustix::termios::{isatty, tcsetpgrp};

use crate::sys::{self, Cloned};

/// `struct signalfd_siginfo`, which begins with the signal's number.
const SIGNAL_INFO_BYTES: usize = 128;

/// Forks. Returns in the child, which becomes the command; the parent becomes the reaper.
pub(crate) fn split() -> io::Result<()> {
    let signals = sys::signals_as_descriptor()?;
    let reaper = getpid();
    match sys::fork()? {
        Cloned::Child => {
            // Where there is no process namespace that ends with the reaper.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(reaper) {
                sys::exit_now(125);
            }
            own_process_group()
        }
        Cloned::Parent(child) => {
            sys::close_all_from_3_but(signals.as_raw_fd());
            sys::exit_now(reap(child, signals.as_fd()))
        }
    }
}

/// So that the terminal's Ctrl-C reaches the command once: from the terminal, not from us as well.
/// Signals are blocked here, so the terminal does not stop us for it.
fn own_process_group() -> io::Result<()> {
    setpgid(None, None)?;
    let input = io::stdin();
    if isatty(input.as_fd()) {
        tcsetpgrp(input.as_fd(), getpid())?;
    }
    Ok(())
}

/// Until the command ends; returns its exit code.
fn reap(command: Pid, signals: BorrowedFd<'_>) -> i32 {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return status.exit_status().or(signal).unwrap_or(125);
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => pass_on(command, signals),
            Err(_) => return 125,
        }
    }
}

fn pass_on(command: Pid, signals: BorrowedFd<'_>) {
    let mut info = [0; SIGNAL_INFO_BYTES];
    let Ok(SIGNAL_INFO_BYTES) = rustix::io::read(signals, &mut info) else {
        return;
    };
    let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    if number != Signal::CHILD.as_raw() {
        // It may have become somebody whom we may not signal.
        let _refused = sys::signal(command, number);
    }
}
