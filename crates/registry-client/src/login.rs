//! Asking a registry whether it is there, and whether it knows us.

use http::{Method, StatusCode};

use crate::auth::Scopes;
use crate::client::Access;
use crate::credentials::Credentials;
use crate::transport::Request;
use crate::{Client, Error, Result};

/// What a registry makes of some credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginCheck {
    /// It wanted credentials and took these.
    Accepted,
    /// It answers anyone, so it did not look at them.
    NotRequired,
}

impl Client {
    /// Asks whether a registry answers, with the stored credentials where it wants any.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when nobody answers, [`Error::Unauthorized`] or
    /// [`Error::TokenRefused`] when it does not take the credentials.
    pub async fn ping(&self, registry: &str) -> Result<()> {
        let access = self.registry_access(registry, Scopes::none());
        self.ping_as(&access).await
    }

    /// Asks whether a registry takes these credentials, whatever is stored.
    ///
    /// # Errors
    /// As for [`Client::ping`].
    pub async fn check_login(
        &self,
        registry: &str,
        credentials: Credentials,
    ) -> Result<LoginCheck> {
        let mut access = self.registry_access(registry, Scopes::none());
        access.login = Some(credentials);
        self.ping_as(&access).await?;
        // Only a challenge makes the client show credentials at all.
        Ok(match access.host.challenge() {
            Some(_) => LoginCheck::Accepted,
            None => LoginCheck::NotRequired,
        })
    }

    async fn ping_as(&self, access: &Access) -> Result<()> {
        let url = self.registry_url(access, "").await?;
        let request = Request::new(Method::GET, url, "the registry API");
        let answer = self.inner.send(access, &request).await?;
        match answer.status() {
            StatusCode::OK => {
                answer.discard().await;
                Ok(())
            }
            _ => Err(Error::refused(answer.into_refusal(&request.what).await)),
        }
    }
}
