//! What BuildKit's frontend answers, and what ours does.

mod cases;
mod configuration;
mod findings;
mod render;
