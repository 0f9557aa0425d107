//! `longshore pull`.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use longshore_oci::Platform;

use super::transfer::ShownTransfers;
use crate::args::{Global, PullArgs};
use crate::exit::Exit;
use crate::report::say;
use crate::table::out;
use crate::{config, spec};

pub(crate) fn run(global: &Global, args: &PullArgs) -> Result<Exit> {
    let reference = spec::parse_reference(&args.image)?.with_default_tag();
    let platform = match &args.platform {
        Some(text) => text
            .parse()
            .with_context(|| format!("--platform `{text}`"))?,
        None => Platform::host(),
    };
    let engine = config::engine(global)?;
    let observer = Arc::new(ShownTransfers::new(args.quiet));
    let pulled = config::runtime()?.block_on(engine.pull(&reference, &platform, observer))?;
    if !args.quiet {
        say(&format!("Digest: {}", pulled.descriptor.digest));
        let status = if pulled.fetched_bytes == 0 {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        say(&format!("Status: {status} {}", reference.familiar()));
    }
    out(&reference.to_string());
    Ok(Exit::Done)
}
