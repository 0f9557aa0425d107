//! What the environment and configuration files say: the state root, registries, credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use longshore_engine::{Engine, EngineOptions, SandboxOptions};
use longshore_registry_client::{ClientOptions, CredentialStore, HostConfig, RegistriesConfig};
use tracing_subscriber::EnvFilter;

use crate::args::{Global, LogFormat, Sandboxing};

/// The largest configuration file that is read, bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Begins to log to standard error.
pub(crate) fn start_log(global: &Global) {
    let level = if global.debug { "debug" } else { "warn" };
    let filter = EnvFilter::try_from_env("LONGSHORE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match global.log_format {
        LogFormat::Text => log.without_time().with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Where the state is.
pub(crate) fn state_root(global: &Global) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        return Ok(root.clone());
    }
    if is_root() {
        return Ok(PathBuf::from("/var/lib/longshore"));
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(home()?.join(".local/share")));
    Ok(data
        .context("neither --root nor HOME is set")?
        .join("longshore"))
}

/// Whether the program was started as root, or became it.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// Docker's configuration file, which logins are written to.
pub(crate) fn docker_config() -> Result<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(home()?.join(".docker")));
    Ok(folder
        .context("neither DOCKER_CONFIG nor HOME is set")?
        .join("config.json"))
}

/// The files that credentials are read from, the most specific first.
pub(crate) fn credentials() -> CredentialStore {
    let docker = docker_config().ok();
    let explicit = std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|folder| Path::new(&folder).join("containers/auth.json"));
    let files = explicit.into_iter().chain(docker).chain(runtime).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    CredentialStore::new(files, std::env::split_paths(&path).collect())
}

/// What is known of registries.
pub(crate) fn registries(global: &Global) -> Result<RegistriesConfig> {
    let mut config = match &global.config {
        Some(path) => {
            let meta = std::fs::metadata(path)
                .with_context(|| format!("--config `{}`", path.display()))?;
            anyhow::ensure!(
                meta.len() <= CONFIG_BYTES_MAX,
                "--config `{}` is too large",
                path.display()
            );
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--config `{}`", path.display()))?;
            RegistriesConfig::parse(&text)
                .with_context(|| format!("--config `{}`", path.display()))?
        }
        None => RegistriesConfig::default(),
    };
    for host in &global.insecure_registry {
        let known = config
            .hosts
            .entry(host.clone())
            .or_insert_with(HostConfig::default);
        known.insecure = true;
    }
    Ok(config)
}

/// The engine that the flags and the environment describe.
pub(crate) fn engine(global: &Global) -> Result<Engine> {
    open_engine(global, SandboxOptions::default())
}

/// The engine for a command that runs processes.
pub(crate) fn engine_that_runs(global: &Global, sandboxing: &Sandboxing) -> Result<Engine> {
    let options = SandboxOptions {
        isolation: sandboxing.isolation,
        no_user_namespace: global.identity.no_user_namespace(),
        oci_runtime: sandboxing.oci_runtime.clone(),
        exports_as_caller: global.identity.is_ordinary_user(),
    };
    open_engine(global, options)
}

fn open_engine(global: &Global, sandbox: SandboxOptions) -> Result<Engine> {
    let registry = ClientOptions {
        credentials: Arc::new(credentials()),
        registries: registries(global)?,
        ..ClientOptions::anonymous()
    };
    Ok(Engine::open(EngineOptions {
        root: state_root(global)?,
        registry,
        sandbox,
        layer_form: global.layer_form,
    })?)
}

/// The runtime that waits for networks and other steps.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
