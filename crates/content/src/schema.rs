//! The tables of `meta.db`, and how an older one becomes the current one.
//!
//! Digests are text (`sha256:…`), layer ids 64 hexadecimal digits, times milliseconds
//! since 1970. `user_version` counts the migrations that were applied.
//!
//! | table | one row is |
//! |---|---|
//! | `blobs` | a blob that may be read: its size, its file's stamp, and the boot that may read it unverified (none: any) |
//! | `edges` | a manifest or index `parent` needs `child`; a parent that has a blob keeps its children |
//! | `images` | a name in the local store, or an image without one (`reference` null: dangling) |
//! | `layer_blobs` | one compressed or plain form of a layer's tar stream; goes with its blob |
//! | `layers` | a layer by what it changes, and where its forms are; keeps its blobs |
//! | `cache_records`, `cache_layers`, `cache_blobs` | a build result by its key, and what it keeps |
//! | `repositories`, `manifests`, `tags`, `blob_links`, `uploads` | the registry; a blob is visible in a repository only through its link |
//! | `leases` | a process needs a blob or layer until a time, or until it dies |
//! | `builds` | a build's record and where its log is |
//! | `kv` | small values of other crates, by bucket |

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::ContentError;

const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), ContentError> {
    let version = user_version(connection)?;
    if version > MIGRATIONS.len() {
        return Err(ContentError::Format {
            path: path.to_owned(),
            found: format!("database version {version}"),
        });
    }
    for (number, migration) in (1_i64..).zip(MIGRATIONS).skip(version) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

fn user_version(connection: &Connection) -> Result<usize, ContentError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}
