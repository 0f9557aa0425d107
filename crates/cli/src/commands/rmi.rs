//! `longshore rmi`.

use anyhow::Result;
use longshore_engine::{EngineError, Removed};

use crate::args::{Global, RmiArgs};
use crate::exit::Exit;
use crate::table::out;
use crate::{config, report};

pub(crate) fn run(global: &Global, args: &RmiArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let mut exit = Exit::Done;
    for name in &args.images {
        match engine.remove_image(name, args.force, !args.no_prune) {
            Ok(removed) => removed.iter().for_each(show),
            Err(EngineError::NoSuchImage(_)) if args.force => {}
            // The others are removed all the same.
            Err(error) => exit = report::failure(&error.into()),
        }
    }
    Ok(exit)
}

fn show(removed: &Removed) {
    match removed {
        Removed::Untagged(name) => out(&format!("Untagged: {name}")),
        Removed::Deleted(digest) => out(&format!("Deleted: {digest}")),
    }
}
