//! `longshore run`: in the foreground, with the process's own exit code.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use longshore_engine::{ContainerRequest, ContainerVolume, Engine, EngineError, StoredImage};
use longshore_oci::Platform;
use longshore_runner::{Cancel, Input, Limits, ProcessIo, RunError};

use super::transfer::ShownTransfers;
use crate::args::{Global, RunArgs};
use crate::exit::Exit;
use crate::report::{Usage, failure};
use crate::terminal::{self, RawTerminal};
use crate::{config, spec, units};

/// What Docker's `run` ends with when the engine failed, the command cannot be executed,
/// or is not there.
const ENGINE_FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// 128 and the number of the signal that ended it.
const KILLED: u8 = 137;
const SIGNALS_FORWARDED: [i32; 7] = [
    libc_signal::HUP,
    libc_signal::INT,
    libc_signal::QUIT,
    libc_signal::TERM,
    libc_signal::USR1,
    libc_signal::USR2,
    libc_signal::ALRM,
];

/// Signal numbers of Linux.
mod libc_signal {
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const QUIT: i32 = 3;
    pub(super) const USR1: i32 = 10;
    pub(super) const USR2: i32 = 12;
    pub(super) const ALRM: i32 = 14;
    pub(super) const TERM: i32 = 15;
}

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
        forward_signals(&cancel)?;
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

/// Passes signals on to the process, as long as it runs.
fn forward_signals(cancel: &Cancel) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for number in SIGNALS_FORWARDED {
        let mut arrivals =
            signal(SignalKind::from_raw(number)).context("cannot watch for signals")?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                cancel.signal(number);
            }
        });
    }
    Ok(())
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
        volumes: args
            .volume
            .iter()
            .map(|text| parse_volume(text))
            .collect::<Result<_>>()?,
        tmpfs: args
            .tmpfs
            .iter()
            .map(|text| parse_tmpfs(text))
            .collect::<Result<_>>()?,
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
        init: args.init,
        terminal: args.tty,
    })
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
    Ok(Limits {
        memory_bytes: args
            .memory
            .as_deref()
            .map(units::parse_bytes)
            .transpose()
            .context("--memory")?,
        cpu_quota_us: args.cpus.map(quota).transpose()?,
        cpu_period_us: args.cpus.map(|_| 100_000),
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

/// `SOURCE:TARGET[:ro|rw]`.
fn parse_volume(text: &str) -> Result<ContainerVolume> {
    let wrong = |why: &str| Usage(format!("--volume `{text}`: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(wrong("expected SOURCE:TARGET[:ro]").into()),
    };
    if !target.starts_with('/') {
        return Err(wrong("the target is not absolute").into());
    }
    if !source.starts_with(['/', '.']) {
        return Err(wrong("named volumes are not supported yet: a path begins with / or .").into());
    }
    let mut readonly = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => readonly = true,
            "rw" => readonly = false,
            other => return Err(wrong(&format!("`{other}` is not supported")).into()),
        }
    }
    let source = std::path::absolute(source).with_context(|| format!("--volume `{text}`"))?;
    Ok(ContainerVolume {
        source,
        target: target.to_owned(),
        readonly,
    })
}

/// `TARGET[:size=BYTES,mode=MODE]`.
fn parse_tmpfs(text: &str) -> Result<(String, Option<u64>, u32)> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut parsed = (target.to_owned(), None, 0o1777);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => {
                parsed.1 =
                    Some(units::parse_bytes(size).with_context(|| format!("--tmpfs `{text}`"))?);
            }
            Some(("mode", mode)) => {
                parsed.2 = u32::from_str_radix(mode, 8)
                    .with_context(|| format!("--tmpfs `{text}`: mode `{mode}`"))?;
            }
            _ => {
                return Err(Usage(format!("--tmpfs `{text}`: `{option}` is not supported")).into());
            }
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let volume = parse_volume("/a:/b:ro").unwrap();
        assert_eq!(
            (volume.source, volume.target.as_str(), volume.readonly),
            (PathBuf::from("/a"), "/b", true)
        );
        for bad in ["/a", "/a:b", "name:/b", "/a:/b:zz", "a:b:c:d"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs() {
        assert_eq!(
            parse_tmpfs("/t:size=1m,mode=755").unwrap(),
            ("/t".to_owned(), Some(1 << 20), 0o755)
        );
        assert!(parse_tmpfs("/t:nope").is_err());
    }
}
