//! Runs one command in a root file system: `run ROOTFS [--user U] [--none] [--insecure] COMMAND…`.
//! With `--repeat N` it runs it N times and tells how long one took.
#![expect(clippy::print_stderr, reason = "a program for a terminal")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use longshore_runner::{
    Cancel, Network, ProcessIo, ProcessSpec, Rootfs, RunError, Runner as _, RunnerOptions,
    SandboxRunner, Security,
};

struct Options {
    rootfs: PathBuf,
    user: String,
    network: Network,
    security: Security,
    repeat: u32,
    command: Vec<String>,
}

fn parse() -> Option<Options> {
    let mut words = std::env::args().skip(1);
    let mut options = Options {
        rootfs: words.next()?.into(),
        user: String::new(),
        network: Network::Host,
        security: Security::Sandbox,
        repeat: 1,
        command: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--user" => options.user = words.next()?,
            "--none" => options.network = Network::None,
            "--insecure" => options.security = Security::Insecure,
            "--repeat" => options.repeat = words.next()?.parse().ok()?,
            _ => {
                options.command.push(word);
                options.command.extend(words);
                break;
            }
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    longshore_runner::init_if_requested();
    let Some(options) = parse() else {
        eprintln!("usage: run ROOTFS [--user U] [--none] [--insecure] [--repeat N] COMMAND…");
        return ExitCode::from(2);
    };
    if !rustix::process::geteuid().is_root() {
        match longshore_runner::become_root_in_user_namespace() {
            Ok(mapping) => eprintln!("run: {mapping:?}"),
            Err(error) => {
                eprintln!("run: {error}: {:?}", std::error::Error::source(&error));
                return ExitCode::from(125);
            }
        }
    }
    match run(&options) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                eprintln!("run: {error}");
                cause = error.source();
            }
            ExitCode::from(u8::try_from(error.docker_code()).unwrap_or(125))
        }
    }
}

fn run(options: &Options) -> Result<i32, RunError> {
    let runner = SandboxRunner::new(&RunnerOptions::default())?;
    let cancel = Cancel::new().map_err(|source| RunError::Setup {
        action: "make a cancel handle".to_owned(),
        path: None,
        hint: None,
        source,
    })?;
    let (mut code, mut times) = (0, Vec::new());
    for _ in 0..options.repeat {
        let rootfs = Rootfs::Path(options.rootfs.clone());
        let mut spec = ProcessSpec::new(rootfs, options.command.clone());
        spec.user.clone_from(&options.user);
        spec.network = options.network;
        spec.security = options.security;
        let start = Instant::now();
        let status = runner.run(spec, ProcessIo::inherit(), &cancel)?;
        times.push(start.elapsed());
        code = status.docker_code();
        for warning in &status.warnings {
            eprintln!("run: warning: {warning}");
        }
    }
    if options.repeat > 1 {
        report(&mut times);
    }
    Ok(code)
}

fn report(times: &mut [Duration]) {
    times.sort();
    eprintln!(
        "fastest {:?}, median {:?}",
        times[0],
        times[times.len() / 2]
    );
}
