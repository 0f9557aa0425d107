//! `longshore run`: in the foreground, with the process's own exit code.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use longshore_engine::{ContainerMount, ContainerRequest, Engine, EngineError, StoredImage};
use longshore_oci::Platform;
use longshore_runner::{Cancel, Capabilities, Input, Limits, ProcessIo, RunError};

use super::transfer::ShownTransfers;
use crate::args::{Global, RunArgs};
use crate::exit::Exit;
use crate::report::{Usage, failure};
use crate::terminal::{self, RawTerminal};
use crate::{config, mounts, signals, spec, units};

/// What Docker's `run` ends with when the engine failed, the command cannot be executed,
/// or is not there.
const ENGINE_FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// 128 and the number of the signal that ended it.
const KILLED: u8 = 137;
pub(crate) fn run(global: &Global, args: RunArgs) -> Result<Exit> {
    for (flag, given) in [
        ("--detach", args.detach),
        ("--publish", !args.publish.is_empty()),
        ("--name", args.name.is_some()),
    ] {
        if given {
            return Err(Usage(format!("{flag} is not supported yet")).into());
        }
    }
    match start(global, args) {
        Ok(code) => Ok(Exit::Code(code)),
        // Wrong usage too: the codes below 125 are the process's own.
        Err(error) => {
            let code = code_of(&error);
            failure(&error);
            Ok(Exit::Code(code))
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    let run = error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<EngineError>() {
            Some(EngineError::Run(error)) => Some(error),
            _ => cause.downcast_ref::<RunError>(),
        });
    match run {
        Some(RunError::NotFound { .. }) => NOT_FOUND,
        Some(RunError::NotExecutable { .. }) => NOT_EXECUTABLE,
        Some(RunError::TimedOut { .. }) => KILLED,
        _ => ENGINE_FAILED,
    }
}

fn start(global: &Global, args: RunArgs) -> Result<u8> {
    let platform: Platform = match &args.platform {
        Some(text) => text
            .parse()
            .with_context(|| format!("--platform `{text}`"))?,
        None => Platform::host(),
    };
    let engine = config::engine_that_runs(global, &args.sandboxing)?;
    let runtime = config::runtime()?;
    let (name, command) = args
        .image_and_command
        .split_first()
        .context("an image is missing")?;
    if name.starts_with('-') {
        return Err(Usage(format!("`{name}` is no option of `run`, and no image")).into());
    }
    let image = runtime.block_on(image(&engine, name, &platform, &args.pull))?;
    let request = request(&args, command)?;
    let (sig_proxy, terminal) = (args.sig_proxy, args.tty);
    let io = ProcessIo {
        stdin: if args.interactive {
            Input::Inherit
        } else {
            Input::Null
        },
        window: args.tty.then(terminal::window_size).flatten(),
        ..ProcessIo::inherit()
    };
    let raw = args.tty && args.interactive;
    if raw && !terminal::is_on_stdin() {
        return Err(Usage("-t with -i needs a terminal on standard input".to_owned()).into());
    }
    // From here on until the process has ended, on every way out.
    let _raw = raw
        .then(RawTerminal::enter)
        .transpose()
        .context("cannot change the terminal")?;
    let cancel = Cancel::new().context("cannot start")?;
    let ended = runtime.block_on(async {
        if sig_proxy {
            signals::forward(&cancel, terminal)?;
        }
        anyhow::Ok(
            engine
                .run(&image, &platform, request, io, cancel.clone())
                .await?,
        )
    })?;
    for warning in &ended.warnings {
        crate::report::say(&format!("warning: {}: {}", warning.what, warning.why));
    }
    if ended.oom {
        crate::report::say("out of memory: the kernel killed a process of the container");
    }
    Ok(u8::try_from(ended.docker_code() & 0xff).unwrap_or(ENGINE_FAILED))
}

async fn image(
    engine: &Engine,
    name: &str,
    platform: &Platform,
    pull: &str,
) -> Result<StoredImage> {
    let found = engine.find_image(name);
    let is_here = found
        .as_ref()
        .is_ok_and(|image| engine.read_image(image, platform).is_ok());
    let wanted = match pull {
        "always" => true,
        "missing" => !is_here,
        "never" => false,
        other => {
            return Err(Usage(format!(
                "--pull `{other}`: always, missing and never are known"
            ))
            .into());
        }
    };
    if !wanted {
        return Ok(found?);
    }
    let reference = spec::parse_reference(name)?.with_default_tag();
    let pulled = engine
        .pull(&reference, platform, Arc::new(ShownTransfers::new(false)))
        .await;
    pulled.with_context(|| format!("`{name}` is not here"))?;
    Ok(engine.find_image(&reference.to_string())?)
}

fn request(args: &RunArgs, command: &[String]) -> Result<ContainerRequest> {
    let network = match args.network.as_str() {
        "default" => None,
        text => Some(text.parse().context("--network")?),
    };
    let mut env = Vec::new();
    for path in &args.env_file {
        env.extend(read_env_file(path)?);
    }
    env.extend(spec::pairs_or_environment(&args.env, "--env", |name| {
        std::env::var(name).ok()
    })?);
    Ok(ContainerRequest {
        command: command.to_vec(),
        entrypoint: args
            .entrypoint
            .as_ref()
            .map(|program| match program.is_empty() {
                true => Vec::new(),
                false => vec![program.clone()],
            }),
        env,
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        mounts: container_mounts(args)?,
        network,
        timeout: units::parse_timeout(args.timeout.as_deref()).context("--timeout")?,
        hostname: args.hostname.clone().unwrap_or_default(),
        extra_hosts: args
            .add_host
            .iter()
            .map(|text| spec::parse_host(text))
            .collect::<Result<_>>()?,
        limits: limits(args)?,
        ulimits: args
            .ulimit
            .iter()
            .map(|text| spec::parse_ulimit(text))
            .collect::<Result<_>>()?,
        shm_bytes: args
            .shm_size
            .as_deref()
            .map(units::parse_bytes)
            .transpose()
            .context("--shm-size")?,
        readonly: args.read_only,
        privileged: args.privileged,
        capabilities: Capabilities::changed(&args.cap_add, &args.cap_drop)
            .context("--cap-add or --cap-drop")?,
        init: args.init,
        terminal: args.tty,
    })
}

/// One target is one mount, by whatever flag.
fn container_mounts(args: &RunArgs) -> Result<Vec<ContainerMount>> {
    let volumes = args.volume.iter().map(|it| mounts::parse_volume(it));
    let memory = args.tmpfs.iter().map(|it| mounts::parse_tmpfs(it));
    let others = args.mount.iter().map(|it| mounts::parse_mount(it));
    let all = volumes.chain(memory).chain(others);
    let all: Vec<ContainerMount> = all.collect::<Result<_>>()?;
    let mut targets: Vec<&str> = all.iter().map(|it| it.target.as_str()).collect();
    targets.sort_unstable();
    match targets.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(all),
        Some(pair) => Err(Usage(format!("two mounts have the target `{}`", pair[0])).into()),
    }
}

fn limits(args: &RunArgs) -> Result<Limits> {
    let quota = |cpus: f64| {
        anyhow::ensure!(
            (0.001..=1e6).contains(&cpus),
            "--cpus `{cpus}`: out of range"
        );
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
        Ok((cpus * 100_000.0) as i64)
    };
    let (memory_bytes, memory_swap_bytes) =
        units::parse_memory(args.memory.as_deref(), args.memory_swap.as_deref())?;
    Ok(Limits {
        memory_bytes,
        memory_swap_bytes,
        cpu_quota_us: args.cpus.map(quota).transpose()?.or(args.cpu_quota),
        cpu_period_us: args.cpus.map(|_| 100_000).or(args.cpu_period),
        cpu_shares: args.cpu_shares,
        cpuset_cpus: args.cpuset_cpus.clone(),
        cpuset_mems: args.cpuset_mems.clone(),
        pids_max: args.pids_limit.and_then(|limit| u64::try_from(limit).ok()),
        ..Limits::default()
    })
}

fn read_env_file(path: &PathBuf) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--env-file `{}`", path.display()))?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    spec::pairs_or_environment(&lines, "--env-file", |name| std::env::var(name).ok())
}
