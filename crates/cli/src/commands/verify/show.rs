//! What `verify` says: a line for each layer, file and field that differs, or JSON.

use anyhow::Result;
use longshore_engine::{
    Comparison, FieldDifference, FileDifference, How, LayerDifference, PlatformDifference, Side,
};
use serde_json::json;

use crate::exit::Exit;
use crate::progress::printable;
use crate::table::out;

/// What the images are, and what differs in them.
pub(super) fn comparison(comparison: &Comparison, dockerfile: &str, as_json: bool) -> Result<Exit> {
    let exit = match comparison.is_equal() {
        true => Exit::Done,
        false => Exit::Failed,
    };
    if as_json {
        let mut value = serde_json::to_value(comparison)?;
        value["result"] = json!(if comparison.is_equal() {
            "equal"
        } else {
            "differs"
        });
        value["only_times"] = json!(comparison.is_only_times());
        out(&serde_json::to_string_pretty(&value)?);
        return Ok(exit);
    }
    if comparison.is_equal() {
        out(&format!("equal: {}", comparison.first));
        return Ok(exit);
    }
    out(&format!(
        "differs: {} and {}",
        comparison.first, comparison.second
    ));
    let several = comparison.platforms.len() > 1;
    for difference in &comparison.platforms {
        if several {
            out(&format!("{}:", difference.platform));
        }
        platform(difference, dockerfile);
    }
    if comparison.is_only_times() {
        out("only times differ: --reproducible or SOURCE_DATE_EPOCH makes them the same");
    }
    Ok(exit)
}

/// That an image cannot be built again from what it was built from.
pub(super) fn unverifiable(name: &str, why: &str, as_json: bool) -> Result<Exit> {
    match as_json {
        true => {
            let value = json!({"result": "unverifiable", "why": why});
            out(&serde_json::to_string_pretty(&value)?);
        }
        false => line(&format!("cannot verify {name}: {why}")),
    }
    Ok(Exit::Environment)
}

fn platform(difference: &PlatformDifference, dockerfile: &str) {
    for layer in &difference.layers {
        let place = match layer.lines {
            Some((first, _)) => format!("{dockerfile}:{first}: "),
            None => String::new(),
        };
        line(&format!("layer {}: {place}{}", layer.number, layer.step));
        of_layer(layer);
    }
    for (what, fields) in [
        ("configuration", &difference.config),
        ("manifest", &difference.manifest),
    ] {
        if !fields.is_empty() {
            out(&format!("{what}:"));
        }
        for found in fields {
            line(&format!("  {}", field(found)));
        }
    }
}

fn of_layer(layer: &LayerDifference) {
    match layer.only_in {
        Some(Side::First) => return out("  the first image alone has it"),
        Some(Side::Second) => return out("  the second image alone has it"),
        None => {}
    }
    if layer.only_encoding {
        out("  the files are equal; their order or compression is not");
    }
    for file in &layer.files {
        line(&format!("  {}: {}", file.path, ways(file)));
    }
    if layer.more_files > 0 {
        out(&format!("  and {} more", layer.more_files));
    }
}

fn ways(file: &FileDifference) -> String {
    let ways: Vec<String> = file.how.iter().map(way).collect();
    ways.join(", ")
}

fn way(how: &How) -> String {
    match how {
        How::Added => "added".to_owned(),
        How::Removed => "removed".to_owned(),
        How::Kind { first, second } => format!("kind {first} -> {second}"),
        How::Content {
            first_bytes,
            second_bytes,
        } if first_bytes == second_bytes => format!("content ({first_bytes} bytes)"),
        How::Content {
            first_bytes,
            second_bytes,
        } => format!("content ({first_bytes} -> {second_bytes} bytes)"),
        How::Mode { first, second } => format!("mode {first} -> {second}"),
        How::Owner { first, second } => format!("owner {first} -> {second}"),
        How::Mtime { first, second } => format!("mtime {first} -> {second}"),
        How::Attributes { names } => format!("attributes {}", names.join(" ")),
    }
}

fn field(found: &FieldDifference) -> String {
    let shown = |value: &Option<serde_json::Value>| match value {
        Some(value) => value.to_string(),
        None => "nothing".to_owned(),
    };
    format!(
        "{}: {} -> {}",
        found.field,
        shown(&found.first),
        shown(&found.second)
    )
}

fn line(text: &str) {
    out(&printable(text.as_bytes()));
}
