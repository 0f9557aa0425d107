//! Why a process could not be run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A process that was not run, or whose end is not known.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The spec asks for something that cannot be.
    #[error("{field}: {reason}")]
    Spec {
        /// Which field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The user or group is not in the image.
    #[error("user `{user}`: {reason}")]
    User {
        /// As written.
        user: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The command is not there, or its interpreter is not.
    #[error("{reason}")]
    NotFound {
        /// The first argument.
        command: String,
        /// What was looked for and not found.
        reason: String,
    },
    /// The command is there, but cannot be executed.
    #[error("{reason}")]
    NotExecutable {
        /// The first argument.
        command: String,
        /// Why not.
        reason: String,
    },
    /// A step of building the sandbox failed.
    #[error("cannot {action}{}{}", display_path(path.as_ref()), display_hint(hint.as_ref()))]
    Setup {
        /// What was being done: `mount proc`, `create a process namespace`.
        action: String,
        /// On which path, if on one.
        path: Option<PathBuf>,
        /// What would help.
        hint: Option<String>,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The caller cancelled the run; everything it started is gone.
    #[error("cancelled")]
    Cancelled,
    /// It took longer than it may; everything it started is gone.
    #[error("timed out: it did not end within {after:?}, and was killed")]
    TimedOut {
        /// How long it was given.
        after: Duration,
    },
    /// The process that watches over the sandbox vanished.
    #[error("the sandbox's supervisor ended unexpectedly{}", display_hint(detail.as_ref()))]
    Lost {
        /// What is known of its end.
        detail: Option<String>,
    },
    /// This machine offers no isolation that could be used.
    #[error("no way to run a process here: {reason}")]
    NoIsolation {
        /// What was tried, and why it did not work.
        reason: String,
    },
}

/// Who can do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Whoever wrote the Dockerfile or the command line.
    User,
    /// Whoever set up the machine.
    Environment,
    /// We.
    Internal,
}

impl RunError {
    /// Who can do something about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Spec { .. }
            | Self::User { .. }
            | Self::NotFound { .. }
            | Self::NotExecutable { .. }
            | Self::Cancelled
            | Self::TimedOut { .. } => ErrorClass::User,
            Self::Setup { .. } | Self::NoIsolation { .. } => ErrorClass::Environment,
            Self::Lost { .. } => ErrorClass::Internal,
        }
    }

    /// The exit code that shells and Docker give for it: 127 for a command that is not there, 126
    /// for one that cannot be executed, 125 for everything else.
    #[must_use]
    pub fn docker_code(&self) -> i32 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Cancelled | Self::TimedOut { .. } => 128 + 9,
            _ => 125,
        }
    }
}

fn display_path(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" `{}`", path.display()))
        .unwrap_or_default()
}

fn display_hint(hint: Option<&String>) -> String {
    hint.map(|hint| format!(" ({hint})")).unwrap_or_default()
}
