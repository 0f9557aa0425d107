//! Whole Dockerfiles, lowered with images that are made up here.

mod behaviour;
mod contexts;
mod hostile;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use longshore_dockerfile::parse;
use longshore_graph::{Exec, FileOp, OciLayoutSource, Op, Source};
use longshore_oci::{Digest, ImageConfig, Platform, Reference};

use crate::{
    BuildOptions, ImageResolveMode, ImageResolver, LowerError, Lowered, ResolveError,
    ResolvedImage, lower,
};

/// Images by familiar name; everything else does not exist. Answers come only once as many
/// questions are open as `together` says, so that asking one after the other never ends.
#[derive(Default)]
pub(crate) struct Images {
    images: BTreeMap<String, ImageConfig>,
    asked: Mutex<Vec<String>>,
    together: usize,
    open: AtomicUsize,
    time: Option<i64>,
}

impl Images {
    pub(crate) fn new(names: &[&str]) -> Self {
        let mut images = Self::default();
        for name in names {
            images = images.with(name, |_| {});
        }
        images
    }

    /// Adds an image of one layer for linux/amd64.
    pub(crate) fn with(mut self, name: &str, change: impl FnOnce(&mut ImageConfig)) -> Self {
        let mut config = ImageConfig {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            ..ImageConfig::default()
        };
        config
            .rootfs
            .diff_ids
            .push(longshore_oci::DiffId(Digest::sha256_of(name.as_bytes())));
        change(&mut config);
        self.images.insert(name.to_owned(), config);
        self
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl ImageResolver for Images {
    async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        _mode: ImageResolveMode,
    ) -> Result<ResolvedImage, ResolveError> {
        let name = reference.familiar();
        self.asked
            .lock()
            .unwrap()
            .push(format!("{name} {platform}"));
        self.open.fetch_add(1, Ordering::SeqCst);
        std::future::poll_fn(|context| {
            if self.open.load(Ordering::SeqCst) >= self.together {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let name = name.strip_suffix(":latest").unwrap_or(&name);
        let config = self.images.get(name).ok_or("no such image")?;
        Ok(ResolvedImage {
            reference: reference.clone(),
            digest: Some(Digest::sha256_of(b"index")),
            manifest: Some(Digest::sha256_of(name.as_bytes())),
            config: config.clone(),
        })
    }

    async fn resolve_layout(
        &self,
        source: &OciLayoutSource,
    ) -> Result<ResolvedImage, ResolveError> {
        let reference: Reference = "layout:latest".parse()?;
        self.asked
            .lock()
            .unwrap()
            .push(format!("{}@{}", source.directory, source.reference));
        let config = self.images.get("layout").ok_or("no such layout")?;
        let manifest = Some(Digest::sha256_of(b"layout"));
        Ok(ResolvedImage {
            reference,
            digest: manifest,
            manifest,
            config: config.clone(),
        })
    }

    async fn source_time(&self, source: &Source) -> Result<Option<i64>, ResolveError> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("time of {source:?}"));
        Ok(self.time)
    }
}

/// Runs a future that waits for nothing but itself.
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1000 {
        if let Poll::Ready(output) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return output;
        }
    }
    panic!("it waits for ever");
}

pub(crate) fn linux() -> BuildOptions {
    BuildOptions::new("linux/amd64".parse().unwrap())
}

pub(crate) fn try_lower(
    text: &str,
    options: &BuildOptions,
    images: &Images,
) -> Result<Lowered, LowerError> {
    finish(lower(&parse(text), options, images))
}

/// Lowers what has to work, with the images `base` and `other`.
pub(crate) fn lowered(text: &str, options: &BuildOptions) -> Lowered {
    try_lower(text, options, &Images::new(&["base", "other"])).unwrap()
}

pub(crate) fn error(text: &str, options: &BuildOptions) -> LowerError {
    try_lower(text, options, &Images::new(&["base", "other"])).unwrap_err()
}

/// The names of the vertices that the first platform needs, digests cut off.
pub(crate) fn names(lowered: &Lowered) -> Vec<String> {
    let needed = lowered.graph.reachable(&[lowered.platforms[0].target]);
    let name = |id| {
        let name = lowered.graph.vertex(id).meta.name.as_str();
        name.split_once("@sha256:")
            .map_or(name, |(name, _)| name)
            .to_owned()
    };
    needed.into_iter().map(name).collect()
}

pub(crate) fn execs(lowered: &Lowered) -> Vec<&Exec> {
    let ops = lowered.graph.iter().map(|(_, vertex)| &vertex.op);
    ops.filter_map(|op| match op {
        Op::Exec(exec) => Some(exec),
        _ => None,
    })
    .collect()
}

pub(crate) fn files(lowered: &Lowered) -> Vec<&FileOp> {
    let ops = lowered.graph.iter().map(|(_, vertex)| &vertex.op);
    ops.filter_map(|op| match op {
        Op::File(file) => Some(file),
        _ => None,
    })
    .collect()
}

pub(crate) fn sources(lowered: &Lowered) -> Vec<&Source> {
    let ops = lowered.graph.iter().map(|(_, vertex)| &vertex.op);
    ops.filter_map(|op| match op {
        Op::Source(source) => Some(source),
        _ => None,
    })
    .collect()
}
