//! Dockerfile instructions to a build graph and an image configuration.
//!
//! What BuildKit's `dockerfile2llb` decides is decided here, with its answers: which stages are
//! needed, what variables hold, what each instruction does to the files and the configuration.
//! The only outside contact is the [`ImageResolver`]; nothing is read, run or written.
//!
//! ```text
//!  Parsed + BuildOptions ──lower──► Graph + ImageConfig per platform + warnings
//!                            │
//!                       ImageResolver: names of the base images that are needed
//! ```
//!
//! ```
//! use async_trait::async_trait;
//! use futures_util::FutureExt as _;
//! use longshore_frontend::{
//!     BuildOptions, ImageResolveMode, ImageResolver, ResolveError, ResolvedImage, lower,
//! };
//! use longshore_graph::{OciLayoutSource, Source};
//! use longshore_oci::{Platform, Reference};
//!
//! struct NoImages;
//!
//! #[async_trait]
//! impl ImageResolver for NoImages {
//!     async fn resolve(
//!         &self,
//!         _: &Reference,
//!         _: &Platform,
//!         _: ImageResolveMode,
//!     ) -> Result<ResolvedImage, ResolveError> {
//!         Err("not found".into())
//!     }
//!     async fn resolve_layout(&self, _: &OciLayoutSource) -> Result<ResolvedImage, ResolveError> {
//!         Err("not found".into())
//!     }
//!     async fn source_time(&self, _: &Source) -> Result<Option<i64>, ResolveError> {
//!         Ok(None)
//!     }
//! }
//!
//! let parsed = longshore_dockerfile::parse("FROM scratch\nCOPY app /\nENTRYPOINT [\"/app\"]\n");
//! let options = BuildOptions::new("linux/amd64".parse().unwrap());
//! let lowered = lower(&parsed, &options, &NoImages).now_or_never().unwrap().unwrap();
//! let platform = &lowered.platforms[0];
//! assert_eq!(lowered.graph.vertex(platform.target).meta.name, "[1/1] COPY app /");
//! assert_eq!(platform.config.config.entrypoint.as_deref(), Some(&["/app".to_owned()][..]));
//! ```
//!
//! [`lower`] is for builds, [`check`] for `--check`, [`outline`] and [`targets`] for `--call`.

mod arguments;
mod bases;
mod contexts;
mod dispatch;
mod environment;
mod epoch;
mod error;
mod expose;
mod git;
mod graph_builder;
mod history;
mod lowered;
mod lowering;
mod mode;
mod names;
mod options;
mod outline;
mod paths;
mod plan;
mod remote;
mod requests;
mod resolve;
mod signal;
mod stage;
#[cfg(test)]
mod tests;
mod url;

pub use epoch::EpochError;
pub use error::{
    ENVIRONMENT_BYTES_MAX, HISTORY_BYTES_MAX, INSTRUCTIONS_MAX, Location, LowerError, Problem,
};
pub use expose::PortError;
pub use git::{GitUrlError, git_source};
pub use lowered::{BaseImage, FollowPaths, Lowered, LoweredPlatform, UsedStage};
pub use options::{
    BuildOptions, ContextSource, ImageResolveMode, MainContext, NamedContext, NoCache,
};
pub use outline::{Outline, OutlineArg, OutlineMount, Target, Targets, targets};
pub use paths::WindowsPathError;
pub use requests::{CheckReport, check, lower, outline, survey};
pub use resolve::{ImageResolver, ResolveError, ResolvedImage};
