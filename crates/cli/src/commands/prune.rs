//! `longshore prune` and `longshore df`.

use anyhow::Result;
use serde_json::json;

use crate::args::{DfArgs, Global, PruneArgs};
use crate::exit::Exit;
use crate::table::{out, print_rows};
use crate::{config, units};

pub(crate) fn run(global: &Global, args: &PruneArgs) -> Result<Exit> {
    let pruned = config::engine(global)?.prune(args.all, args.dry_run)?;
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
