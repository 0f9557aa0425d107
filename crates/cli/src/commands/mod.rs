//! The commands, one file each.

pub(crate) mod archive;
pub(crate) mod build;
pub(crate) mod build_history;
pub(crate) mod call;
pub(crate) mod doctor;
pub(crate) mod helpers;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod lock;
pub(crate) mod login;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod tag;
pub(crate) mod transfer;
pub(crate) mod verify;
pub(crate) mod version;
pub(crate) mod ways;
pub(crate) mod why;
