//! A context that is built twice: cold, one after the other, in other surroundings.

use std::time::{Duration, Instant};

use anyhow::Result;
use longshore_engine::{HistoryLimits, LockUse, OutputKind, OutputSpec, compare};
use rustix::fs::Mode;

use super::{Cold, show};
use crate::args::{Global, VerifyArgs};
use crate::commands::build;
use crate::config;
use crate::exit::Exit;
use crate::report::say;

/// How long the second build waits after the first, so that no clock that counts seconds shows
/// the same time twice.
const APART: Duration = Duration::from_millis(1100);
/// The umask of the second build.
const OTHER_UMASK: u32 = 0o077;
/// How many steps run at once in the second build.
const OTHER_JOBS: usize = 1;

pub(super) fn run(global: &Global, args: &VerifyArgs, as_json: bool) -> Result<Exit> {
    let mut stdin = None;
    let mut request = build::input(&args.input, &mut stdin)?;
    build::set_result(&args.result, &mut request)?;
    build::set_surroundings(&args.surroundings, &mut request)?;
    if args.locked {
        request.lock = LockUse::Hold;
    }
    request.outputs = vec![OutputSpec::new(OutputKind::Image)];
    request.history = HistoryLimits {
        builds: 0,
        bytes: 0,
    };
    let engine = config::engine_that_runs(global, &args.sandboxing)?;
    build::say_isolation(global, &engine, false)?;
    let runtime = config::runtime()?;

    say("verify: the first build");
    let first = match Cold::build(&engine, &runtime, &request, args.progress)? {
        Ok(first) => first,
        Err(exit) => return Ok(exit),
    };
    let ended = Instant::now();
    request.jobs = OTHER_JOBS;
    std::thread::sleep(APART.saturating_sub(ended.elapsed()));
    say("verify: the second build");
    let umask = rustix::process::umask(Mode::from_raw_mode(OTHER_UMASK));
    let second = Cold::build(&engine, &runtime, &request, args.progress);
    rustix::process::umask(umask);
    let second = match second? {
        Ok(second) => second,
        Err(exit) => return Ok(exit),
    };
    let compared = compare(first.image(), second.image(), &first.outcome.layers);
    let comparison = runtime.block_on(compared)?;
    show::comparison(&comparison, &first.outcome.dockerfile.name, as_json)
}
