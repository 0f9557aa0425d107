//! What lowering answers.

use std::collections::BTreeMap;

use longshore_dockerfile::diagnostic::Diagnostic;
use longshore_graph::{Graph, Input, VertexId};
use longshore_oci::{Digest, ImageConfig, Platform, Reference};

/// A Dockerfile as a graph.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What has to be done, for all platforms together: what they share is there once.
    pub graph: Graph,
    /// What comes of it, in the order in which the platforms were asked for.
    pub platforms: Vec<LoweredPlatform>,
    /// What is used of each of the client's directories, by their names. Those that are not used
    /// are not here.
    pub local_paths: BTreeMap<String, FollowPaths>,
    /// Whether the result is an index, even for a single platform.
    pub multi_platform: bool,
    /// Warnings by line; those that the Dockerfile does not want are left out.
    pub diagnostics: Vec<Diagnostic>,
}

/// What comes of a build for one platform.
#[derive(Clone, Debug)]
pub struct LoweredPlatform {
    /// The platform that was asked for.
    pub platform: Platform,
    /// The vertex whose first output holds the files.
    pub target: VertexId,
    /// The image's configuration: without `created`, and with the base's layers alone in `rootfs`.
    /// Each entry of `history` behind the base's that is no `empty_layer` stands for one layer.
    pub config: ImageConfig,
    /// The image that it starts from; nothing if it starts from scratch or a context.
    pub base: Option<BaseImage>,
    /// `SOURCE_DATE_EPOCH`, resolved: seconds since 1970.
    pub epoch: Option<i64>,
    /// The stages that are built, in order.
    pub stages: Vec<UsedStage>,
    /// The target stage runs even where the cache has a result.
    pub ignore_cache: bool,
    /// What to list the contents of besides the target, by `BUILDKIT_SBOM_SCAN_STAGE` (stage
    /// names) and `BUILDKIT_SBOM_SCAN_CONTEXT` (`context`).
    pub scan: BTreeMap<String, Option<Input>>,
}

/// An image that a stage starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Its reference, with its digest if that is known.
    pub reference: Reference,
    /// The digest of the platform's own manifest.
    pub manifest: Option<Digest>,
    /// Its configuration as it was.
    pub config: ImageConfig,
}

/// A stage that is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedStage {
    /// Its name, or `stage-2`; empty for the only one.
    pub name: String,
    /// The reference of the image, the stage or `scratch` that it starts from.
    pub base: String,
    /// The vertex whose output holds its files; nothing if there are none.
    pub output: Option<Input>,
    /// The line of its `FROM`.
    pub line: u32,
}

/// What is used of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowPaths {
    /// Everything.
    All,
    /// These paths and what is below them, relative to the directory, sorted. They may hold
    /// wildcards; links in them are to be followed.
    Paths(Vec<String>),
}
