//! Finds what image names in a Dockerfile stand for: in the local store, else in a registry.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use longshore_frontend::{ImageResolveMode, ImageResolver, ResolveError, ResolvedImage};
use longshore_graph::{OciLayoutSource, Source};
use longshore_oci::{Descriptor, Digest, Platform, Reference};
use tokio::task::spawn_blocking;

use super::executor::ResolvedSource;
use super::inputs::{CONTEXT, CommitTime};
use super::last_resolved;
use crate::image::{ImageStore, PlatformImage, parse_config};
use crate::lock_file::Held;
use crate::progress::{ProgressEvent, ProgressSink};
use crate::remote::Remotes;
use crate::transfer::Resolved;
use crate::{Engine, EngineError};

/// Resolves names for one build, and remembers where what it found came from.
pub(crate) struct Resolver {
    pub(crate) engine: Engine,
    pub(crate) found: Arc<Mutex<HashMap<Digest, ResolvedSource>>>,
    pub(crate) lease: Arc<longshore_content::Lease>,
    pub(crate) remotes: Arc<Remotes>,
    pub(crate) progress: Arc<dyn ProgressSink>,
    pub(crate) commit_time: CommitTime,
    pub(crate) held: Arc<Held>,
}

impl Resolver {
    fn remember(&self, descriptor: &Descriptor, repository: &Reference) -> Result<(), EngineError> {
        self.lease.add_blobs([&descriptor.digest])?;
        let source = ResolvedSource {
            repository: repository.without_version(),
            media_type: descriptor.media_type.clone(),
        };
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(descriptor.digest, source);
        Ok(())
    }

    /// The image of this name in the local store, if it runs on `platform` and all of it is here.
    async fn local(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<(Digest, PlatformImage)>, EngineError> {
        let (store, root) = (
            ImageStore::new(self.engine.root().clone()),
            self.engine.root().clone(),
        );
        let (reference, platform) = (reference.clone(), platform.clone());
        spawn_blocking(move || {
            let Some(image) = store.by_reference(&reference)? else {
                return Ok(None);
            };
            match store.read(&image, &platform) {
                // A manifest without an index is taken as it is; the build check warns of it.
                Ok(found) => {
                    for layer in &found.manifest.layers {
                        if root.blobs().info(&layer.digest)?.is_none() {
                            return Ok(None);
                        }
                    }
                    Ok(Some((image.descriptor.digest, found)))
                }
                Err(EngineError::NoPlatform { .. } | EngineError::Missing { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?
    }

    /// What the registry says; where it cannot be asked, what it said last.
    async fn ask(
        &self,
        reference: &Reference,
        platform: &Platform,
        mode: ImageResolveMode,
    ) -> Result<Resolved, EngineError> {
        let asked = self.ask_registry(reference, platform).await;
        let root = self.engine.root().clone();
        let (reference, platform) = (reference.clone(), platform.clone());
        match asked {
            Ok(resolved) => {
                spawn_blocking(move || {
                    last_resolved::remember(&root, &reference, &platform, &resolved)?;
                    Ok(resolved)
                })
                .await?
            }
            Err(EngineError::Registry(error))
                if error.is_unavailable() && mode != ImageResolveMode::ForcePull =>
            {
                let name = reference.familiar();
                let known =
                    spawn_blocking(move || last_resolved::recall(&root, &reference, &platform));
                let Some((resolved, said)) = known.await?? else {
                    return Err(EngineError::Registry(error));
                };
                let minutes = said.elapsed().unwrap_or_default().as_secs() / 60;
                self.progress.emit(ProgressEvent::Note(format!(
                    "warning: `{name}` is taken for what it was when it was last resolved, {minutes} minutes ago or less, {}: {error}",
                    resolved.top.digest
                )));
                Ok(resolved)
            }
            Err(error) => Err(error),
        }
    }

    /// Where a reference was resolved before, with one request without a body.
    async fn ask_registry(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, EngineError> {
        let (root, registry) = (self.engine.root(), self.engine.registry());
        let known = {
            let (root, reference, platform) = (root.clone(), reference.clone(), platform.clone());
            spawn_blocking(move || last_resolved::recall(&root, &reference, &platform)).await??
        };
        if let Some((known, _)) = known {
            let now = registry.resolve(reference).await?;
            if now.descriptor.digest == known.top.digest {
                return Ok(known);
            }
        }
        crate::transfer::resolve(root, registry, reference, platform).await
    }

    /// The documents come from the registry; its layers when something needs them.
    async fn remote(
        &self,
        reference: &Reference,
        platform: &Platform,
        mode: ImageResolveMode,
    ) -> Result<ResolvedImage, EngineError> {
        let name = reference.familiar();
        let engine = &self.engine;
        let here = match mode {
            ImageResolveMode::ForcePull => None,
            _ => crate::transfer::resolve_here(engine.root(), reference, platform)?,
        };
        let resolved = match here {
            Some(resolved) => resolved,
            None => {
                self.progress.emit(ProgressEvent::Note(format!(
                    "resolving {name} for {platform}"
                )));
                self.ask(reference, platform, mode).await?
            }
        };
        self.remember(&resolved.descriptor, reference)?;
        let store = ImageStore::new(engine.root().clone());
        let limit = longshore_oci::DOCUMENT_BYTES_MAX as u64;
        let bytes = store.bytes(
            &name,
            "configuration",
            resolved.manifest.config.digest,
            limit,
        )?;
        Ok(ResolvedImage {
            reference: reference.clone(),
            digest: Some(resolved.top.digest),
            manifest: Some(resolved.descriptor.digest),
            config: parse_config(&name, &bytes)?,
        })
    }
}

#[async_trait]
impl ImageResolver for Resolver {
    async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        mode: ImageResolveMode,
    ) -> Result<ResolvedImage, ResolveError> {
        let Some(digest) = self.held.image(reference)? else {
            let found = self.find(reference, platform, mode).await?;
            if let Some(digest) = found.digest {
                self.held.found_image(reference, digest);
            }
            return Ok(found);
        };
        self.held.found_image(reference, digest);
        // What a digest names is the same everywhere.
        let mode = ImageResolveMode::PreferLocal;
        let found = self
            .find(&reference.with_digest(digest), platform, mode)
            .await;
        let found = found.map_err(|error| match error {
            EngineError::Registry(error) if !error.is_unavailable() => {
                let (name, value) = (reference.familiar(), digest.to_string());
                let gone = self
                    .held
                    .gone("image", name, value, EngineError::Registry(error));
                EngineError::from(gone)
            }
            other => other,
        })?;
        Ok(ResolvedImage {
            reference: reference.clone(),
            ..found
        })
    }

    async fn resolve_layout(
        &self,
        source: &OciLayoutSource,
    ) -> Result<ResolvedImage, ResolveError> {
        let OciLayoutSource {
            directory,
            reference,
            ..
        } = source;
        let held = self.held.layout(directory, reference)?;
        let found = self.find_layout(source, held).await?;
        if let Some(digest) = found.digest {
            self.held.found_layout(directory, reference, digest);
        }
        Ok(found)
    }

    async fn source_time(&self, source: &Source) -> Result<Option<i64>, ResolveError> {
        match source {
            Source::Local(local) if local.name == CONTEXT => Ok(self.commit_time.clone().await),
            source => Ok(self.remotes.time_of(source).await?),
        }
    }
}

impl Resolver {
    /// Takes the image from another root, where one lends it.
    async fn borrow(&self, reference: &Reference, platform: &Platform) -> Result<(), EngineError> {
        if !self.engine.borrows_images() {
            return Ok(());
        }
        let engine = self.engine.clone();
        let (reference, platform) = (reference.clone(), platform.clone());
        spawn_blocking(move || engine.borrow_image(&reference, &platform)).await?
    }

    async fn find(
        &self,
        reference: &Reference,
        platform: &Platform,
        mode: ImageResolveMode,
    ) -> Result<ResolvedImage, EngineError> {
        if mode != ImageResolveMode::ForcePull {
            self.borrow(reference, platform).await?;
            if let Some((top, image)) = self.local(reference, platform).await? {
                self.remember(&image.descriptor, reference)?;
                return Ok(ResolvedImage {
                    reference: reference.clone(),
                    digest: Some(top),
                    manifest: Some(image.descriptor.digest),
                    config: image.config,
                });
            }
        }
        self.remote(reference, platform, mode).await
    }

    /// The layout's image; the one of a digest, where that is known.
    async fn find_layout(
        &self,
        source: &OciLayoutSource,
        held: Option<Digest>,
    ) -> Result<ResolvedImage, EngineError> {
        let (root, source) = (self.engine.root().clone(), source.clone());
        let platform = source.platform.clone();
        let found = spawn_blocking(move || {
            let directory = Path::new(&source.directory);
            let wanted = held.map_or(source.reference, |digest| digest.to_string());
            crate::layout::take(&root, directory, &wanted, &platform)
        });
        let (top, image) = found.await??;
        let reference: Reference = crate::layout::REFERENCE
            .parse()
            .expect("a constant reference");
        self.remember(&image.descriptor, &reference)?;
        Ok(ResolvedImage {
            reference,
            digest: Some(top),
            manifest: Some(image.descriptor.digest),
            config: image.config,
        })
    }
}
