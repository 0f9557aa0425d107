//! `longshore lock`: writes the lock file of a Dockerfile, and says what changed in it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use longshore_engine::{LockRefresh, PinnedName, Relocked};

use super::build;
use crate::args::{Global, LockArgs, ProgressMode};
use crate::config;
use crate::exit::Exit;
use crate::progress::{Progress, printable};
use crate::report::{Usage, build_failure, say};
use crate::table::out;

/// The context where none is given.
const HERE: &str = ".";

pub(crate) fn run(global: &Global, mut args: LockArgs) -> Result<Exit> {
    let refresh = refresh(&args)?;
    args.input.context.get_or_insert_with(|| HERE.to_owned());
    let mut stdin = None;
    let mut request = build::input(&args.input, &mut stdin)?;
    // What is to be looked up again is asked where it comes from.
    request.pull = refresh != LockRefresh::Missing;
    let engine = config::engine(global)?;
    let progress = Arc::new(Progress::new(ProgressMode::Auto, false));
    let locked = config::runtime()?.block_on(engine.lock(&request, &refresh, progress));
    match locked {
        Ok(relocked) => {
            show(&relocked);
            Ok(Exit::Done)
        }
        Err(error) => Ok(build_failure(&error, |_| Vec::new())),
    }
}

fn refresh(args: &LockArgs) -> Result<LockRefresh> {
    match &args.update {
        None => Ok(LockRefresh::Missing),
        Some(None) => Ok(LockRefresh::All),
        // `--update .` means the directory to whoever writes it.
        Some(Some(name)) if args.input.context.is_none() && Path::new(name).is_dir() => {
            Err(Usage(format!(
                "--update `{name}` is a directory: put it first, `longshore lock {name} --update`"
            ))
            .into())
        }
        Some(Some(name)) => Ok(LockRefresh::Names(vec![name.clone()])),
    }
}

/// A line for each name that was added, changed or left out.
fn show(relocked: &Relocked) {
    let (before, after) = (relocked.before.names(), relocked.after.names());
    let file = relocked.path.display().to_string();
    let file = printable(file.as_bytes());
    if before == after {
        return say(&format!("{file}: nothing changed"));
    }
    say(&format!("{file}:"));
    let same_name =
        |one: &PinnedName, other: &PinnedName| one.sort == other.sort && one.name == other.name;
    for old in &before {
        if !after.iter().any(|new| same_name(old, new)) {
            line('-', old, &old.value);
        }
    }
    for new in &after {
        match before.iter().find(|old| same_name(old, new)) {
            None => line('+', new, &new.value),
            Some(old) if old.value != new.value => {
                line('~', new, &format!("{} -> {}", old.value, new.value));
            }
            Some(_) => {}
        }
    }
}

fn line(sign: char, pinned: &PinnedName, value: &str) {
    let text = format!("{sign} {} {} {value}", pinned.sort, pinned.name);
    out(&printable(text.as_bytes()));
}
