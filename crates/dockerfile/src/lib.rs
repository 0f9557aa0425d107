//! Dockerfile text to typed instructions with byte spans, variable expansion, .dockerignore patterns and build checks.
//!
//! [`parse`] reads the language as BuildKit's Dockerfile frontend 1.26 does, and tells more: it
//! takes any text, gives a typed [`Dockerfile`](instruction::Dockerfile) of all that could be
//! understood, and every fault with its place and what to write instead.
//!
//! ```
//! use longshore_dockerfile::instruction::InstructionKind;
//! use longshore_dockerfile::parse;
//! use longshore_dockerfile::render::{Color, Source};
//!
//! let parsed = parse("FROM alpine:3 AS base\nRUN make \\\n  && make test\nCOPY --form=base a b\n");
//!
//! let base = &parsed.dockerfile.stages[0];
//! assert_eq!(base.base_name.value, "alpine:3");
//! let InstructionKind::Run(run) = &base.instructions[0].kind else { unreachable!() };
//! assert_eq!(run.command.words(), ["make   && make test"]);
//! assert_eq!(base.instructions[0].origin.lines, 2..=3);
//!
//! let fault = &parsed.diagnostics[0];
//! assert_eq!(fault.message, "unknown flag: --form (did you mean from?)");
//! assert_eq!(&parsed.text[fault.span.range()], "--form=base");
//! let text = Source::new("Dockerfile", &parsed.text).text(fault, Color::Never);
//! assert!(text.contains("--> Dockerfile:4:6"));
//! ```
//!
//! # From text to instructions
//!
//! ```text
//!  text ─ lines ──► tokens that tile it, logical lines ─ words, json, heredoc ──► nodes
//!                                                                                   │ flags, mount, device
//!  diagnostics ◄── checks ◄──────────────── Dockerfile { global args, stages } ◄─ typing
//! ```
//!
//! Nothing is expanded here: what a variable holds depends on build arguments, platform and base
//! image. Whoever knows them takes the words of an instruction to [`expand`], resolves mounts with
//! [`MountFlag::resolve`](mount::MountFlag::resolve), fires `ONBUILD` triggers with
//! [`parse_trigger`], and reports with the functions of [`checks`] what can only then be found.
//!
//! # What holds
//!
//! - No file, network, clock or environment is touched.
//! - Parsing is total: it neither panics nor recurses with the text's nesting, and takes time in
//!   proportion to the text (`examples/parse_time.rs` measures it).
//! - Tokens tile the text; every span is inside it and on character boundaries.
//! - The nodes, commands and first errors of all texts are BuildKit's ([`compat`] shows them in its
//!   own forms). Where it is otherwise on purpose: text outside ASCII in flags and after
//!   `HEALTHCHECK` is not torn into bytes; a `check=skip` comment above an instruction holds for all
//!   of the instruction's findings; an instruction that is not UTF-8 is refused.

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
