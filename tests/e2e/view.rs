//! What a process sees of its sandbox: `testdata/sandbox/view.c`, run in it, and its lines compared
//! with those of another sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::REPOSITORY;

/// Answers by subject; some subjects have several.
pub(crate) type View = BTreeMap<String, Vec<String>>;

/// A subject with two answers.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) subject: String,
    pub(crate) _here: Vec<String>,
    pub(crate) _there: Vec<String>,
}

impl Difference {
    /// Whether a pattern means its subject: word by word, where `*` stands for any end of a word,
    /// or of all where it is the last, and `a-b` for a number from one to the other.
    pub(crate) fn is_about(&self, pattern: &str) -> bool {
        let (mut patterns, mut words) = (pattern.split(' '), self.subject.split(' '));
        loop {
            match (patterns.next(), words.next()) {
                (None, None) => return true,
                (Some("*"), Some(_)) if patterns.clone().next().is_none() => return true,
                (Some(pattern), Some(word)) if means(pattern, word) => {}
                _ => return false,
            }
        }
    }
}

fn means(pattern: &str, word: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    let range = pattern
        .split_once('-')
        .and_then(|(first, last)| Some(number(first)?..=number(last)?));
    match (pattern.strip_suffix('*'), range, number(word)) {
        (Some(start), ..) => word.starts_with(start),
        (None, Some(range), Some(word)) => range.contains(&word),
        _ => pattern == word,
    }
}

/// Compiles the program for any image; `false`, and a message, where there is no compiler.
pub(crate) fn compile(to: &Path) -> bool {
    let source = Path::new(REPOSITORY).join("testdata/sandbox/view.c");
    let mut command = Command::new("gcc");
    command.args(["-O1", "-static", "-o"]).args([to, &source]);
    let compiled = command.status().is_ok_and(|status| status.success());
    if !compiled {
        crate::skip::skip("needs gcc and a static C library");
    }
    compiled
}

/// Reads what the program printed.
pub(crate) fn read(path: &Path) -> View {
    let mut view = View::new();
    let text = fs::read_to_string(path).unwrap();
    for line in text.lines() {
        let (subject, answer) = line.split_once(": ").unwrap_or((line, ""));
        let answers = view.entry(subject.to_owned()).or_default();
        answers.push(answer.to_owned());
    }
    assert!(view.len() > 50, "it ended early: {text}");
    view
}

/// The subjects that are answered otherwise, or by one side alone.
pub(crate) fn differing(here: &View, there: &View) -> Vec<Difference> {
    let subjects: BTreeSet<_> = here.keys().chain(there.keys()).collect();
    let answers = |view: &View, subject: &str| view.get(subject).cloned().unwrap_or_default();
    let both = subjects.into_iter().map(|subject| Difference {
        subject: subject.clone(),
        _here: answers(here, subject),
        _there: answers(there, subject),
    });
    both.filter(|it| it._here != it._there).collect()
}

#[test]
fn patterns_mean_words_and_ranges() {
    for (pattern, subject, expected) in [
        ("descriptor 0", "descriptor 0", true),
        ("descriptor 0", "descriptor 1", false),
        ("call * 425-427", "call i386 426", true),
        ("call * 425-427", "call i386 428", false),
        ("mount *", "mount /a b", true),
        ("mount", "mount /a", false),
        ("environment A=*", "environment A=b", true),
    ] {
        let difference = Difference {
            subject: subject.to_owned(),
            _here: Vec::new(),
            _there: Vec::new(),
        };
        assert_eq!(
            difference.is_about(pattern),
            expected,
            "{pattern} {subject}"
        );
    }
}
