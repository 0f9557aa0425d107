//! `RUN`.

use longshore_dockerfile::expand::Lexer;
use longshore_dockerfile::heredoc::{Heredoc, parse_heredoc_word};
use longshore_dockerfile::instruction::{
    CommandForm, NetworkMode as WrittenNetwork, RunInstruction, SecurityMode as WrittenSecurity,
};
use longshore_dockerfile::mount::{Mount as WrittenMount, MountKind as WrittenKind};
use longshore_graph::{Exec, Input, Mount, MountKind, NetworkMode, Op, SecurityMode, VertexMeta};

use super::configuration::with_shell;
use super::mounts::Mounts;
use super::{input_place, shown_arguments};
use crate::environment::Variables;
use crate::error::{ENVIRONMENT_BYTES_MAX, LowerError, Problem};
use crate::lowering::Lowering;
use crate::names::shown_command;
use crate::paths::{join, rooted};
use crate::stage::{Command, StageId};

/// Where a script with an interpreter line is mounted.
const SCRIPTS: &str = "/dev/pipes/";

const SCRIPT_MODE: u32 = 0o755;

/// What a `RUN` runs.
struct Process {
    args: Vec<String>,
    /// A script of its own: its file's name and content.
    script: Option<(String, String)>,
    /// What is shown behind the instruction.
    summary: Option<String>,
}

impl Lowering<'_, '_> {
    pub(super) fn run_command(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        run: &RunInstruction,
    ) -> Result<(), LowerError> {
        let written = self.expand_mounts(id, command, run)?;
        // A command may look at any file.
        self.use_path(id, "/");
        let process = self.process(id, run);
        let mut inputs = Vec::new();
        let root = self.root_mount(id, &mut inputs);
        let script = self.script_mount(&process, &mut inputs)?;
        let mut mounts = self.mounts(id, command, &written, &mut inputs)?;
        mounts.files.extend(script);
        if let Some(device) = run.devices.first() {
            return Err(Problem::Device {
                device: device.name.clone(),
            }
            .into());
        }
        if process.args.is_empty() {
            return Err(Problem::NoCommand.into());
        }
        let meta = self.run_meta(id, command, &process, &written);
        let exec = self.exec(id, run, process.args.clone(), root, mounts)?;
        let (inputs, exec) = in_mount_order(&inputs, exec);
        self.advance(id, Op::Exec(exec), inputs, meta)?;
        let stage = self.stage(id);
        let mut shown = shown_arguments(&stage.build_args, &stage.state.environment);
        shown.extend(process.args);
        self.commit(id, format!("RUN {} # buildkit", shown.join(" ")), true)
    }

    fn process(&self, id: StageId, run: &RunInstruction) -> Process {
        let image = &self.stage(id).image;
        let text = match &run.command {
            CommandForm::Exec(_) => {
                return Process {
                    args: run.command.words(),
                    script: None,
                    summary: None,
                };
            }
            CommandForm::Shell(text) => text.value.as_str(),
        };
        let Some(first) = run.heredocs.first() else {
            return Process {
                args: with_shell(image, text),
                script: None,
                summary: None,
            };
        };
        if parse_heredoc_word(text).is_none() {
            let args = with_shell(image, &with_heredocs(text, &run.heredocs));
            return Process {
                args,
                script: None,
                summary: None,
            };
        }
        let content = first.text();
        let summary = Some(summarize(&first.content));
        if image.os != "windows" && content.starts_with("#!") {
            // The kernel finds the interpreter.
            let args = with_shell(image, &join(SCRIPTS, &first.name));
            let script = Some((first.name.clone(), content.into_owned()));
            return Process {
                args,
                script,
                summary,
            };
        }
        Process {
            args: with_shell(image, &content),
            script: None,
            summary,
        }
    }

    fn root_mount(&self, id: StageId, inputs: &mut Vec<Input>) -> Mount {
        let files = self.stage(id).state.output;
        Mount {
            target: "/".to_owned(),
            input: files.map(|files| input_place(inputs, files)),
            selector: String::new(),
            readonly: false,
            output: Some(0),
            kind: MountKind::Bind,
        }
    }

    fn script_mount(
        &mut self,
        process: &Process,
        inputs: &mut Vec<Input>,
    ) -> Result<Option<Mount>, LowerError> {
        let Some((name, content)) = &process.script else {
            return Ok(None);
        };
        let file = self.inline_file(&rooted(name), SCRIPT_MODE, content)?;
        Ok(Some(Mount {
            target: SCRIPTS.to_owned(),
            input: Some(input_place(inputs, file)),
            selector: String::new(),
            readonly: true,
            output: None,
            kind: MountKind::Bind,
        }))
    }

    fn run_meta(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        process: &Process,
        mounts: &[WrittenMount],
    ) -> VertexMeta {
        let mut text = command.instruction.origin.original.clone();
        if let Some(summary) = &process.summary {
            text += &format!(" ({summary})");
        }
        let stage = self.stage(id);
        let lexer = Lexer::for_display(self.lexer.escape);
        let shown = match masked_secrets(&stage.state.environment, mounts) {
            Some(masked) => shown_command(lexer, &text, &masked),
            None => shown_command(lexer, &text, &stage.state.environment),
        };
        let ignore_cache = stage.ignore_cache;
        let name = self.name_step(id, command, &shown);
        VertexMeta {
            ignore_cache,
            ..self.step_meta(id, command, name)
        }
    }

    fn exec(
        &self,
        id: StageId,
        run: &RunInstruction,
        args: Vec<String>,
        root: Mount,
        mounts: Mounts,
    ) -> Result<Exec, Problem> {
        let (options, state) = (self.build.options, &self.stage(id).state);
        if state.environment.bytes() > ENVIRONMENT_BYTES_MAX {
            return Err(Problem::EnvironmentTooLarge);
        }
        let mut env = state.environment.pairs();
        if let Some(socket) = mounts.agent_socket()
            && state.environment.get("SSH_AUTH_SOCK").is_none()
        {
            env.push(("SSH_AUTH_SOCK".to_owned(), socket.to_owned()));
        }
        let hostname = Some(options.hostname.as_str()).filter(|name| !name.is_empty());
        let hostname = hostname.or_else(|| self.arguments.given("BUILDKIT_SANDBOX_HOSTNAME"));
        let directory = state.directory.as_str();
        Ok(Exec {
            args,
            env,
            cwd: if directory.is_empty() { "/" } else { directory }.to_owned(),
            user: state.user.clone(),
            hostname: hostname.unwrap_or_default().to_owned(),
            extra_hosts: options.add_hosts.clone(),
            proxy_env: self.arguments.proxies(),
            mounts: std::iter::once(root).chain(mounts.into_list()).collect(),
            network: match run.network {
                WrittenNetwork::Default => options.network,
                WrittenNetwork::None => NetworkMode::None,
                WrittenNetwork::Host => NetworkMode::Host,
            },
            security: match run.security {
                WrittenSecurity::Sandbox => SecurityMode::Sandbox,
                WrittenSecurity::Insecure => SecurityMode::Insecure,
            },
            shm_size_bytes: options.shm_size_bytes,
            ulimits: options.ulimits.clone(),
            cgroup_parent: options.cgroup_parent.clone(),
            resources: options.resources.clone(),
        })
    }
}

/// The inputs in the order in which the mounts use them.
fn in_mount_order(inputs: &[Input], mut exec: Exec) -> (Vec<Input>, Exec) {
    let mut ordered = Vec::with_capacity(inputs.len());
    for mount in &mut exec.mounts {
        let input = mount.input.and_then(|place| inputs.get(place));
        mount.input = input.map(|input| input_place(&mut ordered, *input));
    }
    (ordered, exec)
}

/// The text and its heredocs, for the shell to read.
fn with_heredocs(text: &str, heredocs: &[Heredoc]) -> String {
    let mut whole = text.to_owned();
    for heredoc in heredocs {
        whole.push('\n');
        whole.push_str(&heredoc.content);
        whole.push_str(&heredoc.name);
    }
    whole
}

/// The first line of a script.
fn summarize(content: &str) -> String {
    let content = content.trim();
    match content.split_once('\n') {
        Some((first, _)) => format!("{}...", first.strip_suffix('\r').unwrap_or(first)),
        None => content.to_owned(),
    }
}

/// The variables with those that hold secrets masked; nothing if there are none. Their values are
/// not known here; this shows that they come from elsewhere.
fn masked_secrets(environment: &Variables, mounts: &[WrittenMount]) -> Option<Variables> {
    let secrets = mounts
        .iter()
        .filter(|mount| mount.kind == WrittenKind::Secret);
    let names: Vec<&str> = secrets.filter_map(|mount| mount.env.as_deref()).collect();
    if names.is_empty() {
        return None;
    }
    let mut masked = environment.clone();
    for name in names {
        masked.set(name, "****");
    }
    Some(masked)
}
