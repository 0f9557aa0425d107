//! Instructions that change the configuration alone, and `WORKDIR`.

use longshore_dockerfile::check::Rule;
use longshore_dockerfile::checks::is_secret_name;
use longshore_dockerfile::instruction::{
    ArgDeclaration, ArgInstruction, CmdInstruction, CommandForm, EntrypointInstruction,
    EnvInstruction, ExposeInstruction, HealthcheckInstruction, KeyValue, LabelInstruction,
    MaintainerInstruction, ShellInstruction, StopSignalInstruction, UserInstruction,
    VolumeInstruction, WorkdirInstruction,
};
use longshore_dockerfile::quote::quote;
use longshore_graph::{FileAction, FileInput, FileOp, Mkdir, Op};
use longshore_oci::{Empty, Healthcheck, ImageConfig};

use super::set_entry;
use crate::arguments::is_never_exported;
use crate::error::{Location, LowerError, Problem};
use crate::expose;
use crate::history::{healthcheck, list, quoted_list};
use crate::lowering::Lowering;
use crate::mode::parse_owner;
use crate::names::shown_command;
use crate::outline::ArgInfo;
use crate::paths::{clean, native, with_slashes, working_directory};
use crate::signal::is_signal;
use crate::stage::{Command, OnlyOnce, StageId};

type Pairs = Vec<(String, String)>;

impl Lowering<'_, '_> {
    pub(super) fn env(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        env: &EnvInstruction,
    ) -> Result<(), LowerError> {
        let pairs = self.expand_pairs(id, command, &env.pairs)?;
        for ((key, value), written) in pairs.iter().zip(&env.pairs) {
            self.check_legacy(command, written);
            self.check_secret("ENV", key, command);
            let stage = self.stage_mut(id);
            stage.state.environment.set(key, value.as_str());
            set_entry(&mut stage.image.config.env, key, value);
        }
        self.commit(id, format!("ENV {}", shown_pairs(&pairs)), false)
    }

    pub(super) fn label(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        label: &LabelInstruction,
    ) -> Result<(), LowerError> {
        let pairs = self.expand_pairs(id, command, &label.pairs)?;
        for ((key, value), written) in pairs.iter().zip(&label.pairs) {
            self.check_legacy(command, written);
            let labels = &mut self.stage_mut(id).image.config.labels;
            labels.insert(key.clone(), value.clone());
        }
        self.commit(id, format!("LABEL {}", shown_pairs(&pairs)), false)
    }

    /// All pairs see the variables from before the instruction.
    fn expand_pairs(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        pairs: &[KeyValue],
    ) -> Result<Pairs, LowerError> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let key = self.expand(id, command, &pair.key, pair.key.span)?;
            let value = self.expand(id, command, &pair.value, pair.value.span)?;
            expanded.push((key, value));
        }
        Ok(expanded)
    }

    fn check_legacy(&mut self, command: &Command<'_>, pair: &KeyValue) {
        if pair.legacy {
            let name = &command.instruction.origin.keyword.value;
            let message = format!(
                "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
            );
            self.find(Rule::LegacyKeyValueFormat, message, &command.location);
        }
    }

    fn check_secret(&mut self, instruction: &str, key: &str, command: &Command<'_>) {
        if is_secret_name(key) {
            let key = quote(key);
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} {key})"
            );
            self.find(Rule::SecretsUsedInArgOrEnv, message, &command.location);
        }
    }

    pub(super) fn arg(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        arg: &ArgInstruction,
    ) -> Result<(), LowerError> {
        let mut shown = Vec::new();
        for declaration in &arg.declarations {
            let name = declaration.name.value.clone();
            self.check_secret("ARG", &name, command);
            let (value, is_inherited) = self.arg_value(id, command, declaration)?;
            let line = *command.location.lines.start();
            let stage = self.stage_mut(id);
            if let Some(value) = &value
                && !is_never_exported(&name)
            {
                stage.state.environment.set(&name, value.as_str());
            }
            if !is_inherited {
                let info = ArgInfo {
                    value: value.clone().unwrap_or_default(),
                    description: declaration.doc_comment.clone().unwrap_or_default(),
                    line,
                    ..ArgInfo::default()
                };
                stage.outline.args.insert(name.clone(), info);
            }
            stage.outline.used.insert(name.clone());
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            stage.build_args.push((name, value));
        }
        self.commit(id, format!("ARG {}", shown.join(" ")), false)
    }

    /// An argument's value: given to the build, else its default, else that of a global `ARG`
    /// (then it is inherited).
    fn arg_value(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        declaration: &ArgDeclaration,
    ) -> Result<(Option<String>, bool), LowerError> {
        let name = declaration.name.value.as_str();
        if let Some(given) = self.arguments.given(name) {
            return Ok((Some(given.to_owned()), false));
        }
        match &declaration.default {
            Some(default) => {
                let value = self.expand(id, command, default, default.span)?;
                Ok((Some(value), false))
            }
            None => {
                let global = self.arguments.global.get(name).map(str::to_owned);
                let is_inherited = global.is_some();
                Ok((global, is_inherited))
            }
        }
    }

    pub(super) fn workdir(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        workdir: &WorkdirInstruction,
    ) -> Result<(), LowerError> {
        let written = self.expand(id, command, &workdir.path, workdir.path.span)?;
        let os = self.os(id);
        let path = with_slashes(&written, &os).map_err(Problem::WindowsPath)?;
        if !self.stage(id).has_workdir && !path.starts_with('/') {
            let message = format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                quote(&written)
            );
            self.find_at(
                Rule::WorkdirRelativePath,
                message,
                workdir.path.span,
                &command.location,
            );
        }
        let stage = self.stage_mut(id);
        stage.has_workdir = true;
        let current = with_slashes(&stage.image.config.working_dir, &os);
        let directory = working_directory(&current.map_err(Problem::WindowsPath)?, &path);
        stage.image.config.working_dir = native(&directory, &os);
        stage.state.directory.clone_from(&directory);
        let has_layer = directory != "/";
        if has_layer {
            self.make_directory(id, command, &directory)?;
        }
        self.commit(id, format!("WORKDIR {directory}"), has_layer)
    }

    /// Makes the working directory, always a layer of its own, as the user of the time.
    fn make_directory(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        directory: &str,
    ) -> Result<(), LowerError> {
        let text = &command.instruction.origin.original;
        let shown = shown_command(self.lexer, text, &self.stage(id).state.environment);
        let name = self.name_step(id, command, &shown);
        let meta = self.step_meta(id, command, name);
        let stage = self.stage(id);
        let user = stage.image.config.user.as_str();
        let mkdir = Mkdir {
            owner: Some(user).filter(|user| !user.is_empty()).map(parse_owner),
            timestamp: self.epoch,
            ..Mkdir::new(clean(directory))
        };
        let inputs: Vec<_> = stage.state.output.into_iter().collect();
        let input = if inputs.is_empty() {
            FileInput::Scratch
        } else {
            FileInput::Vertex(0)
        };
        let op = Op::File(FileOp {
            actions: vec![FileAction::mkdir(input, mkdir)],
        });
        Ok(self.advance(id, op, inputs, meta)?)
    }

    pub(super) fn user(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        user: &UserInstruction,
    ) -> Result<(), LowerError> {
        let user = self.expand(id, command, &user.user, user.user.span)?;
        let stage = self.stage_mut(id);
        stage.state.user.clone_from(&user);
        stage.image.config.user.clone_from(&user);
        self.commit(id, format!("USER {user}"), false)
    }

    pub(super) fn cmd(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        cmd: &CmdInstruction,
    ) -> Result<(), LowerError> {
        self.check_once(id, command, |once| &mut once.cmd);
        let args = self.command_line(id, command, &cmd.command);
        let config = &mut self.stage_mut(id).image.config;
        config.args_escaped = true;
        let shown = quoted_list(&args);
        config.cmd = Some(args).filter(|args| !args.is_empty());
        self.commit(id, format!("CMD {shown}"), false)
    }

    pub(super) fn entrypoint(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        entrypoint: &EntrypointInstruction,
    ) -> Result<(), LowerError> {
        self.check_once(id, command, |once| &mut once.entrypoint);
        let args = self.command_line(id, command, &entrypoint.command);
        let stage = self.stage_mut(id);
        let shown = quoted_list(&args);
        stage.image.config.entrypoint = Some(args).filter(|args| !args.is_empty());
        // What the base runs belongs to the base's entrypoint.
        if stage.once.cmd.is_none() {
            stage.image.config.cmd = None;
        }
        self.commit(id, format!("ENTRYPOINT {shown}"), false)
    }

    fn command_line(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        form: &CommandForm,
    ) -> Vec<String> {
        if !form.is_shell() {
            return form.words();
        }
        let image = &self.stage(id).image;
        let args = with_shell(image, &form.words().join(" "));
        if image.config.shell.is_empty() {
            let name = &command.instruction.origin.keyword.value;
            let message = format!(
                "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            );
            self.find(Rule::JsonArgsRecommended, message, &command.location);
        }
        args
    }

    fn check_once(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        place: impl Fn(&mut OnlyOnce) -> &mut Option<Location>,
    ) {
        let earlier = place(&mut self.stage_mut(id).once).replace(command.location.clone());
        if let Some(earlier) = earlier {
            let name = &command.instruction.origin.keyword.value;
            let message = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            );
            // The earlier one is the one that does nothing.
            self.find(Rule::MultipleInstructionsDisallowed, message, &earlier);
        }
    }

    pub(super) fn healthcheck(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        check: &HealthcheckInstruction,
    ) -> Result<(), LowerError> {
        self.check_once(id, command, |once| &mut once.healthcheck);
        let mut health = Healthcheck {
            test: check.test(),
            ..Healthcheck::default()
        };
        if let HealthcheckInstruction::Check(check) = check {
            let nanoseconds =
                |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
            health.interval = nanoseconds(check.interval);
            health.timeout = nanoseconds(check.timeout);
            health.start_period = nanoseconds(check.start_period);
            health.start_interval = nanoseconds(check.start_interval);
            health.retries = check.retries.into();
        }
        let shown = healthcheck(&health);
        self.stage_mut(id).image.config.healthcheck = Some(health);
        self.commit(id, format!("HEALTHCHECK {shown}"), false)
    }

    pub(super) fn expose(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        expose: &ExposeInstruction,
    ) -> Result<(), LowerError> {
        let mut ports = Vec::new();
        for word in &expose.ports {
            let words = self
                .lexer
                .expand(word, &self.stage(id).state.environment)?
                .words;
            for text in words {
                let mut found = Vec::new();
                let parsed = expose::parse(&text, |rule, message| found.push((rule, message)));
                for (rule, message) in found {
                    self.find_at(rule, message, word.span, &command.location);
                }
                ports.extend(parsed.map_err(Problem::Port)?);
            }
        }
        let shown = list(&ports);
        let exposed = &mut self.stage_mut(id).image.config.exposed_ports;
        exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
        self.commit(id, format!("EXPOSE {shown}"), false)
    }

    pub(super) fn volume(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        volume: &VolumeInstruction,
    ) -> Result<(), LowerError> {
        let mut paths = Vec::new();
        for word in &volume.volumes {
            paths.push(self.expand(id, command, word, word.span)?);
        }
        if paths.iter().any(String::is_empty) {
            return Err(Problem::EmptyVolume.into());
        }
        let shown = list(&paths);
        let volumes = &mut self.stage_mut(id).image.config.volumes;
        volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        self.commit(id, format!("VOLUME {shown}"), false)
    }

    pub(super) fn shell(
        &mut self,
        id: StageId,
        shell: &ShellInstruction,
    ) -> Result<(), LowerError> {
        let words: Vec<String> = shell.shell.iter().map(|word| word.value.clone()).collect();
        let shown = list(&words);
        self.stage_mut(id).image.config.shell = words;
        self.commit(id, format!("SHELL {shown}"), false)
    }

    pub(super) fn stop_signal(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        signal: &StopSignalInstruction,
    ) -> Result<(), LowerError> {
        let signal = self.expand(id, command, &signal.signal, signal.signal.span)?;
        if !is_signal(&signal) {
            return Err(Problem::Signal { signal }.into());
        }
        self.stage_mut(id)
            .image
            .config
            .stop_signal
            .clone_from(&signal);
        self.commit(id, format!("STOPSIGNAL {signal}"), false)
    }

    pub(super) fn maintainer(
        &mut self,
        id: StageId,
        maintainer: &MaintainerInstruction,
    ) -> Result<(), LowerError> {
        let author = maintainer.author.value.clone();
        self.stage_mut(id).image.author.clone_from(&author);
        self.commit(id, format!("MAINTAINER {author}"), false)
    }
}

fn shown_pairs(pairs: &Pairs) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(" ")
}

/// The image's shell, and the text as its last argument.
pub(super) fn with_shell(image: &ImageConfig, text: &str) -> Vec<String> {
    let shell = &image.config.shell;
    let mut args = match (shell.is_empty(), image.os.as_str()) {
        (false, _) => shell.clone(),
        (true, "windows") => ["cmd", "/S", "/C"].map(str::to_owned).to_vec(),
        (true, _) => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
    };
    args.push(text.to_owned());
    args
}
