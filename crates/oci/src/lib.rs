//! OCI and Docker spec values: digests, descriptors, manifests, indexes, image
//! configurations, platforms and image references.
//!
//! Plain values and their JSON forms. Nothing here touches files, network, clock
//! or environment. Documents that came from elsewhere are never re-serialised to
//! obtain their digest: keep the bytes, parse a view.
//!
//! ```
//! use longshore_oci::{Digest, Reference};
//!
//! let reference: Reference = "debian:bookworm-slim".parse().unwrap();
//! assert_eq!(reference.to_string(), "docker.io/library/debian:bookworm-slim");
//! let digest = Digest::sha256_of(b"");
//! assert!(digest.to_string().starts_with("sha256:e3b0c442"));
//! ```

mod config;
mod descriptor;
mod digest;
pub mod json;
mod layer_id;
mod manifest;
pub mod media_type;
mod platform;
mod reference;

pub use config::{ContainerConfig, Empty, Healthcheck, HistoryEntry, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, ChainId, DiffId, Digest, DigestError, Digester, chain_id};
pub use layer_id::LayerId;
pub use manifest::{DOCUMENT_BYTES_MAX, Document, DocumentError, Index, Manifest};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
