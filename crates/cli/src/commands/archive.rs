//! `longshore save` and `longshore load`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use longshore_engine::ArchiveFormat as Format;

use crate::args::{ArchiveFormat, Global, LoadArgs, SaveArgs};
use crate::config;
use crate::exit::Exit;
use crate::report::Usage;
use crate::table::out;

pub(crate) fn save(global: &Global, args: &SaveArgs) -> Result<Exit> {
    let format = match args.format {
        ArchiveFormat::Docker => Format::Docker,
        ArchiveFormat::Oci => Format::Oci,
    };
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Usage(
            "an archive is not written to a terminal: use -o FILE or redirect".to_owned(),
        )
        .into());
    }
    let engine = config::engine(global)?;
    let Some(path) = &args.output else {
        engine.save(
            &args.images,
            format,
            io::BufWriter::new(io::stdout().lock()),
        )?;
        return Ok(Exit::Done);
    };
    // The file appears when it is complete.
    let name = path
        .file_name()
        .context("-o names no file")?
        .to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = write(&engine, args, format, &partial).and_then(|()| {
        std::fs::rename(&partial, path).with_context(|| format!("`{}`", path.display()))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written.map(|()| Exit::Done)
}

fn write(
    engine: &longshore_engine::Engine,
    args: &SaveArgs,
    format: Format,
    path: &std::path::Path,
) -> Result<()> {
    let file = File::create(path).with_context(|| format!("`{}`", path.display()))?;
    let mut sink = io::BufWriter::with_capacity(1 << 20, file);
    engine.save(&args.images, format, &mut sink)?;
    sink.flush()
        .with_context(|| format!("`{}`", path.display()))
}

pub(crate) fn load(global: &Global, args: &LoadArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let loaded = match &args.input {
        Some(path) => {
            engine.load(File::open(path).with_context(|| format!("`{}`", path.display()))?)?
        }
        None => engine.load(io::stdin())?,
    };
    for image in loaded {
        if image.names.is_empty() {
            out(&shown(
                args.quiet,
                "Loaded image ID",
                &image.descriptor.digest.to_string(),
            ));
        }
        for name in &image.names {
            out(&shown(
                args.quiet,
                "Loaded image",
                &name.clone().with_default_tag().familiar(),
            ));
        }
    }
    Ok(Exit::Done)
}

fn shown(quiet: bool, what: &str, name: &str) -> String {
    if quiet {
        name.to_owned()
    } else {
        format!("{what}: {name}")
    }
}
