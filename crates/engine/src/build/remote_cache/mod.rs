//! Build caches elsewhere: in a registry, in a directory, within an image.
//!
//! A cache is a place that keeps small documents by name and blobs by digest. Each cache
//! key has a document of its own, so that builds that write to one place at the same time
//! add to each other, and a build that reads fetches only what it asks for:
//!
//! ```text
//! REPOSITORY:TAG             the marker: there is a cache in this repository
//! REPOSITORY:k-<key>         a record: what the step with this key made, and its blobs
//! REPOSITORY:g-<group>       traces: what such steps were, to explain a miss
//! REPOSITORY:m-<mount>       what a cache mount holds, where that was asked for
//!
//! DIRECTORY/names/<name>     the same documents under the same names
//! DIRECTORY/blobs/sha256/…   the blobs
//! ```
//!
//! Documents are image manifests ([`document`]), so that registries keep the blobs that
//! they name. An image may carry the records of its own layers in an annotation
//! ([`inline`]).
//!
//! Nothing is believed: a record that cannot be read is a miss, a blob is taken only when
//! it holds the layer that the record says. Values (arguments, commands, file names) do
//! not leave the machine, their digests do; but what steps wrote to cache mounts does, with
//! `mounts=true`.

mod document;
mod export;
mod inline;
mod keyed;
mod mount_export;
mod mount_import;
mod place;
mod portable;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore_oci::Reference;
use longshore_registry_client::{ClientOptions, RetryPolicy, Timeouts};
use longshore_solver::RemoteCache;

pub(crate) use export::{CacheExport, Plans};
pub(crate) use inline::{INLINE_ANNOTATION, inline_records};
pub(crate) use mount_import::MountImport;

use self::place::Place;
use self::source::CacheReader;
use crate::progress::ProgressSink;
use crate::{Engine, LayerCompression};

/// Where a build cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// In a repository; the tag says whether there is one. Or within the image of this name.
    Registry(Reference),
    /// In a directory of this machine.
    Directory(PathBuf),
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(reference) => f.write_str(&reference.familiar()),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// A build cache that a build asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSource {
    /// Where it is.
    pub place: CachePlace,
    /// The largest cache mount that is taken from there, in bytes of its archive; `None` takes
    /// none.
    pub mounts_max_bytes: Option<u64>,
}

/// Where a build's records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTarget {
    /// The place; `None` is within the image that is built.
    pub place: Option<CachePlace>,
    /// Which records.
    pub mode: CacheMode,
    /// How layers are compressed.
    pub compression: LayerCompression,
    /// Whether layers that the cache has in another form are compressed so, too.
    pub force_compression: bool,
    /// The largest cache mount that goes there, in bytes of its archive; `None` lets none go.
    pub mounts_max_bytes: Option<u64>,
    /// Whether a cache that cannot be written is a warning; the build fails otherwise.
    pub ignore_error: bool,
}

/// Which records go to a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Those of the steps whose layers are in the result.
    #[default]
    Min,
    /// Those of every step.
    Max,
}

/// How registries are spoken to about caches: a cache that is slow is no help, so that it
/// is given up sooner than an image would be.
pub(crate) fn cache_client(options: &ClientOptions) -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy {
            attempts: 2,
            ..RetryPolicy::STANDARD
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(15),
            idle: Duration::from_secs(15),
            ..Timeouts::STANDARD
        },
        ..options.clone()
    }
}

/// A cache that a build asks after its own.
#[derive(Clone)]
pub(crate) struct Reader {
    name: String,
    reader: Arc<CacheReader>,
    mounts_max_bytes: Option<u64>,
}

impl Reader {
    /// As the solver asks it.
    pub(crate) fn tier(&self) -> RemoteCache {
        RemoteCache {
            name: self.name.clone(),
            backend: Arc::clone(&self.reader) as _,
            read: true,
            write: false,
        }
    }
}

/// The caches that a build asks after its own.
pub(crate) fn readers(
    engine: &Engine,
    sources: &[CacheSource],
    progress: &Arc<dyn ProgressSink>,
) -> Vec<Reader> {
    let reader = |source: &CacheSource| Reader {
        name: source.place.to_string(),
        reader: Arc::new(CacheReader::new(
            Place::new(engine.layers().cache_client().clone(), &source.place),
            Arc::clone(progress),
        )),
        mounts_max_bytes: source.mounts_max_bytes,
    };
    sources.iter().map(reader).collect()
}
