//! Reading the corpora, and a resolver that knows one image.

use std::future::Future;
use std::io::Read as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use longshore_frontend::{
    BuildOptions, ImageResolveMode, ImageResolver, ResolveError, ResolvedImage,
};
use longshore_graph::{OciLayoutSource, Source};
use longshore_oci::{ImageConfig, Platform, Reference};
use serde_json::Value;

/// Every image has this digest,
const DIGEST: &str = "sha256:a9d95ec14cd28a6b84d0109288ddc375f1fabfe7b3d1293a3d453bd8fc1e5ad8";

/// and this configuration.
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","BASE=1"],"Cmd":["/bin/sh"],"Labels":{"base":"yes"}},"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]},"history":[{"created":"2020-01-01T00:00:00Z","created_by":"base"}]}"#;

pub(crate) struct OneImage {
    config: ImageConfig,
}

impl OneImage {
    pub(crate) fn new() -> Self {
        Self {
            config: serde_json::from_str(CONFIG).unwrap(),
        }
    }
}

#[async_trait]
impl ImageResolver for OneImage {
    async fn resolve(
        &self,
        reference: &Reference,
        _platform: &Platform,
        _mode: ImageResolveMode,
    ) -> Result<ResolvedImage, ResolveError> {
        Ok(ResolvedImage {
            reference: reference.clone(),
            digest: Some(DIGEST.parse().unwrap()),
            manifest: Some(DIGEST.parse().unwrap()),
            config: self.config.clone(),
        })
    }

    async fn resolve_layout(&self, _: &OciLayoutSource) -> Result<ResolvedImage, ResolveError> {
        Err("there are no layouts".into())
    }

    async fn source_time(&self, _: &Source) -> Result<Option<i64>, ResolveError> {
        Ok(None)
    }
}

/// The cases of a corpus, or nothing (and a word about it) where there are no corpora.
#[expect(
    clippy::disallowed_methods,
    reason = "the corpus is read from disk, in tests only"
)]
pub(crate) fn cases(name: &str) -> Option<Vec<Value>> {
    let folder = std::env::var("LONGSHORE_CORPORA").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpora").to_owned()
    });
    let Ok(file) = std::fs::File::open(format!("{folder}/{name}")) else {
        println!("skipped: no {name} at {folder}");
        return None;
    };
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    Some(document["cases"].as_array().unwrap().clone())
}

/// What a case asks for.
pub(crate) fn options(case: &Value) -> BuildOptions {
    let mut options = BuildOptions::new("linux/amd64".parse().unwrap());
    options.target = case["target"].as_str().map(str::to_owned);
    options.platforms = case["platform"]
        .as_str()
        .map(|text| text.parse().unwrap())
        .into_iter()
        .collect();
    for (name, value) in case["build_args"].as_object().into_iter().flatten() {
        options
            .build_args
            .push((name.clone(), value.as_str().unwrap().to_owned()));
    }
    options
}

/// Runs a future that never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// Fails with every disagreement, or passes.
pub(crate) fn assert_none(disagreements: &[String], cases: usize) {
    assert!(
        disagreements.is_empty(),
        "{} of {cases}:\n{}",
        disagreements.len(),
        disagreements.join("\n")
    );
}
