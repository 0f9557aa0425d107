//! Writes the history of a build while it runs.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use longshore_solver::{CacheKey, Event, HitKey, KeyFields, MissReason, Origin};
use serde::{Deserialize, Serialize};

use super::{BuildHistory, BuildRecord, BuildStatus, HistoryLimits};
use crate::progress::{ProgressEvent, ProgressSink};
use crate::{BuildError, BuildOutcome, BuildRequest, EngineError};

/// How many logs are open at the same time; more steps rarely write by turns.
const OPEN_LOGS_MAX: usize = 64;
/// How many digits a build's id has.
const ID_DIGITS: usize = 16;

/// A line of a build's events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    /// Milliseconds since the build started.
    pub(super) ms: u64,
    #[serde(flatten)]
    pub(super) event: Happened,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Happened {
    Planned {
        id: u64,
        name: String,
        source: bool,
    },
    Started {
        id: u64,
    },
    Cached {
        id: u64,
        key: CacheKey,
        by: HitKey,
        from: Origin,
    },
    Missed {
        id: u64,
        key: CacheKey,
        reason: MissReason,
        fields: KeyFields,
    },
    Finished {
        id: u64,
        duration_ms: u64,
    },
    Failed {
        id: u64,
        error: String,
    },
    Canceled {
        id: u64,
    },
    Note {
        text: String,
    },
}

/// A build that is recorded. Passes on what it is told.
pub(crate) struct Recording {
    history: BuildHistory,
    id: String,
    directory: PathBuf,
    record: BuildRecord,
    limits: HistoryLimits,
    began: Instant,
    next: Arc<dyn ProgressSink>,
    files: Mutex<Files>,
}

struct Files {
    events: File,
    logs: HashMap<u64, File>,
    /// Why nothing more is written: a full disk does not fail a build.
    broken: Option<String>,
}

impl Recording {
    /// Begins the history of a build.
    pub(crate) fn start(
        history: BuildHistory,
        request: &BuildRequest,
        next: Arc<dyn ProgressSink>,
    ) -> Result<Self, EngineError> {
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(ID_DIGITS);
        let record = BuildRecord::starting(request);
        let directory = history.directory(&id);
        let text = to_json(&record)?;
        let builds = history.root.builds();
        builds.start(&id, &text, directory.to_str())?;
        make_directory(&directory.join("steps")).map_err(EngineError::io("make", &directory))?;
        let path = directory.join("events");
        let events = append(&path).map_err(EngineError::io("write", &path))?;
        Ok(Self {
            history,
            id,
            directory,
            record,
            limits: request.history,
            began: Instant::now(),
            next,
            files: Mutex::new(Files {
                events,
                logs: HashMap::new(),
                broken: None,
            }),
        })
    }

    /// Notes how the build ended, and bounds the history.
    pub(crate) fn finish(
        &self,
        ended: &Result<BuildOutcome, BuildError>,
    ) -> Result<(), EngineError> {
        let mut record = self.record.clone();
        match ended {
            Ok(outcome) => {
                record.status = BuildStatus::Done;
                record.image.clone_from(&outcome.image);
                record.seen = Some(outcome.inputs.clone());
                record.config = outcome.config.as_ref().map(|config| config.digest);
            }
            Err(BuildError::Canceled) => record.status = BuildStatus::Canceled,
            Err(error) => {
                record.status = BuildStatus::Failed;
                record.error = Some(error.to_string());
            }
        }
        self.history
            .root
            .builds()
            .finish(&self.id, &to_json(&record)?)?;
        self.history.bound(self.limits)
    }

    fn write(&self, event: &ProgressEvent) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.broken.is_some() {
            return;
        }
        let written = match event {
            ProgressEvent::Step {
                id,
                event: Event::Log { bytes, .. },
            } => self.write_log(&mut files, *id, bytes),
            other => self.write_event(&mut files, other),
        };
        if let Err(error) = written {
            files.broken = Some(error.to_string());
            let text = format!("warning: the build's history is not complete: {error}");
            drop(files);
            self.next.emit(ProgressEvent::Note(text));
        }
    }

    fn write_event(&self, files: &mut Files, event: &ProgressEvent) -> io::Result<()> {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut lines = Vec::new();
        for event in happened(event) {
            serde_json::to_writer(&mut lines, &Line { ms, event })?;
            lines.push(b'\n');
        }
        files.events.write_all(&lines)
    }

    fn write_log(&self, files: &mut Files, id: u64, bytes: &[u8]) -> io::Result<()> {
        if files.logs.len() >= OPEN_LOGS_MAX && !files.logs.contains_key(&id) {
            files.logs.clear();
        }
        let log = match files.logs.entry(id) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(append(&log_path(&self.directory, id))?)
            }
        };
        log.write_all(bytes)
    }
}

impl ProgressSink for Recording {
    fn emit(&self, event: ProgressEvent) {
        self.write(&event);
        self.next.emit(event);
    }
}

/// The lines that an event is kept as.
fn happened(event: &ProgressEvent) -> Vec<Happened> {
    match event {
        ProgressEvent::Note(text) => vec![Happened::Note { text: text.clone() }],
        ProgressEvent::Planned { steps } => steps
            .iter()
            .map(|step| Happened::Planned {
                id: step.id,
                name: step.name.clone(),
                source: step.source,
            })
            .collect(),
        ProgressEvent::Named { .. } => Vec::new(),
        ProgressEvent::Step { id, event } => step_event(*id, event).into_iter().collect(),
    }
}

fn step_event(id: u64, event: &Event) -> Option<Happened> {
    Some(match event {
        Event::Started { .. } => Happened::Started { id },
        Event::Cached { key, by, from, .. } => Happened::Cached {
            id,
            key: *key,
            by: *by,
            from: from.clone(),
        },
        Event::Missed {
            key,
            reason,
            fields,
            ..
        } => Happened::Missed {
            id,
            key: *key,
            reason: reason.clone(),
            fields: fields.clone(),
        },
        Event::Finished { duration, .. } => Happened::Finished {
            id,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        },
        Event::Failed { error, .. } => Happened::Failed {
            id,
            error: error.clone(),
        },
        Event::Canceled { .. } => Happened::Canceled { id },
        Event::Warning { message, .. } => Happened::Note {
            text: format!("warning: {message}"),
        },
        Event::Planned { .. }
        | Event::Waiting { .. }
        | Event::Log { .. }
        | Event::Progress { .. }
        | Event::CacheTrouble { .. } => return None,
    })
}

/// Where a step's log is.
pub(super) fn log_path(directory: &Path, id: u64) -> PathBuf {
    directory.join("steps").join(format!("{id}.log"))
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn to_json(record: &BuildRecord) -> Result<String, EngineError> {
    serde_json::to_string(record).map_err(|source| EngineError::ArchiveRead(Box::new(source)))
}
