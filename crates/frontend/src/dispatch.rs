//! Instructions become vertices and configuration, stage by stage in the order of the file.

mod configuration;
mod copy;
mod mounts;
mod run;

use std::collections::{BTreeSet, HashMap};

use longshore_dockerfile::instruction::InstructionKind;
use longshore_graph::{Input, Op, VertexMeta};

use crate::arguments::{SCAN_CONTEXT, SCAN_STAGE, scan_covers};
use crate::bases::{DEFAULT_PATH, line_pair};
use crate::environment::Variables;
use crate::error::{HISTORY_BYTES_MAX, LowerError, Problem};
use crate::history::entry;
use crate::lowering::Lowering;
use crate::names::{ShownPlatform, next_step};
use crate::paths::{native, with_slashes, working_directory};
use crate::stage::{Command, StageId};

impl<'a> Lowering<'a, '_> {
    pub(crate) fn dispatch_stages(
        &mut self,
        reachable: &BTreeSet<StageId>,
        target: StageId,
    ) -> Result<(), LowerError> {
        let is_wanted =
            |lowering: &Self, id: &StageId| lowering.build.all_stages || reachable.contains(id);
        let wanted: Vec<StageId> = (0..self.stages.len()).map(StageId).collect();
        let wanted: Vec<StageId> = wanted
            .into_iter()
            .filter(|id| is_wanted(self, id))
            .collect();
        // Which stage is the last that starts from another.
        let pairs = wanted
            .iter()
            .filter_map(|id| Some((self.stage(*id).base?, *id)));
        let last: HashMap<StageId, StageId> = pairs.collect();
        for id in wanted {
            if !self.stage(id).is_dispatched {
                let base = self.stage(id).base;
                let is_last =
                    base.is_some_and(|base| base != target && last.get(&base) == Some(&id));
                self.dispatch_stage(id, is_last)?;
            }
        }
        // The whole of the result is used.
        self.use_path(target, "/");
        Ok(())
    }

    /// `is_last`: nothing else starts from its base.
    fn dispatch_stage(&mut self, id: StageId, is_last: bool) -> Result<(), LowerError> {
        if let Some(base) = self.stage(id).base {
            // A stage stands behind what it starts from.
            let (before, from) = self.stages.split_at_mut(id.0);
            if let (Some(base), Some(stage)) = (before.get_mut(base.0), from.first_mut()) {
                stage.start_from(base, is_last);
            }
        }
        self.stage_mut(id).is_dispatched = true;
        let location = self.stage(id).location.clone();
        self.enter_image(id)
            .map_err(|error| LowerError::from(error).at(&location))?;
        let commands = std::mem::take(&mut self.stage_mut(id).commands);
        let result = commands.iter().try_for_each(|command| {
            self.dispatch(id, command)
                .map_err(|error| error.at(&command.location))
        });
        self.stage_mut(id).commands = commands;
        result?;
        self.note_scans(id);
        Ok(())
    }

    /// Takes over environment, working directory and user of the image.
    fn enter_image(&mut self, id: StageId) -> Result<(), Problem> {
        let fallback = self.target_platform.clone();
        let stage = self.stage_mut(id);
        let platform = stage.platform.get_or_insert(fallback);
        let config = &mut stage.image.config;
        let has_path = config
            .env
            .iter()
            .any(|entry| key_and_value(entry).0 == "PATH");
        if !has_path && platform.os != "windows" {
            config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in &config.env {
            let (name, value) = key_and_value(entry);
            stage.state.environment.set(name, value);
        }
        if !config.user.is_empty() {
            stage.state.user.clone_from(&config.user);
        }
        if !config.working_dir.is_empty() {
            let written = with_slashes(&config.working_dir, &platform.os)?.into_owned();
            stage.state.directory = working_directory(&written, &written);
            config.working_dir = native(&stage.state.directory, &platform.os);
        }
        Ok(())
    }

    /// The operating system of the stage's image.
    pub(crate) fn os(&self, id: StageId) -> String {
        self.stage(id)
            .platform
            .as_ref()
            .unwrap_or(&self.target_platform)
            .os
            .clone()
    }

    fn dispatch(&mut self, id: StageId, command: &Command<'a>) -> Result<(), LowerError> {
        match &command.instruction.kind {
            InstructionKind::Run(run) => self.run_command(id, command, run),
            InstructionKind::Copy(copy) => self.copy(id, command, copy),
            InstructionKind::Add(add) => self.add(id, command, add),
            InstructionKind::Env(env) => self.env(id, command, env),
            InstructionKind::Arg(arg) => self.arg(id, command, arg),
            InstructionKind::Label(label) => self.label(id, command, label),
            InstructionKind::Workdir(workdir) => self.workdir(id, command, workdir),
            InstructionKind::User(user) => self.user(id, command, user),
            InstructionKind::Cmd(cmd) => self.cmd(id, command, cmd),
            InstructionKind::Entrypoint(entrypoint) => self.entrypoint(id, command, entrypoint),
            InstructionKind::Expose(expose) => self.expose(id, command, expose),
            InstructionKind::Volume(volume) => self.volume(id, command, volume),
            InstructionKind::Shell(shell) => self.shell(id, shell),
            InstructionKind::StopSignal(signal) => self.stop_signal(id, command, signal),
            InstructionKind::Healthcheck(check) => self.healthcheck(id, command, check),
            InstructionKind::OnBuild(onbuild) => {
                self.stage_mut(id)
                    .image
                    .config
                    .on_build
                    .push(onbuild.trigger.value.clone());
                Ok(())
            }
            InstructionKind::Maintainer(maintainer) => self.maintainer(id, maintainer),
        }
    }

    /// Whether the contents of the stage, or of the context, are to be listed.
    fn note_scans(&mut self, id: StageId) {
        let covers = |name: &str| {
            let stage = self.stage(id);
            let own = stage
                .build_args
                .iter()
                .rev()
                .find(|(arg, value)| arg == name && value.is_some());
            let own = own.and_then(|(_, value)| value.as_deref());
            let value = own.or_else(|| self.arguments.global.get(name));
            value.is_some_and(|value| scan_covers(&stage.shown_name, value))
        };
        let (context, files) = (covers(SCAN_CONTEXT), covers(SCAN_STAGE));
        let stage = self.stage_mut(id);
        stage.scan_context = context;
        stage.scan_stage = files;
    }

    /// Notes that a path of what the stage starts from is used.
    pub(crate) fn use_path(&mut self, id: StageId, path: &str) {
        let root = self.stage(id).paths_of;
        self.stage_mut(root).used_paths.insert(path.to_owned());
    }

    /// The name of the stage's next step, as `[stage 2/5] COMMAND`.
    pub(crate) fn name_step(&mut self, id: StageId, command: &Command<'_>, shown: &str) -> String {
        let multi_platform = self.build.multi_platform;
        let stage = self.stage_mut(id);
        let environment = std::mem::take(&mut stage.state.environment);
        let platform = stage.platform.clone();
        let platform = platform.as_ref().filter(|_| multi_platform);
        let platform = platform.map(|platform| ShownPlatform {
            platform,
            environment: &environment,
        });
        let name = next_step(stage, platform.as_ref(), command.is_trigger, shown);
        stage.state.environment = environment;
        name
    }

    /// What is shown of a step of the stage.
    pub(crate) fn step_meta(&self, id: StageId, command: &Command<'_>, name: String) -> VertexMeta {
        let stage = self.stage(id);
        VertexMeta {
            name,
            ignore_cache: false,
            stage: Some(stage.shown_name.clone()).filter(|name| !name.is_empty()),
            lines: Some(line_pair(&command.location)),
        }
    }

    /// Adds a vertex and makes its output the stage's files.
    pub(crate) fn advance(
        &mut self,
        id: StageId,
        op: Op,
        inputs: Vec<Input>,
        meta: VertexMeta,
    ) -> Result<(), Problem> {
        let output = self.shared.graph.add(op, inputs, meta)?;
        self.stage_mut(id).state.output = Some(output);
        Ok(())
    }

    /// Adds to the image's history.
    pub(crate) fn commit(
        &mut self,
        id: StageId,
        created_by: String,
        has_layer: bool,
    ) -> Result<(), LowerError> {
        let epoch = self.epoch;
        let stage = self.stage_mut(id);
        stage.history_bytes += created_by.len();
        if stage.history_bytes > HISTORY_BYTES_MAX {
            return Err(Problem::HistoryTooLarge.into());
        }
        stage
            .image
            .history
            .push(entry(created_by, has_layer, epoch));
        Ok(())
    }
}

pub(crate) fn key_and_value(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

/// Adds an input unless it is there, and answers its place.
pub(crate) fn input_place(inputs: &mut Vec<Input>, input: Input) -> usize {
    let known = inputs.iter().position(|known| *known == input);
    known.unwrap_or_else(|| {
        inputs.push(input);
        inputs.len() - 1
    })
}

/// `key=value` in place of the entry of that key, or behind all.
fn set_entry(entries: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    match entries
        .iter_mut()
        .find(|known| key_and_value(known).0 == key)
    {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
}

/// The arguments that history shows before a command: `|2 A=1 B=2`.
fn shown_arguments(args: &[(String, Option<String>)], environment: &Variables) -> Vec<String> {
    let mut shown: Vec<(&str, String)> = Vec::new();
    for (name, value) in args {
        let value = environment
            .get(name)
            .or(value.as_deref())
            .unwrap_or_default();
        let entry = format!("{name}={value}");
        match shown.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = entry,
            None => shown.push((name, entry)),
        }
    }
    if shown.is_empty() {
        return Vec::new();
    }
    let count = format!("|{}", shown.len());
    std::iter::once(count)
        .chain(shown.into_iter().map(|(_, entry)| entry))
        .collect()
}
