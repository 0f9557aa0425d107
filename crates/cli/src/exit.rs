//! Exit codes.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The build or command failed.
    Failed,
    /// Wrong usage.
    Usage,
    /// The environment lacks something.
    Environment,
    /// A container's own code, or 125, 126 and 127 as Docker has them.
    Code(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Environment => 3,
            Exit::Code(code) => code,
        })
    }
}
