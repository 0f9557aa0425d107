//! End-to-end tests: the `longshore` binary as people use it, on a state root of its own.
//!
//! Each module is one promise of the product. What a test needs from the machine (root,
//! a real Debian, another tool) it asks the harness for, and says that it is skipped
//! where that is missing. Results are read back by other people's tools wherever there
//! is one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and a skipped test says why"
)]

mod apps;
mod architecture;
mod bad_input;
mod bombs;
mod build_history;
mod cache;
mod cases;
mod compression;
mod cve;
mod differential;
mod early_push;
mod endings;
mod harness;
mod images;
mod in_place;
mod instructions;
mod interleavings;
mod kept;
mod kill;
mod last_resolved;
mod layer_form;
mod limits;
mod lock;
mod networks;
mod oci_runtime;
mod output_options;
mod outputs;
mod registry;
mod remote_cache;
mod remote_mounts;
mod reproducible;
mod rootless;
mod run_mounts;
mod run_options;
mod rungs;
mod running;
mod security;
#[path = "../skip.rs"]
mod skip;
mod sources;
mod space;
mod ssh;
mod terminal;
mod verify;
mod view;
