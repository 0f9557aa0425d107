//! What a build reads and writes on this machine, outside the state root: where steps have the
//! root directory of the container that it lies in, all of this has to be left alone.

use std::path::{Path, PathBuf};

use crate::{BuildRequest, CachePlace, ContextSpec, DockerfileSpec, SecretSource};

impl BuildRequest {
    /// Every file and directory of this machine that the request names, as it names it.
    #[must_use]
    pub fn local_paths(&self) -> Vec<PathBuf> {
        let contexts = self.named_contexts.values().chain([&self.context]);
        let secrets = self.secrets.values().filter_map(|secret| match secret {
            SecretSource::File(path) => Some(path.clone()),
            SecretSource::Value(_) => None,
        });
        let targets = self.cache_to.iter().filter_map(|it| it.place.as_ref());
        let caches = self.cache_from.iter().map(|it| &it.place).chain(targets);
        let dockerfile = match &self.dockerfile {
            DockerfileSpec::File(path) => Some(path.clone()),
            DockerfileSpec::InContext(_) | DockerfileSpec::Text(_) => None,
        };
        contexts
            .filter_map(path_of_context)
            .chain(secrets)
            .chain(self.ssh_agents.values().cloned())
            .chain(self.outputs.iter().filter_map(|it| it.dest.clone()))
            .chain(caches.filter_map(path_of_cache))
            .chain(dockerfile)
            .collect()
    }
}

fn path_of_context(context: &ContextSpec) -> Option<PathBuf> {
    match context {
        ContextSpec::Directory(path) | ContextSpec::Archive(path) => Some(path.clone()),
        // What follows the directory begins with `:` or `@`, which it may itself contain.
        ContextSpec::OciLayout(text) => {
            let ends = text.match_indices([':', '@']).map(|(at, _)| at);
            let mut names = ends.chain([text.len()]).map(|end| &text[..end]);
            let found = names.rfind(|name| Path::new(name).is_dir());
            Some(found.unwrap_or(text).into())
        }
        ContextSpec::Empty | ContextSpec::Git(_) | ContextSpec::Http(_) | ContextSpec::Image(_) => {
            None
        }
    }
}

fn path_of_cache(place: &CachePlace) -> Option<PathBuf> {
    match place {
        CachePlace::Directory(path) => Some(path.clone()),
        CachePlace::Registry(_) => None,
    }
}
