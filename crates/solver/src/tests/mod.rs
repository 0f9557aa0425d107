//! Behaviour of whole solves.

mod cancellation;
mod explanation;
mod faults;
mod keys;
mod laziness;
mod seeds;
pub(crate) mod shake;
mod shape;
mod sharing;
mod support;
