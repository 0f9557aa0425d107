//! The build language: a directed acyclic graph of source, exec and file operations.
//!
//! One to one with BuildKit's LLB (`solver/pb/ops.proto`) in what it can say, as plain
//! Rust values, so that a protobuf definition can be read into it at a front door.
//! Acyclic by construction: a vertex may only take inputs that stand before it.
//!
//! ```text
//!  Source(image debian)   Source(local context)
//!         │   ┌────────────────┘
//!       File(copy . /app)
//!         │
//!       Exec(make)
//! ```
//!
//! ```
//! use longshore_graph::{FileAction, FileInput, FileOp, Graph, Input, Mkdir, Op, Source, Vertex};
//!
//! let mut graph = Graph::default();
//! let scratch = graph.push(Vertex::new("scratch", Op::Source(Source::Scratch), vec![])).unwrap();
//! let mkdir = FileAction::mkdir(FileInput::Vertex(0), Mkdir::new("/app"));
//! let op = Op::File(FileOp { actions: vec![mkdir] });
//! let made = graph.push(Vertex::new("WORKDIR /app", op, vec![Input::first(scratch)])).unwrap();
//! assert_eq!(graph.vertex(made).inputs[0].vertex, scratch);
//! ```

mod exec;
mod file;
mod redact;
mod selection;
mod source;
mod vertex;

pub use exec::{
    CacheSharing, Exec, Mount, MountKind, NetworkMode, Resources, SecretMount, SecurityMode,
    SshMount, Ulimit,
};
pub use file::{
    Copy, FileAction, FileActionKind, FileInput, FileOp, Mkdir, Mkfile, ModeSpec, Owner, Principal,
    Remove,
};
pub use redact::{redacted, redacted_url};
pub use selection::{PathSelector, Selection};
pub use source::{GitSource, HttpSource, ImageSource, LocalSource, OciLayoutSource, Source};
pub use vertex::{Graph, GraphError, Input, Op, Vertex, VertexId, VertexMeta};
