//! BuildKit's own answers: nodes, typed commands and build checks of Dockerfiles from the field.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test reads its cases from disk and says when there are none"
)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use longshore_dockerfile::check::{CheckFilter, Rule};
use longshore_dockerfile::checks::StageChecks;
use longshore_dockerfile::diagnostic::{Diagnostic, DiagnosticKind};
use longshore_dockerfile::{Parsed, compat, parse};
use serde_json::{Value, json};

fn corpus(name: &str) -> Option<Vec<Value>> {
    let folder = std::env::var_os("LONGSHORE_CORPORA").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/corpora"
            ))
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    let Ok(compressed) = std::fs::read(&path) else {
        println!("skipped: no corpus at {}", path.display());
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(compressed.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    let mut corpus: Value = serde_json::from_str(&text).unwrap();
    let Value::Array(cases) = corpus["cases"].take() else {
        panic!("{name} holds no cases")
    };
    Some(cases)
}

/// Runs `check` on every case and tells all that differ.
fn check_all(file: &str, check: impl Fn(&Value, &Parsed) -> Result<(), String>) {
    let Some(cases) = corpus(file) else { return };
    let mut failures = Vec::new();
    for case in &cases {
        let parsed = parse(case["dockerfile"].as_str().unwrap());
        if let Err(difference) = check(case, &parsed) {
            failures.push(format!("{}: {difference}", case["name"]));
        }
    }
    let shown = failures
        .iter()
        .take(20)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        failures.is_empty(),
        "{} of {} cases differ:\n{shown}",
        failures.len(),
        cases.len()
    );
}

fn compare(what: &str, expected: &Value, found: &Value) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{what}\n  expected {expected}\n  found    {found}"))
    }
}

/// The error BuildKit's two parsing packages would stop at.
fn first_error(parsed: &Parsed, is_seen: impl Fn(DiagnosticKind) -> bool) -> Option<&Diagnostic> {
    parsed.first_error().filter(|error| is_seen(error.kind))
}

#[test]
fn nodes_are_buildkits() {
    check_all("dockerfile_ast.json.gz", |case, parsed| {
        let is_syntax = |kind| SYNTAX_FAULTS.contains(&kind);
        let found = first_error(parsed, is_syntax).map(|error| error.message.clone());
        compare("error", &case["error"], &json!(found))?;
        if found.is_some() {
            return Ok(());
        }
        let nodes = parsed.nodes.iter().map(compat::node).collect();
        compare("dump", &case["dump"], &json!(compat::dump(parsed)))?;
        compare("nodes", &case["nodes"], &nodes)?;
        compare(
            "escape",
            &case["escape"],
            &json!(parsed.dockerfile.escape.as_char().to_string()),
        )?;
        let empty = parsed
            .diagnostics
            .iter()
            .filter(|found| found.rule() == Some(Rule::NoEmptyContinuation));
        let expected = case["warnings"].as_array().map_or(0, Vec::len);
        compare(
            "empty continuations",
            &json!(expected),
            &json!(empty.count()),
        )
    });
}

/// What BuildKit's `parser` package refuses.
const SYNTAX_FAULTS: [DiagnosticKind; 8] = [
    DiagnosticKind::NoInstructions,
    DiagnosticKind::LineTooLong,
    DiagnosticKind::InvalidEscape,
    DiagnosticKind::DuplicateDirective,
    DiagnosticKind::UnterminatedHeredoc,
    DiagnosticKind::JsonNotStrings,
    DiagnosticKind::MissingValue,
    DiagnosticKind::MissingEquals,
];

#[test]
fn instructions_are_buildkits() {
    check_all("dockerfile_instructions.json.gz", |case, parsed| {
        // That a file has no stages is found later.
        let error = first_error(parsed, |kind| kind != DiagnosticKind::NoStages);
        let found = error.map(Diagnostic::buildkit_text);
        compare("error", &case["error"], &json!(found))?;
        if found.is_some() {
            return Ok(());
        }
        compare(
            "meta args",
            &case["meta_args"],
            &compat::global_args(&parsed.dockerfile),
        )?;
        compare(
            "stages",
            &case["stages"],
            &compat::stages(&parsed.dockerfile),
        )
    });
}

/// Rules that need neither variables nor a base image.
const TEXT_RULES: [Rule; 11] = [
    Rule::StageNameCasing,
    Rule::FromAsCasing,
    Rule::NoEmptyContinuation,
    Rule::ConsistentInstructionCasing,
    Rule::DuplicateStageName,
    Rule::ReservedStageName,
    Rule::JsonArgsRecommended,
    Rule::MaintainerDeprecated,
    Rule::MultipleInstructionsDisallowed,
    Rule::LegacyKeyValueFormat,
    Rule::InvalidDefinitionDescription,
];

/// How often each finding is made, by rule, line and text.
type Findings = BTreeMap<(String, u64, String), usize>;

fn expected_findings(case: &Value) -> Findings {
    let mut findings = Findings::new();
    for warning in case["warnings"].as_array().unwrap() {
        let rule = warning["rule"].as_str().unwrap();
        if TEXT_RULES.iter().any(|known| known.name() == rule) {
            let detail = warning["detail"].as_str().unwrap().to_owned();
            *findings
                .entry((rule.to_owned(), warning["line"].as_u64().unwrap(), detail))
                .or_default() += 1;
        }
    }
    findings
}

fn found_findings(parsed: &Parsed) -> Findings {
    let mut diagnostics = parsed.diagnostics.clone();
    for stage in &parsed.dockerfile.stages {
        let mut checks = StageChecks::new(false);
        diagnostics.extend(
            stage
                .instructions
                .iter()
                .flat_map(|instruction| checks.visit(instruction)),
        );
    }
    CheckFilter::new(&parsed.dockerfile, None).apply(&mut diagnostics);
    let mut findings = Findings::new();
    for found in diagnostics {
        if let Some(rule) = found.rule() {
            let line = u64::from(*found.lines.start());
            *findings
                .entry((rule.name().to_owned(), line, found.message))
                .or_default() += 1;
        }
    }
    findings
}

#[test]
fn build_checks_are_buildkits() {
    check_all("dockerfile_lint.json.gz", |case, parsed| {
        let (expected, found) = (expected_findings(case), found_findings(parsed));
        // A build that fails stops checking where it fails.
        let differs = if case["build_error"].is_null() {
            expected != found
        } else {
            expected
                .iter()
                .any(|(finding, _)| !found.contains_key(finding))
        };
        if differs {
            Err(format!("\n  expected {expected:?}\n  found    {found:?}"))
        } else {
            Ok(())
        }
    });
}
