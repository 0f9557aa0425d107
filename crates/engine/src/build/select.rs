//! Digests of what a step takes from a tree.

use std::sync::Arc;

use longshore_dockerfile::ignore::{Decision, DirectoryState, Matcher};
use longshore_graph::{PathSelector, Selection};
use longshore_layers::context::ContextNode;
use longshore_layers::copy::{
    CopyError, CopySource, NoContent, PathPatterns, TreeSource, selection_digest,
};
use longshore_layers::{EntryPath, Kind, TreeView};
use longshore_solver::{BoxError, ContentDigest, PathDigest};
use tokio::task::spawn_blocking;

use crate::context::LocalTree;

/// How many files a record names, so that a miss can tell which changed.
const DESCRIBED_MAX: usize = 20_000;

/// `--exclude` and `--parents` patterns, as ignore files have them.
#[derive(Clone, Debug)]
pub(crate) struct Patterns(Matcher);

impl Patterns {
    /// `None` where there are no patterns.
    pub(crate) fn new(patterns: &[String]) -> Result<Option<Self>, BoxError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self(Matcher::new(patterns)?)))
    }
}

impl PathPatterns for Patterns {
    type State = DirectoryState;

    fn root(&self) -> DirectoryState {
        self.0.root()
    }

    fn matches(&self, path: &EntryPath, parent: &DirectoryState) -> (bool, DirectoryState) {
        let (decision, state) = self.0.decide(path.as_bytes(), true, parent);
        (decision != Decision::Include, state)
    }

    fn takes_back(&self) -> bool {
        self.0.has_exclusions()
    }

    fn may_match_below(&self, directory: &EntryPath) -> bool {
        self.0.may_match_below(directory.as_bytes())
    }
}

/// A selector as the copier takes it.
pub(crate) fn selection<'a>(
    selector: &'a PathSelector,
) -> Result<longshore_layers::copy::Selection<'a, Patterns>, BoxError> {
    Ok(longshore_layers::copy::Selection {
        wildcard: selector.wildcard,
        follow_links: selector.follow_links,
        directory_contents_only: selector.directory_contents_only,
        include: Patterns::new(&selector.include)?,
        exclude: Patterns::new(&selector.exclude)?,
        ..longshore_layers::copy::Selection::literal(&selector.path)
    })
}

fn everything() -> Vec<PathSelector> {
    vec![PathSelector {
        path: "/".to_owned(),
        follow_links: true,
        directory_contents_only: true,
        ..PathSelector::default()
    }]
}

fn digest(source: &dyn CopySource, selected: &Selection) -> Result<ContentDigest, BoxError> {
    let whole;
    let selectors = match selected {
        Selection::Content(selectors) => selectors,
        Selection::Identity => {
            whole = everything();
            &whole
        }
    };
    let mut hasher = blake3::Hasher::new_derive_key("longshore selection 1");
    for selector in selectors {
        let one = selection_digest(source, &selection(selector)?);
        match one {
            Ok(one) => hasher.update(&one.0),
            // Whether that is an error is the step's to say: a wildcard may match nothing.
            Err(CopyError::NoMatch { .. }) => hasher.update(b"nothing"),
            Err(error) => return Err(error.into()),
        };
    }
    Ok(hasher.finalize().into())
}

/// The digest of what is selected of a context.
pub(crate) async fn digest_of_context(
    tree: Arc<LocalTree>,
    selected: Selection,
) -> Result<ContentDigest, BoxError> {
    spawn_blocking(move || {
        digest(tree.tree(), &selected).map_err(|error| tree.say_if_hidden(error))
    })
    .await?
}

/// The digest of what is selected of layers.
pub(crate) async fn digest_of_view(
    view: TreeView,
    selected: Selection,
) -> Result<ContentDigest, BoxError> {
    spawn_blocking(move || {
        digest(
            &TreeSource {
                view: &view,
                content: &NoContent,
            },
            &selected,
        )
    })
    .await?
}

/// The files below the literal selectors, each with its digest; empty where they are too many.
pub(crate) async fn describe_context(tree: Arc<LocalTree>, selected: Selection) -> Vec<PathDigest> {
    let described = spawn_blocking(move || {
        let Selection::Content(selectors) = selected else {
            return Vec::new();
        };
        let nodes: Vec<&ContextNode> = tree
            .tree()
            .nodes()
            .iter()
            .filter(|node| is_selected(node, &selectors))
            .collect();
        if nodes.len() > DESCRIBED_MAX {
            return Vec::new();
        }
        nodes
            .into_iter()
            .filter_map(|node| path_digest(&tree, node))
            .collect()
    });
    described.await.unwrap_or_default()
}

fn is_selected(node: &ContextNode, selectors: &[PathSelector]) -> bool {
    let is_below = |selector: &PathSelector| {
        let literal = selector
            .path
            .split(['*', '?', '['])
            .next()
            .unwrap_or_default();
        match EntryPath::new(literal.trim_end_matches('/')) {
            Ok(path) if !selector.wildcard || literal == selector.path => {
                node.path.starts_with(&path)
            }
            // Of a wildcard, everything that begins as it does.
            Ok(path) => node.path.as_bytes().starts_with(path.as_bytes()),
            Err(_) => false,
        }
    };
    !node.path.is_root() && selectors.iter().any(is_below)
}

fn path_digest(tree: &LocalTree, node: &ContextNode) -> Option<PathDigest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&node.metadata.mode.to_le_bytes());
    match &node.kind {
        Kind::File { .. } => hasher.update(&tree.tree().content_hash(&node.path).ok()?.0),
        Kind::Symlink { target } => hasher.update(target),
        Kind::Directory { .. } => hasher.update(b"directory"),
        _ => hasher.update(b"special"),
    };
    let path = String::from_utf8_lossy(node.path.as_bytes()).into_owned();
    Some(PathDigest {
        path,
        digest: hasher.finalize().into(),
    })
}
