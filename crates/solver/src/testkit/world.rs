//! What the fake executors of several builds have in common: sources, stored results,
//! and the book in which everything that runs is entered.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_graph::Source;

use super::Random;
use super::tree::{FakeTree, Files, Refused};
use crate::{BoxError, ContentDigest, ResourceClass};

/// Sources, stored results, and what ran. Rules that are broken are noted, and end in
/// [`violations`](Self::violations).
#[derive(Debug)]
pub struct World {
    id: u64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) contexts: BTreeMap<String, Files>,
    pub(super) stored: HashMap<Vec<u8>, FakeTree>,
    pub(super) encoded: HashSet<Vec<u8>>,
    pub(super) running: HashSet<ContentDigest>,
    pub(super) done: HashSet<ContentDigest>,
    pub(super) reruns_allowed: bool,
    pub(super) busy: BTreeMap<ResourceClass, usize>,
    pub(super) busiest: BTreeMap<ResourceClass, usize>,
    pub(super) pins: usize,
    pub(super) runs: Vec<String>,
    pub(super) violations: Vec<String>,
    pub(super) failing: BTreeSet<String>,
    pub(super) hanging: BTreeSet<String>,
    pub(super) lingering: BTreeSet<String>,
    pub(super) takes_ms: BTreeMap<String, u64>,
    pub(super) chance: Option<Random>,
    pub(super) pace_ms: u64,
    pub(super) threads: bool,
}

impl World {
    /// A world without sources.
    pub fn new() -> Arc<Self> {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: WORLDS.fetch_add(1, Ordering::Relaxed),
            book: Mutex::default(),
        })
    }

    /// Lets the local source `name`, or the image of that reference, hold `files`.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        let files = files.iter().map(own).collect();
        self.book().contexts.insert(name.to_owned(), files);
    }

    /// Lets every step take its time, in an order that `seed` decides.
    pub fn shuffle(&self, seed: u64) {
        self.book().chance = Some(Random::new(seed));
    }

    /// Lets every process run for ten units and recording take one.
    pub fn pace(&self, unit_ms: u64) {
        self.book().pace_ms = unit_ms;
    }

    /// Lets the step with this display name fail from now on.
    pub fn fail(&self, step: &str) {
        self.book().failing.insert(step.to_owned());
    }

    /// Lets the step with this display name run until it is cancelled, from now on.
    pub fn hang(&self, step: &str) {
        self.book().hanging.insert(step.to_owned());
    }

    /// Lets the step with this display name end, well, when it is cancelled and not before.
    pub fn linger(&self, step: &str) {
        self.book().lingering.insert(step.to_owned());
    }

    /// Lets the step with this display name take so long from now on.
    pub fn takes(&self, step: &str, milliseconds: u64) {
        self.book().takes_ms.insert(step.to_owned(), milliseconds);
    }

    /// Lets every step succeed again.
    pub fn mend(&self) {
        let mut book = self.book();
        book.failing.clear();
        book.hanging.clear();
        book.lingering.clear();
    }

    /// Loses the content of every stored result, so that steps have to run again.
    pub fn lose_content(&self) {
        let mut book = self.book();
        book.stored.clear();
        book.done.clear();
    }

    /// Allows a step to begin in the moment in which its build is cancelled, because they
    /// happen on several threads.
    pub fn allow_threads(&self) {
        self.book().threads = true;
    }

    /// Allows a build to run again what another one ran, because the cache fails.
    pub fn allow_reruns(&self) {
        self.book().reruns_allowed = true;
    }

    /// The display names of the steps and sources that ran to their end, in order.
    pub fn runs(&self) -> Vec<String> {
        self.book().runs.clone()
    }

    /// How often a source was pinned.
    pub fn pins(&self) -> usize {
        self.book().pins
    }

    /// Forgets which steps ran, but not that they must not run again.
    pub fn forget_runs(&self) {
        self.book().runs.clear();
    }

    /// The most steps of a class that ran at the same time.
    pub fn busiest(&self, class: ResourceClass) -> usize {
        self.book().busiest.get(&class).copied().unwrap_or(0)
    }

    /// Which rules were broken.
    pub fn violations(&self) -> Vec<String> {
        let book = self.book();
        let mut violations = book.violations.clone();
        let busy = book.busy.iter().filter(|(_, count)| **count > 0);
        violations.extend(busy.map(|(class, _)| format!("{class:?} is still busy")));
        violations
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a source holds.
    ///
    /// # Errors
    /// When there is no such source.
    pub fn source(&self, source: &Source) -> Result<Files, BoxError> {
        let name = match source {
            Source::Scratch => return Ok(Files::new()),
            Source::Local(local) => local.name.clone(),
            Source::Image(image) => image.reference.to_string(),
            Source::Http(http) => http.url.clone(),
            Source::Git(git) => git.remote.clone(),
            Source::OciLayout(layout) => layout.directory.clone(),
        };
        let files = self.book().contexts.get(&name).cloned();
        files.ok_or_else(|| Refused(format!("no source `{name}`")).into())
    }
}

impl Book {
    pub(super) fn violation(&mut self, text: String) -> BoxError {
        self.violations.push(text.clone());
        Refused(text).into()
    }
}
