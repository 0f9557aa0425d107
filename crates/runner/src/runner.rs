//! The caller's side: starting the stage, moving bytes, and waiting for the end.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{isatty, tcgetwinsize, tcsetwinsize};

use crate::Runner;
use crate::cancel::Cancel;
use crate::capabilities::{self, Capabilities};
use crate::cgroup::{self, Hierarchies};
use crate::channel::{Channel, FDS_PER_MESSAGE_MAX, Received};
use crate::connection::Network;
use crate::devices;
use crate::error::RunError;
use crate::executable::Executable;
use crate::in_place;
use crate::io::{Input, Output, OutputSink, ProcessIo, Stream};
use crate::isolation::{self, Isolation, Means};
use crate::networks::{Networks, Taken};
use crate::plan::{Command, Event, Request, STAGE_ARGUMENT, STAGE_NAME, Way};
use crate::planner::{self, Fds, SettingUp as _};
use crate::probe::{Check, Probe};
use crate::probing;
use crate::seccomp;
use crate::spec::{ProcessSpec, Security};
use crate::status::{ExitStatus, Warning};
use crate::sys;
use crate::userns;

/// How much output is read at once; also the size of a pipe.
const READ_BYTES: usize = 64 << 10;
/// After a kill, the kernel and the supervisor get this long before the supervisor is killed too.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// How often the size of the caller's terminal is looked at.
const WINDOW_INTERVAL: Duration = Duration::from_millis(200);
/// As much as is quoted of what a supervisor wrote before it vanished.
const LAST_WORDS_BYTES_MAX: u64 = 2000;

/// Said along with the isolation.
const SHARED_PROCESSES: &str = "; steps see and signal this container's processes, because its \
    /proc is masked and no other can be mounted: docker run --security-opt \
    systempaths=unconfined, or in Kubernetes hostUsers: false with procMount: Unmasked";

/// How a [`SandboxRunner`] is set up.
#[derive(Debug, Clone, Default)]
pub struct RunnerOptions {
    /// The program that calls [`init_if_requested`](crate::init_if_requested); this process's own
    /// when absent.
    pub stage: Option<PathBuf>,
    /// How processes are isolated.
    pub isolation: Isolation,
    /// Take over a root directory that does not look like a container's: [`Isolation::InPlace`].
    pub insist_in_place: bool,
    /// Why the caller is not in a user namespace, where it tried to enter one: said along with why
    /// there is no stronger isolation.
    pub no_user_namespace: Option<String>,
}

/// Runs processes in Linux namespaces, without any helper program, daemon or library.
#[derive(Debug)]
pub struct SandboxRunner {
    stage: Arc<Executable>,
    networks: Networks,
    isolation: Isolation,
    why_not_stronger: Option<String>,
    /// Sandboxes have this container's `/proc` and processes.
    shares_processes: bool,
    seccomp: OnceLock<Option<Vec<u8>>>,
    device_filter: OnceLock<Option<OwnedFd>>,
}

impl SandboxRunner {
    /// Sets up a runner, and clears away control groups that killed processes left behind.
    ///
    /// # Errors
    /// When the stage's program cannot be opened, or the wanted isolation cannot be had.
    pub fn new(options: &RunnerOptions) -> Result<Self, RunError> {
        let path = options
            .stage
            .clone()
            .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let stage = Executable::open(&path).setting_up("open the runner's program", &path)?;
        let stage = Arc::new(stage);
        if options.isolation == Isolation::InPlace {
            in_place::may_take_root(options.insist_in_place)?;
        }
        let means = Means {
            capabilities: capabilities::effective(),
            initial_user_namespace: userns::is_initial(),
            can_mount: probing::can_mount(),
        };
        let explain = |reason: &str| match &options.no_user_namespace {
            Some(why) => format!("{reason}; {why}"),
            None => reason.to_owned(),
        };
        let (isolation, why_not_stronger) = isolation::choose(options.isolation, means)
            .map(|(isolation, why)| (isolation, why.map(explain)))
            .map_err(|reason| RunError::NoIsolation {
                reason: explain(reason),
            })?;
        if let Ok(hierarchies) = Hierarchies::of_this_process() {
            cgroup::sweep(&hierarchies);
        }
        let (seccomp, device_filter) = (OnceLock::new(), OnceLock::new());
        let mut runner = Self {
            networks: Networks::new(Arc::clone(&stage)),
            stage,
            isolation,
            why_not_stronger,
            shares_processes: false,
            seccomp,
            device_filter,
        };
        runner.find_proc()?;
        Ok(runner)
    }

    /// Whether sandboxes can have a `/proc` of their own: in a user namespace that is so only
    /// while nothing covers parts of the one there is.
    fn find_proc(&mut self) -> Result<(), RunError> {
        if self.isolation != Isolation::Userns || !proc_is_covered() {
            return Ok(());
        }
        let mut stage = Stage::start(&self.stage)?;
        match stage.ask(&Request::TryProc) {
            Some(Ok(Received::Message(Event::TriedProc(Check::Works), _))) => Ok(()),
            Some(Ok(Received::Message(Event::TriedProc(Check::Fails(_)), _))) => {
                self.shares_processes = true;
                let why = self.why_not_stronger.get_or_insert_default();
                why.push_str(SHARED_PROCESSES);
                Ok(())
            }
            _ => Err(RunError::Lost {
                detail: stage.last_words(),
            }),
        }
    }

    /// How processes are isolated: never [`Isolation::Auto`].
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Why [`Isolation::Auto`] chose nothing stronger, for one line to the user.
    #[must_use]
    pub fn why_not_stronger(&self) -> Option<&str> {
        self.why_not_stronger.as_deref()
    }

    /// Without a process namespace and a `/proc` of its own.
    pub(crate) fn shares_processes(&self) -> bool {
        self.shares_processes
    }

    /// The filter that goes with capabilities; none where there is none for this architecture.
    fn seccomp(&self, capabilities: Capabilities) -> Option<Cow<'_, [u8]>> {
        let compile = |capabilities: Capabilities| {
            Some(seccomp::to_bytes(&seccomp::default_profile(
                capabilities.set(),
            )?))
        };
        if capabilities != Capabilities::default() {
            return compile(capabilities).map(Cow::Owned);
        }
        let usual = self.seccomp.get_or_init(|| compile(capabilities));
        usual.as_deref().map(Cow::Borrowed)
    }

    fn device_filter(&self) -> Option<BorrowedFd<'_>> {
        let load = || sys::load_device_program(&devices::program()).ok();
        self.device_filter
            .get_or_init(load)
            .as_ref()
            .map(|fd| fd.as_fd())
    }

    /// Finds out what this machine can do for sandboxes and, on the file system that `directory` is
    /// on, for root file systems. Nothing is left behind.
    ///
    /// # Errors
    /// When nothing can be made in the directory, or the stage cannot be started.
    pub fn probe(&self, directory: &Path) -> Result<Probe, RunError> {
        let scratch = directory.join(format!(".longshore-probe-{}", std::process::id()));
        let what = "make a directory to probe in";
        std::fs::create_dir_all(&scratch).setting_up(what, &scratch)?;
        let probed = self.probe_in(&scratch);
        std::fs::remove_dir_all(&scratch).setting_up("remove the probe's directory", &scratch)?;
        probed
    }

    /// Makes a network and lets it go again: whether what connects it is there and works.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn try_network(&self, network: Network) -> Result<(), RunError> {
        self.networks.take(network).map(drop)
    }

    fn probe_in(&self, scratch: &Path) -> Result<Probe, RunError> {
        let scratch = scratch.canonicalize().setting_up("find", scratch)?;
        let mut stage = Stage::start(&self.stage)?;
        match stage.ask(&Request::Probe { scratch }) {
            Some(Ok(Received::Message(Event::Probed(mut probe), _))) => {
                // What the stage, which has no environment, cannot know.
                probe.in_place = in_place::probe();
                probe.user_namespace_hint = userns::denial_hint().map(str::to_owned);
                Ok(*probe)
            }
            _ => Err(RunError::Lost {
                detail: stage.last_words(),
            }),
        }
    }
}

impl Runner for SandboxRunner {
    fn run(
        &self,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: &Cancel,
    ) -> Result<ExitStatus, RunError> {
        self.run_by(spec, io, cancel, None)
    }
}

impl SandboxRunner {
    /// In our own sandbox, or in an OCI runtime's.
    pub(crate) fn run_by(
        &self,
        mut spec: ProcessSpec,
        mut io: ProcessIo,
        cancel: &Cancel,
        oci_runtime: Option<&str>,
    ) -> Result<ExitStatus, RunError> {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        if self.isolation == Isolation::None {
            let reason = self
                .why_not_stronger
                .clone()
                .unwrap_or_else(|| "it is switched off (--isolation none)".to_owned());
            return Err(RunError::NoIsolation { reason });
        }
        let way = self.way();
        if way == Way::InPlace && !spec.extra_hosts.is_empty() {
            return Err(RunError::Spec {
                field: "extra_hosts".to_owned(),
                reason: "not possible with inplace isolation, whose hosts file is the container's"
                    .to_owned(),
            });
        }
        // Without CAP_SYS_ADMIN a filter would break `sudo`; the container's own stays.
        let filterable = way == Way::Namespaces || capabilities::may_mount();
        let filtered = spec.security == Security::Sandbox && filterable && oci_runtime.is_none();
        let mut fds = Fds::new();
        let network = self.network_for(&mut spec)?;
        let timeout = spec.timeout;
        let (mut plan, pipes) = planner::plan(spec, &mut io, &mut fds)?;
        plan.way = way;
        plan.shares_processes = self.shares_processes;
        plan.oci_runtime = oci_runtime.map(str::to_owned);
        let (namespace, helper) = network.map(Taken::into_parts).unzip();
        plan.network_namespace = namespace.map(|fd| fds.add(fd));
        let mut has_filter = false;
        if filtered {
            let what = "pass on the filters";
            let program = self.seccomp(plan.capabilities);
            has_filter = program.is_some();
            let program = program.as_deref().map(planner::file_in_memory).transpose();
            plan.seccomp = program.setting_up(what, "")?.map(|fd| fds.add(fd));
            let program = self
                .device_filter()
                .map(|fd| fd.try_clone_to_owned())
                .transpose();
            plan.device_filter = program.setting_up(what, "")?.map(|fd| fds.add(fd));
        }
        let fds = fds.with_plan(&plan).setting_up("write the plan", "")?;
        let mut stage = Stage::start(&self.stage)?;
        stage.send_plan(&fds).setting_up("send the plan", "")?;
        // What the process has open must be open nowhere else, or its end is not seen.
        drop(fds);
        let mut streams = Streams::new(pipes, io).setting_up("set up the streams", "")?;
        let mut deadline = Deadline::after(timeout);
        let outcome = stage.attend(&mut streams, cancel, &mut deadline);
        streams.drain();
        if cancel.is_cancelled() {
            stage.finish(KILL_GRACE);
            return Err(RunError::Cancelled);
        }
        if let Some(after) = deadline.passed() {
            stage.finish(KILL_GRACE);
            return Err(RunError::TimedOut { after });
        }
        let mut ended = stage.conclude(outcome)?;
        ended.warnings.extend(helper.flatten().and_then(cut_off));
        if filtered && !has_filter {
            ended.warnings.push(Warning {
                what: "the filter of system calls".to_owned(),
                why: format!("there is none for {}", std::env::consts::ARCH),
            });
        }
        Ok(ended)
    }

    /// Takes a network for the process, where it gets one of its own.
    fn network_for(&self, spec: &mut ProcessSpec) -> Result<Option<Taken>, RunError> {
        if !matches!(self.isolation, Isolation::Full | Isolation::Userns) {
            return match spec.network {
                Network::Isolated(_) => Err(RunError::Spec {
                    field: "network".to_owned(),
                    reason: format!("`{}` needs namespaces", spec.network),
                }),
                // What else there is not, the stage says.
                Network::Host | Network::None => Ok(None),
            };
        }
        let taken = self.networks.take(spec.network)?;
        if let Some(taken) = &taken {
            spec.network = taken.network;
        }
        Ok(taken)
    }
}

/// The network was cut off before the process ended.
fn cut_off(helper: Stage) -> Option<Warning> {
    helper.has_said_something().then(|| Warning {
        what: "network".to_owned(),
        why: "the program that connected it ended before the process".to_owned(),
    })
}

/// When a process has had its time.
struct Deadline {
    at: Option<(Instant, Duration)>,
    has_passed: bool,
}

impl Deadline {
    fn after(timeout: Option<Duration>) -> Self {
        let at = timeout.and_then(|it| Some((Instant::now().checked_add(it)?, it)));
        Self {
            at,
            has_passed: false,
        }
    }

    fn left(&self) -> Option<Duration> {
        let (at, _) = self.at?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Looks at the clock.
    fn passes(&mut self) -> bool {
        self.has_passed |= self.left().is_some_and(|left| left.is_zero());
        self.has_passed
    }

    fn passed(&self) -> Option<Duration> {
        let (_, after) = self.at?;
        self.has_passed.then_some(after)
    }
}

impl SandboxRunner {
    fn way(&self) -> Way {
        match self.isolation {
            Isolation::Chroot => Way::Chroot,
            Isolation::InPlace => Way::InPlace,
            _ => Way::Namespaces,
        }
    }
}

/// The stage's first process. Dropping it ends the run.
#[derive(Debug)]
pub(crate) struct Stage {
    child: Child,
    /// Closing it kills the sandbox.
    channel: Option<Channel>,
    last_words: File,
}

impl Stage {
    /// Starts the program, which waits for a request.
    pub(crate) fn start(program: &Executable) -> Result<Self, RunError> {
        let what = "start the runner's program";
        let (channel, theirs) = Channel::pair().setting_up(what, "")?;
        let last_words = planner::file_in_memory(b"").setting_up(what, "")?;
        let stderr = last_words.try_clone().setting_up(what, "")?;
        let child = std::process::Command::new(program.path())
            .arg0(STAGE_NAME)
            // A program that does not know this word stops here, instead of doing what it does.
            .arg(STAGE_ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .stderr(Stdio::from(stderr))
            .spawn()
            .setting_up(what, "")?;
        Ok(Self {
            child,
            channel: Some(channel),
            last_words: File::from(last_words),
        })
    }

    /// Asks for something that has one answer.
    pub(crate) fn ask(&self, request: &Request) -> Option<io::Result<Received<Event>>> {
        let channel = self.channel.as_ref()?;
        Some(channel.send(request, &[]).and_then(|()| channel.receive()))
    }

    /// Whether there is an answer, or never will be one.
    pub(crate) fn has_said_something(&self) -> bool {
        let Some(channel) = &self.channel else {
            return true;
        };
        let mut polled = [PollFd::new(channel, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut polled, Some(&now)), Ok(count) if count > 0)
    }

    fn send_plan(&self, fds: &[OwnedFd]) -> io::Result<()> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        let mut left = fds.len();
        for part in fds.chunks(FDS_PER_MESSAGE_MAX) {
            left -= part.len();
            let part: Vec<_> = part.iter().map(AsFd::as_fd).collect();
            channel.send(&Request::Run { fds_to_come: left }, &part)?;
        }
        Ok(())
    }

    /// Moves bytes and passes on commands until the stage says how it ended, or vanishes.
    fn attend(
        &mut self,
        streams: &mut Streams,
        cancel: &Cancel,
        deadline: &mut Deadline,
    ) -> io::Result<Option<Event>> {
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        let mut killed: Option<Instant> = None;
        loop {
            let left = deadline.left().filter(|_| killed.is_none());
            let ready = streams.wait(channel, cancel, killed.is_some(), left)?;
            if ready.contains(&Ready::Signals) {
                for signal in cancel.take_signals() {
                    channel.send(&Command::Signal(signal), &[])?;
                }
            }
            if killed.is_none() && (cancel.is_cancelled() || deadline.passes()) {
                channel.send(&Command::Kill, &[])?;
                killed = Some(Instant::now());
            }
            if killed.is_some_and(|since| since.elapsed() > KILL_GRACE) {
                return Ok(None);
            }
            streams.transfer(&ready);
            if !ready.contains(&Ready::Channel) {
                continue;
            }
            match channel.receive::<Event>()? {
                Received::Message(Event::Terminal, fds) => streams.set_terminal(fds)?,
                Received::Message(event, _) => return Ok(Some(event)),
                Received::Closed => return Ok(None),
            }
        }
    }

    fn conclude(mut self, outcome: io::Result<Option<Event>>) -> Result<ExitStatus, RunError> {
        match outcome {
            Ok(Some(Event::Ended {
                ended,
                oom,
                warnings,
                usage,
            })) => {
                self.finish(KILL_GRACE);
                Ok(ExitStatus {
                    ended,
                    oom,
                    warnings,
                    usage,
                })
            }
            Ok(Some(Event::Failed(failure))) => {
                self.finish(KILL_GRACE);
                Err(failure.into())
            }
            Ok(
                Some(
                    Event::Terminal
                    | Event::Probed(_)
                    | Event::TriedProc(_)
                    | Event::Connected
                    | Event::Disconnected,
                )
                | None,
            ) => {
                self.finish(Duration::ZERO);
                Err(RunError::Lost {
                    detail: self.last_words(),
                })
            }
            Err(error) => Err(RunError::Lost {
                detail: Some(error.to_string()),
            }),
        }
    }

    /// Closes the channel and waits for the supervisor, which by then has little or nothing to do.
    fn finish(&mut self, patience: Duration) {
        self.channel = None;
        let deadline = Instant::now() + patience;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= deadline {
                // The kernel then kills the sandbox.
                let _gone = self.child.kill();
                let _status = self.child.wait();
                return;
            }
            self.wait_briefly();
        }
    }

    fn wait_briefly(&self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let flags = rustix::process::PidfdFlags::empty();
        let fd = pid.and_then(|pid| rustix::process::pidfd_open(pid, flags).ok());
        let Some(fd) = fd else {
            return std::thread::sleep(Duration::from_millis(1));
        };
        let timeout = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        // Whatever it says, the caller looks again.
        let _ended = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
    }

    pub(crate) fn last_words(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten();
        let mut words = String::new();
        let read = self.last_words.rewind().and_then(|()| {
            (&self.last_words)
                .take(LAST_WORDS_BYTES_MAX)
                .read_to_string(&mut words)
        });
        let words = read.map_or("", |_| words.trim());
        Some(format!(
            "{}; {words}",
            status.map(|it| it.to_string()).unwrap_or_default()
        ))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.finish(KILL_GRACE);
    }
}

/// The caller's ends of the standard streams.
struct Streams {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<Terminal>,
    io: ProcessIo,
    buffer: Vec<u8>,
}

/// Our side of the process's terminal.
struct Terminal {
    fd: OwnedFd,
    input: Option<OwnedFd>,
    /// Typed, but not taken yet.
    typed: Vec<u8>,
    output: Option<OwnedFd>,
    /// The caller's terminal, whose size is followed.
    window: Option<OwnedFd>,
}

/// Something that [`Streams::wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Channel,
    Cancelled,
    Signals,
    Stdout,
    Stderr,
    Terminal,
    TerminalTakes,
    Input,
}

impl Streams {
    fn new(pipes: planner::Pipes, io: ProcessIo) -> io::Result<Self> {
        let planner::Pipes { stdout, stderr } = pipes;
        for pipe in [&stdout, &stderr].into_iter().flatten() {
            set_nonblocking(pipe)?;
        }
        Ok(Self {
            stdout,
            stderr,
            terminal: None,
            io,
            buffer: vec![0; READ_BYTES],
        })
    }

    fn set_terminal(&mut self, fds: Vec<OwnedFd>) -> io::Result<()> {
        let Some(fd) = fds.into_iter().next() else {
            return Ok(());
        };
        set_nonblocking(&fd)?;
        let input = match std::mem::replace(&mut self.io.stdin, Input::Null) {
            Input::Null => None,
            Input::Inherit => Some(io::stdin().as_fd().try_clone_to_owned()?),
            Input::Fd(fd) => Some(fd),
        };
        let output = match std::mem::replace(&mut self.io.stdout, Output::Sink) {
            Output::Sink => None,
            Output::Inherit => Some(io::stdout().as_fd().try_clone_to_owned()?),
            Output::Fd(fd) => Some(fd),
        };
        let window = input
            .as_ref()
            .filter(|fd| isatty(fd))
            .map(OwnedFd::try_clone)
            .transpose()?;
        self.terminal = Some(Terminal {
            fd,
            input,
            typed: Vec::new(),
            output,
            window,
        });
        Ok(())
    }

    /// Waits until there is something to do.
    fn wait(
        &self,
        channel: &Channel,
        cancel: &Cancel,
        killed: bool,
        left: Option<Duration>,
    ) -> io::Result<Vec<Ready>> {
        let mut watched = vec![(Ready::Channel, channel.as_fd(), PollFlags::IN)];
        if !killed {
            watched.push((Ready::Cancelled, cancel.cancelled_fd(), PollFlags::IN));
            watched.push((Ready::Signals, cancel.signals_fd(), PollFlags::IN));
        }
        let pipes = [(Ready::Stdout, &self.stdout), (Ready::Stderr, &self.stderr)];
        for (what, pipe) in pipes {
            watched.extend(pipe.as_ref().map(|fd| (what, fd.as_fd(), PollFlags::IN)));
        }
        if let Some(terminal) = &self.terminal {
            watched.extend(terminal.watched());
        }
        let mut polled: Vec<_> = watched
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let follows_window = self.terminal.as_ref().is_some_and(|it| it.window.is_some());
        let interval = (killed || follows_window).then_some(WINDOW_INTERVAL);
        let timeout = interval.into_iter().chain(left).min();
        let timeout = timeout.and_then(|it| Timespec::try_from(it).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = watched
            .iter()
            .zip(&polled)
            .filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|((what, ..), _)| *what).collect())
    }

    /// Moves what can be moved without waiting.
    fn transfer(&mut self, ready: &[Ready]) {
        let Self {
            stdout,
            stderr,
            terminal,
            io,
            buffer,
        } = self;
        for (what, stream, pipe) in [
            (Ready::Stdout, Stream::Stdout, stdout),
            (Ready::Stderr, Stream::Stderr, stderr),
        ] {
            if ready.contains(&what) && read_once(pipe, buffer, |bytes| (io.sink)(stream, bytes)) {
                *pipe = None;
            }
        }
        let Some(it) = terminal else { return };
        it.follow_window();
        if ready.contains(&Ready::Input) {
            it.read_input(buffer);
        }
        if ready.contains(&Ready::TerminalTakes) {
            it.type_on();
        }
        if ready.contains(&Ready::Terminal) && it.read_output(buffer, &mut io.sink) {
            *terminal = None;
        }
    }

    /// Everything that wrote is gone: takes what is left.
    fn drain(&mut self) {
        let Self {
            stdout,
            stderr,
            terminal,
            io,
            buffer,
        } = self;
        for (stream, pipe) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let mut got_some = true;
            while got_some {
                got_some = false;
                read_once(pipe, buffer, |bytes| {
                    got_some = true;
                    (io.sink)(stream, bytes);
                });
            }
        }
        if let Some(it) = terminal {
            while it.read_some(buffer, &mut io.sink) {}
        }
    }
}

impl Terminal {
    fn watched(&self) -> Vec<(Ready, BorrowedFd<'_>, PollFlags)> {
        let mut watched = vec![(Ready::Terminal, self.fd.as_fd(), PollFlags::IN)];
        match &self.input {
            _ if !self.typed.is_empty() => {
                watched.push((Ready::TerminalTakes, self.fd.as_fd(), PollFlags::OUT));
            }
            Some(input) => watched.push((Ready::Input, input.as_fd(), PollFlags::IN)),
            None => {}
        }
        watched
    }

    fn read_input(&mut self, buffer: &mut [u8]) {
        let Some(input) = &self.input else { return };
        match rustix::io::read(input, &mut *buffer) {
            Ok(0) => {
                // Ctrl-D: what a terminal takes for the end of input.
                self.typed.push(4);
                self.input = None;
            }
            Ok(count) => self.typed.extend(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input = None,
        }
    }

    fn type_on(&mut self) {
        match rustix::io::write(&self.fd, &self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody holds the other side any more.
            Err(_) => self.typed.clear(),
        }
    }

    /// `true` at the end.
    fn read_output(&self, buffer: &mut [u8], sink: &mut OutputSink) -> bool {
        match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(0) => true,
            Ok(count) => {
                self.put_out(&buffer[..count], sink);
                false
            }
            Err(Errno::INTR | Errno::AGAIN) => false,
            // A terminal whose other side is closed says EIO.
            Err(_) => true,
        }
    }

    /// `false` when there is nothing (any more).
    fn read_some(&self, buffer: &mut [u8], sink: &mut OutputSink) -> bool {
        match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(count) if count > 0 => {
                self.put_out(&buffer[..count], sink);
                true
            }
            Err(Errno::INTR) => true,
            _ => false,
        }
    }

    fn put_out(&self, bytes: &[u8], sink: &mut OutputSink) {
        let Some(output) = &self.output else {
            return sink(Stream::Stdout, bytes);
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(output, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut room = [PollFd::new(output, PollFlags::OUT)];
                    // Whatever it says, the write tells.
                    let _ready = poll(&mut room, None);
                }
                // Nobody reads what the caller gave us: there is nowhere to put it.
                Err(_) => return,
            }
        }
    }

    fn follow_window(&self) {
        let Some(window) = &self.window else { return };
        if let (Ok(theirs), Ok(ours)) = (tcgetwinsize(window), tcgetwinsize(&self.fd))
            && (theirs.ws_row, theirs.ws_col) != (ours.ws_row, ours.ws_col)
        {
            // A terminal of the wrong size is no reason to stop.
            let _refused = tcsetwinsize(&self.fd, theirs);
        }
    }
}

/// Whether something is mounted on parts of `/proc`, as containers do to hide them.
fn proc_is_covered() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| place.starts_with("/proc/"))
}

/// Reads what is there; `true` at the end.
fn read_once(pipe: &Option<OwnedFd>, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> bool {
    let Some(pipe) = pipe else { return true };
    match rustix::io::read(pipe, &mut *buffer) {
        Ok(0) => true,
        Ok(count) => {
            take(&buffer[..count]);
            false
        }
        Err(Errno::INTR | Errno::AGAIN) => false,
        Err(_) => true,
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}
