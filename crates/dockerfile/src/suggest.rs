//! "Did you mean": the nearest of a few known words.

/// Words further away than this are no suggestion.
const DISTANCE_MAX: usize = 2;

/// Longer words are never looked at: the distance costs time in the product of both lengths.
const WORD_CHARS_MAX: usize = 64;

/// The option nearest to `word`, if one is at most two edits away; the first of equals wins.
/// Nothing if `word` is itself an option: then the fault lies elsewhere.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().nth(WORD_CHARS_MAX).is_some() {
        return None;
    }
    let mut best = None;
    let mut limit = DISTANCE_MAX + 1;
    for option in options {
        let distance = strsim::levenshtein(word, option);
        if distance == 0 {
            return None;
        }
        if distance < limit {
            limit = distance;
            best = Some(option);
        }
    }
    best
}

/// Like [`nearest`] without regard to case; the answer takes `word`'s case if that is uniform.
pub(crate) fn nearest_any_case<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let best = nearest(&word.to_lowercase(), options)?;
    let upper = word == word.to_uppercase() && word != word.to_lowercase();
    Some(if upper {
        best.to_uppercase()
    } else {
        best.to_owned()
    })
}

/// Appends ` (did you mean x?)`, as BuildKit's texts do.
pub(crate) fn with_suggestion(message: String, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(word) => format!("{message} (did you mean {word}?)"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_at_most_two_edits_away() {
        assert_eq!(nearest("mont", ["mount", "network"]), Some("mount"));
        assert_eq!(nearest("foo", ["chown", "from"]), Some("from"));
        assert_eq!(nearest("user", ["mount", "network", "security"]), None);
        assert_eq!(nearest("mount", ["mount"]), None);
    }

    #[test]
    fn keeps_the_case_of_the_word() {
        assert_eq!(
            nearest_any_case("FNTRYPOINT", ["cmd", "entrypoint"]).as_deref(),
            Some("ENTRYPOINT")
        );
        assert_eq!(
            nearest_any_case("as", ["add", "arg"]).as_deref(),
            Some("add")
        );
    }

    #[test]
    fn a_very_long_word_has_no_suggestion() {
        assert_eq!(nearest(&"a".repeat(100_000), ["add"]), None);
    }
}
