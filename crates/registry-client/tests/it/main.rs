//! The client against a registry made of faults, and against distribution's own.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod auth;
mod credentials;
mod debian;
mod fake;
mod mirrors;
mod pull;
mod push;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use longshore_registry_client::{
    Client, ClientOptions, CredentialSource, Proxy, RegistriesConfig, RetryPolicy, Timeouts,
};

/// Options that fail fast: the waits of the standard policy, a hundred times shorter.
pub(crate) fn options() -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(2),
            backoff_max: Duration::from_millis(20),
            retry_after_max: Duration::from_secs(2),
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(2),
            idle: Duration::from_millis(700),
            upload_finish: Duration::from_secs(3),
        },
        proxy: Proxy::Direct,
        ..ClientOptions::anonymous()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options())
}

pub(crate) fn client_as(credentials: impl CredentialSource + 'static) -> Client {
    Client::new(ClientOptions {
        credentials: Arc::new(credentials),
        ..options()
    })
}

pub(crate) fn client_with(registries: RegistriesConfig) -> Client {
    Client::new(ClientOptions {
        registries,
        ..options()
    })
}

/// Bytes that no compression or accident makes equal elsewhere.
pub(crate) fn noise(seed: u64, length: usize) -> bytes::Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(length);
    bytes.into()
}
