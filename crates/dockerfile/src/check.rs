//! Build checks: the rules, what `# check=` may ask for, and the filter that applies it.
//!
//! Names, descriptions, addresses and texts are those of BuildKit's ruleset, so that `# check=skip`
//! lines and tools that read the results keep working.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Dockerfile, Origin};
use crate::number::parse_bool;
use crate::quote::quote;
use crate::suggest;

/// A build check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "description() says what each rule is about")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// All rules in BuildKit's order.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JsonArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// The name used in `# check=skip=`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// The rule with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// What the rule is about.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => "Stage names should be lowercase",
            Self::FromAsCasing => "The 'as' keyword should match the case of the 'from' keyword",
            Self::NoEmptyContinuation => {
                "Empty continuation lines will become errors in a future release"
            }
            Self::ConsistentInstructionCasing => {
                "All commands within the Dockerfile should use the same casing (either upper or lower)"
            }
            Self::DuplicateStageName => "Stage names should be unique",
            Self::ReservedStageName => "Reserved words should not be used as stage names",
            Self::JsonArgsRecommended => {
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
            }
            Self::MaintainerDeprecated => {
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
            }
            Self::UndefinedArgInFrom => "FROM command must use declared ARGs",
            Self::WorkdirRelativePath => {
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes"
            }
            Self::UndefinedVar => "Variables should be defined before their use",
            Self::MultipleInstructionsDisallowed => {
                "Multiple instructions of the same type should not be used in the same stage"
            }
            Self::LegacyKeyValueFormat => {
                "Legacy key/value format with whitespace separator should not be used"
            }
            Self::InvalidBaseImagePlatform => {
                "Base image platform does not match expected target platform"
            }
            Self::RedundantTargetPlatform => {
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
            }
            Self::SecretsUsedInArgOrEnv => {
                "Sensitive data should not be used in the ARG or ENV commands"
            }
            Self::InvalidDefaultArgInFrom => {
                "Default value for global ARG results in an empty or invalid base image name"
            }
            Self::FromPlatformFlagConstDisallowed => {
                "FROM --platform flag should not use a constant value"
            }
            Self::CopyIgnoredFile => "Attempting to Copy file that is excluded by .dockerignore",
            Self::InvalidDefinitionDescription => {
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment."
            }
            Self::ExposeProtoCasing => "Protocol in EXPOSE instruction should be lowercase",
            Self::ExposeInvalidFormat => {
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release"
            }
        }
    }

    /// Where the rule is explained; empty for the one rule without a page.
    #[must_use]
    pub fn url(self) -> String {
        if self == Self::InvalidBaseImagePlatform {
            return String::new();
        }
        format!(
            "https://docs.docker.com/go/dockerfile/rule/{}/",
            self.slug()
        )
    }

    /// The name in lower case with dashes, as the addresses use it.
    fn slug(self) -> String {
        if self == Self::JsonArgsRecommended {
            return "json-args-recommended".to_owned();
        }
        let mut slug = String::new();
        for ch in self.name().chars() {
            if ch.is_ascii_uppercase() && !slug.is_empty() {
                slug.push('-');
            }
            slug.push(ch.to_ascii_lowercase());
        }
        slug
    }

    /// Whether the rule is off unless asked for with `experimental=`.
    #[must_use]
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What a `check` directive, comment or command-line option asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// `skip=all`.
    pub skip_all: bool,
    /// `skip=A,B`: rule names, known or not.
    pub skip: BTreeSet<String>,
    /// `experimental=all`.
    pub experimental_all: bool,
    /// `experimental=A,B`: rule names, known or not.
    pub experimental: BTreeSet<String>,
    /// `error=true`: a finding fails the build.
    pub error: bool,
}

/// Why check options were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckOptionsError {
    /// An option without `=`, or of an unknown name.
    #[error("invalid check option {}", quote(.option))]
    Invalid {
        /// The option.
        option: String,
    },
    /// `error=` takes a truth value.
    #[error(
        "failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax",
        quote(.option),
        quote(.value)
    )]
    Truth {
        /// The whole option.
        option: String,
        /// Its value.
        value: String,
    },
}

impl CheckOptions {
    /// Reads `skip=A,B;error=true;experimental=C`, in any order.
    ///
    /// # Errors
    /// What [`CheckOptionsError`] says.
    pub fn parse(text: &str) -> Result<Self, CheckOptionsError> {
        let mut options = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        // BuildKit knows three options and cuts no further: a fourth part stays in the third's
        // value.
        for part in text.splitn(3, ';') {
            options.read(part)?;
        }
        Ok(options)
    }

    fn read(&mut self, part: &str) -> Result<(), CheckOptionsError> {
        let invalid = |option: &str| CheckOptionsError::Invalid {
            option: option.to_owned(),
        };
        let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
        let value = value.trim();
        match key.trim() {
            "skip" if value == "all" => self.skip_all = true,
            "skip" => self.skip = rule_names(value),
            "experimental" if value == "all" => self.experimental_all = true,
            "experimental" => self.experimental = rule_names(value),
            "error" => {
                self.error = parse_bool(value).ok_or_else(|| CheckOptionsError::Truth {
                    option: part.to_owned(),
                    value: value.to_owned(),
                })?;
            }
            key => return Err(invalid(key)),
        }
        Ok(())
    }

    /// Whether a finding of this rule is wanted.
    #[must_use]
    pub fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental_all || self.experimental.contains(rule.name())
        } else {
            !self.skip_all && !self.skip.contains(rule.name())
        }
    }

    /// These options and, on top of them, those given at one instruction. `error` stays.
    #[must_use]
    pub fn with_local(&self, local: &Self) -> Self {
        let mut merged = self.clone();
        merged.skip_all |= local.skip_all;
        merged.experimental_all |= local.experimental_all;
        merged.skip.extend(local.skip.iter().cloned());
        merged
            .experimental
            .extend(local.experimental.iter().cloned());
        merged
    }

    /// Names that are no rule, each with the nearest rule.
    #[must_use]
    pub fn unknown_names(&self) -> Vec<(&str, Option<&'static str>)> {
        let names = self
            .skip
            .iter()
            .chain(&self.experimental)
            .map(String::as_str);
        names
            .filter(|name| Rule::from_name(name).is_none())
            .map(|name| {
                (
                    name,
                    suggest::nearest(name, Rule::ALL.into_iter().map(Rule::name)),
                )
            })
            .collect()
    }
}

fn rule_names(list: &str) -> BTreeSet<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Applies a Dockerfile's check options, the global ones and those at single instructions.
#[derive(Clone, Debug)]
pub struct CheckFilter {
    global: CheckOptions,
    local: Vec<(RangeInclusive<u32>, CheckOptions)>,
}

impl CheckFilter {
    /// The filter of a Dockerfile. `instead` replaces its `# check=` directive, as options given
    /// to the build do.
    #[must_use]
    pub fn new(dockerfile: &Dockerfile, instead: Option<&CheckOptions>) -> Self {
        let global = instead.unwrap_or(&dockerfile.checks).clone();
        let local = dockerfile.origins().filter_map(|origin| {
            let checks = origin.checks.as_ref()?;
            Some((origin.lines.clone(), global.with_local(checks)))
        });
        Self {
            local: local.collect(),
            global,
        }
    }

    /// Whether the diagnostic is to be shown. Errors always are.
    #[must_use]
    pub fn wants(&self, diagnostic: &Diagnostic) -> bool {
        diagnostic
            .rule()
            .is_none_or(|rule| self.options_at(*diagnostic.lines.start()).wants(rule))
    }

    /// Drops the findings that are not wanted.
    pub fn apply(&self, diagnostics: &mut Vec<Diagnostic>) {
        diagnostics.retain(|diagnostic| self.wants(diagnostic));
    }

    /// Whether these diagnostics, already filtered, fail the build: an error does, and with
    /// `error=true` any finding does.
    #[must_use]
    pub fn fails(&self, diagnostics: &[Diagnostic]) -> bool {
        diagnostics.iter().any(|diagnostic| {
            diagnostic.severity == Severity::Error
                || (self.global.error && diagnostic.rule().is_some())
        })
    }

    fn options_at(&self, line: u32) -> &CheckOptions {
        // Instructions stand in line order and do not overlap.
        let after = self.local.partition_point(|(lines, _)| *lines.end() < line);
        match self.local.get(after) {
            Some((lines, options)) if lines.contains(&line) => options,
            _ => &self.global,
        }
    }
}

impl Dockerfile {
    /// The origins of all instructions in order.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        let stages = self.stages.iter().flat_map(|stage| {
            let rest = stage
                .instructions
                .iter()
                .map(|instruction| &instruction.origin);
            std::iter::once(&stage.origin).chain(rest)
        });
        self.global_args.iter().map(|arg| &arg.origin).chain(stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_names_with_dashes() {
        assert!(
            Rule::JsonArgsRecommended
                .url()
                .ends_with("/rule/json-args-recommended/")
        );
        assert!(
            Rule::SecretsUsedInArgOrEnv
                .url()
                .ends_with("/rule/secrets-used-in-arg-or-env/")
        );
        assert!(Rule::InvalidBaseImagePlatform.url().is_empty());
        for rule in Rule::ALL {
            assert_eq!(Rule::from_name(rule.name()), Some(rule));
        }
    }

    #[test]
    fn options_come_in_any_order() {
        let options = CheckOptions::parse(" error=true; skip = A , B ;experimental=all").unwrap();
        assert!(options.error && options.experimental_all && !options.skip_all);
        assert_eq!(
            options.skip.iter().map(String::as_str).collect::<Vec<_>>(),
            ["A", "B"]
        );
        assert!(CheckOptions::parse("skip=all").unwrap().skip_all);
        assert_eq!(CheckOptions::parse("").unwrap(), CheckOptions::default());
    }

    #[test]
    fn bad_options_are_named() {
        let error = |text| CheckOptions::parse(text).unwrap_err().to_string();
        assert_eq!(error("skip"), "invalid check option \"skip\"");
        assert_eq!(error("foo=1"), "invalid check option \"foo\"");
        assert!(error("error=maybe").starts_with("failed to parse check option \"error=maybe\""));
    }

    #[test]
    fn skip_all_leaves_experimental_rules_to_their_own_switch() {
        let options =
            CheckOptions::parse("skip=all;experimental=InvalidDefinitionDescription").unwrap();
        assert!(!options.wants(Rule::UndefinedVar));
        assert!(options.wants(Rule::InvalidDefinitionDescription));
        assert!(!CheckOptions::default().wants(Rule::InvalidDefinitionDescription));
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let options = CheckOptions::parse("skip=UndefinedVars,Nothing").unwrap();
        assert_eq!(
            options.unknown_names(),
            [("Nothing", None), ("UndefinedVars", Some("UndefinedVar"))]
        );
    }
}
