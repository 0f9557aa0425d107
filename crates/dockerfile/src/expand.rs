//! Variable expansion and word splitting in the shell's manner, with BuildKit's answers.
//!
//! One pass over the text, no look-back: quotes and escapes are removed (or kept, see [`Lexer`]),
//! `$name` and `${name…}` replaced. Splitting happens after expansion: blanks in a variable's value
//! separate words unless they are quoted.
//!
//! ```text
//!  $v  ${v}        the value              ${v#p} ${v##p}   without the shortest, longest prefix p
//!  ${v:-w} ${v-w}  w if unset (or empty)  ${v%p} ${v%%p}   without the shortest, longest suffix p
//!  ${v:+w} ${v+w}  w if set (not empty)   ${v/p/r}         first p replaced by r
//!  ${v:?m} ${v?m}  error m if unset       ${v//p/r}        every p replaced by r
//! ```
//!
//! ```
//! use std::collections::BTreeMap;
//! use longshore_dockerfile::expand::Lexer;
//!
//! let env = BTreeMap::from([("TAG".to_owned(), "1.2".to_owned())]);
//! let expansion = Lexer::new('\\').expand("app:${TAG%.*}-${FLAVOUR:-slim}", &env).unwrap();
//! assert_eq!(expansion.word, "app:1-slim");
//! assert!(expansion.unmatched.contains("FLAVOUR"));
//! ```

mod glob;
mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::quote::quote;

/// `${a:-${b:-…}}` deeper than this is refused: each level takes stack.
pub const NESTING_MAX: usize = 100;

/// An expansion may be longer than its text by this much. The kernel passes no variable longer
/// than 128 KiB; without a bound, `ENV A=$A$A` forty times over fills any memory.
pub const GROWTH_BYTES_MAX: usize = 1 << 20;

/// A pattern of `# % /` may have so many characters: matching costs pattern times value.
pub const PATTERN_CHARS_MAX: usize = 1024;

/// Where the values of variables come from.
pub trait Environment {
    /// The value of `name`; nothing if it is not set.
    fn lookup(&self, name: &str) -> Option<&str>;
}

impl<E: Environment + ?Sized> Environment for &E {
    fn lookup(&self, name: &str) -> Option<&str> {
        (**self).lookup(name)
    }
}

impl Environment for BTreeMap<String, String> {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Environment for HashMap<String, String> {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Nothing is set.
impl Environment for () {
    fn lookup(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// What becomes of quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quotes {
    /// They group and are removed: what instructions use.
    #[default]
    Remove,
    /// They group and stay in the result: what is shown of a command.
    Keep,
    /// They are characters like any other: heredoc bodies.
    Literal,
}

/// What becomes of escape characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escapes {
    /// They are removed.
    #[default]
    Remove,
    /// They stay in the result.
    Keep,
}

/// What becomes of a variable that is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unset {
    /// Nothing is put in its place: what instructions use.
    #[default]
    Empty,
    /// It stays as written: what is shown of a command.
    Keep,
}

/// How text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexer {
    /// `\` or, by directive, a back tick.
    pub escape: char,
    /// What becomes of quotes.
    pub quotes: Quotes,
    /// What becomes of escape characters.
    pub escapes: Escapes,
    /// What becomes of a variable that is not set.
    pub unset: Unset,
}

/// What a text expands to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The text as one word, blanks kept.
    pub word: String,
    /// The text split at unquoted blanks.
    pub words: Vec<String>,
    /// Names that were looked up and found.
    pub matched: BTreeSet<String>,
    /// Names that were looked up and not found.
    pub unmatched: BTreeSet<String>,
}

/// A text that cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {problem}", quote(.text))]
pub struct ExpandError {
    /// The whole text.
    pub text: String,
    /// What is wrong with it.
    pub problem: ExpandProblem,
    /// Names that were looked up until then and not found.
    pub unmatched: BTreeSet<String>,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandProblem {
    /// A `'` without a second one.
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    /// A `"` without a second one.
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    /// A `${` without its `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// A `${v/p` without its second `/`.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${{` or `${:`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// Something other than `:- :+ :? - + ? # % /` after the name.
    #[error("unsupported modifier ({modifier}) in substitution")]
    Modifier {
        /// What stands there.
        modifier: String,
    },
    /// `${v:?message}` and `v` is not set, or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message, or a default one.
        message: String,
    },
    /// A backslash before a character that needs none.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{character}'")]
    PatternEscape {
        /// The pattern.
        pattern: String,
        /// What follows the backslash; U+FFFD at the end.
        character: char,
    },
    /// A pattern or value longer than matching is bounded to.
    #[error("pattern or value too long in substitution of {name}")]
    PatternTooLong {
        /// The variable.
        name: String,
    },
    /// More than [`NESTING_MAX`] substitutions within one another.
    #[error("substitutions nest deeper than {NESTING_MAX}")]
    TooDeep,
    /// More than [`GROWTH_BYTES_MAX`] added.
    #[error("the expanded text is more than {GROWTH_BYTES_MAX} bytes longer than written")]
    TooLong,
}

impl Lexer {
    /// Reads text as instructions do: quotes and escapes removed, unset variables empty.
    #[must_use]
    pub const fn new(escape: char) -> Self {
        Self {
            escape,
            quotes: Quotes::Remove,
            escapes: Escapes::Remove,
            unset: Unset::Empty,
        }
    }

    /// Reads text to be shown: quotes and unset variables stay as written.
    #[must_use]
    pub const fn for_display(escape: char) -> Self {
        Self {
            escape,
            quotes: Quotes::Keep,
            escapes: Escapes::Remove,
            unset: Unset::Keep,
        }
    }

    /// Reads a heredoc's body: quotes are characters, and the escape is always the backslash.
    #[must_use]
    pub const fn for_heredoc() -> Self {
        Self {
            escape: '\\',
            quotes: Quotes::Literal,
            escapes: Escapes::Remove,
            unset: Unset::Empty,
        }
    }

    /// Expands `text` with the variables of `env`.
    ///
    /// # Errors
    /// What [`ExpandProblem`] says, with the whole text.
    pub fn expand(&self, text: &str, env: &dyn Environment) -> Result<Expansion, ExpandError> {
        scan::expand(self, text, env).map_err(|(problem, unmatched)| ExpandError {
            text: text.to_owned(),
            problem,
            unmatched,
        })
    }
}

#[cfg(test)]
pub(crate) mod corpus;
#[cfg(test)]
mod tests;
