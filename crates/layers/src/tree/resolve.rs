//! Following a path through a [`TreeView`] as a process whose root it is would.

use super::{Slot, TreeView};
use crate::limits::SYMLINKS_FOLLOWED_MAX;
use crate::{EntryPath, Kind};

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The path with no symbolic link left in it (but perhaps the last component, when it was
    /// not to be followed).
    pub path: EntryPath,
    /// How many of the path's last components do not exist.
    pub missing: usize,
}

impl Resolved {
    /// Whether something stands there.
    pub fn exists(&self) -> bool {
        self.missing == 0
    }
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Too many symbolic links.
    #[error("too many symbolic links on the way to `{}`", String::from_utf8_lossy(.0))]
    Loop(Vec<u8>),
    /// Something on the way is no directory.
    #[error("`{at}` is not a directory")]
    NotADirectory {
        /// What is in the way.
        at: EntryPath,
    },
    /// The path holds a NUL or is too long.
    #[error("`{}` is not a valid path", String::from_utf8_lossy(.0))]
    Invalid(Vec<u8>),
}

impl TreeView {
    /// Follows `path` from the root: symbolic links lead inside the root, `..` stops at it.
    /// The last component is followed when `follow_last` is set.
    ///
    /// # Errors
    /// When links loop, or a component before the last is no directory.
    pub fn resolve(
        &self,
        path: impl AsRef<[u8]>,
        follow_last: bool,
    ) -> Result<Resolved, ResolveError> {
        let path = path.as_ref();
        let mut way = Way {
            view: self,
            asked: path,
            done: Vec::new(),
            missing: 0,
            links: 0,
        };
        let mut pending = Vec::new();
        push_components(&mut pending, path);
        while let Some(name) = pending.pop() {
            let follow = follow_last || !pending.is_empty();
            way.step(&name, follow, &mut pending)?;
        }
        way.finish()
    }
}

/// Puts the components of `path` on a stack, the first on top.
fn push_components(pending: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|byte| *byte == b'/');
    pending.extend(
        names
            .rev()
            .filter(|name| !matches!(**name, [] | [b'.']))
            .map(<[u8]>::to_vec),
    );
}

struct Way<'a> {
    view: &'a TreeView,
    asked: &'a [u8],
    done: Vec<(Vec<u8>, Option<&'a Slot>)>,
    missing: usize,
    links: usize,
}

impl<'a> Way<'a> {
    fn step(
        &mut self,
        name: &[u8],
        follow: bool,
        pending: &mut Vec<Vec<u8>>,
    ) -> Result<(), ResolveError> {
        if name == b".." {
            self.done.pop();
            self.missing = self.missing.saturating_sub(1);
            return Ok(());
        }
        let Some(slot) = self.child(name)? else {
            self.missing += 1;
            self.done.push((name.to_vec(), None));
            return Ok(());
        };
        match &self.view.node(slot).entry.kind {
            Kind::Symlink { target } if follow => self.follow(target, pending),
            _ => {
                self.done.push((name.to_vec(), Some(slot)));
                Ok(())
            }
        }
    }

    fn child(&self, name: &[u8]) -> Result<Option<&'a Slot>, ResolveError> {
        let directory = match self.done.last() {
            None => &self.view.root,
            Some((_, Some(slot))) => slot,
            Some((_, None)) => return Ok(None),
        };
        match &directory.children {
            Some(children) => Ok(children.get(name)),
            None => Err(ResolveError::NotADirectory { at: self.path()? }),
        }
    }

    fn follow(&mut self, target: &[u8], pending: &mut Vec<Vec<u8>>) -> Result<(), ResolveError> {
        self.links += 1;
        if self.links > SYMLINKS_FOLLOWED_MAX {
            return Err(ResolveError::Loop(self.asked.to_vec()));
        }
        if target.first() == Some(&b'/') {
            self.done.clear();
        }
        push_components(pending, target);
        Ok(())
    }

    fn path(&self) -> Result<EntryPath, ResolveError> {
        let names: Vec<&[u8]> = self.done.iter().map(|(name, _)| &name[..]).collect();
        EntryPath::new(names.join(&b'/')).map_err(|_| ResolveError::Invalid(self.asked.to_vec()))
    }

    fn finish(self) -> Result<Resolved, ResolveError> {
        Ok(Resolved {
            path: self.path()?,
            missing: self.missing,
        })
    }
}
