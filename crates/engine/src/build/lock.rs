//! Builds and lock files: what a build is held to, and what it writes.
//!
//! With a lock, a name that is not in it is an error before anything is built, and one that is
//! in it is asked of nobody.

use std::sync::Arc;

use futures_util::{TryStreamExt as _, stream};
use longshore_dockerfile::directive::detect_syntax;
use longshore_frontend::Lowered;
use longshore_graph::{Graph, Op, Source, VertexId};

use super::lines::lines_of;
use super::{BuildError, Loaded, Prepared, lower_error};
use crate::lock_file::{Held, LockPlace, Pins, Unknown};
use crate::progress::ProgressSink;
use crate::remote::Remotes;
use crate::{BuildRequest, Engine, EngineError, LockError, LockRefresh, LockUse, Relocked};

/// How many sources are looked up at a time.
const LOOKUPS_AT_ONCE: usize = 8;

/// The lock of a build that uses `place` so.
pub(super) fn held_for(usage: &LockUse, place: &LockPlace) -> Result<Held, EngineError> {
    match usage {
        LockUse::Ignore => Ok(Held::nothing()),
        LockUse::Write => {
            // Better known before than after the build.
            place.path()?;
            place.read()?;
            Ok(Held::nothing())
        }
        LockUse::Hold => {
            let file = place.name();
            let known = place.read()?;
            let known = known.ok_or_else(|| LockError::Absent { file: file.clone() })?;
            Ok(Held::new(file, known, Unknown::Refused))
        }
        LockUse::HoldTo(known) => {
            let file = "the record of the build".to_owned();
            Ok(Held::new(file, Pins::clone(known), Unknown::Asked))
        }
    }
}

/// Notes the frontend that a Dockerfile asks for, or that it is not in the lock.
pub(super) fn hold_syntax(dockerfile: &Arc<Loaded>, held: &Held) -> Result<(), BuildError> {
    let Some(syntax) = detect_syntax(&dockerfile.parsed.text) else {
        return Ok(());
    };
    held.syntax(&syntax.image).map_err(|error| {
        let line = syntax.line.max(1);
        locked_at(dockerfile, Some((line, line)), error)
    })?;
    held.found_syntax(syntax.image);
    Ok(())
}

/// That every source that is no image is in the lock. Images were looked up before.
pub(super) fn hold_sources(
    dockerfile: &Arc<Loaded>,
    lowered: &Lowered,
    remotes: &Remotes,
) -> Result<(), BuildError> {
    for (id, source) in sources(&lowered.graph) {
        match remotes.is_locked(source) {
            Ok(()) => {}
            Err(EngineError::Lock(error)) => {
                return Err(locked_at(dockerfile, lines_of(lowered, id), *error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn locked_at(dockerfile: &Arc<Loaded>, lines: Option<(u32, u32)>, error: LockError) -> BuildError {
    BuildError::Locked {
        dockerfile: Arc::clone(dockerfile),
        lines,
        error: Box::new(error),
    }
}

fn sources(graph: &Graph) -> impl Iterator<Item = (VertexId, &Source)> {
    graph.iter().filter_map(|(id, vertex)| match &vertex.op {
        Op::Source(source) => Some((id, source)),
        _ => None,
    })
}

/// Looks up what a cache may have spared the build from looking up, so that the lock is whole.
async fn look_up_all(graph: &Graph, remotes: &Remotes) -> Result<(), EngineError> {
    let lookups =
        sources(graph).map(|(_, source)| Ok(async move { remotes.look_up(source).await }));
    stream::iter(lookups)
        .try_buffer_unordered(LOOKUPS_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Writes what a build's names stood for, beside what the lock has of other names.
pub(super) async fn write_lock(
    place: &LockPlace,
    graph: &Graph,
    remotes: &Remotes,
    held: &Held,
) -> Result<(), EngineError> {
    look_up_all(graph, remotes).await?;
    let before = place.read()?.unwrap_or_default();
    place.write(&before.updated(held.take_found()?))
}

impl Engine {
    /// Writes the lock file of a Dockerfile, of the target or of all stages, and builds nothing.
    ///
    /// # Errors
    /// When something that the Dockerfile names cannot be looked up, or the file cannot be
    /// written: it is as it was then.
    pub async fn lock(
        &self,
        request: &BuildRequest,
        refresh: &LockRefresh,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Relocked, BuildError> {
        let mut before = Pins::default();
        let mut known = Pins::default();
        let hold = |place: &LockPlace| {
            place.path()?;
            before = place.read()?.unwrap_or_default();
            known = still_known(&before, refresh, &place.name())?;
            Ok(Held::new(place.name(), known.clone(), Unknown::Asked))
        };
        let Prepared {
            inputs,
            options,
            dockerfile,
            resolver,
            held,
        } = self.prepare(request, &progress, hold).await?;
        let graph = longshore_frontend::survey(&dockerfile.parsed, &options, &resolver)
            .await
            .map_err(|error| lower_error(&dockerfile, error))?;
        look_up_all(&graph, &resolver.remotes).await?;
        let found = held.take_found().map_err(EngineError::from)?;
        let after = match refresh {
            LockRefresh::All => found,
            LockRefresh::Missing | LockRefresh::Names(_) => known.updated(found),
        };
        inputs.lock.write(&after)?;
        Ok(Relocked {
            path: inputs.lock.path()?.to_owned(),
            before,
            after,
        })
    }
}

/// What of a lock is not to be looked up again.
fn still_known(before: &Pins, refresh: &LockRefresh, file: &str) -> Result<Pins, LockError> {
    let mut known = before.clone();
    let names = match refresh {
        LockRefresh::Missing => return Ok(known),
        LockRefresh::All => return Ok(Pins::default()),
        LockRefresh::Names(names) => names,
    };
    for name in names {
        if !known.forget(name) {
            let all: Vec<String> = before
                .names()
                .into_iter()
                .map(|pinned| pinned.name)
                .collect();
            return Err(LockError::Unknown {
                name: name.clone(),
                file: file.to_owned(),
                known: match all.is_empty() {
                    true => "nothing".to_owned(),
                    false => all.join(", "),
                },
            });
        }
    }
    Ok(known)
}
