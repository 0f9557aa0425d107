//! `longshore history`.

use anyhow::Result;
use longshore_oci::Platform;
use serde_json::json;

use crate::args::{Global, HistoryArgs};
use crate::exit::Exit;
use crate::table::print_rows;
use crate::{config, units};

/// How much of an instruction a table shows, characters.
const INSTRUCTION_WIDTH: usize = 60;

pub(crate) fn run(global: &Global, args: &HistoryArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let image = engine.find_image(&args.image)?;
    let found = engine.read_image(&image, &Platform::host())?;
    let mut sizes = found.manifest.layers.iter().map(|layer| layer.size);
    let now = jiff::Timestamp::now();
    let mut rows = Vec::new();
    for entry in &found.config.history {
        let size = if entry.empty_layer {
            0
        } else {
            sizes.next().unwrap_or(0)
        };
        let created = entry.created.clone().unwrap_or_default();
        let by = entry.created_by.replace(['\n', '\t'], " ");
        rows.push(json!({
            "ID": "<missing>",
            "CreatedAt": created,
            "CreatedSince": units::show_age(&created, now),
            "CreatedBy": if args.no_trunc { by } else { shorten(&by) },
            "Size": units::show_bytes(size),
            "Comment": entry.comment,
        }));
    }
    // The newest first, as Docker has it; the image's id stands at the newest.
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        first["ID"] = json!(if args.no_trunc {
            found.id().to_string()
        } else {
            found.id().short()
        });
    }
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    print_rows(&rows, &columns, args.format.as_deref())?;
    Ok(Exit::Done)
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= INSTRUCTION_WIDTH {
        return text.to_owned();
    }
    text.chars()
        .take(INSTRUCTION_WIDTH - 1)
        .chain(['…'])
        .collect()
}
