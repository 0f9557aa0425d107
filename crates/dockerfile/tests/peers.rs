//! The same Dockerfiles through two other Rust parsers, in the part of the language they read too.
//!
//! `parse-dockerfile` knows most of it; `dockerfile-parser` an older and smaller part: no flags but
//! on `FROM` and `COPY`, no heredocs. The generators stay inside what each claims to accept, so a
//! disagreement is a fault of one of the two sides.

use longshore_dockerfile::instruction::{CommandForm, CopySource, InstructionKind};
use longshore_dockerfile::{Parsed, parse};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// An instruction as all sides can tell it: name, then words.
type Told = (String, Vec<String>);

fn word() -> impl Strategy<Value = String> {
    "[a-z/][a-zA-Z0-9/._-]{0,8}"
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z][A-Za-z0-9_]{0,6}"
}

fn shell_text() -> impl Strategy<Value = String> {
    vec("[a-z][a-z0-9/.=&|;-]{0,6}", 1..5).prop_map(|words| words.join(" "))
}

fn exec_form() -> impl Strategy<Value = String> {
    vec("[a-zA-Z0-9 /.=-]{0,6}", 1..4).prop_map(|words| format!("{words:?}"))
}

/// `RUN`, `CMD`, `ENTRYPOINT` in both forms.
fn command(keyword: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![shell_text(), exec_form()].prop_map(move |text| format!("{keyword} {text}"))
}

fn from() -> impl Strategy<Value = String> {
    let platform = option::of(Just("--platform=linux/arm64 "));
    (
        platform,
        "[a-z][a-z0-9]{0,5}(:[a-z0-9]{1,4})?",
        option::of("[a-z][a-z0-9_-]{0,5}"),
    )
        .prop_map(|(platform, image, name)| {
            let name = name.map_or(String::new(), |name| format!(" AS {name}"));
            format!("FROM {}{image}{name}", platform.unwrap_or_default())
        })
}

fn copy() -> impl Strategy<Value = String> {
    (option::of("--from=[a-z]{1,4} "), vec(word(), 2..5))
        .prop_map(|(from, words)| format!("COPY {}{}", from.unwrap_or_default(), words.join(" ")))
}

/// What both peers read.
fn common() -> impl Strategy<Value = String> {
    prop_oneof![
        command("RUN"),
        command("CMD"),
        command("ENTRYPOINT"),
        copy(),
        (name(), word()).prop_map(|(name, value)| format!("ARG {name}={value}")),
        vec((name(), word()), 1..4).prop_map(|pairs| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("ENV {}", pairs.join(" "))
        }),
    ]
}

/// What `parse-dockerfile` reads besides.
fn more() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => common(),
        1 => word().prop_map(|path| format!("WORKDIR {path}")),
        1 => word().prop_map(|user| format!("USER {user}")),
        1 => vec("[1-9][0-9]{0,3}(/udp)?", 1..4).prop_map(|ports| format!("EXPOSE {}", ports.join(" "))),
        1 => vec(word(), 1..4).prop_map(|paths| format!("VOLUME {}", paths.join(" "))),
        1 => exec_form().prop_map(|shell| format!("SHELL {shell}")),
        1 => Just("STOPSIGNAL SIGTERM".to_owned()),
        1 => shell_text().prop_map(|text| format!("HEALTHCHECK --interval=5s CMD {text}")),
        1 => "[a-z ]{0,9}".prop_map(|line| format!("COPY <<EOF /x\n{line}\nEOF")),
    ]
}

/// A Dockerfile with comments and continuations thrown in.
fn dockerfile(instruction: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let noise = prop_oneof![4 => Just(""), 1 => Just("# comment\n"), 1 => Just("\n")];
    (from(), vec((noise, instruction), 0..8)).prop_map(|(from, rest)| {
        let rest: String = rest
            .iter()
            .map(|(noise, line)| format!("{noise}{line}\n"))
            .collect();
        format!("{from}\n{rest}")
    })
}

fn told_command(name: &str, command: &CommandForm) -> Told {
    let kind = if command.is_shell() { "shell" } else { "exec" };
    let mut words = vec![kind.to_owned()];
    words.extend(command.words());
    (name.to_owned(), words)
}

fn values<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

fn told_by_us(parsed: &Parsed) -> Vec<Told> {
    let stages = parsed.dockerfile.stages.iter();
    let told = stages.flat_map(|stage| {
        let name = stage.name.as_ref().map_or("", |name| name);
        let from = ("FROM".to_owned(), values([stage.base_name.as_str(), name]));
        let rest = stage
            .instructions
            .iter()
            .map(|instruction| told_instruction(&instruction.kind));
        std::iter::once(from).chain(rest)
    });
    told.collect()
}

fn told_instruction(kind: &InstructionKind) -> Told {
    let name = kind.name();
    let words = match kind {
        InstructionKind::Run(run) => return told_command(name, &run.command),
        InstructionKind::Cmd(cmd) => return told_command(name, &cmd.command),
        InstructionKind::Entrypoint(entrypoint) => return told_command(name, &entrypoint.command),
        InstructionKind::Copy(copy) => {
            let sources = copy.sources.iter().map(|source| match source {
                CopySource::Path(path) => path.value.clone(),
                CopySource::Heredoc(file) => file.content.clone(),
            });
            sources.chain([copy.destination.value.clone()]).collect()
        }
        InstructionKind::Env(env) => env
            .pairs
            .iter()
            .map(|pair| format!("{}={}", pair.key.value, pair.value.value))
            .collect(),
        InstructionKind::Arg(arg) => {
            let declared = &arg.declarations[0];
            let default = declared.default.as_ref().map_or("", |default| default);
            vec![format!("{}={default}", declared.name.value)]
        }
        InstructionKind::Workdir(workdir) => values([workdir.path.as_str()]),
        InstructionKind::User(user) => values([user.user.as_str()]),
        InstructionKind::Volume(volume) => values(volume.volumes.iter().map(|path| path.as_str())),
        InstructionKind::Shell(shell) => values(shell.shell.iter().map(|word| word.as_str())),
        InstructionKind::StopSignal(stop) => values([stop.signal.as_str()]),
        InstructionKind::Expose(expose) => values(expose.ports.iter().map(|port| port.as_str())),
        InstructionKind::Healthcheck(check) => check.test(),
        other => panic!("not generated: {other:?}"),
    };
    (name.to_owned(), words)
}

mod newer {
    use parse_dockerfile::{
        Command, HealthcheckArguments, Instruction, JsonOrStringArray, Source, parse,
    };

    use super::{Told, values};

    pub(super) fn told(text: &str) -> Result<Vec<Told>, String> {
        let parsed = parse(text).map_err(|error| error.to_string())?;
        Ok(parsed.instructions.iter().map(instruction).collect())
    }

    fn command(name: &str, command: &Command<'_>) -> Told {
        let mut words = match command {
            Command::Exec(_) => values(["exec"]),
            _ => values(["shell"]),
        };
        match command {
            Command::Exec(array) => {
                words.extend(array.value.iter().map(|word| word.value.to_string()));
            }
            Command::Shell(text) => words.push(text.value.to_string()),
            other => panic!("not generated: {other:?}"),
        }
        (name.to_owned(), words)
    }

    fn array<const N: usize>(array: &JsonOrStringArray<'_, N>) -> Vec<String> {
        match array {
            JsonOrStringArray::Json(words) => values(words.value.iter().map(|word| &*word.value)),
            JsonOrStringArray::String(words) => values(words.iter().map(|word| &*word.value)),
        }
    }

    fn instruction(instruction: &Instruction<'_>) -> Told {
        let (name, words) = match instruction {
            Instruction::From(from) => {
                let name = from.as_.as_ref().map_or("", |(_, name)| &*name.value);
                ("FROM", values([&*from.image.value, name]))
            }
            Instruction::Run(run) => return command("RUN", &run.arguments),
            Instruction::Cmd(cmd) => return command("CMD", &cmd.arguments),
            Instruction::Entrypoint(entrypoint) => {
                return command("ENTRYPOINT", &entrypoint.arguments);
            }
            Instruction::Copy(copy) => {
                let sources = copy.src.iter().map(|source| match source {
                    Source::Path(path) => path.value.to_string(),
                    Source::HereDoc(heredoc) => heredoc.value.to_string(),
                    other => panic!("not generated: {other:?}"),
                });
                (
                    "COPY",
                    sources.chain([copy.dest.value.to_string()]).collect(),
                )
            }
            Instruction::Env(env) => ("ENV", values(env.arguments.value.split(' '))),
            Instruction::Arg(arg) => ("ARG", values([&*arg.arguments.value])),
            Instruction::Workdir(workdir) => ("WORKDIR", values([&*workdir.arguments.value])),
            Instruction::User(user) => ("USER", values([&*user.arguments.value])),
            Instruction::Volume(volume) => ("VOLUME", array(&volume.arguments)),
            Instruction::Shell(shell) => (
                "SHELL",
                values(shell.arguments.iter().map(|word| &*word.value)),
            ),
            Instruction::Stopsignal(stop) => ("STOPSIGNAL", values([&*stop.arguments.value])),
            Instruction::Expose(expose) => {
                // Ours are in byte order.
                let mut ports = values(expose.arguments.iter().map(|port| &*port.value));
                ports.sort();
                ("EXPOSE", ports)
            }
            Instruction::Healthcheck(check) => match &check.arguments {
                HealthcheckArguments::Cmd {
                    arguments: Command::Shell(text),
                    ..
                } => ("HEALTHCHECK", values(["CMD-SHELL", text.value])),
                other => panic!("not generated: {other:?}"),
            },
            other => panic!("not generated: {other:?}"),
        };
        (name.to_owned(), words)
    }
}

mod older {
    use dockerfile_parser::{Dockerfile, Instruction, ShellOrExecExpr};

    use super::{Told, values};

    pub(super) fn told(text: &str) -> Result<Vec<Told>, String> {
        let parsed = Dockerfile::parse(text).map_err(|error| error.to_string())?;
        Ok(parsed.instructions.iter().map(instruction).collect())
    }

    fn command(name: &str, expression: &ShellOrExecExpr) -> Told {
        let words = match expression {
            ShellOrExecExpr::Exec(array) => {
                values(std::iter::once("exec").chain(array.as_str_vec()))
            }
            ShellOrExecExpr::Shell(text) => {
                vec!["shell".to_owned(), text.to_string().trim().to_owned()]
            }
        };
        (name.to_owned(), words)
    }

    fn instruction(instruction: &Instruction) -> Told {
        let (name, words) = match instruction {
            Instruction::From(from) => {
                let name = from.alias.as_ref().map_or("", |alias| &alias.content);
                ("FROM", values([from.image.content.as_str(), name]))
            }
            Instruction::Run(run) => return command("RUN", &run.expr),
            Instruction::Cmd(cmd) => return command("CMD", &cmd.expr),
            Instruction::Entrypoint(entrypoint) => return command("ENTRYPOINT", &entrypoint.expr),
            Instruction::Copy(copy) => {
                let words = copy.sources.iter().chain([&copy.destination]);
                ("COPY", values(words.map(|word| word.content.as_str())))
            }
            Instruction::Env(env) => {
                let pairs = env
                    .vars
                    .iter()
                    .map(|pair| format!("{}={}", pair.key.content, pair.value));
                ("ENV", pairs.collect())
            }
            Instruction::Arg(arg) => {
                let value = arg.value.as_ref().map_or("", |value| &value.content);
                ("ARG", vec![format!("{}={value}", arg.name.content)])
            }
            other => panic!("not generated: {other:?}"),
        };
        (name.to_owned(), words)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_newer_parser_agrees(text in dockerfile(more())) {
        let ours = parse(&text);
        prop_assert!(!ours.has_errors(), "{:?}", ours.diagnostics);
        prop_assert_eq!(Ok(told_by_us(&ours)), newer::told(&text));
    }

    #[test]
    fn the_older_parser_agrees(text in dockerfile(common())) {
        let ours = parse(&text);
        prop_assert!(!ours.has_errors(), "{:?}", ours.diagnostics);
        prop_assert_eq!(Ok(told_by_us(&ours)), older::told(&text));
    }
}
