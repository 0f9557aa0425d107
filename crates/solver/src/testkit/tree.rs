//! Fake results: path to text, and what the operations do to them, as pure functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_graph::{
    Exec, FileAction, FileActionKind, FileInput, FileOp, Graph, Input, Op, PathSelector, Selection,
    Source, Vertex,
};

use crate::{BoxError, ContentDigest, PathDigest};

/// Path to content; no path starts with a slash.
pub type Files = BTreeMap<String, String>;

/// A fake result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeTree {
    /// Which [`super::World`] it is of.
    pub(super) world: u64,
    /// What is in it.
    pub files: Arc<Files>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

/// What a vertex makes of its inputs.
///
/// `RUN` knows the commands `write PATH TEXT`, `const PATH TEXT` (forgets everything
/// else), `sum PATH` (writes a digest of everything that the process sees) and `fail`.
pub(super) fn apply(
    vertex: &Vertex,
    inputs: &[Arc<Files>],
    source: impl FnOnce(&Source) -> Result<Files, BoxError>,
) -> Result<Vec<Files>, BoxError> {
    match &vertex.op {
        Op::Source(what) => Ok(vec![source(what)?]),
        Op::Exec(exec) => run(vertex, exec, inputs),
        Op::File(file) => Ok(vec![change(file, inputs)?]),
        Op::Merge => {
            let layers = inputs.iter().flat_map(|files| files.iter());
            Ok(vec![layers.map(own).collect()])
        }
        Op::Diff => {
            let (lower, upper) = (&inputs[0], &inputs[1]);
            let new = upper
                .iter()
                .filter(|(path, text)| lower.get(*path) != Some(text));
            Ok(vec![new.map(own).collect()])
        }
    }
}

fn own((path, text): (&String, &String)) -> (String, String) {
    (path.clone(), text.clone())
}

fn run(vertex: &Vertex, exec: &Exec, inputs: &[Arc<Files>]) -> Result<Vec<Files>, BoxError> {
    let root = exec.mounts.iter().find(|mount| mount.target == "/");
    let mut files = match root.and_then(|mount| mount.input) {
        Some(index) => (*inputs[index]).clone(),
        None => Files::new(),
    };
    let args: Vec<_> = exec.args.iter().map(String::as_str).collect();
    match args[..] {
        ["write", path, text] => {
            files.insert(path.to_owned(), text.to_owned());
        }
        ["const", path, text] => files = Files::from([(path.to_owned(), text.to_owned())]),
        ["sum", path] => {
            let sum = sum(exec, inputs).short();
            files.insert(path.to_owned(), sum);
        }
        _ => return Err(Refused(format!("exit code 1: {args:?}")).into()),
    }
    let output = |number: u32| {
        let mut files = files.clone();
        if number > 0 {
            files.insert("output".to_owned(), number.to_string());
        }
        files
    };
    Ok((0..vertex.output_count()).map(output).collect())
}

/// Of all that a process sees: mounted files, variables, directory, user.
fn sum(exec: &Exec, inputs: &[Arc<Files>]) -> ContentDigest {
    let mut seen = format!("{:?} {:?} {:?}", exec.env, exec.cwd, exec.user);
    for mount in &exec.mounts {
        let Some(index) = mount.input else { continue };
        let selector = PathSelector {
            path: mount.selector.clone(),
            ..PathSelector::default()
        };
        let files = select(&inputs[index], &selector);
        seen.push_str(&format!("{} {files:?}", mount.target));
    }
    blake3::hash(seen.as_bytes()).into()
}

fn change(file: &FileOp, inputs: &[Arc<Files>]) -> Result<Files, BoxError> {
    let mut results: Vec<Files> = Vec::new();
    for FileAction { input, kind } in &file.actions {
        let of = |input: &FileInput| match input {
            FileInput::Scratch => Files::new(),
            FileInput::Vertex(index) => (*inputs[*index]).clone(),
            FileInput::Action(index) => results[*index].clone(),
        };
        let mut files = of(input);
        match kind {
            FileActionKind::Copy(copy) => {
                let selected = select(&of(&copy.from), &copy.selector());
                if selected.is_empty() && !copy.allow_empty_wildcard {
                    return Err(Refused(format!("`{}` not found", copy.source)).into());
                }
                let dest = copy.dest.trim_matches('/');
                let at = |path: String| format!("{dest}/{path}").trim_matches('/').to_owned();
                files.extend(selected.into_iter().map(|(path, text)| (at(path), text)));
            }
            FileActionKind::Mkdir(mkdir) => {
                files.insert(format!("{}/", mkdir.path.trim_matches('/')), String::new());
            }
            FileActionKind::Mkfile(mkfile) => {
                let text = String::from_utf8_lossy(&mkfile.content).into_owned();
                files.insert(mkfile.path.trim_matches('/').to_owned(), text);
            }
            FileActionKind::Remove(remove) => {
                let gone = remove.path.trim_matches('/');
                files.retain(|path, _| !is_below(path, gone));
            }
        }
        results.push(files);
    }
    Ok(results.pop().unwrap_or_default())
}

fn is_below(path: &str, parent: &str) -> bool {
    let rest = path.strip_prefix(parent);
    parent.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The selected files, named from the selected path's own name on.
pub(super) fn select(files: &Files, selector: &PathSelector) -> Files {
    let path = selector.path.trim_matches('/');
    let above = path.rfind('/').map_or(0, |slash| slash + 1);
    let selected = files.iter().filter(|(file, _)| is_below(file, path));
    selected
        .map(|(file, text)| (file[above..].to_owned(), text.clone()))
        .collect()
}

/// The digest of what `selection` takes of `files`; an error when it takes nothing.
pub(super) fn digest(files: &Files, selection: &Selection) -> Result<ContentDigest, BoxError> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |files: &Files| {
        for (path, text) in files {
            for part in [path, text] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.update(b"end");
    };
    match selection {
        Selection::Identity => add(files),
        Selection::Content(selectors) => {
            for selector in selectors {
                let selected = select(files, selector);
                if selected.is_empty() && !selector.path.trim_matches('/').is_empty() {
                    return Err(Refused(format!("`{}` not found", selector.path)).into());
                }
                add(&selected);
            }
        }
    }
    Ok(hasher.finalize().into())
}

/// The selected files, each with its digest.
pub(super) fn describe(files: &Files, selection: &Selection) -> Vec<PathDigest> {
    let Selection::Content(selectors) = selection else {
        return Vec::new();
    };
    let selected = selectors
        .iter()
        .flat_map(|selector| select(files, selector));
    selected
        .map(|(path, text)| PathDigest {
            path,
            content: blake3::hash(text.as_bytes()).into(),
            mode: 0o644,
            owner: (0, 0),
            attributes: blake3::hash(b"").into(),
        })
        .collect()
}

/// What `target` comes to, without any cache: the truth that a solve is held against.
///
/// # Errors
/// When a step that `target` needs fails.
pub fn evaluate(
    graph: &Graph,
    target: Input,
    source: impl Fn(&Source) -> Result<Files, BoxError>,
) -> Result<Files, BoxError> {
    let mut results: Vec<Vec<Arc<Files>>> = vec![Vec::new(); graph.len()];
    for id in graph.reachable(&[target.vertex]) {
        let vertex = graph.vertex(id);
        let of = |input: &Input| results[input.vertex.index()][input.output as usize].clone();
        let inputs: Vec<_> = vertex.inputs.iter().map(of).collect();
        let outputs = apply(vertex, &inputs, &source)?;
        results[id.index()] = outputs.into_iter().map(Arc::new).collect();
    }
    Ok((*results[target.vertex.index()][target.output as usize]).clone())
}
