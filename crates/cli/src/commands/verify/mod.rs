//! `longshore verify`: builds twice, or an image again, and names what differs.
//!
//! Each build has a state root of its own with nothing in it, below the real one: no result, no
//! blob, no download and no cache directory of one reaches the other. Only images of the local
//! store are lent to them.

mod again;
mod show;
mod twice;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use longshore_engine::{BuildOutcome, BuildRequest, Engine, ImageOf};
use longshore_oci::Descriptor;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::args::{Global, ProgressMode, VerifyArgs};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::report::{Usage, build_failure};
use crate::{interrupt, spec};

pub(crate) fn run(global: &Global, args: VerifyArgs) -> Result<Exit> {
    let as_json = match args.format.as_str() {
        "text" => false,
        "json" => true,
        other => return Err(Usage(format!("--format `{other}`: text and json are known")).into()),
    };
    let what = args.input.context.clone();
    match what.as_deref() {
        None => Err(Usage("a directory, a URL or an image is missing".to_owned()).into()),
        Some("-") => {
            let text = "standard input can be read only once: a directory, a URL or an image";
            Err(Usage(text.to_owned()).into())
        }
        Some(place) if spec::is_remote(place) || Path::new(place).exists() => {
            twice::run(global, &args, as_json)
        }
        Some(image) => again::run(global, &args, image, as_json),
    }
}

/// A build that found nothing of another one.
struct Cold {
    /// Goes before its folder.
    engine: Engine,
    outcome: BuildOutcome,
    image: Descriptor,
    _folder: tempfile::TempDir,
}

impl Cold {
    /// Builds `request` in a state root of its own; what it says goes to standard error.
    fn build(
        engine: &Engine,
        runtime: &Runtime,
        request: &BuildRequest,
        mode: ProgressMode,
    ) -> Result<Result<Self, Exit>> {
        let folder = engine.scratch()?;
        let cold = engine.open_cold(&folder.path().join("state"))?;
        let progress = Arc::new(Progress::new(mode, false));
        let cancel = CancellationToken::new();
        interrupt::watch(cancel.clone()).context("cannot watch for signals")?;
        let sink = Arc::clone(&progress) as Arc<dyn longshore_engine::ProgressSink>;
        let built = runtime.block_on(cold.build(request, sink, cancel));
        let outcome = match built {
            Ok(outcome) => outcome,
            Err(error) => return Ok(Err(build_failure(&error, |name| progress.tail_of(name)))),
        };
        let image = outcome.image.clone();
        let image = image.ok_or_else(|| anyhow::anyhow!("the build made no image"))?;
        Ok(Ok(Self {
            engine: cold,
            outcome,
            image,
            _folder: folder,
        }))
    }

    fn image(&self) -> ImageOf<'_> {
        ImageOf {
            engine: &self.engine,
            descriptor: &self.image,
        }
    }
}
