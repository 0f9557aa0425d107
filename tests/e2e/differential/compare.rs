//! What differs between two images, and what is known to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::archive::Image;
use super::case::{self, Case};
use super::tree::Line;
use crate::harness::Outcome;

/// The differences that were found.
#[derive(Default)]
pub(crate) struct Verdict {
    /// A case, what of it, and how it differs.
    found: Vec<(String, String, String)>,
}

impl Verdict {
    fn note(&mut self, case: &Case, what: String, here: &str, there: &str) {
        if here != there {
            let how = format!("here {here}\n    there {there}");
            self.found.push((case.name.clone(), what, how));
        }
    }

    /// Compares whether the builds succeeded.
    pub(crate) fn outcomes(&mut self, case: &Case, here: &Outcome, there: &Outcome) {
        let told = |outcome: &Outcome| match outcome.code {
            0 => "built".to_owned(),
            _ => format!("refused: {}", outcome.stderr.trim_end()),
        };
        let expected = if case.refused { "refused" } else { "built" };
        if !told(here).starts_with(expected) || !told(there).starts_with(expected) {
            self.note(
                case,
                "outcome".to_owned(),
                &told(here),
                &format!("{} ", told(there)),
            );
        }
    }

    /// Compares two images.
    pub(crate) fn images(&mut self, case: &Case, here: &Image, there: &Image) {
        self.maps(
            case,
            "config",
            &settings(&here.config),
            &settings(&there.config),
        );
        self.maps(
            case,
            "history",
            &history(&here.config),
            &history(&there.config),
        );
        self.trees(case, here, there);
        let layers = history(&here.config)
            .values()
            .filter(|entry| !entry.contains("\"empty_layer\":true"))
            .count();
        let count = |number: usize| format!("{number} layers");
        self.note(
            case,
            "layers".to_owned(),
            &count(here.layers),
            &count(layers),
        );
        self.note(
            case,
            "layers".to_owned(),
            &count(here.layers),
            &count(there.layers),
        );
    }

    /// Compares the files; the times of those only to which the peer gave one that is not the
    /// build's: here such times are the sources', so that a build can be repeated.
    fn trees(&mut self, case: &Case, here: &Image, there: &Image) {
        let (mut here, there) = (here.tree.lines(), there.tree.lines());
        for (path, line) in &mut here {
            if there.get(path).is_some_and(|line| line.time.is_none()) {
                line.time = None;
            }
        }
        let shown = |lines: BTreeMap<String, Line>| {
            let show = |line: Line| match line.time {
                Some(time) => format!("{} changed {time}", line.text),
                None => line.text,
            };
            lines
                .into_iter()
                .map(|(path, line)| (path, show(line)))
                .collect()
        };
        self.maps(case, "file", &shown(here), &shown(there));
    }

    fn maps(
        &mut self,
        case: &Case,
        of: &str,
        here: &BTreeMap<String, String>,
        there: &BTreeMap<String, String>,
    ) {
        let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        for key in keys {
            let side = |map: &BTreeMap<String, String>| {
                map.get(key).cloned().unwrap_or_else(|| "-".to_owned())
            };
            self.note(case, format!("{of} {key}"), &side(here), &side(there));
        }
    }
}

/// The settings of an image that do not say when it was made.
fn settings(config: &Value) -> BTreeMap<String, String> {
    let of = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let mut settings = of(&config["config"]);
    for (key, value) in of(config) {
        if !["config", "created", "history", "rootfs"].contains(&key.as_str()) {
            settings.insert(format!("image {key}"), value);
        }
    }
    settings
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key, value.to_string()))
        .collect()
}

/// The history without its times.
fn history(config: &Value) -> BTreeMap<String, String> {
    let entries = config["history"].as_array().cloned().unwrap_or_default();
    let shown = entries.into_iter().enumerate().map(|(number, mut entry)| {
        entry.as_object_mut().unwrap().remove("created");
        (format!("{number:02}"), entry.to_string())
    });
    shown.collect()
}

/// The differences that are there on purpose: the tables in the README.
pub(crate) struct Known(Vec<Row>);

/// A row about every case.
const ANY: &str = "any";

struct Row {
    case: String,
    what: String,
}

impl Row {
    fn is_about(&self, case: &str, what: &str) -> bool {
        (self.case == ANY || self.case == case) && what.starts_with(&self.what)
    }
}

impl Known {
    /// Reads the rows that are about these cases and this version of the peer.
    pub(crate) fn read(version: u32, cases: &[Case]) -> Self {
        let text = fs::read_to_string(case::folder().join("README.md")).unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let rows = rows.filter_map(|line| Row::parse(line, version));
        let judged = |row: &Row| row.case == ANY || cases.iter().any(|case| case.name == row.case);
        Self(rows.filter(judged).collect())
    }

    /// Fails the test with all that differs and is not known, or is known and does not differ.
    pub(crate) fn check(&self, seen: &Verdict) {
        let known = |case: &str, what: &str| self.0.iter().any(|row| row.is_about(case, what));
        let new: Vec<String> = seen
            .found
            .iter()
            .filter(|(case, what, _)| !known(case, what))
            .map(|(case, what, how)| format!("{case}: {what}\n    {how}"))
            .collect();
        let gone: Vec<String> = self
            .0
            .iter()
            .filter(|row| {
                !seen
                    .found
                    .iter()
                    .any(|(case, what, _)| row.is_about(case, what))
            })
            .map(|row| format!("{}: {} no longer differs", row.case, row.what))
            .collect();
        assert!(
            new.is_empty() && gone.is_empty(),
            "{} differences\n{}\n{}",
            new.len(),
            new.join("\n"),
            gone.join("\n")
        );
    }
}

impl Row {
    /// `` | `case` | `what` | peers | reason | `` where the peers are `any`, `before N` or `from N`.
    fn parse(line: &str, version: u32) -> Option<Self> {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let mut cell = || {
            cells
                .next()
                .unwrap_or_else(|| panic!("a cell is missing: {line}"))
        };
        let (case, what, peers, reason) = (cell(), cell(), cell(), cell());
        assert!(!reason.is_empty(), "no reason: {line}");
        let meant = match peers.split_once(' ') {
            None if peers == "any" => true,
            Some(("before", first)) => version < first.parse().unwrap(),
            Some(("from", first)) => version >= first.parse().unwrap(),
            _ => panic!("not a range of peers: {line}"),
        };
        let bare = |cell: &str| cell.trim_matches('`').to_owned();
        meant.then(|| Self {
            case: bare(case),
            what: bare(what),
        })
    }
}
