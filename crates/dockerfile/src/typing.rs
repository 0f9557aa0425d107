//! Nodes to typed instructions. Every fault of an instruction is pushed, in the order BuildKit
//! would look for it; an instruction with a fault gives nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::check::CheckOptions;
use crate::checks;
use crate::device::parse_device;
use crate::diagnostic::{Diagnostic, DiagnosticKind, Severity};
use crate::directive::{DirectiveName, read_comment};
use crate::duration::{non_negative, parse_nanoseconds};
use crate::flags::{self, FlagType, Flags};
use crate::heredoc::{parse_heredoc_word, strip_leading_tabs};
use crate::instruction::{
    AddInstruction, ArgDeclaration, ArgInstruction, CmdInstruction, CommandForm, CopyInstruction,
    CopySource, DeviceRequest, EntrypointInstruction, EnvInstruction, ExposeInstruction,
    Healthcheck, HealthcheckInstruction, InlineFile, Instruction, InstructionKind, KeyValue,
    LabelInstruction, MaintainerInstruction, NetworkMode, OnBuildInstruction, Origin,
    RunInstruction, SecurityMode, ShellInstruction, Stage, StopSignalInstruction, UserInstruction,
    VolumeInstruction, WorkdirInstruction,
};
use crate::mount::MountFlag;
use crate::number::{NumberError, parse_i32};
use crate::parse::parse_trigger;
use crate::quote::quote;
use crate::span::{Span, Spanned};
use crate::suggest;
use crate::syntax::{Node, trigger_text};

use FlagType::{Bool, Text, Texts};

/// Instructions in alphabetical order: of equally near suggestions the first one is given.
const INSTRUCTIONS: [&str; 18] = [
    "add",
    "arg",
    "cmd",
    "copy",
    "entrypoint",
    "env",
    "expose",
    "from",
    "healthcheck",
    "label",
    "maintainer",
    "onbuild",
    "run",
    "shell",
    "stopsignal",
    "user",
    "volume",
    "workdir",
];

const ADD_FLAGS: [(&str, FlagType); 7] = [
    ("checksum", Text),
    ("chmod", Text),
    ("chown", Text),
    ("exclude", Texts),
    ("keep-git-dir", Bool),
    ("link", Bool),
    ("unpack", Bool),
];

const COPY_FLAGS: [(&str, FlagType); 6] = [
    ("chmod", Text),
    ("chown", Text),
    ("exclude", Texts),
    ("from", Text),
    ("link", Bool),
    ("parents", Bool),
];

const HEALTHCHECK_FLAGS: [(&str, FlagType); 5] = [
    ("interval", Text),
    ("retries", Text),
    ("start-interval", Text),
    ("start-period", Text),
    ("timeout", Text),
];

const RUN_FLAGS: [(&str, FlagType); 4] = [
    ("device", Texts),
    ("mount", Texts),
    ("network", Text),
    ("security", Text),
];

/// Health check times below this are refused; zero is not given.
const HEALTHCHECK_TIME_MIN: Duration = Duration::from_millis(1);

/// What a node is.
pub(crate) enum Typed {
    Stage(Stage),
    Instruction(Instruction),
}

/// Types a node without faults in its words.
pub(crate) fn type_node(node: &Node, diagnostics: &mut Vec<Diagnostic>) -> Option<Typed> {
    let mut typer = Typer {
        node,
        found: Vec::new(),
    };
    let name = node.name();
    let typed = if name == "from" {
        typer.from().map(Typed::Stage)
    } else {
        typer.kind(&name).map(|kind| {
            Typed::Instruction(Instruction {
                origin: origin(node),
                kind,
            })
        })
    };
    let has_error = typer
        .found
        .iter()
        .any(|found| found.severity == Severity::Error);
    diagnostics.append(&mut typer.found);
    // A stage with a fault stays: the instructions after it belong to it, not to the one before.
    typed.filter(|typed| !has_error || matches!(typed, Typed::Stage(_)))
}

fn origin(node: &Node) -> Origin {
    Origin {
        keyword: node.keyword.clone(),
        span: node.span,
        lines: node.lines.clone(),
        original: node.original.trim().to_owned(),
        flags: node.flags.iter().map(flags::cut).collect(),
        checks: local_checks(&node.comments),
        comments: node.comments.clone(),
        json_fault: node.json_fault.clone(),
    }
}

/// The first `check=` among the comments above counts, up to its first blank.
fn local_checks(comments: &[String]) -> Option<CheckOptions> {
    let mut directives = comments.iter().filter_map(|comment| read_comment(comment));
    let check = directives.find(|directive| directive.name == DirectiveName::Check)?;
    CheckOptions::parse(check.value.split(' ').next()?).ok()
}

struct Typer<'a> {
    node: &'a Node,
    found: Vec<Diagnostic>,
}

impl<'a> Typer<'a> {
    fn error(
        &mut self,
        kind: DiagnosticKind,
        message: impl Into<String>,
        span: Span,
        help: impl Into<String>,
    ) {
        let error = Diagnostic::error(kind, message, span, self.node.lines.clone());
        self.found.push(error.with_help(help));
    }

    fn flags(&mut self, known: &[(&'static str, FlagType)]) -> Flags {
        flags::read(self.node, known, &mut self.found)
    }

    /// For the instructions whose flags BuildKit never looks at: it takes them and does nothing.
    fn ignored_flags(&mut self) {
        for flag in &self.node.flags {
            let message = format!("{} ignores the flag {}", self.keyword(), flag.value);
            let kind = DiagnosticKind::IgnoredFlag;
            let warning = Diagnostic::warning(kind, message, flag.span, self.node.lines.clone());
            self.found.push(warning.with_help("remove the flag"));
        }
    }

    fn keyword(&self) -> String {
        self.node.keyword.to_uppercase()
    }

    fn arguments(&self) -> &'a [Spanned<String>] {
        &self.node.arguments
    }

    fn kind(&mut self, name: &str) -> Option<InstructionKind> {
        Some(match name {
            "add" => InstructionKind::Add(self.add()?),
            "arg" => InstructionKind::Arg(self.arg()?),
            "cmd" => InstructionKind::Cmd(CmdInstruction {
                command: self.plain_command(),
            }),
            "copy" => InstructionKind::Copy(self.copy()?),
            "entrypoint" => InstructionKind::Entrypoint(EntrypointInstruction {
                command: self.plain_command(),
            }),
            "env" => InstructionKind::Env(EnvInstruction {
                pairs: self.pairs("name=value")?,
            }),
            "expose" => InstructionKind::Expose(self.expose()?),
            "healthcheck" => InstructionKind::Healthcheck(self.healthcheck()?),
            "label" => InstructionKind::Label(LabelInstruction {
                pairs: self.pairs("key=value")?,
            }),
            "maintainer" => {
                checks::maintainer_deprecated(self.node, &mut self.found);
                InstructionKind::Maintainer(MaintainerInstruction {
                    author: self.only_argument("name")?,
                })
            }
            "onbuild" => InstructionKind::OnBuild(self.on_build()?),
            "run" => InstructionKind::Run(self.run()),
            "shell" => InstructionKind::Shell(self.shell()?),
            "stopsignal" => InstructionKind::StopSignal(self.stop_signal()?),
            "user" => InstructionKind::User(UserInstruction {
                user: self.only_argument("user[:group]")?,
            }),
            "volume" => InstructionKind::Volume(self.volume()?),
            "workdir" => InstructionKind::Workdir(WorkdirInstruction {
                path: self.only_argument("/path")?,
            }),
            _ => return self.unknown(),
        })
    }

    fn unknown(&mut self) -> Option<InstructionKind> {
        let keyword = &self.node.keyword;
        let nearest = suggest::nearest_any_case(keyword, INSTRUCTIONS);
        let message = format!("unknown instruction: {}", keyword.value);
        let message = suggest::with_suggestion(message, nearest.as_deref());
        let help = match nearest {
            Some(name) => format!("write `{}`", name.to_uppercase()),
            None => "an instruction starts with its name; a line that continues another needs the escape character at the end of the line above".to_owned(),
        };
        self.error(
            DiagnosticKind::UnknownInstruction,
            message,
            keyword.span,
            help,
        );
        None
    }

    fn missing_argument(&mut self, help: &str) {
        let name = self.keyword();
        let message = format!("{name} requires at least one argument");
        let help = format!("write `{name} {help}`");
        self.error(
            DiagnosticKind::MissingArgument,
            message,
            self.node.header,
            help,
        );
    }

    /// The raw rest of the line of an instruction that takes nothing else.
    fn only_argument(&mut self, help: &str) -> Option<Spanned<String>> {
        let argument = self.exactly_one(help);
        self.flags(&[]);
        argument
    }

    fn exactly_one(&mut self, help: &str) -> Option<Spanned<String>> {
        if let [argument] = self.arguments() {
            return Some(argument.clone());
        }
        let name = self.keyword();
        let message = format!("{name} requires exactly one argument");
        let help = format!("write `{name} {help}`");
        self.error(
            DiagnosticKind::ArgumentCount,
            message,
            self.node.header,
            help,
        );
        None
    }

    /// The command of an instruction: the array, or the rest of the line.
    fn command(&self, arguments: &[Spanned<String>]) -> CommandForm {
        if self.node.is_json {
            return CommandForm::Exec(arguments.to_vec());
        }
        let end = Span::new(self.node.header.end, self.node.header.end);
        let text = arguments.first().cloned();
        CommandForm::Shell(text.unwrap_or_else(|| Spanned::new(String::new(), end)))
    }

    /// `CMD` and `ENTRYPOINT`.
    fn plain_command(&mut self) -> CommandForm {
        self.flags(&[]);
        self.command(self.arguments())
    }

    fn run(&mut self) -> RunInstruction {
        let flags = self.flags(&RUN_FLAGS);
        RunInstruction {
            devices: self.devices(&flags),
            mounts: self.mounts(&flags),
            network: self.network(&flags),
            security: self.security(&flags),
            command: self.command(self.arguments()),
            heredocs: self.node.heredocs.clone(),
        }
    }

    fn mounts(&mut self, flags: &Flags) -> Vec<MountFlag> {
        let mut mounts = Vec::new();
        for flag in flags.texts("mount") {
            match MountFlag::parse(&flag, flag.span) {
                Ok(mount) => mounts.push(mount),
                Err(error) => {
                    let help = "write `--mount=type=<type>,target=<path>,…`";
                    self.error(
                        DiagnosticKind::InvalidMount,
                        error.to_string(),
                        flag.span,
                        help,
                    );
                }
            }
        }
        mounts
    }

    fn devices(&mut self, flags: &Flags) -> Vec<DeviceRequest> {
        let mut devices = Vec::new();
        for flag in flags.texts("device") {
            match parse_device(&flag, flag.span) {
                Ok(device) => devices.push(device),
                Err(error) => {
                    let help = "write `--device=<name>[,required]`";
                    self.error(
                        DiagnosticKind::InvalidDevice,
                        error.to_string(),
                        flag.span,
                        help,
                    );
                }
            }
        }
        devices
    }

    fn network(&mut self, flags: &Flags) -> NetworkMode {
        let modes = [NetworkMode::Default, NetworkMode::None, NetworkMode::Host];
        let Some(flag) = flags.text("network") else {
            return NetworkMode::default();
        };
        let mode = modes.into_iter().find(|mode| mode.as_str() == flag.value);
        mode.unwrap_or_else(|| {
            let message = format!("invalid network mode {}", quote(&flag));
            let help = "write `default`, `none` or `host`";
            self.error(DiagnosticKind::InvalidNetwork, message, flag.span, help);
            NetworkMode::default()
        })
    }

    fn security(&mut self, flags: &Flags) -> SecurityMode {
        let modes = [SecurityMode::Sandbox, SecurityMode::Insecure];
        let Some(flag) = flags.text("security") else {
            return SecurityMode::default();
        };
        let mode = modes.into_iter().find(|mode| mode.as_str() == flag.value);
        mode.unwrap_or_else(|| {
            let message = format!("security {} is not valid", quote(&flag));
            let help = "write `sandbox` or `insecure`";
            self.error(DiagnosticKind::InvalidSecurity, message, flag.span, help);
            SecurityMode::default()
        })
    }

    fn add(&mut self) -> Option<AddInstruction> {
        let has_destination = self.expect_destination();
        let flags = self.flags(&ADD_FLAGS);
        let (sources, destination) = self.sources_and_destination(has_destination)?;
        Some(AddInstruction {
            sources,
            destination,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.switch("link").unwrap_or(false),
            exclude: flags.texts("exclude"),
            keep_git_dir: flags.switch("keep-git-dir"),
            checksum: flags.text("checksum"),
            unpack: flags.switch("unpack"),
        })
    }

    fn copy(&mut self) -> Option<CopyInstruction> {
        let has_destination = self.expect_destination();
        let flags = self.flags(&COPY_FLAGS);
        let (sources, destination) = self.sources_and_destination(has_destination)?;
        Some(CopyInstruction {
            sources,
            destination,
            from: flags.text("from"),
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.switch("link").unwrap_or(false),
            parents: flags.switch("parents").unwrap_or(false),
            exclude: flags.texts("exclude"),
        })
    }

    fn expect_destination(&mut self) -> bool {
        if self.arguments().len() >= 2 {
            return true;
        }
        let name = self.keyword();
        let message = format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        let help = format!("write `{name} <source> <destination>`");
        self.error(
            DiagnosticKind::MissingDestination,
            message,
            self.node.header,
            help,
        );
        false
    }

    fn sources_and_destination(
        &mut self,
        has_destination: bool,
    ) -> Option<(Vec<CopySource>, Spanned<String>)> {
        let (destination, sources) = self.arguments().split_last().filter(|_| has_destination)?;
        if parse_heredoc_word(destination).is_some() {
            let message = format!(
                "{} cannot accept a heredoc as a destination",
                self.keyword()
            );
            let help = "the last word is the destination; put the heredoc before it";
            self.error(
                DiagnosticKind::HeredocDestination,
                message,
                destination.span,
                help,
            );
            return None;
        }
        let lines = self.node.heredocs.iter();
        // Of several with one name the last one's content counts.
        let lines = lines
            .map(|lines| (lines.name.as_str(), lines.content.as_str()))
            .collect();
        let sources = sources
            .iter()
            .map(|source| copy_source(source, &lines))
            .collect();
        Some((sources, destination.clone()))
    }

    /// `ENV` and `LABEL`.
    fn pairs(&mut self, help: &str) -> Option<Vec<KeyValue>> {
        self.flags(&[]);
        if self.arguments().is_empty() {
            self.missing_argument(help);
            return None;
        }
        let mut pairs = Vec::new();
        for triple in self.arguments().chunks(3) {
            let [key, value, delimiter] = triple else {
                continue;
            };
            if key.is_empty() {
                self.blank_name(value.span);
                continue;
            }
            let legacy = delimiter.is_empty();
            pairs.push(KeyValue {
                key: key.clone(),
                value: value.clone(),
                legacy,
            });
        }
        Some(pairs)
    }

    fn blank_name(&mut self, span: Span) {
        let message = format!("{} names can not be blank", self.keyword());
        let help = "write a name before the `=`; no blanks may stand around it";
        self.error(DiagnosticKind::BlankName, message, span, help);
    }

    fn arg(&mut self) -> Option<ArgInstruction> {
        self.ignored_flags();
        if self.arguments().is_empty() {
            self.missing_argument("name[=default]");
            return None;
        }
        let docs = doc_comments(&self.node.comments);
        let words = self.arguments().iter();
        let declarations: Vec<_> = words
            .filter_map(|word| self.declaration(word, &docs))
            .collect();
        let names: Vec<_> = declarations
            .iter()
            .map(|declared| declared.name.as_str())
            .collect();
        checks::definition_description(self.node, "ARG", &names, &mut self.found);
        Some(ArgInstruction { declarations })
    }

    fn declaration(
        &mut self,
        word: &Spanned<String>,
        docs: &BTreeMap<&str, &str>,
    ) -> Option<ArgDeclaration> {
        let (name, default) = match word.value.split_once('=') {
            Some(("", _)) => {
                self.blank_name(word.span);
                return None;
            }
            Some((name, default)) => (name, Some(default)),
            None => (word.value.as_str(), None),
        };
        let name_end = (word.span.start + name.len()).min(word.span.end);
        let value_start = (name_end + 1).min(word.span.end);
        let doc_comment = docs.get(name).map(|doc| (*doc).to_owned());
        Some(ArgDeclaration {
            name: Spanned::new(name.to_owned(), Span::new(word.span.start, name_end)),
            default: default
                .map(|text| Spanned::new(text.to_owned(), Span::new(value_start, word.span.end))),
            doc_comment,
        })
    }

    fn from(&mut self) -> Option<Stage> {
        checks::from_casing(self.node, &mut self.found);
        let name = self.stage_name();
        let flags = self.flags(&[("platform", Text)]);
        let lower = name
            .as_ref()
            .map(|name| Spanned::new(name.to_lowercase(), name.span));
        if let Some(lower) = &lower {
            checks::definition_description(self.node, "FROM", &[lower], &mut self.found);
        }
        let end = Span::new(self.node.header.end, self.node.header.end);
        let docs = doc_comments(&self.node.comments);
        let doc_comment = lower.as_ref().and_then(|name| docs.get(name.as_str()));
        let base_name = self.arguments().first().cloned();
        Some(Stage {
            origin: origin(self.node),
            doc_comment: doc_comment.map(|doc| (*doc).to_owned()),
            name: lower,
            name_as_written: name.map(|name| name.value),
            base_name: base_name.unwrap_or_else(|| Spanned::new(String::new(), end)),
            platform: flags.text("platform"),
            instructions: Vec::new(),
        })
    }

    fn stage_name(&mut self) -> Option<Spanned<String>> {
        match self.arguments() {
            [_] => None,
            [_, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
                if is_stage_name(&name.to_lowercase()) {
                    return Some(name.clone());
                }
                let message = format!(
                    "invalid name for build stage: {}, name can't start with a number or contain symbols",
                    quote(name)
                );
                let help = "start with a letter; then letters, digits, `-`, `_` and `.` may follow; variables are not expanded here";
                self.error(DiagnosticKind::InvalidStageName, message, name.span, help);
                None
            }
            arguments => {
                let span = match arguments {
                    [_, first, .., last] => first.span.to(last.span),
                    [_, only] => only.span,
                    _ => self.node.header,
                };
                let message = "FROM requires either one or three arguments";
                let help = "write `FROM <image>` or `FROM <image> AS <name>`; comments need a line of their own";
                self.error(DiagnosticKind::FromArguments, message, span, help);
                None
            }
        }
    }

    fn on_build(&mut self) -> Option<OnBuildInstruction> {
        let Some(trigger) = self.arguments().first() else {
            self.missing_argument("<instruction>");
            return None;
        };
        self.flags(&[]);
        let name = trigger.trim().to_uppercase();
        let help = "any other instruction may be a trigger";
        match name.as_str() {
            "ONBUILD" => {
                let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                self.error(DiagnosticKind::OnBuildChain, message, trigger.span, help);
            }
            "MAINTAINER" | "FROM" => {
                let message = format!("{name} isn't allowed as an ONBUILD trigger");
                self.error(
                    DiagnosticKind::OnBuildForbidden,
                    message,
                    trigger.span,
                    help,
                );
            }
            _ => self.check_trigger(),
        }
        Some(OnBuildInstruction {
            trigger: self.trigger(),
        })
    }

    /// BuildKit looks at a trigger only where it fires, in somebody else's build.
    fn check_trigger(&mut self) {
        let trigger = self.trigger();
        let Err(error) = parse_trigger(&trigger) else {
            return;
        };
        let span = self
            .node
            .trigger
            .as_ref()
            .map_or(trigger.span, |node| node.header);
        let message =
            format!("this trigger will fail in every build that is based on this one: {error}");
        let kind = DiagnosticKind::OnBuildFault;
        self.found.push(Diagnostic::warning(
            kind,
            message,
            span,
            self.node.lines.clone(),
        ));
    }

    /// The trigger as it goes into the image: heredocs follow on lines of their own.
    fn trigger(&self) -> Spanned<String> {
        let mut text = trigger_text(&self.node.original).to_owned();
        for heredoc in &self.node.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        let span = self
            .node
            .trigger
            .as_ref()
            .map_or(self.node.span, |trigger| trigger.header);
        Spanned::new(
            text,
            span.to(Span::new(self.node.span.end, self.node.span.end)),
        )
    }

    fn expose(&mut self) -> Option<ExposeInstruction> {
        if self.arguments().is_empty() {
            self.missing_argument("<port>[/<protocol>]");
            return None;
        }
        self.flags(&[]);
        let mut ports = self.arguments().to_vec();
        ports.sort_by(|a, b| a.value.cmp(&b.value));
        Some(ExposeInstruction { ports })
    }

    fn volume(&mut self) -> Option<VolumeInstruction> {
        if self.arguments().is_empty() {
            self.missing_argument("/path");
            return None;
        }
        self.flags(&[]);
        let mut volumes = Vec::new();
        for word in self.arguments() {
            let path = word.trim();
            if path.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                self.error(
                    DiagnosticKind::EmptyVolume,
                    message,
                    word.span,
                    "write a path",
                );
            }
            volumes.push(Spanned::new(path.to_owned(), word.span));
        }
        Some(VolumeInstruction { volumes })
    }

    fn stop_signal(&mut self) -> Option<StopSignalInstruction> {
        let signal = self.exactly_one("SIGTERM");
        self.ignored_flags();
        Some(StopSignalInstruction { signal: signal? })
    }

    fn shell(&mut self) -> Option<ShellInstruction> {
        self.flags(&[]);
        if self.arguments().is_empty() {
            self.missing_argument("[\"/bin/sh\", \"-c\"]");
            return None;
        }
        if !self.node.is_json {
            let message = "SHELL requires the arguments to be in JSON form";
            let help = "write `SHELL [\"/bin/sh\", \"-c\"]`";
            self.error(
                DiagnosticKind::ShellNotJson,
                message,
                self.node.header,
                help,
            );
            self.label_json_fault();
            return None;
        }
        Some(ShellInstruction {
            shell: self.arguments().to_vec(),
        })
    }

    fn label_json_fault(&mut self) {
        let Some(fault) = &self.node.json_fault else {
            return;
        };
        if let Some(error) = self.found.pop() {
            self.found.push(error.with_label(fault.span, fault.reason));
        }
    }

    fn healthcheck(&mut self) -> Option<HealthcheckInstruction> {
        let Some((kind, arguments)) = self.arguments().split_first() else {
            self.missing_argument("CMD <command>");
            return None;
        };
        let name = kind.to_uppercase();
        if name == "NONE" {
            self.ignored_flags();
            if let Some(argument) = arguments.first() {
                let message = "HEALTHCHECK NONE takes no arguments";
                let kind = DiagnosticKind::HealthcheckNoneArguments;
                self.error(kind, message, argument.span, "write `HEALTHCHECK NONE`");
            }
            return Some(HealthcheckInstruction::None);
        }
        let flags = self.flags(&HEALTHCHECK_FLAGS);
        self.check_health_command(&name, kind.span, arguments);
        Some(HealthcheckInstruction::Check(Healthcheck {
            command: self.command(arguments),
            interval: self.health_time(&flags, "interval"),
            timeout: self.health_time(&flags, "timeout"),
            start_period: self.health_time(&flags, "start-period"),
            start_interval: self.health_time(&flags, "start-interval"),
            retries: self.retries(&flags),
        }))
    }

    fn check_health_command(&mut self, name: &str, span: Span, arguments: &[Spanned<String>]) {
        if name != "CMD" {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(name));
            let help = "write `HEALTHCHECK CMD <command>` or `HEALTHCHECK NONE`";
            self.error(DiagnosticKind::HealthcheckType, message, span, help);
        } else if arguments.is_empty() {
            let message = "Missing command after HEALTHCHECK CMD";
            let help = "write `HEALTHCHECK CMD <command>`";
            self.error(DiagnosticKind::HealthcheckNoCommand, message, span, help);
        }
    }

    /// A time of a health check; zero if it was not given.
    fn health_time(&mut self, flags: &Flags, name: &str) -> Duration {
        let Some(flag) = flags.text(name).filter(|flag| !flag.is_empty()) else {
            return Duration::ZERO;
        };
        let help = "write a number and a unit: `500ms`, `30s`, `1m30s`";
        match parse_nanoseconds(&flag) {
            Ok(0) => return Duration::ZERO,
            Ok(nanoseconds) => match non_negative(nanoseconds) {
                Some(time) if time >= HEALTHCHECK_TIME_MIN => return time,
                _ => {
                    let message = format!("Interval {} cannot be less than 1ms", quote(name));
                    self.error(DiagnosticKind::DurationTooShort, message, flag.span, help);
                }
            },
            Err(error) => {
                self.error(
                    DiagnosticKind::InvalidDuration,
                    error.to_string(),
                    flag.span,
                    help,
                );
            }
        }
        Duration::ZERO
    }

    fn retries(&mut self, flags: &Flags) -> u32 {
        let Some(flag) = flags.text("retries").filter(|flag| !flag.is_empty()) else {
            return 0;
        };
        let message = match parse_i32(&flag) {
            Ok(retries) => match u32::try_from(retries) {
                Ok(retries) => return retries,
                Err(_) => format!("--retries cannot be negative ({retries})"),
            },
            Err(error) => parse_int_message(&flag, error),
        };
        self.error(
            DiagnosticKind::InvalidRetries,
            message,
            flag.span,
            "write a number from 0 on",
        );
        0
    }
}

/// A word that reads like a heredoc is one, even if no lines were collected for it: then the file
/// is empty. `lines` holds the content of the line's heredocs by name.
fn copy_source(word: &Spanned<String>, lines: &BTreeMap<&str, &str>) -> CopySource {
    let Some(heredoc) = parse_heredoc_word(word) else {
        return CopySource::Path(word.clone());
    };
    let content = lines
        .get(heredoc.name.as_str())
        .copied()
        .unwrap_or_default();
    let content = if heredoc.strip_tabs {
        strip_leading_tabs(content)
    } else {
        content.to_owned()
    };
    CopySource::Heredoc(InlineFile {
        name: heredoc.name,
        content,
        expand: heredoc.expand,
        span: word.span,
    })
}

fn parse_int_message(text: &str, error: NumberError) -> String {
    format!(
        "strconv.ParseInt: parsing {}: {}",
        quote(text),
        error.reason()
    )
}

/// The rest of the first comment that starts with a word and one blank, by that word.
fn doc_comments(comments: &[String]) -> BTreeMap<&str, &str> {
    let words = comments
        .iter()
        .rev()
        .filter_map(|comment| comment.split_once(' '));
    words.collect()
}

/// `^[a-z][a-z0-9-_.]*$`.
fn is_stage_name(name: &str) -> bool {
    let rest = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    name.starts_with(|ch: char| ch.is_ascii_lowercase()) && name.bytes().all(rest)
}
