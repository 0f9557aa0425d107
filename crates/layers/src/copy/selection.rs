//! What a copy selects, and the key of it.

use crate::Metadata;
use crate::copy::resolve::{Step, clean, join, resolve};
use crate::copy::select::{Patterns, Selected, walk};
use crate::copy::suggest::suggest;
use crate::copy::wildcard::{Wildcard, has_wildcard};
use crate::copy::{CopyError, CopySource, PathPatterns, SourceNode};
use crate::field_hasher::FieldHasher;
use crate::{ContentHash, EntryPath, Kind};

/// Which paths of a source are copied.
#[derive(Clone, Debug)]
pub struct Selection<'a, P> {
    /// The path, from the source's root, which it cannot leave.
    pub path: &'a str,
    /// `path` may hold wildcards.
    pub wildcard: bool,
    /// A symbolic link at `path` itself is followed.
    pub follow_links: bool,
    /// Of a directory at `path`, only what is in it is copied.
    pub directory_contents_only: bool,
    /// Only what matches, relative to what `path` names.
    pub include: Option<P>,
    /// Nothing that matches, relative to what `path` names; never that itself.
    pub exclude: Option<P>,
    /// Paths, from the source's root, at or below which something must be selected.
    pub required: &'a [String],
}

/// The key of what a selection takes from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelectionDigest(pub [u8; 32]);

/// One path that a selection names.
#[derive(Debug)]
pub(super) struct Match {
    /// As it is named, with symbolic links.
    pub(super) named: EntryPath,
    /// Where it leads.
    pub(super) path: EntryPath,
    pub(super) node: SourceNode,
}

impl<'a, P: PathPatterns> Selection<'a, P> {
    /// One literal path, with nothing left out.
    pub fn literal(path: &'a str) -> Self {
        Self {
            path,
            wildcard: false,
            follow_links: true,
            directory_contents_only: true,
            include: None,
            exclude: None,
            required: &[],
        }
    }

    /// What `path` names, sorted; a literal path that is not there is an error.
    pub(super) fn matches(&self, source: &dyn CopySource) -> Result<Vec<Match>, CopyError> {
        let named = match self.wildcard {
            true => expand(source, self.path, self.follow_links)?,
            false => vec![clean(self.path)?],
        };
        named
            .into_iter()
            .map(|named| find(source, named, self.follow_links))
            .collect()
    }

    /// Visits everything that is selected at and below one of [`Self::matches`].
    pub(super) fn walk(
        &self,
        source: &dyn CopySource,
        found: &Match,
        visit: &mut dyn FnMut(Selected) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let patterns = Patterns {
            include: self.include.as_ref(),
            exclude: self.exclude.as_ref(),
        };
        walk(source, &found.path, found.node.clone(), &patterns, visit)
    }
}

/// The required paths that nothing was selected for yet.
pub(super) struct Required(Vec<EntryPath>);

impl Required {
    pub(super) fn new<P>(selection: &Selection<'_, P>) -> Result<Self, CopyError> {
        let paths = selection.required.iter().map(|path| clean(path));
        Ok(Self(paths.collect::<Result<_, _>>()?))
    }

    pub(super) fn seen(&mut self, found: &Match, selected: &Selected) {
        // The item at the top is not selected by any pattern.
        if self.0.is_empty() || selected.relative.is_root() {
            return;
        }
        if let Ok(path) = found.named.join(selected.relative.as_bytes()) {
            self.0.retain(|required| !path.starts_with(required));
        }
    }

    pub(super) fn check(self, source: &dyn CopySource) -> Result<(), CopyError> {
        match self.0.first() {
            None => Ok(()),
            Some(path) => Err(not_found(source, path)?),
        }
    }
}

pub(super) fn not_found(source: &dyn CopySource, path: &EntryPath) -> Result<CopyError, CopyError> {
    Ok(CopyError::NotFound {
        path: path.to_string(),
        suggestion: suggest(source, path)?,
    })
}

fn find(source: &dyn CopySource, named: EntryPath, follow: bool) -> Result<Match, CopyError> {
    let Some((path, node)) = locate(source, &named, follow)? else {
        return Err(not_found(source, &named)?);
    };
    Ok(Match { named, path, node })
}

/// Where a path of the source leads; `None` when nothing is there.
pub(super) fn locate(
    source: &dyn CopySource,
    named: &EntryPath,
    follow: bool,
) -> Result<Option<(EntryPath, SourceNode)>, CopyError> {
    let look = |path: &EntryPath| {
        Ok(match source.lookup(path)?.map(|node| node.kind) {
            None => Step::Missing,
            Some(Kind::Directory { .. }) => Step::Directory,
            Some(Kind::Symlink { target }) => Step::Link(target),
            Some(_) => Step::Other,
        })
    };
    let path = match resolve(named, follow, look) {
        Err(CopyError::NotADirectory { .. }) => return Ok(None),
        other => other?,
    };
    Ok(source.lookup(&path)?.map(|node| (path, node)))
}

/// The paths that a pattern names, sorted. Its first components that hold no wildcard are
/// a literal path, in which symbolic links are followed; below it none are.
pub(super) fn expand(
    source: &dyn CopySource,
    pattern: &str,
    follow: bool,
) -> Result<Vec<EntryPath>, CopyError> {
    let whole = clean(pattern)?;
    let names: Vec<&[u8]> = whole.components().collect();
    let literal = names.iter().take_while(|name| !has_wildcard(name)).count();
    if literal == names.len() {
        return Ok(vec![whole]);
    }
    let (above, below) = names.split_at(literal);
    let above = EntryPath::new(above.join(&b'/')).map_err(|_| CopyError::InvalidPath {
        path: pattern.to_owned(),
    })?;
    let wildcard = Wildcard::new(&below.join(&b'/')).map_err(|_| CopyError::BadPattern {
        pattern: pattern.to_owned(),
    })?;
    let Some((base, _)) = locate(source, &above, follow)? else {
        return Err(not_found(source, &above)?);
    };
    matching(source, &base, &wildcard)
}

fn matching(
    source: &dyn CopySource,
    base: &EntryPath,
    wildcard: &Wildcard,
) -> Result<Vec<EntryPath>, CopyError> {
    let mut found = Vec::new();
    let mut pending = vec![EntryPath::root()];
    while let Some(directory) = pending.pop() {
        for child in source.read_dir(&join(base, directory.as_bytes())?)? {
            let relative = join(&directory, &child.name)?;
            if wildcard.matches(relative.as_bytes()) {
                found.push(join(base, relative.as_bytes())?);
            } else if child.node.is_directory() && wildcard.may_match_below(relative.as_bytes()) {
                pending.push(relative);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The key of what a selection takes from a source: names, contents, kinds, modes, owners,
/// extended attributes and link targets, but no modification times, nothing that is left
/// out, and not the metadata of a directory whose contents alone are copied.
///
/// Which files are hard links of one another does not count either: it decides how a layer
/// stores them, not what they are.
///
/// # Errors
/// When a literal path is not there, a pattern is malformed, or the source cannot be read.
pub fn selection_digest<P: PathPatterns>(
    source: &dyn CopySource,
    selection: &Selection<'_, P>,
) -> Result<SelectionDigest, CopyError> {
    let mut key = Key(FieldHasher::new("longshore selection 1"));
    let mut required = Required::new(selection)?;
    for found in selection.matches(source)? {
        let mut selected = Vec::new();
        selection.walk(source, &found, &mut |one| {
            required.seen(&found, &one);
            selected.push(one);
            Ok(())
        })?;
        key.0.bytes(found.named.name());
        key.selected(source, selection.directory_contents_only, &selected)?;
    }
    required.check(source)?;
    Ok(SelectionDigest(key.0.finish()))
}

/// One of the paths that a selection takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedPath {
    /// In the source.
    pub path: EntryPath,
    /// Of its kind, and of what it holds or leads to.
    pub content: [u8; 32],
    /// Its metadata.
    pub metadata: Metadata,
}

/// What a selection takes from a source, one by one, but for the source's root.
///
/// # Errors
/// As [`selection_digest`], but that a pattern which must be met may be unmet.
pub fn selected_paths<P: PathPatterns>(
    source: &dyn CopySource,
    selection: &Selection<'_, P>,
) -> Result<Vec<SelectedPath>, CopyError> {
    let mut paths = Vec::new();
    for found in selection.matches(source)? {
        let mut selected = Vec::new();
        selection.walk(source, &found, &mut |one| {
            selected.push(one);
            Ok(())
        })?;
        let mut hashes = hashes_of_files(source, &selected)?.into_iter();
        for one in selected {
            let mut key = Key(FieldHasher::new("longshore selected path 1"));
            key.kind(&one.node.kind, &mut hashes);
            if !one.path.is_root() {
                paths.push(SelectedPath {
                    path: one.path,
                    content: key.0.finish(),
                    metadata: one.node.metadata,
                });
            }
        }
    }
    Ok(paths)
}

/// The hashes of those of what is selected that are files.
fn hashes_of_files(
    source: &dyn CopySource,
    selected: &[Selected],
) -> Result<Vec<ContentHash>, CopyError> {
    let files: Vec<EntryPath> = selected
        .iter()
        .filter(|one| matches!(one.node.kind, Kind::File { .. }))
        .map(|one| one.path.clone())
        .collect();
    Ok(source.content_hashes(&files)?)
}

/// Every field of what is selected, hashed.
struct Key(FieldHasher);

impl Key {
    fn selected(
        &mut self,
        source: &dyn CopySource,
        contents_only: bool,
        selected: &[Selected],
    ) -> Result<(), CopyError> {
        let mut hashes = hashes_of_files(source, selected)?.into_iter();
        self.0.number(selected.len() as u64);
        for one in selected {
            self.0.bytes(one.relative.as_bytes());
            self.0.number(u64::from(one.needed));
            let bare = contents_only && one.relative.is_root() && one.node.is_directory();
            self.kind(&one.node.kind, &mut hashes);
            if !bare {
                self.0.metadata(&one.node.metadata);
            }
        }
        Ok(())
    }

    fn kind(&mut self, kind: &Kind, hashes: &mut impl Iterator<Item = ContentHash>) {
        match kind {
            Kind::File { .. } => {
                self.0.number(0);
                // One hash was asked for, and given, for each file.
                self.0.bytes(&hashes.next().map_or([0; 32], |hash| hash.0));
            }
            Kind::Directory { .. } => self.0.number(1),
            Kind::Symlink { target } => {
                self.0.number(2);
                self.0.bytes(target);
            }
            Kind::CharDevice { major, minor } => self.device(3, *major, *minor),
            Kind::BlockDevice { major, minor } => self.device(4, *major, *minor),
            Kind::Fifo => self.0.number(5),
            Kind::Hardlink { target } => {
                self.0.number(6);
                self.0.bytes(target.as_bytes());
            }
            Kind::Whiteout => self.0.number(7),
        }
    }

    fn device(&mut self, kind: u64, major: u32, minor: u32) {
        self.0.number(kind);
        self.0.number(u64::from(major));
        self.0.number(u64::from(minor));
    }
}
