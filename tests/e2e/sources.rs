//! Sources from other machines: files by URL, git repositories, contexts from both.
//!
//! The other machine is a thread of the test on loopback, which says what the test wants
//! and keeps what it was asked.

mod contexts;
mod git;
mod http;
pub(crate) mod repository;
pub(crate) mod web;
