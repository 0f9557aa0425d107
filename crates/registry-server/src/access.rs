//! Who may do what: a seam for authentication and authorisation.

use std::fmt;

use async_trait::async_trait;

use crate::RepositoryName;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Reading.
    Pull,
    /// Writing.
    Push,
    /// Removing.
    Delete,
}

/// What it is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The registry itself (`/v2/`).
    Registry,
    /// The list of repositories.
    Catalog,
    /// One repository.
    Repository(&'a RepositoryName),
}

/// A question to [`Access`].
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'a> {
    /// The request's `Authorization` header.
    pub authorization: Option<&'a str>,
    /// What is asked for.
    pub action: Action,
    /// What it is asked of.
    pub scope: Scope<'a>,
}

/// An answer of [`Access`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be done.
    Allow,
    /// Not by this caller, whoever it says it is.
    Deny,
    /// Not without (other) credentials; the value of `WWW-Authenticate`.
    Challenge(String),
}

/// Decides about each request. A mount asks twice: for pushing here, for pulling there.
#[async_trait]
pub trait Access: fmt::Debug + Send + Sync {
    /// Decides.
    async fn decide(&self, request: &AccessRequest<'_>) -> Decision;
}

/// Allows everything to everyone.
#[derive(Clone, Copy, Debug)]
pub struct OpenToAll;

#[async_trait]
impl Access for OpenToAll {
    async fn decide(&self, _request: &AccessRequest<'_>) -> Decision {
        Decision::Allow
    }
}
