//! Transfers on standard error: a line when a blob begins and one when it is complete.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use longshore_oci::Digest;
use longshore_registry_client::{Direction, Transfer, TransferObserver};

use crate::report::say;
use crate::units;

/// Shows the transfers of one command.
#[derive(Debug, Default)]
pub(crate) struct ShownTransfers {
    quiet: bool,
    complete: Mutex<HashMap<Digest, bool>>,
}

impl ShownTransfers {
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            ..Self::default()
        }
    }
}

impl TransferObserver for ShownTransfers {
    fn transferred(&self, transfer: Transfer<'_>) {
        if self.quiet {
            return;
        }
        let done = transfer.position_bytes == transfer.size_bytes;
        let mut complete = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        let before = complete.insert(transfer.digest, done);
        if before == Some(done) {
            return;
        }
        let (doing, size) = (
            direction(transfer.direction),
            units::show_bytes(transfer.size_bytes),
        );
        match done {
            true => say(&format!(
                "{}: {doing} complete ({size})",
                transfer.digest.short()
            )),
            false => say(&format!("{}: {doing} {size}", transfer.digest.short())),
        }
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Download => "download",
        Direction::Upload => "upload",
    }
}
