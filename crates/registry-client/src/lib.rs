//! The OCI distribution protocol, pulling and pushing streams: authentication, mirrors, retries.
//!
//! A [`Client`] speaks to any number of registries. What it receives is bounded in
//! size and time; manifests are returned only with the digest that was asked for;
//! blobs are streamed, resumed where a connection broke, and held to their described
//! size, and to their digest through [`BlobStream::verified`].
//!
//! Files and environment are read by nobody here but for the paths that a caller names:
//! in [`CredentialStore`], in [`HostConfig::ca_files`], and the proxy variables where
//! [`Proxy::Environment`] asks for them.
//!
//! ```no_run
//! # async fn example() -> longshore_registry_client::Result<()> {
//! use longshore_registry_client::{Client, ClientOptions, MANIFEST_ACCEPT};
//!
//! let client = Client::new(ClientOptions::anonymous());
//! let reference = "debian:bookworm-slim".parse().expect("a reference");
//! let (descriptor, bytes) = client.fetch_manifest(&reference, MANIFEST_ACCEPT).await?;
//! assert_eq!(bytes.len() as u64, descriptor.size);
//! # Ok(())
//! # }
//! ```
//!
//! # Registries configuration
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000/hub"]   # asked first, for pulls only
//!
//! [registry."reg.example:5000"]
//! insecure = false        # true: certificates are not verified, plain HTTP is allowed
//! ca = ["/etc/ssl/reg.pem"]
//! max_concurrency = 4     # blob transfers at a time, in each direction
//! blocked = false
//! ```

mod auth;
mod client;
mod config;
mod credentials;
mod error;
mod listing;
mod login;
mod progress;
mod pull;
mod push;
mod referrers;
mod repository;
mod retry;
mod secret;
mod session;
mod source;
mod transport;
mod web;

pub use client::{Client, ClientOptions, MAX_CONCURRENCY_DEFAULT};
pub use config::{
    CONFIG_BYTES_MAX, ConfigError, HostConfig, Mirror, MirrorUse, RegistriesConfig, RegistryRule,
};
pub use credentials::{
    Anonymous, CREDENTIAL_FILE_BYTES_MAX, CredentialError, CredentialSource, CredentialStore,
    Credentials, StaticCredentials,
};
pub use error::{Error, ErrorClass, MirrorFailure, Refusal, Result};
pub use login::LoginCheck;
pub use progress::{Direction, Transfer, TransferObserver};
pub use pull::{BlobStream, MANIFEST_ACCEPT, Resolved};
pub use push::{UploadOptions, Uploaded};
pub use repository::Repository;
pub use retry::RetryPolicy;
pub use secret::Secret;
pub use source::{BlobReader, BlobSource, FileSource};
pub use transport::{Proxy, Timeouts, TransportError, TransportFailure};
pub use web::{WebAnswer, WebError};
