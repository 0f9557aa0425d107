//! The signals that `run` passes on to the process, as Docker's `--sig-proxy` does: all that can be.

use anyhow::{Context as _, Result};
use longshore_runner::Cancel;
use tokio::signal::unix::{SignalKind, signal};

// Numbers of Linux on the architectures that this program is built for.
const KILL: i32 = 9;
const PIPE: i32 = 13;
const CHLD: i32 = 17;
const STOP: i32 = 19;
const URG: i32 = 23;
const WINCH: i32 = 28;
/// Of faults of this program's own: whoever returns from them is in the same place again.
const FAULTS: [i32; 6] = [4, 5, 7, 8, 11, 31];
/// The C library keeps two of the real-time signals to itself.
const OF_THE_LIBRARY: [i32; 2] = [32, 33];
const LAST: i32 = 64;

/// Those that are passed on. What a terminal's window is, the process's own terminal tells.
fn forwarded(terminal: bool) -> impl Iterator<Item = i32> {
    let ours = [KILL, STOP, CHLD, PIPE, URG];
    (1..=LAST).filter(move |it| {
        let is_ours = ours.contains(it) || (terminal && *it == WINCH);
        !(is_ours || FAULTS.contains(it) || OF_THE_LIBRARY.contains(it))
    })
}

/// Passes signals on to the process, as long as it runs. To be called on the runtime.
pub(crate) fn forward(cancel: &Cancel, terminal: bool) -> Result<()> {
    for number in forwarded(terminal) {
        let mut arrivals = signal(SignalKind::from_raw(number))
            .with_context(|| format!("cannot watch for signal {number}"))?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                cancel.signal(number);
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_signals_are_passed_on_but_those_that_cannot_be() {
        let all: Vec<_> = forwarded(false).collect();
        for number in [1, 2, 3, 10, 12, 14, 15, 18, 20, WINCH, 34, 64] {
            assert!(all.contains(&number), "{number}");
        }
        for number in [KILL, STOP, CHLD, PIPE, 11, 32] {
            assert!(!all.contains(&number), "{number}");
        }
        assert!(!forwarded(true).any(|it| it == WINCH));
    }
}
