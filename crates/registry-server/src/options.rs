//! How a registry serves, and its limits.

use std::sync::Arc;
use std::time::Duration;

use longshore_oci::DOCUMENT_BYTES_MAX;

use crate::access::{Access, OpenToAll};

/// How a registry serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may do what.
    pub access: Arc<dyn Access>,
    /// The largest manifest that is accepted. The specification asks for 4 MB at least.
    pub manifest_bytes_max: usize,
    /// The largest blob that is accepted, if there is a limit.
    pub blob_bytes_max: Option<u64>,
    /// Connections that are served at once; more wait.
    pub connections_max: usize,
    /// How long a client may take to send a request's head.
    pub head_timeout: Duration,
    /// How long a client may pause while it sends a body.
    pub body_idle_timeout: Duration,
    /// How long requests may go on once the server is to stop.
    pub shutdown_grace: Duration,
}

impl Options {
    /// Serves everyone, with limits that fit one machine.
    pub fn open_to_all() -> Self {
        Self {
            access: Arc::new(OpenToAll),
            manifest_bytes_max: DOCUMENT_BYTES_MAX,
            blob_bytes_max: None,
            connections_max: 1024,
            head_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
