CREATE TABLE blobs (
    digest     TEXT PRIMARY KEY,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    stamp      TEXT NOT NULL,
    boot       TEXT
) WITHOUT ROWID;

CREATE TABLE edges (
    parent TEXT NOT NULL,
    child  TEXT NOT NULL,
    PRIMARY KEY (parent, child)
) WITHOUT ROWID;
CREATE INDEX edges_child ON edges (child);

CREATE TABLE images (
    id         INTEGER PRIMARY KEY,
    reference  TEXT UNIQUE,
    digest     TEXT NOT NULL,
    descriptor TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX images_digest ON images (digest);

CREATE TABLE layer_blobs (
    diff_id     TEXT NOT NULL,
    blob        TEXT NOT NULL,
    media_type  TEXT NOT NULL,
    compression TEXT NOT NULL,
    size        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (diff_id, blob)
) WITHOUT ROWID;
CREATE INDEX layer_blobs_blob ON layer_blobs (blob);

CREATE TABLE layers (
    layer_id       TEXT PRIMARY KEY,
    diff_id        TEXT,
    blob           TEXT,
    index_blob     TEXT,
    snapshot_id    TEXT,
    tar_bytes      INTEGER NOT NULL,
    snapshot_bytes INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    last_used_at   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX layers_diff_id ON layers (diff_id);
CREATE INDEX layers_blob ON layers (blob);
CREATE INDEX layers_index_blob ON layers (index_blob);
CREATE INDEX layers_snapshot ON layers (snapshot_id);

CREATE TABLE cache_records (
    key          BLOB PRIMARY KEY,
    record       BLOB NOT NULL,
    identity     BLOB NOT NULL,
    fields       TEXT NOT NULL,
    grouping     TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    cost_ms      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX cache_records_grouping ON cache_records (grouping, last_used_at);
CREATE INDEX cache_records_identity ON cache_records (identity);
CREATE INDEX cache_records_last_used ON cache_records (last_used_at);

CREATE TABLE cache_layers (
    key      BLOB NOT NULL REFERENCES cache_records (key) ON DELETE CASCADE,
    layer_id TEXT NOT NULL,
    PRIMARY KEY (key, layer_id)
) WITHOUT ROWID;
CREATE INDEX cache_layers_layer ON cache_layers (layer_id);

CREATE TABLE cache_blobs (
    key    BLOB NOT NULL REFERENCES cache_records (key) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (key, digest)
) WITHOUT ROWID;
CREATE INDEX cache_blobs_digest ON cache_blobs (digest);

CREATE TABLE repositories (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
);

CREATE TABLE manifests (
    repository    INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    digest        TEXT NOT NULL,
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    subject       TEXT,
    artifact_type TEXT,
    annotations   TEXT,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX manifests_digest ON manifests (digest);
CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject IS NOT NULL;

CREATE TABLE tags (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    tag        TEXT NOT NULL,
    digest     TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
CREATE INDEX tags_digest ON tags (repository, digest);

CREATE TABLE blob_links (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    digest     TEXT NOT NULL,
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX blob_links_digest ON blob_links (digest);

CREATE TABLE uploads (
    id         TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    touched_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE leases (
    process    TEXT NOT NULL,
    holder     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    target     TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (process, holder, kind, target)
) WITHOUT ROWID;
CREATE INDEX leases_target ON leases (kind, target);

CREATE TABLE builds (
    id          TEXT PRIMARY KEY,
    process     TEXT NOT NULL,
    record      TEXT NOT NULL,
    log_path    TEXT,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER
) WITHOUT ROWID;
CREATE INDEX builds_started ON builds (started_at);

CREATE TABLE kv (
    bucket TEXT NOT NULL,
    key    TEXT NOT NULL,
    value  BLOB NOT NULL,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
