//! Why a Dockerfile cannot be lowered, in BuildKit's words where it has any.

use std::fmt;
use std::ops::RangeInclusive;

use longshore_dockerfile::TriggerError;
use longshore_dockerfile::check::CheckOptionsError;
use longshore_dockerfile::diagnostic::{Diagnostic, DiagnosticKind};
use longshore_dockerfile::expand::ExpandError;
use longshore_dockerfile::instruction::Origin;
use longshore_dockerfile::mount::MountError;
use longshore_dockerfile::quote::quote;
use longshore_dockerfile::span::Span;
use longshore_graph::GraphError;
use longshore_oci::{DigestError, PlatformError, ReferenceError};

use crate::git::GitUrlError;
use crate::resolve::ResolveError;

/// More instructions than this are refused: what is kept of each grows with those before it.
pub const INSTRUCTIONS_MAX: usize = 20_000;

/// An environment larger than this cannot be given to a process.
pub const ENVIRONMENT_BYTES_MAX: usize = 2 << 20;

/// A history larger than this makes no configuration that a registry takes.
pub const HISTORY_BYTES_MAX: usize = 16 << 20;

/// A place in the Dockerfile that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The text to point at.
    pub span: Span,
    /// The physical lines of its instruction, from 1.
    pub lines: RangeInclusive<u32>,
}

impl Location {
    pub(crate) fn of(origin: &Origin) -> Self {
        Self {
            span: origin.span,
            lines: origin.lines.clone(),
        }
    }
}

/// Why a Dockerfile cannot be lowered, and where.
#[derive(Debug)]
pub struct LowerError {
    /// What is wrong.
    pub problem: Box<Problem>,
    /// What may have been meant; part of the text.
    pub suggestion: Option<String>,
    /// Where, the nearest place first. Empty where no instruction is at fault.
    pub locations: Vec<Location>,
    /// What was found until then.
    pub diagnostics: Vec<Diagnostic>,
}

impl LowerError {
    /// The error as a diagnostic, at the nearest place; at the start of the text where no
    /// instruction is at fault.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        let (span, lines) = self
            .locations
            .first()
            .map_or((Span { start: 0, end: 0 }, 1..=1), |at| {
                (at.span, at.lines.clone())
            });
        let mut message = self.problem.to_string();
        if let Problem::Resolve { .. } = *self.problem {
            message = message.lines().collect::<Vec<_>>().join(" ");
        }
        let found = Diagnostic::error(DiagnosticKind::CannotBuild, message, span, lines);
        match &self.suggestion {
            Some(suggestion) => found.with_help(format!("did you mean {suggestion}?")),
            None => found,
        }
    }

    pub(crate) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    pub(crate) fn at(mut self, location: &Location) -> Self {
        self.locations.push(location.clone());
        self
    }
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.suggestion {
            Some(suggestion) => write!(f, "{} (did you mean {suggestion}?)", self.problem),
            None => write!(f, "{}", self.problem),
        }
    }
}

impl std::error::Error for LowerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.problem)
    }
}

impl<P: Into<Problem>> From<P> for LowerError {
    fn from(problem: P) -> Self {
        Self {
            problem: Box::new(problem.into()),
            suggestion: None,
            locations: Vec::new(),
            diagnostics: Vec::new(),
        }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The text is no Dockerfile.
    #[error("{}", .0.buildkit_text())]
    Syntax(Box<Diagnostic>),
    /// No `FROM`.
    #[error("dockerfile contains no stages to build")]
    NoStages,
    /// More than [`INSTRUCTIONS_MAX`].
    #[error("the Dockerfile has more than {INSTRUCTIONS_MAX} instructions")]
    TooManyInstructions,
    /// More than [`HISTORY_BYTES_MAX`].
    #[error("the image's history would be larger than {HISTORY_BYTES_MAX} bytes")]
    HistoryTooLarge,
    /// More than [`ENVIRONMENT_BYTES_MAX`].
    #[error("the environment of the command is larger than {ENVIRONMENT_BYTES_MAX} bytes")]
    EnvironmentTooLarge,
    /// Options of the build checks given to the build.
    #[error("failed to parse check options: {0}")]
    CheckOptions(#[from] CheckOptionsError),
    /// Findings, and the Dockerfile asks that they fail the build.
    #[error("lint violation found for rules: {}", .rules.join(", "))]
    Checks {
        /// The rules, each once.
        rules: Vec<&'static str>,
    },
    /// A text with faulty quotes or substitutions.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The base image's name expands to nothing.
    #[error("base name ({expression}) should not be blank")]
    BlankBase {
        /// As written.
        expression: String,
    },
    /// `--platform` cannot be expanded.
    #[error("failed to process arguments for platform : {0}")]
    PlatformExpand(#[source] ExpandError),
    /// `--platform` expands to nothing.
    #[error("empty platform value from expression {expression}")]
    BlankPlatform {
        /// As written.
        expression: String,
    },
    /// `--platform` is none.
    #[error("failed to parse platform {expression}: {source}")]
    Platform {
        /// As written.
        expression: String,
        /// Why.
        source: PlatformError,
    },
    /// Not an image reference.
    #[error("failed to parse stage name {}: {source}", quote(.name))]
    StageName {
        /// What should be one.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// No such stage.
    #[error("target stage {} could not be found", quote(.target))]
    Target {
        /// What was asked for.
        target: String,
    },
    /// `COPY --from=$name`.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG \
         from global scope as a workaround"
    )]
    FromVariable,
    /// `COPY --from=7`.
    #[error("invalid stage index {index}")]
    StageIndex {
        /// The number.
        index: i64,
    },
    /// Stages copy from one another.
    #[error("circular dependency detected on stage: {stage}")]
    Circular {
        /// One of them.
        stage: String,
    },
    /// `COPY --from` a later stage.
    #[error(
        "cannot copy from stage {}, it needs to be defined before current stage {}",
        quote(.from),
        quote(.stage)
    )]
    CopyFromLater {
        /// The later one.
        from: String,
        /// The one that copies.
        stage: String,
    },
    /// A mount from a later stage.
    #[error(
        "cannot mount from stage {} to {}, stage needs to be defined before current command",
        quote(.from),
        quote(.target)
    )]
    MountFromLater {
        /// The later one.
        from: String,
        /// Where to.
        target: String,
    },
    /// A name that nothing is found for.
    #[error("{name}: {source}")]
    Resolve {
        /// As written.
        name: String,
        /// Why.
        source: ResolveError,
    },
    /// A name that cannot be a context's.
    #[error("invalid context name {name}: {source}")]
    ContextName {
        /// The name.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// A named context that cannot be understood.
    #[error("invalid git context {0}")]
    GitContext(String),
    /// A named context's image reference.
    #[error("invalid image {reference} of context {name}: {source}")]
    ContextImage {
        /// The context.
        name: String,
        /// Its image.
        reference: String,
        /// Why.
        source: ReferenceError,
    },
    /// An `ONBUILD` trigger of the base image.
    #[error(transparent)]
    Trigger(#[from] TriggerError),
    /// `RUN []`.
    #[error("arguments are required")]
    NoCommand,
    /// A mount that cannot be read.
    #[error(transparent)]
    Mount(#[from] MountError<ExpandError>),
    /// A mount over everything.
    #[error("invalid mount target {}", quote(.target))]
    MountTarget {
        /// Where to.
        target: String,
    },
    /// A secret without a name.
    #[error("one of source, target required")]
    SecretUnnamed,
    /// An agent is not a file.
    #[error("ssh does not support source")]
    SshSource,
    /// `RUN --device`.
    #[error("RUN --device={device} is not supported")]
    Device {
        /// Which.
        device: String,
    },
    /// `--chmod` is a number, but no mode.
    #[error(
        "invalid chmod parameter: '{value}'. it should be octal string and between 0 and 07777"
    )]
    ChmodNumber {
        /// As expanded.
        value: String,
    },
    /// `--chmod` is no mode.
    #[error("invalid syntax")]
    ChmodSyntax,
    /// `--checksum` belongs to one source.
    #[error("checksum can't be specified for multiple sources")]
    ChecksumSources,
    /// `--checksum` belongs to something from elsewhere.
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumLocal,
    /// `--checksum` and the URL's own differ.
    #[error("checksum mismatch {} != {}", quote(.flag), quote(.url))]
    ChecksumMismatch {
        /// The flag's.
        flag: String,
        /// The URL's.
        url: String,
    },
    /// `--checksum` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// `COPY` of a repository.
    #[error("source can't be a git ref for COPY")]
    CopyGit,
    /// `COPY` of a URL.
    #[error("source can't be a URL for COPY")]
    CopyUrl,
    /// A repository's URL.
    #[error(transparent)]
    GitUrl(#[from] GitUrlError),
    /// `--keep-git-dir` and the URL say different things.
    #[error("inconsistent keep-git-dir configuration")]
    KeepGitDir,
    /// `STOPSIGNAL` is none.
    #[error("invalid signal: {signal}")]
    Signal {
        /// As expanded.
        signal: String,
    },
    /// A path of a Windows image.
    #[error(transparent)]
    WindowsPath(#[from] crate::paths::WindowsPathError),
    /// A volume's path expands to nothing.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// `EXPOSE` cannot be read.
    #[error(transparent)]
    Port(#[from] crate::expose::PortError),
    /// `SOURCE_DATE_EPOCH` cannot be understood.
    #[error(transparent)]
    Epoch(#[from] crate::epoch::EpochError),
    /// The graph refused a vertex.
    #[error(transparent)]
    Graph(#[from] GraphError),
}
