//! Running a step's process: mounts, output, and what it changed.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_graph::{
    Exec, Mount, MountKind, NetworkMode, Resources, SecretMount, SecurityMode, SshMount, Ulimit,
};
use longshore_layers::{Change, LayerIndex, Ownership, TreeView, diff_upper};
use longshore_runner::{
    BindSource, Cancel, Ended, ExtraHost, Limits, MountSource, Network, ProcessIo, ProcessSpec,
    Refused, Rlimit, Rootfs, RunError, Runner, Secret, Security, Stream,
};
use longshore_snapshot::{ActiveSnapshot, RootFs, Snapshotter as _, Stacking, View};
use longshore_solver::{BoxError, LogStream, StepContext};
use tokio::task::spawn_blocking;

use super::agent::ForwardedAgent;
use super::cache_mount::{CacheMounts, HeldCache, MountWish};
use super::executor::BuildExecutor;
use crate::layer::Layer;
use crate::tree::Tree;

/// A command ended with something else than success.
#[derive(Clone, Debug)]
pub struct CommandFailed {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// How it ended: an exit code, or 128 and a signal's number.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed something of it for lack of memory.
    pub out_of_memory: bool,
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {:?} did not complete successfully: exit code: {}",
            self.args.join(" "),
            self.code
        )?;
        match (self.out_of_memory, self.signal) {
            (true, _) => f.write_str(" (out of memory)"),
            (false, Some(signal)) => write!(f, " (signal {signal})"),
            (false, None) => Ok(()),
        }
    }
}

impl std::error::Error for CommandFailed {}

/// A command took longer than it may.
#[derive(Clone, Debug)]
struct CommandTimedOut {
    args: Vec<String>,
    after: Duration,
}

impl fmt::Display for CommandTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { args, after } = self;
        let command = args.join(" ");
        write!(
            f,
            "process {command:?} did not complete within {after:?} and was killed"
        )
    }
}

impl std::error::Error for CommandTimedOut {}

/// What every step has, and no step from its image.
const STANDARD_FILES: [&str; 7] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/mtab",
];

/// What stays alive while the process runs.
#[derive(Default)]
struct Held {
    writable: Vec<ActiveSnapshot>,
    views: Vec<View>,
    caches: Vec<HeldCache>,
    agents: Vec<ForwardedAgent>,
}

/// The root of a step: what it stands on, and where its writes go.
struct Root {
    layers: Vec<Arc<Layer>>,
    view: TreeView,
    active: ActiveSnapshot,
    /// The second before it was made, by the file system's clock: what is later was made in it.
    before: Timestamp,
}

/// Runs `op`; the trees of its outputs.
pub(crate) async fn run(
    executor: &BuildExecutor,
    ctx: &StepContext,
    op: &Exec,
    inputs: &[Tree],
) -> Result<Vec<Tree>, BoxError> {
    let runner = executor.engine.runner()?;
    let root_mount = op
        .mounts
        .first()
        .filter(|mount| mount.target == "/")
        .ok_or("a step has no root")?;
    // Where all steps have the same directory, they have it one after the other.
    let _turn = executor.engine.turn().await;
    let mut root = prepare(executor, root_mount, inputs).await?;
    for path in root.active.left_out() {
        if !STANDARD_FILES.contains(&path.as_str()) {
            ctx.warn(format!(
                "{path} is this container's own: what the image has there, the step does not see"
            ));
        }
    }
    let mut held = Held::default();
    let default_network = executor.engine.default_network();
    let mut spec = specification(op, rootfs(root.active.rootfs()?), default_network)?;
    spec.timeout = executor.step_timeout;
    for mount in &op.mounts[1..] {
        let mount = Mount {
            target: absolute(&op.cwd, &mount.target),
            ..mount.clone()
        };
        add_mount(executor, ctx, &mut spec, &mut held, &mount, inputs).await?;
    }
    process(runner, ctx, op, spec).await?;
    let used_mounts = !held.caches.is_empty();
    drop(held);
    if used_mounts {
        executor.space.used_mount();
    }
    let keeps_writes = root_mount.output.is_some();
    let tree = if keeps_writes {
        commit(executor, root).await?
    } else {
        Tree::Layers(root.layers)
    };
    let count = op
        .mounts
        .iter()
        .filter_map(|mount| mount.output)
        .max()
        .map_or(1, |highest| highest + 1);
    if count > 1 {
        return Err("writable mounts that are kept beside the root are not supported".into());
    }
    Ok(vec![tree])
}

async fn prepare(
    executor: &BuildExecutor,
    mount: &Mount,
    inputs: &[Tree],
) -> Result<Root, BoxError> {
    let layers = match mount.input {
        Some(at) => {
            executor
                .as_layers(
                    inputs
                        .get(at)
                        .ok_or("a mount names an input that is not there")?,
                )
                .await?
        }
        None => Vec::new(),
    };
    let store = executor.layers();
    executor.hold_layers(layers.iter().map(|layer| layer.key))?;
    let parents = store.directories(&layers).await?;
    let view = store.view(&layers).await?;
    let snapshots = Arc::clone(store.snapshots());
    let prepared = spawn_blocking(move || {
        let active = snapshots.prepare_root(&parents)?;
        let began = std::fs::metadata(active.upper_path())?.ctime();
        Ok::<_, BoxError>((active, Timestamp::from_second(began - 1)?))
    });
    let (active, before) = prepared.await??;
    Ok(Root {
        layers,
        view,
        active,
        before,
    })
}

fn rootfs(root: RootFs) -> Rootfs {
    match root {
        RootFs::Path(path) => Rootfs::Path(path),
        RootFs::Mount(mount) => Rootfs::Mount(mount),
    }
}

fn specification(
    op: &Exec,
    rootfs: Rootfs,
    default_network: Network,
) -> Result<ProcessSpec, BoxError> {
    let mut env: BTreeMap<&str, &str> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    // As in BuildKit, a proxy that is given to the build goes before the image's.
    let proxies = op.proxy_env.iter();
    for (name, value) in op
        .env
        .iter()
        .map(|(name, value)| (name, value))
        .chain(proxies)
    {
        if env.insert(name, value).is_none() {
            order.push(name);
        }
    }
    let mut spec = ProcessSpec::new(rootfs, op.args.iter().map(String::as_str));
    spec.env = order
        .iter()
        .map(|name| format!("{name}={}", env[name]))
        .collect();
    spec.cwd.clone_from(&op.cwd);
    spec.user.clone_from(&op.user);
    spec.hostname.clone_from(&op.hostname);
    spec.extra_hosts = extra_hosts(&op.extra_hosts)?;
    spec.network = match op.network {
        NetworkMode::None => Network::None,
        NetworkMode::Default => default_network,
        NetworkMode::Host => Network::Host,
    };
    spec.security = match op.security {
        SecurityMode::Sandbox => Security::Sandbox,
        SecurityMode::Insecure => Security::Insecure,
    };
    spec.rlimits = op.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?;
    if let Some(bytes) = op.shm_size_bytes {
        spec.shm_bytes = bytes;
    }
    spec.limits = Limits {
        parent: (!op.cgroup_parent.is_empty()).then(|| op.cgroup_parent.clone()),
        ..limits(&op.resources)
    };
    Ok(spec)
}

/// Lines of a hosts file.
pub(crate) fn extra_hosts(hosts: &[(String, String)]) -> Result<Vec<ExtraHost>, BoxError> {
    let parse = |(name, address): &(String, String)| {
        let parsed = address
            .parse()
            .map_err(|error| format!("host `{name}`: `{address}`: {error}"))?;
        Ok(ExtraHost {
            name: name.clone(),
            address: parsed,
        })
    };
    hosts.iter().map(parse).collect()
}

/// A resource limit as the runner takes it.
pub(crate) fn rlimit(limit: &Ulimit) -> Result<Rlimit, BoxError> {
    let bound = |value: i64| u64::try_from(value).ok();
    Ok(Rlimit {
        resource: limit.name.parse()?,
        soft: bound(limit.soft),
        hard: bound(limit.hard),
    })
}

fn limits(resources: &Resources) -> Limits {
    let set = |text: &String| (!text.is_empty()).then(|| text.clone());
    Limits {
        memory_bytes: resources
            .memory_bytes
            .and_then(|bytes| u64::try_from(bytes).ok()),
        memory_swap_bytes: resources.memory_swap_bytes,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_period_us: resources.cpu_period_us,
        cpu_shares: resources.cpu_shares,
        cpuset_cpus: set(&resources.cpuset_cpus),
        cpuset_mems: set(&resources.cpuset_mems),
        pids_max: None,
        parent: None,
    }
}

/// A mount's target: that of a secret or an agent may be below the working directory.
fn absolute(cwd: &str, target: &str) -> String {
    match target.starts_with('/') {
        true => target.to_owned(),
        false => format!("{}/{target}", cwd.trim_end_matches('/')),
    }
}

async fn add_mount(
    executor: &BuildExecutor,
    ctx: &StepContext,
    spec: &mut ProcessSpec,
    held: &mut Held,
    mount: &Mount,
    inputs: &[Tree],
) -> Result<(), BoxError> {
    let source = match &mount.kind {
        MountKind::Bind => Some(bind(executor, held, mount, inputs).await?),
        MountKind::Cache {
            id,
            sharing,
            mode,
            owner,
        } => {
            let seed = match mount.input {
                Some(at) => Some(
                    executor
                        .as_layers(
                            inputs
                                .get(at)
                                .ok_or("a mount names an input that is not there")?,
                        )
                        .await?,
                ),
                None => None,
            };
            let wish = MountWish {
                id,
                sharing: executor.engine.cache_sharing(*sharing)?,
                mode: *mode,
                owner: *owner,
                seed,
            };
            let at = match held.caches.iter().position(|cache| cache.is(&wish)) {
                Some(at) => at,
                None => {
                    let caches = CacheMounts::new(&executor.engine);
                    let cache = caches.hold(wish, &executor.mounts, &ctx.cancel).await?;
                    held.caches.push(cache);
                    held.caches.len() - 1
                }
            };
            let source = MountSource::Bind {
                source: BindSource::Loan(held.caches[at].path().to_owned()),
                subpath: subpath(&mount.selector),
                readonly: mount.readonly,
                recursive: false,
            };
            Some(source)
        }
        MountKind::Tmpfs { size_bytes } => Some(MountSource::Tmpfs {
            size_bytes: *size_bytes,
            mode: 0o1777,
            readonly: mount.readonly,
            refused: Refused::SUID,
        }),
        MountKind::Secret(secret) => add_secret(executor, spec, secret).await?,
        MountKind::Ssh(ssh) => add_ssh(executor, spec, held, ssh, &mount.target)?,
    };
    if let Some(source) = source {
        spec.mounts.push(longshore_runner::Mount {
            target: mount.target.clone(),
            source,
        });
    }
    Ok(())
}

fn subpath(selector: &str) -> Option<std::path::PathBuf> {
    let clean = selector.trim_matches('/');
    (!clean.is_empty()).then(|| clean.into())
}

/// An input's files: read-only as they are, else with writes that are dropped at the end.
async fn bind(
    executor: &BuildExecutor,
    held: &mut Held,
    mount: &Mount,
    inputs: &[Tree],
) -> Result<MountSource, BoxError> {
    let store = executor.layers();
    let layers = match mount.input.map(|at| inputs.get(at)) {
        None => Vec::new(),
        Some(None) => return Err("a mount names an input that is not there".into()),
        // Of a context, only what is mounted is put on disk.
        Some(Some(Tree::Local(local))) => {
            let path = if mount.selector.is_empty() {
                "/"
            } else {
                &mount.selector
            };
            vec![super::file::layer_of_context(store, local, path).await?]
        }
        Some(Some(Tree::Layers(layers))) => layers.clone(),
    };
    executor.hold_layers(layers.iter().map(|layer| layer.key))?;
    let parents = store.directories(&layers).await?;
    let snapshots = Arc::clone(store.snapshots());
    // A copy is this step's alone.
    let is_copy = snapshots.stacking()?.0 == Stacking::Copy;
    let root = if mount.readonly {
        let view = spawn_blocking(move || snapshots.view(&parents)).await??;
        let root = view.rootfs()?;
        held.views.push(view);
        root
    } else {
        let mut active = spawn_blocking(move || snapshots.prepare(&parents)).await??;
        let root = active.rootfs()?;
        held.writable.push(active);
        root
    };
    let source = match root {
        RootFs::Path(path) if is_copy => BindSource::Loan(path),
        RootFs::Path(path) => BindSource::Path(path),
        RootFs::Mount(fd) => BindSource::Mount(fd),
    };
    Ok(MountSource::Bind {
        source,
        subpath: subpath(&mount.selector),
        readonly: mount.readonly,
        recursive: false,
    })
}

async fn add_secret(
    executor: &BuildExecutor,
    spec: &mut ProcessSpec,
    secret: &SecretMount,
) -> Result<Option<MountSource>, BoxError> {
    let value = match executor.secrets.get(&secret.id) {
        Some(source) => source.read().await?,
        None if secret.required => return Err(format!("secret {}: not found", secret.id).into()),
        None => {
            // As BuildKit: the variable is there, and empty.
            spec.env
                .extend(secret.env.as_ref().map(|name| format!("{name}=")));
            return Ok(None);
        }
    };
    if let Some(name) = &secret.env {
        let text = String::from_utf8(value.clone())
            .map_err(|_| format!("secret {}: not text", secret.id))?;
        spec.env.push(format!("{name}={text}"));
    }
    let (uid, gid) = secret.owner;
    Ok(secret.file.then_some(MountSource::File {
        contents: Secret(value),
        mode: secret.mode,
        uid,
        gid,
    }))
}

fn add_ssh(
    executor: &BuildExecutor,
    spec: &mut ProcessSpec,
    held: &mut Held,
    ssh: &SshMount,
    target: &str,
) -> Result<Option<MountSource>, BoxError> {
    let Some(socket) = executor.ssh_agents.get(&ssh.id) else {
        return if ssh.required {
            Err(format!("unset ssh forward key {}: --ssh {}", ssh.id, ssh.id).into())
        } else {
            Ok(None)
        };
    };
    if !spec
        .env
        .iter()
        .any(|pair| pair.starts_with("SSH_AUTH_SOCK="))
    {
        spec.env.push(format!("SSH_AUTH_SOCK={target}"));
    }
    let folder = executor.engine.root().tmp_dir();
    let agent = ForwardedAgent::start(folder, socket, ssh)
        .map_err(|error| format!("cannot forward ssh agent {}: {error}", ssh.id))?;
    let socket = agent.socket();
    held.agents.push(agent);
    Ok(Some(MountSource::Bind {
        source: BindSource::Loan(socket),
        subpath: None,
        readonly: false,
        recursive: false,
    }))
}

/// Runs the process, and waits until it and all that it started are gone.
async fn process(
    runner: Arc<dyn Runner>,
    ctx: &StepContext,
    op: &Exec,
    spec: ProcessSpec,
) -> Result<(), BoxError> {
    let cancel = Cancel::new()?;
    let (step, killer) = (ctx.clone(), cancel.clone());
    let io = ProcessIo::to_sink(move |stream, bytes| {
        let stream = match stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        };
        step.log(stream, bytes);
    });
    let mut running = spawn_blocking(move || runner.run(spec, io, &cancel));
    // Dropping this future kills the process too.
    let _kill_on_drop = KillOnDrop(killer.clone());
    let ended = tokio::select! {
        ended = &mut running => ended?,
        () = ctx.cancel.cancelled() => {
            killer.cancel();
            running.await?
        }
    };
    let status = match ended {
        Err(RunError::TimedOut { after }) => {
            let args = op.args.clone();
            return Err(Box::new(CommandTimedOut { args, after }));
        }
        other => other.map_err(crate::EngineError::from)?,
    };
    for warning in &status.warnings {
        ctx.warn(format!("{}: {}", warning.what, warning.why));
    }
    if status.success() {
        if status.oom {
            ctx.warn("out of memory: the kernel killed a process of this step".to_owned());
        }
        return Ok(());
    }
    let signal = match status.ended {
        Ended::Signal(signal) => Some(signal),
        Ended::Code(_) => None,
    };
    let failed = CommandFailed {
        args: op.args.clone(),
        code: status.docker_code(),
        signal,
        out_of_memory: status.oom,
    };
    Err(Box::new(failed))
}

struct KillOnDrop(Cancel);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Where all files belong to one user on disk, what the process changed stays whose it was.
fn keep_owners(changes: &mut [Change], below: &TreeView) {
    for change in changes {
        if let Some(node) = below.lookup(&change.entry.path) {
            let owner = &node.entry.metadata;
            (change.entry.metadata.uid, change.entry.metadata.gid) = (owner.uid, owner.gid);
        }
    }
}

/// Keeps what the process changed as a layer.
async fn commit(executor: &BuildExecutor, root: Root) -> Result<Tree, BoxError> {
    let Root {
        layers,
        view,
        mut active,
        before,
    } = root;
    let store = Arc::clone(executor.layers());
    let lease = Arc::clone(&executor.lease);
    spawn_blocking(move || {
        let upper = std::fs::File::open(active.collect()?)?;
        let mut changes = diff_upper(&upper, &view, store.overlay_attributes())?;
        if store.ownership() == Ownership::Ignore {
            keep_owners(&mut changes, &view);
        }
        let index = LayerIndex::of_changes(&changes)?;
        // From now on the layer is its directory. Where an equal one is here already, that is
        // kept, and this one goes: so the changes, which name files in it, are forgotten.
        drop(changes);
        let layer = store.indexed(index.clone(), before);
        let id = layer.key.snapshot_id();
        lease.add_layers([&layer.key.record_id()])?;
        let snapshot = store.snapshots().commit(active, &id)?;
        store.keep_index(&layer, &index)?;
        store.keep_directory(&layer, &snapshot)?;
        let mut layers = layers;
        layers.push(layer);
        Ok::<_, BoxError>(Tree::Layers(layers))
    })
    .await?
}
