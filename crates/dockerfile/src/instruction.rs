//! The typed Dockerfile: global arguments, stages, instructions.
//!
//! Words are as written: nothing here is variable-expanded, because what a variable holds depends
//! on build arguments, platform and base image. Every word keeps its span, so that whoever expands
//! it can point at it. An instruction that could not be understood is reported as a diagnostic and
//! left out; its text stays in [`Parsed::nodes`](crate::Parsed::nodes).

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::check::CheckOptions;
use crate::directive::{Directive, Escape};
use crate::heredoc::{Heredoc, parse_heredoc_word};
use crate::mount::MountFlag;
use crate::span::{Span, Spanned};

/// A whole Dockerfile.
#[derive(Clone, Debug, PartialEq)]
pub struct Dockerfile {
    /// `# syntax=`, `# escape=` and `# check=` lines in order.
    pub directives: Vec<Directive>,
    /// The escape character in force: needed to expand words.
    pub escape: Escape,
    /// What `# check=` asks for.
    pub checks: CheckOptions,
    /// `ARG` instructions before the first `FROM`.
    pub global_args: Vec<GlobalArg>,
    /// Stages in order. Empty only if the text has errors or global arguments alone.
    pub stages: Vec<Stage>,
}

/// What every instruction has: where it stood and how it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The instruction's name as written (`RUN`, `run`, `Run`).
    pub keyword: Spanned<String>,
    /// From the keyword to the end of the last line, heredoc bodies included.
    pub span: Span,
    /// Physical lines from 1, heredoc bodies included.
    pub lines: RangeInclusive<u32>,
    /// The logical line: continuations joined, comments dropped, outer blanks removed.
    /// This is what BuildKit's history and error texts call the source of a command.
    pub original: String,
    /// Flags (`--name[=value]`) in order.
    pub flags: Vec<Flag>,
    /// Texts of the comment lines above, outermost first, `#` removed.
    pub comments: Vec<String>,
    /// `# check=…` among these comments: holds for this instruction only.
    pub checks: Option<CheckOptions>,
    /// Why arguments that start with `[` were read as text.
    pub json_fault: Option<JsonFault>,
}

impl Origin {
    /// The first physical line.
    #[must_use]
    pub fn line(&self) -> u32 {
        *self.lines.start()
    }
}

/// Why a text that starts with `[` is no JSON array. It is then read in the instruction's other
/// form, without an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// Where reading it stopped.
    pub span: Span,
    /// What was wrong there.
    pub reason: &'static str,
}

/// A flag before the arguments, with quotes and escapes removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the leading `--`.
    pub name: String,
    /// What follows the first `=`.
    pub value: Option<String>,
    /// The whole flag.
    pub span: Span,
}

/// An `ARG` before the first `FROM`.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalArg {
    /// Where and how it was written.
    pub origin: Origin,
    /// What it declares.
    pub arg: ArgInstruction,
}

/// A `FROM` and the instructions that follow it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Where and how its `FROM` was written.
    pub origin: Origin,
    /// The name after `AS`, in lower case: names match without regard to case.
    pub name: Option<Spanned<String>>,
    /// The name as written, for texts that quote it.
    pub name_as_written: Option<String>,
    /// Image reference or earlier stage, unexpanded.
    pub base_name: Spanned<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<Spanned<String>>,
    /// The description in the comments above that starts with the stage's name.
    pub doc_comment: Option<String>,
    /// The stage's instructions in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Where and how it was written.
    pub origin: Origin,
    /// What it says.
    pub kind: InstructionKind,
}

/// The instructions a stage can hold.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "each variant is documented by the type it holds"
)]
pub enum InstructionKind {
    Run(RunInstruction),
    Copy(CopyInstruction),
    Add(AddInstruction),
    Env(EnvInstruction),
    Arg(ArgInstruction),
    Label(LabelInstruction),
    Workdir(WorkdirInstruction),
    User(UserInstruction),
    Cmd(CmdInstruction),
    Entrypoint(EntrypointInstruction),
    Expose(ExposeInstruction),
    Volume(VolumeInstruction),
    Shell(ShellInstruction),
    StopSignal(StopSignalInstruction),
    Healthcheck(HealthcheckInstruction),
    OnBuild(OnBuildInstruction),
    Maintainer(MaintainerInstruction),
}

impl InstructionKind {
    /// The instruction's name in upper case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "RUN",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Env(_) => "ENV",
            Self::Arg(_) => "ARG",
            Self::Label(_) => "LABEL",
            Self::Workdir(_) => "WORKDIR",
            Self::User(_) => "USER",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Expose(_) => "EXPOSE",
            Self::Volume(_) => "VOLUME",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::OnBuild(_) => "ONBUILD",
            Self::Maintainer(_) => "MAINTAINER",
        }
    }
}

/// How a command is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandForm {
    /// One text for the shell: `RUN make all`. Empty if the instruction had no argument.
    Shell(Spanned<String>),
    /// A JSON array, run without a shell: `RUN ["make", "all"]`.
    Exec(Vec<Spanned<String>>),
}

impl CommandForm {
    /// The words as BuildKit's command line holds them: the array, or the shell text as one word.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Shell(text) if text.is_empty() => Vec::new(),
            Self::Shell(text) => vec![text.value.clone()],
            Self::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
        }
    }

    /// Whether the shell has to be put in front.
    #[must_use]
    pub fn is_shell(&self) -> bool {
        matches!(self, Self::Shell(_))
    }
}

/// `RUN`: runs a command in the stage. Its text is not variable-expanded; mounts are.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInstruction {
    /// Shell text or exec array.
    pub command: CommandForm,
    /// Heredocs of the line, in order. If `command` is a single heredoc word, the first one's body
    /// is the script; else they belong to the shell text and are put back after it.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--security`.
    pub security: SecurityMode,
    /// `--device`, in order.
    pub devices: Vec<DeviceRequest>,
}

impl RunInstruction {
    /// The heredoc that is the whole command (`RUN <<EOF`): its body is run by the shell, or on its
    /// own if it starts with `#!`. Nothing if the heredocs are redirections of a longer command.
    #[must_use]
    pub fn script(&self) -> Option<&Heredoc> {
        let CommandForm::Shell(text) = &self.command else {
            return None;
        };
        parse_heredoc_word(text).and_then(|_| self.heredocs.first())
    }
}

/// Which network a `RUN` sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// The builder's sandbox network.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's network; needs an entitlement.
    Host,
}

impl NetworkMode {
    /// As written in `--network`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// How far a `RUN` is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecurityMode {
    /// The usual confinement.
    #[default]
    Sandbox,
    /// Elevated privileges; needs an entitlement.
    Insecure,
}

impl SecurityMode {
    /// As written in `--security`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Insecure => "insecure",
        }
    }
}

/// A device asked for by `RUN --device=name[,required]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// CDI device name.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The flag.
    pub span: Span,
}

/// `COPY`.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyInstruction {
    /// Sources in order.
    pub sources: Vec<CopySource>,
    /// Destination, expanded later.
    pub destination: Spanned<String>,
    /// `--from`: stage name, stage number, named context or image. Never expanded.
    pub from: Option<Spanned<String>>,
    /// `--chown`, expanded later.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, expanded later.
    pub chmod: Option<Spanned<String>>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns in order. Never expanded.
    pub exclude: Vec<Spanned<String>>,
}

/// `ADD`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddInstruction {
    /// Sources in order: context paths, URLs, git repositories, heredocs.
    pub sources: Vec<CopySource>,
    /// Destination, expanded later.
    pub destination: Spanned<String>,
    /// `--chown`, expanded later.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, expanded later.
    pub chmod: Option<Spanned<String>>,
    /// `--link`.
    pub link: bool,
    /// `--exclude` patterns in order. Never expanded.
    pub exclude: Vec<Spanned<String>>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`, expanded later.
    pub checksum: Option<Spanned<String>>,
    /// `--unpack`, if given: unset means local archives are unpacked and remote ones are not.
    pub unpack: Option<bool>,
}

/// One source of a `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq)]
pub enum CopySource {
    /// A path, pattern or URL, expanded later.
    Path(Spanned<String>),
    /// A file written in the Dockerfile.
    Heredoc(InlineFile),
}

impl CopySource {
    /// The word in the instruction.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Path(path) => path.span,
            Self::Heredoc(file) => file.span,
        }
    }
}

/// A file given as a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// The file's name: the heredoc's delimiter.
    pub name: String,
    /// Its content; leading tabs already removed for `<<-`.
    pub content: String,
    /// Whether variables in the content are expanded (no part of the delimiter was quoted).
    pub expand: bool,
    /// The heredoc word in the instruction.
    pub span: Span,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Key with its quotes, expanded later.
    pub key: Spanned<String>,
    /// Value with its quotes, expanded later.
    pub value: Spanned<String>,
    /// Written `key value`, without `=`.
    pub legacy: bool,
}

/// `ENV`. All values see the variables from before the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvInstruction {
    /// Pairs in order, never empty.
    pub pairs: Vec<KeyValue>,
}

/// `LABEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelInstruction {
    /// Pairs in order, never empty.
    pub pairs: Vec<KeyValue>,
}

/// `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgInstruction {
    /// Declarations in order, never empty.
    pub declarations: Vec<ArgDeclaration>,
}

/// One name of an `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// Name, expanded later.
    pub name: Spanned<String>,
    /// Default value with its quotes, expanded later.
    pub default: Option<Spanned<String>>,
    /// The description in the comments above that starts with the name.
    pub doc_comment: Option<String>,
}

/// `WORKDIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkdirInstruction {
    /// Path, expanded later.
    pub path: Spanned<String>,
}

/// `USER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserInstruction {
    /// `user[:group]`, expanded later.
    pub user: Spanned<String>,
}

/// `CMD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CmdInstruction {
    /// Shell text or exec array.
    pub command: CommandForm,
}

/// `ENTRYPOINT`. An empty array clears the entrypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrypointInstruction {
    /// Shell text or exec array.
    pub command: CommandForm,
}

/// `EXPOSE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposeInstruction {
    /// Words in byte order, as BuildKit keeps them; expanded and split into words later.
    pub ports: Vec<Spanned<String>>,
}

/// `VOLUME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInstruction {
    /// Paths in order, outer blanks removed, expanded later.
    pub volumes: Vec<Spanned<String>>,
}

/// `SHELL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellInstruction {
    /// The words, never empty.
    pub shell: Vec<Spanned<String>>,
}

/// `STOPSIGNAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopSignalInstruction {
    /// Name or number, expanded later; whether it is a signal is checked after that.
    pub signal: Spanned<String>,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthcheckInstruction {
    /// `NONE`: switches off what the base image says.
    None,
    /// `CMD`.
    Check(Healthcheck),
}

impl HealthcheckInstruction {
    /// The `Test` list of the image config.
    #[must_use]
    pub fn test(&self) -> Vec<String> {
        let Self::Check(check) = self else {
            return vec!["NONE".to_owned()];
        };
        let kind = if check.command.is_shell() {
            "CMD-SHELL"
        } else {
            "CMD"
        };
        let mut test = vec![kind.to_owned()];
        test.extend(check.command.words());
        test
    }
}

/// A health check command and its times. A zero time means: inherit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// What to run.
    pub command: CommandForm,
    /// `--interval`.
    pub interval: Duration,
    /// `--timeout`.
    pub timeout: Duration,
    /// `--start-period`.
    pub start_period: Duration,
    /// `--start-interval`.
    pub start_interval: Duration,
    /// `--retries`; zero means: inherit.
    pub retries: u32,
}

/// `ONBUILD`. The trigger is checked where it fires, with
/// [`parse_trigger`](crate::parse_trigger).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnBuildInstruction {
    /// The trigger's text as it goes into the image config, heredocs put back after it.
    pub trigger: Spanned<String>,
}

/// `MAINTAINER`, deprecated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintainerInstruction {
    /// The image's author.
    pub author: Spanned<String>,
}
