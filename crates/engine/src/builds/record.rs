//! What is kept of a build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use longshore_graph::{redacted, redacted_url};
use longshore_oci::{Descriptor, Digest};
use longshore_solver::{CacheKey, HitKey, KeyFields, MissReason, Origin};
use serde::{Deserialize, Serialize};

use crate::{BuildRequest, ContextSpec, DockerfileSpec, OutputSpec, SeenInputs};

/// A build, without its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// What it was made of.
    pub inputs: BuildInputs,
    /// The names that its image was to get.
    pub names: Vec<String>,
    /// Where the result went: `image`, `oci to x.tar`.
    pub outputs: Vec<String>,
    /// How it ended; as a running build, until it does.
    pub status: BuildStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How it was asked for, where the front door says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<Invocation>,
    /// What it read, where it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<SeenInputs>,
    /// The image's manifest or index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Descriptor>,
    /// The image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
}

/// The words that asked for a build, for who wants to ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// The directory that relative paths are of.
    pub directory: PathBuf,
    /// The words, passwords in URLs left out.
    pub words: Vec<String>,
    /// Whether a password was left out.
    pub is_redacted: bool,
}

impl Invocation {
    /// As it was typed in `directory`.
    pub fn new(directory: PathBuf, words: &[String]) -> Self {
        let kept: Vec<String> = words.iter().map(|word| kept_word(word)).collect();
        Self {
            directory,
            is_redacted: kept != words,
            words: kept,
        }
    }
}

/// A word as it is kept: of `NAME=VALUE` the value as that of a build argument is.
fn kept_word(word: &str) -> String {
    let (flag, rest) = match word
        .strip_prefix("--")
        .and_then(|word| word.split_once('='))
    {
        Some((flag, rest)) => (format!("--{flag}="), rest),
        None => (String::new(), word),
    };
    let kept = match rest.split_once('=') {
        Some((name, value)) => {
            let argument = (name.to_owned(), value.to_owned());
            let (name, value) = kept_argument((&argument.0, &argument.1));
            format!("{name}={value}")
        }
        None => redacted_url(rest),
    };
    flag + &kept
}

/// What a build was made of. Secrets are named, never their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInputs {
    /// The context.
    pub context: String,
    /// The Dockerfile.
    pub dockerfile: String,
    /// Further contexts by name.
    pub named_contexts: BTreeMap<String, String>,
    /// The stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The platforms that were asked for.
    pub platforms: Vec<String>,
    /// The ids of secrets and ssh agents.
    pub secrets: Vec<String>,
    /// Whether every step was to run.
    pub no_cache: bool,
    /// Caches that were asked.
    pub cache_from: Vec<String>,
}

/// How a build stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// It runs.
    Running,
    /// It is done.
    Done,
    /// It failed.
    Failed,
    /// It was asked to stop.
    Canceled,
    /// Its process ended without a word.
    Interrupted,
}

/// A step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its place among the build's steps, from 1.
    pub number: usize,
    /// Its id among the build's events and logs.
    pub id: u64,
    /// Its display name.
    pub name: String,
    /// When its work began, milliseconds after the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// How long that took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How it went.
    #[serde(flatten)]
    pub outcome: StepOutcome,
    /// Its cache key, where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<CacheKey>,
    /// What the key is made of, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<KeyFields>,
    /// How many bytes it wrote.
    pub log_bytes: u64,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum StepOutcome {
    /// It was not looked at: what stands on it was found, or the build ended before.
    NotNeeded,
    /// It names what comes from elsewhere, and was looked at.
    Source,
    /// Its result was found.
    Hit {
        /// Who had it.
        from: Origin,
        /// By which of its keys.
        by: HitKey,
    },
    /// It ran to its end.
    Ran {
        /// Why.
        reason: MissReason,
    },
    /// It ran and failed.
    Failed {
        /// Why it ran; a source says nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<MissReason>,
        /// Why it failed.
        error: String,
    },
    /// It was stopped, or the build ended while it ran.
    Stopped {
        /// Why it ran, where it was to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<MissReason>,
    },
}

impl BuildRecord {
    /// Of a build that is about to start.
    pub(crate) fn starting(request: &BuildRequest) -> Self {
        Self {
            inputs: BuildInputs::of(request),
            names: request
                .tags
                .iter()
                .chain(request.outputs.iter().flat_map(|output| &output.names))
                .map(|name| name.clone().with_default_tag().to_string())
                .collect(),
            outputs: request.outputs.iter().map(output_text).collect(),
            status: BuildStatus::Running,
            error: None,
            invocation: request.invocation.clone(),
            seen: None,
            image: None,
            config: None,
        }
    }
}

impl BuildInputs {
    fn of(request: &BuildRequest) -> Self {
        let named = request.named_contexts.iter();
        Self {
            context: context_text(&request.context),
            dockerfile: match &request.dockerfile {
                DockerfileSpec::File(path) => path.display().to_string(),
                DockerfileSpec::InContext(path) => path.clone(),
                DockerfileSpec::Text(_) => "-".to_owned(),
            },
            named_contexts: named
                .map(|(name, context)| (name.clone(), context_text(context)))
                .collect(),
            target: request.target.clone(),
            build_args: request.build_args.iter().map(kept_argument).collect(),
            platforms: request.platforms.iter().map(ToString::to_string).collect(),
            secrets: request
                .secrets
                .keys()
                .chain(request.ssh_agents.keys())
                .cloned()
                .collect(),
            no_cache: request.no_cache,
            cache_from: request
                .cache_from
                .iter()
                .map(|source| source.place.to_string())
                .collect(),
        }
    }
}

fn context_text(context: &ContextSpec) -> String {
    match context {
        ContextSpec::Empty => "none".to_owned(),
        ContextSpec::Directory(path) | ContextSpec::Archive(path) => path.display().to_string(),
        ContextSpec::Git(text) | ContextSpec::Http(text) => redacted_url(text),
        ContextSpec::Image(reference) => format!("docker-image://{}", reference.familiar()),
        ContextSpec::OciLayout(text) => format!("oci-layout://{text}"),
    }
}

fn output_text(output: &OutputSpec) -> String {
    let kind = format!("{:?}", output.kind).to_lowercase();
    match &output.dest {
        Some(path) => format!("{kind} to {}", path.display()),
        None => kind,
    }
}

/// A build argument as it is kept: proxies often hold passwords, so of them the name alone,
/// and of no URL the password.
fn kept_argument((name, value): (&String, &String)) -> (String, String) {
    const PROXIES: [&str; 5] = [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "no_proxy",
        "all_proxy",
    ];
    let is_proxy = PROXIES.contains(&name.to_ascii_lowercase().as_str());
    let value = if is_proxy {
        String::new()
    } else {
        redacted(value)
    };
    (name.clone(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_without_passwords_and_say_so() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let plain = words("longshore build --build-arg A=1 -t x --target=b .");
        let kept = Invocation::new("/".into(), &plain);
        assert!(kept.words == plain && !kept.is_redacted);
        for secret in [
            "build https://u:secret@h/x.git",
            "build --build-arg URL=https://u:secret@h/x .",
            "build --build-arg=HTTP_PROXY=secret .",
            "build --build-arg http_proxy=secret .",
        ] {
            let kept = Invocation::new("/".into(), &words(secret));
            assert!(
                kept.is_redacted && !kept.words.join(" ").contains("secret"),
                "{kept:?}"
            );
        }
    }

    #[test]
    fn no_argument_is_kept_with_a_password() {
        for (name, value, kept) in [
            ("Http_Proxy", "http://u:p@h", ""),
            ("URL", "http://u:p@h/x", "http://xxxxx:xxxxx@h/x"),
            ("VERSION", "1@2", "1@2"),
        ] {
            let argument = (name.to_owned(), value.to_owned());
            let (name, value) = kept_argument((&argument.0, &argument.1));
            assert_eq!((name, value.as_str()), (argument.0, kept));
        }
    }
}
