//! Blobs by digest on disk, crash-safe, with the metadata database, leases and garbage collection.
