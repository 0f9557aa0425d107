//! The OCI distribution protocol, serving from a content store.
