//! Base images: looked up concurrently, only those that are needed, then their triggers.
//!
//! A trigger may copy from stages and images that nothing else needs, so this repeats until no
//! trigger brings anything new.

use std::borrow::Cow;
use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use longshore_dockerfile::check::Rule;
use longshore_dockerfile::instruction::InstructionKind;
use longshore_dockerfile::parse_trigger;
use longshore_dockerfile::quote::quote;
use longshore_dockerfile::suggest::nearest;
use longshore_graph::Op;
use longshore_graph::{ImageSource, OciLayoutSource, Source, VertexMeta};
use longshore_oci::{ImageConfig, Platform, Reference};

use crate::contexts::FoundContext;
use crate::environment::Variables;
use crate::error::{Location, LowerError, Problem};
use crate::lowered::BaseImage;
use crate::lowering::Lowering;
use crate::names::{ShownPlatform, next_step};
use crate::resolve::ResolvedImage;
use crate::stage::{Stage, StageId};

/// `PATH` where an image has none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names that a mistyped image may have meant.
const COMMON_IMAGES: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
];

/// What has to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    Image(Reference, Platform),
    Layout(OciLayoutSource),
}

/// How a stage's base is found.
struct Wanted {
    id: StageId,
    /// As written, for errors.
    name: String,
    platform: Platform,
    context: Option<FoundContext>,
    question: Option<Question>,
}

impl Lowering<'_, '_> {
    /// Resolves what the target needs, and answers which stages those are.
    pub(crate) async fn resolve_bases_and_triggers(
        &mut self,
        target: StageId,
    ) -> Result<BTreeSet<StageId>, LowerError> {
        loop {
            let reachable = self.reachable(target);
            self.resolve_bases(&reachable).await?;
            let mut has_news = false;
            for id in &reachable {
                has_news |= self.add_triggers(*id)?;
            }
            if !has_news {
                return Ok(reachable);
            }
        }
    }

    async fn resolve_bases(&mut self, reachable: &BTreeSet<StageId>) -> Result<(), LowerError> {
        let mut wanted = Vec::new();
        for id in (0..self.stages.len()).map(StageId) {
            let is_needed = self.build.all_stages || reachable.contains(&id);
            let stage = self.stage_mut(id);
            if stage.base.is_some() || stage.is_dispatched || stage.is_resolved {
                continue;
            }
            stage.is_resolved = is_needed;
            if stage.is_scratch() {
                self.start_from_scratch(id);
                continue;
            }
            let location = self.stage(id).location.clone();
            let question = self.want_base(id).map_err(|error| error.at(&location))?;
            if is_needed {
                wanted.push(question);
            }
        }
        let answers = self.ask(&wanted).await?;
        for (wanted, answer) in wanted.into_iter().zip(answers) {
            let location = self.stage(wanted.id).location.clone();
            self.use_base(wanted, answer)
                .map_err(|error| error.at(&location))?;
        }
        Ok(())
    }

    fn start_from_scratch(&mut self, id: StageId) {
        let platform = self.target_platform.clone();
        let stage = self.stage_mut(id);
        stage.image = empty_image(&platform);
        stage.platform = Some(platform);
        stage.is_dispatched |= stage.is_image_only();
    }

    /// What to look up for a stage. The base's name has to be a reference even if nothing needs it.
    fn want_base(&mut self, id: StageId) -> Result<Wanted, LowerError> {
        let stage = self.stage(id);
        let name = stage.base_name.clone();
        let platform = stage
            .platform
            .as_ref()
            .unwrap_or(&self.target_platform)
            .clone();
        let reference = name.parse::<Reference>().map_err(|source| {
            let name = name.clone();
            Problem::StageName { name, source }
        })?;
        let reference = reference.with_default_tag();
        let context = match &stage.context {
            Some(context) => Some(context.clone()),
            None => self.find_context(&reference.to_string(), Some(&platform))?,
        };
        let question = match &context {
            None => Some(Question::Image(reference.clone(), platform.clone())),
            Some(context) => match (context.image_reference().transpose()?, context.layout()) {
                (Some(image), _) => Some(Question::Image(image, context.platform.clone())),
                (None, layout) => layout.map(Question::Layout),
            },
        };
        self.stage_mut(id).base_name = reference.to_string();
        Ok(Wanted {
            id,
            name,
            platform,
            context,
            question,
        })
    }

    /// Looks everything up at once, and nothing twice.
    async fn ask(&self, wanted: &[Wanted]) -> Result<Vec<Option<ResolvedImage>>, LowerError> {
        let mut questions: Vec<&Wanted> = Vec::new();
        for want in wanted.iter().filter(|want| want.question.is_some()) {
            if !questions
                .iter()
                .any(|known| known.question == want.question)
            {
                questions.push(want);
            }
        }
        let answers = try_join_all(questions.iter().map(|want| self.ask_one(want))).await?;
        let answer = |want: &Wanted| {
            let place = questions
                .iter()
                .position(|known| known.question == want.question)?;
            answers.get(place).cloned().flatten()
        };
        Ok(wanted
            .iter()
            .map(|want| want.question.as_ref().and_then(|_| answer(want)))
            .collect())
    }

    async fn ask_one(&self, want: &Wanted) -> Result<Option<ResolvedImage>, LowerError> {
        let answer = match &want.question {
            None => return Ok(None),
            Some(Question::Image(reference, platform)) => {
                let mode = self.build.options.image_resolve;
                self.build.resolver.resolve(reference, platform, mode).await
            }
            Some(Question::Layout(source)) => self.build.resolver.resolve_layout(source).await,
        };
        answer.map(Some).map_err(|source| {
            let name = want.name.clone();
            let suggestion = self.suggest_base(&name);
            let error = LowerError::from(Problem::Resolve { name, source }).suggest(suggestion);
            error.at(&self.stage(want.id).location)
        })
    }

    /// The stage or common image that a name may have meant.
    fn suggest_base(&self, name: &str) -> Option<String> {
        let tagged: Vec<String> = COMMON_IMAGES
            .iter()
            .map(|image| format!("{image}:latest"))
            .collect();
        let names = self.shown_names().into_iter().chain(COMMON_IMAGES);
        nearest(name, names.chain(tagged.iter().map(String::as_str))).map(str::to_owned)
    }

    fn use_base(&mut self, want: Wanted, answer: Option<ResolvedImage>) -> Result<(), LowerError> {
        let id = want.id;
        let replaces_stage = self.stage(id).context.is_some();
        match (&want.context, answer) {
            (Some(context), answer) => {
                self.use_context(id, context, answer, &want.platform, replaces_stage)?;
            }
            (None, Some(image)) => self.use_image(&want, image)?,
            // A plain image always has its answer.
            (None, None) => {}
        }
        let stage = self.stage_mut(id);
        stage.is_dispatched |= replaces_stage || stage.is_image_only();
        Ok(())
    }

    /// Starts a stage from a context, or replaces it by one.
    fn use_context(
        &mut self,
        id: StageId,
        context: &FoundContext,
        answer: Option<ResolvedImage>,
        platform: &Platform,
        replaces_stage: bool,
    ) -> Result<(), LowerError> {
        let image_source = answer.as_ref().map(|image| context_image(context, image));
        let source = match image_source {
            Some(source) => Some(source),
            None => self.context_source(context)?,
        };
        let output = match source {
            Some(source) => Some(
                self.shared
                    .graph
                    .add_source(source, context.vertex_name())?,
            ),
            None => None,
        };
        let mut config = answer.as_ref().map(|image| image.config.clone());
        if let Some(config) = &mut config {
            config.created = None;
        }
        let stage = self.stage_mut(id);
        stage.state.output = output;
        stage.local = context.local_name().map(str::to_owned);
        if replaces_stage {
            let own = config
                .as_ref()
                .filter(|image| !image.os.is_empty() && !image.architecture.is_empty());
            stage.platform = own
                .map(ImageConfig::platform)
                .or_else(|| stage.platform.take());
            stage.image = config.unwrap_or_default();
            return Ok(());
        }
        stage.base_image = answer.map(|image| base_image(&image));
        stage.image = config.unwrap_or_else(|| empty_image(platform));
        stage.platform = Some(platform.clone());
        Ok(())
    }

    fn use_image(&mut self, want: &Wanted, image: ResolvedImage) -> Result<(), LowerError> {
        let mut platform = want.platform.clone();
        if self.stage(want.id).platform.is_none() && self.implicit_platform {
            platform = self.detect_platform(&image.config, platform);
        }
        let base = base_image(&image);
        let (manifest, mut config) = (image.manifest, image.config);
        config.created = None;
        let is_scratch = config.rootfs.diff_ids.is_empty()
            && config.history.iter().all(|entry| entry.empty_layer);
        let reference = base.reference.clone();
        if !is_scratch {
            let name = self.name_base(want.id, &reference, &platform);
            let source = ImageSource {
                reference: reference.clone(),
                manifest,
                platform: platform.clone(),
            };
            let stage = self.stage(want.id);
            let meta = VertexMeta {
                name,
                stage: stage
                    .written
                    .map(|_| stage.shown_name.clone())
                    .filter(|name| !name.is_empty()),
                lines: stage.written.map(|_| line_pair(&stage.location)),
                ..VertexMeta::default()
            };
            let op = Op::Source(Source::Image(source));
            let output = self.shared.graph.add(op, Vec::new(), meta)?;
            self.stage_mut(want.id).state.output = Some(output);
            self.check_platform(want, &platform, &config.platform());
        }
        let stage = self.stage_mut(want.id);
        stage.base_name = reference.to_string();
        stage.image = config;
        stage.base_image = Some(base);
        stage.platform = Some(platform);
        Ok(())
    }

    fn name_base(&mut self, id: StageId, reference: &Reference, platform: &Platform) -> String {
        let none = Variables::default();
        let shown = ShownPlatform {
            platform,
            environment: &none,
        };
        let shown = Some(&shown).filter(|_| self.build.multi_platform);
        next_step(
            self.stage_mut(id),
            shown,
            false,
            &format!("FROM {reference}"),
        )
    }

    /// If no platform was asked for, an image of another one that can be built decides.
    fn detect_platform(&self, image: &ImageConfig, target: Platform) -> Platform {
        let build = &self.build.options.build_platform;
        let is = |platform: &Platform| {
            platform.os == image.os && platform.architecture == image.architecture
        };
        if !is(&target) && is(build) {
            build.clone()
        } else {
            target
        }
    }

    fn check_platform(&mut self, want: &Wanted, expected: &Platform, actual: &Platform) {
        if expected.os == actual.os && expected.architecture == actual.architecture {
            return;
        }
        let quoted = |platform: &Platform| quote(&platform.to_string());
        let message = format!(
            "Base image {} was pulled with platform {}, expected {} for current build",
            want.name,
            quoted(actual),
            quoted(expected)
        );
        let location = self.stage(want.id).location.clone();
        self.find(Rule::InvalidBaseImagePlatform, message, &location);
    }

    /// Puts the triggers of a stage's base before its own instructions, once. Answers whether they
    /// refer to stages or images.
    fn add_triggers(&mut self, id: StageId) -> Result<bool, LowerError> {
        let stage = self.stage_mut(id);
        // What is only copied from runs nothing.
        if stage.has_triggers || stage.is_dispatched {
            return Ok(false);
        }
        stage.has_triggers = true;
        let triggers = match stage.base {
            None => std::mem::take(&mut stage.image.config.on_build),
            Some(base) => own_triggers(self.stage(base)),
        };
        let location = self.stage(id).location.clone();
        let mut commands = Vec::new();
        for trigger in &triggers {
            let instruction = parse_trigger(trigger).map_err(|error| {
                let mut error = LowerError::from(Problem::Trigger(error));
                error.locations = vec![location.clone()];
                error
            })?;
            let command = self
                .connect(Cow::Owned(instruction), location.clone(), true)
                .map_err(|error| error.at(&location))?;
            self.add_dependencies(id, &command);
            commands.push(command);
        }
        let has_news = commands.iter().any(|command| !command.sources.is_empty());
        let stage = self.stage_mut(id);
        stage.steps += commands.len();
        stage.commands.splice(0..0, commands);
        Ok(has_news)
    }
}

/// What the stage's `ONBUILD`s say.
fn own_triggers(stage: &Stage<'_>) -> Vec<String> {
    let triggers = stage
        .commands
        .iter()
        .filter_map(|command| match &command.instruction.kind {
            InstructionKind::OnBuild(onbuild) => Some(onbuild.trigger.value.clone()),
            _ => None,
        });
    triggers.collect()
}

pub(crate) fn line_pair(location: &Location) -> (u32, u32) {
    (*location.lines.start(), *location.lines.end())
}

fn base_image(image: &ResolvedImage) -> BaseImage {
    let reference = match image.digest {
        Some(digest) => image.reference.with_digest(digest),
        None => image.reference.clone(),
    };
    BaseImage {
        reference,
        manifest: image.manifest,
        config: image.config.clone(),
    }
}

fn context_image(context: &FoundContext, image: &ResolvedImage) -> Source {
    match context.layout() {
        Some(layout) => Source::OciLayout(OciLayoutSource {
            manifest: image.manifest,
            ..layout
        }),
        None => Source::Image(ImageSource {
            reference: base_image(image).reference,
            manifest: image.manifest,
            platform: context.platform.clone(),
        }),
    }
}

/// What `FROM scratch` starts from.
pub(crate) fn empty_image(platform: &Platform) -> ImageConfig {
    let mut image = ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        ..ImageConfig::default()
    };
    image.config.working_dir = "/".to_owned();
    if platform.os != "windows" {
        image.config.env.push(format!("PATH={DEFAULT_PATH}"));
    }
    image
}
