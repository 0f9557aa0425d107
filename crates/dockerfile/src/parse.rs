//! The whole way from text to [`Parsed`]: nodes, instructions, stages, diagnostics.
//!
//! It never gives up: a fault costs the instruction it is in, and reading goes on with the next.

use std::borrow::Cow;

use crate::check::CheckOptions;
use crate::checks;
use crate::diagnostic::{Diagnostic, DiagnosticKind, Phase, Severity};
use crate::directive::{Directive, DirectiveName, Escape, detect_directive};
use crate::instruction::{Dockerfile, GlobalArg, Instruction, InstructionKind, Stage};
use crate::lines::{Lines, Token};
use crate::mount::MountFlag;
use crate::span::{LineIndex, Span};
use crate::syntax::{Node, next_node};
use crate::typing::{Typed, type_node};

/// Larger texts are not looked at. BuildKit's own limit is that of a message between its parts,
/// 16 MiB.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// What a text says and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The text all spans point into: the one given, with what is not UTF-8 replaced.
    pub text: String,
    /// Pieces that tile the text.
    pub tokens: Vec<Token>,
    /// Every instruction as cut into words, those with faults too.
    pub nodes: Vec<Node>,
    /// The instructions without faults, in their stages.
    pub dockerfile: Dockerfile,
    /// Errors and warnings by line. Findings of build checks are all here, wanted or not: a
    /// [`CheckFilter`](crate::check::CheckFilter) drops those that are not.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether the Dockerfile cannot be built.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    /// The errors by line.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The one error BuildKit would stop at. It reads the whole file into words before it looks at
    /// any instruction, so this need not be the first by line.
    #[must_use]
    pub fn first_error(&self) -> Option<&Diagnostic> {
        self.errors().min_by_key(|error| error.kind.phase())
    }

    /// Line starts of the text.
    #[must_use]
    pub fn line_index(&self) -> LineIndex {
        LineIndex::new(&self.text)
    }
}

/// Parses a Dockerfile.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    if text.len() > TEXT_BYTES_MAX {
        return too_large(text.len());
    }
    parse_text(Cow::Borrowed(text), None)
}

/// Parses a Dockerfile of any bytes. What is not UTF-8 is replaced by U+FFFD; inside an instruction
/// that is an error.
#[must_use]
pub fn parse_bytes(bytes: &[u8]) -> Parsed {
    if bytes.len() > TEXT_BYTES_MAX {
        return too_large(bytes.len());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse_text(Cow::Borrowed(text), None),
        Err(error) => parse_text(String::from_utf8_lossy(bytes), Some(error.valid_up_to())),
    }
}

fn too_large(bytes: usize) -> Parsed {
    let mut parsed = parse_text(Cow::Borrowed(""), None);
    let message = format!("Dockerfile of {bytes} bytes is larger than {TEXT_BYTES_MAX} bytes");
    let error = Diagnostic::error(
        DiagnosticKind::FileTooLarge,
        message,
        Span::default(),
        1..=1,
    );
    parsed.diagnostics = vec![error];
    parsed
}

fn parse_text(text: Cow<'_, str>, invalid_at: Option<usize>) -> Parsed {
    let mut builder = Builder::default();
    let mut lines = Lines::new(&text);
    let mut nodes = Vec::new();
    while let Some(node) = next_node(&mut lines, &mut builder.diagnostics) {
        builder.node(&node);
        nodes.push(node);
    }
    let line_count = lines.line_number();
    let Lines {
        directives,
        escape,
        tokens,
        ..
    } = lines;
    builder.checks = builder.check_options(&text, &directives);
    builder.report_missing(&nodes, line_count, &text);
    if let Some(at) = invalid_at {
        builder.report_invalid_utf8(&text, at, &nodes);
    }
    let (dockerfile, diagnostics) = builder.finish(directives, escape);
    Parsed {
        text: text.into_owned(),
        tokens,
        nodes,
        dockerfile,
        diagnostics,
    }
}

/// Collects stages and diagnostics.
#[derive(Default)]
struct Builder {
    global_args: Vec<GlobalArg>,
    stages: Vec<Stage>,
    checks: CheckOptions,
    diagnostics: Vec<Diagnostic>,
    /// An instruction stood before the first `FROM`; told once.
    has_orphan: bool,
}

impl Builder {
    fn node(&mut self, node: &Node) {
        checks::empty_continuation(node, &mut self.diagnostics);
        if node.is_broken {
            return;
        }
        match type_node(node, &mut self.diagnostics) {
            Some(Typed::Stage(stage)) => self.stages.push(stage),
            Some(Typed::Instruction(instruction)) => self.instruction(instruction),
            None => {}
        }
    }

    fn instruction(&mut self, instruction: Instruction) {
        if let Some(stage) = self.stages.last_mut() {
            stage.instructions.push(instruction);
            return;
        }
        match instruction {
            Instruction {
                origin,
                kind: InstructionKind::Arg(arg),
            } => {
                self.global_args.push(GlobalArg { origin, arg });
            }
            Instruction { origin, kind } => {
                if !self.has_orphan {
                    let message = "no build stage in current context";
                    let span = origin.keyword.span;
                    let help = format!(
                        "start with a FROM instruction; only ARG may stand before it, not {}",
                        kind.name()
                    );
                    let error =
                        Diagnostic::error(DiagnosticKind::NoStage, message, span, origin.lines);
                    self.diagnostics.push(error.with_help(help));
                }
                self.has_orphan = true;
            }
        }
    }

    /// The options of `# check=`. It is found by the looser rules: a `#!` line may stand above.
    fn check_options(&mut self, text: &str, directives: &[Directive]) -> CheckOptions {
        let Some(found) = detect_directive(text, DirectiveName::Check) else {
            return CheckOptions::default();
        };
        let directive = directives
            .iter()
            .find(|directive| directive.name == DirectiveName::Check);
        let span = directive.map_or_else(
            || LineIndex::new(text).line_span(text, found.line),
            |directive| directive.value.span,
        );
        let lines = found.line..=found.line;
        match CheckOptions::parse(&found.image) {
            Ok(options) => {
                checks::unknown_rules(&options, span, &lines, &mut self.diagnostics);
                options
            }
            Err(error) => {
                let message = format!("failed to parse check options: {error}");
                let kind = DiagnosticKind::InvalidCheckOptions;
                let help = "write `# check=skip=RuleA,RuleB;error=true`";
                self.diagnostics
                    .push(Diagnostic::error(kind, message, span, lines).with_help(help));
                CheckOptions::default()
            }
        }
    }

    fn report_missing(&mut self, nodes: &[Node], line_count: u32, text: &str) {
        let end = text.trim_end().len();
        let span = Span::new(end, end);
        let lines = line_count.max(1)..=line_count.max(1);
        if nodes.is_empty() {
            let message = "file with no instructions";
            let error = Diagnostic::error(DiagnosticKind::NoInstructions, message, span, lines);
            self.diagnostics
                .push(error.with_help("start with a FROM instruction"));
            return;
        }
        let only_args = nodes.iter().all(|node| node.name() == "arg");
        if only_args {
            let message = "dockerfile contains no stages to build";
            let error = Diagnostic::error(DiagnosticKind::NoStages, message, span, lines);
            self.diagnostics
                .push(error.with_help("add a FROM instruction"));
        }
    }

    /// BuildKit passes such bytes on to messages that cannot hold them; a comment may have them.
    fn report_invalid_utf8(&mut self, text: &str, at: usize, nodes: &[Node]) {
        let index = LineIndex::new(text);
        let replaced = text[at..]
            .match_indices(char::REPLACEMENT_CHARACTER)
            .map(|(offset, found)| Span::new(at + offset, at + offset + found.len()));
        let inside = |span: &Span| {
            let after = nodes.partition_point(|node| node.span.end <= span.start);
            nodes
                .get(after)
                .is_some_and(|node| node.span.start <= span.start)
        };
        let Some(span) = replaced.into_iter().find(inside) else {
            return;
        };
        let line = index.line(span.start);
        let message = "text is not valid UTF-8";
        let error = Diagnostic::error(DiagnosticKind::InvalidUtf8, message, span, line..=line);
        self.diagnostics
            .push(error.with_help("save the file as UTF-8"));
    }

    fn finish(
        mut self,
        directives: Vec<Directive>,
        escape: Escape,
    ) -> (Dockerfile, Vec<Diagnostic>) {
        let dockerfile = Dockerfile {
            directives,
            escape,
            checks: self.checks,
            global_args: self.global_args,
            stages: self.stages,
        };
        let is_error = |found: &Diagnostic| found.severity == Severity::Error;
        if self.diagnostics.iter().any(is_error) {
            let instructions = dockerfile
                .stages
                .iter()
                .flat_map(|stage| &stage.instructions);
            self.diagnostics.extend(instructions.flat_map(mount_faults));
        }
        checks::stage_names(&dockerfile.stages, &mut self.diagnostics);
        checks::instruction_casing(&dockerfile.stages, &mut self.diagnostics);
        self.diagnostics
            .sort_by_key(|diagnostic| *diagnostic.lines.start());
        (dockerfile, self.diagnostics)
    }
}

/// What a build would find in an instruction's mounts, did it come so far.
fn mount_faults(instruction: &Instruction) -> Vec<Diagnostic> {
    let InstructionKind::Run(run) = &instruction.kind else {
        return Vec::new();
    };
    let fault = |mount: &MountFlag| {
        let (message, lines) = (mount.fault()?.to_string(), instruction.origin.lines.clone());
        Some(Diagnostic::error(
            DiagnosticKind::MountField,
            message,
            mount.span,
            lines,
        ))
    };
    run.mounts.iter().filter_map(fault).collect()
}

/// Why an `ONBUILD` trigger cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// It is not one instruction.
    #[error("onbuild trigger should be a single expression")]
    NotSingle,
    /// It has a fault.
    #[error("{}", .0.buildkit_trigger_text())]
    Fault(Box<Diagnostic>),
    /// It is a `FROM`.
    #[error("{keyword} isn't allowed as an ONBUILD trigger")]
    NotAllowed {
        /// The instruction.
        keyword: String,
    },
}

impl Diagnostic {
    /// Faults of a trigger are told without the line, which would be one of the trigger.
    fn buildkit_trigger_text(&self) -> &str {
        &self.message
    }
}

/// Parses a trigger as it stands in an image's config or in
/// [`OnBuildInstruction::trigger`](crate::instruction::OnBuildInstruction). Spans and lines are
/// those of the trigger's text. The escape character is always `\`.
///
/// # Errors
/// What [`TriggerError`] says.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, TriggerError> {
    let fault = |diagnostics: Vec<Diagnostic>| {
        let errors = diagnostics
            .into_iter()
            .filter(|found| found.severity == Severity::Error);
        errors.min_by_key(|found| found.kind.phase()).map(Box::new)
    };
    let mut diagnostics = Vec::new();
    let mut lines = Lines::new(trigger);
    let first = next_node(&mut lines, &mut diagnostics);
    let second = next_node(&mut lines, &mut diagnostics);
    if let Some(error) = fault(std::mem::take(&mut diagnostics)) {
        return Err(TriggerError::Fault(error));
    }
    let (Some(node), None) = (first, second) else {
        return Err(TriggerError::NotSingle);
    };
    match type_node(&node, &mut diagnostics) {
        Some(Typed::Instruction(instruction)) => Ok(instruction),
        Some(Typed::Stage(_)) => Err(TriggerError::NotAllowed {
            keyword: node.keyword.to_uppercase(),
        }),
        None => Err(fault(diagnostics).map_or(TriggerError::NotSingle, TriggerError::Fault)),
    }
}

/// Keeps the phase order next to what relies on it.
const _: () = assert!(
    (Phase::Directives as u8) < Phase::Syntax as u8 && (Phase::Syntax as u8) < Phase::Typing as u8
);
