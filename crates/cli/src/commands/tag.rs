//! `longshore tag`.

use anyhow::Result;

use crate::args::{Global, TagArgs};
use crate::exit::Exit;
use crate::{config, spec};

pub(crate) fn run(global: &Global, args: &TagArgs) -> Result<Exit> {
    let target = spec::parse_reference(&args.target)?;
    config::engine(global)?.tag(&args.source, &target)?;
    Ok(Exit::Done)
}
