//! File operations: layers that name their files.

use std::sync::Arc;

use longshore_graph::{
    Copy, FileAction, FileActionKind, FileInput, FileOp, Mkdir, Mkfile, ModeSpec, Owner, Principal,
    Remove,
};
use longshore_layers::copy::{
    self, CopyOptions, CopySource, LayerBuilder, MkdirOptions, MkfileOptions, ModeChange,
    RemoveOptions, TreeSource,
};
use longshore_layers::{LayerIndex, TreeView};
use longshore_solver::{BoxError, StepContext};
use tokio::task::spawn_blocking;

use super::content::StoredContent;
use super::executor::BuildExecutor;
use super::select::{self, Patterns};
use crate::context::LocalTree;
use crate::layer::{Layer, LayerStore};
use crate::tree::Tree;

/// A tree that a file operation reads.
enum Readable {
    Local(Arc<LocalTree>),
    Layers {
        view: TreeView,
        content: StoredContent,
    },
}

/// Runs the actions of `op`: one layer on top of the tree that the first one changes.
pub(crate) async fn run(
    executor: &BuildExecutor,
    ctx: &StepContext,
    op: &FileOp,
    inputs: &[Tree],
) -> Result<Tree, BoxError> {
    let base = base_of(op, inputs)?;
    let below = match base {
        Some(tree) => executor.as_layers(tree).await?,
        None => Vec::new(),
    };
    let epoch_s = executor.epoch_s;
    let view = executor.layers().view_at(&below, epoch_s).await?;
    let base_content = StoredContent::names(Arc::clone(executor.layers()), below.clone());
    let mut sources = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        sources.push(match is_copied_from(op, at) {
            true => Some(readable(executor, input).await?),
            false => None,
        });
    }
    let op = op.clone();
    let store = Arc::clone(executor.layers());
    let (layer, notices) = spawn_blocking(move || {
        let mut builder = LayerBuilder::new(view, &base_content).limits(store.limits);
        for (at, action) in op.actions.iter().enumerate() {
            apply(&mut builder, &op, at, action, &sources)?;
        }
        let notices: Vec<String> = builder.notices().iter().map(ToString::to_string).collect();
        let changes = builder.finish();
        let index = LayerIndex::of_changes(&changes)?;
        if let Some(epoch_s) = epoch_s {
            store.keep_dated_index(&index, epoch_s)?;
        }
        Ok::<_, BoxError>((store.made(index, changes), notices))
    })
    .await??;
    for notice in notices {
        ctx.warn(notice);
    }
    let mut layers = below;
    layers.push(layer);
    Ok(Tree::Layers(layers))
}

/// The tree that the operation changes.
fn base_of<'a>(op: &FileOp, inputs: &'a [Tree]) -> Result<Option<&'a Tree>, BoxError> {
    let Some(at) = base_input(op) else {
        return Ok(None);
    };
    Ok(Some(
        inputs
            .get(at)
            .ok_or("a file action names an input that is not there")?,
    ))
}

/// The input that the operation changes: what the chain of actions that ends in the last
/// one starts from. Actions on a scratch of their own (a heredoc's file) are copied from.
pub(super) fn base_input(op: &FileOp) -> Option<usize> {
    let mut input = op.actions.last()?.input;
    while let FileInput::Action(at) = input {
        input = op.actions.get(at)?.input;
    }
    match input {
        FileInput::Vertex(at) => Some(at),
        _ => None,
    }
}

/// Whether an action belongs to the chain that ends in the last one, and so to the layer.
fn is_in_chain(op: &FileOp, action: usize) -> bool {
    let mut at = op.actions.len().checked_sub(1);
    while let Some(current) = at {
        if current == action {
            return true;
        }
        at = match op.actions[current].input {
            FileInput::Action(before) if before < current => Some(before),
            _ => None,
        };
    }
    false
}

fn is_copied_from(op: &FileOp, input: usize) -> bool {
    op.actions.iter().any(|action| {
        matches!(&action.kind, FileActionKind::Copy(copy) if copy.from == FileInput::Vertex(input))
    })
}

async fn readable(executor: &BuildExecutor, tree: &Tree) -> Result<Readable, BoxError> {
    match tree {
        Tree::Local(local) => Ok(Readable::Local(Arc::clone(local))),
        Tree::Layers(layers) => {
            // As the result will have it: what a step made at some time is of the epoch.
            let view = executor.layers().view_at(layers, executor.epoch_s).await?;
            let content = StoredContent::open(executor.layers(), layers).await?;
            Ok(Readable::Layers { view, content })
        }
    }
}

fn apply(
    builder: &mut LayerBuilder<'_>,
    op: &FileOp,
    at: usize,
    action: &FileAction,
    sources: &[Option<Readable>],
) -> Result<(), BoxError> {
    if !is_in_chain(op, at) {
        return Ok(());
    }
    match &action.kind {
        FileActionKind::Mkdir(mkdir) => make_directory(builder, mkdir),
        FileActionKind::Mkfile(mkfile) => make_file(builder, mkfile),
        FileActionKind::Remove(remove) => {
            let Remove {
                path,
                allow_missing,
                wildcard,
            } = remove;
            Ok(builder.remove(&RemoveOptions {
                path,
                allow_missing: *allow_missing,
                wildcard: *wildcard,
            })?)
        }
        FileActionKind::Copy(copy) => apply_copy(builder, op, copy, sources),
    }
}

fn apply_copy(
    builder: &mut LayerBuilder<'_>,
    op: &FileOp,
    copy: &Copy,
    sources: &[Option<Readable>],
) -> Result<(), BoxError> {
    match copy.from {
        FileInput::Vertex(at) => match sources.get(at).and_then(Option::as_ref) {
            Some(Readable::Local(local)) => {
                copy_from(builder, copy, local.tree()).map_err(|error| local.say_if_hidden(error))
            }
            Some(Readable::Layers { view, content }) => {
                copy_from(builder, copy, &TreeSource { view, content })
            }
            None => Err("a copy names an input that is not there".into()),
        },
        FileInput::Scratch => copy_from(
            builder,
            copy,
            &LayerBuilder::new(TreeView::empty(), &copy::NoContent),
        ),
        FileInput::Action(from) => {
            // A tree of its own: the actions that lead to `from`, on an empty root.
            let mut side = builder.aside();
            let part = FileOp {
                actions: op.actions[..=from].to_vec(),
            };
            for (at, action) in part.actions.iter().enumerate() {
                apply(&mut side, &part, at, action, sources)?;
            }
            copy_from(builder, copy, &side)
        }
    }
}

fn copy_from(
    builder: &mut LayerBuilder<'_>,
    copy: &Copy,
    source: &dyn CopySource,
) -> Result<(), BoxError> {
    let selector = copy.selector();
    let mut selection: copy::Selection<'_, Patterns> = select::selection(&selector)?;
    selection.directory_contents_only = copy.directory_contents_only;
    selection.required = &copy.required;
    let options = CopyOptions {
        selection,
        dest: &copy.dest,
        owner: copy.owner.as_ref().map(owner),
        mode: copy.mode.as_ref().map(mode).transpose()?,
        unpack: copy.unpack,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        create_dest_path: copy.create_dest_path,
        always_replace: copy.always_replace,
        timestamp: copy.timestamp,
    };
    Ok(builder.copy(&options, source)?)
}

fn make_directory(builder: &mut LayerBuilder<'_>, mkdir: &Mkdir) -> Result<(), BoxError> {
    Ok(builder.mkdir(&MkdirOptions {
        path: &mkdir.path,
        mode: mkdir.mode,
        parents: mkdir.parents,
        owner: mkdir.owner.as_ref().map(owner),
        timestamp: mkdir.timestamp,
    })?)
}

fn make_file(builder: &mut LayerBuilder<'_>, mkfile: &Mkfile) -> Result<(), BoxError> {
    Ok(builder.mkfile(&MkfileOptions {
        path: &mkfile.path,
        mode: mkfile.mode,
        content: &mkfile.content,
        owner: mkfile.owner.as_ref().map(owner),
        timestamp: mkfile.timestamp,
    })?)
}

fn owner(owner: &Owner) -> copy::Owner {
    let principal = |principal: &Principal| match principal {
        Principal::Id(id) => copy::Principal::Id(*id),
        Principal::Name(name) => copy::Principal::Name(name.clone()),
    };
    copy::Owner {
        user: owner.user.as_ref().map(principal),
        group: owner.group.as_ref().map(principal),
    }
}

fn mode(mode: &ModeSpec) -> Result<ModeChange, BoxError> {
    match mode {
        ModeSpec::Octal(bits) => Ok(ModeChange::parse(&format!("{bits:o}"))?),
        ModeSpec::Symbolic(text) => Ok(ModeChange::parse(text)?),
    }
}

/// One layer with the files of a context at and below `path`, as a mount shows them.
pub(crate) async fn layer_of_context(
    store: &Arc<LayerStore>,
    local: &Arc<LocalTree>,
    path: &str,
) -> Result<Arc<Layer>, BoxError> {
    let (store, local, path) = (Arc::clone(store), Arc::clone(local), path.to_owned());
    spawn_blocking(move || {
        let mut builder = LayerBuilder::new(TreeView::empty(), &copy::NoContent);
        let options: CopyOptions<'_, Patterns> = CopyOptions {
            selection: copy::Selection {
                directory_contents_only: true,
                ..copy::Selection::literal(&path)
            },
            dest: &path,
            owner: Some(copy::Owner::ids(0, 0)),
            mode: None,
            unpack: false,
            allow_empty_wildcard: true,
            create_dest_path: true,
            always_replace: false,
            timestamp: None,
        };
        builder.copy(&options, local.tree())?;
        let changes = builder.finish();
        let index = LayerIndex::of_changes(&changes)?;
        Ok(store.made(index, changes))
    })
    .await?
}

/// The layers of input 1 that input 0 has not, where one is built on the other.
pub(crate) fn difference(inputs: &[Tree]) -> Result<Tree, BoxError> {
    let [Tree::Layers(lower), Tree::Layers(upper)] = inputs else {
        return Err("a difference needs two trees of layers".into());
    };
    let is_base =
        lower.len() <= upper.len() && lower.iter().zip(upper).all(|(a, b)| a.key == b.key);
    if is_base {
        return Ok(Tree::Layers(upper[lower.len()..].to_vec()));
    }
    Err("a difference of trees that are not built on one another is not supported".into())
}
