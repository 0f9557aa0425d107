//! `.dockerignore`: reading the file, and matching paths with the answers of `moby/patternmatcher`.
//!
//! A pattern matches at its path from the root, not at any depth. `*` and `?` stop at `/`, `**`
//! does not. What matches a directory matches everything below it. The last pattern that matches
//! decides; one that starts with `!` takes back in.
//!
//! ```
//! use longshore_dockerfile::ignore::{Decision, IgnoreFile, Matcher};
//!
//! let file = IgnoreFile::parse(b"# dependencies\nvendor\n!vendor/keep\n**/*.o\n").unwrap();
//! let matcher = Matcher::new(&file.patterns).unwrap();
//! assert!(matcher.matches("src/main.o") && matcher.matches("vendor/a/b"));
//! assert!(!matcher.matches("vendor/keep/me"));
//!
//! // A walker asks on the way down, and enters what may hold something that is taken back in.
//! let root = matcher.root();
//! let (decision, vendor) = matcher.decide("vendor", true, &root);
//! assert_eq!(decision, Decision::Exclude);
//! assert_eq!(matcher.decide("vendor/other", true, &vendor).0, Decision::ExcludePrune);
//! assert_eq!(matcher.decide("vendor/keep", true, &vendor).0, Decision::Include);
//! ```

mod file;
mod path;
mod pattern;
mod regex;

pub use file::{IGNORE_FILE_BYTES_MAX, IGNORE_LINE_BYTES_MAX, IgnoreFile, IgnoreFileError};
pub use path::clean_path;

use pattern::Pattern;

/// Patterns ready to be matched. Cheap to share: matching changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
}

/// A pattern that cannot be matched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclusion,
    /// An unclosed `[`, an empty range, a `\` at the end or before a letter.
    #[error("syntax error in pattern")]
    Syntax {
        /// The pattern.
        pattern: String,
    },
}

/// What a walker does with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing excludes it.
    Include,
    /// It is excluded; a directory may still hold something that is not.
    Exclude,
    /// It is excluded, and so is everything below it.
    ExcludePrune,
}

/// Which patterns matched a directory or one above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryState {
    matched: Vec<bool>,
}

impl Matcher {
    /// Compiles patterns; blank ones are left out.
    ///
    /// # Errors
    /// The first pattern that cannot be matched.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, PatternError> {
        let compiled = patterns
            .iter()
            .map(|pattern| Pattern::new(pattern.as_ref()));
        Ok(Self {
            patterns: compiled
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether any pattern takes back in (`!`).
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        self.patterns.iter().any(Pattern::is_exclusion)
    }

    /// The patterns as they are matched: cleaned, without `!`; and whether they had one.
    pub fn patterns(&self) -> impl Iterator<Item = (&str, bool)> {
        self.patterns
            .iter()
            .map(|pattern| (pattern.text(), pattern.is_exclusion()))
    }

    /// Whether the path, or a directory above it, is matched and not taken back in.
    ///
    /// The path is relative to the root; the root itself (`.`) never matches.
    #[must_use]
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path::clean(path.as_ref());
        if path == b"." {
            return false;
        }
        let above = path::directory_ends(&path);
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.is_exclusion() != matched {
                continue;
            }
            let matches_above = || above.iter().any(|end| pattern.matches(&path[..*end]));
            if pattern.matches(&path) || matches_above() {
                matched = !pattern.is_exclusion();
            }
        }
        matched
    }

    /// The state of the root directory, where a walk begins.
    #[must_use]
    pub fn root(&self) -> DirectoryState {
        DirectoryState {
            matched: vec![false; self.patterns.len()],
        }
    }

    /// What to do with `path`, found in the directory that `parent` is the state of; and the
    /// state of `path` itself, for what is in it.
    ///
    /// Agrees with the walk of BuildKit's context transfer, which differs from [`Self::matches`]
    /// in one corner: a `!` pattern that could not change anything at a directory is not
    /// remembered there, so `a/b` followed by `!a` excludes `a/b`.
    #[must_use]
    pub fn decide(
        &self,
        path: impl AsRef<[u8]>,
        is_dir: bool,
        parent: &DirectoryState,
    ) -> (Decision, DirectoryState) {
        let path = path.as_ref();
        let mut state = self.root();
        let mut excluded = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.matched.get(index).is_some_and(|matched| *matched);
            let changes = pattern.is_exclusion() == excluded;
            if inherited || (changes && pattern.matches(path)) {
                state.matched[index] = true;
                excluded = !pattern.is_exclusion();
            }
        }
        let decision = match (excluded, is_dir) {
            (false, _) => Decision::Include,
            (true, true) if !self.may_take_back_below(path, &state) => Decision::ExcludePrune,
            (true, _) => Decision::Exclude,
        };
        (decision, state)
    }

    /// Whether some pattern (other than a `!` one) matches `directory`, or may match below it.
    /// For walks that keep only what matches, such as those of `COPY --parents`.
    #[must_use]
    pub fn may_match_below(&self, directory: impl AsRef<[u8]>) -> bool {
        let directory = directory.as_ref();
        self.matches(directory)
            || self
                .patterns
                .iter()
                .any(|p| !p.is_exclusion() && p.may_match_below(directory))
    }

    /// Whether anything below an excluded directory can come back: only through a `!` pattern
    /// behind the last pattern that excludes the whole directory.
    fn may_take_back_below(&self, directory: &[u8], state: &DirectoryState) -> bool {
        let matched = self.patterns.iter().zip(&state.matched);
        let later = matched
            .rev()
            .take_while(|(pattern, hit)| pattern.is_exclusion() || !**hit);
        later
            .filter(|(pattern, hit)| pattern.is_exclusion() && !**hit)
            .any(|(pattern, _)| pattern.may_match_below(directory))
    }
}

#[cfg(test)]
mod tests;
