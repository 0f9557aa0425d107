//! The `longshore` command: flags in, results on standard output, everything else on
//! standard error, and an exit code.

mod annotation;
mod args;
mod cache;
mod commands;
mod config;
mod exit;
mod identity;
mod interrupt;
mod kept;
mod mounts;
mod output;
mod progress;
mod report;
mod signals;
mod spec;
mod table;
mod template;
mod terminal;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::exit::Exit;

fn main() -> ExitCode {
    // A child that sets a sandbox up never gets past here.
    longshore_runner::init_if_requested();
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // Before anything starts a thread.
    if let Err(error) = identity::assume(&mut cli) {
        return report::failure(&error).into();
    }
    config::start_log(&cli.global);
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(error) => report::failure(&error).into(),
    }
}

/// Help and version go to standard output; wrong usage to standard error.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.use_stderr() {
        true => Exit::Usage.into(),
        false => Exit::Done.into(),
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let global = cli.global;
    match cli.command {
        Command::Build(args) => commands::build::run(&global, *args),
        Command::Lock(args) => commands::lock::run(&global, *args),
        Command::Verify(args) => commands::verify::run(&global, *args),
        Command::Import(args) => commands::import::run(&global, args),
        Command::Images(args) => commands::images::run(&global, &args),
        Command::Inspect(args) => commands::inspect::run(&global, &args),
        Command::History(args) => commands::history::run(&global, &args),
        Command::Why(args) => commands::why::run(&global, &args),
        Command::BuildHistory(command) => commands::build_history::run(&global, command),
        Command::Tag(args) => commands::tag::run(&global, &args),
        Command::Rmi(args) => commands::rmi::run(&global, &args),
        Command::Push(args) => commands::push::run(&global, &args),
        Command::Pull(args) => commands::pull::run(&global, &args),
        Command::Run(args) => commands::run::run(&global, *args),
        Command::Serve(args) => commands::serve::run(&global, &args),
        Command::Login(args) => commands::login::login(&global, args),
        Command::Logout(args) => commands::login::logout(&args),
        Command::Save(args) => commands::archive::save(&global, &args),
        Command::Load(args) => commands::archive::load(&global, &args),
        Command::Prune(args) => commands::prune::run(&global, &args),
        Command::Df(args) => commands::prune::df(&global, &args),
        Command::Doctor(args) => commands::doctor::run(&global, &args),
        Command::Completion { shell } => commands::version::completion(shell),
        Command::Version(args) => commands::version::run(&args),
    }
}
