//! `longshore inspect`.

use anyhow::Result;
use longshore_engine::{Engine, StoredImage};
use longshore_oci::{Platform, Reference};
use serde_json::{Value, json};

use crate::args::{Global, InspectArgs};
use crate::exit::Exit;
use crate::table::out;
use crate::template::Template;
use crate::{config, report};

/// The fields of an image's `Config`.
const CONFIG_FIELDS: [&str; 12] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

pub(crate) fn run(global: &Global, args: &InspectArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let mut exit = Exit::Done;
    let mut found = Vec::new();
    for name in &args.images {
        match engine
            .find_image(name)
            .and_then(|image| describe(&engine, &image))
        {
            Ok(value) => found.push(value),
            Err(error) => exit = report::failure(&error.into()),
        }
    }
    match args.format.as_deref() {
        None => out(&serde_json::to_string_pretty(&found)?),
        Some("json") => out(&serde_json::to_string(&found)?),
        Some(text) => {
            let template = Template::parse(text)?;
            for value in &found {
                out(&template.render(value)?);
            }
        }
    }
    Ok(exit)
}

/// The image as `docker image inspect` shows it, with its digest and manifest beside that.
fn describe(engine: &Engine, image: &StoredImage) -> Result<Value, longshore_engine::EngineError> {
    let found = engine.read_image(image, &Platform::host())?;
    let names = engine.names_of(&image.descriptor.digest)?;
    let tagged: Vec<String> = names
        .iter()
        .filter(|name| name.tag().is_some())
        .map(Reference::familiar)
        .collect();
    let mut digests: Vec<String> = names
        .iter()
        .map(|name| format!("{}@{}", name.familiar_name(), image.descriptor.digest))
        .collect();
    digests.sort();
    digests.dedup();
    let config = &found.config;
    Ok(json!({
        "Id": found.id().to_string(),
        "Digest": image.descriptor.digest.to_string(),
        "MediaType": image.descriptor.media_type,
        "RepoTags": tagged,
        "RepoDigests": digests,
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": found.size_bytes(),
        "Config": with_all_fields(serde_json::to_value(&config.config).unwrap_or_default()),
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "Manifest": found.manifest,
        "History": config.history,
    }))
}

/// Docker shows every field of a configuration, set or not: templates rely on it.
fn with_all_fields(config: Value) -> Value {
    let mut fields: serde_json::Map<String, Value> = CONFIG_FIELDS
        .iter()
        .map(|name| ((*name).to_owned(), Value::Null))
        .collect();
    if let Value::Object(set) = config {
        fields.extend(set);
    }
    Value::Object(fields)
}
