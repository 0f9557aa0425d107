//! `longshore prune` and `longshore df`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use longshore_engine::{CacheKind, PruneRequest, Pruned, PrunedItem, Space, SpaceLimits};
use serde_json::json;

use crate::args::{DfArgs, Global, PruneArgs};
use crate::exit::Exit;
use crate::report::Usage;
use crate::table::{out, print_rows};
use crate::{config, units};

pub(crate) fn run(global: &Global, args: &PruneArgs) -> Result<Exit> {
    let pruned = config::engine(global)?.prune(&request(args)?)?;
    show(&pruned, args.dry_run);
    Ok(Exit::Done)
}

fn request(args: &PruneArgs) -> Result<PruneRequest> {
    let mut request = PruneRequest {
        all: args.all,
        keep: keep(args)?,
        dry_run: args.dry_run,
        ..PruneRequest::default()
    };
    for text in &args.filter {
        match text.split_once('=') {
            // Each of several has to be met: the longest does.
            Some(("until" | "unused-for", time)) => {
                let time = units::parse_duration(time)?;
                request.unused_for = request.unused_for.max(Some(time));
            }
            // BuildKit writes `type==regular` too.
            Some(("type", name)) => {
                request.kinds.insert(kind(name.trim_start_matches('='))?);
            }
            _ => {
                return Err(Usage(format!(
                    "--filter `{text}`: until=DURATION and type=NAME are known"
                ))
                .into());
            }
        }
    }
    // Everything is what is left when nothing is kept.
    if request.keep.is_none() && args.keep_storage.is_some() && request.kinds.is_empty() {
        request.kinds = BTreeSet::from(CacheKind::ALL);
        request.kinds.remove(&CacheKind::BuildHistory);
    }
    Ok(request)
}

fn kind(name: &str) -> Result<CacheKind> {
    let found = CacheKind::ALL.into_iter().find(|kind| kind.name() == name);
    let known = || CacheKind::ALL.map(CacheKind::name).join(", ");
    Ok(found.ok_or_else(|| Usage(format!("--filter type={name}: {} are known", known())))?)
}

/// What of the build cache may stay, if that was said; nothing of it where it is 0.
fn keep(args: &PruneArgs) -> Result<Option<SpaceLimits>> {
    let space = |flag: &'static str, text: &Option<String>| {
        let space = text.as_deref().map(units::parse_space).transpose();
        space.context(flag)
    };
    let keep = space("--keep-storage", &args.keep_storage)?;
    let max_used = space("--max-used-space", &args.max_used_space)?;
    let min_free = space("--min-free-space", &args.min_free_space)?;
    let nothing = Some(Space::Bytes(0));
    if keep == nothing || (keep, max_used, min_free) == (None, None, None) {
        return Ok(None);
    }
    Ok(Some(SpaceLimits {
        reserved: nothing,
        max_used: keep.or(max_used).or(nothing),
        min_free: min_free.or(nothing),
    }))
}

fn show(pruned: &Pruned, dry_run: bool) {
    let doing = if dry_run { "would delete" } else { "deleted" };
    for item in &pruned.items {
        out(&format!("{doing}: {}", described(item)));
    }
    for digest in &pruned.images {
        out(&format!("{doing}: image {digest} without a name"));
    }
    for (digest, bytes) in &pruned.blobs {
        let bytes = units::show_bytes(*bytes);
        out(&format!("{doing}: {digest} ({bytes})"));
    }
    if dry_run {
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
}

/// What it is, and why it is worth what it is.
fn described(item: &PrunedItem) -> String {
    let age = item.last_used.elapsed().unwrap_or_default();
    format!(
        "{} {} ({}, {} to make again, last used {} ago)",
        item.kind.name(),
        item.name,
        units::show_bytes(item.bytes),
        units::show_seconds(Duration::from_millis(item.cost_ms).as_secs_f64()),
        units::show_seconds(age.as_secs_f64()),
    )
}

pub(crate) fn df(global: &Global, args: &DfArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let images = engine.image_space()?;
    let cache = engine.cache_space()?;
    let others = |kind: CacheKind| {
        let of_kind = cache.of_kind(kind);
        (
            of_kind.len() as u64,
            of_kind.iter().map(|other| other.bytes).sum(),
        )
    };
    let row = |kind: &str, (count, bytes): (u64, u64)| json!({ "Type": kind, "Count": count, "Bytes": bytes, "Size": units::show_bytes(bytes) });
    let layers = cache.layers;
    let rows = [
        row("Images", (images.count, images.bytes)),
        row("Build cache", (layers.blobs, layers.blob_bytes)),
        row(
            "Layer directories",
            (layers.directories, layers.directory_bytes),
        ),
        row("Cache mounts", others(CacheKind::CacheMount)),
        row("Git mirrors", others(CacheKind::GitCheckout)),
        row("Build history", others(CacheKind::BuildHistory)),
    ];
    print_rows(
        &rows,
        &[("TYPE", "Type"), ("TOTAL", "Count"), ("SIZE", "Size")],
        args.format.as_deref(),
    )?;
    Ok(Exit::Done)
}
