//! Runs `git` on what strangers wrote.
//!
//! It sees none of the user's or the machine's settings, asks nobody anything, runs no
//! hook, and speaks only the protocols of the repository's own URL. Settings travel in its
//! environment, so that they reach the processes it starts, and secrets are not among its
//! arguments. When the future that runs it is dropped, all of its processes are killed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use longshore_graph::{GitSource, redacted_url};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use url::Url;

use super::shown::printable;
use super::{RemoteError, Remotes};
use crate::EngineError;

/// The most that is read of what `git` answers: the references of a large repository.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The most that is shown of what `git` says when it fails: the end of it.
const SAID_BYTES_MAX: usize = 8 << 10;
/// The largest file that `git` may write: a pack, or a file that it checks out.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// The protocols that submodules may be fetched with.
pub(super) const EVERY_PROTOCOL: &str = "http:https:git:ssh";

/// What the user's and the machine's settings could otherwise say.
const SETTINGS: &[(&str, &str)] = &[
    ("advice.detachedHead", "false"),
    ("checkout.workers", "0"),
    ("core.askPass", ""),
    ("core.attributesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.excludesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.logAllRefUpdates", "false"),
    ("core.symlinks", "true"),
    ("credential.helper", ""),
    ("fetch.recurseSubmodules", "false"),
    // Always whole packs: a fetch that is killed leaves all or nothing of a commit.
    ("fetch.unpackLimit", "1"),
    ("gc.auto", "0"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("init.defaultBranch", "main"),
    ("init.templateDir", ""),
    ("log.showSignature", "false"),
    ("maintenance.auto", "false"),
    ("protocol.ext.allow", "never"),
    ("safe.directory", "*"),
    ("submodule.recurse", "false"),
    ("transfer.bundleURI", "false"),
];

/// What is passed on of this process's environment: where programs are, and proxies.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// `git` for one repository.
#[derive(Debug)]
pub(super) struct Git {
    remote: String,
    settings: Vec<(String, String)>,
    ssh_command: String,
    ssh_agent: Option<PathBuf>,
    /// An empty home.
    home: tempfile::TempDir,
}

/// One call of `git`.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// What it is for, for messages.
    doing: &'static str,
    args: Vec<OsString>,
    pub(super) git_dir: Option<&'a Path>,
    pub(super) work_tree: Option<&'a Path>,
    /// The index, where it is not the repository's own.
    pub(super) index: Option<&'a Path>,
    /// The objects, where they are not the repository's own.
    pub(super) objects: Option<&'a Path>,
    pub(super) protocols: &'a str,
}

impl<'a> Call<'a> {
    /// A call that speaks no protocol.
    pub(super) fn new(doing: &'static str) -> Self {
        Self {
            doing,
            args: Vec::new(),
            git_dir: None,
            work_tree: None,
            index: None,
            objects: None,
            protocols: "",
        }
    }

    /// A call within a repository.
    pub(super) fn within(doing: &'static str, git_dir: &'a Path) -> Self {
        Self {
            git_dir: Some(git_dir),
            ..Self::new(doing)
        }
    }

    /// Adds arguments.
    pub(super) fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
    }
}

impl Remotes {
    /// `git` for a source's repository, with the secrets that it may use.
    pub(super) async fn git(&self, source: &GitSource) -> Result<Git, EngineError> {
        check_remote(&source.remote)?;
        let tmp = self.engine.root().tmp_dir();
        let home = tempfile::Builder::new().prefix("git-").tempdir_in(tmp);
        let known_hosts = self.engine.cache_directory("git").join("known_hosts");
        let mut settings = settings();
        settings.extend(self.authorization_setting(&source.remote).await?);
        Ok(Git {
            remote: source.remote.clone(),
            settings,
            ssh_command: ssh_command(&known_hosts),
            ssh_agent: self.ssh_agents.get("default").cloned(),
            home: home.map_err(EngineError::io("make a directory below", tmp))?,
        })
    }

    /// The setting that sends the build's secret to the repository, and to nobody else.
    async fn authorization_setting(
        &self,
        remote: &str,
    ) -> Result<Option<(String, String)>, EngineError> {
        let Ok(mut url) = remote.parse::<Url>() else {
            return Ok(None);
        };
        let (true, Some(host)) = (url.scheme().starts_with("http"), url.host_str()) else {
            return Ok(None);
        };
        let host = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let ids = [
            format!("GIT_AUTH_HEADER.{host}"),
            format!("GIT_AUTH_TOKEN.{host}"),
            "GIT_AUTH_HEADER".to_owned(),
            "GIT_AUTH_TOKEN".to_owned(),
        ];
        let Some((at, value)) = self.secret(&ids).await? else {
            return Ok(None);
        };
        if value.contains(['\n', '\r', '\0']) {
            return Err(EngineError::Invalid(format!(
                "secret {}: more than one line",
                ids[at]
            )));
        }
        let value = match at % 2 {
            0 => value,
            _ => format!("basic {}", BASE64.encode(format!("x-access-token:{value}"))),
        };
        // Neither fails for a URL with a host.
        let _ = (url.set_username(""), url.set_password(None));
        let scope = token_scope(url.as_str());
        Ok(Some((
            format!("http.{scope}.extraHeader"),
            format!("Authorization: {value}"),
        )))
    }
}

impl Git {
    /// `git` for a repository of this machine. What `excludes` lists is not looked at.
    pub(super) fn of_this_machine(tmp: &Path, excludes: &Path) -> Result<Self, EngineError> {
        let home = tempfile::Builder::new().prefix("git-").tempdir_in(tmp);
        let mut settings = settings();
        settings.push((
            "core.excludesFile".to_owned(),
            excludes.to_string_lossy().into_owned(),
        ));
        Ok(Self {
            remote: String::new(),
            settings,
            ssh_command: "false".to_owned(),
            ssh_agent: None,
            home: home.map_err(EngineError::io("make a directory below", tmp))?,
        })
    }

    /// The protocols that the repository's own URL allows: never from HTTPS to anything less.
    pub(super) fn protocols(&self) -> &'static str {
        match self.remote.split_once("://").map(|(scheme, _)| scheme) {
            Some("https") => "https",
            Some("http") => "http:https",
            Some("git") => "git",
            _ => "ssh",
        }
    }

    /// An empty directory that lives as long as this.
    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    /// What a call answers, as text.
    pub(super) async fn text(&self, call: Call<'_>) -> Result<String, RemoteError> {
        let mut answer = Vec::new();
        let too_much = RemoteError::TooMuch {
            doing: call.doing,
            remote: redacted_url(&self.remote),
            limit: ANSWER_BYTES_MAX,
        };
        let mut too_much = Some(too_much);
        self.each(call, |piece| {
            if answer.len() + piece.len() > ANSWER_BYTES_MAX {
                return too_much.take().map_or(Ok(()), Err);
            }
            answer.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Makes a call whose answer does not count.
    pub(super) async fn run(&self, call: Call<'_>) -> Result<(), RemoteError> {
        self.each(call, |_| Ok(())).await
    }

    /// Whether a call succeeds.
    pub(super) async fn succeeds(&self, call: Call<'_>) -> Result<bool, RemoteError> {
        match self.run(call).await {
            Ok(()) => Ok(true),
            Err(RemoteError::Git { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a call and gives what it answers to `take`, piece by piece.
    pub(super) async fn each(
        &self,
        call: Call<'_>,
        take: impl FnMut(&[u8]) -> Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        let mut child = self.command(&call).spawn().map_err(RemoteError::NoGit)?;
        let mut group = Group::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (taken, said) = tokio::join!(give(stdout, take), last(stderr));
        taken?;
        let status = child.wait().await.map_err(RemoteError::NoGit)?;
        // Nothing is left of it, and its number may be another's soon.
        group.0 = None;
        if status.success() {
            return Ok(());
        }
        Err(RemoteError::Git {
            doing: call.doing,
            remote: redacted_url(&self.remote),
            said: self.fit_to_show(&said),
        })
    }

    fn command(&self, call: &Call<'_>) -> Command {
        let mut command = Command::new("git");
        command
            .args(&call.args)
            .env_clear()
            .envs(
                PASSED_ON
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", call.protocols)
            .env("GIT_SSH_COMMAND", &self.ssh_command)
            .env("GIT_SSH_VARIANT", "ssh")
            .env("GIT_CONFIG_COUNT", self.settings.len().to_string())
            .current_dir(call.work_tree.unwrap_or_else(|| self.home.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for (at, (name, value)) in self.settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        let places = [
            ("GIT_DIR", call.git_dir),
            ("GIT_WORK_TREE", call.work_tree),
            ("GIT_INDEX_FILE", call.index),
            ("GIT_OBJECT_DIRECTORY", call.objects),
        ];
        for (name, path) in places {
            command.envs(path.map(|path| (name, path)));
        }
        command.envs(
            self.ssh_agent
                .as_ref()
                .map(|socket| ("SSH_AUTH_SOCK", socket)),
        );
        command
    }

    /// What `git` said, without the URL's password.
    fn fit_to_show(&self, said: &[u8]) -> String {
        let said = String::from_utf8_lossy(said).replace(&self.remote, &redacted_url(&self.remote));
        printable(&said)
    }
}

fn settings() -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    SETTINGS.iter().map(owned).collect()
}

/// Gives a stream's pieces away until it ends.
async fn give(
    stream: Option<impl AsyncRead + Unpin>,
    mut take: impl FnMut(&[u8]) -> Result<(), RemoteError>,
) -> Result<(), RemoteError> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await.map_err(RemoteError::NoGit)? {
            0 => return Ok(()),
            count => take(&buffer[..count])?,
        }
    }
}

/// The end of a stream.
async fn last(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut buffer = vec![0; SAID_BYTES_MAX];
    // What cannot be read is not shown.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..surplus);
    }
    kept
}

/// The processes of a call; killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let limit = Rlimit {
            current: Some(FILE_BYTES_MAX),
            maximum: Some(FILE_BYTES_MAX),
        };
        if let Err(error) = prlimit(id, Resource::Fsize, limit)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, "git runs without a limit on the size of its files");
        }
        Self(id)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Host keys are remembered when a host is first seen; nothing of the user's is read, and no
/// key but an agent's is shown.
fn ssh_command(known_hosts: &Path) -> String {
    let path = known_hosts.to_string_lossy();
    let is_plain = !path.contains(['\'', '"', '\\', '%', '$', '\n']);
    let path = if is_plain { &path } else { "/dev/null" };
    format!(
        "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30 \
         -o IdentityFile=none -o StrictHostKeyChecking=accept-new -o 'UserKnownHostsFile=\"{path}\"'"
    )
}

/// That a repository is fetched with a protocol that is known, and that nothing in its name
/// can be taken for an option.
fn check_remote(remote: &str) -> Result<(), RemoteError> {
    let refuse = || RemoteError::Transport(redacted_url(remote));
    if remote.chars().any(char::is_control) {
        return Err(refuse());
    }
    let is_option = |text: &str| text.starts_with('-');
    let Some((scheme, rest)) = remote.split_once("://") else {
        // `user@host:path`
        let (login, path) = remote.split_once(':').ok_or_else(refuse)?;
        let (user, host) = login.split_once('@').ok_or_else(refuse)?;
        let bad =
            host.is_empty() || path.is_empty() || [user, host, path].into_iter().any(is_option);
        return if bad || login.contains('/') || path.starts_with(':') {
            Err(refuse())
        } else {
            Ok(())
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_known = matches!(scheme, "http" | "https" | "git" | "ssh");
    if !is_known || host.is_empty() || is_option(host) || is_option(authority) {
        return Err(refuse());
    }
    Ok(())
}

/// Which URLs a secret is for: the repository's, and of GitHub's all, as submodules there are
/// mostly of the same owner.
fn token_scope(remote: &str) -> &str {
    let github = ["https://github.com/", "https://www.github.com/"];
    github
        .into_iter()
        .find(|prefix| remote.starts_with(prefix))
        .unwrap_or(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_protocols_and_no_options() {
        for good in [
            "https://h/a.git",
            "http://u:p@h:1/a.git",
            "git://h/a",
            "ssh://git@h/a",
            "git@h:a/b.git",
        ] {
            assert!(check_remote(good).is_ok(), "{good}");
        }
        for bad in [
            "ext::sh -c touch% /tmp/x",
            "file:///etc",
            "/etc/repository",
            "ssh://-oProxyCommand=x/a",
            "ssh://-oProxyCommand=x@h/a",
            "git@-oProxyCommand=x:a",
            "-u@h:a",
            "git@h:-a",
            "git@h::a",
            "ftp://h/a.git",
            "https:///a.git",
            "https://h/a\n.git",
        ] {
            let error = check_remote(bad);
            assert!(matches!(error, Err(RemoteError::Transport(_))), "{bad}");
        }
    }

    #[test]
    fn tokens_are_for_their_repository() {
        assert_eq!(token_scope("https://h/a.git"), "https://h/a.git");
        assert_eq!(
            token_scope("https://github.com/a/b.git"),
            "https://github.com/"
        );
        assert_eq!(
            token_scope("https://github.com.evil/a.git"),
            "https://github.com.evil/a.git"
        );
    }

    #[test]
    fn odd_paths_are_not_part_of_a_command() {
        assert!(ssh_command(Path::new("/a b/k")).contains("'UserKnownHostsFile=\"/a b/k\"'"));
        assert!(ssh_command(Path::new("/a'; x '")).contains("/dev/null\"'"));
    }
}
