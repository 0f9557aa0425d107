//! Dockerfile text to typed instructions with byte spans, variable expansion, .dockerignore patterns and build checks.

pub mod check;
mod csv;
pub mod diagnostic;
pub mod directive;
pub mod duration;
pub mod expand;
pub mod heredoc;
pub mod ignore;
pub mod instruction;
pub mod mount;
mod number;
pub mod quote;
mod shell_lex;
pub mod span;
pub mod suggest;

pub use csv::CsvError;
pub use shell_lex::LexError;
