//! `longshore import`.

use std::fs::File;
use std::io;

use anyhow::{Context as _, Result};
use longshore_engine::ImportRequest;
use longshore_oci::Platform;

use crate::args::{Global, ImportArgs};
use crate::exit::Exit;
use crate::table::out;
use crate::{config, spec};

pub(crate) fn run(global: &Global, args: ImportArgs) -> Result<Exit> {
    let platform = match &args.platform {
        Some(text) => text
            .parse()
            .with_context(|| format!("--platform `{text}`"))?,
        None => Platform::host(),
    };
    let request = ImportRequest {
        name: args
            .name
            .as_deref()
            .map(spec::parse_reference)
            .transpose()?,
        changes: args.change,
        message: args.message.unwrap_or_default(),
        platform,
    };
    let engine = config::engine(global)?;
    let descriptor = match args.file.as_str() {
        "-" => engine.import(io::stdin(), &request)?,
        path => engine.import(
            File::open(path).with_context(|| format!("`{path}`"))?,
            &request,
        )?,
    };
    out(&descriptor.digest.to_string());
    Ok(Exit::Done)
}
