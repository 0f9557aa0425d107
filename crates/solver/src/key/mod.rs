//! What a step is named by.
//!
//! A key is the hash of a version and a list of named fields, each hashed with its
//! length; nothing enters it that this module does not name. A field of the graph that
//! no line here mentions does not compile, so that whoever adds one has to decide.
//!
//! | of a step | in the key | why, or why not |
//! |---|---|---|
//! | RUN: arguments, environment with its order, working directory, user | yes | the process sees them |
//! | RUN: host name, names of extra hosts, limits of resources (`--ulimit`), `--shm-size` | yes | the process sees them |
//! | RUN: network and security mode | yes | they decide what can succeed |
//! | RUN: addresses of extra hosts, proxy variables | no | they differ by network, not by result |
//! | RUN: memory and processor limits, cgroup parent | no | they change how long it takes |
//! | mounts: kind, target, read-only, input, output | yes | the process sees them |
//! | mounts, COPY/ADD: the path within an input that counts by content | definition key only | its content counts, by the input's digest |
//! | mounts, COPY/ADD: the path within an input that counts whole | yes | the input's identity does not tell paths apart |
//! | cache mounts: id, mode, owner | yes | another id is another directory |
//! | cache mounts: sharing, contents | no | they change how long it takes |
//! | secrets, ssh: id, target, variable, mode, owner, required | yes | the process sees them |
//! | secrets, ssh: values | no | they must not leave a trace |
//! | COPY/ADD: destination, owner, mode, times, every option | yes | they change what is made |
//! | COPY/ADD: base name of the source | yes | it names what is made |
//! | display names, Dockerfile lines, stage names, `--no-cache` | no | they change nothing |
//! | settings of the executor ([`crate::Executor::key_extras`]) | yes | they change results |
//! | the version of this table | yes | a change here must miss |
//!
//! The inputs enter as the last fields: into the definition key by the pinned digest of
//! a source or the definition key of a step, both with what is selected; into the content
//! key by the digest of the selected content or the identity of the result, alone.

mod field;
mod ops;

use longshore_graph::{Graph, Op, Selection, Source, Vertex};

use crate::{CacheKey, ContentDigest, Group};

pub(crate) use field::Value;
pub use field::{Field, KeyFields};
pub(crate) use ops::operation;

/// Part of every key: a change of what is in a key, or how, takes the next number.
pub const KEY_VERSION: u64 = 1;

/// The prefix of the names of the fields that stand for inputs.
const INPUT_PREFIX: &str = "input ";

/// The field that holds the names of a process's variables in order.
pub(crate) const ENV_ORDER: &str = "env order";

/// What a definition key takes of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputDefinition {
    /// A source's pinned digest for the selection.
    Pinned(ContentDigest),
    /// One output of a step with this definition key.
    Step {
        /// The step's definition key.
        key: CacheKey,
        /// Which of its outputs.
        output: u32,
    },
}

/// The fields of `vertex` itself, without its inputs.
pub fn step_fields(vertex: &Vertex, extras: &[(String, String)]) -> KeyFields {
    let mut fields = ops::fields(vertex);
    for (name, value) in extras {
        fields.push(format!("executor {name}"), Value::text(value));
    }
    fields
}

/// The key that is known before the inputs are; `inputs` stand in the order of the
/// vertex's.
pub fn definition_key(step: &KeyFields, vertex: &Vertex, inputs: &[InputDefinition]) -> CacheKey {
    let mut fields = step.clone();
    for (index, input) in inputs.iter().enumerate() {
        let mut value = Value::new();
        match input {
            InputDefinition::Pinned(digest) => value.tag("pinned").bytes(&digest.0),
            InputDefinition::Step { key, output } => {
                value.tag("step").bytes(&key.0).number((*output).into())
            }
        };
        ops::selection(&mut value, &vertex.selection(index));
        fields.push(format!("{INPUT_PREFIX}{index}"), value);
    }
    fields.key("definition")
}

/// The key that follows from the inputs' content, and what it is made of.
pub fn content_key(
    step: &KeyFields,
    inputs: &[(Selection, ContentDigest)],
) -> (CacheKey, KeyFields) {
    let mut fields = step.clone();
    for (index, (selection, digest)) in inputs.iter().enumerate() {
        let kind = match selection {
            Selection::Identity => "identity",
            Selection::Content(_) => "content",
        };
        let mut value = Value::new();
        value.tag(kind).bytes(&digest.0);
        value.show(&format!("{kind} {}", digest.short()));
        fields.push(format!("{INPUT_PREFIX}{index}"), value);
    }
    (fields.key("content"), fields)
}

/// What is shown of an input that is a pinned image begins so.
pub(crate) const IMAGE_SHOWN: &str = "image ";

/// Shows the manifests of inputs that are images beside the digests that count.
pub(crate) fn show_images(fields: &mut KeyFields, graph: &Graph, vertex: &Vertex) {
    for (index, input) in vertex.inputs.iter().enumerate() {
        if let Op::Source(Source::Image(image)) = &graph.vertex(input.vertex).op
            && let Some(manifest) = &image.manifest
        {
            let text = format!("{IMAGE_SHOWN}{manifest}");
            fields.show(&format!("{INPUT_PREFIX}{index}"), &text);
        }
    }
}

/// Which input a field stands for, where it stands for one.
pub(crate) fn input_of(field_name: &str) -> Option<usize> {
    field_name.strip_prefix(INPUT_PREFIX)?.parse().ok()
}

/// Names "the same step" in another build by its stage and what is shown of it.
pub(crate) fn group_by_text(scope: &str, stage: &str, text: &str) -> Group {
    group("text", &[scope, stage, text])
}

/// Names "the same step" in another build by its stage and place in it.
pub(crate) fn group_by_place(scope: &str, stage: &str, kind: &str, place: usize) -> Group {
    group("place", &[scope, stage, kind, &place.to_string()])
}

fn group(domain: &str, parts: &[&str]) -> Group {
    let mut value = Value::new();
    value.tag("group").tag(domain);
    for part in parts {
        value.text_part(part);
    }
    Group(value.digest().0)
}
