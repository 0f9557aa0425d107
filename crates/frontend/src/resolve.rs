//! The only outside contact of lowering.

use async_trait::async_trait;
use longshore_graph::{OciLayoutSource, Source};
use longshore_oci::{Digest, ImageConfig, Platform, Reference};

use crate::ImageResolveMode;

/// Why a name could not be resolved. Its text follows the name in the error that is shown.
pub type ResolveError = Box<dyn std::error::Error + Send + Sync>;

/// What an image name stands for.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The reference as it is to be pulled; usually the one that was asked for.
    pub reference: Reference,
    /// What the name stands for: the digest of the index, or of the manifest if there is no index.
    pub digest: Option<Digest>,
    /// The digest of the platform's own manifest.
    pub manifest: Option<Digest>,
    /// The image's configuration.
    pub config: ImageConfig,
}

/// Looks up what the Dockerfile names. Asked concurrently, at most once for each name and platform
/// of a build, and only for stages that are built.
#[async_trait]
pub trait ImageResolver: Send + Sync {
    /// The image that `reference` (with a tag or digest) stands for.
    async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        mode: ImageResolveMode,
    ) -> Result<ResolvedImage, ResolveError>;

    /// The image in a directory of the client's.
    async fn resolve_layout(&self, source: &OciLayoutSource)
    -> Result<ResolvedImage, ResolveError>;

    /// When the content of a source was made, in seconds since 1970: a commit's time, a file's
    /// `Last-Modified`, or the newest file of an archive. Nothing if it has no such time, as
    /// most directories of the client's.
    /// Asked only for `SOURCE_DATE_EPOCH` that names a source.
    async fn source_time(&self, source: &Source) -> Result<Option<i64>, ResolveError>;
}
