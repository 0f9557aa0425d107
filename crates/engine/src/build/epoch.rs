//! The epoch of a build: `SOURCE_DATE_EPOCH`, else the time of the context's commit.
//!
//! Invariant: an epoch that was asked for dates every layer of the result, so that the image is
//! the one that a machine without a cache makes. That of a commit which nobody asked for dates
//! what is written for the first time, so that commits share the layers that they have in common.

use longshore_frontend::{Lowered, LoweredPlatform};

use super::SOURCE_DATE_EPOCH;
use crate::layer::{Dating, Epoch};
use crate::{BuildRequest, CommitEpoch, OutputSpec};

/// Said where a build cannot be as reproducible as it was asked to be.
const NO_COMMIT_TIME: &str = "warning: the context is neither a repository nor a clean git work \
    tree, and SOURCE_DATE_EPOCH is not set: new files have the clock's time";

/// Where the times of a build come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BuildEpoch {
    /// The time of what is new, seconds since 1970; the clock's where there is none.
    pub(super) seconds: Option<i64>,
    /// The time of the context's files, where they have that of its commit.
    pub(super) context_s: Option<i64>,
    pub(super) dating: Dating,
}

/// What to say of a build whose new files have the clock's time although it asked for another.
pub(super) fn no_time(request: &BuildRequest, epoch: BuildEpoch) -> Option<String> {
    let named = request.build_args.get(SOURCE_DATE_EPOCH);
    match (epoch.seconds, named) {
        (Some(_), _) => None,
        (None, Some(name)) if !name.is_empty() => Some(format!(
            "warning: {SOURCE_DATE_EPOCH}={name}: that source has no time of its own: new files have \
             the clock's"
        )),
        _ if request.commit_epoch == CommitEpoch::Asked => Some(NO_COMMIT_TIME.to_owned()),
        _ => None,
    }
}

/// Whether a build asks for the time of its context's commit.
pub(super) fn wants_commit(request: &BuildRequest) -> bool {
    match request.commit_epoch {
        CommitEpoch::Ignored => false,
        CommitEpoch::Found => !request.build_args.contains_key(SOURCE_DATE_EPOCH),
        CommitEpoch::Asked => true,
    }
}

impl BuildEpoch {
    /// Takes the time of the context's commit for what is new, where `SOURCE_DATE_EPOCH` does
    /// not say.
    pub(super) fn set(
        request: &BuildRequest,
        lowered: &mut Lowered,
        commit_time_s: Option<i64>,
    ) -> Self {
        let mut platforms = lowered.platforms.iter();
        let said = platforms.find_map(|platform| platform.epoch);
        let is_asked = request.commit_epoch == CommitEpoch::Asked;
        // What is said goes before what is found.
        let context_s = commit_time_s.filter(|_| is_asked || said.is_none());
        // Saying nothing in it is asking for the clock.
        let is_open = !request.build_args.contains_key(SOURCE_DATE_EPOCH);
        let seconds = said.or_else(|| context_s.filter(|_| is_open));
        for platform in &mut lowered.platforms {
            platform.epoch = platform.epoch.or(seconds);
        }
        Self {
            seconds,
            context_s,
            dating: match is_asked || said.is_some() {
                true => Dating::Every,
                false => Dating::FirstWritten,
            },
        }
    }

    /// The epoch that is part of what copies make: where each commit gives the context's files
    /// another time.
    pub(super) fn of_copies(&self) -> Option<i64> {
        let is_every = self.dating == Dating::Every;
        self.context_s.and(self.seconds).filter(|_| is_every)
    }
}

/// The epoch of an output: its own, else the build's.
pub(super) fn epoch_of(output: &OutputSpec, platform: &LoweredPlatform) -> Option<i64> {
    output.epoch_s.or(platform.epoch)
}

/// What dates the layers of an output; `None` where they keep their times.
pub(super) fn epoch_of_layers(
    output: &OutputSpec,
    platform: &LoweredPlatform,
    dating: Dating,
) -> Option<Epoch> {
    let is_asked = output.epoch_s.is_some() || output.rewrite_timestamp == Some(true);
    let seconds =
        epoch_of(output, platform).filter(|_| output.rewrite_timestamp.unwrap_or(true))?;
    Some(Epoch {
        seconds,
        dating: match is_asked {
            true => Dating::Every,
            false => dating,
        },
    })
}
