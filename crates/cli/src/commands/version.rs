//! `longshore version` and `longshore completion`.

use anyhow::Result;
use clap::CommandFactory as _;
use serde_json::json;

use crate::args::{Cli, VersionArgs};
use crate::exit::Exit;
use crate::table::out;
use crate::template::Template;

pub(crate) fn run(args: &VersionArgs) -> Result<Exit> {
    let value = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": std::env::consts::OS,
        "Arch": longshore_oci::Platform::host().architecture,
    });
    match args.format.as_deref() {
        None => out(&format!("longshore {}", env!("CARGO_PKG_VERSION"))),
        Some("json") => out(&value.to_string()),
        Some(text) => out(&Template::parse(text)?.render(&value)?),
    }
    Ok(Exit::Done)
}

pub(crate) fn completion(shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "longshore", &mut script);
    out(String::from_utf8(script)?.trim_end());
    Ok(Exit::Done)
}
