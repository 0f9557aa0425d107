//! Flags of an instruction against those it knows.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::instruction::Flag;
use crate::span::Spanned;
use crate::suggest;
use crate::syntax::Node;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagType {
    /// `true`, `false` or nothing; once.
    Bool,
    /// A text; once.
    Text,
    /// A text; any number of times.
    Texts,
}

/// The flags given, checked.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: BTreeMap<&'static str, Vec<Spanned<String>>>,
}

impl Flags {
    /// The text of a flag, if it was given.
    pub(crate) fn text(&self, name: &str) -> Option<Spanned<String>> {
        self.given.get(name)?.last().cloned()
    }

    /// All texts of a flag, in order.
    pub(crate) fn texts(&self, name: &str) -> Vec<Spanned<String>> {
        self.given.get(name).cloned().unwrap_or_default()
    }

    /// A switch, if it was given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        let value = self.given.get(name)?.first()?;
        Some(!value.eq_ignore_ascii_case("false"))
    }
}

/// A flag word cut at its first `=`.
pub(crate) fn cut(word: &Spanned<String>) -> Flag {
    let text = word.value.strip_prefix("--").unwrap_or(&word.value);
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    Flag {
        name: name.to_owned(),
        value,
        span: word.span,
    }
}

/// Checks a node's flags against `known`, which is in alphabetical order. Every fault is pushed.
pub(crate) fn read(
    node: &Node,
    known: &[(&'static str, FlagType)],
    diagnostics: &mut Vec<Diagnostic>,
) -> Flags {
    let mut flags = Flags::default();
    for word in &node.flags {
        let flag = cut(word);
        match check(&flag, known, &flags) {
            Ok(name) => {
                let value = flag.value.unwrap_or_default();
                flags
                    .given
                    .entry(name)
                    .or_default()
                    .push(Spanned::new(value, word.span));
            }
            Err(fault) => diagnostics.push(fault.diagnostic(&flag, known, node, &flags)),
        }
    }
    flags
}

#[derive(Clone, Copy)]
enum FlagFault {
    Unknown,
    Duplicate,
    NoValue,
    NotBool,
}

fn check(
    flag: &Flag,
    known: &[(&'static str, FlagType)],
    flags: &Flags,
) -> Result<&'static str, FlagFault> {
    let found = known.iter().find(|(name, _)| *name == flag.name);
    let (name, kind) = *found.ok_or(FlagFault::Unknown)?;
    if kind != FlagType::Texts && flags.given.contains_key(name) {
        return Err(FlagFault::Duplicate);
    }
    match (kind, flag.value.as_deref()) {
        (FlagType::Bool, None) => Ok(name),
        (FlagType::Bool, Some("")) => Err(FlagFault::NoValue),
        (FlagType::Bool, Some(value)) => match value.to_lowercase().as_str() {
            "true" | "false" => Ok(name),
            _ => Err(FlagFault::NotBool),
        },
        (_, None) => Err(FlagFault::NoValue),
        (_, Some(_)) => Ok(name),
    }
}

impl FlagFault {
    fn diagnostic(
        self,
        flag: &Flag,
        known: &[(&'static str, FlagType)],
        node: &Node,
        flags: &Flags,
    ) -> Diagnostic {
        let name = &flag.name;
        let error = |kind, message| Diagnostic::error(kind, message, flag.span, node.lines.clone());
        match self {
            Self::Unknown => {
                let suggestion = suggest::nearest(name, known.iter().map(|(known, _)| *known));
                let message =
                    suggest::with_suggestion(format!("unknown flag: --{name}"), suggestion);
                error(DiagnosticKind::UnknownFlag, message)
                    .with_help(known_flags_help(&node.keyword.to_uppercase(), known))
            }
            Self::Duplicate => {
                let message = format!("duplicate flag specified: --{name}");
                let first = flags
                    .given
                    .get(name.as_str())
                    .and_then(|given| given.first());
                let first = first.map_or(flag.span, |value| value.span);
                error(DiagnosticKind::DuplicateFlag, message)
                    .with_label(first, "first given here")
                    .with_help("give the flag once")
            }
            Self::NoValue => error(
                DiagnosticKind::MissingFlagValue,
                format!("missing a value on flag: --{name}"),
            )
            .with_help(format!("write `--{name}=<value>`")),
            Self::NotBool => {
                let value = flag.value.as_deref().unwrap_or_default();
                let message = format!("expecting boolean value for flag --{name}, not: {value}");
                error(DiagnosticKind::InvalidFlagBool, message)
                    .with_help(format!("write `--{name}` or `--{name}=false`"))
            }
        }
    }
}

fn known_flags_help(keyword: &str, known: &[(&'static str, FlagType)]) -> String {
    if known.is_empty() {
        return format!("{keyword} takes no flags");
    }
    let names: Vec<_> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    format!("{keyword} takes {}", names.join(", "))
}
