//! Walking what a copy selects below one source path.
//!
//! ```text
//!  source   a/  a/x  a/y  b/  b/z        exclude  x, b
//!  visited  a/       a/y
//!  source   a/  a/b/  a/b/c  a/d/        include  a/*/c
//!  visited  a/! a/b/! a/b/c              ! = made only because something below is included
//! ```
//!
//! The item at the top is visited whatever the patterns say: they select what is below it.

use std::vec;

use crate::EntryPath;
use crate::copy::resolve::join;
use crate::copy::{CopyError, CopySource, PathPatterns, SourceChild, SourceNode};

/// One thing that a copy takes.
#[derive(Debug)]
pub(super) struct Selected {
    /// Where it is in the source.
    pub(super) path: EntryPath,
    /// Where it is relative to the item at the top.
    pub(super) relative: EntryPath,
    pub(super) node: SourceNode,
    /// A directory that is taken only because something below it is.
    pub(super) needed: bool,
}

pub(super) struct Patterns<'a, P> {
    pub(super) include: Option<&'a P>,
    pub(super) exclude: Option<&'a P>,
}

/// What the patterns say about a path.
struct Judged<S> {
    included: bool,
    excluded: bool,
    states: States<S>,
}

#[derive(Clone)]
struct States<S> {
    include: Option<S>,
    exclude: Option<S>,
}

struct Frame<S> {
    /// The directory, until it has been visited.
    pending: Option<Selected>,
    path: EntryPath,
    relative: EntryPath,
    states: States<S>,
    children: vec::IntoIter<SourceChild>,
}

/// Visits the item at `path` and what is selected below it: directories before what they
/// contain, siblings by name.
pub(super) fn walk<P: PathPatterns>(
    source: &dyn CopySource,
    path: &EntryPath,
    node: SourceNode,
    patterns: &Patterns<'_, P>,
    visit: &mut dyn FnMut(Selected) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let mut stack: Vec<Frame<P::State>> = Vec::new();
    if node.is_directory() {
        stack.push(Frame {
            pending: None,
            path: path.clone(),
            relative: EntryPath::root(),
            states: patterns.states(),
            children: source.read_dir(path)?.into_iter(),
        });
    }
    visit(Selected {
        path: path.clone(),
        relative: EntryPath::root(),
        node,
        needed: false,
    })?;
    while let Some(frame) = stack.last_mut() {
        let Some(child) = frame.children.next() else {
            stack.pop();
            continue;
        };
        let selected = Selected {
            path: join(&frame.path, &child.name)?,
            relative: join(&frame.relative, &child.name)?,
            node: child.node,
            needed: false,
        };
        let judged = patterns.judge(&selected.relative, &frame.states);
        let entered = patterns
            .enters(&judged, &selected)
            .then(|| Frame::enter(source, &selected, &judged))
            .transpose()?;
        if judged.included {
            for above in &mut stack {
                above.pending.take().map(&mut *visit).transpose()?;
            }
            visit(selected)?;
        }
        stack.extend(entered);
    }
    Ok(())
}

impl<S: Clone> Frame<S> {
    fn enter(
        source: &dyn CopySource,
        directory: &Selected,
        judged: &Judged<S>,
    ) -> Result<Self, CopyError> {
        let pending = (!judged.included).then(|| Selected {
            path: directory.path.clone(),
            relative: directory.relative.clone(),
            node: directory.node.clone(),
            needed: true,
        });
        Ok(Self {
            pending,
            path: directory.path.clone(),
            relative: directory.relative.clone(),
            states: judged.states.clone(),
            children: source.read_dir(&directory.path)?.into_iter(),
        })
    }
}

impl<P: PathPatterns> Patterns<'_, P> {
    fn states(&self) -> States<P::State> {
        States {
            include: self.include.map(P::root),
            exclude: self.exclude.map(P::root),
        }
    }

    fn judge(&self, path: &EntryPath, above: &States<P::State>) -> Judged<P::State> {
        let matches = |patterns: Option<&P>, above: &Option<P::State>| {
            let (matched, state) = patterns?.matches(path, above.as_ref()?);
            Some((matched, state))
        };
        let include = matches(self.include, &above.include);
        let exclude = matches(self.exclude, &above.exclude);
        let excluded = exclude.as_ref().is_some_and(|(matched, _)| *matched);
        let included = include.as_ref().is_none_or(|(matched, _)| *matched);
        Judged {
            included: included && !excluded,
            excluded,
            states: States {
                include: include.map(|(_, state)| state),
                exclude: exclude.map(|(_, state)| state),
            },
        }
    }

    /// Whether something below may be selected.
    fn enters(&self, judged: &Judged<P::State>, selected: &Selected) -> bool {
        if !selected.node.is_directory() {
            return false;
        }
        if judged.excluded {
            return self.exclude.is_some_and(P::takes_back);
        }
        let may_match = |include: &P| include.may_match_below(&selected.relative);
        judged.included || self.include.is_none_or(may_match)
    }
}
