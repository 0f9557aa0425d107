//! What a target can be given (`--call=outline`) and which targets there are (`--call=targets`).

use std::collections::{BTreeMap, BTreeSet};

use longshore_dockerfile::Parsed;
use serde::Serialize;

use crate::error::{LowerError, Problem};

/// What a target can be given. Serialises as the `frontend.outline` answer does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The target's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the comment above it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its build arguments by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// Its secrets by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineMount>,
    /// Its agents by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the comment above it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its value in this build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is declared.
    pub line: u32,
}

/// A secret or agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlineMount {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Where it is used first.
    pub line: u32,
}

/// Which targets there are. Serialises as the `frontend.targets` answer does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// All of them in order.
    pub targets: Vec<Target>,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name; empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// It is built if no target is asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// What the comment above it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it starts from, as written.
    pub base: String,
    /// `--platform`, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// The line of its `FROM`.
    pub line: u32,
}

/// The targets of a Dockerfile.
///
/// # Errors
/// If it is none.
pub fn targets(parsed: &Parsed) -> Result<Targets, LowerError> {
    if let Some(error) = parsed.first_error() {
        return Err(Problem::Syntax(Box::new(error.clone())).into());
    }
    let stages = &parsed.dockerfile.stages;
    let targets = stages.iter().enumerate().map(|(index, stage)| Target {
        name: stage
            .name
            .as_ref()
            .map_or_else(String::new, |name| name.value.clone()),
        default: index + 1 == stages.len(),
        description: stage.doc_comment.clone().unwrap_or_default(),
        base: stage.base_name.value.clone(),
        platform: stage
            .platform
            .as_ref()
            .map_or_else(String::new, |name| name.value.clone()),
        line: stage.origin.line(),
    });
    Ok(Targets {
        targets: targets.collect(),
    })
}

/// What is known of an argument.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArgInfo {
    pub(crate) value: String,
    pub(crate) description: String,
    pub(crate) line: u32,
    /// The arguments in its default.
    pub(crate) dependencies: BTreeSet<String>,
}

/// What a stage has told of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture {
    /// The arguments that it declares.
    pub(crate) args: BTreeMap<String, ArgInfo>,
    /// The arguments that it uses, global ones too.
    pub(crate) used: BTreeSet<String>,
    pub(crate) secrets: BTreeMap<String, (bool, u32)>,
    pub(crate) ssh: BTreeMap<String, (bool, u32)>,
}

impl Capture {
    /// Adds what is new to the outline of a target that needs this stage.
    pub(crate) fn add_to(&self, outline: &mut Outline, global: &BTreeMap<String, ArgInfo>) {
        for name in self.all_used(global) {
            let is_known = outline.args.iter().any(|arg| arg.name == name);
            if let Some(info) = self.info(name, global).filter(|_| !is_known) {
                outline.args.push(OutlineArg {
                    name: name.to_owned(),
                    description: info.description.clone(),
                    value: info.value.clone(),
                    line: info.line,
                });
            }
        }
        add_mounts(&self.secrets, &mut outline.secrets);
        add_mounts(&self.ssh, &mut outline.ssh);
    }

    fn info<'a>(
        &'a self,
        name: &str,
        global: &'a BTreeMap<String, ArgInfo>,
    ) -> Option<&'a ArgInfo> {
        self.args.get(name).or_else(|| global.get(name))
    }

    /// The arguments that are used, and those that their defaults use.
    fn all_used<'a>(&'a self, global: &'a BTreeMap<String, ArgInfo>) -> BTreeSet<&'a str> {
        let mut used = BTreeSet::new();
        let mut open: Vec<&str> = self.used.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if used.insert(name)
                && let Some(info) = self.info(name, global)
            {
                open.extend(info.dependencies.iter().map(String::as_str));
            }
        }
        used
    }
}

fn add_mounts(found: &BTreeMap<String, (bool, u32)>, outline: &mut Vec<OutlineMount>) {
    for (name, (required, line)) in found {
        if !outline.iter().any(|known| known.name == *name) {
            outline.push(OutlineMount {
                name: name.clone(),
                required: *required,
                line: *line,
            });
        }
    }
}

impl Outline {
    pub(crate) fn sort(&mut self) {
        self.args.sort_by_key(|arg| arg.line);
        self.secrets.sort_by_key(|secret| secret.line);
        self.ssh.sort_by_key(|agent| agent.line);
    }
}
