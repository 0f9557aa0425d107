//! As whom the program acts.
//!
//! A user who is not root becomes root of a user namespace, first thing, for every command that
//! reads or writes the state root: what is unpacked there belongs to ids that exist only in
//! that namespace. So does root of a container that may not mount. Where there is no such
//! namespace, all that needs no process still works, and root may have `chroot` left.

use anyhow::Result;
use longshore_runner::{Isolation, Mapping, become_root_in_user_namespace, may_mount};

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
    RootOfNamespace {
        /// The namespace's ids.
        mapping: Mapping,
        /// It was root before, of a container.
        was_root: bool,
    },
    /// As whoever it was, who could not make a namespace.
    WithoutNamespace {
        /// Why not.
        reason: String,
        /// It is root, of a container.
        is_root: bool,
    },
}

impl Identity {
    /// Why there is no user namespace, where there should be one.
    pub(crate) fn no_user_namespace(&self) -> Option<String> {
        match self {
            Self::WithoutNamespace { reason, .. } => Some(reason.clone()),
            Self::AsStarted | Self::RootOfNamespace { .. } => None,
        }
    }

    /// Why the namespace has no other ids than the user's own.
    pub(crate) fn only_own_id(&self) -> Option<&str> {
        match self {
            Self::RootOfNamespace {
                mapping: Mapping::OwnIdOnly { reason },
                ..
            } => Some(reason),
            _ => None,
        }
    }

    /// Files that are written outside the state root belong to the user.
    pub(crate) fn is_ordinary_user(&self) -> bool {
        match self {
            Self::AsStarted => false,
            Self::RootOfNamespace { was_root, .. } => !was_root,
            Self::WithoutNamespace { is_root, .. } => !is_root,
        }
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
    let is_root = config::is_root();
    if is_root && may_mount() {
        return Ok(());
    }
    // Where the state is depends on who asks: it is asked before that changes.
    cli.global.root = Some(config::state_root(&cli.global)?);
    let wants_namespace = matches!(isolation, Isolation::Auto | Isolation::Userns);
    if !wants_namespace {
        return Ok(());
    }
    cli.global.identity = match become_root_in_user_namespace() {
        Ok(mapping) => Identity::RootOfNamespace {
            mapping,
            was_root: is_root,
        },
        Err(error) => Identity::WithoutNamespace {
            reason: chain(&error),
            is_root,
        },
    };
    Ok(())
}

/// Whether a command may meet files of other ids in the state root.
fn uses_layers(command: &Command) -> bool {
    match command {
        Command::Build(_)
        | Command::Lock(_)
        | Command::Verify(_)
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
