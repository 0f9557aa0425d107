//! Pushing: blobs first, then the manifests that name them.

mod manifest;
mod mount;
mod resume;
mod session;
mod upload;

pub use upload::{UploadOptions, Uploaded};
