//! The OCI distribution protocol, pulling and pushing streams: authentication, mirrors, retries.
