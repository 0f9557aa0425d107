//! Reads the history of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;

use jiff::Timestamp;
use longshore_content::builds::Build;
use longshore_solver::CacheRecord;

use super::recording::{Happened, Line, log_path};
use super::{BuildHistory, BuildRecord, BuildStatus, StepOutcome, StepRecord};
use crate::EngineError;

/// The longest line of events that is read, bytes: a step's fields are far shorter.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A build of the history.
#[derive(Clone, Debug)]
pub struct RecordedBuild {
    /// Its id.
    pub id: String,
    /// When it started.
    pub started: Timestamp,
    /// When it ended, where it did.
    pub finished: Option<Timestamp>,
    /// What was built, and how it ended.
    pub record: BuildRecord,
    directory: PathBuf,
    history: BuildHistory,
}

impl BuildHistory {
    pub(super) fn recorded(&self, build: Build) -> Result<RecordedBuild, EngineError> {
        let mut record: BuildRecord =
            serde_json::from_str(&build.record).map_err(|source| EngineError::Config {
                image: format!("build {}", build.id),
                source,
            })?;
        if build.finished.is_none() && !self.runs(&build)? {
            record.status = BuildStatus::Interrupted;
        }
        let time = |time| Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(RecordedBuild {
            directory: self.directory(&build.id),
            history: self.clone(),
            started: time(build.started),
            finished: build.finished.map(time),
            id: build.id,
            record,
        })
    }
}

impl RecordedBuild {
    /// The build's steps in the order of the Dockerfile, as far as it came.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub fn steps(&self) -> Result<Vec<StepRecord>, EngineError> {
        let path = self.directory.join("events");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(EngineError::io("read", path)(error)),
        };
        let mut steps = Steps::default();
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = io::Read::take(&mut lines, LINE_BYTES_MAX);
            let count = bounded
                .read_until(b'\n', &mut line)
                .map_err(EngineError::io("read", &path))?;
            // What does not end in a new line was cut off when the build was.
            if count == 0 || !line.ends_with(b"\n") {
                break;
            }
            if let Ok(line) = serde_json::from_slice::<Line>(&line) {
                steps.add(line);
            }
        }
        let is_over = self.record.status != BuildStatus::Running;
        Ok(steps.finish(is_over, |id| {
            fs::metadata(log_path(&self.directory, id)).map_or(0, |meta| meta.len())
        }))
    }

    /// What a step wrote, `None` where it wrote nothing.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self, step: &StepRecord) -> Result<Option<File>, EngineError> {
        let path = log_path(&self.directory, step.id);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError::io("read", path)(error)),
        }
    }

    /// Fills in what the keys of steps that were found are made of, where this machine's
    /// cache still knows.
    ///
    /// # Errors
    /// When the store fails.
    pub fn explain_hits(&self, steps: &mut [StepRecord]) -> Result<(), EngineError> {
        let records = self.history.root.cache_records();
        for step in steps.iter_mut().filter(|step| step.fields.is_none()) {
            let Some(key) = step.key else { continue };
            if let Some(row) = records.get(&key.0)?
                && let Ok(record) = CacheRecord::from_bytes(&row.record)
            {
                step.fields = Some(record.trace.fields);
            }
        }
        Ok(())
    }
}

impl RecordedBuild {
    /// The files that the steps of two builds took from their inputs and that differ, where the
    /// caches of both still know them. Steps are the same where their names are.
    ///
    /// # Errors
    /// When a store fails.
    pub fn changed_files(&self, other: &Self) -> Result<BTreeSet<String>, EngineError> {
        let (ours, theirs) = (self.taken_files()?, other.taken_files()?);
        let mut changed = BTreeSet::new();
        for (step, files) in &ours {
            let Some(others) = theirs.get(step) else {
                continue;
            };
            let names = files.keys().chain(others.keys());
            let differing = names.filter(|name| files.get(*name) != others.get(*name));
            changed.extend(differing.cloned());
        }
        Ok(changed)
    }

    /// For each step by its name, the files that it took and their digests.
    fn taken_files(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, EngineError> {
        let records = self.history.root.cache_records();
        let mut taken = BTreeMap::new();
        for step in self.steps()? {
            let Some(key) = step.key else { continue };
            let Some(row) = records.get(&key.0)? else {
                continue;
            };
            // What cannot be read is not known.
            let Ok(record) = CacheRecord::from_bytes(&row.record) else {
                continue;
            };
            let entries = record
                .trace
                .paths
                .into_iter()
                .flat_map(|paths| paths.entries);
            let files = entries.map(|entry| (entry.path, entry.mark));
            taken.insert(step.name, files.collect());
        }
        Ok(taken)
    }
}

/// Steps by their ids while their events are read.
#[derive(Default)]
struct Steps(BTreeMap<u64, Step>);

struct Step {
    record: StepRecord,
    is_source: bool,
    runs: bool,
}

impl Steps {
    fn add(&mut self, line: Line) {
        match line.event {
            Happened::Planned { id, name, source } => self.plan(id, name, source),
            Happened::Started { id } => self.change(id, |step| {
                step.record.started_ms = Some(line.ms);
                step.runs = true;
            }),
            Happened::Cached { id, key, by, from } => self.change(id, |step| {
                step.record.key = Some(key);
                step.record.outcome = StepOutcome::Hit { from, by };
            }),
            Happened::Missed {
                id,
                key,
                reason,
                fields,
            } => self.change(id, |step| {
                step.record.key = Some(key);
                step.record.fields = Some(fields);
                let reason = Some(reason);
                step.record.outcome = StepOutcome::Stopped { reason };
            }),
            Happened::Finished { id, duration_ms } => self.change(id, |step| {
                step.record.duration_ms = Some(duration_ms);
                step.finish();
            }),
            Happened::Failed { id, error } => self.change(id, |step| {
                let reason = step.reason();
                step.runs = false;
                step.record.outcome = StepOutcome::Failed { reason, error };
            }),
            Happened::Canceled { id } => self.change(id, |step| {
                let reason = step.reason();
                step.runs = false;
                step.record.outcome = StepOutcome::Stopped { reason };
            }),
            Happened::Note { .. } => {}
        }
    }

    fn plan(&mut self, id: u64, name: String, is_source: bool) {
        let record = StepRecord {
            number: 0,
            id,
            name,
            started_ms: None,
            duration_ms: None,
            outcome: StepOutcome::NotNeeded,
            key: None,
            fields: None,
            log_bytes: 0,
        };
        let step = Step {
            record,
            is_source,
            runs: false,
        };
        // Planned again, when a build goes on without a cache: what was done stays done.
        self.0.entry(id).or_insert(step);
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Step)) {
        if let Some(step) = self.0.get_mut(&id) {
            change(step);
        }
    }

    fn finish(self, is_over: bool, log_bytes: impl Fn(u64) -> u64) -> Vec<StepRecord> {
        let mut records = Vec::with_capacity(self.0.len());
        for (number, mut step) in (1..).zip(self.0.into_values()) {
            if step.runs && is_over {
                let reason = step.reason();
                step.record.outcome = StepOutcome::Stopped { reason };
            }
            step.record.number = number;
            step.record.log_bytes = log_bytes(step.record.id);
            records.push(step.record);
        }
        records
    }
}

impl Step {
    fn reason(&self) -> Option<longshore_solver::MissReason> {
        match &self.record.outcome {
            StepOutcome::Stopped { reason } => reason.clone(),
            _ => None,
        }
    }

    fn finish(&mut self) {
        self.runs = false;
        self.record.outcome = match self.reason() {
            Some(reason) => StepOutcome::Ran { reason },
            None if self.is_source => StepOutcome::Source,
            None => StepOutcome::NotNeeded,
        };
    }
}
