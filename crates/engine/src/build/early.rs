//! Layers that are exported while later steps still run: their blobs are written, and where the
//! image will be pushed, sent.
//!
//! Nothing waits for this work here. Who needs a blob, or needs it to be in a repository, asks
//! for that itself: it then waits for what is under way, and finds what is done. A failure shows
//! again, and is reported, when it is asked for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_content::Lease;
use longshore_frontend::{Lowered, LoweredPlatform};
use longshore_graph::VertexId;
use longshore_oci::{Digest, Reference};
use tokio::task::JoinSet;

use super::{export, layers_below};
use crate::layer::{BlobForm, Dating, Layer, LayerBlob, LayerKey, LayerStore};
use crate::upload::{RepositoryUploads, Uploads};
use crate::{BuildRequest, EngineError};

/// A form in which layers end in an output, and where that is pushed to.
#[derive(Clone, Debug)]
pub(crate) struct EarlyExport {
    form: BlobForm,
    /// Whether an output is kept here, and not only pushed.
    is_kept: bool,
    repositories: Vec<Arc<RepositoryUploads>>,
}

/// The work under way.
#[derive(Debug, Default)]
pub(crate) struct EarlyExports {
    begun: Mutex<HashSet<(LayerKey, BlobForm)>>,
    tasks: Mutex<JoinSet<()>>,
}

impl EarlyExports {
    /// Begins with a step's layer, and where the image is pushed with all those below it.
    pub(super) fn begin(
        &self,
        store: &Arc<LayerStore>,
        lease: &Arc<Lease>,
        layers: &[Arc<Layer>],
        exports: &[EarlyExport],
    ) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        for (at, layer) in layers.iter().enumerate() {
            let is_own = at + 1 == layers.len();
            let wanted = exports
                .iter()
                .filter(|export| is_own || !export.repositories.is_empty());
            let new: Vec<EarlyExport> = wanted
                .filter(|export| begun.insert((layer.key, export.form)))
                .cloned()
                .collect();
            if new.is_empty() {
                continue;
            }
            let (store, lease, layer) = (Arc::clone(store), Arc::clone(lease), Arc::clone(layer));
            tasks.spawn(async move {
                for export in new {
                    if let Err(error) = write_and_send(&store, &lease, &layer, &export).await {
                        tracing::debug!(%error, layer = layer.key.text(), "not exported early");
                    }
                }
            });
        }
    }

    /// Gives up what is under way.
    pub(super) fn stop(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

async fn write_and_send(
    store: &Arc<LayerStore>,
    lease: &Lease,
    layer: &Arc<Layer>,
    export: &EarlyExport,
) -> Result<(), EngineError> {
    let repositories = &export.repositories;
    if repositories.is_empty() {
        return store.blob_as(layer, export.form).await.map(|_| ());
    }
    let blob = place(
        store,
        lease,
        layer,
        export.form,
        export.is_kept,
        repositories,
    )
    .await?;
    // One after the other: of one registry, all but the first can take it over from that.
    for repository in repositories {
        repository
            .ensure("the image being built", &blob.descriptor)
            .await?;
    }
    Ok(())
}

/// A layer's blob in the form that an output wishes, where its image needs it. That of an image
/// which is only pushed to where it came from never comes here.
pub(super) async fn place(
    store: &Arc<LayerStore>,
    lease: &Lease,
    layer: &Arc<Layer>,
    form: BlobForm,
    is_kept: bool,
    repositories: &[Arc<RepositoryUploads>],
) -> Result<LayerBlob, EngineError> {
    let origin = layer.origin();
    if let Some((blob, origin)) = &origin {
        for repository in repositories {
            repository.note_origin(&blob.descriptor.digest, origin);
        }
    }
    if !is_kept
        && !form.force
        && let Some((blob, origin)) = origin
        && is_taken_over(store, &blob.descriptor.digest, &origin, repositories).await?
    {
        return Ok(blob);
    }
    let blob = store.blob_as(layer, form).await?;
    lease.add_blobs([&blob.descriptor.digest])?;
    store.ensure_stored(layer, &blob).await?;
    Ok(blob)
}

/// Whether all `repositories` have a blob now that is not here.
async fn is_taken_over(
    store: &LayerStore,
    digest: &Digest,
    origin: &Reference,
    repositories: &[Arc<RepositoryUploads>],
) -> Result<bool, EngineError> {
    if repositories.is_empty() || store.has_blob(digest)? {
        return Ok(false);
    }
    for repository in repositories {
        if !repository.take_over(digest, origin).await {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The vertices whose layers end in outputs as blobs, and how: in forms with the files' own
/// times first, for from them the others can be made.
pub(super) fn exported_vertices(
    lowered: &Lowered,
    request: &BuildRequest,
    dating: Dating,
    uploads: &Uploads,
) -> HashMap<VertexId, Vec<EarlyExport>> {
    let mut exported: HashMap<VertexId, Vec<EarlyExport>> = HashMap::new();
    // Of what is squashed, no part is exported.
    if request.squash {
        return exported;
    }
    for platform in &lowered.platforms {
        let exports = exports_of(platform, request, dating, uploads);
        if exports.is_empty() {
            continue;
        }
        let mut open = vec![platform.target];
        let mut seen = HashSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            open.extend(layers_below(&lowered.graph, id));
            let known = exported.entry(id).or_default();
            for export in &exports {
                if known.iter().all(|known| known.form != export.form) {
                    known.push(export.clone());
                }
            }
        }
    }
    exported
}

/// How a platform's layers are exported, each form once.
fn exports_of(
    platform: &LoweredPlatform,
    request: &BuildRequest,
    dating: Dating,
    uploads: &Uploads,
) -> Vec<EarlyExport> {
    let mut exports: Vec<EarlyExport> = Vec::new();
    for output in request
        .outputs
        .iter()
        .filter(|output| output.kind.is_image())
    {
        let form = export::blob_form(output, platform, dating);
        let at = exports.iter().position(|known| known.form == form);
        let at = at.unwrap_or_else(|| {
            exports.push(EarlyExport {
                form,
                is_kept: false,
                repositories: Vec::new(),
            });
            exports.len() - 1
        });
        exports[at].is_kept |= export::is_kept(output);
        let names = export::names_of(output, &request.tags);
        for name in names.iter().filter(|_| output.push) {
            let repository = uploads.to(name);
            let known = &mut exports[at].repositories;
            if !known.iter().any(|known| Arc::ptr_eq(known, &repository)) {
                known.push(repository);
            }
        }
    }
    exports.sort_by_key(|export| export.form.epoch);
    exports
}
