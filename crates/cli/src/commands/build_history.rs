//! `longshore build-history`.

use std::fs::File;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use longshore_engine::{BuildStatus, Builds, Engine, RecordedBuild, StepOutcome, StepRecord};
use serde_json::json;

use crate::args::{BuildHistoryCommand, Global};
use crate::exit::Exit;
use crate::progress::printable;
use crate::report::{Usage, causes, say};
use crate::table::{out, print_rows};
use crate::{config, units};

pub(crate) fn run(global: &Global, command: BuildHistoryCommand) -> Result<Exit> {
    let engine = config::engine(global)?;
    match command {
        BuildHistoryCommand::Ls { quiet, format } => list(&engine, quiet, format.as_deref())?,
        BuildHistoryCommand::Logs { build, step } => {
            let build = engine
                .history()
                .find(build.as_deref().unwrap_or_default())?;
            logs(&build, step.as_deref())?;
        }
        BuildHistoryCommand::Inspect { build } => {
            let build = engine
                .history()
                .find(build.as_deref().unwrap_or_default())?;
            inspect(&build)?;
        }
        BuildHistoryCommand::Rm { builds, all } => remove(&engine, &builds, all)?,
    }
    Ok(Exit::Done)
}

fn list(engine: &Engine, quiet: bool, format: Option<&str>) -> Result<()> {
    if quiet {
        engine.history().ids()?.iter().for_each(|id| out(id));
        return Ok(());
    }
    let builds = readable(engine.history().list()?);
    let now = jiff::Timestamp::now();
    let mut rows = Vec::with_capacity(builds.len());
    for build in &builds {
        let steps = build.steps()?;
        let count = |wanted: fn(&StepOutcome) -> bool| {
            steps.iter().filter(|step| wanted(&step.outcome)).count()
        };
        let started = build.started.to_string();
        rows.push(json!({
            "ID": build.id,
            "Name": build.record.names.first().map(|name| name_of(name)),
            "Status": status(build.record.status),
            "CreatedAt": started,
            "Created": units::show_age(&started, now),
            "Duration": duration(build).map(units::show_seconds),
            "Cached": count(|outcome| matches!(outcome, StepOutcome::Hit { .. })),
            "Ran": count(|outcome| matches!(outcome, StepOutcome::Ran { .. } | StepOutcome::Failed { .. })),
        }));
    }
    let columns = [
        ("BUILD ID", "ID"),
        ("NAME", "Name"),
        ("STATUS", "Status"),
        ("CREATED", "Created"),
        ("DURATION", "Duration"),
        ("CACHED", "Cached"),
        ("RAN", "Ran"),
    ];
    print_rows(&rows, &columns, format)
}

/// The builds that can be read; that others cannot is said once.
pub(crate) fn readable(found: Builds) -> Vec<RecordedBuild> {
    let count = found.unreadable.len();
    if let Some(first) = found.unreadable.into_iter().next() {
        let first = causes(&first.into());
        say(&format!(
            "warning: {count} of the history's builds cannot be read: {first}"
        ));
    }
    found.builds
}

/// The familiar form of a name.
pub(crate) fn name_of(name: &str) -> String {
    let reference = name.parse::<longshore_oci::Reference>();
    reference.map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// A build's status in a word.
pub(crate) fn status(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Running => "running",
        BuildStatus::Done => "done",
        BuildStatus::Failed => "failed",
        BuildStatus::Canceled => "canceled",
        BuildStatus::Interrupted => "interrupted",
    }
}

/// How long a build took, seconds.
pub(crate) fn duration(build: &RecordedBuild) -> Option<f64> {
    let took = build.finished?.duration_since(build.started);
    Some(took.as_secs_f64())
}

fn logs(build: &RecordedBuild, wanted: Option<&str>) -> Result<()> {
    let steps = build.steps()?;
    let chosen = choose(&steps, wanted)?;
    for step in &chosen {
        let Some(log) = build.log(step)? else {
            continue;
        };
        // Of one step, what it wrote and nothing else: byte for byte.
        if wanted.is_none() || chosen.len() > 1 {
            out(&format!(
                "#{} {}",
                step.number,
                printable(step.name.as_bytes())
            ));
        }
        copy(log).with_context(|| format!("step {} of build {}", step.number, build.id))?;
    }
    Ok(())
}

fn copy(mut log: File) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match io::copy(&mut log, &mut stdout).and_then(|_| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// The steps that are meant by a number or a part of a name; all without one.
pub(crate) fn choose<'a>(
    steps: &'a [StepRecord],
    wanted: Option<&str>,
) -> Result<Vec<&'a StepRecord>> {
    let Some(wanted) = wanted else {
        return Ok(steps.iter().collect());
    };
    let number: Option<usize> = wanted.trim_start_matches('#').parse().ok();
    let is_meant = |step: &&StepRecord| match number {
        Some(number) => step.number == number,
        None => step.name.contains(wanted),
    };
    let chosen: Vec<&StepRecord> = steps.iter().filter(is_meant).collect();
    if chosen.is_empty() {
        return Err(Usage(format!("the build has no step `{wanted}`")).into());
    }
    Ok(chosen)
}

/// All that is known of a build.
pub(crate) fn as_json(build: &RecordedBuild) -> Result<serde_json::Value> {
    let mut steps = build.steps()?;
    build.explain_hits(&mut steps)?;
    let mut value = serde_json::to_value(&build.record)?;
    value["id"] = json!(build.id);
    value["started"] = json!(build.started.to_string());
    value["finished"] = json!(build.finished.map(|time| time.to_string()));
    value["steps"] = serde_json::to_value(&steps)?;
    Ok(value)
}

fn inspect(build: &RecordedBuild) -> Result<()> {
    out(&serde_json::to_string_pretty(&as_json(build)?)?);
    Ok(())
}

fn remove(engine: &Engine, builds: &[String], all: bool) -> Result<()> {
    let history = engine.history();
    let chosen = match all {
        true => history.finished_ids()?,
        false => builds
            .iter()
            .map(|id| history.id(id))
            .collect::<Result<_, _>>()?,
    };
    for id in chosen {
        if history.remove(&id)? {
            out(&id);
        }
    }
    Ok(())
}
