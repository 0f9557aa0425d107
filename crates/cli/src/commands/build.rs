//! `longshore build`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use longshore_engine::{
    Annotation, BuildError, BuildOutcome, BuildRequest, CommitEpoch, ContextSpec, DockerfileSpec,
    Entitlements, HistoryLimits, Invocation, LockUse, ModePolicy, NetworkMode, OutputKind,
    OutputSpec, Resources, SOURCE_DATE_EPOCH,
};
use longshore_oci::Reference;
use longshore_runner::Isolation;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::call;
use crate::args::{
    BuildArgs, ContextModes, Global, InputArgs, ProgressMode, ResultArgs, SurroundingArgs,
};
use crate::exit::Exit;
use crate::output::parse_output;
use crate::progress::Progress;
use crate::report::{Usage, build_failure, diagnostics, say};
use crate::table::out;
use crate::{annotation, cache, config, interrupt, kept, spec, units};

/// How many steps run at once: most wait for networks and disks more than they compute.
const JOBS_DEFAULT: usize = 16;
/// The largest archive or Dockerfile that is read from standard input, bytes.
const STDIN_BYTES_MAX: u64 = 16 << 30;
/// How long the end of a build waits for what it is deleting: as good as always to the end, also on a
/// machine that is busy with other things, but not for what never ends.
const LET_GO: Duration = Duration::from_secs(60);

pub(crate) fn run(global: &Global, args: BuildArgs) -> Result<Exit> {
    if let Some(flag) = args.unsupported.given() {
        return Err(Usage(format!("{flag} is not supported yet")).into());
    }
    if args.progress == ProgressMode::Tty {
        return Err(Usage(
            "--progress tty is not supported yet: auto, plain, rawjson and quiet are".to_owned(),
        )
        .into());
    }
    let method = call::Method::parse(&args)?;
    // What came on standard input lives as long as the build.
    let mut stdin = None;
    let mut request = request(&args, &mut stdin)?;
    request.history = config::history(global, &args.history)?;
    let kept = match args.sandboxing.isolation {
        Isolation::InPlace => kept::in_place(global, &args, &request)?,
        _ => Vec::new(),
    };
    let engine = config::engine_that_builds(global, &args.sandboxing, &args.space, kept)?;
    say_isolation(global, &engine, args.quiet)?;
    let mode = if args.quiet {
        ProgressMode::Quiet
    } else {
        args.progress
    };
    let progress = Arc::new(Progress::new(mode, args.explain_cache));
    let runtime = config::runtime()?;
    if let Some(method) = method {
        return runtime.block_on(call::run(&engine, &request, method, progress));
    }
    let time = units::parse_timeout(args.timeout.as_deref()).context("--timeout")?;
    let timed_out = CancellationToken::new();
    let cancel = CancellationToken::new();
    interrupt::watch(cancel.clone()).context("cannot watch for signals")?;
    let built = runtime.block_on(async {
        if let Some(time) = time {
            tokio::spawn(end_after(time, timed_out.clone(), cancel.clone()));
        }
        engine
            .build(
                &request,
                Arc::clone(&progress) as Arc<dyn longshore_engine::ProgressSink>,
                cancel,
            )
            .await
    });
    match built {
        Ok(outcome) => {
            // What is still being deleted is let go, so that nothing is left for the next start.
            runtime.shutdown_timeout(LET_GO);
            finish(&args, &request, &outcome)
        }
        Err(error) => {
            // A failed build does not wait for blobs that were being written beside it; what
            // they left is cleared by the next start.
            runtime.shutdown_background();
            if let (BuildError::Canceled, true, Some(time)) =
                (&error, timed_out.is_cancelled(), time)
            {
                anyhow::bail!("the build did not end within {time:?}, and was stopped");
            }
            Ok(build_failure(&error, |name| progress.tail_of(name)))
        }
    }
}

/// Says once how processes are isolated, where that is not as well as can be.
pub(super) fn say_isolation(
    global: &Global,
    engine: &longshore_engine::Engine,
    quiet: bool,
) -> Result<()> {
    let (isolation, why) = engine.isolation()?;
    let only_own_id = global.identity.only_own_id();
    let only_own_id = only_own_id.map(|why| format!("with the user's own id alone: {why}"));
    let reasons: Vec<String> = why.into_iter().chain(only_own_id).collect();
    let reason = reasons.join("; ");
    if reason.is_empty() {
        return Ok(());
    }
    if !quiet {
        say(&format!("isolation: {isolation} ({reason})"));
    }
    Ok(())
}

/// Ends a build that takes too long.
async fn end_after(time: Duration, timed_out: CancellationToken, cancel: CancellationToken) {
    tokio::time::sleep(time).await;
    timed_out.cancel();
    cancel.cancel();
}

/// Says what was made: files first, then the result on standard output.
fn finish(args: &BuildArgs, request: &BuildRequest, outcome: &BuildOutcome) -> Result<Exit> {
    if !args.quiet {
        diagnostics(&outcome.dockerfile, &outcome.warnings);
    }
    let id = outcome
        .config
        .as_ref()
        .or(outcome.image.as_ref())
        .map(|descriptor| descriptor.digest);
    if let (Some(path), Some(id)) = (&args.iidfile, id) {
        std::fs::write(path, id.to_string())
            .with_context(|| format!("--iidfile `{}`", path.display()))?;
    }
    if let Some(path) = &args.metadata_file {
        write_metadata(path, request, outcome)?;
    }
    let prints_archive = request.outputs.iter().any(|output| {
        output.dest.is_none()
            && matches!(
                output.kind,
                OutputKind::Tar | OutputKind::Oci | OutputKind::Docker
            )
    });
    if let Some(id) = id
        && !prints_archive
    {
        out(&id.to_string());
    }
    Ok(Exit::Done)
}

fn write_metadata(
    path: &std::path::Path,
    request: &BuildRequest,
    outcome: &BuildOutcome,
) -> Result<()> {
    let mut metadata = serde_json::Map::new();
    if let Some(image) = &outcome.image {
        metadata.insert("containerimage.digest".to_owned(), json!(image.digest));
        metadata.insert("containerimage.descriptor".to_owned(), json!(image));
    }
    if let Some(config) = &outcome.config {
        metadata.insert(
            "containerimage.config.digest".to_owned(),
            json!(config.digest),
        );
    }
    if !request.tags.is_empty() {
        let names: Vec<String> = request
            .tags
            .iter()
            .cloned()
            .map(|tag| tag.with_default_tag().to_string())
            .collect();
        metadata.insert("image.name".to_owned(), json!(names.join(",")));
    }
    let text = serde_json::to_string_pretty(&metadata)? + "\n";
    std::fs::write(path, text).with_context(|| format!("--metadata-file `{}`", path.display()))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What is built, from the flags, the environment and standard input.
pub(super) fn request(
    args: &BuildArgs,
    stdin: &mut Option<tempfile::NamedTempFile>,
) -> Result<BuildRequest> {
    let mut request = input(&args.input, stdin)?;
    set_result(&args.result, &mut request)?;
    set_surroundings(&args.surroundings, &mut request)?;
    request.lock = match (args.lock.lock, args.lock.locked) {
        (true, _) => LockUse::Write,
        (false, true) => LockUse::Hold,
        (false, false) => LockUse::Ignore,
    };
    request.no_cache = args.no_cache;
    request.no_cache_filter.clone_from(&args.no_cache_filter);
    request.pull = args.pull;
    request.outputs = outputs(args)?;
    request.tags = args
        .tag
        .iter()
        .map(|tag| spec::parse_reference(tag).context("--tag"))
        .collect::<Result<Vec<Reference>>>()?;
    request.jobs = args.jobs.unwrap_or(JOBS_DEFAULT);
    for text in &args.cache_from {
        request.cache_from.extend(cache::parse_from(text)?);
    }
    request.cache_to = args
        .cache_to
        .iter()
        .map(|text| cache::parse_to(text))
        .collect::<Result<_>>()?;
    cache::warnings(&request.cache_to)
        .iter()
        .for_each(|warning| say(warning));
    request.invocation = invocation();
    Ok(request)
}

/// The words of this command, where they are text and the working directory is there.
fn invocation() -> Option<Invocation> {
    let words: Option<Vec<String>> = std::env::args_os()
        .map(|word| word.into_string().ok())
        .collect();
    Some(Invocation::new(std::env::current_dir().ok()?, &words?))
}

/// What the image is to be like.
pub(super) fn set_result(args: &ResultArgs, request: &mut BuildRequest) -> Result<()> {
    set_epoch(args, &mut request.build_args)?;
    request.context_modes = match args.context_modes {
        ContextModes::Host => ModePolicy::Host,
        ContextModes::Git => ModePolicy::Git,
    };
    request.commit_epoch = match (args.reproducible, args.no_reproducible) {
        (true, _) => CommitEpoch::Asked,
        (_, true) => CommitEpoch::Ignored,
        _ => CommitEpoch::Found,
    };
    request.labels = pairs(&args.label, "--label")?;
    request.annotations = annotations(&args.annotation)?;
    request.squash = args.squash;
    Ok(())
}

/// What steps run in.
pub(super) fn set_surroundings(args: &SurroundingArgs, request: &mut BuildRequest) -> Result<()> {
    request.network = network(args.network.as_deref())?;
    request.extra_hosts = args
        .add_host
        .iter()
        .map(|text| spec::parse_host(text))
        .collect::<Result<_>>()?;
    request.shm_size_bytes = args
        .shm_size
        .as_deref()
        .map(units::parse_bytes)
        .transpose()
        .context("--shm-size")?;
    request.ulimits = args
        .ulimit
        .iter()
        .map(|text| spec::parse_ulimit(text))
        .collect::<Result<_>>()?;
    request.resources = resources(args)?;
    request.cgroup_parent = args.cgroup_parent.clone().unwrap_or_default();
    request.step_timeout =
        units::parse_timeout(args.step_timeout.as_deref()).context("--step-timeout")?;
    request.entitlements = spec::parse_entitlements(&args.allow)?;
    // Asking for it on the command line is allowing it.
    request.entitlements.network_host |= args.network.as_deref() == Some("host");
    Ok(())
}

/// What is read, with nothing said of how it is built and where that goes.
pub(super) fn input(
    args: &InputArgs,
    stdin: &mut Option<tempfile::NamedTempFile>,
) -> Result<BuildRequest> {
    let (context, dockerfile) = places(args, stdin)?;
    let mut named_contexts = BTreeMap::new();
    for text in &args.build_context {
        let (name, place) = spec::split_pair(text, "--build-context")?;
        named_contexts.insert(
            name.to_owned(),
            spec::parse_place(place).with_context(|| format!("--build-context `{text}`"))?,
        );
    }
    Ok(BuildRequest {
        context,
        context_modes: ModePolicy::Host,
        commit_epoch: CommitEpoch::Found,
        dockerfile,
        lock: LockUse::Ignore,
        named_contexts,
        target: args.target.clone(),
        build_args: spec::pairs_or_environment(&args.build_arg, "--build-arg", environment)?
            .into_iter()
            .collect(),
        labels: BTreeMap::new(),
        platforms: args
            .platform
            .iter()
            .map(|text| text.parse().with_context(|| format!("--platform `{text}`")))
            .collect::<Result<_>>()?,
        no_cache: false,
        no_cache_filter: Vec::new(),
        pull: false,
        network: NetworkMode::Default,
        extra_hosts: Vec::new(),
        shm_size_bytes: None,
        ulimits: Vec::new(),
        resources: Resources::default(),
        cgroup_parent: String::new(),
        entitlements: Entitlements::default(),
        step_timeout: None,
        secrets: args
            .secret
            .iter()
            .map(|text| spec::parse_secret(text, environment))
            .collect::<Result<_>>()?,
        ssh_agents: ssh_agents(&args.ssh)?,
        outputs: Vec::new(),
        tags: Vec::new(),
        annotations: Vec::new(),
        squash: false,
        jobs: JOBS_DEFAULT,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        invocation: None,
        history: HistoryLimits::default(),
    })
}

/// The time of what is new comes from a build argument, else from the environment, unless the
/// clock is asked for.
fn set_epoch(args: &ResultArgs, build_args: &mut BTreeMap<String, String>) -> Result<()> {
    let name = SOURCE_DATE_EPOCH.to_owned();
    if !args.no_reproducible {
        if let Some(epoch) = environment(SOURCE_DATE_EPOCH) {
            build_args.entry(name).or_insert(epoch);
        }
        return Ok(());
    }
    match build_args.insert(name, String::new()) {
        Some(given) if !given.is_empty() => Err(Usage(format!(
            "--no-reproducible contradicts --build-arg {SOURCE_DATE_EPOCH}={given}"
        ))
        .into()),
        _ => Ok(()),
    }
}

fn pairs(texts: &[String], flag: &str) -> Result<BTreeMap<String, String>> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        anyhow::ensure!(!name.is_empty(), "{flag} `{text}`: a name is missing");
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(split).collect()
}

fn annotations(texts: &[String]) -> Result<Vec<Annotation>> {
    let parsed = texts.iter().map(|text| annotation::parse_flag(text));
    Ok(parsed.collect::<Result<Vec<_>>>()?.concat())
}

fn network(mode: Option<&str>) -> Result<NetworkMode> {
    match mode {
        None | Some("default") => Ok(NetworkMode::Default),
        Some("host") => Ok(NetworkMode::Host),
        Some("none") => Ok(NetworkMode::None),
        Some(other) => Err(Usage(format!(
            "--network `{other}`: default, host and none are known; what default means is said by \
             --default-network"
        ))
        .into()),
    }
}

fn resources(args: &SurroundingArgs) -> Result<Resources> {
    let (memory, memory_swap_bytes) =
        units::parse_memory(args.memory.as_deref(), args.memory_swap.as_deref())?;
    Ok(Resources {
        memory_bytes: memory.map(i64::try_from).transpose().context("--memory")?,
        memory_swap_bytes,
        cpu_shares: args.cpu_shares,
        cpu_period_us: args.cpu_period,
        cpu_quota_us: args.cpu_quota,
        cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: args.cpuset_mems.clone().unwrap_or_default(),
    })
}

fn ssh_agents(specs: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut agents = BTreeMap::new();
    for text in specs {
        let (id, socket) = match text.split_once('=') {
            Some((id, socket)) => (id, PathBuf::from(socket)),
            None => {
                let socket = environment("SSH_AUTH_SOCK")
                    .with_context(|| format!("--ssh `{text}`: SSH_AUTH_SOCK is not set"))?;
                (text.as_str(), PathBuf::from(socket))
            }
        };
        let kind = std::fs::metadata(&socket)
            .with_context(|| format!("--ssh `{text}`: `{}`", socket.display()))?;
        if !kind.file_type().is_socket() {
            return Err(Usage(format!(
                "--ssh `{text}`: not the socket of an agent; a key is given to one: \
                 ssh-agent sh -c 'ssh-add KEY && longshore build --ssh {id} …'"
            ))
            .into());
        }
        agents.insert(id.to_owned(), socket);
    }
    Ok(agents)
}

fn outputs(args: &BuildArgs) -> Result<Vec<OutputSpec>> {
    let mut outputs = args
        .output
        .iter()
        .map(|text| parse_output(text))
        .collect::<Result<Vec<_>>>()?;
    let has_image = outputs
        .iter()
        .any(|output| output.kind == OutputKind::Image);
    if outputs.is_empty() || ((args.push || args.load) && !has_image) {
        outputs.push(OutputSpec::new(OutputKind::Image));
    }
    if args.push {
        for output in outputs
            .iter_mut()
            .filter(|output| output.kind == OutputKind::Image)
        {
            output.push = true;
        }
    }
    let to_stdout = |output: &&OutputSpec| {
        output.dest.is_none()
            && matches!(
                output.kind,
                OutputKind::Tar | OutputKind::Oci | OutputKind::Docker
            )
    };
    if outputs.iter().filter(to_stdout).count() > 1 {
        return Err(Usage("only one output can go to standard output".to_owned()).into());
    }
    Ok(outputs)
}

/// Where the context and the Dockerfile are.
fn places(
    args: &InputArgs,
    stdin: &mut Option<tempfile::NamedTempFile>,
) -> Result<(ContextSpec, DockerfileSpec)> {
    let context = args
        .context
        .as_deref()
        .ok_or_else(|| Usage("a context is missing: PATH, URL or -".to_owned()))?;
    if context == "-" {
        if args.file.as_deref() == Some("-") {
            return Err(Usage(
                "the context and the Dockerfile cannot both come from standard input".to_owned(),
            )
            .into());
        }
        return from_stdin(args, stdin);
    }
    let place = spec::parse_place(context)?;
    let dockerfile = match args.file.as_deref() {
        Some("-") => {
            let mut text = Vec::new();
            std::io::stdin()
                .take(64 << 20)
                .read_to_end(&mut text)
                .context("standard input")?;
            DockerfileSpec::Text(text)
        }
        Some(path) => match &place {
            ContextSpec::Directory(_) => DockerfileSpec::File(path.into()),
            _ => DockerfileSpec::InContext(path.to_owned()),
        },
        None => DockerfileSpec::InContext("Dockerfile".to_owned()),
    };
    Ok((place, dockerfile))
}

/// An archive is a context; anything else is a Dockerfile without one.
fn from_stdin(
    args: &InputArgs,
    stdin: &mut Option<tempfile::NamedTempFile>,
) -> Result<(ContextSpec, DockerfileSpec)> {
    let mut file = tempfile::NamedTempFile::new().context("standard input")?;
    std::io::copy(&mut std::io::stdin().take(STDIN_BYTES_MAX), &mut file)
        .context("standard input")?;
    if is_archive(file.path())? {
        let place = ContextSpec::Archive(file.path().to_owned());
        *stdin = Some(file);
        let name = args.file.clone().unwrap_or_else(|| "Dockerfile".to_owned());
        return Ok((place, DockerfileSpec::InContext(name)));
    }
    let text = std::fs::read(file.path()).context("standard input")?;
    Ok((ContextSpec::Empty, DockerfileSpec::Text(text)))
}

/// Whether a file begins as a tar archive or a compressed one does.
fn is_archive(path: &std::path::Path) -> Result<bool> {
    let mut start = Vec::new();
    std::fs::File::open(path)?
        .take(512)
        .read_to_end(&mut start)?;
    let compressed = [
        &[0x1f, 0x8b][..],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    let is_tar = start.len() == 512 && &start[257..262] == b"ustar";
    Ok(is_tar || compressed.iter().any(|magic| start.starts_with(magic)))
}
