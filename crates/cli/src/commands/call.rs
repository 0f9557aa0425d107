//! `longshore build --check` and `--call`: what the Dockerfile says, without building it.

use std::sync::Arc;

use anyhow::Result;
use longshore_dockerfile::render::Source;
use longshore_engine::{BuildRequest, Engine};
use longshore_frontend::{Outline, Targets};
use serde_json::{Value, json};

use crate::args::BuildArgs;
use crate::exit::Exit;
use crate::progress::Progress;
use crate::report::{Usage, build_failure, color};
use crate::table::{out, print_rows};

/// What is asked for, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    kind: Kind,
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Check,
    Outline,
    Targets,
}

impl Method {
    /// `None` for a build.
    pub(crate) fn parse(args: &BuildArgs) -> Result<Option<Self>> {
        let text = match (&args.call, args.check) {
            (None, false) => return Ok(None),
            (None, true) => "check",
            (Some(call), _) => call,
        };
        let mut fields = text.split(',');
        let kind = match fields.next() {
            Some("build") => None,
            Some("check" | "lint") => Some(Kind::Check),
            Some("outline") => Some(Kind::Outline),
            Some("targets") => Some(Kind::Targets),
            other => {
                return Err(Usage(format!(
                    "--call `{}`: build, check, outline and targets are known",
                    other.unwrap_or("")
                ))
                .into());
            }
        };
        let mut as_json = false;
        for field in fields {
            match field {
                "format=json" => as_json = true,
                "format=text" | "format=" => as_json = false,
                other => {
                    return Err(
                        Usage(format!("--call `{text}`: `{other}` is not supported")).into(),
                    );
                }
            }
        }
        Ok(kind.map(|kind| Self {
            kind,
            json: as_json,
        }))
    }
}

/// Answers `method` for the request.
pub(crate) async fn run(
    engine: &Engine,
    request: &BuildRequest,
    method: Method,
    progress: Arc<Progress>,
) -> Result<Exit> {
    let sink = Arc::clone(&progress) as Arc<dyn longshore_engine::ProgressSink>;
    let answered = match method.kind {
        Kind::Check => return check(engine, request, method.json, sink).await,
        Kind::Outline => engine
            .outline(request, sink)
            .await
            .map(|outline| show_outline(&outline, method.json)),
        Kind::Targets => engine
            .targets(request, sink)
            .await
            .map(|targets| show_targets(&targets, method.json)),
    };
    match answered {
        Ok(shown) => shown.map(|()| Exit::Done),
        Err(error) => Ok(build_failure(&error, |_| Vec::new())),
    }
}

async fn check(
    engine: &Engine,
    request: &BuildRequest,
    as_json: bool,
    sink: Arc<dyn longshore_engine::ProgressSink>,
) -> Result<Exit> {
    let (dockerfile, report) = match engine.check(request, sink).await {
        Ok(checked) => checked,
        Err(error) => return Ok(build_failure(&error, |_| Vec::new())),
    };
    let source = Source::new(&dockerfile.name, &dockerfile.parsed.text);
    let errors: Vec<_> = match &report.error {
        Some(_) if dockerfile.parsed.has_errors() => dockerfile.parsed.errors().cloned().collect(),
        Some(error) => vec![error.diagnostic()],
        None => Vec::new(),
    };
    if as_json {
        out(&serde_json::to_string_pretty(&json!({
            "warnings": source.json_of_all(&report.diagnostics),
            "errors": source.json_of_all(&errors),
        }))?);
    } else {
        for diagnostic in report.diagnostics.iter().chain(&errors) {
            out(&format!("{}\n", source.text(diagnostic, color())));
        }
        out(&summary(report.diagnostics.len(), errors.len()));
    }
    let clean = report.diagnostics.is_empty() && errors.is_empty();
    Ok(if clean { Exit::Done } else { Exit::Failed })
}

fn summary(warnings: usize, errors: usize) -> String {
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    match (warnings, errors) {
        (0, 0) => "Check complete, no warnings found.".to_owned(),
        (warnings, 0) => format!("Check complete, {} found!", count(warnings, "warning")),
        (warnings, errors) => format!(
            "Check failed: {}, {}",
            count(errors, "error"),
            count(warnings, "warning")
        ),
    }
}

fn show_outline(outline: &Outline, as_json: bool) -> Result<()> {
    if as_json {
        out(&serde_json::to_string_pretty(outline)?);
        return Ok(());
    }
    out(&format!(
        "TARGET:      {}",
        if outline.name.is_empty() {
            "default"
        } else {
            &outline.name
        }
    ));
    if !outline.description.is_empty() {
        out(&format!("DESCRIPTION: {}", outline.description));
    }
    let rows: Vec<Value> = outline
        .args
        .iter()
        .map(|arg| json!({ "Name": arg.name, "Value": arg.value, "Description": arg.description }))
        .collect();
    if !rows.is_empty() {
        out("");
        print_rows(
            &rows,
            &[
                ("BUILD ARG", "Name"),
                ("VALUE", "Value"),
                ("DESCRIPTION", "Description"),
            ],
            None,
        )?;
    }
    for (heading, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let rows: Vec<Value> = mounts
            .iter()
            .map(|mount| json!({ "Name": mount.name, "Required": mount.required }))
            .collect();
        if !rows.is_empty() {
            out("");
            print_rows(&rows, &[(heading, "Name"), ("REQUIRED", "Required")], None)?;
        }
    }
    Ok(())
}

fn show_targets(targets: &Targets, as_json: bool) -> Result<()> {
    if as_json {
        out(&serde_json::to_string_pretty(targets)?);
        return Ok(());
    }
    let name = |target: &longshore_frontend::Target| match (target.name.is_empty(), target.default)
    {
        (true, true) => "(default)".to_owned(),
        (true, false) => "(unnamed)".to_owned(),
        (false, true) => format!("{} (default)", target.name),
        (false, false) => target.name.clone(),
    };
    let rows: Vec<Value> = targets
        .targets
        .iter()
        .map(|target| json!({ "Name": name(target), "Description": target.description }))
        .collect();
    print_rows(
        &rows,
        &[("TARGET", "Name"), ("DESCRIPTION", "Description")],
        None,
    )
}
