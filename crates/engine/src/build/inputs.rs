//! Finds a build's Dockerfile, contexts and ignore files.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use longshore_dockerfile::ignore::Matcher;
use longshore_frontend::{
    BuildOptions, ContextSource, ImageResolveMode, MainContext, NamedContext, NoCache,
};
use longshore_graph::Source;
use longshore_layers::context::TimePolicy;
use longshore_layers::{
    Decompressor, Devices, DirectoryForm, DirectoryOptions, NoLowerLayers, Ownership, TarLimits,
    unpack,
};
use longshore_oci::Platform;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::executor::LocalDirectory;
use super::main_context::{Place, whole_git_url};
use crate::context::ignore_patterns;
use crate::lock_file::LockPlace;
use crate::remote::{Remotes, commit_time};
use crate::{BuildRequest, ContextSpec, Engine, EngineError};

/// The name of the main context among the client's directories.
pub(super) const CONTEXT: &str = "context";

/// When the commit of a context that is just that was made, seconds since 1970; found once,
/// when it is first asked for.
pub(super) type CommitTime = Shared<BoxFuture<'static, Option<i64>>>;

/// What a build reads.
#[derive(Debug)]
pub(super) struct Inputs {
    /// The Dockerfile's bytes, as they are.
    pub(super) dockerfile: Vec<u8>,
    /// Its name for messages.
    pub(super) dockerfile_name: String,
    /// The client's directories by name.
    pub(super) locals: BTreeMap<String, LocalDirectory>,
    main: ContextSource,
    named: Vec<(String, NamedContext)>,
    ignore: Option<Matcher>,
    /// Holds what was unpacked; removed with the build.
    pub(super) place: Place,
    /// The lock file of the Dockerfile.
    pub(super) lock: LockPlace,
}

impl Inputs {
    /// Reads the Dockerfile and the ignore files; scans nothing yet.
    pub(super) async fn read(
        engine: &Engine,
        request: &BuildRequest,
        remotes: &Remotes,
    ) -> Result<Self, EngineError> {
        let place = Place::of(engine, request, remotes).await?;
        let request = request.clone();
        spawn_blocking(move || Self::read_now(&request, place)).await?
    }

    fn read_now(request: &BuildRequest, place: Place) -> Result<Self, EngineError> {
        let dockerfile = place.dockerfile(&request.dockerfile)?;
        let mut locals = BTreeMap::new();
        let mut ignore = None;
        if let Some(directory) = place.directory() {
            let meta = std::fs::metadata(directory)
                .map_err(EngineError::io("open the context", directory))?;
            if !meta.is_dir() {
                return Err(EngineError::Invalid(format!(
                    "context `{}` is not a directory",
                    directory.display()
                )));
            }
            // An archive comes as it is: ignore files are for directories.
            if matches!(place, Place::Directory(_)) {
                ignore = ignore_patterns(Some(directory), dockerfile.path.as_deref())?
                    .map(|(_, matcher)| matcher);
            }
            locals.insert(
                CONTEXT.to_owned(),
                local(request, directory.to_owned(), ignore.clone()),
            );
        }
        let named = named_contexts(request, &mut locals)?;
        Ok(Self {
            dockerfile: dockerfile.bytes,
            dockerfile_name: dockerfile.name,
            locals,
            main: place.source(),
            lock: dockerfile.lock,
            named,
            ignore,
            place,
        })
    }

    /// When the context's commit was made, where it is a repository or a clean work tree.
    pub(super) fn commit_time(&self, engine: &Engine, remotes: &Arc<Remotes>) -> CommitTime {
        let (engine, remotes) = (engine.clone(), Arc::clone(remotes));
        match &self.place {
            Place::Git { source, .. } => {
                let source = Source::Git(source.clone());
                let time = async move { remotes.time_of(&source).await.ok().flatten() };
                time.boxed().shared()
            }
            Place::Directory(path) => {
                let path = path.clone();
                let time = async move { commit_time(&engine, &path).await };
                time.boxed().shared()
            }
            _ => std::future::ready(None).boxed().shared(),
        }
    }

    /// Gives the files of a work tree the time of its commit: git keeps no other.
    pub(super) fn date_work_tree(&mut self, seconds: i64) {
        if !matches!(self.place, Place::Directory(_)) {
            return;
        }
        if let Some(directory) = self.locals.get_mut(CONTEXT) {
            directory.times = TimePolicy::At(longshore_layers::Timestamp {
                seconds,
                nanoseconds: 0,
            });
        }
    }

    /// The frontend's options for a request.
    pub(super) fn options(&self, request: &BuildRequest) -> Result<BuildOptions, EngineError> {
        let no_cache = match (request.no_cache, request.no_cache_filter.is_empty()) {
            (true, _) => NoCache::All,
            (false, false) => NoCache::Stages(request.no_cache_filter.clone()),
            (false, true) => NoCache::Nothing,
        };
        Ok(BuildOptions {
            target: request.target.clone(),
            build_args: request.build_args.clone().into_iter().collect(),
            platforms: request.platforms.clone(),
            labels: request.labels.clone().into_iter().collect(),
            named_contexts: self.named.clone(),
            main_context: MainContext::of(self.main.clone()),
            no_cache,
            network: request.network,
            add_hosts: request.extra_hosts.clone(),
            shm_size_bytes: request.shm_size_bytes,
            ulimits: request.ulimits.clone(),
            resources: request.resources.clone(),
            cgroup_parent: request.cgroup_parent.clone(),
            image_resolve: if request.pull {
                ImageResolveMode::ForcePull
            } else {
                ImageResolveMode::PreferLocal
            },
            ignore: self.ignore.clone(),
            ..BuildOptions::new(Platform::host())
        })
    }
}

fn local(request: &BuildRequest, path: PathBuf, ignore: Option<Matcher>) -> LocalDirectory {
    LocalDirectory {
        path,
        ignore,
        modes: request.context_modes,
        times: TimePolicy::Host,
        scanned: OnceCell::new(),
    }
}

/// An image is a context for what copies from it by name alone, as with Buildx.
pub(super) fn not_a_main_context(place: &str) -> EngineError {
    EngineError::Invalid(format!(
        "`{place}`: an image cannot be the build's context; give it a name with \
         `--build-context NAME={place}`, and copy from that"
    ))
}

fn named_contexts(
    request: &BuildRequest,
    locals: &mut BTreeMap<String, LocalDirectory>,
) -> Result<Vec<(String, NamedContext)>, EngineError> {
    let mut named = Vec::new();
    for (name, spec) in &request.named_contexts {
        let context = match spec {
            ContextSpec::Image(reference) => NamedContext::Image(reference.to_string()),
            ContextSpec::Git(url) => NamedContext::Git(whole_git_url(url)),
            ContextSpec::Http(url) => NamedContext::Http(url.clone()),
            ContextSpec::OciLayout(place) => {
                let (directory, reference) = split_layout(place);
                NamedContext::OciLayout {
                    directory,
                    reference,
                }
            }
            ContextSpec::Directory(path) => {
                let key = format!("context:{name}");
                // A named context's own ignore file alone counts for it.
                let ignore = ignore_patterns(Some(path), None)?.map(|(_, matcher)| matcher);
                locals.insert(key.clone(), local(request, path.clone(), ignore));
                NamedContext::Local(key)
            }
            ContextSpec::Empty | ContextSpec::Archive(_) => {
                return Err(EngineError::Invalid(format!(
                    "the named context `{name}` cannot be empty or an archive"
                )));
            }
        };
        named.push((name.clone(), context));
    }
    Ok(named)
}

/// `DIR[:tag][@digest]`.
fn split_layout(place: &str) -> (String, String) {
    if let Some((directory, digest)) = place.split_once('@') {
        let directory = directory
            .rsplit_once(':')
            .map_or(directory, |(directory, _)| directory);
        return (directory.to_owned(), digest.to_owned());
    }
    match place.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory.to_owned(), tag.to_owned()),
        _ => (place.to_owned(), String::new()),
    }
}

/// Unpacks a context archive; its owner's files, none of its devices.
pub(super) fn unpack_archive(
    engine: &Engine,
    path: &Path,
) -> Result<tempfile::TempDir, EngineError> {
    let failed = || path.display().to_string();
    let mut file = std::fs::File::open(path).map_err(EngineError::io("open the context", path))?;
    let folder = tempfile::Builder::new()
        .prefix("context-")
        .tempdir_in(engine.root().tmp_dir())
        .map_err(EngineError::io(
            "make a directory below",
            engine.root().tmp_dir(),
        ))?;
    let mut magic = [0; 1];
    let count = file
        .read(&mut magic)
        .map_err(EngineError::io("read", path))?;
    if count == 0 {
        return Err(EngineError::Invalid(format!(
            "context `{}` is empty",
            path.display()
        )));
    }
    drop(file);
    let file = std::fs::File::open(path).map_err(EngineError::io("open the context", path))?;
    let input =
        Decompressor::new(file, engine.unpack_limits()).map_err(EngineError::layer(failed()))?;
    let mut options = DirectoryOptions::new(DirectoryForm::Merged);
    options.ownership = Ownership::Ignore;
    options.devices = Devices::Skip;
    let directory =
        std::fs::File::open(folder.path()).map_err(EngineError::io("open", folder.path()))?;
    unpack(
        input,
        &directory,
        &options,
        TarLimits::within(&engine.unpack_limits()),
        &NoLowerLayers,
    )
    .map_err(EngineError::layer(failed()))?;
    Ok(folder)
}
