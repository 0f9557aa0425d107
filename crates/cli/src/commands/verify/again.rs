//! An image of the local store that is built again, as the history of builds says it was built.
//!
//! Where that cannot be done, or was done from other inputs, the answer is why, and neither that
//! the image is reproducible nor that it is not.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use longshore_engine::{
    BuildRecord, BuildRequest, BuildStatus, Engine, HistoryLimits, ImageOf, Invocation, LockUse,
    OutputSpec, RecordedBuild, SeenInputs, StoredImage, compare,
};

use super::{Cold, show};
use crate::args::{BuildArgs, Cli, Command, Global, VerifyArgs};
use crate::commands::build;
use crate::commands::build_history::readable;
use crate::exit::Exit;
use crate::report::{Usage, causes, say};
use crate::{config, units};

/// How many files that changed are named.
const FILES_NAMED_MAX: usize = 10;

pub(super) fn run(global: &Global, args: &VerifyArgs, name: &str, as_json: bool) -> Result<Exit> {
    if let Some(flag) = args.build_flag() {
        let text = format!("{flag} is of builds: `{name}` is built as its record says");
        return Err(Usage(text).into());
    }
    let engine = config::engine_that_runs(global, &args.sandboxing)?;
    let image = engine.find_image(name)?;
    let unverifiable = |why: &str| show::unverifiable(name, why, as_json);
    let Some(recorded) = record_of(&engine, &image)? else {
        return unverifiable(
            "no build of it is recorded: it was pulled, imported or loaded, or its record has gone",
        );
    };
    let (mut request, seen) = match request_of(&recorded.record) {
        Ok(found) => found,
        Err(why) => return unverifiable(&format!("build {}: {}", recorded.id, causes(&why))),
    };
    if let Some(text) = &args.surroundings.step_timeout {
        request.step_timeout = units::parse_timeout(Some(text)).context("--step-timeout")?;
    }
    build::say_isolation(global, &engine, false)?;
    let runtime = config::runtime()?;
    say(&format!("verify: build {} again", recorded.id));
    let again = match Cold::build(&engine, &runtime, &request, args.progress)? {
        Ok(again) => again,
        // Which of its inputs it lacks was said.
        Err(Exit::Failed) => return unverifiable("it cannot be built any more"),
        Err(exit) => return Ok(exit),
    };
    if again.image.digest != image.descriptor.digest {
        let changed = changed_inputs(&seen, &again.outcome.inputs);
        if !changed.is_empty() {
            let files = changed_files(&recorded, &again)?;
            return unverifiable(&told(&changed, &files));
        }
    }
    let made = ImageOf {
        engine: &engine,
        descriptor: &image.descriptor,
    };
    let comparison = runtime.block_on(compare(made, again.image(), &again.outcome.layers))?;
    show::comparison(&comparison, &again.outcome.dockerfile.name, as_json)
}

/// The newest build that made the image.
fn record_of(engine: &Engine, image: &StoredImage) -> Result<Option<RecordedBuild>> {
    let builds = readable(engine.history().list()?);
    Ok(builds.into_iter().find(|build| {
        let made = build.record.image.as_ref();
        build.record.status == BuildStatus::Done
            && made.is_some_and(|made| made.digest == image.descriptor.digest)
    }))
}

/// What was asked for, and what was read. The working directory is the build's from here on.
fn request_of(record: &BuildRecord) -> Result<(BuildRequest, SeenInputs)> {
    let (Some(invocation), Some(seen)) = (&record.invocation, &record.seen) else {
        anyhow::bail!("its record does not say how it was asked for");
    };
    anyhow::ensure!(
        !invocation.is_redacted,
        "its record leaves out the passwords that it was asked for with"
    );
    let args = arguments_of(invocation)?;
    let of_stdin = |text: &Option<String>| text.as_deref() == Some("-");
    anyhow::ensure!(
        !of_stdin(&args.input.context) && !of_stdin(&args.input.file),
        "its context or Dockerfile came from standard input, which is not kept"
    );
    let directory = &invocation.directory;
    std::env::set_current_dir(directory)
        .map_err(|error| anyhow::anyhow!("its directory `{}`: {error}", directory.display()))?;
    let mut request = build::request(&args, &mut None)?;
    set_arguments(record, &mut request);
    let made = request
        .outputs
        .iter()
        .rfind(|output| output.kind.is_image());
    let made = made.ok_or_else(|| anyhow::anyhow!("it has no output that is an image"))?;
    request.outputs = vec![only_kept(made)];
    request.tags = Vec::new();
    request.lock = LockUse::HoldTo(Box::new(seen.pins.clone()));
    request.pull = false;
    request.cache_from = Vec::new();
    request.cache_to = Vec::new();
    request.invocation = None;
    request.history = HistoryLimits::default();
    Ok((request, seen.clone()))
}

fn arguments_of(invocation: &Invocation) -> Result<Box<BuildArgs>> {
    let parsed = Cli::try_parse_from(&invocation.words);
    match parsed.map(|cli| cli.command) {
        Ok(Command::Build(args)) => Ok(args),
        Ok(_) => anyhow::bail!("it was not asked for by `longshore build`"),
        Err(error) => anyhow::bail!("its flags are not known: {}", error.kind()),
    }
}

/// Arguments that came from the environment have the values that they had.
fn set_arguments(record: &BuildRecord, request: &mut BuildRequest) {
    let recorded = &record.inputs.build_args;
    request
        .build_args
        .retain(|name, _| recorded.contains_key(name));
    for (name, value) in recorded {
        // Those of proxies are recorded without their values.
        if !value.is_empty() || !request.build_args.contains_key(name) {
            request.build_args.insert(name.clone(), value.clone());
        }
    }
}

/// An output with the same bytes, that goes nowhere.
fn only_kept(output: &OutputSpec) -> OutputSpec {
    OutputSpec {
        kind: longshore_engine::OutputKind::Image,
        dest: None,
        names: Vec::new(),
        push: false,
        store: true,
        unpack: false,
        name_canonical: false,
        push_by_digest: false,
        ..output.clone()
    }
}

/// Which inputs are not what they were.
fn changed_inputs(then: &SeenInputs, now: &SeenInputs) -> Vec<String> {
    let mut changed = Vec::new();
    if then.dockerfile != now.dockerfile {
        changed.push("the Dockerfile".to_owned());
    }
    let names: BTreeSet<&String> = then.contexts.keys().chain(now.contexts.keys()).collect();
    let differing = names
        .into_iter()
        .filter(|name| then.contexts.get(*name) != now.contexts.get(*name));
    changed.extend(differing.map(|name| match name.strip_prefix("context:") {
        Some(named) => format!("the context `{named}`"),
        None => "the context".to_owned(),
    }));
    changed
}

/// Which files of the contexts changed, as far as the caches know.
fn changed_files(recorded: &RecordedBuild, again: &Cold) -> Result<BTreeSet<String>> {
    let now = again.engine.history().find("")?;
    Ok(recorded.changed_files(&now)?)
}

fn told(changed: &[String], files: &BTreeSet<String>) -> String {
    let mut text = format!("{} changed since it was built", changed.join(" and "));
    let shown = files.iter().take(FILES_NAMED_MAX);
    let named: Vec<String> = shown
        .map(|file| format!("`{}`", Path::new(file).display()))
        .collect();
    if !named.is_empty() {
        text = format!("{text}: {}", named.join(", "));
    }
    match files.len().saturating_sub(FILES_NAMED_MAX) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
