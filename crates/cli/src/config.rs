//! What the environment and configuration files say: the state root, registries, credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use longshore_engine::{
    Engine, EngineOptions, HistoryLimits, SandboxOptions, SpaceLimits, UnpackLimits,
};
use longshore_registry_client::{ClientOptions, CredentialStore, HostConfig, RegistriesConfig};
use longshore_runner::{Isolation, Network};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;

use crate::args::{Global, HistoryBounds, LogFormat, Sandboxing, SpaceBounds};
use crate::report::Usage;
use crate::units;

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
pub(crate) fn credential_files() -> Vec<PathBuf> {
    let docker = docker_config().ok();
    let explicit = std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|folder| Path::new(&folder).join("containers/auth.json"));
    explicit.into_iter().chain(docker).chain(runtime).collect()
}

/// Where credentials come from.
pub(crate) fn credentials() -> CredentialStore {
    let path = std::env::var_os("PATH").unwrap_or_default();
    CredentialStore::new(credential_files(), std::env::split_paths(&path).collect())
}

/// The text of the configuration file, with its name for messages.
fn file(global: &Global) -> Result<Option<(String, String)>> {
    let Some(path) = &global.config else {
        return Ok(None);
    };
    let name = format!("--config `{}`", path.display());
    let meta = std::fs::metadata(path).with_context(|| name.clone())?;
    anyhow::ensure!(meta.len() <= CONFIG_BYTES_MAX, "{name} is too large");
    let text = std::fs::read_to_string(path).with_context(|| name.clone())?;
    Ok(Some((name, text)))
}

/// Some tables of the configuration file, with its name for messages.
fn tables<T: DeserializeOwned>(global: &Global) -> Result<Option<(String, T)>> {
    let Some((name, text)) = file(global)? else {
        return Ok(None);
    };
    let tables = toml::from_str(&text).with_context(|| name.clone())?;
    Ok(Some((name, tables)))
}

/// What is known of registries.
pub(crate) fn registries(global: &Global) -> Result<RegistriesConfig> {
    let mut config = match file(global)? {
        Some((name, text)) => RegistriesConfig::parse(&text).context(name)?,
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

/// What the configuration file says of the build cache's space, in BuildKit's words.
#[derive(Debug, Default, Deserialize)]
struct GcFile {
    #[serde(default)]
    gc: GcTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct GcTable {
    reserved_space: Option<String>,
    max_used_space: Option<String>,
    min_free_space: Option<String>,
    history_builds: Option<usize>,
    history_bytes: Option<String>,
}

/// What the configuration file says of what archives and layers may hold.
#[derive(Debug, Default, Deserialize)]
struct UnpackFile {
    #[serde(default)]
    unpack: UnpackTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct UnpackTable {
    max_size: Option<String>,
    max_ratio: Option<u64>,
    free_size: Option<String>,
}

/// What archives and layers may hold.
fn unpack_limits(global: &Global) -> Result<UnpackLimits> {
    let mut limits = UnpackLimits::LAYER;
    let Some((name, said)) = tables::<UnpackFile>(global)? else {
        return Ok(limits);
    };
    let size = |key: &str, text: Option<String>, default: u64| {
        let size = text.map(|text| units::parse_bytes(&text)).transpose();
        let size = size.with_context(|| format!("{name}: `{key}` of [unpack]"))?;
        anyhow::Ok(size.unwrap_or(default))
    };
    limits.output_bytes_max = size("maxSize", said.unpack.max_size, limits.output_bytes_max)?;
    limits.ratio_free_bytes = size("freeSize", said.unpack.free_size, limits.ratio_free_bytes)?;
    limits.ratio_max = said.unpack.max_ratio.unwrap_or(limits.ratio_max);
    let is_some = limits.ratio_max > 0 && limits.output_bytes_max > 0;
    anyhow::ensure!(
        is_some,
        "{name}: a limit of [unpack] is 0: nothing could be unpacked"
    );
    Ok(limits)
}

/// What the configuration file says of networks.
#[derive(Debug, Default, Deserialize)]
struct NetworkFile {
    #[serde(default)]
    network: NetworkTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NetworkTable {
    default: Option<String>,
}

fn gc_table(global: &Global) -> Result<GcTable> {
    let said = tables::<GcFile>(global)?;
    Ok(said.map(|(_, said)| said.gc).unwrap_or_default())
}

/// How much of the history of builds is kept: as the flags say, the environment, or the file.
pub(crate) fn history(global: &Global, bounds: &HistoryBounds) -> Result<HistoryLimits> {
    let of_file = gc_table(global)?;
    let mut limits = HistoryLimits::default();
    if let Some(builds) = bounds.history_builds.or(of_file.history_builds) {
        limits.builds = builds;
    }
    let bytes = bounds.history_bytes.as_ref();
    if let Some(bytes) = bytes.or(of_file.history_bytes.as_ref()) {
        limits.bytes = units::parse_bytes(bytes).context("--history-bytes")?;
    }
    Ok(limits)
}

/// What the build cache may take: as the flags say, the environment, or the file.
pub(crate) fn space(global: &Global, bounds: &SpaceBounds) -> Result<SpaceLimits> {
    let of_file = gc_table(global)?;
    let limit = |flag: &str, said: &Option<String>, file: &Option<String>| {
        let text = said.as_ref().or(file.as_ref());
        let space = text.map(|text| units::parse_space(text));
        space.transpose().with_context(|| flag.to_owned())
    };
    Ok(SpaceLimits {
        reserved: limit(
            "--reserved-space",
            &bounds.reserved_space,
            &of_file.reserved_space,
        )?,
        max_used: limit(
            "--max-used-space",
            &bounds.max_used_space,
            &of_file.max_used_space,
        )?,
        min_free: limit(
            "--min-free-space",
            &bounds.min_free_space,
            &of_file.min_free_space,
        )?,
    })
}

/// The engine that the flags and the environment describe.
pub(crate) fn engine(global: &Global) -> Result<Engine> {
    open_engine(global, SandboxOptions::default(), SpaceLimits::default())
}

/// The engine for a build.
pub(crate) fn engine_that_builds(
    global: &Global,
    sandboxing: &Sandboxing,
    bounds: &SpaceBounds,
    kept_in_place: Vec<PathBuf>,
) -> Result<Engine> {
    let mut sandbox = sandbox(global, sandboxing)?;
    sandbox.kept_in_place = kept_in_place;
    open_engine(global, sandbox, space(global, bounds)?)
}

/// The engine for a command that runs processes.
pub(crate) fn engine_that_runs(global: &Global, sandboxing: &Sandboxing) -> Result<Engine> {
    if sandboxing.isolation == Isolation::InPlace {
        let reason =
            "--isolation inplace is for builds: a container would take the place of this one";
        return Err(Usage(reason.to_owned()).into());
    }
    open_engine(global, sandbox(global, sandboxing)?, SpaceLimits::default())
}

fn sandbox(global: &Global, sandboxing: &Sandboxing) -> Result<SandboxOptions> {
    Ok(SandboxOptions {
        default_network: default_network(global, sandboxing)?,
        isolation: sandboxing.isolation,
        insist_in_place: sandboxing.inplace_force,
        kept_in_place: Vec::new(),
        no_user_namespace: global.identity.no_user_namespace(),
        oci_runtime: sandboxing.oci_runtime.clone(),
        exports_as_caller: global.identity.is_ordinary_user(),
    })
}

/// The network of what asks for none in particular: as the flag says, the environment, or the file.
fn default_network(global: &Global, sandboxing: &Sandboxing) -> Result<Network> {
    if let Some(network) = sandboxing.default_network {
        return Ok(network);
    }
    let Some((name, said)) = tables::<NetworkFile>(global)? else {
        return Ok(Network::default());
    };
    let network = said.network.default.map(|text| text.parse());
    Ok(network.transpose().context(name)?.unwrap_or_default())
}

fn open_engine(global: &Global, sandbox: SandboxOptions, space: SpaceLimits) -> Result<Engine> {
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
        space,
        unpack: unpack_limits(global)?,
    })?)
}

/// The runtime that waits for networks and other steps.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
