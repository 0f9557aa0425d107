//! Reads a JSON array of Dockerfile texts and prints what BuildKit's parser would answer for each:
//! to be compared with what it does answer.
//!
//! ```text
//! echo '["FROM a\nRUN b"]' | cargo run -p longshore-dockerfile --example buildkit_view
//! ```

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool for developers"
)]

use longshore_dockerfile::check::{CheckFilter, CheckOptions};
use longshore_dockerfile::diagnostic::DiagnosticKind;
use longshore_dockerfile::directive::detect_syntax;
use longshore_dockerfile::{compat, parse};
use serde_json::{Value, json};

fn main() {
    let texts: Vec<String> = serde_json::from_reader(std::io::stdin()).unwrap();
    let views: Vec<_> = texts.iter().map(|text| view(text)).collect();
    println!("{}", serde_json::to_string(&views).unwrap());
}

fn view(text: &str) -> Value {
    let parsed = parse(text);
    let error = parsed
        .first_error()
        .filter(|error| error.kind != DiagnosticKind::NoStages);
    let options = CheckOptions {
        experimental_all: true,
        ..CheckOptions::default()
    };
    let filter = CheckFilter::new(&parsed.dockerfile, Some(&options));
    let findings = parsed
        .diagnostics
        .iter()
        .filter(|found| filter.wants(found))
        .filter_map(|found| {
            let rule = found.rule()?;
            Some(json!({"rule": rule, "msg": found.message, "line": found.lines.start()}))
        });
    json!({
        "error": error.map(|error| error.buildkit_text()),
        "kind": error.map(|error| error.kind.code()),
        "dump": compat::dump(&parsed),
        "nodes": parsed.nodes.iter().map(compat::node).collect::<Vec<_>>(),
        "meta": parsed.dockerfile.global_args.len(),
        "stages": compat::stages(&parsed.dockerfile),
        "lint": findings.collect::<Vec<_>>(),
        "syntax": detect_syntax(text).map_or(String::new(), |syntax| syntax.image),
    })
}
