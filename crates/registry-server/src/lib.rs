//! The OCI distribution protocol, serving from a content store.
//!
//! ```text
//! TCP ─► server   connections, limits, shutdown
//!          ▼
//!        http     requests and responses; the only module that knows HTTP's types
//!          │  route(method, path, query) ─► Route        pure
//!          ▼  access.decide(who, what)
//!        service  uploads, blobs, manifests, referrers, listings
//!          ▼
//!        longshore-content   blobs, links, tags
//! ```
//!
//! Invariants: nothing is visible before it is durable and its digest is verified; a blob is
//! visible in a repository only if it was pushed or mounted there; a manifest is accepted only
//! if what it needs is there, in the transaction that stores it; blobs stream through buffers
//! of bounded size in both directions.
//!
//! ```
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use longshore_registry_server::{Options, RegistryServer};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let root = longshore_content::StateRoot::open(dir.path()).unwrap();
//! let server = RegistryServer::new(&root, Options::open_to_all());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
//! server.serve(listener, async { /* until this ends */ }).await;
//! # });
//! ```

mod access;
mod blobs;
mod body;
mod conditional;
mod error;
mod http;
mod listings;
mod manifest_cache;
mod manifest_facts;
mod manifests;
mod names;
mod options;
mod percent;
mod range;
mod referrers;
pub mod route;
mod server;
mod service;
mod sessions;
mod uploads;

pub use access::{Access, AccessRequest, Action, Decision, OpenToAll, Scope};
pub use names::{RepositoryName, Tag};
pub use options::Options;
pub use range::{ByteSpan, ContentRange, RangeRequest};
pub use server::RegistryServer;
