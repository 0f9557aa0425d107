//! What a layer's tar stream amounts to.
//!
//! Entries arrive in any order, may repeat, lie below symbolic links of the same layer, and
//! mark deletions by their names. The assembly places each one, as containerd would on disk
//! but without a disk, and ends as a [`LayerIndex`].
//!
//! Rules (image-spec `layer.md`):
//! - A later entry replaces an earlier one at its path; what was below a replaced directory
//!   goes with it. Two directories become one with the later's metadata.
//! - A symbolic link of this layer on the way to an entry is followed inside the root; one at
//!   the entry itself is replaced. Links of lower layers do not exist here: below them stand
//!   real directories.
//! - Whiteouts hide lower layers only, wherever in the stream they stand. A path that is
//!   whited out and has entries of this layer is an opaque directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::limits::SYMLINKS_FOLLOWED_MAX;
use crate::tar::{Member, OPAQUE_MARKER, TarReason, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX};
use crate::tree::implied_metadata;
use crate::{ContentHash, Entry, EntryPath, IndexEntry, IndexError, Kind, LayerIndex, xattr};

/// A layer that is being put together.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    entries: BTreeMap<EntryPath, IndexEntry>,
    /// The hard links of each file.
    links: HashMap<EntryPath, BTreeSet<EntryPath>>,
    hidden: BTreeSet<EntryPath>,
    opaque: BTreeSet<EntryPath>,
    /// The last parent directory that was asked for and what it is really.
    last_parent: Option<(EntryPath, EntryPath)>,
}

/// Where a member belongs.
#[derive(Debug)]
pub(crate) struct Located {
    /// With its real path, and only the attributes that are kept.
    pub(crate) entry: Entry,
    /// Whether something of this layer has to go first.
    pub(crate) replaces: bool,
    data_offset: Option<u64>,
}

impl Assembly {
    /// Finds out where the next member belongs; [`put`](Self::put) puts it there. `None` for
    /// what is no change of its own: the root, a mark, or something meaningless.
    pub(crate) fn locate(&mut self, member: Member) -> Result<Option<Located>, TarReason> {
        let Member { entry, data_offset } = member;
        let Some(parent) = entry.path.parent() else {
            return Ok(None);
        };
        match mark_of(&entry.path)? {
            Mark::None => {
                let parent = self.real_directory(&parent)?;
                self.locate_in(&parent, entry, data_offset).map(Some)
            }
            Mark::Ignored => Ok(None),
            Mark::Opaque if parent.is_root() => Err(TarReason::Whiteout(entry.path)),
            Mark::Opaque => {
                let directory = self.real_directory(&parent)?;
                self.opaque.insert(directory);
                Ok(None)
            }
            Mark::Whiteout(name) => {
                let parent = self.real_directory(&parent)?;
                self.hidden.insert(child(&parent, name)?);
                Ok(None)
            }
        }
    }

    /// Notes the hash of the file that was placed at `path`.
    pub(crate) fn set_content(&mut self, path: &EntryPath, hash: ContentHash) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.content = Some(hash);
        }
    }

    /// The layer's index.
    pub(crate) fn finish(mut self) -> Result<LayerIndex, IndexError> {
        for path in std::mem::take(&mut self.hidden) {
            self.finish_whiteout(path);
        }
        for path in std::mem::take(&mut self.opaque) {
            self.make_opaque(path);
        }
        self.sort_names();
        LayerIndex::new(self.entries.into_values().collect())
    }

    /// Makes the first name of each file in the index's order the file and its other names
    /// hard links to it, so that the index can be written again in its order and does not
    /// depend on the stream's.
    fn sort_names(&mut self) {
        let files: Vec<_> = std::mem::take(&mut self.links).into_iter().collect();
        for (file, names) in files {
            let first = names.first().filter(|first| **first < file).cloned();
            let is_file = |line: &IndexEntry| matches!(line.entry.kind, Kind::File { .. });
            let (Some(first), true) = (first, self.entries.get(&file).is_some_and(is_file)) else {
                continue;
            };
            let Some(mut line) = self.entries.remove(&file) else {
                continue;
            };
            line.entry.path.clone_from(&first);
            let mut link = line.clone();
            (link.content, link.data_offset) = (None, None);
            link.entry.kind = Kind::Hardlink {
                target: first.clone(),
            };
            for name in names
                .into_iter()
                .chain([file])
                .filter(|name| *name != first)
            {
                link.entry.path.clone_from(&name);
                self.entries.insert(name, link.clone());
            }
            self.entries.insert(first, line);
        }
    }

    fn finish_whiteout(&mut self, path: EntryPath) {
        let is_directory = self
            .entries
            .get(&path)
            .is_some_and(|own| matches!(own.entry.kind, Kind::Directory { .. }));
        if is_directory || self.has_below(&path) {
            self.make_opaque(path);
        } else {
            let whiteout = Entry {
                path: path.clone(),
                kind: Kind::Whiteout,
                metadata: crate::Metadata::default(),
            };
            let own = self.entries.entry(path);
            own.or_insert_with(|| listed(whiteout, None));
        }
    }

    fn make_opaque(&mut self, path: EntryPath) {
        match self.entries.get_mut(&path) {
            Some(own) => {
                if let Kind::Directory { opaque } = &mut own.entry.kind {
                    *opaque = true;
                }
            }
            None => {
                let directory = Entry {
                    path: path.clone(),
                    kind: Kind::Directory { opaque: true },
                    metadata: implied_metadata(),
                };
                self.entries.insert(path, listed(directory, None));
            }
        }
    }

    fn locate_in(
        &self,
        parent: &EntryPath,
        mut entry: Entry,
        data_offset: Option<u64>,
    ) -> Result<Located, TarReason> {
        entry.path = child(parent, entry.path.name())?;
        entry.metadata.xattrs.retain(|name, _| xattr::is_kept(name));
        self.settle_kind(&mut entry)?;
        Ok(Located {
            replaces: self.is_in_the_way(&entry),
            entry,
            data_offset,
        })
    }

    /// Puts an entry where it belongs; what it replaces goes, and its hashes must be known.
    pub(crate) fn put(&mut self, located: Located) {
        let entry = located.entry;
        if located.replaces {
            self.make_room(&entry.path);
        }
        if let Kind::Hardlink { target } = &entry.kind {
            let links = self.links.entry(target.clone()).or_default();
            links.insert(entry.path.clone());
        }
        let line = listed(entry, located.data_offset);
        self.entries.insert(line.entry.path.clone(), line);
    }

    /// Makes a hard link name the file itself; one to anything else becomes its like.
    fn settle_kind(&self, entry: &mut Entry) -> Result<(), TarReason> {
        if matches!(entry.kind, Kind::CharDevice { major: 0, minor: 0 }) {
            return Err(TarReason::WhiteoutDevice);
        }
        let Kind::Hardlink { target } = &entry.kind else {
            return Ok(());
        };
        let parent = target.parent();
        let parent = parent.ok_or_else(|| TarReason::LinkTarget(target.clone()))?;
        let target = child(&self.follow_directory(&parent)?, target.name())?;
        let reserved = |name: &[u8]| name.starts_with(WHITEOUT_PREFIX);
        if target == entry.path || target.components().any(reserved) {
            return Err(TarReason::LinkTarget(target));
        }
        let own = self.entries.get(&target).map(|own| &own.entry);
        entry.kind = match own.map(|own| &own.kind) {
            None if self.has_below(&target) => return Err(TarReason::LinkTarget(target)),
            Some(Kind::Directory { .. }) => return Err(TarReason::LinkTarget(target)),
            // A second name of the file that stands there already changes nothing.
            Some(Kind::Hardlink { target: first }) if *first == entry.path => {
                return Err(TarReason::LinkTarget(target));
            }
            Some(Kind::Hardlink { target: first }) => Kind::Hardlink {
                target: first.clone(),
            },
            None | Some(Kind::File { .. }) => Kind::Hardlink { target },
            Some(other) => other.clone(),
        };
        if let Some(own) = own {
            entry.metadata = own.metadata.clone();
        }
        Ok(())
    }

    fn is_in_the_way(&self, entry: &Entry) -> bool {
        let path = &entry.path;
        let own = self.entries.get(path).map(|own| &own.entry.kind);
        match (&entry.kind, own) {
            (Kind::Directory { .. }, None | Some(Kind::Directory { .. })) => false,
            (Kind::Directory { .. }, Some(_)) => true,
            (_, own) => own.is_some() || self.has_below(path),
        }
    }

    /// Removes what is at and below `path`.
    fn make_room(&mut self, path: &EntryPath) {
        self.last_parent = None;
        let gone: Vec<EntryPath> = self
            .entries
            .range((Bound::Included(path), Bound::Unbounded))
            .map(|(path, _)| path)
            .take_while(|below| below.starts_with(path))
            .cloned()
            .collect();
        for path in gone {
            self.remove(&path);
        }
    }

    /// Removes one entry. When it is a file with other names, the first of them becomes it.
    fn remove(&mut self, path: &EntryPath) {
        let Some(removed) = self.entries.remove(path) else {
            return;
        };
        if let Kind::Hardlink { target } = &removed.entry.kind {
            if let Some(links) = self.links.get_mut(target) {
                links.remove(path);
            }
            return;
        }
        let Some(mut names) = self.links.remove(path) else {
            return;
        };
        let Some(heir) = names.pop_first() else {
            return;
        };
        for name in &names {
            if let Some(link) = self.entries.get_mut(name) {
                let target = heir.clone();
                link.entry.kind = Kind::Hardlink { target };
            }
        }
        self.links.insert(heir.clone(), names);
        let mut line = removed;
        line.entry.path = heir.clone();
        self.entries.insert(heir, line);
    }

    /// Whether entries of this layer lie below `path`.
    fn has_below(&self, path: &EntryPath) -> bool {
        self.entries
            .range((Bound::Excluded(path), Bound::Unbounded))
            .next()
            .is_some_and(|(below, _)| below.starts_with(path))
    }

    fn real_directory(&mut self, path: &EntryPath) -> Result<EntryPath, TarReason> {
        if let Some((asked, real)) = &self.last_parent
            && asked == path
        {
            return Ok(real.clone());
        }
        let real = self.follow_directory(path)?;
        self.last_parent = Some((path.clone(), real.clone()));
        Ok(real)
    }

    /// Follows this layer's symbolic links in the path of a directory.
    fn follow_directory(&self, path: &EntryPath) -> Result<EntryPath, TarReason> {
        let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut real = EntryPath::root();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                real = real.parent().unwrap_or_default();
                continue;
            }
            let next = child(&real, &name)?;
            match self.entries.get(&next).map(|own| &own.entry.kind) {
                None | Some(Kind::Directory { .. }) => real = next,
                Some(Kind::Symlink { target }) => {
                    links += 1;
                    if links > SYMLINKS_FOLLOWED_MAX {
                        return Err(TarReason::Loop);
                    }
                    if target.first() == Some(&b'/') {
                        real = EntryPath::root();
                    }
                    let parts = target.split(|byte| *byte == b'/').rev();
                    let parts = parts.filter(|part| !matches!(part, [] | [b'.']));
                    pending.extend(parts.map(<[u8]>::to_vec));
                }
                Some(_) => return Err(TarReason::NotADirectory(next)),
            }
        }
        Ok(real)
    }
}

fn listed(entry: Entry, data_offset: Option<u64>) -> IndexEntry {
    IndexEntry {
        entry,
        content: None,
        data_offset,
    }
}

fn child(parent: &EntryPath, name: &[u8]) -> Result<EntryPath, TarReason> {
    let joined = parent.join(name);
    let path = joined.map_err(|_| TarReason::Path(name.to_vec()))?;
    // Links lengthen paths.
    match crate::limits::path_within_limits(&path) {
        true => Ok(path),
        false => Err(TarReason::Limit {
            what: "bytes or components in a path",
            max: crate::limits::PATH_BYTES_MAX as u64,
        }),
    }
}

enum Mark<'a> {
    None,
    /// One of AUFS's own files, which mean nothing elsewhere.
    Ignored,
    Opaque,
    Whiteout(&'a [u8]),
}

fn mark_of(path: &EntryPath) -> Result<Mark<'_>, TarReason> {
    let name = path.name();
    let parent_bytes = path.as_bytes().len() - name.len();
    let mut end = 0;
    for component in path.components() {
        if end >= parent_bytes {
            break;
        }
        end += component.len() + 1;
        if component.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(Mark::Ignored);
        }
        if component.starts_with(WHITEOUT_PREFIX) {
            return Err(TarReason::Whiteout(path.clone()));
        }
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else {
        return Ok(Mark::None);
    };
    match hidden {
        _ if name == OPAQUE_MARKER => Ok(Mark::Opaque),
        _ if name.starts_with(WHITEOUT_META_PREFIX) => Ok(Mark::Ignored),
        [] | [b'.'] | [b'.', b'.'] => Err(TarReason::Whiteout(path.clone())),
        hidden => Ok(Mark::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests;
