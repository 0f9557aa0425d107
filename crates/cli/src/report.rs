//! Errors as people read them: what failed, where, why, and the exit code that goes with it.

use std::io::Write as _;

use longshore_dockerfile::diagnostic::Diagnostic;
use longshore_dockerfile::render::{Color, Source};
use longshore_engine::{BuildError, EngineError, ErrorClass, LoadedDockerfile};
use longshore_graph::redacted;

use crate::exit::Exit;
use crate::progress::printable;

/// The caller used a flag in a way that cannot be.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Says why a command failed; its exit code.
pub(crate) fn failure(error: &anyhow::Error) -> Exit {
    say(&format!("error: {}", causes(error)));
    exit_of(error)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.chain().any(|cause| cause.is::<Usage>()) {
        return Exit::Usage;
    }
    let engine = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<EngineError>());
    match engine.map(EngineError::class) {
        Some(ErrorClass::Environment) => Exit::Environment,
        _ => Exit::Failed,
    }
}

/// The error and its causes on one line, none said twice.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    printable_lines(&text)
}

fn printable_lines(text: &str) -> String {
    text.lines()
        .map(|line| printable(line.as_bytes()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Writes a line to standard error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Colours only for a person at a terminal who has not asked for none.
pub(crate) fn color() -> Color {
    use std::io::IsTerminal as _;
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && std::io::stderr().is_terminal() {
        Color::Always
    } else {
        Color::Never
    }
}

/// Shows diagnostics with their excerpts.
pub(crate) fn diagnostics(dockerfile: &LoadedDockerfile, diagnostics: &[Diagnostic]) {
    let source = Source::new(&dockerfile.name, &dockerfile.parsed.text);
    for diagnostic in diagnostics {
        say(&source.text(diagnostic, color()));
    }
}

/// Says why a build failed; `tail` has the last lines of a step's output.
pub(crate) fn build_failure(error: &BuildError, tail: impl Fn(&str) -> Vec<String>) -> Exit {
    match error {
        BuildError::Dockerfile { dockerfile, errors } => {
            diagnostics(dockerfile, errors);
            Exit::Failed
        }
        BuildError::Lower { dockerfile, error } => {
            diagnostics(dockerfile, &[error.diagnostic()]);
            Exit::Failed
        }
        BuildError::Step {
            dockerfile,
            lines,
            name,
            ..
        } => {
            step_failure(error, name, &tail(name));
            excerpt(dockerfile, *lines);
            engine_class(error)
        }
        BuildError::Locked {
            dockerfile,
            lines,
            error,
        } => {
            say(&format!("error: {}", error_chain(&**error)));
            excerpt(dockerfile, *lines);
            Exit::Failed
        }
        BuildError::Canceled => {
            say("canceled");
            Exit::Code(130)
        }
        BuildError::Engine(inner) => {
            say(&format!("error: {}", error_chain(inner)));
            match inner.class() {
                ErrorClass::Environment => Exit::Environment,
                _ => Exit::Failed,
            }
        }
        other => {
            say(&format!("error: {}", error_chain(other)));
            Exit::Failed
        }
    }
}

/// A step that failed for want of something in the environment ends as such.
fn engine_class(error: &BuildError) -> Exit {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(engine) = cause.downcast_ref::<EngineError>()
            && engine.class() == ErrorClass::Environment
        {
            return Exit::Environment;
        }
        source = cause.source();
    }
    Exit::Failed
}

fn step_failure(error: &BuildError, name: &str, tail: &[String]) {
    if !tail.is_empty() {
        say("------");
        say(&format!(" > {}:", printable(name.as_bytes())));
        for line in tail {
            say(line);
        }
        say("------");
    }
    say(&format!("error: {}", error_chain(error)));
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    printable_lines(&text)
}

/// The step's lines in the Dockerfile.
fn excerpt(dockerfile: &LoadedDockerfile, lines: Option<(u32, u32)>) {
    let Some((first, last)) = lines else { return };
    say(&format!(
        "{}:{first}",
        printable(dockerfile.name.as_bytes())
    ));
    say("--------------------");
    let numbered = dockerfile.parsed.text.lines().zip(1u32..);
    for (line, number) in numbered
        .filter(|(_, number)| (first.saturating_sub(2)..=last.saturating_add(2)).contains(number))
    {
        let mark = if (first..=last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        say(&format!(
            "{number:4} | {mark} {}",
            printable(redacted(line).as_bytes())
        ));
    }
    say("--------------------");
}
