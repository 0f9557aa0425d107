//! `longshore why`: what became of each step of a build, and why.

use anyhow::Result;
use longshore_engine::{Engine, EngineError, RecordedBuild, StepOutcome, StepRecord};
use longshore_oci::Reference;
use longshore_solver::MissReason;

use super::build_history::{as_json, choose, duration, name_of, readable, status};
use crate::args::{Global, WhyArgs};
use crate::exit::Exit;
use crate::progress::{explain, printable};
use crate::report::Usage;
use crate::table::out;
use crate::{config, units};

pub(crate) fn run(global: &Global, args: &WhyArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let build = find(&engine, &args.what)?;
    match args.format.as_str() {
        "json" => json(&build, args.step.as_deref())?,
        "text" => text(&build, args.step.as_deref())?,
        other => return Err(Usage(format!("--format `{other}`: text and json are known")).into()),
    }
    Ok(Exit::Done)
}

/// The build with this id, else the last that was to be called so, else the last that made
/// the image.
fn find(engine: &Engine, what: &str) -> Result<RecordedBuild> {
    let builds = readable(engine.history().list()?);
    let is_id = what.len() >= 4 && what.bytes().all(|b| b.is_ascii_hexdigit());
    let mut by_id = builds.iter().filter(|build| build.id.starts_with(what));
    if let (true, Some(build), None) = (is_id, by_id.next(), by_id.next()) {
        return Ok(build.clone());
    }
    if let Ok(reference) = what.parse::<Reference>() {
        let name = reference.with_default_tag().to_string();
        let named = builds
            .iter()
            .find(|build| build.record.names.contains(&name));
        if let Some(build) = named {
            return Ok(build.clone());
        }
    }
    let image = engine.find_image(what)?;
    let made = builds.into_iter().find(|build| {
        let manifest = build.record.image.as_ref().map(|made| made.digest);
        manifest == Some(image.descriptor.digest)
    });
    let unknown = || EngineError::Invalid(format!("no build of `{what}` is remembered"));
    made.ok_or_else(|| unknown().into())
}

fn json(build: &RecordedBuild, wanted: Option<&str>) -> Result<()> {
    let mut value = as_json(build)?;
    if wanted.is_some() {
        let steps = build.steps()?;
        let numbers: Vec<usize> = choose(&steps, wanted)?
            .iter()
            .map(|step| step.number)
            .collect();
        if let Some(all) = value["steps"].as_array_mut() {
            let mut number = 0;
            all.retain(|_| {
                number += 1;
                numbers.contains(&number)
            });
        }
    }
    out(&serde_json::to_string_pretty(&value)?);
    Ok(())
}

fn text(build: &RecordedBuild, wanted: Option<&str>) -> Result<()> {
    let steps = build.steps()?;
    let chosen = choose(&steps, wanted)?;
    if wanted.is_none() {
        out(&heading(build));
    }
    for step in chosen {
        let name = printable(step.name.as_bytes());
        out(&format!("#{} {name}", step.number));
        for line in lines(step) {
            out(&format!("   {line}"));
        }
    }
    Ok(())
}

fn heading(build: &RecordedBuild) -> String {
    let name = build.record.names.first().map(|name| name_of(name));
    let name = name.map(|name| format!(" of {name}")).unwrap_or_default();
    let age = units::show_age(&build.started.to_string(), jiff::Timestamp::now());
    let took = duration(build)
        .map(|seconds| format!(" in {}", units::show_seconds(seconds)))
        .unwrap_or_default();
    let how = status(build.record.status);
    format!("build {}{name}, {age}: {how}{took}", build.id)
}

fn lines(step: &StepRecord) -> Vec<String> {
    let took = step
        .duration_ms
        .map(|ms| {
            format!(
                " in {:.1}s",
                std::time::Duration::from_millis(ms).as_secs_f64()
            )
        })
        .unwrap_or_default();
    let because = |what: String, reason: Option<&MissReason>| {
        let reasons = reason.map(explain).unwrap_or_default();
        std::iter::once(what)
            .chain(reasons.into_iter().map(|line| format!("miss: {line}")))
            .collect()
    };
    match &step.outcome {
        StepOutcome::NotNeeded => vec!["not looked at: no step that ran stands on it".to_owned()],
        StepOutcome::Source => vec!["source".to_owned()],
        StepOutcome::Hit { from, .. } => vec![format!("hit: {from}")],
        StepOutcome::Ran { reason } => because(format!("ran{took}"), Some(reason)),
        StepOutcome::Failed { reason, error } => {
            let error = printable(error.as_bytes());
            because(format!("failed: {error}"), reason.as_ref())
        }
        StepOutcome::Stopped { reason } => because("stopped".to_owned(), reason.as_ref()),
    }
}
