//! An ssh agent, forwarded: a socket of the step's own in front of the agent's.
//!
//! It has the owner and mode that the mount asks for, whosever the agent's is, and is gone with the
//! step, so that nothing which a step leaves behind reaches the agent.

use std::fs::{self, File, Permissions};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use longshore_graph::SshMount;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// How many connections of a step there are at a time; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// After a connection that could not be taken: what was missing does not come at once.
const PAUSE: Duration = Duration::from_millis(50);
const SOCKET: &str = "agent";

/// A socket in front of an agent's. Dropping it closes all connections.
#[derive(Debug)]
pub(crate) struct ForwardedAgent {
    directory: PathBuf,
    forwarding: JoinHandle<()>,
}

impl ForwardedAgent {
    /// Makes the socket in a new directory of `folder`, and forwards what connects to it. Must be
    /// called on the runtime.
    pub(crate) fn start(folder: &Path, agent: &Path, mount: &SshMount) -> io::Result<Self> {
        let directory = folder.join(format!("ssh-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&directory)?;
        let made = listen(&directory, mount);
        if made.is_err() {
            // The error of making it is the one that counts.
            let _left = fs::remove_dir_all(&directory);
        }
        Ok(Self {
            forwarding: tokio::spawn(forward(made?, agent.to_owned())),
            directory,
        })
    }

    /// Where it is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }
}

impl Drop for ForwardedAgent {
    fn drop(&mut self) {
        self.forwarding.abort();
        // What stays is removed with the process's other temporary files.
        let _left = fs::remove_dir_all(&self.directory);
    }
}

fn listen(directory: &Path, mount: &SshMount) -> io::Result<UnixListener> {
    // Nobody else gets at the socket before its owner and mode are right.
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    // The address of a socket has room for 107 bytes, which a path below a state root can exceed.
    let opened = File::open(directory)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))?;
    let socket = directory.join(SOCKET);
    let (uid, gid) = mount.owner;
    chown(&socket, Some(uid), Some(gid))?;
    fs::set_permissions(&socket, Permissions::from_mode(mount.mode))?;
    Ok(listener)
}

/// Where connections come from.
trait Incoming {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>>;
}

impl Incoming for UnixListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        let accepted = Self::poll_accept(self, cx);
        accepted.map(|it| it.map(|(stream, _)| stream))
    }
}

/// Until it is aborted. A connection that cannot be taken (no descriptor is free, or whoever made
/// it is gone already) is not the end of all others.
async fn forward(incoming: impl Incoming, agent: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match poll_fn(|cx| incoming.poll_accept(cx)).await {
            Ok(stream) => drop(connections.spawn(connect(stream, agent.clone()))),
            Err(error) => {
                tracing::warn!(%error, "a connection to an ssh agent was not taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// An agent that is gone is to the step one that closes the connection.
async fn connect(mut stream: UnixStream, agent: PathBuf) {
    let result = async {
        let mut agent = UnixStream::connect(&agent).await?;
        tokio::io::copy_bidirectional(&mut stream, &mut agent).await
    };
    if let Err(error) = result.await {
        tracing::debug!(%error, agent = %agent.display(), "a connection to an ssh agent broke off");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Fails, then has one connection, then none.
    struct Scripted(Mutex<VecDeque<io::Result<UnixStream>>>);

    impl Incoming for Scripted {
        fn poll_accept(&self, _: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
            let next = self.0.lock().unwrap().pop_front();
            next.map_or(Poll::Pending, Poll::Ready)
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_not_taken_does_not_end_the_forwarding() {
        let temp = tempfile::tempdir().unwrap();
        let agent = temp.path().join("agent");
        let listener = UnixListener::bind(&agent).unwrap();
        let (mut client, served) = UnixStream::pair().unwrap();
        let none_free = || Err(io::Error::from_raw_os_error(24));
        let script = Scripted(Mutex::new([none_free(), none_free(), Ok(served)].into()));
        let forwarding = tokio::spawn(forward(script, agent));
        client.write_all(b"hello").await.unwrap();
        let (mut reached, _) = listener.accept().await.unwrap();
        let mut word = [0; 5];
        reached.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"hello");
        forwarding.abort();
    }
}
