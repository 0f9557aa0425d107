//! As whom the program acts.
//!
//! A user who is not root becomes root of a user namespace, first thing, for every command that
//! reads or writes the state root: what is unpacked there belongs to ids that exist only in
//! that namespace. Where there is no such namespace, all that needs no process still works.

use anyhow::Result;
use longshore_runner::{Isolation, Mapping, become_root_in_user_namespace};

use crate::args::{Cli, Command};
use crate::config;
use crate::report::Usage;

/// As whom the program acts.
#[derive(Debug, Default)]
pub(crate) enum Identity {
    /// As whom it was started.
    #[default]
    AsStarted,
    /// As root of a user namespace that it made.
    RootOfNamespace(Mapping),
    /// As an ordinary user, who could not make a namespace.
    User(String),
}

impl Identity {
    /// Why there is no user namespace, where there should be one.
    pub(crate) fn no_user_namespace(&self) -> Option<String> {
        match self {
            Self::User(why) => Some(why.clone()),
            Self::AsStarted | Self::RootOfNamespace(_) => None,
        }
    }

    /// Why the namespace has no other ids than the user's own.
    pub(crate) fn only_own_id(&self) -> Option<&str> {
        match self {
            Self::RootOfNamespace(Mapping::OwnIdOnly { reason }) => Some(reason),
            _ => None,
        }
    }

    /// Files that are written outside the state root belong to the user.
    pub(crate) fn is_ordinary_user(&self) -> bool {
        !matches!(self, Self::AsStarted)
    }
}

/// Becomes whom the command needs. To be called while the program has one thread.
pub(crate) fn assume(cli: &mut Cli) -> Result<()> {
    let isolation = match &cli.command {
        Command::Build(args) => args.sandboxing.isolation,
        Command::Run(args) => args.sandboxing.isolation,
        command if uses_layers(command) => isolation_of_environment()?,
        _ => return Ok(()),
    };
    if config::is_root() {
        return Ok(());
    }
    // Where the state is depends on who asks: it is asked before that changes.
    cli.global.root = Some(config::state_root(&cli.global)?);
    let wants_namespace = matches!(isolation, Isolation::Auto | Isolation::Userns);
    if !wants_namespace {
        return Ok(());
    }
    cli.global.identity = match become_root_in_user_namespace() {
        Ok(mapping) => Identity::RootOfNamespace(mapping),
        Err(error) => Identity::User(chain(&error)),
    };
    Ok(())
}

/// Whether a command may meet files of other ids in the state root.
fn uses_layers(command: &Command) -> bool {
    match command {
        Command::Build(_)
        | Command::Import(_)
        | Command::Images(_)
        | Command::Inspect(_)
        | Command::History(_)
        | Command::Tag(_)
        | Command::Rmi(_)
        | Command::Push(_)
        | Command::Pull(_)
        | Command::Run(_)
        | Command::Save(_)
        | Command::Load(_)
        | Command::Prune(_)
        | Command::Why(_)
        | Command::BuildHistory(_)
        | Command::Df(_) => true,
        Command::Serve(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Doctor(_)
        | Command::Completion { .. }
        | Command::Version(_) => false,
    }
}

fn isolation_of_environment() -> Result<Isolation> {
    let Some(value) = std::env::var_os("LONGSHORE_ISOLATION") else {
        return Ok(Isolation::Auto);
    };
    let parsed = value.to_string_lossy().parse();
    parsed.map_err(|error| Usage(format!("LONGSHORE_ISOLATION: {error}")).into())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
