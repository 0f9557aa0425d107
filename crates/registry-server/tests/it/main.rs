//! Tests of the registry over real connections.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing test may panic, and a skipped one says so"
)]

mod access;
mod blobs;
mod collection;
mod damage;
mod harness;
mod kill;
mod listings;
mod manifests;
mod referrers;
mod shutdown;
mod skopeo;
mod uploads;
