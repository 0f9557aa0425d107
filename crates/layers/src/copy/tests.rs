//! Copies between trees that are written as text.

mod fixture;
mod globs;
mod model;
mod rules;
mod selections;
