//! How callers watch bytes move.

use longshore_oci::Digest;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the registry to us.
    Download,
    /// From us to the registry.
    Upload,
}

/// Where the transfer of one blob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Which way.
    pub direction: Direction,
    /// The host that is spoken to, which may be a mirror.
    pub host: &'a str,
    /// The blob.
    pub digest: Digest,
    /// Bytes moved so far, from the blob's start. Falls back when an upload restarts.
    pub position_bytes: u64,
    /// The blob's size.
    pub size_bytes: u64,
}

/// Is told of each piece that moved. Called from the transfer itself: it must not block.
pub trait TransferObserver: Send + Sync {
    /// A piece of a blob moved.
    fn transferred(&self, transfer: Transfer<'_>);
}
