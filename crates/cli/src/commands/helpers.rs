//! Programs and handlers beside our own that `doctor` tries out: OCI runtimes, what connects networks,
//! and emulators.

use std::path::Path;

use anyhow::Result;
use longshore_runner::{
    Cancel, Check, Connection, Network, NetworkHelper, OciRunner, ProcessIo, ProcessSpec, Rootfs,
    RunError, Runner as _, RunnerOptions, SandboxRunner, find_program,
};

const RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];
/// Nothing of that name is in an empty root file system: who says so has made a container around it.
const ABSENT: &str = "/absent";
const EMULATORS: &str = "/proc/sys/fs/binfmt_misc";

/// Something beside our own program.
pub(crate) struct Helper {
    pub(crate) name: &'static str,
    pub(crate) check: Check,
}

/// Those that are installed, each tried.
pub(crate) fn all(root: &Path) -> Result<(Vec<Helper>, Vec<Helper>)> {
    let runner = || SandboxRunner::new(&RunnerOptions::default());
    let mut runtimes = Vec::new();
    for name in RUNTIMES {
        if let Some(path) = find_program(name) {
            let check = checked(try_runtime(runner()?, &path, root));
            runtimes.push(Helper { name, check });
        }
    }
    let mut networks = Vec::new();
    for helper in NetworkHelper::ALL {
        if find_program(helper.name()).is_some() {
            let network = Network::Isolated(Connection {
                helper: Some(helper),
                host_loopback: false,
            });
            let check = checked(runner()?.try_network(network));
            let name = helper.name();
            networks.push(Helper { name, check });
        }
    }
    Ok((runtimes, networks))
}

fn checked(tried: Result<(), RunError>) -> Check {
    match tried {
        Ok(()) => Check::Works,
        Err(error) => {
            let source = std::error::Error::source(&error);
            let source = source.map(|it| format!(": {it}")).unwrap_or_default();
            Check::Fails(format!("{error}{source}"))
        }
    }
}

/// Has it make a container and execute a program that is not in it.
fn try_runtime(runner: SandboxRunner, runtime: &Path, root: &Path) -> Result<(), RunError> {
    let failed = |source| RunError::Setup {
        action: "make a directory to try it in".to_owned(),
        path: Some(root.to_owned()),
        hint: None,
        source,
    };
    let scratch = tempfile::Builder::new()
        .prefix("doctor-")
        .tempdir_in(root)
        .map_err(failed)?;
    let spec = ProcessSpec::new(Rootfs::Path(scratch.path().to_owned()), [ABSENT]);
    let cancel = Cancel::new().map_err(failed)?;
    let io = ProcessIo::to_sink(|_, _| ());
    match OciRunner::new(runner, runtime)?.run(spec, io, &cancel) {
        Err(RunError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(status) => Err(RunError::Lost {
            detail: Some(format!("it ran what is not there: {status:?}")),
        }),
    }
}

/// The handlers of foreign programs that are switched on, and whether they work in other root file
/// systems too, which the flag `F` says.
pub(crate) fn emulators() -> Vec<(String, bool)> {
    let entries = std::fs::read_dir(EMULATORS).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path()).ok()?;
            let name = entry.file_name().into_string().ok()?;
            Some((name, works_anywhere(&text)?))
        })
        .collect();
    found.sort();
    found
}

/// `None` where it is no handler, or one that is switched off.
fn works_anywhere(text: &str) -> Option<bool> {
    let mut lines = text.lines();
    if lines.next() != Some("enabled") {
        return None;
    }
    let flags = lines.find_map(|line| line.strip_prefix("flags:"))?;
    Some(flags.contains('F'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_read_as_the_kernel_shows_them() {
        let shown = |first: &str, flags: &str| {
            format!("{first}\ninterpreter /usr/bin/qemu-aarch64-static\nflags: {flags}\noffset 0\n")
        };
        assert_eq!(works_anywhere(&shown("enabled", "OCF")), Some(true));
        assert_eq!(works_anywhere(&shown("enabled", "")), Some(false));
        assert_eq!(works_anywhere(&shown("disabled", "F")), None);
        // `status` and `register` are no handlers.
        assert_eq!(works_anywhere("enabled\n"), None);
    }
}
