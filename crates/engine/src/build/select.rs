//! Digests of what a step takes from a tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_dockerfile::ignore::{Decision, DirectoryState, Matcher};
use longshore_graph::{PathSelector, Selection};
use longshore_layers::copy::{
    CopyError, CopySource, NoContent, PathPatterns, SelectedPath, TreeSource, selected_paths,
    selection_digest,
};
use longshore_layers::{EntryPath, TreeView};
use longshore_solver::{BoxError, ContentDigest, PathDigest};
use tokio::task::spawn_blocking;

use crate::context::LocalTree;

/// How many files a record names, so that a miss can tell which changed.
const DESCRIBED_MAX: usize = 200_000;

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

/// The selected files of a context.
pub(crate) async fn describe_context(tree: Arc<LocalTree>, selected: Selection) -> Vec<PathDigest> {
    let described = spawn_blocking(move || describe(tree.tree(), &selected));
    described.await.unwrap_or_default()
}

/// The selected files of layers.
pub(crate) async fn describe_view(view: TreeView, selected: Selection) -> Vec<PathDigest> {
    let described = spawn_blocking(move || {
        let content = &NoContent;
        let view = &view;
        describe(&TreeSource { view, content }, &selected)
    });
    described.await.unwrap_or_default()
}

/// The selected files; none where they are too many or cannot be told, or where all of an input
/// counts: a miss then names the input.
fn describe(source: &dyn CopySource, selected: &Selection) -> Vec<PathDigest> {
    let Selection::Content(selectors) = selected else {
        return Vec::new();
    };
    let mut described = BTreeMap::new();
    for selector in selectors {
        let Ok(selection) = selection(selector) else {
            continue;
        };
        // What cannot be selected fails the step, which says why.
        let Ok(paths) = selected_paths(source, &selection) else {
            continue;
        };
        described.extend(paths.into_iter().map(|one| (one.path.clone(), one)));
        if described.len() > DESCRIBED_MAX {
            return Vec::new();
        }
    }
    described.into_values().map(path_digest).collect()
}

fn path_digest(one: SelectedPath) -> PathDigest {
    let metadata = one.metadata;
    let mut attributes = blake3::Hasher::new();
    for (name, value) in &metadata.xattrs {
        attributes.update(&(name.len() as u64).to_le_bytes());
        attributes.update(name);
        attributes.update(&(value.len() as u64).to_le_bytes());
        attributes.update(value);
    }
    PathDigest {
        path: String::from_utf8_lossy(one.path.as_bytes()).into_owned(),
        content: blake3::Hash::from(one.content).into(),
        mode: metadata.mode,
        owner: (metadata.uid, metadata.gid),
        attributes: attributes.finalize().into(),
    }
}
