//! Copies between trees that are written as text.

mod archives;
mod fixture;
mod globs;
mod model;
mod rules;
mod selections;
