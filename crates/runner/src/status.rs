//! How a process ended.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is known once the process and everything it started are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code or signal of the process.
    pub ended: Ended,
    /// The kernel killed something in the sandbox for lack of memory.
    pub oom: bool,
    /// What was asked for and could not be given.
    pub warnings: Vec<Warning>,
    /// What it used.
    pub usage: Usage,
}

/// Exit code or signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// It exited.
    Code(i32),
    /// It was killed.
    Signal(i32),
}

impl ExitStatus {
    /// It exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.ended == Ended::Code(0)
    }

    /// One number, as shells and Docker say it: the exit code, or 128 plus the signal.
    #[must_use]
    pub fn docker_code(&self) -> i32 {
        self.ended.docker_code()
    }
}

impl Ended {
    /// The exit code, or 128 plus the signal.
    #[must_use]
    pub fn docker_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Resources used by the process and the children it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time on a CPU in user mode.
    pub user_time: Duration,
    /// Time on a CPU in the kernel.
    pub system_time: Duration,
    /// The largest resident size of any one process.
    pub max_rss_bytes: u64,
}

/// Something asked for that this machine does not give; the process ran without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What was asked for: `memory limit`, `rlimit nofile`, …
    pub what: String,
    /// Why it is missing.
    pub why: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not applied: {}", self.what, self.why)
    }
}
