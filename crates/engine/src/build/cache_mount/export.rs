//! Cache mounts that a build's steps use, to be sent elsewhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use longshore_graph::{Graph, MountKind, Op, VertexId};
use longshore_oci::Descriptor;
use longshore_solver::BoxError;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::pack::{Packed, PortableMount, pack};
use super::{
    AboutRest, CacheMounts, RETRY, about, directory_name, entries, holds_nothing, last_used,
    noted_since, shown_id, try_alone,
};
use crate::{EngineError, LayerCompression};

/// How long a step of another build is waited for that uses a mount.
const IN_USE_MAX: Duration = Duration::from_secs(10);

/// A cache mount of a Dockerfile, whether its step ran or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MountSpec {
    pub(crate) id: String,
    mode: u32,
    owner: (u32, u32),
    /// It began with files. Which ones is not known where its step did not run: the one of
    /// these that was used last is meant.
    seeded: bool,
}

/// What a cache mount holds, as a blob.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The mount's name.
    pub(crate) name: String,
    pub(crate) blob: Descriptor,
    pub(crate) mount: PortableMount,
    /// The blob, unless it is only known from before.
    packed: Option<Packed>,
    directory: PathBuf,
}

/// Why there is nothing of a mount to be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotExported {
    #[error("there is nothing in it")]
    Empty,
    #[error("it holds {0} bytes, more than mounts-max-size allows")]
    TooLarge(u64),
    #[error("a step of another build uses it")]
    InUse,
    /// It could not be read, or not be sent.
    #[error(transparent)]
    Failed(#[from] BoxError),
}

impl From<EngineError> for NotExported {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

/// What `<n>.sent` says.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    compression: String,
    blob: Descriptor,
    mount: PortableMount,
}

impl MountSpec {
    /// Its id, for people.
    pub(crate) fn shown_id(&self) -> &str {
        shown_id(&self.id)
    }

    /// The cache mounts of all steps that the targets stand on, each once.
    pub(crate) fn of_graph(graph: &Graph, targets: &[VertexId]) -> Vec<Self> {
        let mut specs = Vec::new();
        for id in graph.reachable(targets) {
            if let Op::Exec(exec) = &graph.vertex(id).op {
                specs.extend(exec.mounts.iter().filter_map(Self::of_mount));
            }
        }
        specs.sort();
        specs.dedup();
        specs
    }

    fn of_mount(mount: &longshore_graph::Mount) -> Option<Self> {
        let MountKind::Cache {
            id, mode, owner, ..
        } = &mount.kind
        else {
            return None;
        };
        Some(Self {
            id: id.clone(),
            mode: *mode,
            owner: *owner,
            seeded: mount.input.is_some(),
        })
    }

    fn rest(&self) -> AboutRest {
        AboutRest {
            mode: self.mode,
            owner: self.owner,
            seeded: self.seeded,
        }
    }
}

impl Contents {
    /// The blob's file; made now where the blob was only known from before.
    pub(crate) async fn file(
        &mut self,
        mounts: &CacheMounts,
        compression: LayerCompression,
        max_bytes: u64,
    ) -> Result<PathBuf, NotExported> {
        let packed = match self.packed.take() {
            Some(packed) => packed,
            None => mounts.pack(&self.directory, compression, max_bytes).await?,
        };
        (self.blob, self.mount) = (packed.blob.clone(), packed.mount);
        Ok(self.packed.insert(packed).file.path().to_owned())
    }
}

impl CacheMounts {
    /// What a mount holds. Where nobody used it since that was last asked, nothing is read.
    pub(crate) async fn contents(
        &self,
        spec: &MountSpec,
        compression: LayerCompression,
        max_bytes: u64,
    ) -> Result<Contents, NotExported> {
        let found = self.directory_of(spec)?;
        let (name, directory) = found.ok_or(NotExported::Empty)?;
        if let Some(sent) = known(&directory, compression) {
            return Ok(Contents {
                name,
                blob: sent.blob,
                mount: sent.mount,
                packed: None,
                directory,
            });
        }
        let packed = self.pack(&directory, compression, max_bytes).await?;
        Ok(Contents {
            name,
            blob: packed.blob.clone(),
            mount: packed.mount,
            packed: Some(packed),
            directory,
        })
    }

    async fn pack(
        &self,
        directory: &Path,
        compression: LayerCompression,
        max_bytes: u64,
    ) -> Result<Packed, NotExported> {
        let alone = wait_alone(directory).await?.ok_or(NotExported::InUse)?;
        let (path, tmp) = (
            directory.to_owned(),
            self.engine.root().tmp_dir().to_owned(),
        );
        let packing = spawn_blocking(move || {
            let _alone = alone;
            let packed = pack(&path, compression, max_bytes, &tmp)?;
            note(&path, compression, &packed)?;
            Ok(packed)
        });
        packing.await.map_err(EngineError::from)?
    }

    /// The mount's name and its first directory with something in it.
    fn directory_of(&self, spec: &MountSpec) -> Result<Option<(String, PathBuf)>, EngineError> {
        let name = match spec.seeded {
            true => self.last_seeded(spec)?,
            false => Some(directory_name(&spec.id, spec.mode, spec.owner, None)),
        };
        let Some(name) = name else { return Ok(None) };
        let folder = self.folder.join(&name);
        let failed = || EngineError::io("list", &folder);
        let mut numbers: Vec<u32> = Vec::new();
        for path in entries(&folder).map_err(failed())? {
            let file_name = path.file_name().and_then(|name| name.to_str());
            numbers.extend(file_name.and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        for number in numbers {
            let directory = folder.join(number.to_string());
            if !holds_nothing(&directory).map_err(failed())? {
                return Ok(Some((name, directory)));
            }
        }
        Ok(None)
    }

    fn last_seeded(&self, spec: &MountSpec) -> Result<Option<String>, EngineError> {
        let failed = EngineError::io("list cache mounts below", &self.folder);
        let fits = |folder: &PathBuf| {
            about(folder).is_some_and(|about| {
                about.id == spec.id && about.rest.is_some_and(|rest| rest == spec.rest())
            })
        };
        let folders = entries(&self.folder).map_err(failed)?;
        let last = folders
            .into_iter()
            .filter(fits)
            .max_by_key(|folder| last_used(&folder.join("0")));
        Ok(last.and_then(|folder| Some(folder.file_name()?.to_str()?.to_owned())))
    }
}

async fn wait_alone(directory: &Path) -> Result<Option<File>, EngineError> {
    let began = Instant::now();
    loop {
        let alone = try_alone(directory).map_err(EngineError::io("lock", directory))?;
        if alone.is_some() || began.elapsed() > IN_USE_MAX {
            return Ok(alone);
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn sent_of(directory: &Path) -> PathBuf {
    directory.with_extension("sent")
}

/// The blob that a directory is, if nobody used it since that was found out.
fn known(directory: &Path, compression: LayerCompression) -> Option<Sent> {
    let last_used: SystemTime = last_used(directory);
    let text = noted_since(&sent_of(directory), last_used)?;
    let sent: Sent = serde_json::from_str(&text).ok()?;
    (sent.compression == compression.label()).then_some(sent)
}

fn note(
    directory: &Path,
    compression: LayerCompression,
    packed: &Packed,
) -> Result<(), EngineError> {
    let sent = Sent {
        compression: compression.label(),
        blob: packed.blob.clone(),
        mount: packed.mount,
    };
    let path = sent_of(directory);
    let text = serde_json::to_vec(&sent).map_err(std::io::Error::from);
    text.and_then(|text| fs::write(&path, text))
        .map_err(EngineError::io("write", &path))
}
