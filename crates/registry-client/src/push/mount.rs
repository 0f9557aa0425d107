//! Taking over a blob from another repository of the same registry, without sending it.

use http::{Method, StatusCode};
use longshore_oci::Digest;

use super::session::{Session, SessionStart};
use crate::auth::Action;
use crate::client::Access;
use crate::pull::blob_name;
use crate::transport::Request;
use crate::{Client, Repository, Result};

impl Client {
    /// Makes a blob of `from` appear in `repository`. `false` when the registry did
    /// not: the two are on different registries, or it cannot, or `from` lacks the blob.
    ///
    /// # Errors
    /// As [`Error`](crate::Error) lists.
    pub async fn mount_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<bool> {
        let Some((access, source)) = self.mount_access(repository, from)? else {
            return Ok(false);
        };
        match self
            .begin_mount(&access, repository, digest, &source)
            .await?
        {
            SessionStart::Mounted => Ok(true),
            SessionStart::Session(session) => {
                session.cancel().await;
                Ok(false)
            }
        }
    }

    /// Access for pushing here and pulling there, and the path there; `None` where the
    /// repositories are not on one registry, or are the same.
    pub(super) fn mount_access(
        &self,
        repository: &Repository,
        from: &Repository,
    ) -> Result<Option<(Access, String)>> {
        let target = self.inner.registries.push_remote(repository)?;
        let source = self.inner.registries.push_remote(from)?;
        if target.host != source.host || target.path == source.path {
            return Ok(None);
        }
        let mut access = self.remote_access(&target, Action::Push);
        access.scopes = access.scopes.and_repository(&source.path, Action::Pull);
        Ok(Some((access, source.path)))
    }

    pub(super) async fn begin_mount(
        &self,
        access: &Access,
        repository: &Repository,
        digest: &Digest,
        source: &str,
    ) -> Result<SessionStart> {
        let mut url = access.url(&self.inner, "blobs/uploads/").await?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", source);
        let request = Request::new(Method::POST, url, blob_name(repository, digest));
        let answer = self.inner.send(access, &request).await?;
        let expected = [StatusCode::CREATED, StatusCode::ACCEPTED];
        let answer = answer.expect(&expected, &request.what).await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(SessionStart::Mounted);
        }
        Session::opened(self, access, &answer, request.what).await
    }
}
