//! Ctrl-C and requests to end, on a thread of their own: a terminal that takes no output holds up
//! whatever writes to it, but not this.
//!
//! Invariant: a process that was interrupted ends. Whatever it leaves when it is cut off, the next
//! start clears, as after any crash.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long what was cancelled has to end by itself; a second Ctrl-C does not wait.
const END_GRACE: Duration = Duration::from_secs(5);

/// What a shell says of a process that Ctrl-C ended.
const EXIT_CODE: i32 = 130;

/// Cancels `cancel` when the process is interrupted.
///
/// # Errors
/// When signals cannot be watched for.
pub(crate) fn watch(cancel: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let watching = move || runtime.block_on(async move { signals.end(&cancel).await });
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(watching)?;
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    async fn end(&mut self, cancel: &CancellationToken) {
        self.next().await;
        cancel.cancel();
        let _again = tokio::time::timeout(END_GRACE, self.next()).await;
        // What should return may be waiting for the terminal.
        std::process::exit(EXIT_CODE);
    }
}
