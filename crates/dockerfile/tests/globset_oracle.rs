//! Ignore patterns against `globset`, on the part of both languages that means the same:
//! literal names, `*` and `?` within a component, `**/` in front, and whole paths.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use globset::GlobBuilder;
use longshore_dockerfile::ignore::Matcher;
use proptest::prelude::*;

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::string::string_regex("[ab]{1,3}").unwrap(),
        prop::string::string_regex("[ab]?[*][ab]?").unwrap(),
        prop::string::string_regex("[ab][?][ab]").unwrap(),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    (any::<bool>(), prop::collection::vec(component(), 1..4)).prop_map(|(anywhere, parts)| {
        let path = parts.join("/");
        if anywhere { format!("**/{path}") } else { path }
    })
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::string::string_regex("[ab]{1,3}").unwrap(), 1..5)
        .prop_map(|parts| parts.join("/"))
}

/// `globset` has no parent matches: a path matches where it or a directory above it does.
fn matches_or_parent(glob: &globset::GlobMatcher, path: &str) -> bool {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    ends.into_iter().any(|end| glob.is_match(&path[..end]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_common_language_means_the_same(pattern in pattern(), path in path()) {
        let glob = GlobBuilder::new(&pattern).literal_separator(true).build().unwrap().compile_matcher();
        let ours = Matcher::new(&[&pattern]).unwrap().matches(&path);
        prop_assert_eq!(ours, matches_or_parent(&glob, &path), "`{}` and `{}`", pattern, path);
    }
}
