//! Does what the vertices of a build graph say.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use longshore_graph::{ImageSource, LocalSource, Op, Selection, Source, Vertex, VertexId};
use longshore_layers::context::{ModePolicy, OwnerPolicy, ScanOptions, TimePolicy};
use longshore_oci::{Digest, Document, LayerId, Reference};
use longshore_solver::{
    BoxError, ContentDigest, Executor, Origin, PathDigest, ResourceClass, StepContext,
};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::early::{EarlyExport, EarlyExports};
use super::remote_cache::MountImport;
use super::select;
use crate::context::LocalTree;
use crate::image::{ImageStore, parse_config};
use crate::layer::{Layer, LayerKey, LayerStore, RemoteBlob};
use crate::remote::Remotes;
use crate::space::SpaceKeeper;
use crate::tree::{RecordedLayer, Tree, identity};
use crate::{Engine, EngineError, SecretSource};

/// A directory of the client's and what is left out of it.
#[derive(Debug)]
pub(crate) struct LocalDirectory {
    pub(crate) path: PathBuf,
    pub(crate) ignore: Option<longshore_dockerfile::ignore::Matcher>,
    pub(crate) modes: ModePolicy,
    pub(crate) times: TimePolicy,
    pub(crate) scanned: OnceCell<Arc<LocalTree>>,
}

/// The settings of one build that its steps need.
#[derive(Debug)]
pub(crate) struct BuildExecutor {
    pub(crate) engine: Engine,
    /// The client's directories by name.
    pub(crate) locals: BTreeMap<String, LocalDirectory>,
    /// The images that names were resolved to, by the platform's manifest.
    pub(crate) images: Arc<Mutex<HashMap<Digest, ResolvedSource>>>,
    /// Keeps what the build makes from being collected.
    pub(crate) lease: Arc<longshore_content::Lease>,
    /// Files and repositories of other machines.
    pub(crate) remotes: Arc<Remotes>,
    pub(crate) secrets: BTreeMap<String, SecretSource>,
    pub(crate) ssh_agents: BTreeMap<String, PathBuf>,
    /// How long a step's process may run.
    pub(crate) step_timeout: Option<Duration>,
    /// Vertices whose layers go into the result, and in which forms: made as soon as they can
    /// be.
    pub(crate) exported: HashMap<VertexId, Vec<EarlyExport>>,
    /// What is made and sent beside the steps that still run.
    pub(crate) early: EarlyExports,
    /// The time of what is new, where the files of the context have the time of a commit,
    /// seconds since 1970.
    pub(crate) epoch_s: Option<i64>,
    /// Where the layers of this build's base images can be fetched: said by the images
    /// themselves, and so believed before what a record says.
    pub(crate) bases: Mutex<HashMap<LayerKey, Option<RemoteBlob>>>,
    /// The caches that cache mounts are filled from.
    pub(crate) mounts: MountImport,
    /// Layers that only name their files: held until they were exported to a cache; `None`
    /// where there is no such export.
    pub(crate) kept: Option<Mutex<Vec<Arc<Layer>>>>,
    /// Whether what a build cache elsewhere promises is counted on; not any more after it
    /// broke its word in this build.
    pub(crate) trusts_caches: AtomicBool,
    /// The layers that the lease holds already.
    pub(crate) held: Mutex<HashSet<LayerId>>,
    /// Holds the limits of the state root's space.
    pub(crate) space: Arc<SpaceKeeper>,
    /// Digests of what was taken from the client's directories, by their names.
    pub(crate) seen: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// Where an image's manifest came from.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedSource {
    /// The repository that its layers can be fetched from.
    pub(crate) repository: Reference,
    pub(crate) media_type: String,
}

impl BuildExecutor {
    pub(crate) fn layers(&self) -> &Arc<LayerStore> {
        self.engine.layers()
    }

    /// The scanned directory of a local source.
    pub(crate) async fn local(
        &self,
        ctx: &StepContext,
        source: &LocalSource,
    ) -> Result<Arc<LocalTree>, EngineError> {
        let directory = self.locals.get(&source.name).ok_or_else(|| {
            EngineError::Invalid(format!("there is no context named `{}`", source.name))
        })?;
        let scan = || async {
            let (path, ignore) = (directory.path.clone(), directory.ignore.clone());
            let cache = self.engine.cache_directory("contexts");
            let options = ScanOptions {
                owner: OwnerPolicy::Root,
                modes: directory.modes,
                times: directory.times,
            };
            let scanned =
                spawn_blocking(move || LocalTree::scan(&path, ignore.as_ref(), &options, &cache))
                    .await??;
            for notice in scanned.notices() {
                ctx.warn(notice.to_string());
            }
            Ok::<_, EngineError>(Arc::new(scanned))
        };
        directory.scanned.get_or_try_init(scan).await.cloned()
    }

    /// The layers of an image source, not fetched.
    fn image(&self, source: &ImageSource) -> Result<Tree, EngineError> {
        let name = source.reference.familiar();
        let manifest = source
            .manifest
            .ok_or_else(|| EngineError::NoSuchImage(name.clone()))?;
        let known = self
            .images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&manifest)
            .cloned();
        let resolved = known.ok_or_else(|| EngineError::NoSuchImage(name.clone()))?;
        let store = ImageStore::new(self.engine.root().clone());
        let limit = longshore_oci::DOCUMENT_BYTES_MAX as u64;
        let bytes = store.bytes(&name, "manifest", manifest, limit)?;
        let Document::Manifest(manifest) =
            crate::image::parse_document(&name, &bytes, &resolved.media_type)?
        else {
            return Err(EngineError::NoSuchImage(name));
        };
        let config = parse_config(
            &name,
            &store.bytes(&name, "configuration", manifest.config.digest, limit)?,
        )?;
        let created = config
            .created
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Timestamp::UNIX_EPOCH);
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            return Err(EngineError::LayerCount {
                image: name,
                layers: manifest.layers.len(),
                diff_ids: config.rootfs.diff_ids.len(),
            });
        }
        let layers = manifest.layers.into_iter();
        let remotes =
            layers.map(|descriptor| RemoteBlob::of_image(resolved.repository.clone(), descriptor));
        let layers = self
            .layers()
            .image_layers(&config.rootfs.diff_ids, created, remotes);
        self.bases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(layers.iter().map(|layer| (layer.key, layer.remote())));
        Ok(Tree::Layers(layers))
    }

    async fn source(&self, ctx: &StepContext, source: &Source) -> Result<Tree, EngineError> {
        match source {
            Source::Scratch => Ok(Tree::empty()),
            Source::Image(image) => self.image(image),
            Source::Local(local) => Ok(Tree::Local(self.local(ctx, local).await?)),
            Source::OciLayout(layout) => {
                let image = ImageSource {
                    reference: crate::layout::REFERENCE
                        .parse()
                        .expect("a constant reference"),
                    manifest: layout.manifest,
                    platform: layout.platform.clone(),
                };
                self.image(&image)
            }
            Source::Http(http) => self.remotes.http(http, Some(ctx)).await,
            Source::Git(git) => self.remotes.git_tree(git).await,
        }
    }

    /// For each recorded layer, where this build's base images say that it can be had.
    fn bases_among(&self, recorded: &[RecordedLayer]) -> Vec<Option<RemoteBlob>> {
        let bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |layer: &RecordedLayer| bases.get(&layer.key.clone().into()).cloned().flatten();
        recorded.iter().map(of).collect()
    }

    /// The files of a tree as layers; a context's become one.
    pub(crate) async fn as_layers(&self, tree: &Tree) -> Result<Vec<Arc<Layer>>, BoxError> {
        match tree {
            Tree::Layers(layers) => Ok(layers.clone()),
            Tree::Local(local) => Ok(vec![
                super::file::layer_of_context(self.layers(), local, "/").await?,
            ]),
        }
    }

    async fn run(
        &self,
        ctx: &StepContext,
        vertex: &Vertex,
        inputs: &[Tree],
    ) -> Result<Vec<Tree>, BoxError> {
        match &vertex.op {
            Op::Source(source) => Ok(vec![self.source(ctx, source).await?]),
            Op::File(op) => Ok(vec![super::file::run(self, ctx, op, inputs).await?]),
            Op::Exec(op) => super::exec::run(self, ctx, op, inputs).await,
            Op::Merge => {
                let mut layers = Vec::new();
                for input in inputs {
                    layers.extend(self.as_layers(input).await?);
                }
                Ok(vec![Tree::Layers(layers)])
            }
            Op::Diff => Ok(vec![super::file::difference(inputs)?]),
        }
    }

    /// Keeps what was made from being collected as long as the build runs.
    fn hold(&self, outputs: &[Tree]) -> Result<(), EngineError> {
        if let Some(kept) = &self.kept {
            let layers = outputs.iter().filter_map(|tree| match tree {
                Tree::Layers(layers) => layers.last().cloned(),
                Tree::Local(_) => None,
            });
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(layers);
        }
        let layers = outputs.iter().filter_map(|tree| match tree {
            Tree::Layers(layers) => Some(layers),
            Tree::Local(_) => None,
        });
        self.hold_layers(layers.flatten().map(|layer| layer.key))
    }

    /// Keeps layers from being collected as long as the build runs. What is to be found as it
    /// is, is held before it is looked for.
    pub(crate) fn hold_layers(
        &self,
        layers: impl IntoIterator<Item = LayerKey>,
    ) -> Result<(), EngineError> {
        let ids = layers.into_iter().map(|key| key.record_id());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh: Vec<LayerId> = ids.filter(|id| !held.contains(id)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        self.lease.add_layers(&fresh)?;
        held.extend(fresh);
        Ok(())
    }

    /// Begins to write the blobs of a result that will be exported, beside the next steps.
    fn begin_export(&self, vertex: VertexId, outputs: &[Tree]) {
        let (Some(exports), Some(Tree::Layers(layers))) =
            (self.exported.get(&vertex), outputs.first())
        else {
            return;
        };
        self.early
            .begin(self.layers(), &self.lease, layers, exports);
    }
}

/// Whether a step writes to the state root.
fn writes(op: &Op) -> bool {
    match op {
        Op::Exec(_) | Op::File(_) => true,
        Op::Source(source) => matches!(source, Source::Git(_) | Source::Http(_)),
        Op::Merge | Op::Diff => false,
    }
}

#[async_trait]
impl Executor for BuildExecutor {
    type Tree = Tree;

    async fn pin(
        &self,
        ctx: &StepContext,
        source: &Source,
        selection: &Selection,
    ) -> Result<ContentDigest, BoxError> {
        let name = match source {
            Source::Scratch => "scratch".to_owned(),
            Source::Local(local) => {
                let tree = self.local(ctx, local).await?;
                let digest = select::digest_of_context(tree, selection.clone()).await?;
                self.seen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(local.name.clone())
                    .or_default()
                    .insert(digest.to_string());
                return Ok(digest);
            }
            Source::Image(_) | Source::OciLayout(_) => {
                let layers = self.as_layers(&self.source(ctx, source).await?).await?;
                return Ok(identity(&layers));
            }
            Source::Http(http) => self.remotes.pin_http(http, Some(ctx)).await?,
            Source::Git(git) => self.remotes.pin_git(git).await?,
        };
        Ok(blake3::Hash::from(blake3::derive_key("longshore source 1", name.as_bytes())).into())
    }

    async fn execute(
        &self,
        ctx: &StepContext,
        vertex: &Vertex,
        inputs: &[Tree],
    ) -> Result<Vec<Tree>, BoxError> {
        if writes(&vertex.op) {
            self.space.admit().await;
        }
        let outputs = self.run(ctx, vertex, inputs).await?;
        self.hold(&outputs)?;
        self.space.wrote();
        self.begin_export(ctx.vertex, &outputs);
        Ok(outputs)
    }

    async fn digest_of(
        &self,
        _ctx: &StepContext,
        tree: &Tree,
        selection: &Selection,
    ) -> Result<ContentDigest, BoxError> {
        match (tree, selection) {
            (Tree::Layers(layers), Selection::Identity) => Ok(identity(layers)),
            (Tree::Layers(layers), Selection::Content(_)) => {
                let view = self.layers().view(layers).await?;
                select::digest_of_view(view, selection.clone()).await
            }
            (Tree::Local(local), _) => {
                select::digest_of_context(Arc::clone(local), selection.clone()).await
            }
        }
    }

    async fn describe(
        &self,
        _ctx: &StepContext,
        tree: &Tree,
        selection: &Selection,
    ) -> Vec<PathDigest> {
        match tree {
            Tree::Local(local) => {
                select::describe_context(Arc::clone(local), selection.clone()).await
            }
            Tree::Layers(layers) => {
                if *selection == Selection::Identity {
                    return Vec::new();
                }
                match self.layers().view(layers).await {
                    Ok(view) => select::describe_view(view, selection.clone()).await,
                    Err(error) => {
                        tracing::debug!(%error, "what a step takes is not described");
                        Vec::new()
                    }
                }
            }
        }
    }

    async fn encode(&self, _ctx: &StepContext, tree: &Tree) -> Result<Option<Vec<u8>>, BoxError> {
        let Tree::Layers(layers) = tree else {
            return Ok(None);
        };
        let recorded: Vec<RecordedLayer> = layers
            .iter()
            .map(|layer| RecordedLayer {
                key: layer.key.into(),
                created_s: layer.created.as_second(),
                remote: layer.remote(),
            })
            .collect();
        Ok(Some(serde_json::to_vec(&recorded)?))
    }

    async fn restore(
        &self,
        ctx: &StepContext,
        encoded: &[u8],
        _origin: &Origin,
    ) -> Result<Option<Tree>, BoxError> {
        let recorded: Vec<RecordedLayer> = serde_json::from_slice(encoded)?;
        let store = Arc::clone(self.layers());
        let trusts_caches = self.trusts_caches.load(Ordering::Relaxed);
        let bases = self.bases_among(&recorded);
        self.hold_layers(recorded.iter().map(|layer| layer.key.clone().into()))?;
        let layers = spawn_blocking(move || {
            let mut layers = Vec::with_capacity(recorded.len());
            for (record, base) in recorded.into_iter().zip(bases) {
                let created =
                    Timestamp::from_second(record.created_s).unwrap_or(Timestamp::UNIX_EPOCH);
                let layer = store.recorded(record.key.into(), created);
                if let Some(remote) = base.or(record.remote) {
                    layer.set_remote(remote);
                }
                let is_promised = layer.remote().is_some_and(|remote| remote.cached.is_some());
                let is_there = match is_promised && !trusts_caches {
                    true => layer.changes().is_some() || store.is_stored(&layer)?,
                    false => store.is_available(&layer)?,
                };
                if !is_there {
                    return Ok::<_, EngineError>(None);
                }
                layers.push(layer);
            }
            Ok(Some(layers))
        });
        let Some(layers) = layers.await?? else {
            return Ok(None);
        };
        let tree = Tree::Layers(layers);
        self.hold(std::slice::from_ref(&tree))?;
        self.begin_export(ctx.vertex, std::slice::from_ref(&tree));
        Ok(Some(tree))
    }

    fn class(&self, vertex: &Vertex) -> ResourceClass {
        match &vertex.op {
            Op::Exec(_) => ResourceClass::Run,
            Op::File(_) | Op::Diff => ResourceClass::Cpu,
            Op::Source(Source::Git(_) | Source::Http(_)) => ResourceClass::Network,
            Op::Source(_) | Op::Merge => ResourceClass::None,
        }
    }

    fn key_extras(&self, vertex: &Vertex) -> Vec<(String, String)> {
        match (&vertex.op, self.epoch_s) {
            // Of each commit, copied files have another time. What a process makes gets its time
            // when it is exported, so that another commit alone runs nothing again.
            (Op::File(_), Some(epoch_s)) => vec![("epoch".to_owned(), epoch_s.to_string())],
            _ => Vec::new(),
        }
    }
}
