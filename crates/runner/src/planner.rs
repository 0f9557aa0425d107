//! From what the caller asks for to what the stage is told: checks, defaults, and descriptors for
//! everything outside.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat};

use crate::error::RunError;
use crate::etc;
use crate::io::{Input, Output, ProcessIo};
use crate::plan::{FdIndex, Plan, PlannedMount, PlannedSource, Stdio, Tree, Way};
use crate::spec::{
    BindSource, HOSTNAME_DEFAULT, Mount, MountSource, PATH_DEFAULT, ProcessSpec, Rootfs,
};

/// `HOST_NAME_MAX`
const HOSTNAME_BYTES_MAX: usize = 64;
/// The kernel's limit for one argument or variable (`MAX_ARG_STRLEN`).
const ARGUMENT_BYTES_MAX: usize = 128 << 10;

/// The descriptors that travel with a plan. The first place is the plan's own.
pub(crate) struct Fds(Vec<Option<OwnedFd>>);

impl Fds {
    pub(crate) fn new() -> Self {
        Self(vec![None])
    }

    pub(crate) fn add(&mut self, fd: OwnedFd) -> FdIndex {
        self.0.push(Some(fd));
        self.0.len() - 1
    }

    /// All of them, with the plan in its place.
    pub(crate) fn with_plan(mut self, plan: &Plan) -> io::Result<Vec<OwnedFd>> {
        self.0[0] = Some(file_in_memory(&serde_json::to_vec(plan)?)?);
        Ok(self.0.into_iter().flatten().collect())
    }
}

/// What the caller keeps of an [`ProcessIo`]: the read ends.
pub(crate) struct Pipes {
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Makes the plan. Mounts, root file system and streams are moved out of the arguments.
pub(crate) fn plan(
    spec: ProcessSpec,
    io: &mut ProcessIo,
    fds: &mut Fds,
) -> Result<(Plan, Pipes), RunError> {
    check(&spec)?;
    let hostname = match spec.hostname.as_str() {
        "" => HOSTNAME_DEFAULT.to_owned(),
        _ => spec.hostname,
    };
    let rootfs = match spec.rootfs {
        Rootfs::Path(path) => {
            let what = "open the root file system";
            Tree::Clone(fds.add(open_source(&path, OFlags::DIRECTORY).setting_up(what, &path)?))
        }
        Rootfs::Mount(mount) => Tree::Move(fds.add(mount)),
    };
    let (stdio, pipes) = plan_streams(io, spec.terminal, fds)?;
    let window = io.window.map_or((24, 80), |it| (it.rows, it.columns));
    let plan = Plan {
        hosts: etc::hosts(&hostname, &spec.extra_hosts, spec.network)?,
        resolv_conf: etc::resolv_conf(&spec.resolver, spec.network),
        args: spec.args,
        env: environment(spec.env),
        cwd: spec.cwd,
        user: spec.user,
        hostname,
        rootfs,
        mounts: plan_mounts(spec.mounts, fds)?,
        network: spec.network,
        network_namespace: None,
        security: spec.security,
        capabilities: spec.capabilities,
        readonly_rootfs: spec.readonly_rootfs,
        terminal: spec.terminal.then_some(window),
        rlimits: spec.rlimits,
        shm_bytes: spec.shm_bytes,
        limits: spec.limits,
        init: spec.init,
        umask: spec.umask & 0o777,
        stdio,
        way: Way::default(),
        shares_processes: false,
        oci_runtime: None,
        seccomp: None,
        device_filter: None,
    };
    Ok((plan, pipes))
}

fn check(spec: &ProcessSpec) -> Result<(), RunError> {
    let wrong = |field: &str, reason: String| RunError::Spec {
        field: field.to_owned(),
        reason,
    };
    if spec.args.first().is_none_or(String::is_empty) {
        return Err(wrong("args", "there is no command".to_owned()));
    }
    for (field, strings) in [("args", &spec.args), ("env", &spec.env)] {
        if let Some(bad) = strings.iter().find(|it| it.contains('\0')) {
            // The value of a variable may be a secret.
            let shown = match field {
                "env" => bad.split('=').next().unwrap_or_default(),
                _ => bad,
            };
            return Err(wrong(
                field,
                format!("a NUL byte in `{}`", shown.escape_debug()),
            ));
        }
        if strings.iter().any(|it| it.len() >= ARGUMENT_BYTES_MAX) {
            return Err(wrong(
                field,
                format!("one is longer than {ARGUMENT_BYTES_MAX} bytes"),
            ));
        }
    }
    if !spec.cwd.starts_with('/') || spec.cwd.contains('\0') {
        return Err(wrong(
            "cwd",
            format!("`{}` is not an absolute path", spec.cwd.escape_debug()),
        ));
    }
    if spec.hostname.len() > HOSTNAME_BYTES_MAX || spec.hostname.contains(['\0', '\n']) {
        return Err(wrong(
            "hostname",
            format!("`{}` is not a host name", spec.hostname.escape_debug()),
        ));
    }
    let of_hosts = spec.extra_hosts.iter().map(|it| &it.name);
    if let Some(bad) = of_hosts
        .into_iter()
        .find(|it| it.is_empty() || it.contains(char::is_whitespace))
    {
        return Err(wrong(
            "extra_hosts",
            format!("`{}` is not a host name", bad.escape_debug()),
        ));
    }
    Ok(())
}

/// Of equal names the last one stays, where it is; `PATH` is added if there is none.
fn environment(env: Vec<String>) -> Vec<String> {
    let name = |it: &String| it.split('=').next().unwrap_or_default().to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> = env
        .into_iter()
        .rev()
        .filter(|it| seen.insert(name(it)))
        .collect();
    kept.reverse();
    if !seen.contains("PATH") {
        kept.push(format!("PATH={PATH_DEFAULT}"));
    }
    kept
}

fn plan_mounts(mounts: Vec<Mount>, fds: &mut Fds) -> Result<Vec<PlannedMount>, RunError> {
    mounts
        .into_iter()
        .map(|mount| plan_mount(mount, fds))
        .collect()
}

fn plan_mount(mount: Mount, fds: &mut Fds) -> Result<PlannedMount, RunError> {
    let target = clean_target(&mount.target)?;
    let source = match mount.source {
        MountSource::Bind {
            source,
            subpath,
            readonly,
            recursive,
        } => {
            let subpath = subpath.map(|it| utf8(it.into_os_string())).transpose()?;
            let lent = matches!(source, BindSource::Loan(_));
            let tree = match source {
                BindSource::Path(path) | BindSource::Loan(path) => {
                    let what = "open the source of a mount";
                    let fd = open_source(&path, OFlags::empty()).setting_up(what, &path)?;
                    Tree::Clone(fds.add(fd))
                }
                BindSource::Fd(fd) => Tree::Clone(fds.add(fd)),
                BindSource::Mount(fd) => Tree::Move(fds.add(fd)),
            };
            PlannedSource::Bind {
                tree,
                subpath,
                readonly,
                recursive,
                lent,
            }
        }
        MountSource::Tmpfs {
            size_bytes,
            mode,
            readonly,
            refused,
        } => PlannedSource::Tmpfs {
            size_bytes,
            mode,
            readonly,
            refused,
        },
        MountSource::Own { readonly } => PlannedSource::Own { readonly },
        MountSource::File {
            contents,
            mode,
            uid,
            gid,
        } => {
            let file = file_in_memory(&contents.0).setting_up("keep a file in memory", &target)?;
            PlannedSource::File {
                contents: fds.add(file),
                mode,
                uid,
                gid,
            }
        }
    };
    Ok(PlannedMount { target, source })
}

/// Absolute, without `.`, `..` and double slashes. Links are the sandbox's to follow.
fn clean_target(target: &str) -> Result<String, RunError> {
    let wrong = |reason: String| RunError::Spec {
        field: "mounts".to_owned(),
        reason,
    };
    if !target.starts_with('/') || target.contains('\0') {
        return Err(wrong(format!(
            "the target `{}` is not an absolute path",
            target.escape_debug()
        )));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    match parts.as_slice() {
        [] => Err(wrong("the target is the root directory".to_owned())),
        ["proc", ..] => Err(wrong(format!("the target `{target}` is in /proc"))),
        _ => Ok(format!("/{}", parts.join("/"))),
    }
}

fn utf8(path: std::ffi::OsString) -> Result<String, RunError> {
    path.into_string().map_err(|path| RunError::Spec {
        field: "mounts".to_owned(),
        reason: format!("the path `{}` is not UTF-8", path.display()),
    })
}

fn plan_streams(
    io: &mut ProcessIo,
    terminal: bool,
    fds: &mut Fds,
) -> Result<([Option<Stdio>; 3], Pipes), RunError> {
    let mut pipes = Pipes {
        stdout: None,
        stderr: None,
    };
    if terminal {
        return Ok(([None; 3], pipes));
    }
    let what = "set up the standard streams";
    let path = std::path::Path::new("");
    let mut theirs = |fd, ours| {
        Some(Stdio {
            fd: fds.add(fd),
            ours,
        })
    };
    let stdin = match std::mem::replace(&mut io.stdin, Input::Null) {
        Input::Null => None,
        Input::Inherit => theirs(
            io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .setting_up(what, path)?,
            false,
        ),
        Input::Fd(fd) => theirs(fd, false),
    };
    let mut output = |output: &mut Output, own: io::Result<OwnedFd>, kept: &mut Option<OwnedFd>| {
        Ok::<_, RunError>(match std::mem::replace(output, Output::Sink) {
            Output::Sink => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .setting_up(what, path)?;
                *kept = Some(read);
                theirs(write, true)
            }
            Output::Inherit => theirs(own.setting_up(what, path)?, false),
            Output::Fd(fd) => theirs(fd, false),
        })
    };
    let own = io::stdout().as_fd().try_clone_to_owned();
    let stdout = output(&mut io.stdout, own, &mut pipes.stdout)?;
    let own = io::stderr().as_fd().try_clone_to_owned();
    let stderr = output(&mut io.stderr, own, &mut pipes.stderr)?;
    Ok(([stdin, stdout, stderr], pipes))
}

fn open_source(path: &std::path::Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC | flags,
        Mode::empty(),
    )?)
}

/// A file that is on no disk and has no name.
pub(crate) fn file_in_memory(contents: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("longshore", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(contents)?;
    Ok(file.into())
}

/// Says what was being done when a system call failed.
pub(crate) trait SettingUp<T> {
    fn setting_up(self, action: &str, path: impl AsRef<std::path::Path>) -> Result<T, RunError>;
}

impl<T, E: Into<io::Error>> SettingUp<T> for Result<T, E> {
    fn setting_up(self, action: &str, path: impl AsRef<std::path::Path>) -> Result<T, RunError> {
        self.map_err(|error| RunError::Setup {
            action: action.to_owned(),
            path: Some(path.as_ref().to_owned()).filter(|it| !it.as_os_str().is_empty()),
            hint: None,
            source: error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_variables_stays_and_path_is_added() {
        let env = |list: &[&str]| environment(list.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(env(&["A=1", "B=2", "A=3"])[..2], ["B=2", "A=3"]);
        assert_eq!(env(&[]), [format!("PATH={PATH_DEFAULT}")]);
        assert_eq!(env(&["PATH="]), ["PATH="], "an empty one is one");
    }

    #[test]
    fn targets() {
        let ok = |target: &str| clean_target(target).unwrap();
        assert_eq!(
            (ok("/a//b/./c/../d/"), ok("/../a")),
            ("/a/b/d".to_owned(), "/a".to_owned())
        );
        for bad in [
            "",
            "a",
            "/",
            "/a/..",
            "/proc",
            "/proc/sys",
            "/a/../proc",
            "/a\0",
        ] {
            assert!(clean_target(bad).is_err(), "{bad:?}");
        }
    }
}
