use super::*;
use crate::expand::corpus::{assert_none, document};

fn check(patterns: &[&str], path: &str, expected: bool) {
    let got = Matcher::new(patterns).unwrap().matches(path);
    assert_eq!(got, expected, "{patterns:?} {path}");
}

#[test]
fn patterns_are_anchored_at_the_root() {
    check(&["a"], "a", true);
    check(&["a"], "b/a", false);
    check(&["**/a"], "a", true);
    check(&["**/a"], "c/b/a", true);
    check(&["a/*/c"], "a/b/c", true);
    check(&["a/*/c"], "a/b/b/c", false);
    check(&["a/**/c"], "a/c", true);
    check(&["a/**"], "a", false);
    check(&["."], "a", false);
}

#[test]
fn the_last_match_decides() {
    check(&["a", "!a/b", "a/b/c"], "a/b/d", false);
    check(&["a", "!a/b", "a/b/c"], "a/b/c", true);
    check(&["!a", "a"], "a", true);
}

#[test]
fn escapes_mean_what_they_mean_to_docker() {
    check(&["foo\\bar"], "foobar", false);
    check(&["a\\d"], "a1", true);
    check(&["a\\*"], "a*", true);
    check(&["a[[:digit:]\\S]"], "ax", true);
    check(&["[^a-c]x"], "dx", true);
    check(&["[^a-c]x"], "bx", false);
    assert!(Matcher::new(&["obj\\Release"]).is_err());
    assert!(Matcher::new(&["["]).is_err());
    assert!(Matcher::new(&["a", "!"]).is_err());
}

#[test]
fn inverted_ranges_cover_the_rest() {
    check(&["[\\W]"], "é", true);
    check(&["[\\W]"], "_", false);
    check(&["[[:^space:]x]"], " ", false);
}

fn decide(patterns: &[&str], path: &str) -> Decision {
    let matcher = Matcher::new(patterns).unwrap();
    let mut state = matcher.root();
    for (end, _) in path.match_indices('/') {
        state = matcher.decide(&path[..end], true, &state).1;
    }
    matcher.decide(path, true, &state).0
}

#[test]
fn a_directory_is_pruned_only_if_nothing_below_can_come_back() {
    assert_eq!(decide(&["a"], "a"), Decision::ExcludePrune);
    assert_eq!(decide(&["a", "!a/b/c"], "a"), Decision::Exclude);
    assert_eq!(decide(&["a", "!a/b/c"], "a/b"), Decision::Exclude);
    assert_eq!(decide(&["a", "!a/b/c"], "a/b/c"), Decision::Include);
    assert_eq!(decide(&["a", "!a/b/c"], "a/d"), Decision::ExcludePrune);
    assert_eq!(decide(&["!a/b", "a"], "a"), Decision::ExcludePrune);
    assert_eq!(decide(&["*", "!**/x"], "a"), Decision::Exclude);
    assert_eq!(
        decide(&["*", "!src/*/keep"], "vendor"),
        Decision::ExcludePrune
    );
    assert_eq!(decide(&["*", "!src/*/keep"], "src"), Decision::Exclude);
    assert_eq!(decide(&["*", "!src/**"], "src"), Decision::Exclude);
    assert_eq!(decide(&["*", "!src"], "src"), Decision::Include);
}

#[test]
fn what_a_walk_for_inclusion_enters() {
    let matcher = Matcher::new(&["a/*/c.txt", "d"]).unwrap();
    for (directory, expected) in [
        ("a", true),
        ("a/b", true),
        ("b", false),
        ("d", true),
        ("d/e", true),
        ("a/b/x", false),
    ] {
        assert_eq!(matcher.may_match_below(directory), expected, "{directory}");
    }
}

#[test]
fn files_are_bounded_and_have_to_be_text() {
    let long = vec![b'a'; IGNORE_LINE_BYTES_MAX];
    assert_eq!(
        IgnoreFile::parse(&long),
        Err(IgnoreFileError::LineTooLong { line: 1 })
    );
    assert_eq!(
        IgnoreFile::parse(b"a\n\xff"),
        Err(IgnoreFileError::NotUtf8 { line: 2 })
    );
    let large = vec![b'\n'; IGNORE_FILE_BYTES_MAX + 1];
    assert_eq!(IgnoreFile::parse(&large), Err(IgnoreFileError::TooLarge));
}

#[test]
fn agrees_with_the_reference_implementation() {
    let Some(corpus) = document("patternmatcher.json.gz") else {
        return;
    };
    let mut wrong = Vec::new();
    let mut cases = 0;
    for group in ["cross_product", "from_unit_tests", "random_multi"] {
        for case in corpus[group].as_array().unwrap() {
            cases += 1;
            let patterns = case["patterns"].as_array().unwrap().iter();
            let patterns: Vec<&str> = patterns.map(|pattern| pattern.as_str().unwrap()).collect();
            let path = case["path"].as_str().unwrap();
            let ours = match Matcher::new(&patterns) {
                Ok(matcher) => matcher.matches(path).to_string(),
                Err(error) => error.to_string(),
            };
            let theirs = match case["error"].as_str() {
                Some(error) => error.to_owned(),
                None => case["match"].to_string(),
            };
            // The reference compiles late: a faulty range is no fault until some path is matched
            // against it, and the root is matched against nothing.
            if clean_path(path) == "." && ours == "syntax error in pattern" {
                continue;
            }
            if ours != theirs {
                wrong.push(format!(
                    "{patterns:?} {path:?}: ours {ours}, theirs {theirs}"
                ));
            }
        }
    }
    for case in corpus["ignorefile"].as_array().unwrap() {
        cases += 1;
        let content = case["content"].as_str().unwrap();
        let ours = IgnoreFile::parse(content.as_bytes()).unwrap().patterns;
        let theirs: Vec<String> = serde_json::from_value(case["patterns"].clone()).unwrap();
        if ours != theirs {
            wrong.push(format!("{content:?}: ours {ours:?}, theirs {theirs:?}"));
        }
    }
    assert!(cases > 5500);
    assert_none(&wrong, cases);
}

/// Walking with [`Matcher::decide`] agrees with matching whole paths, but for the corner that
/// its documentation names; and what is pruned holds nothing that would be kept.
#[test]
fn walking_agrees_with_matching() {
    let Some(corpus) = document("patternmatcher.json.gz") else {
        return;
    };
    for case in corpus["random_multi"].as_array().unwrap() {
        let patterns: Vec<String> = serde_json::from_value(case["patterns"].clone()).unwrap();
        let path = clean_path(case["path"].as_str().unwrap());
        let Ok(matcher) = Matcher::new(&patterns) else {
            continue;
        };
        let (mut state, mut pruned) = (matcher.root(), false);
        for end in path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()])
        {
            let (decision, next) = matcher.decide(&path[..end], true, &state);
            assert!(
                !pruned || decision != Decision::Include,
                "{patterns:?} {path}"
            );
            pruned |= decision == Decision::ExcludePrune;
            state = next;
        }
        let walked = matcher.decide(&path, false, &state).0 != Decision::Include;
        if !matcher.has_exclusions() {
            assert_eq!(walked, matcher.matches(&path), "{patterns:?} {path}");
        }
    }
}

proptest::proptest! {
    /// Any pattern is refused or matches; pruning loses nothing.
    #[test]
    fn every_pattern_has_an_answer(
        patterns in proptest::collection::vec(r"!?[ab*?/\\\[\]^.-]{0,8}", 0..5),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let Ok(matcher) = Matcher::new(&patterns) else { return Ok(()) };
        let (mut state, mut pruned) = (matcher.root(), false);
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let (decision, next) = matcher.decide(&path[..end], true, &state);
            proptest::prop_assert!(!pruned || decision != Decision::Include);
            pruned |= decision == Decision::ExcludePrune;
            state = next;
        }
        let is_matched = matcher.matches(&path);
        if let Some((directory, _)) = path.rsplit_once('/')
            && is_matched && !matcher.has_exclusions()
        {
            proptest::prop_assert!(matcher.may_match_below(directory));
        }
    }

    #[test]
    fn every_file_has_an_answer(content in proptest::collection::vec(0_u8.., 0..64)) {
        if let Ok(file) = IgnoreFile::parse(&content) {
            let _ = Matcher::new(&file.patterns);
        }
    }
}
