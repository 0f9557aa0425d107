//! What `--isolation inplace` leaves alone for this command, besides what the engine knows itself.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use longshore_engine::BuildRequest;

use crate::args::{BuildArgs, Global};
use crate::config;
use crate::report::Usage;

/// The files and directories that the command line and the environment name, each as its name and
/// as what that leads to.
pub(crate) fn in_place(
    global: &Global,
    args: &BuildArgs,
    request: &BuildRequest,
) -> Result<Vec<PathBuf>> {
    let named = request
        .local_paths()
        .into_iter()
        .chain(args.iidfile.clone())
        .chain(args.metadata_file.clone())
        .chain(global.config.clone())
        .chain([config::state_root(global)?])
        .chain(config::credential_files());
    let here = std::env::current_dir().context("cannot find the working directory")?;
    let mut kept = Vec::new();
    for path in named {
        let absolute = std::path::absolute(here.join(path))?;
        // What a name with `..` in it is depends on what is there: only where it leads counts.
        let climbs = absolute.components().any(|it| it == Component::ParentDir);
        let real = real(&absolute);
        for path in real.into_iter().chain((!climbs).then_some(absolute)) {
            if path.parent().is_none() {
                return Err(Usage(
                    "--isolation inplace needs a context other than the root directory".to_owned(),
                )
                .into());
            }
            kept.push(path);
        }
    }
    // Relative names are looked up from there until the end.
    if here != Path::new("/") {
        kept.push(here);
    }
    Ok(kept)
}

/// Where a name leads; of one that is not there yet, where it will be.
fn real(path: &Path) -> Option<PathBuf> {
    match path.canonicalize() {
        Ok(real) => Some(real),
        Err(_) => Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)),
    }
}
