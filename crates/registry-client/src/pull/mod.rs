//! Pulling: from the mirrors of a repository in turn, then from the registry itself.

mod blob;
mod manifest;
mod stream;

use std::collections::VecDeque;

use crate::auth::Action;
use crate::client::Access;
use crate::config::{PullRemotes, Remote};
use crate::error::MirrorFailure;
use crate::{Client, Error, Repository, Result};

pub(crate) use blob::blob_name;
pub use manifest::{MANIFEST_ACCEPT, Resolved};
pub(crate) use manifest::{manifest_name, stated_digest};
pub use stream::BlobStream;

/// The hosts to ask, and what those that were asked already said.
#[derive(Debug)]
struct Walk {
    mirrors: VecDeque<Remote>,
    upstream: Remote,
    failures: Vec<MirrorFailure>,
}

impl Walk {
    fn new(client: &Client, repository: &Repository, by_digest: bool) -> Result<Self> {
        let PullRemotes { mirrors, upstream } = client
            .inner
            .registries
            .pull_remotes(repository, by_digest)?;
        let hosts = &client.inner.transport.hosts;
        let is_asked = |mirror: &Remote| !hosts.host(&mirror.host, mirror.insecure).is_resting();
        Ok(Self {
            mirrors: mirrors.into_iter().filter(is_asked).collect(),
            upstream,
            failures: Vec::new(),
        })
    }

    /// Access to the host whose turn it is. The registry itself comes last and stays.
    fn access(&self, client: &Client) -> Access {
        let remote = self.mirrors.front().unwrap_or(&self.upstream);
        client.remote_access(remote, Action::Pull)
    }

    /// Goes on to the next host after a mirror failed; fails when there is none.
    fn next_after(&mut self, access: &Access, error: Error) -> Result<()> {
        if self.mirrors.pop_front().is_some() {
            if matches!(error, Error::Unreachable { .. }) {
                access.host.rest();
            }
            if error.is_not_found() {
                tracing::debug!(mirror = access.host.name, %error, "not on the mirror");
            } else {
                tracing::warn!(mirror = access.host.name, %error, "mirror failed");
            }
            self.failures.push(MirrorFailure {
                host: access.host.name.clone(),
                error,
            });
            return Ok(());
        }
        let mirrors = std::mem::take(&mut self.failures);
        if mirrors.is_empty() {
            return Err(error);
        }
        Err(Error::AfterMirrors {
            upstream: Box::new(error),
            mirrors,
        })
    }
}
