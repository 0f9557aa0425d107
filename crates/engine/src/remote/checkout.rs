//! Work trees of commits, as layers.
//!
//! A commit is checked out straight into the directory that becomes its layer's. Modes are
//! git's own two, and every file has the time of the commit, so that the same commit is the
//! same layer, whoever checks it out and when.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use longshore_graph::{GitSource, redacted_url};
use longshore_layers::{LayerIndex, TreeView, diff_upper};
use longshore_snapshot::{ActiveSnapshot, Snapshotter as _};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::commit::{Commit, identity, is_whole_hash, keeps_git_dir, subdirectory};
use super::git::{Call, EVERY_PROTOCOL, Git};
use super::mirror::Mirror;
use super::record::{self, Sort};
use super::{RemoteError, Remotes};
use crate::EngineError;
use crate::layer::{Layer, LayerStore};
use crate::lock_file::git_name;
use crate::tree::{RecordedLayer, Tree};

/// The most files of a commit. A few objects that name one another over and over can stand
/// for more files than a disk has room for.
const FILES_MAX: u64 = longshore_layers::limits::ENTRIES_MAX as u64;
/// The most bytes of a commit's files: as much as a layer may hold.
const BYTES_MAX: u64 = 256 << 30;
/// The latest time that a commit may claim: the end of the year 9999.
pub(super) const TIME_S_MAX: i64 = 253_402_300_799;

/// A commit's work tree.
#[derive(Clone, Debug)]
pub(super) struct Checkout {
    layer: Arc<Layer>,
    /// When the commit was made, seconds since 1970.
    pub(super) time_s: i64,
}

/// What is remembered of a checkout.
#[derive(Serialize, Deserialize)]
struct Record {
    layer: RecordedLayer,
    time_s: i64,
}

impl Remotes {
    /// A repository's work tree.
    pub(crate) async fn git_tree(&self, source: &GitSource) -> Result<Tree, EngineError> {
        Ok(Tree::Layers(vec![self.checkout(source).await?.layer]))
    }

    /// A repository's work tree, as an open directory.
    pub(crate) async fn git_directory(
        &self,
        source: &GitSource,
    ) -> Result<Arc<OwnedFd>, EngineError> {
        let layer = self.checkout(source).await?.layer;
        self.engine.layers().directory(&layer, &[]).await?;
        self.engine.layers().open_directory(&layer)
    }

    /// The work tree of the commit that a source stands for in this build.
    pub(super) async fn checkout(&self, source: &GitSource) -> Result<Checkout, EngineError> {
        let commit = self.commit(source).await?;
        let identity = identity(source, &commit);
        let cell = self.checkouts.cell(&identity);
        let made = cell.get_or_try_init(|| async {
            let checkout = match self.known_checkout(&identity).await? {
                Some(known) => known,
                None => Box::pin(self.check_out(source, &commit, &identity))
                    .await
                    .map_err(|error| self.gone_commit(source, &commit, error))?,
            };
            self.lease.add_layers([&checkout.layer.key.record_id()])?;
            Ok::<_, EngineError>(checkout)
        });
        made.await.cloned()
    }

    /// Why a commit is not to be had, where that is what a lock says.
    fn gone_commit(&self, source: &GitSource, commit: &Commit, error: EngineError) -> EngineError {
        let is_of_git = matches!(&error, EngineError::Remote(error) if error.is_of_git());
        let held = self.held.get().filter(|held| {
            is_of_git && !is_whole_hash(&source.reference) && held.holds_commit(source)
        });
        match held {
            Some(held) => held
                .gone(
                    "git reference",
                    git_name(source),
                    commit.commit().to_owned(),
                    error,
                )
                .into(),
            None => error,
        }
    }

    async fn known_checkout(&self, identity: &str) -> Result<Option<Checkout>, EngineError> {
        let (engine, key) = (self.engine.clone(), Sort::Checkout.key(identity));
        let lease = Arc::clone(&self.lease);
        spawn_blocking(move || {
            let Some(Record { layer, time_s }) = record::find(engine.root(), key)? else {
                return Ok(None);
            };
            let created = Timestamp::from_second(layer.created_s).unwrap_or(Timestamp::UNIX_EPOCH);
            let layer = engine.layers().recorded(layer.key.into(), created);
            lease.add_layers([&layer.key.record_id()])?;
            let is_here = engine.layers().is_stored(&layer)?;
            Ok(is_here.then_some(Checkout { layer, time_s }))
        })
        .await?
    }

    async fn check_out(
        &self,
        source: &GitSource,
        commit: &Commit,
        identity: &str,
    ) -> Result<Checkout, EngineError> {
        let git = self.git(source).await?;
        let mirror = self.mirror(&git, source, commit).await?;
        let first = self.check_out_from(&git, &mirror, source, commit).await;
        let (active, time_s) = match first {
            // A mirror that is damaged is made again, once.
            Err(EngineError::Remote(error)) if error.is_of_git() => {
                mirror.renew(&git, source, commit).await?;
                self.check_out_from(&git, &mirror, source, commit).await?
            }
            first => first?,
        };
        let (engine, key) = (self.engine.clone(), Sort::Checkout.key(identity));
        spawn_blocking(move || {
            let layer = layer_of(engine.layers(), active)?;
            let recorded = RecordedLayer {
                key: layer.key.into(),
                created_s: layer.created.as_second(),
                remote: None,
            };
            let record = Record {
                layer: recorded,
                time_s,
            };
            record::keep(
                engine.root(),
                key,
                &record,
                Vec::new(),
                vec![layer.key.record_id()],
            )?;
            Ok(Checkout { layer, time_s })
        })
        .await?
    }

    /// Checks the commit out into a directory of its own; and its time.
    async fn check_out_from(
        &self,
        git: &Git,
        mirror: &Mirror,
        source: &GitSource,
        commit: &Commit,
    ) -> Result<(ActiveSnapshot, i64), EngineError> {
        let (hash, time_s) = commit_of(git, mirror, commit).await?;
        let has_submodules = count_files(git, mirror, &hash).await?;
        let snapshots = Arc::clone(self.engine.layers().snapshots());
        let active = spawn_blocking(move || snapshots.prepare(&[])).await??;
        let work = Work::new(git, source, active.upper_path())?;
        if work.keeps_git_dir {
            work.clone_from(git, mirror, source, commit).await?;
        } else {
            work.borrow_from(git, mirror, source).await?;
        }
        work.write_files(git, mirror, &hash).await?;
        if source.submodules && has_submodules {
            work.write_submodules(git).await?;
        }
        if work.keeps_git_dir {
            work.forget_password(git, source).await?;
        }
        let upper = active.upper_path().to_owned();
        spawn_blocking(move || work.finish(&upper, time_s)).await??;
        Ok((active, time_s))
    }
}

/// The commit's own hash and time, in the mirror.
async fn commit_of(
    git: &Git,
    mirror: &Mirror,
    commit: &Commit,
) -> Result<(String, i64), RemoteError> {
    let mut call = Call::within("read the commit of", mirror.path());
    call.args([
        "log",
        "-1",
        "--format=%H %ct",
        &format!("{}^{{commit}}", commit.object),
    ]);
    let answer = git.text(call).await?;
    let answer = answer.trim();
    let (hash, time) = answer.split_once(' ').unwrap_or((answer, ""));
    // What is no time is the beginning of time.
    Ok((
        hash.to_owned(),
        time.parse().unwrap_or(0).clamp(0, TIME_S_MAX),
    ))
}

/// That a commit has no more files than are checked out; whether it has submodules.
async fn count_files(git: &Git, mirror: &Mirror, hash: &str) -> Result<bool, RemoteError> {
    let mut call = Call::within("list the files of", mirror.path());
    call.args(["ls-tree", "-r", "-t", "-l", "-z", hash]);
    let mut count = FileCount::default();
    git.each(call, |piece| count.add(piece)).await?;
    Ok(count.submodules > 0)
}

/// Counts what `git ls-tree -l -z` lists: `mode type hash size TAB path NUL`.
#[derive(Default)]
struct FileCount {
    files: u64,
    bytes: u64,
    submodules: u64,
    /// The fields of the entry so far, and whether its path has begun.
    fields: Vec<u8>,
    in_path: bool,
}

impl FileCount {
    fn add(&mut self, piece: &[u8]) -> Result<(), RemoteError> {
        for byte in piece {
            match byte {
                0 => self.end()?,
                b'\t' => self.in_path = true,
                _ if self.in_path => {}
                byte => self.fields.push(*byte),
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RemoteError> {
        let fields = String::from_utf8_lossy(&self.fields);
        let mut fields = fields.split_ascii_whitespace();
        self.submodules += u64::from(fields.nth(1) == Some("commit"));
        let size = fields.nth(1).and_then(|size| size.parse::<u64>().ok());
        self.bytes = self.bytes.saturating_add(size.unwrap_or(0));
        self.files += 1;
        self.fields.clear();
        self.in_path = false;
        if self.files > FILES_MAX {
            return Err(RemoteError::TooManyFiles(format!("{FILES_MAX} files")));
        }
        if self.bytes > BYTES_MAX {
            return Err(RemoteError::TooManyFiles(format!(
                "{BYTES_MAX} bytes of files"
            )));
        }
        Ok(())
    }
}

/// Where a commit is checked out.
struct Work {
    git_dir: PathBuf,
    tree: PathBuf,
    subdir: String,
    keeps_git_dir: bool,
}

impl Work {
    /// Of a whole repository, the files are written to their place at once.
    fn new(git: &Git, source: &GitSource, place: &Path) -> Result<Self, EngineError> {
        let (subdir, keeps_git_dir) = (subdirectory(&source.subdir), keeps_git_dir(source));
        let tree = match subdir.as_str() {
            "" => place.to_owned(),
            _ => git.home().join("tree"),
        };
        fs::create_dir_all(&tree).map_err(EngineError::io("make", &tree))?;
        let git_dir = if keeps_git_dir {
            tree.join(".git")
        } else {
            git.home().join("repository")
        };
        Ok(Self {
            git_dir,
            tree,
            subdir,
            keeps_git_dir,
        })
    }

    fn call(&self, doing: &'static str) -> Call<'_> {
        let mut call = Call::within(doing, &self.git_dir);
        call.work_tree = Some(&self.tree);
        call
    }

    async fn init(
        &self,
        git: &Git,
        source: &GitSource,
        hash_length: usize,
    ) -> Result<(), EngineError> {
        let format = if hash_length == 64 { "sha256" } else { "sha1" };
        let mut call = self.call("check out");
        call.args(["init", "--quiet", &format!("--object-format={format}")]);
        git.run(call).await?;
        // Submodules' URLs may be relative to it.
        let mut call = self.call("check out");
        call.args(["config", "remote.origin.url", &source.remote]);
        Ok(git.run(call).await?)
    }

    /// A repository for the checkout alone, with the mirror's objects.
    async fn borrow_from(
        &self,
        git: &Git,
        mirror: &Mirror,
        source: &GitSource,
    ) -> Result<(), EngineError> {
        let is_sha256 = mirror.path().to_string_lossy().ends_with("-64");
        self.init(git, source, if is_sha256 { 64 } else { 40 })
            .await?;
        let info = self.git_dir.join("objects/info");
        let alternates = format!("{}\n", mirror.path().join("objects").display());
        fs::create_dir_all(&info).map_err(EngineError::io("make", &info))?;
        let file = info.join("alternates");
        fs::write(&file, alternates).map_err(EngineError::io("write", &file))?;
        match fs::copy(mirror.path().join("shallow"), self.git_dir.join("shallow")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EngineError::io(
                "copy",
                mirror.path().join("shallow"),
            )(error)),
            _ => Ok(()),
        }
    }

    /// A repository that stands alone, with the commit and its reference.
    async fn clone_from(
        &self,
        git: &Git,
        mirror: &Mirror,
        source: &GitSource,
        commit: &Commit,
    ) -> Result<(), EngineError> {
        self.init(git, source, commit.object.len()).await?;
        let path = mirror.path().to_string_lossy().replace('%', "%25");
        let target = commit
            .reference
            .as_ref()
            .map(|name| format!(":{name}"))
            .unwrap_or_default();
        let mut call = self.call("check out");
        call.protocols = "file";
        call.args([
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--depth=1",
            "--update-head-ok",
        ]);
        call.args([
            "--",
            &format!("file://{path}"),
            &format!("+{}{target}", commit.object),
        ]);
        Ok(git.run(call).await?)
    }

    async fn write_files(&self, git: &Git, mirror: &Mirror, hash: &str) -> Result<(), EngineError> {
        if !self.is_plain_subdirectory(git, mirror, hash).await? {
            let mut call = self.call("check out");
            call.args(["checkout", "--quiet", "--force", "--detach", hash, "--"]);
            return Ok(git.run(call).await?);
        }
        // Only the directory's files, but with all attributes and submodules known.
        let index = ["read-tree", hash].map(str::to_owned);
        let head = ["update-ref", "--no-deref", "HEAD", hash].map(str::to_owned);
        let files = ["checkout", "--quiet", "--force", "--", &self.pathspec()].map(str::to_owned);
        for args in [&index[..], &head[..], &files[..]] {
            let mut call = self.call("check out");
            call.args(args);
            git.run(call).await?;
        }
        Ok(())
    }

    /// Whether a directory alone is wanted, which is no submodule's.
    async fn is_plain_subdirectory(
        &self,
        git: &Git,
        mirror: &Mirror,
        hash: &str,
    ) -> Result<bool, RemoteError> {
        if self.subdir.is_empty() {
            return Ok(false);
        }
        let mut call = Call::within("look for a directory of", mirror.path());
        call.args(["cat-file", "-t", &format!("{hash}:{}", self.subdir)]);
        match git.text(call).await {
            Ok(kind) => Ok(kind.trim() == "tree"),
            Err(RemoteError::Git { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn pathspec(&self) -> String {
        format!(":(top,literal){}", self.subdir)
    }

    async fn write_submodules(&self, git: &Git) -> Result<(), EngineError> {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        let call = |depth: Option<&str>| {
            let mut call = self.call("check out the submodules of");
            call.protocols = EVERY_PROTOCOL;
            call.args(update);
            call.args(depth);
            call
        };
        match git.run(call(Some("--depth=1"))).await {
            // Not every server can give a part of a history.
            Err(RemoteError::Git { said, .. })
                if said.contains("shallow") || said.contains("depth") =>
            {
                Ok(git.run(call(None)).await?)
            }
            other => Ok(other?),
        }
    }

    async fn forget_password(&self, git: &Git, source: &GitSource) -> Result<(), EngineError> {
        let mut call = self.call("check out");
        call.args(["config", "remote.origin.url", &redacted_url(&source.remote)]);
        Ok(git.run(call).await?)
    }

    /// Moves the directory that is wanted to its place, and gives all files their modes and time.
    fn finish(&self, place: &Path, time_s: i64) -> Result<(), EngineError> {
        if !self.subdir.is_empty() {
            self.move_subdirectory(place)?;
        }
        normalise(place, self.keeps_git_dir, time_s)
            .map_err(EngineError::io("set modes and times in", place))
    }

    fn move_subdirectory(&self, place: &Path) -> Result<(), EngineError> {
        let not_there = |source| RemoteError::Subdir {
            subdir: self.subdir.clone(),
            source,
        };
        let root = fs::File::open(&self.tree).map_err(EngineError::io("open", &self.tree))?;
        // No component may be a link: it could lead anywhere.
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = rustix::fs::openat2(&root, self.subdir.as_str(), flags, Mode::empty(), resolve);
        let from = from.map_err(|error| not_there(error.into()))?;
        let to = fs::File::open(place).map_err(EngineError::io("open", place))?;
        for name in names_in(&from).map_err(not_there)? {
            rustix::fs::renameat(&from, &name, &to, &name)
                .map_err(|error| EngineError::io("move to", place)(error.into()))?;
        }
        Ok(())
    }
}

fn names_in(directory: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory.as_fd())? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Gives files git's modes and a time. `.git` of submodules goes, unless it is to be kept:
/// no commit can have a file of that name.
///
/// `git` has ended, and nobody else knows the directory: paths mean what they did.
fn normalise(root: &Path, keeps_git_dir: bool, time_s: i64) -> io::Result<()> {
    let mut folders = vec![root.to_owned()];
    let mut at = 0;
    while at < folders.len() {
        let folder = folders[at].clone();
        at += 1;
        for entry in fs::read_dir(&folder)? {
            let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
            let kind = entry?;
            if !keeps_git_dir && path.file_name().is_some_and(|name| name == ".git") {
                if kind.is_dir() {
                    fs::remove_dir_all(&path)?;
                } else {
                    fs::remove_file(&path)?;
                }
            } else if kind.is_dir() {
                folders.push(path);
            } else {
                if kind.is_file() {
                    let is_executable =
                        fs::symlink_metadata(&path)?.permissions().mode() & 0o100 != 0;
                    fs::set_permissions(
                        &path,
                        Permissions::from_mode(if is_executable { 0o755 } else { 0o644 }),
                    )?;
                }
                set_time(&path, time_s)?;
            }
        }
    }
    // Children first: what changes in a directory changes its time.
    for folder in folders.iter().rev() {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        set_time(folder, time_s)?;
    }
    Ok(())
}

fn set_time(path: &Path, time_s: i64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: time_s,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Makes the directory a layer's own.
fn layer_of(store: &LayerStore, active: ActiveSnapshot) -> Result<Arc<Layer>, EngineError> {
    let name = "git checkout";
    let upper = active.upper_path();
    let directory = fs::File::open(upper).map_err(EngineError::io("open", upper))?;
    let changes = diff_upper(&directory, &TreeView::empty(), store.overlay_attributes())
        .map_err(EngineError::layer(name))?;
    let index = LayerIndex::of_changes(&changes).map_err(EngineError::layer(name))?;
    let layer = store.made(index.clone(), changes);
    let id = layer.key.snapshot_id();
    let snapshot = store.snapshots().commit(active, &id)?;
    store.keep_index(&layer, &index)?;
    store.keep_directory(&layer, &snapshot)?;
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn files_are_counted_across_pieces() {
        let listing = b"100644 blob aaaa      12\ta\tb\x00040000 tree bbbb       -\td\x00160000 commit cccc       -\ts\x00";
        let mut count = FileCount::default();
        for piece in listing.chunks(3) {
            count.add(piece).unwrap();
        }
        assert_eq!((count.files, count.bytes, count.submodules), (3, 12, 1));
        let mut count = FileCount {
            files: FILES_MAX,
            ..FileCount::default()
        };
        assert!(matches!(
            count.add(listing),
            Err(RemoteError::TooManyFiles(_))
        ));
        let mut count = FileCount {
            bytes: BYTES_MAX,
            ..FileCount::default()
        };
        assert!(matches!(
            count.add(listing),
            Err(RemoteError::TooManyFiles(_))
        ));
    }

    #[test]
    fn modes_are_gits_own_and_links_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("d/.git")).unwrap();
        fs::write(root.join("d/run"), "x").unwrap();
        fs::set_permissions(root.join("d/run"), Permissions::from_mode(0o4777)).unwrap();
        fs::write(root.join("d/.git/config"), "x").unwrap();
        symlink("../outside", root.join("link")).unwrap();
        normalise(&root, false, 1000).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (
                mode(&outside),
                mode(&root.join("d/run")),
                mode(&root.join("d"))
            ),
            (0o600, 0o755, 0o755)
        );
        assert!(!root.join("d/.git").exists());
        let times = [
            root.join("link"),
            root.join("d"),
            root.join("d/run"),
            root.clone(),
        ];
        for path in times {
            assert_eq!(
                fs::symlink_metadata(&path).unwrap().mtime(),
                1000,
                "{}",
                path.display()
            );
        }
        assert_ne!(fs::metadata(&outside).unwrap().mtime(), 1000);
    }
}
