//! Copying files and directories with BuildKit's rules.

use std::collections::HashMap;

use crate::copy::archive::{Archive, Unpacking};
use crate::copy::overlay::Leaf;
use crate::copy::resolve::{clean, join};
use crate::copy::select::Selected;
use crate::copy::selection::{Match, Required};
use crate::copy::{
    CopyError, CopyOptions, CopySource, LayerBuilder, LinkIdentity, ModeChange, PathPatterns,
    SourceNode,
};
use crate::{EntryPath, FileContent, Kind, Metadata, Timestamp};

/// A copy with what its options mean for this layer.
struct Job<'j, P> {
    options: &'j CopyOptions<'j, P>,
    source: &'j dyn CopySource,
    owner: Option<(u32, u32)>,
    dest: Dest,
}

/// Where a copy goes.
pub(super) struct Dest {
    pub(super) path: EntryPath,
    /// The path ends in a slash: it means a directory, existing or not.
    pub(super) directory: bool,
}

impl Dest {
    pub(super) fn new(path: &str) -> Result<Self, CopyError> {
        Ok(Self {
            path: clean(path)?,
            directory: path.ends_with('/') || path.ends_with("/."),
        })
    }

    /// The directory that has to be there before anything is copied.
    fn ensured(&self) -> EntryPath {
        match self.directory {
            true => self.path.clone(),
            false => self.path.parent().unwrap_or_default(),
        }
    }
}

impl LayerBuilder<'_> {
    /// Copies what is selected of `source`.
    ///
    /// # Errors
    /// When something is missing that must be there, a directory meets a file or a file a
    /// directory, or a tree cannot be read. The layer is of no use then.
    pub fn copy<P: PathPatterns>(
        &mut self,
        options: &CopyOptions<'_, P>,
        source: &dyn CopySource,
    ) -> Result<(), CopyError> {
        let job = Job {
            options,
            source,
            owner: self.owner(options.owner.as_ref())?,
            dest: Dest::new(options.dest)?,
        };
        if !options.create_dest_path {
            self.check_parent(&job.dest)?;
        }
        let matches = options.selection.matches(source)?;
        if matches.is_empty() && !options.allow_empty_wildcard {
            return Err(CopyError::NoMatch {
                pattern: options.selection.path.to_owned(),
            });
        }
        let mut required = Required::new(&options.selection)?;
        for found in &matches {
            if !(options.unpack && self.unpack_match(&job, found)?) {
                self.copy_match(&job, found, &mut required)?;
            }
        }
        required.check(source)
    }

    fn check_parent(&self, dest: &Dest) -> Result<(), CopyError> {
        let path = self.overlay.resolve(&dest.path)?;
        let parent = path.parent().unwrap_or_default();
        match self.overlay.show(&parent) {
            Some(_) => Ok(()),
            None => Err(CopyError::Missing { path: parent }),
        }
    }

    /// Unpacks a file that is an archive; tells whether it is one.
    fn unpack_match<P>(&mut self, job: &Job<'_, P>, found: &Match) -> Result<bool, CopyError> {
        if !matches!(found.node.kind, Kind::File { .. }) {
            return Ok(false);
        }
        let content = job.source.content(&found.path)?;
        let Some(archive) = Archive::open(&found.path, &content, self.limits)? else {
            return Ok(false);
        };
        let root = self.overlay.resolve(&job.dest.path)?;
        let (uid, gid) = job.owner.unwrap_or_default();
        let implied = Metadata {
            mode: 0o755,
            uid,
            gid,
            mtime: job.time(&found.node.metadata),
            ..Metadata::default()
        };
        self.make_directories(&root, &implied)?;
        let owner = job.owner;
        self.unpack(archive, &Unpacking { root, owner })?;
        Ok(true)
    }

    fn copy_match<P: PathPatterns>(
        &mut self,
        job: &Job<'_, P>,
        found: &Match,
        required: &mut Required,
    ) -> Result<(), CopyError> {
        let implied = job.implied_metadata(&found.node);
        let ensured = self.overlay.resolve(&job.dest.ensured())?;
        self.make_directories(&ensured, &implied)?;
        let target = self.target(job, found)?;
        self.make_directories(&target.parent().unwrap_or_default(), &implied)?;
        if job.contents_of(&found.node) && self.overlay.show(&target).is_none() {
            // Made like any directory on the way, not like the source.
            self.make_directories(&target, &implied)?;
        }
        let mut links = HashMap::new();
        job.options
            .selection
            .walk(job.source, found, &mut |selected| {
                required.seen(found, &selected);
                let path = join(&target, selected.relative.as_bytes())?;
                self.write(job, &selected, &path, &mut links)
            })
    }

    /// Where the item at the top goes: into the destination if that is a directory, unless
    /// the item's contents do.
    fn target<P>(&self, job: &Job<'_, P>, found: &Match) -> Result<EntryPath, CopyError> {
        let dest = self.overlay.resolve(&job.dest.path)?;
        let into = match self.overlay.show(&dest) {
            None => false,
            Some(_) if job.contents_of(&found.node) => false,
            Some(_) if found.node.is_directory() => true,
            Some(shown) => shown.is_directory(),
        };
        match into {
            true => join(&dest, found.named.name()),
            false => Ok(dest),
        }
    }

    fn write<P>(
        &mut self,
        job: &Job<'_, P>,
        selected: &Selected,
        path: &EntryPath,
        links: &mut HashMap<LinkIdentity, EntryPath>,
    ) -> Result<(), CopyError> {
        let shown = self.overlay.show(path).map(|shown| shown.is_directory());
        let is_directory = selected.node.is_directory();
        let replaced = job.options.always_replace
            && !selected.needed
            && shown.is_some_and(|shown| !(shown && is_directory));
        if replaced {
            self.overlay.remove(path)?;
        }
        match (is_directory, shown.filter(|_| !replaced)) {
            (true, None) => {
                let metadata = job.metadata(&selected.node);
                self.overlay.make_directory(path, metadata)
            }
            (true, Some(true)) => self.merge_directory(job, selected, path),
            (true, Some(false)) => Err(CopyError::DirectoryOverOther { path: path.clone() }),
            (false, Some(true)) => Err(CopyError::FileOverDirectory { path: path.clone() }),
            (false, _) => self.write_leaf(job, selected, path, links),
        }
    }

    /// An existing directory: at the top it keeps everything but its time, one that is
    /// only needed takes the source's bare mode, any other becomes as the source's.
    fn merge_directory<P>(
        &mut self,
        job: &Job<'_, P>,
        selected: &Selected,
        path: &EntryPath,
    ) -> Result<(), CopyError> {
        let directory = self.overlay.directory(path)?;
        let existing = &mut directory.metadata;
        let source = &selected.node.metadata;
        if selected.relative.is_root() {
            existing.mtime = job.time(source);
        } else if selected.needed {
            existing.mode = source.mode;
        } else {
            let mut metadata = job.metadata(&selected.node);
            let xattrs = std::mem::take(&mut existing.xattrs);
            for (name, value) in xattrs {
                metadata.xattrs.entry(name).or_insert(value);
            }
            *existing = metadata;
        }
        Ok(())
    }

    fn write_leaf<P>(
        &mut self,
        job: &Job<'_, P>,
        selected: &Selected,
        path: &EntryPath,
        links: &mut HashMap<LinkIdentity, EntryPath>,
    ) -> Result<(), CopyError> {
        if let Some(identity) = selected.node.link {
            if let Some(first) = links.get(&identity) {
                return self.overlay.link(first, path);
            }
            links.insert(identity, path.clone());
        }
        let content = match selected.node.kind {
            Kind::File { .. } => job.source.content(&selected.path)?,
            _ => FileContent::Empty,
        };
        let leaf = Leaf {
            kind: selected.node.kind.clone(),
            metadata: job.metadata(&selected.node),
            content,
            link: None,
        };
        self.overlay.put(path, leaf)
    }
}

impl<P> Job<'_, P> {
    /// Whether a directory's contents are copied, rather than itself.
    fn contents_of(&self, node: &SourceNode) -> bool {
        node.is_directory() && self.options.selection.directory_contents_only
    }

    fn time(&self, source: &Metadata) -> Timestamp {
        match self.options.timestamp {
            None => source.mtime,
            Some(seconds) => Timestamp {
                seconds,
                nanoseconds: 0,
            },
        }
    }

    fn metadata(&self, node: &SourceNode) -> Metadata {
        let source = &node.metadata;
        let (uid, gid) = self.owner.unwrap_or((source.uid, source.gid));
        let mode = match &self.options.mode {
            // Links have no mode of their own.
            Some(change) if !matches!(node.kind, Kind::Symlink { .. }) => {
                change.apply(source.mode, node.is_directory())
            }
            _ => source.mode,
        };
        Metadata {
            mode,
            uid,
            gid,
            mtime: self.time(source),
            xattrs: source.xattrs.clone(),
        }
    }

    /// Of directories that are made because something needs them. `--chown` applies to
    /// them, and so does an octal `--chmod`. Their time is that of what is copied first,
    /// so that the layer is the same whenever it is made.
    fn implied_metadata(&self, first: &SourceNode) -> Metadata {
        let (uid, gid) = self.owner.unwrap_or_default();
        Metadata {
            mode: ModeChange::implied_directory(self.options.mode.as_ref()),
            uid,
            gid,
            mtime: self.time(&first.metadata),
            ..Metadata::default()
        }
    }
}
