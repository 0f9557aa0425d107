//! Named contexts: what `--build-context` puts in the place of images and stages.

use longshore_graph::{GitSource, HttpSource, LocalSource, OciLayoutSource, Source};
use longshore_oci::{Platform, Reference};

use crate::error::Problem;
use crate::git;
use crate::lowering::Lowering;
use crate::options::NamedContext;

/// The file of an HTTP context.
const HTTP_FILE: &str = "context";

/// A named context that something refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundContext {
    /// As given, with its platform if it has one: shown in vertex names.
    pub(crate) name: String,
    pub(crate) context: NamedContext,
    pub(crate) platform: Platform,
}

impl Lowering<'_, '_> {
    /// The context of this name; one for the platform alone goes before one for all.
    pub(crate) fn find_context(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Option<FoundContext>, Problem> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        let wanted = short_name(name).map_err(|source| Problem::ContextName {
            name: name.to_owned(),
            source,
        })?;
        let platform = platform.unwrap_or(&self.target_platform);
        let find = |suffix: Option<&str>| {
            self.build
                .options
                .named_contexts
                .iter()
                .rev()
                .find(|(given, _)| {
                    let (given, own) = match given.split_once("::") {
                        Some((name, platform)) => (name, Some(platform)),
                        None => (given.as_str(), None),
                    };
                    own == suffix && short_name(given).as_deref().unwrap_or(given) == wanted
                })
        };
        let found = find(Some(&platform.to_string())).or_else(|| find(None));
        Ok(found.map(|(name, context)| FoundContext {
            name: name.clone(),
            context: context.clone(),
            platform: platform.clone(),
        }))
    }

    /// The source of a context's files; nothing for `scratch`. An image's tag stays open.
    pub(crate) fn context_source(&self, found: &FoundContext) -> Result<Option<Source>, Problem> {
        Ok(Some(match &found.context {
            NamedContext::Image(reference) if reference == "scratch" => return Ok(None),
            NamedContext::Image(_) | NamedContext::OciLayout { .. } => return Ok(None),
            NamedContext::Local(name) => Source::Local(LocalSource { name: name.clone() }),
            NamedContext::Git(url) => Source::Git(git_source(url)?),
            NamedContext::Http(url) => match git::parse(url) {
                Some(git) => Source::Git(git?.into_source()),
                None => Source::Http(HttpSource {
                    url: url.clone(),
                    checksum: None,
                    filename: HTTP_FILE.to_owned(),
                    mode: None,
                    owner: None,
                }),
            },
        }))
    }
}

impl FoundContext {
    /// The image's reference, with a tag; nothing if it is no image.
    pub(crate) fn image_reference(&self) -> Option<Result<Reference, Problem>> {
        let NamedContext::Image(text) = &self.context else {
            return None;
        };
        if text == "scratch" {
            return None;
        }
        let parsed = text.parse::<Reference>().map(Reference::with_default_tag);
        Some(parsed.map_err(|source| Problem::ContextImage {
            name: self.name.clone(),
            reference: text.clone(),
            source,
        }))
    }

    /// The layout's image; nothing if it is none.
    pub(crate) fn layout(&self) -> Option<OciLayoutSource> {
        let NamedContext::OciLayout {
            directory,
            reference,
        } = &self.context
        else {
            return None;
        };
        Some(OciLayoutSource {
            directory: directory.clone(),
            reference: reference.clone(),
            manifest: None,
            platform: self.platform.clone(),
        })
    }

    /// What its vertex is called.
    pub(crate) fn vertex_name(&self) -> String {
        let what = match &self.context {
            NamedContext::Image(text) | NamedContext::Git(text) | NamedContext::Http(text) => text,
            NamedContext::Local(_) => "load from client",
            NamedContext::OciLayout { .. } => "OCI load from client",
        };
        format!("[context {}] {what}", self.name)
    }

    /// The client's directory; nothing if it is none.
    pub(crate) fn local_name(&self) -> Option<&str> {
        match &self.context {
            NamedContext::Local(name) => Some(name),
            _ => None,
        }
    }
}

fn git_source(url: &str) -> Result<GitSource, Problem> {
    let git = git::parse(url).ok_or_else(|| Problem::GitContext(url.to_owned()))?;
    Ok(git?.into_source())
}

/// A name as contexts are compared by: without default registry, `library/` and `:latest`.
fn short_name(name: &str) -> Result<String, longshore_oci::ReferenceError> {
    let familiar = name.parse::<Reference>()?.familiar();
    Ok(familiar
        .strip_suffix(":latest")
        .map(str::to_owned)
        .unwrap_or(familiar))
}
