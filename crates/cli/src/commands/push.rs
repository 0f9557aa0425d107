//! `longshore push`.

use std::sync::Arc;

use anyhow::Result;
use longshore_oci::Reference;

use super::transfer::ShownTransfers;
use crate::args::{Global, PushArgs};
use crate::exit::Exit;
use crate::report::{Usage, say};
use crate::table::out;
use crate::{config, spec};

pub(crate) fn run(global: &Global, args: &PushArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let given = spec::parse_reference(&args.image)?;
    let targets: Vec<Reference> = match args.all_tags {
        false => vec![given],
        true if given.tag().is_some() || given.digest().is_some() => {
            return Err(Usage("--all-tags goes with a name alone".to_owned()).into());
        }
        true => {
            let names = engine
                .images()?
                .into_iter()
                .filter_map(|image| image.reference);
            names
                .filter(|name| name.name() == given.name() && name.tag().is_some())
                .collect()
        }
    };
    anyhow::ensure!(!targets.is_empty(), "no image is named `{}`", args.image);
    let runtime = config::runtime()?;
    for target in targets {
        let observer = Arc::new(ShownTransfers::new(args.quiet));
        let descriptor = runtime.block_on(engine.push(&target, observer))?;
        if !args.quiet {
            let version = target.clone().with_default_tag();
            say(&format!(
                "{}: digest: {} size: {}",
                version.familiar(),
                descriptor.digest,
                descriptor.size
            ));
        }
        out(&descriptor.digest.to_string());
    }
    Ok(Exit::Done)
}
