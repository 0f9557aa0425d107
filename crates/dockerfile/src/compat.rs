//! The parser's result in BuildKit's own forms, to be compared with it: the text dump of its nodes
//! and its typed commands as JSON.
//!
//! Nothing in a build needs this; tests and people who move over do.

use std::convert::Infallible;

use serde_json::{Map, Value, json};

use crate::instruction::{
    AddInstruction, ArgInstruction, CommandForm, CopyInstruction, CopySource, Dockerfile,
    HealthcheckInstruction, Instruction, InstructionKind, KeyValue, RunInstruction, Stage,
};
use crate::mount::{Mount, MountFlag, MountKind, Sharing};
use crate::parse::Parsed;
use crate::quote::quote;
use crate::syntax::Node;

/// All nodes as BuildKit's `Node.Dump` prints them.
#[must_use]
pub fn dump(parsed: &Parsed) -> String {
    let nodes = parsed
        .nodes
        .iter()
        .map(|node| format!("({})\n", dump_node(node)));
    nodes.collect::<String>().trim().to_owned()
}

fn dump_node(node: &Node) -> String {
    let mut out = node.keyword.to_lowercase();
    if !node.flags.is_empty() {
        let flags: Vec<_> = node.flags.iter().map(|flag| quote(flag)).collect();
        out.push_str(&format!(" [{}]", flags.join(" ")));
    }
    match &node.trigger {
        Some(trigger) => out.push_str(&format!(" ({})", dump_node(trigger))),
        None => {
            for argument in &node.arguments {
                out.push(' ');
                out.push_str(&quote(argument));
            }
        }
    }
    out.trim().to_owned()
}

/// One node with what BuildKit's parser knows of it. Empty lists are left out.
#[must_use]
pub fn node(node: &Node) -> Value {
    let mut out = json!({
        "instruction": node.keyword.value,
        "args": arguments(node),
        "original": node.original,
        "start": node.lines.start(),
        "end": node.lines.end(),
    });
    if !node.flags.is_empty() {
        out["flags"] = node.flags.iter().map(|flag| flag.value.clone()).collect();
    }
    if node.is_json {
        out["attributes"] = json!({"json": true});
    }
    if !node.comments.is_empty() {
        out["prev_comment"] = json!(node.comments);
    }
    if !node.heredocs.is_empty() {
        let heredocs = node.heredocs.iter().map(|heredoc| {
            json!({
                "Name": heredoc.name,
                "FileDescriptor": heredoc.descriptor,
                "Expand": heredoc.expand,
                "Chomp": heredoc.strip_tabs,
                "Content": heredoc.content,
            })
        });
        out["heredocs"] = heredocs.collect();
    }
    out
}

/// The instruction in an `ONBUILD` is a node of its own, without lines.
fn arguments(node: &Node) -> Value {
    let Some(trigger) = &node.trigger else {
        return node
            .arguments
            .iter()
            .map(|argument| argument.value.clone())
            .collect();
    };
    let mut child = self::node(trigger);
    child["start"] = json!(0);
    child["end"] = json!(0);
    json!([{"children": [child]}])
}

/// The arguments before the first stage.
#[must_use]
pub fn global_args(dockerfile: &Dockerfile) -> Value {
    dockerfile
        .global_args
        .iter()
        .map(|global| arg_fields(&global.arg))
        .collect()
}

/// The stages with their commands.
#[must_use]
pub fn stages(dockerfile: &Dockerfile) -> Value {
    dockerfile.stages.iter().map(stage).collect()
}

fn stage(stage: &Stage) -> Value {
    json!({
        "name": stage.name.as_ref().map_or("", |name| name),
        "base": stage.base_name.value,
        "platform": stage.platform.as_ref().map_or("", |platform| platform),
        "doc": stage.doc_comment.as_deref().unwrap_or_default(),
        "commands": stage.instructions.iter().map(command).collect::<Vec<_>>(),
    })
}

fn command(instruction: &Instruction) -> Value {
    let mut out = json!({
        "type": type_name(&instruction.kind),
        "line": instruction.origin.line(),
        "fields": fields(&instruction.kind),
    });
    if let InstructionKind::Run(run) = &instruction.kind {
        let mut used: Vec<_> = instruction
            .origin
            .flags
            .iter()
            .map(|flag| &flag.name)
            .collect();
        used.sort();
        used.dedup();
        out["fields"]["FlagsUsed"] = json!(used);
        out["network"] = json!(run.network.as_str());
        out["security"] = json!(run.security.as_str());
        if !run.mounts.is_empty() {
            out["mounts"] = mounts(&run.mounts);
        }
    }
    out
}

/// All mounts with their variables left in place. If one of them gives none, all are what BuildKit
/// knows of them before expansion: a `from`.
fn mounts(flags: &[MountFlag]) -> Value {
    let keep = |value: &str| Ok::<_, Infallible>(value.to_owned());
    let resolved: Result<Vec<_>, _> = flags.iter().map(|flag| flag.resolve(keep)).collect();
    let mounts = resolved.unwrap_or_else(|_| flags.iter().map(unresolved).collect());
    mounts.into_iter().map(mount).collect()
}

fn unresolved(flag: &MountFlag) -> Mount {
    Mount {
        kind: MountKind::Bind,
        from: flag.from.clone(),
        source: String::new(),
        target: String::new(),
        read_only: true,
        size_bytes: 0,
        id: String::new(),
        sharing: None,
        required: false,
        env: None,
        mode: None,
        uid: None,
        gid: None,
    }
}

fn mount(mount: Mount) -> Value {
    json!({
        "Type": mount.kind.as_str(),
        "From": mount.from.unwrap_or_default(),
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "SizeLimit": mount.size_bytes,
        "CacheID": mount.id,
        "CacheSharing": mount.sharing.map_or("", Sharing::as_str),
        "Required": mount.required,
        "Env": mount.env,
        "Mode": mount.mode,
        "UID": mount.uid,
        "GID": mount.gid,
    })
}

fn type_name(kind: &InstructionKind) -> &'static str {
    match kind {
        InstructionKind::Run(_) => "Run",
        InstructionKind::Copy(_) => "Copy",
        InstructionKind::Add(_) => "Add",
        InstructionKind::Env(_) => "Env",
        InstructionKind::Arg(_) => "Arg",
        InstructionKind::Label(_) => "Label",
        InstructionKind::Workdir(_) => "Workdir",
        InstructionKind::User(_) => "User",
        InstructionKind::Cmd(_) => "Cmd",
        InstructionKind::Entrypoint(_) => "Entrypoint",
        InstructionKind::Expose(_) => "Expose",
        InstructionKind::Volume(_) => "Volume",
        InstructionKind::Shell(_) => "Shell",
        InstructionKind::StopSignal(_) => "StopSignal",
        InstructionKind::Healthcheck(_) => "HealthCheck",
        InstructionKind::OnBuild(_) => "Onbuild",
        InstructionKind::Maintainer(_) => "Maintainer",
    }
}

fn fields(kind: &InstructionKind) -> Value {
    match kind {
        InstructionKind::Run(run) => run_fields(run),
        InstructionKind::Copy(copy) => copy_fields(copy),
        InstructionKind::Add(add) => add_fields(add),
        InstructionKind::Env(env) => json!({"Env": pairs(&env.pairs)}),
        InstructionKind::Label(label) => json!({"Labels": pairs(&label.pairs)}),
        InstructionKind::Arg(arg) => json!({"Args": arg_fields(arg)}),
        InstructionKind::Workdir(workdir) => json!({"Path": workdir.path.value}),
        InstructionKind::User(user) => json!({"User": user.user.value}),
        InstructionKind::Cmd(cmd) => command_line(&cmd.command, false),
        InstructionKind::Entrypoint(entrypoint) => command_line(&entrypoint.command, true),
        InstructionKind::Expose(expose) => {
            json!({"Ports": expose.ports.iter().map(|port| &port.value).collect::<Vec<_>>()})
        }
        InstructionKind::Volume(volume) => {
            json!({"Volumes": volume.volumes.iter().map(|path| &path.value).collect::<Vec<_>>()})
        }
        InstructionKind::Shell(shell) => {
            json!({"Shell": shell.shell.iter().map(|word| &word.value).collect::<Vec<_>>()})
        }
        InstructionKind::StopSignal(stop) => json!({"Signal": stop.signal.value}),
        InstructionKind::Healthcheck(health) => json!({"Health": health_fields(health)}),
        InstructionKind::OnBuild(on_build) => json!({"Expression": on_build.trigger.value}),
        InstructionKind::Maintainer(maintainer) => json!({"Maintainer": maintainer.author.value}),
    }
}

fn command_line(command: &CommandForm, empty_is_null: bool) -> Value {
    let words = command.words();
    let words = if words.is_empty() && empty_is_null {
        Value::Null
    } else {
        json!(words)
    };
    json!({"CmdLine": words, "Files": null, "PrependShell": command.is_shell()})
}

fn run_fields(run: &RunInstruction) -> Value {
    let mut out = command_line(&run.command, false);
    if !run.heredocs.is_empty() {
        let files = run.heredocs.iter().map(|heredoc| {
            json!({"Name": heredoc.name, "Data": heredoc.content, "Chomp": heredoc.strip_tabs})
        });
        out["Files"] = files.collect();
    }
    out
}

fn pairs(pairs: &[KeyValue]) -> Value {
    let pair = |pair: &KeyValue| json!({"Key": pair.key.value, "Value": pair.value.value, "NoDelim": pair.legacy});
    pairs.iter().map(pair).collect()
}

fn arg_fields(arg: &ArgInstruction) -> Value {
    let declarations = arg.declarations.iter().map(|declared| {
        json!({
            "Key": declared.name.value,
            "Value": declared.default.as_ref().map(|default| &default.value),
            "DocComment": declared.doc_comment.as_deref().unwrap_or_default(),
        })
    });
    declarations.collect()
}

/// Sources, destination and the flags `COPY` and `ADD` share.
fn copied(
    sources: &[CopySource],
    destination: &str,
    owner: [&str; 2],
    link: bool,
    exclude: Vec<&str>,
) -> Map<String, Value> {
    let mut out = Map::new();
    let mut paths = Vec::new();
    let mut contents = Vec::new();
    for source in sources {
        match source {
            CopySource::Path(path) => paths.push(path.value.clone()),
            CopySource::Heredoc(file) => contents
                .push(json!({"Path": file.name, "Data": file.content, "Expand": file.expand})),
        }
    }
    out.insert("DestPath".into(), json!(destination));
    out.insert("SourcePaths".into(), null_if_empty(json!(paths)));
    out.insert("SourceContents".into(), null_if_empty(json!(contents)));
    out.insert("Chown".into(), json!(owner[0]));
    out.insert("Chmod".into(), json!(owner[1]));
    out.insert("Link".into(), json!(link));
    out.insert("ExcludePatterns".into(), null_if_empty(json!(exclude)));
    out
}

fn null_if_empty(list: Value) -> Value {
    if list.as_array().is_some_and(Vec::is_empty) {
        Value::Null
    } else {
        list
    }
}

fn copy_fields(copy: &CopyInstruction) -> Value {
    let owner = [&copy.chown, &copy.chmod].map(|flag| flag.as_ref().map_or("", |flag| flag));
    let exclude = copy
        .exclude
        .iter()
        .map(|pattern| pattern.as_str())
        .collect();
    let mut out = copied(&copy.sources, &copy.destination, owner, copy.link, exclude);
    out.insert(
        "From".into(),
        json!(copy.from.as_ref().map_or("", |from| from)),
    );
    out.insert("Parents".into(), json!(copy.parents));
    Value::Object(out)
}

fn add_fields(add: &AddInstruction) -> Value {
    let owner = [&add.chown, &add.chmod].map(|flag| flag.as_ref().map_or("", |flag| flag));
    let exclude = add.exclude.iter().map(|pattern| pattern.as_str()).collect();
    let mut out = copied(&add.sources, &add.destination, owner, add.link, exclude);
    out.insert("KeepGitDir".into(), json!(add.keep_git_dir));
    out.insert(
        "Checksum".into(),
        json!(add.checksum.as_ref().map_or("", |sum| sum)),
    );
    out.insert("Unpack".into(), json!(add.unpack));
    Value::Object(out)
}

fn health_fields(health: &HealthcheckInstruction) -> Value {
    let mut out = json!({"Test": health.test()});
    if let HealthcheckInstruction::Check(check) = health {
        let times = [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ];
        for (name, time) in times.into_iter().filter(|(_, time)| !time.is_zero()) {
            out[name] = json!(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
        if check.retries > 0 {
            out["Retries"] = json!(check.retries);
        }
    }
    out
}
