//! `RUN --mount`: fields as written, and the mount they give once variables are expanded.
//!
//! A mount is read twice, as BuildKit does: with the Dockerfile only its list form and its `from`
//! are looked at, because any other value may hold variables; [`MountFlag::resolve`] does the rest
//! where the variables are known.

use std::convert::Infallible;

use crate::csv::{CsvError, split_fields};
use crate::number::{parse_bool, parse_ram_bytes, parse_u32};
use crate::quote::quote;
use crate::span::Span;
use crate::suggest;

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// One `--mount` flag, not expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFlag {
    /// The flag's value as written, quotes of the word removed.
    pub raw: String,
    /// Its fields in order.
    pub fields: Vec<MountField>,
    /// `from`: a stage, named context or image. Never expanded.
    pub from: Option<String>,
    /// The whole flag.
    pub span: Span,
}

/// One comma-separated field of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountField {
    /// Key in lower case.
    pub key: String,
    /// What follows the first `=`.
    pub value: Option<String>,
    /// The whole field as written.
    pub raw: String,
}

/// A mount with all variables expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `type`.
    pub kind: MountKind,
    /// `from`; empty text counts as not given.
    pub from: Option<String>,
    /// `source`; for a secret the same as `id`.
    pub source: String,
    /// `target`.
    pub target: String,
    /// `ro` and `rw`, or the kind's default: writable for caches and tmpfs only.
    pub read_only: bool,
    /// `size` in bytes, tmpfs only; zero means no limit.
    pub size_bytes: u64,
    /// `id`.
    pub id: String,
    /// `sharing`, caches only.
    pub sharing: Option<Sharing>,
    /// `required`, secrets and ssh only.
    pub required: bool,
    /// `env`: the variable a secret goes into. An empty text asks for the default name.
    pub env: Option<String>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

/// Kind of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context or another stage.
    #[default]
    Bind,
    /// A directory kept between builds.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret file or variable.
    Secret,
    /// An agent socket.
    Ssh,
}

impl MountKind {
    const ALL: [Self; 5] = [
        Self::Bind,
        Self::Cache,
        Self::Tmpfs,
        Self::Secret,
        Self::Ssh,
    ];

    /// As written in `type=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    fn takes_file_mode(self) -> bool {
        matches!(self, Self::Secret | Self::Ssh | Self::Cache)
    }

    fn takes_required(self) -> bool {
        matches!(self, Self::Secret | Self::Ssh)
    }

    fn is_writable_by_default(self) -> bool {
        matches!(self, Self::Cache | Self::Tmpfs)
    }
}

/// How a cache is shared between steps that run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All use one directory.
    Shared,
    /// Each gets its own.
    Private,
    /// One after the other.
    Locked,
}

impl Sharing {
    const ALL: [Self; 3] = [Self::Shared, Self::Private, Self::Locked];

    /// As written in `sharing=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

/// Why a mount was refused. `E` is what the expander of variables answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError<E: std::error::Error + 'static = Infallible> {
    /// Not a comma-separated list.
    #[error("failed to parse csv mounts: {0}")]
    Csv(#[source] CsvError),
    /// A variable cannot be expanded.
    #[error(transparent)]
    Expand(E),
    /// `from` with a variable.
    #[error("'{key}' doesn't support variable expansion, define alias stage instead")]
    FromVariable {
        /// `from`.
        key: String,
    },
    /// A field that takes a value has none.
    #[error("invalid field '{field}' must be a key=value pair")]
    NoValue {
        /// The field.
        field: String,
    },
    /// A known key that this kind of mount does not take.
    #[error("unexpected key '{key}' for mount type '{}'", .kind.as_str())]
    KeyForKind {
        /// The key.
        key: String,
        /// The kind.
        kind: MountKind,
    },
    /// No such key.
    #[error("{}", suggest::with_suggestion(format!("unexpected key '{key}' in '{field}'"), *.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// The field.
        field: String,
        /// The nearest key.
        suggestion: Option<&'static str>,
    },
    /// No such kind.
    #[error("{}", suggest::with_suggestion(format!("unsupported mount type {}", quote(.value)), *.suggestion))]
    UnknownKind {
        /// What was written.
        value: String,
        /// The nearest kind.
        suggestion: Option<&'static str>,
    },
    /// No such way of sharing.
    #[error("{}", suggest::with_suggestion(format!("unsupported sharing value {}", quote(.value)), *.suggestion))]
    UnknownSharing {
        /// What was written.
        value: String,
        /// The nearest way.
        suggestion: Option<&'static str>,
    },
    /// A truth value or size that cannot be read.
    #[error("invalid value for {key}: {value}")]
    InvalidValue {
        /// The key.
        key: String,
        /// What was written.
        value: String,
    },
    /// A mode, user or group number that cannot be read.
    #[error("invalid value {value} for {key}")]
    InvalidNumber {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
    },
    /// `mode`, `uid` or `gid` on a mount that has no file of its own.
    #[error("{key} not allowed for {} type mounts", quote(.kind.as_str()))]
    FileModeForKind {
        /// The key.
        key: &'static str,
        /// The kind.
        kind: MountKind,
    },
    /// A secret does not come from a stage.
    #[error("secret mount should not have a from")]
    SecretFrom,
    /// A secret is not shared.
    #[error("secret mount should not define sharing")]
    SecretSharing,
    /// A secret without a name.
    #[error("invalid secret mount. one of source, target required")]
    SecretUnnamed,
    /// A secret with two names.
    #[error("both source and id can't be set")]
    SecretNamedTwice,
    /// `sharing` on something else than a cache.
    #[error("invalid cache sharing set for {} mount", .kind.as_str())]
    SharingForKind {
        /// The kind.
        kind: MountKind,
    },
}

impl MountFlag {
    /// Reads a flag's value as far as that goes without variables.
    ///
    /// # Errors
    /// [`MountError::Csv`] and [`MountError::FromVariable`].
    pub fn parse(raw: &str, span: Span) -> Result<Self, MountError> {
        let fields = split_fields(raw).map_err(MountError::Csv)?;
        let fields: Vec<_> = fields.into_iter().map(MountField::new).collect();
        let mut from = None;
        for field in fields.iter().filter(|field| field.key == "from") {
            let Some(value) = &field.value else { continue };
            if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                return Err(MountError::FromVariable {
                    key: field.key.clone(),
                });
            }
            from = Some(value.clone());
        }
        Ok(Self {
            raw: raw.to_owned(),
            fields,
            from,
            span,
        })
    }

    /// What is wrong with the fields, as far as no variable and no quote decides it.
    #[must_use]
    pub fn fault(&self) -> Option<MountError> {
        const EXPANDED: [char; 5] = ['$', '\'', '"', '\\', '`'];
        let mut values = self
            .fields
            .iter()
            .filter_map(|field| field.value.as_deref());
        if values.any(|value| value.contains(EXPANDED)) {
            return None;
        }
        self.resolve(|value| Ok(value.to_owned())).err()
    }

    /// The mount these fields give, each value expanded by `expand`.
    ///
    /// # Errors
    /// What [`MountError`] says; `expand`'s own errors as [`MountError::Expand`].
    pub fn resolve<E: std::error::Error + 'static>(
        &self,
        mut expand: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Mount, MountError<E>> {
        let mut draft = Draft::default();
        for field in &self.fields {
            match &field.value {
                None => draft.set_word(field)?,
                Some(value) => {
                    let value = expand(value).map_err(MountError::Expand)?;
                    draft.set(field, value)?;
                }
            }
        }
        draft.finish()
    }
}

impl MountField {
    fn new(raw: String) -> Self {
        let (key, value) = match raw.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (raw.as_str(), None),
        };
        Self {
            key: key.to_lowercase(),
            value,
            raw,
        }
    }
}

/// A mount while its fields are read; order matters, because a field is judged by the kind known
/// so far.
#[derive(Default)]
struct Draft {
    kind: MountKind,
    from: String,
    source: String,
    target: String,
    read_only: Option<bool>,
    size_bytes: u64,
    id: String,
    sharing: Option<Sharing>,
    required: bool,
    env: Option<String>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Draft {
    /// A field without `=`.
    fn set_word<E: std::error::Error + 'static>(
        &mut self,
        field: &MountField,
    ) -> Result<(), MountError<E>> {
        match field.key.as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.expect_required(field)?;
                self.required = true;
            }
            _ => {
                return Err(MountError::NoValue {
                    field: field.raw.clone(),
                });
            }
        }
        Ok(())
    }

    fn set<E: std::error::Error + 'static>(
        &mut self,
        field: &MountField,
        value: String,
    ) -> Result<(), MountError<E>> {
        let key = field.key.as_str();
        match key {
            "type" => self.kind = kind_of(&value)?,
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.read_only = Some(truth(key, value)?),
            "readwrite" | "rw" => self.read_only = Some(!truth(key, value)?),
            "required" => {
                self.expect_required(field)?;
                self.required = truth(key, value)?;
            }
            "size" => self.size_bytes = self.size(key, value)?,
            "id" => self.id = value,
            "sharing" => self.sharing = Some(sharing_of(&value)?),
            "mode" => self.mode = Some(number("mode", value, 8)?),
            "uid" => self.uid = Some(number("uid", value, 10)?),
            "gid" => self.gid = Some(number("gid", value, 10)?),
            "env" => self.env = Some(value),
            _ => {
                return Err(MountError::UnknownKey {
                    key: key.to_owned(),
                    field: field.raw.clone(),
                    suggestion: suggest::nearest(key, KEYS),
                });
            }
        }
        Ok(())
    }

    fn expect_required<E: std::error::Error + 'static>(
        &self,
        field: &MountField,
    ) -> Result<(), MountError<E>> {
        if self.kind.takes_required() {
            return Ok(());
        }
        Err(MountError::KeyForKind {
            key: field.key.clone(),
            kind: self.kind,
        })
    }

    fn size<E: std::error::Error + 'static>(
        &self,
        key: &str,
        value: String,
    ) -> Result<u64, MountError<E>> {
        if self.kind != MountKind::Tmpfs {
            return Err(MountError::KeyForKind {
                key: key.to_owned(),
                kind: self.kind,
            });
        }
        parse_ram_bytes(&value).ok_or_else(|| MountError::InvalidValue {
            key: key.to_owned(),
            value,
        })
    }

    fn finish<E: std::error::Error + 'static>(self) -> Result<Mount, MountError<E>> {
        self.check_file_mode()?;
        if self.kind == MountKind::Secret {
            self.check_secret()?;
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(MountError::SharingForKind { kind: self.kind });
        }
        Ok(Mount {
            read_only: self
                .read_only
                .unwrap_or_else(|| !self.kind.is_writable_by_default()),
            kind: self.kind,
            from: Some(self.from).filter(|from| !from.is_empty()),
            source: self.source,
            target: self.target,
            size_bytes: self.size_bytes,
            id: self.id,
            sharing: self.sharing,
            required: self.required,
            env: self.env,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
        })
    }

    fn check_file_mode<E: std::error::Error + 'static>(&self) -> Result<(), MountError<E>> {
        let given = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
        match given.into_iter().find(|(_, value)| value.is_some()) {
            Some((key, _)) if !self.kind.takes_file_mode() => Err(MountError::FileModeForKind {
                key,
                kind: self.kind,
            }),
            _ => Ok(()),
        }
    }

    fn check_secret<E: std::error::Error + 'static>(&self) -> Result<(), MountError<E>> {
        if !self.from.is_empty() {
            return Err(MountError::SecretFrom);
        }
        if self.sharing.is_some() {
            return Err(MountError::SecretSharing);
        }
        if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
            return Err(MountError::SecretUnnamed);
        }
        if !self.source.is_empty() && !self.id.is_empty() {
            return Err(MountError::SecretNamedTwice);
        }
        Ok(())
    }
}

fn kind_of<E: std::error::Error + 'static>(value: &str) -> Result<MountKind, MountError<E>> {
    let lower = value.to_lowercase();
    MountKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == lower)
        .ok_or_else(|| {
            let suggestion = suggest::nearest(value, MountKind::ALL.map(MountKind::as_str));
            MountError::UnknownKind {
                value: value.to_owned(),
                suggestion,
            }
        })
}

fn sharing_of<E: std::error::Error + 'static>(value: &str) -> Result<Sharing, MountError<E>> {
    let lower = value.to_lowercase();
    Sharing::ALL
        .into_iter()
        .find(|sharing| sharing.as_str() == lower)
        .ok_or_else(|| {
            let suggestion = suggest::nearest(value, Sharing::ALL.map(Sharing::as_str));
            MountError::UnknownSharing {
                value: value.to_owned(),
                suggestion,
            }
        })
}

fn truth<E: std::error::Error + 'static>(key: &str, value: String) -> Result<bool, MountError<E>> {
    parse_bool(&value).ok_or_else(|| MountError::InvalidValue {
        key: key.to_owned(),
        value,
    })
}

fn number<E: std::error::Error + 'static>(
    key: &'static str,
    value: String,
    radix: u32,
) -> Result<u32, MountError<E>> {
    parse_u32(&value, radix).map_err(|_| MountError::InvalidNumber { key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(raw: &str) -> Result<Mount, MountError> {
        MountFlag::parse(raw, Span::default())?.resolve(|value| Ok(value.replace("$D", "/d")))
    }

    fn check_error(raw: &str, expected: &str) {
        assert_eq!(resolve(raw).unwrap_err().to_string(), expected, "{raw}");
    }

    #[test]
    fn faults_that_no_variable_decides_are_known_early() {
        let fault = |raw: &str| {
            let flag = MountFlag::parse(raw, Span::default()).unwrap();
            flag.fault().map(|fault| fault.to_string())
        };
        assert_eq!(
            fault("type=nope").as_deref(),
            Some("unsupported mount type \"nope\"")
        );
        assert!(fault("type=secret").is_some());
        for late in ["type=$KIND", "type='cache'", "id=$ID,nope=1", "target=/x"] {
            assert_eq!(fault(late), None, "{late}");
        }
    }

    #[test]
    fn values_are_expanded() {
        let mount = resolve("type=cache,target=$D/x,id=a,sharing=locked,mode=0700,uid=5").unwrap();
        assert_eq!(mount.kind, MountKind::Cache);
        assert_eq!(mount.target, "/d/x");
        assert_eq!(
            (mount.mode, mount.uid, mount.gid),
            (Some(0o700), Some(5), None)
        );
        assert_eq!(mount.sharing, Some(Sharing::Locked));
    }

    #[test]
    fn only_caches_and_tmpfs_are_writable_unless_asked() {
        let read_only = |raw| resolve(raw).unwrap().read_only;
        assert!(read_only("target=/a"));
        assert!(read_only("type=secret,id=a"));
        assert!(!read_only("type=cache,target=/a"));
        assert!(!read_only("type=tmpfs,target=/a"));
        assert!(!read_only("target=/a,rw"));
        assert!(!read_only("target=/a,readwrite=true"));
        assert!(read_only("type=cache,target=/a,readonly"));
    }

    #[test]
    fn a_kind_must_stand_before_the_keys_that_need_it() {
        check_error(
            "required,type=ssh",
            "unexpected key 'required' for mount type 'bind'",
        );
        check_error(
            "size=5,type=tmpfs",
            "unexpected key 'size' for mount type 'bind'",
        );
        assert!(resolve("type=ssh,required").unwrap().required);
        assert_eq!(
            resolve("type=tmpfs,target=/a,size=2k").unwrap().size_bytes,
            2048
        );
    }

    #[test]
    fn faults_are_told_in_buildkits_words() {
        check_error(
            "type=cach",
            "unsupported mount type \"cach\" (did you mean cache?)",
        );
        check_error(
            "tpye=cache",
            "unexpected key 'tpye' in 'tpye=cache' (did you mean type?)",
        );
        check_error("target", "invalid field 'target' must be a key=value pair");
        check_error("ro=maybe", "invalid value for ro: maybe");
        check_error("type=cache,mode=9", "invalid value 9 for mode");
        check_error("uid=1", "uid not allowed for \"bind\" type mounts");
        check_error(
            "type=secret",
            "invalid secret mount. one of source, target required",
        );
        check_error("type=secret,src=a,id=b", "both source and id can't be set");
        check_error(
            "type=secret,id=b,from=x",
            "secret mount should not have a from",
        );
        check_error(
            "type=ssh,sharing=shared",
            "invalid cache sharing set for ssh mount",
        );
        check_error(
            "type=cache,sharing=share",
            "unsupported sharing value \"share\" (did you mean shared?)",
        );
        check_error(
            "from=a$b",
            "'from' doesn't support variable expansion, define alias stage instead",
        );
        check_error("", "failed to parse csv mounts: EOF");
    }

    #[test]
    fn a_dollar_at_the_end_of_from_is_no_variable() {
        assert_eq!(resolve("from=a$").unwrap().from.as_deref(), Some("a$"));
    }

    #[test]
    fn quoted_fields_may_hold_commas() {
        assert_eq!(resolve("\"target=/a,b\",ro").unwrap().target, "/a,b");
    }
}
