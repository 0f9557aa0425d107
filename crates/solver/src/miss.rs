//! Why a step had to run.

use std::fmt;

use longshore_graph::VertexId;
use serde::{Deserialize, Serialize};

use crate::{CacheKey, Field, KeyFields, PathDigest, RecordedPaths, Trace, key, paths};

/// Why a step had to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MissReason {
    /// No such step has run before, as far as is remembered.
    FirstTime,
    /// The most similar step that ran before differs.
    Changed {
        /// What differs in the step itself.
        fields: Vec<FieldChange>,
        /// What differs in what it works on.
        inputs: Vec<InputChange>,
    },
    /// The same step ran before, but its record was pruned.
    Pruned,
    /// The same step ran before and is recorded, but its result is gone.
    Gone,
    /// The build asked for it to run.
    IgnoreCache,
    /// The cache failed, so that it is not known whether it ran before.
    CacheFailed,
}

/// A field of a step's key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Which: `argv`, `env VERSION`, `mount /cache`.
    pub name: String,
    /// Its value then; `None` where there was no such field.
    pub old: Option<String>,
    /// Its value now; `None` where there is no such field.
    pub new: Option<String>,
}

/// An input of a step that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputChange {
    /// Which of the step's inputs.
    pub input: usize,
    /// The vertex that it comes from.
    pub vertex: VertexId,
    /// That vertex's display name.
    pub name: String,
    /// What it was then: the digest of an image's manifest, else that of what was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// The first of the files that differ, where that is known.
    pub paths: Vec<PathChange>,
    /// How many differ.
    pub paths_total: usize,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathChange {
    /// From the input's root; a directory ends with a slash when all below it was taken
    /// together.
    pub path: String,
    /// How it differs.
    pub kind: PathChangeKind,
    /// In what a modified file differs, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aspects: Vec<PathAspect>,
}

/// In what a file can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathAspect {
    /// Its kind, and what it holds or leads to.
    Content,
    /// Its permission bits.
    Mode,
    /// Its user and group.
    Owner,
    /// Its extended attributes.
    Attributes,
}

impl PathAspect {
    /// All of them, in the order in which records mark them.
    pub const ALL: [Self; 4] = [Self::Content, Self::Mode, Self::Owner, Self::Attributes];

    fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Attributes => "attributes",
        }
    }
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathChangeKind {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its content, kind, mode or owner is another.
    Modified,
}

/// Two fields of one name that differ; one of them may be missing.
type Difference<'a> = (Option<&'a Field>, Option<&'a Field>);

impl MissReason {
    /// Compares a step with the trace that resembles it most.
    pub(crate) fn compare(
        traces: &[Trace],
        key: CacheKey,
        fields: &KeyFields,
        files: &[Vec<PathDigest>],
        input: &dyn Fn(usize) -> (VertexId, String),
    ) -> Self {
        if traces.iter().any(|trace| trace.key == key) {
            return Self::Pruned;
        }
        let compared = traces.iter().map(|t| (t, t.fields.differences(fields)));
        // The first of equals: the newest.
        match compared.min_by_key(|(_, differences)| differences.len()) {
            Some((trace, differences)) => Self::changed(trace, &differences, files, input),
            None => Self::FirstTime,
        }
    }

    fn changed(
        trace: &Trace,
        differences: &[Difference<'_>],
        files: &[Vec<PathDigest>],
        input: &dyn Fn(usize) -> (VertexId, String),
    ) -> Self {
        let (mut fields, mut inputs) = (Vec::new(), Vec::new());
        for (old, new) in differences {
            let Some(name) = new.or(*old).map(|field| &field.name) else {
                continue;
            };
            match key::input_of(name).filter(|index| *index < files.len()) {
                Some(index) => inputs.push(InputChange {
                    old: shown(*old),
                    new: shown(*new),
                    ..input_change(index, trace, files, input)
                }),
                None => fields.push(FieldChange {
                    name: name.clone(),
                    old: old.map(|field| field.shown.clone()),
                    new: new.map(|field| field.shown.clone()),
                }),
            }
        }
        leave_out_consequences(&mut fields);
        if fields.is_empty() && inputs.is_empty() {
            fields.push(order_change());
        }
        Self::Changed { fields, inputs }
    }
}

fn input_change(
    index: usize,
    trace: &Trace,
    files: &[Vec<PathDigest>],
    input: &dyn Fn(usize) -> (VertexId, String),
) -> InputChange {
    let unknown = RecordedPaths::default();
    let old = trace.paths.get(index).unwrap_or(&unknown);
    let (paths, paths_total) = paths::changes(old, &files[index]);
    let (vertex, name) = input(index);
    InputChange {
        input: index,
        vertex,
        name,
        old: None,
        new: None,
        paths,
        paths_total,
    }
}

/// What is shown of a field; nothing of records that come from elsewhere.
fn shown(field: Option<&Field>) -> Option<String> {
    let text = field.map(|field| field.shown.clone())?;
    (!text.is_empty()).then_some(text)
}

/// A variable that is added or removed changes the order too; only the variable is news.
fn leave_out_consequences(fields: &mut Vec<FieldChange>) {
    let one_sided = |change: &FieldChange| change.old.is_none() || change.new.is_none();
    let variable = |change: &FieldChange| change.name.starts_with("env ") && one_sided(change);
    if fields.iter().any(variable) {
        fields.retain(|change| change.name != key::ENV_ORDER);
    }
}

/// All fields are there with the values that they had, in another order.
fn order_change() -> FieldChange {
    FieldChange {
        name: "order".to_owned(),
        old: None,
        new: None,
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstTime => f.write_str("it has not run before"),
            Self::Pruned => f.write_str("its record was pruned"),
            Self::Gone => f.write_str("its result is gone"),
            Self::IgnoreCache => f.write_str("the build asked for it to run"),
            Self::CacheFailed => f.write_str("the cache failed"),
            Self::Changed { fields, inputs } => {
                let inputs = inputs.iter().map(ToString::to_string);
                let changes = fields.iter().map(ToString::to_string).chain(inputs);
                f.write_str(&changes.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        // Values are left out of records that come from elsewhere.
        match (self.old.as_deref(), self.new.as_deref()) {
            (Some(old), Some(new)) if !old.is_empty() && old != new => {
                write!(f, "{name} changed from `{old}` to `{new}`")
            }
            (None, Some(new)) if !new.is_empty() => write!(f, "{name} is new: `{new}`"),
            (None, Some(_)) => write!(f, "{name} is new"),
            (Some(old), None) if !old.is_empty() => write!(f, "{name} is no longer set: `{old}`"),
            (Some(_), None) => write!(f, "{name} is no longer set"),
            (Some(_), Some(_)) | (None, None) => write!(f, "{name} changed"),
        }
    }
}

impl fmt::Display for InputChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.paths.first() else {
            write!(f, "the result of `{}` changed", self.name)?;
            let image = |shown: &Option<String>| {
                let digest = shown.as_deref()?.strip_prefix(key::IMAGE_SHOWN)?;
                Some(digest.to_owned())
            };
            return match (image(&self.old), image(&self.new)) {
                (Some(old), Some(new)) if old != new => write!(f, " from `{old}` to `{new}`"),
                _ => Ok(()),
            };
        };
        write!(f, "in `{}`: {first}", self.name)?;
        match self.paths_total - 1 {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for PathChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.kind {
            PathChangeKind::Added => "was added",
            PathChangeKind::Removed => "was removed",
            PathChangeKind::Modified => "changed",
        };
        write!(f, "`{}` {how}", self.path)?;
        if self.aspects.is_empty() {
            return Ok(());
        }
        let names = self.aspects.iter().map(|aspect| aspect.name());
        write!(f, " ({})", names.collect::<Vec<_>>().join(", "))
    }
}
