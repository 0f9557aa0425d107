//! The history of builds: what was built of what, how each step went, and all it said.
//!
//! ```text
//! meta.db: builds            a row for each build: its record, and the process that runs it
//! builds/<id>/events         what happened to the steps, a JSON value a line, as it happened
//! builds/<id>/steps/<n>.log  what step n wrote, byte for byte
//! ```
//!
//! Events and logs are written while the build runs, so that a build whose process was
//! killed has its history up to there; an unfinished last line does not count. The row
//! comes first and goes last: a directory without a row is nobody's. The history is
//! bounded: the oldest finished builds go first. It counts as build cache, whose limits may
//! take more of it. A row that cannot be read hides no other.

mod read;
mod record;
mod recording;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use longshore_content::StateRoot;
use longshore_content::builds::Build;

pub use read::RecordedBuild;
pub use record::{BuildInputs, BuildRecord, BuildStatus, Invocation, StepOutcome, StepRecord};
pub(crate) use recording::Recording;

use crate::EngineError;

/// How much of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// How many builds; none is recorded where it is 0.
    pub builds: usize,
    /// How many bytes their events and logs may take.
    pub bytes: u64,
}

impl Default for HistoryLimits {
    /// A hundred builds in a gigabyte.
    fn default() -> Self {
        Self {
            builds: 100,
            bytes: 1 << 30,
        }
    }
}

/// What a finished build's history takes.
#[derive(Debug)]
pub(crate) struct FinishedBuild {
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    pub(crate) ended: SystemTime,
}

/// How many builds are looked at, at the most.
const LISTED_MAX: usize = 100_000;

/// What is known of the builds.
#[derive(Debug, Default)]
pub struct Builds {
    /// The builds, the newest first.
    pub builds: Vec<RecordedBuild>,
    /// Why others cannot be shown; each error names its build.
    pub unreadable: Vec<EngineError>,
}

/// The builds of a state root.
#[derive(Clone, Debug)]
pub struct BuildHistory {
    root: StateRoot,
}

impl BuildHistory {
    pub(crate) fn new(root: StateRoot) -> Self {
        Self { root }
    }

    /// The builds.
    ///
    /// # Errors
    /// When the store fails.
    pub fn list(&self) -> Result<Builds, EngineError> {
        let mut found = Builds::default();
        for build in self.root.builds().list(LISTED_MAX)? {
            match self.recorded(build) {
                Ok(build) => found.builds.push(build),
                Err(error) => found.unreadable.push(error),
            }
        }
        Ok(found)
    }

    /// The ids of all builds, the newest first: those that cannot be read too.
    ///
    /// # Errors
    /// When the store fails.
    pub fn ids(&self) -> Result<Vec<String>, EngineError> {
        let builds = self.root.builds().list(LISTED_MAX)?;
        Ok(builds.into_iter().map(|build| build.id).collect())
    }

    /// The ids of the builds that do not run, the newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub fn finished_ids(&self) -> Result<Vec<String>, EngineError> {
        let rows = self.finished_rows()?;
        Ok(rows.into_iter().map(|build| build.id).collect())
    }

    /// The id of the build whose id begins so.
    ///
    /// # Errors
    /// When there is none or there are several, or the store fails.
    pub fn id(&self, beginning: &str) -> Result<String, EngineError> {
        Ok(self.row(beginning)?.id)
    }

    /// The build whose id begins so; the newest where `id` is empty.
    ///
    /// # Errors
    /// When there is none or there are several, or the store fails.
    pub fn find(&self, id: &str) -> Result<RecordedBuild, EngineError> {
        self.recorded(self.row(id)?)
    }

    fn row(&self, id: &str) -> Result<Build, EngineError> {
        let mut builds = self.root.builds().list(LISTED_MAX)?;
        if id.is_empty() {
            builds.truncate(1);
        }
        builds.retain(|build| build.id.starts_with(id));
        if builds.len() > 1 {
            return Err(EngineError::Invalid(format!(
                "`{id}` is the beginning of several builds' ids"
            )));
        }
        match builds.pop() {
            Some(build) => Ok(build),
            None if id.is_empty() => Err(EngineError::Invalid("there is no build yet".to_owned())),
            None => Err(EngineError::Invalid(format!("there is no build `{id}`"))),
        }
    }

    /// Forgets a build that does not run; whether it was known.
    ///
    /// # Errors
    /// When it runs, or the store fails.
    pub fn remove(&self, id: &str) -> Result<bool, EngineError> {
        let Some(build) = self.root.builds().get(id)? else {
            return Ok(false);
        };
        if self.runs(&build)? {
            return Err(EngineError::Invalid(format!("build `{id}` is running")));
        }
        self.forget(id)?;
        Ok(true)
    }

    /// The builds that do not run, with what they take.
    pub(crate) fn finished(&self) -> Result<Vec<FinishedBuild>, EngineError> {
        let rows = self.finished_rows()?.into_iter();
        let measured = rows.map(|build| {
            let ended = build.finished.unwrap_or(build.started);
            FinishedBuild {
                bytes: self.bytes_of(&build.id),
                took: ended.duration_since(build.started).unwrap_or_default(),
                ended,
                id: build.id,
            }
        });
        Ok(measured.collect())
    }

    fn finished_rows(&self) -> Result<Vec<Build>, EngineError> {
        let mut finished = Vec::new();
        for build in self.root.builds().list(LISTED_MAX)? {
            if !self.runs(&build)? {
                finished.push(build);
            }
        }
        Ok(finished)
    }

    /// Forgets the oldest builds beyond the limits, and files that are no build's.
    pub(crate) fn bound(&self, limits: HistoryLimits) -> Result<(), EngineError> {
        let builds = self.root.builds().list(LISTED_MAX)?;
        let (mut count, mut bytes) = (0, 0);
        for build in &builds {
            count += 1;
            bytes += self.bytes_of(&build.id);
            let is_beyond = count > limits.builds || bytes > limits.bytes;
            // The newest stays whatever it takes: it is the one that is asked for.
            if is_beyond && count > 1 && !self.runs(build)? {
                self.forget(&build.id)?;
            }
        }
        self.sweep()
    }

    /// Removes directories without a row. A build's row is written before its directory.
    fn sweep(&self) -> Result<(), EngineError> {
        let folder = self.folder();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(EngineError::io("read", folder)(error)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_string_lossy();
            if self.root.builds().get(&id)?.is_none() {
                remove_all(&entry.path())?;
            }
        }
        Ok(())
    }

    fn forget(&self, id: &str) -> Result<(), EngineError> {
        remove_all(&self.directory(id))?;
        self.root.builds().remove(id)?;
        Ok(())
    }

    fn runs(&self, build: &Build) -> Result<bool, EngineError> {
        Ok(build.finished.is_none() && self.root.is_alive(&build.process)?)
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("builds")
    }

    fn directory(&self, id: &str) -> PathBuf {
        self.folder().join(id)
    }

    fn bytes_of(&self, id: &str) -> u64 {
        let directory = self.directory(id);
        let of = |folder: PathBuf| {
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            let sizes = files.filter_map(|file| file.metadata().ok());
            sizes
                .filter(fs::Metadata::is_file)
                .map(|meta| meta.len())
                .sum::<u64>()
        };
        of(directory.clone()) + of(directory.join("steps"))
    }
}

fn remove_all(path: &std::path::Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
