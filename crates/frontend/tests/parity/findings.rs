//! Build checks.

use longshore_dockerfile::parse;
use longshore_frontend::check;
use serde_json::Value;

use crate::cases::{OneImage, assert_none, cases, now, options};
use crate::configuration::{is_different_on_purpose, same_error};

#[test]
fn agrees_with_the_reference_implementation() {
    let Some(cases) = cases("dockerfile_lint.json.gz") else {
        return;
    };
    let resolver = OneImage::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let parsed = parse(case["dockerfile"].as_str().unwrap());
        let report = now(check(&parsed, &options(case), &resolver));
        let ours = report.diagnostics.iter().filter_map(|found| {
            let rule = found.rule()?;
            Some(format!(
                "{}: {rule}: {}",
                found.lines.start(),
                found.message
            ))
        });
        let mut ours: Vec<String> = ours.collect();
        ours.sort();
        let mut theirs: Vec<String> = case["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(warning)
            .collect();
        theirs.sort();
        // BuildKit stops at the first fault; ours reads on.
        let reads_on = parsed.has_errors() && theirs.iter().all(|line| ours.contains(line));
        if ours != theirs && !reads_on {
            wrong.push(format!("{name}:\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
        let ours = report.error.map(|error| error.to_string());
        let theirs = case["build_error"]
            .as_str()
            .or_else(|| case["build_error"]["message"].as_str());
        let is_same = match (&ours, theirs) {
            (Some(ours), Some(_)) if is_different_on_purpose(name, ours) => true,
            // Told when the command is looked at, not when the graph is sent off.
            (Some(ours), None) => ours == "arguments are required",
            (Some(ours), Some(theirs)) => same_error(ours, theirs),
            (ours, theirs) => ours.as_deref() == theirs,
        };
        if !is_same {
            wrong.push(format!("{name}: error: ours {ours:?}, theirs {theirs:?}"));
        }
    }
    assert!(cases.len() > 800);
    assert_none(&wrong, cases.len());
}

fn warning(warning: &Value) -> String {
    let text = |key: &str| warning[key].as_str().unwrap().to_owned();
    format!("{}: {}: {}", warning["line"], text("rule"), text("detail"))
}
