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
mod secrets;
mod signal;
mod stage;
mod url;

pub use epoch::EpochError;
pub use error::{
    ENVIRONMENT_BYTES_MAX, HISTORY_BYTES_MAX, INSTRUCTIONS_MAX, Location, LowerError, Problem,
};
pub use expose::PortError;
pub use git::GitUrlError;
pub use lowered::{BaseImage, FollowPaths, Lowered, LoweredPlatform, UsedStage};
pub use options::{
    BuildOptions, ContextSource, ImageResolveMode, MainContext, NamedContext, NoCache,
};
pub use outline::{Outline, OutlineArg, OutlineMount, Target, Targets, targets};
pub use requests::{CheckReport, check, lower, outline};
pub use resolve::{ImageResolver, ResolveError, ResolvedImage};
