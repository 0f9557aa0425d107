//! What can be wrong with a Dockerfile, where, and what to write instead.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::check::Rule;
use crate::span::Span;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The Dockerfile can be built.
    Warning,
    /// The Dockerfile cannot be built.
    Error,
}

/// One thing wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub kind: DiagnosticKind,
    /// What is wrong, in the words BuildKit uses where it has any.
    pub message: String,
    /// The text to point at.
    pub span: Span,
    /// The physical lines of the instruction it belongs to, counted from 1.
    pub lines: RangeInclusive<u32>,
    /// Other places that matter.
    pub labels: Vec<Label>,
    /// What to write instead.
    pub help: Option<String>,
}

/// A note at another place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The text it points at.
    pub span: Span,
    /// What it says.
    pub text: String,
}

impl Diagnostic {
    /// An error.
    pub fn error(
        kind: DiagnosticKind,
        message: impl Into<String>,
        span: Span,
        lines: RangeInclusive<u32>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            kind,
            message: message.into(),
            span,
            lines,
            labels: Vec::new(),
            help: None,
        }
    }

    /// A warning.
    pub fn warning(
        kind: DiagnosticKind,
        message: impl Into<String>,
        span: Span,
        lines: RangeInclusive<u32>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(kind, message, span, lines)
        }
    }

    /// A finding of a build check.
    pub fn finding(
        rule: Rule,
        message: impl Into<String>,
        span: Span,
        lines: RangeInclusive<u32>,
    ) -> Self {
        Self::warning(DiagnosticKind::Check(rule), message, span, lines)
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a note at another place.
    #[must_use]
    pub fn with_label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label {
            span,
            text: text.into(),
        });
        self
    }

    /// The build check this is a finding of.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        match self.kind {
            DiagnosticKind::Check(rule) => Some(rule),
            _ => None,
        }
    }

    /// The error text BuildKit prints for it.
    #[must_use]
    pub fn buildkit_text(&self) -> String {
        if self.kind.phase() == Phase::Typing && self.kind != DiagnosticKind::NoStage {
            let line = self.lines.start();
            return format!("dockerfile parse error on line {line}: {}", self.message);
        }
        self.message.clone()
    }
}

/// When a fault is found. BuildKit stops at its first fault; to know which one that is, the phase
/// counts before the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Before any instruction is read.
    Directives,
    /// While lines are cut into words.
    Syntax,
    /// While words become instructions.
    Typing,
    /// After the whole file is read.
    File,
    /// While instructions become steps, for those that are built.
    Steps,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $phase:ident;)+) => {
        /// What is wrong: one variant for each fault the parser can find.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DiagnosticKind {
            /// A finding of a build check.
            Check(Rule),
            $($(#[doc = $doc])+ $name,)+
        }

        impl DiagnosticKind {
            /// A short name that stays the same between releases; the rule's name for a finding.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    Self::Check(rule) => rule.name(),
                    $(Self::$name => $code,)+
                }
            }

            pub(crate) fn phase(self) -> Phase {
                match self {
                    Self::Check(_) => Phase::File,
                    $(Self::$name => Phase::$phase,)+
                }
            }
        }
    };
}

kinds! {
    /// The text is a Dockerfile, but cannot be built as it was asked for.
    CannotBuild = "cannot-build", File;
    /// The text is larger than any Dockerfile may be.
    FileTooLarge = "file-too-large", Directives;
    /// The text is empty.
    EmptyFile = "empty-file", Directives;
    /// The text holds no instruction.
    NoInstructions = "no-instructions", Syntax;
    /// The text holds no `FROM`.
    NoStages = "no-stages", File;
    /// The text is not UTF-8 at this place.
    InvalidUtf8 = "invalid-utf8", File;
    /// A physical line is longer than the limit.
    LineTooLong = "line-too-long", Syntax;
    /// The escape directive names another character than backslash and backtick.
    InvalidEscape = "invalid-escape", Syntax;
    /// A directive stands twice.
    DuplicateDirective = "duplicate-directive", Syntax;
    /// The check directive cannot be read.
    InvalidCheckOptions = "invalid-check-options", Directives;
    /// A check option names no rule.
    UnknownRule = "unknown-rule", File;
    /// A heredoc's end is missing.
    UnterminatedHeredoc = "unterminated-heredoc", Syntax;
    /// A heredoc's delimiter cannot be read.
    InvalidHeredoc = "invalid-heredoc", Syntax;
    /// A JSON array holds something else than strings.
    JsonNotStrings = "json-not-strings", Syntax;
    /// `ENV key` or `LABEL key` without a value.
    MissingValue = "missing-value", Syntax;
    /// A word without `=` among `key=value` words.
    MissingEquals = "missing-equals", Syntax;
    /// No such instruction.
    UnknownInstruction = "unknown-instruction", Typing;
    /// An instruction before the first `FROM`.
    NoStage = "no-stage", Typing;
    /// No such flag.
    UnknownFlag = "unknown-flag", Typing;
    /// A flag stands twice.
    DuplicateFlag = "duplicate-flag", Typing;
    /// A flag without its value.
    MissingFlagValue = "missing-flag-value", Typing;
    /// A flag takes `true` or `false`.
    InvalidFlagBool = "invalid-flag-bool", Typing;
    /// The instruction takes no flags and does not look at them.
    IgnoredFlag = "ignored-flag", File;
    /// An instruction without arguments.
    MissingArgument = "missing-argument", Typing;
    /// An instruction takes exactly one argument.
    ArgumentCount = "argument-count", Typing;
    /// `COPY` or `ADD` without a destination.
    MissingDestination = "missing-destination", Typing;
    /// A heredoc as the destination.
    HeredocDestination = "heredoc-destination", Typing;
    /// A key is empty.
    BlankName = "blank-name", Typing;
    /// `FROM` with another number of words than one or three, or without `AS` between them.
    FromArguments = "from-arguments", Typing;
    /// A stage name with characters that are not allowed.
    InvalidStageName = "invalid-stage-name", Typing;
    /// `SHELL` takes a JSON array.
    ShellNotJson = "shell-not-json", Typing;
    /// An empty volume path.
    EmptyVolume = "empty-volume", Typing;
    /// `ONBUILD ONBUILD`.
    OnBuildChain = "onbuild-chain", Typing;
    /// `ONBUILD FROM` or `ONBUILD MAINTAINER`.
    OnBuildForbidden = "onbuild-forbidden", Typing;
    /// An `ONBUILD` trigger that will fail wherever it fires.
    OnBuildFault = "onbuild-fault", File;
    /// `HEALTHCHECK NONE` with arguments.
    HealthcheckNoneArguments = "healthcheck-none-arguments", Typing;
    /// `HEALTHCHECK` with something else than `NONE` and `CMD`.
    HealthcheckType = "healthcheck-type", Typing;
    /// `HEALTHCHECK CMD` without a command.
    HealthcheckNoCommand = "healthcheck-no-command", Typing;
    /// A duration that cannot be read.
    InvalidDuration = "invalid-duration", Typing;
    /// A duration below the least one.
    DurationTooShort = "duration-too-short", Typing;
    /// `--retries` is no number, too large or negative.
    InvalidRetries = "invalid-retries", Typing;
    /// `--mount` cannot be read.
    InvalidMount = "invalid-mount", Typing;
    /// `--mount` asks for what there is not. Told beside other errors alone: a stage that is not
    /// built may have it.
    MountField = "invalid-mount-field", Steps;
    /// `--device` cannot be read.
    InvalidDevice = "invalid-device", Typing;
    /// `--network` is none of the known modes.
    InvalidNetwork = "invalid-network", Typing;
    /// `--security` is none of the known modes.
    InvalidSecurity = "invalid-security", Typing;
}
