//! The upper layers of a stack as one layer on those below.
//!
//! ```text
//!   layer 2   /a/.wh.x /n          ┐
//!   layer 1   /a/x  /b/.wh..wh..opq┘►   one layer   /a/.wh.x (if the base has it)  /b opaque  /n
//!   layer 0   the base                  layer 0     the base
//! ```
//!
//! Invariant: the squashed layer on the base shows what all the layers show. What an upper
//! layer made and a higher one removed again is in it no more.

use std::collections::BTreeMap;
use std::io;

use crate::copy::LayerContent;
use crate::named::{FirstNames, shown, with_content};
use crate::{
    Change, Entry, EntryPath, IndexEntry, IndexError, Kind, LayerIndex, Metadata, Node, TreeView,
};

/// The upper layers of a view as one; its files are still in the layers that it is made of.
#[derive(Debug)]
pub struct SquashedLayer<'a> {
    view: &'a TreeView,
    entries: BTreeMap<EntryPath, Line<'a>>,
}

#[derive(Debug)]
enum Line<'a> {
    /// Shown by an upper layer.
    Shown { node: Node<'a>, opaque: bool },
    /// Shown by the base, and not any more.
    Removed,
}

impl<'a> SquashedLayer<'a> {
    /// All layers of `view` but the lowest `base`, as one.
    pub fn new(view: &'a TreeView, base: usize) -> Self {
        let below = TreeView::new(&view.layers()[..base.min(view.layers().len())]);
        let mut squashed = Self {
            view,
            entries: BTreeMap::new(),
        };
        for node in view.walk(&EntryPath::root()) {
            if node.layer >= base && !node.entry.path.is_root() {
                let line = Line::Shown {
                    node,
                    opaque: false,
                };
                squashed.entries.insert(node.entry.path.clone(), line);
            }
        }
        squashed.hide(&below, base, &EntryPath::root());
        squashed
    }

    /// Hides what the base has below a directory that both show.
    fn hide(&mut self, below: &TreeView, base: usize, directory: &EntryPath) {
        let hidden: Vec<(EntryPath, bool)> = below
            .read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(|(name, node)| Some((directory.join(name).ok()?, node.is_directory())))
            .collect();
        if hidden.is_empty() {
            return;
        }
        if let Some(Line::Shown { opaque, .. }) = self.entries.get_mut(directory)
            && !self
                .view
                .walk(directory)
                .skip(1)
                .any(|node| node.layer < base)
        {
            *opaque = true;
            return;
        }
        for (path, was_directory) in hidden {
            match self.view.lookup(&path) {
                None => {
                    self.entries.insert(path, Line::Removed);
                }
                Some(node) if was_directory && node.is_directory() => {
                    self.hide(below, base, &path);
                }
                Some(_) => {}
            }
        }
    }

    /// The layer's index: no file is looked at.
    ///
    /// # Errors
    /// When the layers of the view are no layers.
    pub fn index(&self) -> Result<LayerIndex, IndexError> {
        let entries = self.lines().map(|(mut entry, file)| {
            // As the tar stream will have it.
            entry.metadata.mtime.nanoseconds = 0;
            IndexEntry {
                entry,
                content: file.and_then(|file| file.content),
                data_offset: None,
            }
        });
        LayerIndex::new(entries.collect())
    }

    /// The layer, its files named where they are.
    ///
    /// # Errors
    /// When the bytes of a file cannot be had.
    pub fn changes(&self, content: &dyn LayerContent) -> io::Result<Vec<Change>> {
        self.lines()
            .map(|(entry, file)| with_content(entry, file, content))
            .collect()
    }

    fn lines(&self) -> impl Iterator<Item = (Entry, Option<Node<'a>>)> {
        let mut first_names = FirstNames::default();
        self.entries.iter().filter_map(move |(path, line)| {
            let (node, hides) = match line {
                Line::Removed => return Some((whiteout(path.clone()), None)),
                Line::Shown { node, opaque } => (node, *opaque),
            };
            let (mut entry, file) = shown(self.view, node, &mut first_names)?;
            if let Kind::Directory { opaque } = &mut entry.kind {
                *opaque = hides;
            }
            Some((entry, file))
        })
    }
}

fn whiteout(path: EntryPath) -> Entry {
    Entry {
        path,
        kind: Kind::Whiteout,
        metadata: Metadata::default(),
    }
}

#[cfg(test)]
mod tests;
