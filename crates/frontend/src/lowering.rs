//! Lowering for one platform: what is known throughout, and the order of the steps.
//!
//! ```text
//!  arguments ► stages ► dependencies ► bases (concurrently) ⇄ triggers ► instructions ► image
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use longshore_dockerfile::Parsed;
use longshore_dockerfile::check::{CheckFilter, Rule};
use longshore_dockerfile::diagnostic::Diagnostic;
use longshore_dockerfile::expand::{ExpandError, Lexer};
use longshore_dockerfile::span::Span;
use longshore_dockerfile::suggest::nearest;
use longshore_graph::{
    Copy, FileAction, FileActionKind, FileInput, FileOp, Input, LocalSource, Op, Source,
    VertexMeta, redacted_url,
};
use longshore_oci::Platform;

use crate::arguments::Arguments;
use crate::error::{Location, LowerError, Problem};
use crate::graph_builder::GraphBuilder;
use crate::lowered::{FollowPaths, LoweredPlatform, UsedStage};
use crate::options::{BuildOptions, ContextSource};
use crate::outline::Outline;
use crate::paths::rooted;
use crate::resolve::ImageResolver;
use crate::stage::{Command, Stage, StageId};

/// What all platforms of a build have in common.
pub(crate) struct Build<'a> {
    pub(crate) parsed: &'a Parsed,
    pub(crate) options: &'a BuildOptions,
    pub(crate) resolver: &'a dyn ImageResolver,
    pub(crate) multi_platform: bool,
    /// Every stage is lowered, wanted or not: for checks and surveys alone.
    pub(crate) all_stages: bool,
}

/// What grows with every platform.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) graph: GraphBuilder,
    pub(crate) local_paths: BTreeMap<String, FollowPaths>,
}

pub(crate) struct Lowering<'a, 's> {
    pub(crate) build: &'a Build<'a>,
    pub(crate) shared: &'s mut Shared,
    pub(crate) arguments: Arguments,
    pub(crate) target_platform: Platform,
    /// No platform was asked for.
    pub(crate) implicit_platform: bool,
    pub(crate) epoch: Option<i64>,
    pub(crate) lexer: Lexer,
    pub(crate) stages: Vec<Stage<'a>>,
    pub(crate) by_name: HashMap<String, StageId>,
    pub(crate) context: Option<Input>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl<'a, 's> Lowering<'a, 's> {
    pub(crate) fn new(
        build: &'a Build<'a>,
        shared: &'s mut Shared,
        platform: Option<&Platform>,
    ) -> Self {
        let target_platform = platform.unwrap_or(&build.options.build_platform).clone();
        Self {
            arguments: Arguments::new(build, &target_platform),
            implicit_platform: platform.is_none(),
            target_platform,
            epoch: None,
            lexer: Lexer::new(build.parsed.dockerfile.escape.as_char()),
            stages: Vec::new(),
            by_name: HashMap::new(),
            context: None,
            diagnostics: Vec::new(),
            build,
            shared,
        }
    }

    /// Goes the whole way, and answers the target stage.
    pub(crate) async fn run(&mut self) -> Result<StageId, LowerError> {
        self.check_default_bases();
        self.arguments
            .read_global(&self.build.parsed.dockerfile, self.lexer)?;
        self.epoch = self.resolve_epoch().await?;
        self.plan_stages()?;
        let target = self.find_target()?;
        self.connect_stages()?;
        let reachable = self.resolve_bases_and_triggers(target).await?;
        self.dispatch_stages(&reachable, target)?;
        self.finish_image(target);
        self.fail_on_findings()?;
        Ok(target)
    }

    fn find_target(&self) -> Result<StageId, LowerError> {
        let Some(target) = &self.build.options.target else {
            return Ok(StageId(self.stages.len() - 1));
        };
        self.stage_named(target).ok_or_else(|| {
            let names = self.shown_names();
            let suggestion = nearest(target, names.iter().copied()).map(str::to_owned);
            LowerError::from(Problem::Target {
                target: target.clone(),
            })
            .suggest(suggestion)
        })
    }

    pub(crate) fn stage_named(&self, name: &str) -> Option<StageId> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    pub(crate) fn shown_names(&self) -> Vec<&str> {
        let names = self.stages.iter().map(|stage| stage.shown_name.as_str());
        names.filter(|name| !name.is_empty()).collect()
    }

    pub(crate) fn stage(&self, id: StageId) -> &Stage<'a> {
        &self.stages[id.0]
    }

    pub(crate) fn stage_mut(&mut self, id: StageId) -> &mut Stage<'a> {
        &mut self.stages[id.0]
    }

    /// Remembers a finding of a build check.
    pub(crate) fn find(&mut self, rule: Rule, message: String, location: &Location) {
        self.find_at(rule, message, location.span, location);
    }

    pub(crate) fn find_at(&mut self, rule: Rule, message: String, span: Span, location: &Location) {
        self.diagnostics.push(Diagnostic::finding(
            rule,
            message,
            span,
            location.lines.clone(),
        ));
    }

    /// Expands a word of an instruction with the stage's variables.
    pub(crate) fn expand(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        word: &str,
        span: Span,
    ) -> Result<String, LowerError> {
        self.expand_with(self.lexer, id, command, word, span)
            .map_err(|error| {
                let lines = command.location.lines.clone();
                let span = if command.is_trigger {
                    command.location.span
                } else {
                    span
                };
                LowerError::from(error).at(&Location { span, lines })
            })
    }

    pub(crate) fn expand_with(
        &mut self,
        lexer: Lexer,
        id: StageId,
        command: &Command<'_>,
        word: &str,
        span: Span,
    ) -> Result<String, ExpandError> {
        match lexer.expand(word, &self.stage(id).state.environment) {
            Ok(expansion) => {
                self.find_undefined(id, command, &expansion.unmatched, span);
                Ok(expansion.word)
            }
            Err(error) => {
                self.find_undefined(id, command, &error.unmatched, span);
                Err(error)
            }
        }
    }

    /// Reports variables that nothing has set. `ARG name` without a value counts as declared.
    pub(crate) fn find_undefined(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        unmatched: &BTreeSet<String>,
        span: Span,
    ) {
        let stage = self.stage(id);
        let is_declared = |name: &&String| {
            stage
                .build_args
                .iter()
                .any(|(declared, _)| declared == *name)
                || crate::arguments::is_never_exported(name)
        };
        let undefined: Vec<&String> = unmatched.iter().filter(|name| !is_declared(name)).collect();
        let message = |name: &String| {
            let known = stage.state.environment.names();
            let hint = nearest(name, known).map(|near| format!(" (did you mean ${near}?)"));
            format!(
                "Usage of undefined variable '${name}'{}",
                hint.unwrap_or_default()
            )
        };
        let messages: Vec<String> = undefined.into_iter().map(message).collect();
        let span = if command.is_trigger {
            command.location.span
        } else {
            span
        };
        for message in messages {
            self.find_at(Rule::UndefinedVar, message, span, &command.location);
        }
    }

    /// The main context's files. Nothing if the context is empty.
    pub(crate) fn context_input(&mut self) -> Result<Option<Input>, Problem> {
        if self.context.is_some() {
            return Ok(self.context);
        }
        let main = &self.build.options.main_context;
        let whole = match &main.source {
            ContextSource::Empty => return Ok(None),
            ContextSource::Local { name } => {
                let source = Source::Local(LocalSource { name: name.clone() });
                self.shared
                    .graph
                    .add_source(source, "[internal] load build context".to_owned())?
            }
            ContextSource::Git(source) => {
                let mut source = source.clone();
                source.keep_git_dir |= self.arguments.is_on("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
                let name = format!(
                    "[internal] load git source {}",
                    redacted_url(&source.remote)
                );
                self.shared.graph.add_source(Source::Git(source), name)?
            }
            ContextSource::Http { source, archive } => {
                let name = "[internal] load remote build context".to_owned();
                let file = self
                    .shared
                    .graph
                    .add_source(Source::Http(source.clone()), name)?;
                if *archive {
                    self.copy_of(file, &rooted(&source.filename), true)?
                } else {
                    file
                }
            }
        };
        let input = match main.subdirectory.as_str() {
            "" => whole,
            directory => self.copy_of(whole, &rooted(directory), false)?,
        };
        self.context = Some(input);
        Ok(self.context)
    }

    /// A tree that holds the content of one directory, or archive, of another.
    fn copy_of(&mut self, from: Input, path: &str, unpack: bool) -> Result<Input, Problem> {
        let copy = Copy {
            unpack,
            directory_contents_only: !unpack,
            ..Copy::new(FileInput::Vertex(0), path, "/")
        };
        let action = FileAction {
            input: FileInput::Scratch,
            kind: FileActionKind::Copy(copy),
        };
        let op = Op::File(FileOp {
            actions: vec![action],
        });
        let name = "[internal] load remote build context".to_owned();
        let meta = VertexMeta {
            name,
            ..VertexMeta::default()
        };
        self.shared.graph.add(op, vec![from], meta)
    }

    /// Applies what only the result gets: labels of the build and the platform asked for.
    fn finish_image(&mut self, target: StageId) {
        let (labels, platform) = (&self.build.options.labels, self.target_platform.clone());
        let implicit = self.implicit_platform;
        let image = &mut self.stages[target.0].image;
        image.config.labels.extend(labels.iter().cloned());
        if !implicit {
            let same = platform.os == image.os && platform.architecture == image.architecture;
            image.os.clone_from(&platform.os);
            image.architecture.clone_from(&platform.architecture);
            if !platform.variant.is_empty() || !same {
                image.variant.clone_from(&platform.variant);
            }
            if !platform.os_version.is_empty() || !same {
                image.os_version.clone_from(&platform.os_version);
            }
            if !platform.os_features.is_empty() {
                image.os_features.clone_from(&platform.os_features);
            }
        }
        let normal = image.platform();
        image.os = normal.os;
        image.architecture = normal.architecture;
        image.variant = normal.variant;
    }

    /// The filter of the check options in force.
    pub(crate) fn filter(&self) -> Result<CheckFilter, LowerError> {
        let given = self.arguments.check_options()?;
        let instead = given.as_ref().or(self.build.options.checks.as_ref());
        Ok(CheckFilter::new(&self.build.parsed.dockerfile, instead))
    }

    /// All findings so far, those of the parser included, that are wanted.
    pub(crate) fn wanted_diagnostics(&self) -> Result<Vec<Diagnostic>, LowerError> {
        let filter = self.filter()?;
        let found = self
            .build
            .parsed
            .diagnostics
            .iter()
            .chain(&self.diagnostics);
        let mut wanted: Vec<Diagnostic> = found
            .filter(|diagnostic| filter.wants(diagnostic))
            .cloned()
            .collect();
        wanted.sort_by_key(|diagnostic| *diagnostic.lines.start());
        Ok(wanted)
    }

    fn fail_on_findings(&self) -> Result<(), LowerError> {
        let wanted = self.wanted_diagnostics()?;
        if !self.filter()?.fails(&wanted) {
            return Ok(());
        }
        let rules = wanted.iter().filter_map(Diagnostic::rule).map(Rule::name);
        let mut seen = BTreeSet::new();
        let rules = rules.filter(|rule| seen.insert(*rule)).collect();
        Err(Problem::Checks { rules }.into())
    }

    /// What comes of it, once [`Self::run`] has succeeded.
    pub(crate) fn result(mut self, target: StageId) -> Result<LoweredPlatform, LowerError> {
        let reachable = self.reachable(target);
        self.collect_local_paths(&reachable);
        let output = match self.stage(target).state.output {
            Some(output) => output,
            None => self
                .shared
                .graph
                .add_source(Source::Scratch, "scratch".to_owned())?,
        };
        let stages = reachable
            .iter()
            .map(|id| self.stage(*id))
            .filter(|stage| !stage.is_image_only());
        let stages = stages.map(|stage| UsedStage {
            name: stage.shown_name.clone(),
            base: stage.base_name.clone(),
            output: stage.state.output,
            line: *stage.location.lines.start(),
        });
        let stages = stages.collect();
        let scan = self.scan_targets(target, &reachable)?;
        let target = self.stages.swap_remove(target.0);
        Ok(LoweredPlatform {
            platform: self.target_platform,
            target: output.vertex,
            config: target.image,
            base: target.base_image,
            epoch: self.epoch,
            stages,
            ignore_cache: target.ignore_cache,
            scan,
        })
    }

    /// What the target, and what it needs, can be given.
    pub(crate) fn outline(&self, target: StageId) -> Outline {
        let stage = self.stage(target);
        let description = stage
            .written
            .and_then(|written| written.doc_comment.clone());
        let mut outline = Outline {
            name: stage.name.clone(),
            description: description.unwrap_or_default(),
            ..Outline::default()
        };
        let global = &self.arguments.declared;
        stage.outline.add_to(&mut outline, global);
        for id in self.reachable(target) {
            self.stage(id).outline.add_to(&mut outline, global);
        }
        outline.sort();
        outline
    }

    fn scan_targets(
        &mut self,
        target: StageId,
        reachable: &BTreeSet<StageId>,
    ) -> Result<BTreeMap<String, Option<Input>>, Problem> {
        let mut scan = BTreeMap::new();
        for id in reachable.iter().filter(|id| **id != target) {
            let stage = self.stage(*id);
            if stage.scan_stage {
                scan.insert(stage.shown_name.clone(), stage.state.output);
            }
        }
        if self.stage(target).scan_context {
            scan.insert("context".to_owned(), self.context_input()?);
        }
        Ok(scan)
    }

    /// Adds what this platform uses of the client's directories.
    fn collect_local_paths(&mut self, reachable: &BTreeSet<StageId>) {
        let mut found: Vec<(String, BTreeSet<String>)> = Vec::new();
        if let (ContextSource::Local { name }, Some(_)) =
            (&self.build.options.main_context.source, self.context)
        {
            let stages = self
                .stages
                .iter()
                .flat_map(|stage| stage.context_paths.iter().cloned());
            found.push((name.clone(), stages.collect()));
        }
        for id in reachable {
            let stage = self.stage(*id);
            if let Some(name) = &stage.local {
                found.push((name.clone(), stage.used_paths.clone()));
            }
        }
        for (name, paths) in found {
            merge_paths(&mut self.shared.local_paths, name, &paths);
        }
    }
}

/// Joins what another platform or stage uses of the same directory.
fn merge_paths(all: &mut BTreeMap<String, FollowPaths>, name: String, used: &BTreeSet<String>) {
    let is_all = used.is_empty() || used.contains("/");
    let known = all
        .entry(name)
        .or_insert_with(|| FollowPaths::Paths(Vec::new()));
    match known {
        FollowPaths::All => {}
        _ if is_all => *known = FollowPaths::All,
        FollowPaths::Paths(paths) => {
            let relative = used
                .iter()
                .map(|path| path.trim_start_matches('/').to_owned());
            let joined: BTreeSet<String> = paths.drain(..).chain(relative).collect();
            paths.extend(joined);
        }
    }
}
