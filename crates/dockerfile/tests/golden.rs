//! Small Dockerfiles, each named after the trap or rule it holds, with what is made of them.
//!
//! `testdata/dockerfiles/refused` holds those that cannot be built: the expected file shows every
//! diagnostic and the one text BuildKit would print. `accepted` holds the others: nodes, commands,
//! then warnings. `UPDATE_EXPECT=1` writes the expected files anew.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test reads its cases from disk"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use longshore_dockerfile::check::CheckFilter;
use longshore_dockerfile::checks::StageChecks;
use longshore_dockerfile::diagnostic::Diagnostic;
use longshore_dockerfile::render::{Color, Source};
use longshore_dockerfile::{Parsed, compat, parse_bytes};

const REFUSED_MIN: usize = 80;
const ACCEPTED_MIN: usize = 70;

/// Runs every Dockerfile of a folder against its expected file.
fn check_folder(name: &str, count_min: usize, show: impl Fn(&Parsed) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/dockerfiles")
        .join(name);
    let mut cases = BTreeSet::new();
    let mut expected = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = PathBuf::from(path.file_stem().unwrap());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("Dockerfile") => cases.insert(stem),
            Some("expected") => expected.insert(stem),
            _ => panic!("{} is neither a case nor its answer", path.display()),
        };
    }
    assert!(
        cases.len() >= count_min,
        "only {} cases in {}",
        cases.len(),
        folder.display()
    );
    for case in &cases {
        let bytes = std::fs::read(folder.join(case).with_extension("Dockerfile")).unwrap();
        let shown = show(&parse_bytes(&bytes));
        let answer = folder.join(case).with_extension("expected").canonicalize();
        let answer = answer.unwrap_or_else(|_| folder.join(case).with_extension("expected"));
        expect_file![answer].assert_eq(&shown);
    }
    let lost: Vec<_> = expected.difference(&cases).collect();
    assert!(lost.is_empty(), "answers without a case: {lost:?}");
}

/// All diagnostics that need the text alone, filtered as the file asks.
fn diagnostics(parsed: &Parsed) -> Vec<Diagnostic> {
    let mut all = parsed.diagnostics.clone();
    for stage in &parsed.dockerfile.stages {
        let mut checks = StageChecks::new(false);
        all.extend(
            stage
                .instructions
                .iter()
                .flat_map(|instruction| checks.visit(instruction)),
        );
    }
    CheckFilter::new(&parsed.dockerfile, None).apply(&mut all);
    all.sort_by_key(|found| *found.lines.start());
    all
}

fn rendered(parsed: &Parsed) -> String {
    Source::new("Dockerfile", &parsed.text).text_of_all(&diagnostics(parsed), Color::Never)
}

#[test]
fn refused_files_show_why() {
    check_folder("refused", REFUSED_MIN, |parsed| {
        let error = parsed
            .first_error()
            .unwrap_or_else(|| panic!("accepted: {:?}", parsed.text));
        format!(
            "BuildKit: {}\n\n{}",
            error.buildkit_text(),
            rendered(parsed)
        )
    });
}

#[test]
fn accepted_files_show_what_they_say() {
    check_folder("accepted", ACCEPTED_MIN, |parsed| {
        assert_eq!(parsed.errors().next(), None, "refused: {:?}", parsed.text);
        let mut out = compat::dump(parsed) + "\n";
        for global in compat::global_args(&parsed.dockerfile).as_array().unwrap() {
            write!(out, "\n{global}").unwrap();
        }
        for stage in compat::stages(&parsed.dockerfile).as_array_mut().unwrap() {
            let commands = stage["commands"].take();
            write!(out, "\n{stage}").unwrap();
            for command in commands.as_array().unwrap() {
                write!(out, "\n  {command}").unwrap();
            }
        }
        let warnings = rendered(parsed);
        if !warnings.is_empty() {
            write!(out, "\n\n{warnings}").unwrap();
        }
        out.trim_end().to_owned() + "\n"
    });
}
