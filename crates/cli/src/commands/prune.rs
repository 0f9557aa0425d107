//! `longshore prune` and `longshore df`.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::args::{DfArgs, Global, PruneArgs};
use crate::exit::Exit;
use crate::report::Usage;
use crate::table::{out, print_rows};
use crate::{config, units};

pub(crate) fn run(global: &Global, args: &PruneArgs) -> Result<Exit> {
    let unused_for = unused_for(&args.filter)?;
    let pruned = config::engine(global)?.prune(args.all, unused_for, args.dry_run)?;
    for (digest, bytes) in &pruned.blobs {
        let doing = if args.dry_run {
            "would delete"
        } else {
            "deleted"
        };
        out(&format!(
            "{doing}: {digest} ({})",
            units::show_bytes(*bytes)
        ));
    }
    if args.dry_run {
        for (why, count, bytes) in &pruned.kept {
            out(&format!(
                "kept: {count} blobs ({}): {why}",
                units::show_bytes(*bytes)
            ));
        }
    }
    let directories = pruned.directories;
    out(&format!(
        "Total reclaimed space: {} and {directories} layer directories",
        units::show_bytes(pruned.bytes)
    ));
    Ok(Exit::Done)
}

/// The time of `until=24h`; the longest of several, as each of them has to be met.
fn unused_for(filters: &[String]) -> Result<Option<Duration>> {
    let mut longest = None;
    for text in filters {
        let time = match text.split_once('=') {
            Some(("until" | "unused-for", time)) => units::parse_duration(time)?,
            _ => {
                return Err(Usage(format!("--filter `{text}`: until=DURATION is known")).into());
            }
        };
        longest = longest.max(Some(time));
    }
    Ok(longest)
}

pub(crate) fn df(global: &Global, args: &DfArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let (images, cache) = config::runtime()?.block_on(engine.disk_usage())?;
    let row = |kind: &str, usage: longshore_engine::DiskUsage| json!({ "Type": kind, "Count": usage.count, "Bytes": usage.bytes, "Size": units::show_bytes(usage.bytes) });
    let rows = [row("Images", images), row("Build cache", cache)];
    print_rows(
        &rows,
        &[("TYPE", "Type"), ("TOTAL", "Count"), ("SIZE", "Size")],
        args.format.as_deref(),
    )?;
    Ok(Exit::Done)
}
