//! Dockerfile text to typed instructions with byte spans, variable expansion, .dockerignore patterns and build checks.

pub mod check;
pub mod checks;
pub mod compat;
mod csv;
pub mod device;
pub mod diagnostic;
pub mod directive;
pub mod duration;
pub mod expand;
mod flags;
pub mod heredoc;
pub mod ignore;
pub mod instruction;
mod json;
pub mod lines;
pub mod mount;
mod number;
mod parse;
pub mod quote;
pub mod render;
pub mod span;
pub mod suggest;
pub mod syntax;
mod typing;
mod words;

pub use csv::CsvError;
pub use parse::{Parsed, TEXT_BYTES_MAX, TriggerError, parse, parse_bytes, parse_trigger};
