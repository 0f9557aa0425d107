//! A stage while it is lowered.

use std::borrow::Cow;
use std::collections::BTreeSet;

use longshore_dockerfile::instruction::{Instruction, InstructionKind, Stage as Written};
use longshore_graph::Input;
use longshore_oci::{ImageConfig, Platform};

use crate::contexts::FoundContext;
use crate::environment::Variables;
use crate::error::Location;
use crate::lowered::BaseImage;
use crate::outline::Capture;

/// A stage's place in its build's list. Images that are only copied from have one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StageId(pub(crate) usize);

/// The name of the empty base image.
pub(crate) const SCRATCH: &str = "scratch";

/// An instruction with what is known of it before it is lowered.
#[derive(Clone, Debug)]
pub(crate) struct Command<'a> {
    pub(crate) instruction: Cow<'a, Instruction>,
    /// For a trigger the place of the `FROM` that fires it.
    pub(crate) location: Location,
    /// The stages that it copies or mounts from: one for `COPY --from`, one per mount of a `RUN`.
    pub(crate) sources: Vec<StageId>,
    /// It came from the base image's `ONBUILD`.
    pub(crate) is_trigger: bool,
}

/// What the instructions so far have made.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The files; nothing is an empty tree.
    pub(crate) output: Option<Input>,
    /// `ENV` and `ARG`.
    pub(crate) environment: Variables,
    /// `WORKDIR`, absolute; empty for the root.
    pub(crate) directory: String,
    /// `USER`.
    pub(crate) user: String,
}

/// Where an instruction stood that may stand only once.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnlyOnce {
    pub(crate) cmd: Option<Location>,
    pub(crate) entrypoint: Option<Location>,
    pub(crate) healthcheck: Option<Location>,
}

#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// As it stands in the Dockerfile; nothing for an image that is only copied from.
    pub(crate) written: Option<&'a Written>,
    /// In lower case; empty without `AS`.
    pub(crate) name: String,
    /// As shown: `stage-2` if it has no name, empty if it is the only one.
    pub(crate) shown_name: String,
    /// The base with variables expanded; once resolved, its whole reference.
    pub(crate) base_name: String,
    pub(crate) location: Location,
    pub(crate) commands: Vec<Command<'a>>,
    /// The earlier stage that it starts from.
    pub(crate) base: Option<StageId>,
    /// The stages it copies or mounts from, and where.
    pub(crate) dependencies: Vec<(StageId, Location)>,
    /// The named context that replaces it, instructions and all.
    pub(crate) context: Option<FoundContext>,
    /// The client's directory that it starts from.
    pub(crate) local: Option<String>,
    pub(crate) platform: Option<Platform>,
    pub(crate) state: State,
    pub(crate) image: ImageConfig,
    pub(crate) base_image: Option<BaseImage>,
    /// How long its history is.
    pub(crate) history_bytes: usize,
    /// `ARG`s so far, those of its base first.
    pub(crate) build_args: Vec<(String, Option<String>)>,
    pub(crate) is_dispatched: bool,
    pub(crate) is_resolved: bool,
    pub(crate) has_triggers: bool,
    pub(crate) ignore_cache: bool,
    /// A `WORKDIR` of this Dockerfile stands before.
    pub(crate) has_workdir: bool,
    /// Paths of the main context that it uses.
    pub(crate) context_paths: BTreeSet<String>,
    /// Whose `used_paths` tell what is used of its files: its own or its base's.
    pub(crate) paths_of: StageId,
    /// Paths that are used of the files it starts from.
    pub(crate) used_paths: BTreeSet<String>,
    pub(crate) step: usize,
    pub(crate) steps: usize,
    pub(crate) once: OnlyOnce,
    pub(crate) outline: Capture,
    pub(crate) scan_context: bool,
    pub(crate) scan_stage: bool,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(id: StageId, base_name: String, location: Location) -> Self {
        Self {
            written: None,
            name: String::new(),
            shown_name: String::new(),
            base_name,
            location,
            commands: Vec::new(),
            base: None,
            dependencies: Vec::new(),
            context: None,
            local: None,
            platform: None,
            state: State::default(),
            image: ImageConfig::default(),
            base_image: None,
            history_bytes: 0,
            build_args: Vec::new(),
            is_dispatched: false,
            is_resolved: false,
            has_triggers: false,
            ignore_cache: false,
            has_workdir: false,
            context_paths: BTreeSet::new(),
            paths_of: id,
            used_paths: BTreeSet::new(),
            step: 0,
            steps: 0,
            once: OnlyOnce::default(),
            outline: Capture::default(),
            scan_context: false,
            scan_stage: false,
        }
    }

    /// Whether it is an image that is only copied or mounted from.
    pub(crate) fn is_image_only(&self) -> bool {
        self.written.is_none()
    }

    /// Whether it is `FROM scratch`, and nothing replaces that.
    pub(crate) fn is_scratch(&self) -> bool {
        self.base_name == SCRATCH && self.context.is_none()
    }

    /// Takes over what the stage it starts from has become; by moving it if nothing else starts
    /// from it, so that long chains of stages stay cheap.
    pub(crate) fn start_from(&mut self, base: &mut Self, is_last: bool) {
        let output = base.state.output;
        if is_last {
            self.state = std::mem::take(&mut base.state);
            self.image = std::mem::take(&mut base.image);
            self.base_image = base.base_image.take();
            self.build_args = std::mem::take(&mut base.build_args);
        } else {
            self.state = base.state.clone();
            self.image = base.image.clone();
            self.base_image.clone_from(&base.base_image);
            self.build_args.clone_from(&base.build_args);
        }
        // Others may still copy from it.
        base.state.output = output;
        // Triggers fire in the stage that follows, and there only.
        self.image.config.on_build.clear();
        self.history_bytes = base.history_bytes;
        self.platform.clone_from(&base.platform);
        self.paths_of = base.paths_of;
        self.has_workdir = base.has_workdir;
    }
}

/// How many of a stage's numbered steps these instructions are.
pub(crate) fn count_steps(instructions: &[Instruction]) -> usize {
    let is_step = |instruction: &&Instruction| {
        matches!(
            instruction.kind,
            InstructionKind::Add(_)
                | InstructionKind::Copy(_)
                | InstructionKind::Run(_)
                | InstructionKind::Workdir(_)
        )
    };
    instructions.iter().filter(is_step).count()
}
