//! The reference implementation's answers.

use std::io::Read as _;

use serde_json::Value;

/// The document `name`, or nothing (and a word about it) where there are no corpora.
#[expect(
    clippy::disallowed_methods,
    reason = "the corpus is read from disk, in tests only"
)]
pub(crate) fn document(name: &str) -> Option<Value> {
    let folder = std::env::var("LONGSHORE_CORPORA").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpora").to_owned()
    });
    let Ok(file) = std::fs::File::open(format!("{folder}/{name}")) else {
        println!("skipped: no {name} at {folder}");
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

/// Fails with every disagreement, or passes.
pub(crate) fn assert_none(disagreements: &[String], cases: usize) {
    assert!(
        disagreements.is_empty(),
        "{} of {cases}:\n{}",
        disagreements.len(),
        disagreements.join("\n")
    );
}
