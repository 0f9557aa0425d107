//! The stages, what they start from and copy from, before anything is resolved.

use std::borrow::Cow;
use std::collections::BTreeSet;

use longshore_dockerfile::check::Rule;
use longshore_dockerfile::expand::Expansion;
use longshore_dockerfile::instruction::{Instruction, InstructionKind, Stage as Written};
use longshore_dockerfile::span::Spanned;
use longshore_dockerfile::suggest::nearest;
use longshore_oci::{Platform, Reference};

use crate::error::{INSTRUCTIONS_MAX, Location, LowerError, Problem};
use crate::lowering::Lowering;
use crate::stage::{Command, SCRATCH, Stage, StageId, count_steps};

impl<'a> Lowering<'a, '_> {
    /// Bases have to be image names even if the build gives no argument.
    pub(crate) fn check_default_bases(&mut self) {
        let dockerfile = &self.build.parsed.dockerfile;
        let Some(variables) = self.arguments.defaults_alone(dockerfile, self.lexer) else {
            return;
        };
        for stage in &dockerfile.stages {
            let Ok(base) = self.lexer.expand(&stage.base_name, &variables) else {
                return;
            };
            if base.word.parse::<Reference>().is_err() {
                let name = &stage.base_name.value;
                let message = format!(
                    "Default value for ARG {name} results in empty or invalid base image name"
                );
                let location = Location::of(&stage.origin);
                let span = stage.base_name.span;
                self.find_at(Rule::InvalidDefaultArgInFrom, message, span, &location);
            }
        }
    }

    pub(crate) fn plan_stages(&mut self) -> Result<(), LowerError> {
        let stages = &self.build.parsed.dockerfile.stages;
        let instructions: usize = stages
            .iter()
            .map(|stage| 1 + stage.instructions.len())
            .sum();
        if instructions > INSTRUCTIONS_MAX {
            return Err(Problem::TooManyInstructions.into());
        }
        for (index, written) in stages.iter().enumerate() {
            let location = Location::of(&written.origin);
            self.plan_stage(index, written)
                .map_err(|error| error.at(&location))?;
        }
        if self.stages.is_empty() {
            return Err(Problem::NoStages.into());
        }
        Ok(())
    }

    fn plan_stage(&mut self, index: usize, written: &'a Written) -> Result<(), LowerError> {
        let location = Location::of(&written.origin);
        let base = self.expand_from(&written.base_name, &location)?;
        if base.word.is_empty() {
            let expression = written.base_name.value.clone();
            return Err(Problem::BlankBase { expression }.into());
        }
        let mut used = base.matched;
        let platform = match &written.platform {
            Some(platform) => {
                let expansion = self.expand_platform(written, platform, &location)?;
                let parsed = self.parse_platform(platform, &expansion)?;
                used.extend(expansion.matched);
                Some(parsed)
            }
            None => None,
        };
        let mut stage = Stage::new(StageId(self.stages.len()), base.word, location);
        stage.written = Some(written);
        stage.name = written
            .name
            .as_ref()
            .map_or_else(String::new, |name| name.value.clone());
        stage.shown_name.clone_from(&stage.name);
        stage.platform = platform;
        if !stage.name.is_empty()
            && let Some(found) = self.find_context(&stage.name, stage.platform.as_ref())?
        {
            stage.context = Some(found);
            let id = self.add_stage(stage);
            self.stage_mut(id).base = None;
            return Ok(());
        }
        if stage.name.is_empty() {
            stage.shown_name = format!("stage-{index}");
        }
        let id = self.add_stage(stage);
        let ignore_cache = self.build.options.no_cache.covers(&self.stage(id).name);
        let stage = self.stage_mut(id);
        stage.outline.used.extend(used);
        stage.ignore_cache = ignore_cache;
        stage.steps = count_steps(&written.instructions);
        if stage.base_name != SCRATCH && stage.base.is_none() {
            stage.steps += 1;
        }
        Ok(())
    }

    /// Expands a word of a `FROM`.
    fn expand_from(
        &mut self,
        word: &Spanned<String>,
        location: &Location,
    ) -> Result<Expansion, longshore_dockerfile::expand::ExpandError> {
        let expansion = self.lexer.expand(word, &self.arguments.global);
        let unmatched = match &expansion {
            Ok(expansion) => &expansion.unmatched,
            Err(error) => &error.unmatched,
        };
        let known = self.arguments.global_names();
        let undeclared = unmatched
            .iter()
            .filter(|name| !known.contains(name.as_str()));
        let messages: Vec<String> = undeclared
            .map(|name| {
                let near = nearest(name, known.iter().copied());
                let hint = near.map(|near| format!(" (did you mean {near}?)"));
                format!(
                    "FROM argument '{name}' is not declared{}",
                    hint.unwrap_or_default()
                )
            })
            .collect();
        for message in messages {
            self.find_at(Rule::UndefinedArgInFrom, message, word.span, location);
        }
        expansion
    }

    fn expand_platform(
        &mut self,
        written: &Written,
        platform: &Spanned<String>,
        location: &Location,
    ) -> Result<Expansion, LowerError> {
        let expansion = self
            .expand_from(platform, location)
            .map_err(Problem::PlatformExpand)?;
        let is_constant = expansion.matched.is_empty() && expansion.unmatched.is_empty();
        let is_target_alone = expansion.unmatched.is_empty()
            && expansion.matched.iter().eq(["TARGETPLATFORM"])
            && self.arguments.global.get("TARGETPLATFORM") == Some(&expansion.word);
        if is_target_alone {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                platform.value
            );
            self.find_at(
                Rule::RedundantTargetPlatform,
                message,
                platform.span,
                location,
            );
        }
        if is_constant && let Ok(parsed) = expansion.word.parse::<Platform>() {
            let name = written.name.as_ref().map_or("", |name| name.value.as_str());
            // `FROM --platform=linux/arm64 … AS build-arm64` means what it says.
            if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
                let text = longshore_dockerfile::quote::quote(&expansion.word);
                let message = format!("FROM --platform flag should not use constant value {text}");
                let rule = Rule::FromPlatformFlagConstDisallowed;
                self.find_at(rule, message, platform.span, location);
            }
        }
        Ok(expansion)
    }

    fn parse_platform(
        &self,
        written: &Spanned<String>,
        expansion: &Expansion,
    ) -> Result<Platform, LowerError> {
        let expression = written.value.clone();
        let names = || self.arguments.global.names();
        let suggestion = expansion
            .unmatched
            .iter()
            .find_map(|name| nearest(name, names()));
        let suggestion = suggestion.map(str::to_owned);
        if expansion.word.is_empty() {
            return Err(LowerError::from(Problem::BlankPlatform { expression }).suggest(suggestion));
        }
        let parsed = expansion.word.parse::<Platform>();
        parsed.map_err(|source| {
            LowerError::from(Problem::Platform { expression, source }).suggest(suggestion)
        })
    }

    /// Adds a stage behind those that are there; it starts from one of them if that has its base's
    /// name.
    fn add_stage(&mut self, mut stage: Stage<'a>) -> StageId {
        let id = StageId(self.stages.len());
        if let Some(base) = self.by_name.get(&stage.base_name) {
            stage.base = Some(*base);
        }
        if !stage.name.is_empty() {
            self.by_name.insert(stage.name.clone(), id);
        }
        self.stages.push(stage);
        id
    }

    /// Finds out what every stage copies and mounts from.
    pub(crate) fn connect_stages(&mut self) -> Result<(), LowerError> {
        // Images that are only copied from are added behind, and have no instructions.
        for index in 0..self.stages.len() {
            let id = StageId(index);
            let Some(written) = self.stage(id).written else {
                continue;
            };
            for instruction in &written.instructions {
                let location = Location::of(&instruction.origin);
                let command = self
                    .connect(Cow::Borrowed(instruction), location.clone(), false)
                    .map_err(|error| error.at(&location))?;
                self.add_dependencies(id, &command);
                self.stage_mut(id).commands.push(command);
            }
        }
        self.check_circles()?;
        if let [only] = self.stages.as_mut_slice() {
            only.shown_name.clear();
        }
        Ok(())
    }

    pub(crate) fn add_dependencies(&mut self, id: StageId, command: &Command<'_>) {
        let stage = self.stage_mut(id);
        for source in &command.sources {
            stage.dependencies.push((*source, command.location.clone()));
        }
    }

    /// Makes a command of an instruction: names of stages and images become places in the list.
    pub(crate) fn connect(
        &mut self,
        instruction: Cow<'a, Instruction>,
        location: Location,
        is_trigger: bool,
    ) -> Result<Command<'a>, LowerError> {
        let sources = match &instruction.kind {
            InstructionKind::Copy(copy) => match &copy.from {
                Some(from) if !from.is_empty() => {
                    let from = from.value.clone();
                    vec![self.copy_source(&from, &location)?]
                }
                _ => Vec::new(),
            },
            InstructionKind::Run(run) => {
                // Mounts that have no `from` need none; their place is taken all the same.
                let from = run
                    .mounts
                    .iter()
                    .map(|mount| mount.from.clone().unwrap_or_default());
                let names: Vec<String> = from.collect();
                names
                    .iter()
                    .map(|name| self.mount_source(name, &location))
                    .collect()
            }
            _ => Vec::new(),
        };
        Ok(Command {
            instruction,
            location,
            sources,
            is_trigger,
        })
    }

    fn copy_source(&mut self, from: &str, location: &Location) -> Result<StageId, LowerError> {
        if self.lexer.expand(from, &())?.word != from {
            return Err(Problem::FromVariable.into());
        }
        if let Ok(index) = from.parse::<i64>() {
            let place = usize::try_from(index)
                .ok()
                .filter(|place| *place < self.stages.len());
            return Ok(place.map(StageId).ok_or(Problem::StageIndex { index })?);
        }
        Ok(self.stage_or_image(from, location))
    }

    fn mount_source(&mut self, from: &str, location: &Location) -> StageId {
        let from = if from.is_empty() { SCRATCH } else { from };
        self.stage_or_image(from, location)
    }

    fn stage_or_image(&mut self, name: &str, location: &Location) -> StageId {
        if let Some(id) = self.stage_named(name) {
            return id;
        }
        let id = StageId(self.stages.len());
        let image = Stage::new(id, name.to_owned(), location.clone());
        self.add_stage(image)
    }

    /// Stages may not copy from one another in a circle.
    fn check_circles(&self) -> Result<(), LowerError> {
        let mut visited = BTreeSet::new();
        for index in 0..self.stages.len() {
            if let Some(locations) = self.find_circle(StageId(index), &mut visited) {
                let stage = self.stages[index].shown_name.clone();
                let error = LowerError::from(Problem::Circular { stage });
                return Err(locations.iter().fold(error, LowerError::at));
            }
        }
        Ok(())
    }

    /// The instructions of a circle that is reached from `start`, without recursion: there may be
    /// as many stages in a row as the Dockerfile has lines.
    fn find_circle(
        &self,
        start: StageId,
        visited: &mut BTreeSet<StageId>,
    ) -> Option<Vec<Location>> {
        let mut path = vec![(start, 0)];
        let mut on_path = BTreeSet::from([start]);
        if !visited.insert(start) {
            return None;
        }
        while let Some((id, next)) = path.last_mut() {
            let dependencies = &self.stages[id.0].dependencies;
            let Some((dependency, _)) = dependencies.get(*next) else {
                on_path.remove(id);
                path.pop();
                continue;
            };
            *next += 1;
            if on_path.contains(dependency) {
                let taken = path
                    .iter()
                    .map(|(id, next)| &self.stages[id.0].dependencies[*next - 1]);
                return Some(taken.map(|(_, location)| location.clone()).collect());
            }
            if visited.insert(*dependency) {
                on_path.insert(*dependency);
                path.push((*dependency, 0));
            }
        }
        None
    }

    /// The stages that `target` needs, itself included.
    pub(crate) fn reachable(&self, target: StageId) -> BTreeSet<StageId> {
        let mut reachable = BTreeSet::new();
        let mut open = vec![target];
        while let Some(id) = open.pop() {
            if reachable.insert(id) {
                let stage = self.stage(id);
                open.extend(stage.base);
                open.extend(stage.dependencies.iter().map(|(dependency, _)| *dependency));
            }
        }
        reachable
    }
}
