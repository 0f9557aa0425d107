//! The caller's terminal while a process with a terminal of its own runs behind it.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};

use longshore_runner::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal on standard input, handing on every key as it is pressed: what Ctrl-C means is
/// decided by the terminal behind it. Dropping this, however that comes, makes it as it was.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Changes the terminal on standard input.
    pub(crate) fn enter() -> io::Result<Self> {
        let terminal = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// How large the caller's terminal is, where there is one.
pub(crate) fn window_size() -> Option<WindowSize> {
    let size_of = |fd: &dyn AsFd| {
        let size = tcgetwinsize(fd.as_fd()).ok()?;
        (size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
        })
    };
    size_of(&io::stdin()).or_else(|| size_of(&io::stdout()))
}

/// Whether somebody types on standard input.
pub(crate) fn is_on_stdin() -> bool {
    io::stdin().is_terminal()
}
