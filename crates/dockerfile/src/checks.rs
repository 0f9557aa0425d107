//! Findings of the build checks: one function for each rule makes its diagnostic, in BuildKit's
//! words.
//!
//! The parser reports those that need the text alone. [`StageChecks`] finds those that need no more
//! than one stage's instructions in the order they run; whoever builds a stage calls it, because
//! BuildKit reports them for stages that are built. The others ([`undefined_var`] …) are found where
//! variables, platforms and contexts are known, and only made here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::check::{CheckOptions, Rule};
use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::instruction::{Instruction, InstructionKind, KeyValue, Origin, Stage};
use crate::quote::quote;
use crate::span::Span;
use crate::suggest::with_suggestion;
use crate::syntax::Node;

/// Stage names that mean something else.
const RESERVED_STAGE_NAMES: [&str; 2] = ["context", "scratch"];

fn finding(rule: Rule, message: String, origin: &Origin) -> Diagnostic {
    Diagnostic::finding(rule, message, origin.keyword.span, origin.lines.clone())
}

/// An empty line inside an instruction. Its line is the last one before any heredoc.
pub(crate) fn empty_continuation(node: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let Some((span, last)) = node.empty_continuation else {
        return;
    };
    let message = "Empty continuation line";
    let found = Diagnostic::finding(Rule::NoEmptyContinuation, message, span, last..=last);
    diagnostics.push(found.with_help("remove the empty line, or put a `#` on it"));
}

/// Names in check options that are no rule: BuildKit says nothing, and skips nothing.
pub(crate) fn unknown_rules(
    options: &CheckOptions,
    span: Span,
    lines: &RangeInclusive<u32>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (name, nearest) in options.unknown_names() {
        let message = with_suggestion(format!("there is no build check `{name}`"), nearest);
        let found = Diagnostic::warning(DiagnosticKind::UnknownRule, message, span, lines.clone());
        let example = nearest.unwrap_or("UndefinedVar");
        diagnostics.push(found.with_help(format!(
            "write the name of a build check, such as `{example}`"
        )));
    }
}

/// `MAINTAINER`.
pub(crate) fn maintainer_deprecated(node: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let message = "Maintainer instruction is deprecated in favor of using label";
    let (span, lines) = (node.keyword.span, node.lines.clone());
    let found = Diagnostic::finding(Rule::MaintainerDeprecated, message, span, lines);
    diagnostics.push(found.with_help("write `LABEL org.opencontainers.image.authors=\"…\"`"));
}

/// Upper case in a stage name, and `as` in another case than `from`.
pub(crate) fn from_casing(node: &Node, diagnostics: &mut Vec<Diagnostic>) {
    if let [_, _, name] = node.arguments.as_slice()
        && name.value != name.to_lowercase()
    {
        let message = format!("Stage name '{}' should be lowercase", name.value);
        let found = Diagnostic::finding(
            Rule::StageNameCasing,
            message,
            name.span,
            node.lines.clone(),
        );
        diagnostics.push(found.with_help(format!("write `{}`", name.to_lowercase())));
    }
    if let [_, keyword, _, ..] = node.arguments.as_slice()
        && let Some(expected) = case_like(&node.keyword, keyword)
        && keyword.value != expected
    {
        let message = format!(
            "'{}' and '{}' keywords' casing do not match",
            keyword.value, node.keyword.value
        );
        let found = Diagnostic::finding(
            Rule::FromAsCasing,
            message,
            keyword.span,
            node.lines.clone(),
        );
        diagnostics.push(found.with_help(format!("write `{expected}`")));
    }
}

/// `word` in the case of `model`, if that is uniform.
fn case_like(model: &str, word: &str) -> Option<String> {
    if model == model.to_lowercase() {
        Some(word.to_lowercase())
    } else if model == model.to_uppercase() {
        Some(word.to_uppercase())
    } else {
        None
    }
}

/// A comment right above that is no description of any of `names`.
pub(crate) fn definition_description(
    node: &Node,
    instruction: &str,
    names: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let (Some(comment), Some(first)) = (node.comments.last(), names.first()) else {
        return;
    };
    let word = comment.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { first };
    let message =
        format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    let rule = Rule::InvalidDefinitionDescription;
    diagnostics.push(Diagnostic::finding(
        rule,
        message,
        node.keyword.span,
        node.lines.clone(),
    ));
}

/// Reserved names and names given twice.
pub(crate) fn stage_names(stages: &[Stage], diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for stage in stages {
        let Some(name) = &stage.name else { continue };
        let at = |rule, message| {
            Diagnostic::finding(rule, message, name.span, stage.origin.lines.clone())
        };
        if RESERVED_STAGE_NAMES.contains(&name.as_str()) {
            let message = format!(
                "Stage name should not use the same name as reserved stage {}",
                quote(name)
            );
            diagnostics.push(at(Rule::ReservedStageName, message).with_help("choose another name"));
        }
        if let Some(first) = seen.insert(name, name.span) {
            let message = format!(
                "Duplicate stage name {}, stage names should be unique",
                quote(name)
            );
            diagnostics.push(
                at(Rule::DuplicateStageName, message)
                    .with_label(first, "first used here")
                    .with_help("choose another name"),
            );
        }
    }
}

/// Instruction names that differ in case from most others.
pub(crate) fn instruction_casing(stages: &[Stage], diagnostics: &mut Vec<Diagnostic>) {
    let origins = || {
        stages.iter().flat_map(|stage| {
            let rest = stage
                .instructions
                .iter()
                .map(|instruction| &instruction.origin);
            std::iter::once(&stage.origin).chain(rest)
        })
    };
    let (mut lower, mut upper) = (0_usize, 0_usize);
    for origin in origins() {
        let keyword = &origin.keyword.value;
        if *keyword == keyword.to_lowercase() {
            lower += 1;
        } else if *keyword == keyword.to_uppercase() {
            upper += 1;
        }
    }
    for origin in origins() {
        let keyword = &origin.keyword.value;
        let (expected, casing) = if lower > upper {
            (keyword.to_lowercase(), "lowercase")
        } else {
            (keyword.to_uppercase(), "uppercase")
        };
        if *keyword != expected {
            let message = format!(
                "Command '{keyword}' should match the case of the command majority ({casing})"
            );
            let found = finding(Rule::ConsistentInstructionCasing, message, origin);
            diagnostics.push(found.with_help(format!("write `{expected}`")));
        }
    }
}

/// Findings within one stage. Make one for each stage and show it the instructions in the order
/// they run, those of `ONBUILD` triggers first.
#[derive(Clone, Debug)]
pub struct StageChecks {
    shell_is_set: bool,
    last_seen: BTreeMap<&'static str, Origin>,
}

impl StageChecks {
    /// `shell_is_set`: the base image's config names a shell, so that shell form is meant.
    #[must_use]
    pub fn new(shell_is_set: bool) -> Self {
        Self {
            shell_is_set,
            last_seen: BTreeMap::new(),
        }
    }

    /// The findings at the next instruction: LegacyKeyValueFormat,
    /// MultipleInstructionsDisallowed and JSONArgsRecommended.
    pub fn visit(&mut self, instruction: &Instruction) -> Vec<Diagnostic> {
        let origin = &instruction.origin;
        let name = instruction.kind.name();
        let mut found = Vec::new();
        match &instruction.kind {
            InstructionKind::Env(env) => legacy_pairs(&env.pairs, origin, &mut found),
            InstructionKind::Label(label) => legacy_pairs(&label.pairs, origin, &mut found),
            InstructionKind::Shell(_) => self.shell_is_set = true,
            InstructionKind::Healthcheck(_) => self.used_once(name, origin, &mut found),
            InstructionKind::Cmd(cmd) => {
                self.used_once(name, origin, &mut found);
                self.json_args(cmd.command.is_shell(), origin, &mut found);
            }
            InstructionKind::Entrypoint(entrypoint) => {
                self.used_once(name, origin, &mut found);
                self.json_args(entrypoint.command.is_shell(), origin, &mut found);
            }
            _ => {}
        }
        found
    }

    /// The earlier one is told of: it is the one without effect.
    fn used_once(&mut self, name: &'static str, origin: &Origin, found: &mut Vec<Diagnostic>) {
        if let Some(earlier) = self.last_seen.insert(name, origin.clone()) {
            let keyword = &origin.keyword.value;
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            found.push(
                finding(Rule::MultipleInstructionsDisallowed, message, &earlier)
                    .with_label(origin.keyword.span, "this one is used")
                    .with_help("remove the earlier one"),
            );
        }
    }

    fn json_args(&self, is_shell: bool, origin: &Origin, found: &mut Vec<Diagnostic>) {
        if !is_shell || self.shell_is_set {
            return;
        }
        let keyword = &origin.keyword.value;
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        let mut diagnostic = finding(Rule::JsonArgsRecommended, message, origin);
        let help = match &origin.json_fault {
            Some(fault) => {
                diagnostic = diagnostic.with_label(fault.span, fault.reason);
                "this is read as shell text, because it is not a JSON array".to_owned()
            }
            None => format!("write `{keyword} [\"program\", \"argument\"]`"),
        };
        found.push(diagnostic.with_help(help));
    }
}

fn legacy_pairs(pairs: &[KeyValue], origin: &Origin, found: &mut Vec<Diagnostic>) {
    for pair in pairs.iter().filter(|pair| pair.legacy) {
        let keyword = &origin.keyword.value;
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        let (key, value) = (&pair.key.value, pair.value.trim());
        let help = match value.strip_prefix('=') {
            Some(_) => format!("the value is `{value}`: no blanks may stand around the `=`"),
            None => format!("write `{keyword} {key}={}`", double_quoted(value)),
        };
        let mut diagnostic = finding(Rule::LegacyKeyValueFormat, message, origin);
        diagnostic.span = pair.key.span.to(pair.value.span);
        found.push(diagnostic.with_help(help));
    }
}

/// A value as it can stand after `=`.
fn double_quoted(value: &str) -> String {
    let is_plain = !value.is_empty() && !value.contains(|ch: char| ch.is_whitespace());
    if is_plain || value.contains(['"', '\'', '\\', '`']) {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

/// `FROM` uses an argument that is not declared.
#[must_use]
pub fn undefined_arg_in_from(arg: &str, suggestion: Option<&str>, origin: &Origin) -> Diagnostic {
    let message = with_suggestion(format!("FROM argument '{arg}' is not declared"), suggestion);
    finding(Rule::UndefinedArgInFrom, message, origin)
        .with_help(format!("declare it before the first FROM: `ARG {arg}`"))
}

/// A relative `WORKDIR` before any absolute one.
#[must_use]
pub fn workdir_relative_path(path: &str, origin: &Origin) -> Diagnostic {
    let message = format!(
        "Relative workdir {} can have unexpected results if the base image changes",
        quote(path)
    );
    finding(Rule::WorkdirRelativePath, message, origin).with_help("write an absolute path")
}

/// A variable that nothing sets.
#[must_use]
pub fn undefined_var(name: &str, suggestion: Option<&str>, origin: &Origin) -> Diagnostic {
    let suggestion = suggestion.map(|name| format!("${name}"));
    let message = with_suggestion(
        format!("Usage of undefined variable '${name}'"),
        suggestion.as_deref(),
    );
    finding(Rule::UndefinedVar, message, origin).with_help(format!(
        "declare it with `ARG {name}` or `ENV {name}=…`, or write `\\${name}`"
    ))
}

/// A base image is for another platform than the one built. Platforms as written out.
#[must_use]
pub fn invalid_base_image_platform(
    image: &str,
    expected: &str,
    actual: &str,
    origin: &Origin,
) -> Diagnostic {
    let message = format!(
        "Base image {image} was pulled with platform {}, expected {} for current build",
        quote(actual),
        quote(expected)
    );
    finding(Rule::InvalidBaseImagePlatform, message, origin)
}

/// `FROM --platform=$TARGETPLATFORM`, as written.
#[must_use]
pub fn redundant_target_platform(platform: &str, origin: &Origin) -> Diagnostic {
    let message = format!(
        "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
    );
    finding(Rule::RedundantTargetPlatform, message, origin).with_help("remove the flag")
}

/// `ARG` or `ENV` with a name that says it is a secret.
#[must_use]
pub fn secrets_used_in_arg_or_env(instruction: &str, key: &str, origin: &Origin) -> Diagnostic {
    let message = format!(
        "Do not use ARG or ENV instructions for sensitive data ({instruction} {})",
        quote(key)
    );
    finding(Rule::SecretsUsedInArgOrEnv, message, origin).with_help(format!(
        "pass it with `RUN --mount=type=secret,id={key},env={key}`"
    ))
}

/// A base name that is no image name while all arguments have their defaults.
#[must_use]
pub fn invalid_default_arg_in_from(base_name: &str, origin: &Origin) -> Diagnostic {
    let message =
        format!("Default value for ARG {base_name} results in empty or invalid base image name");
    finding(Rule::InvalidDefaultArgInFrom, message, origin)
        .with_help("give the argument a default, or write `${NAME:-image}`")
}

/// `FROM --platform` with a constant.
#[must_use]
pub fn from_platform_flag_const_disallowed(platform: &str, origin: &Origin) -> Diagnostic {
    let message = format!(
        "FROM --platform flag should not use constant value {}",
        quote(platform)
    );
    finding(Rule::FromPlatformFlagConstDisallowed, message, origin)
        .with_help("remove the flag, or use `$BUILDPLATFORM` or `$TARGETPLATFORM`")
}

/// `COPY` or `ADD` of a path that `.dockerignore` leaves out.
#[must_use]
pub fn copy_ignored_file(kind: &InstructionKind, path: &str, origin: &Origin) -> Diagnostic {
    let verb = if matches!(kind, InstructionKind::Add(_)) {
        "Add"
    } else {
        "Copy"
    };
    let message = format!(
        "Attempting to {verb} file {} that is excluded by .dockerignore",
        quote(path)
    );
    finding(Rule::CopyIgnoredFile, message, origin).with_help(format!(
        "add `!{path}` to the ignore file, or do not copy it"
    ))
}

/// A protocol of `EXPOSE` in upper case. `port` after expansion.
#[must_use]
pub fn expose_proto_casing(port: &str, origin: &Origin) -> Diagnostic {
    let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
    finding(Rule::ExposeProtoCasing, message, origin)
        .with_help(format!("write `{}`", port.to_lowercase()))
}

/// An address or host port in `EXPOSE`. `port` after expansion.
#[must_use]
pub fn expose_invalid_format(port: &str, origin: &Origin) -> Diagnostic {
    let message = format!(
        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
    );
    let container_port = port.rsplit(':').next().unwrap_or(port);
    finding(Rule::ExposeInvalidFormat, message, origin).with_help(format!(
        "write `{container_port}`; mappings are given when a container is run"
    ))
}

/// Whether a variable's name says that its value is secret: one of its parts between underscores
/// does, and none says that it is harmless.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let name = name.to_lowercase();
    let has = |words: &[&str]| name.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_told_by_their_parts() {
        for name in [
            "API_KEY",
            "api_key",
            "token",
            "My_Secret_x",
            "AUTH",
            "AUTH_x",
            "a__key",
            "DB_PASSWORD",
            "DATABASE_PASSWORD",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "MONKEY",
            "monkey",
            "PUBLIC_KEY",
            "KEY_FILE",
            "TOKEN_VERSION",
            "token_version",
            "keys",
            "api-key",
            "PATH",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
