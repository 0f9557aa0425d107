//! Tests of the content crate against real directories.

#![expect(clippy::unwrap_used, reason = "a failing test may panic")]

mod collection;
mod conformance;
mod eviction;
mod faults;
mod healing;
mod kill;
mod properties;
mod records;
mod roots;
