//! Where a process reads from and writes to.

use std::fmt;
use std::os::fd::OwnedFd;

/// Which of the two output streams a piece of output belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output; with a terminal, everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives output. Called on the thread inside [`Runner::run`](crate::Runner::run), in order per
/// stream, with every byte; while it does not return, the process waits, and so does
/// cancelling.
pub type OutputSink = Box<dyn FnMut(Stream, &[u8]) + Send>;

/// The three standard streams.
pub struct ProcessIo {
    /// Standard input.
    pub stdin: Input,
    /// Standard output.
    pub stdout: Output,
    /// Standard error. Unused with a terminal.
    pub stderr: Output,
    /// Receives what is written to an [`Output::Sink`].
    pub sink: OutputSink,
    /// The size of the terminal at start, when there is one.
    pub window: Option<WindowSize>,
}

impl ProcessIo {
    /// No input; both outputs go to `sink`.
    pub fn to_sink(sink: impl FnMut(Stream, &[u8]) + Send + 'static) -> Self {
        Self {
            stdin: Input::Null,
            stdout: Output::Sink,
            stderr: Output::Sink,
            sink: Box::new(sink),
            window: None,
        }
    }

    /// The caller's own three streams.
    #[must_use]
    pub fn inherit() -> Self {
        Self {
            stdin: Input::Inherit,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            sink: Box::new(|_, _| {}),
            window: None,
        }
    }
}

impl fmt::Debug for ProcessIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessIo")
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// Standard input.
#[derive(Debug)]
pub enum Input {
    /// The sandbox's `/dev/null`.
    Null,
    /// The caller's standard input.
    Inherit,
    /// This file. With a terminal its bytes are typed into it.
    Fd(OwnedFd),
}

/// An output stream.
#[derive(Debug)]
pub enum Output {
    /// Handed to [`ProcessIo::sink`].
    Sink,
    /// The caller's own stream.
    Inherit,
    /// This file.
    Fd(OwnedFd),
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}
