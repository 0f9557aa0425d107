//! Patterns with the rules of ignore files, just enough for the tests.

use crate::EntryPath;
use crate::copy::PathPatterns;
use crate::copy::wildcard::Wildcard;

#[derive(Clone, Debug)]
pub(super) struct Globs(Vec<(bool, Vec<String>)>);

impl Globs {
    pub(super) fn new(patterns: &[&str]) -> Self {
        let glob = |pattern: &&str| {
            let (negated, text) = match pattern.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, *pattern),
            };
            let names = text.split('/').filter(|name| !name.is_empty());
            (negated, names.map(str::to_owned).collect())
        };
        Self(patterns.iter().map(glob).collect())
    }
}

fn matches(pattern: &[String], names: &[&[u8]]) -> bool {
    match (pattern.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            // At the end it wants something below.
            let shortest = usize::from(rest.is_empty());
            (shortest..=names.len()).any(|skipped| matches(rest, &names[skipped..]))
        }
        (Some((first, rest)), Some((name, below))) => {
            Wildcard::new(first.as_bytes()).unwrap().matches(name) && matches(rest, below)
        }
        _ => false,
    }
}

impl PathPatterns for Globs {
    type State = Vec<bool>;

    fn root(&self) -> Vec<bool> {
        vec![false; self.0.len()]
    }

    fn matches(&self, path: &EntryPath, parent: &Vec<bool>) -> (bool, Vec<bool>) {
        let names: Vec<&[u8]> = path.components().collect();
        let mut matched = false;
        let mut state = self.root();
        for (index, (negated, pattern)) in self.0.iter().enumerate() {
            let changes = *negated == matched;
            if parent[index] || (changes && matches(pattern, &names)) {
                state[index] = true;
                matched = !negated;
            }
        }
        (matched, state)
    }

    fn takes_back(&self) -> bool {
        self.0.iter().any(|(negated, _)| *negated)
    }
}
