//! Networks for sandboxes, made ahead of time.
//!
//! Each serves one run and is never used again: what a process leaves in a network (sockets in
//! abstract names, addresses, rules, settings) must not meet the next one. So a pool holds new ones
//! only, and what was used is let go, for the kernel to take apart in its own time.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use crate::channel::Received;
use crate::connection::{Connection, Network, NetworkHelper};
use crate::error::RunError;
use crate::executable::Executable;
use crate::network;
use crate::plan::{Event, Request};
use crate::planner::SettingUp as _;
use crate::probe::find_program;
use crate::runner::Stage;
use crate::sys;

/// How many wait to be taken, besides the one that is in the making.
const READY: usize = 1;

/// A network for one run.
#[derive(Debug)]
pub(crate) struct Taken {
    /// As it turned out to be: with the helper, where there is one.
    pub(crate) network: Network,
    pub(crate) namespace: OwnedFd,
    /// Keeps it connected.
    pub(crate) helper: Option<Stage>,
}

impl Taken {
    pub(crate) fn into_parts(self) -> (OwnedFd, Option<Stage>) {
        (self.namespace, self.helper)
    }

    /// Whether the program that connects it has ended.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.helper.as_ref().is_some_and(Stage::has_said_something)
    }
}

/// All pools of a runner.
#[derive(Debug)]
pub(crate) struct Networks {
    stage: Arc<Executable>,
    unconnected: Pool<Taken>,
    connected: Mutex<HashMap<Connection, Arc<Pool<Taken>>>>,
}

impl Networks {
    pub(crate) fn new(stage: Arc<Executable>) -> Self {
        Self {
            stage,
            unconnected: Pool::new(make_unconnected),
            connected: Mutex::default(),
        }
    }

    /// A network that nobody had before; `None` for the caller's own.
    pub(crate) fn take(&self, network: Network) -> Result<Option<Taken>, RunError> {
        match network {
            Network::Host => Ok(None),
            Network::None => self.unconnected.take().map(Some),
            Network::Isolated(connection) => {
                let pool = self.pool_of(connection);
                let mut taken = pool.take()?;
                while taken.is_cut_off() {
                    // It ended while it waited to be taken.
                    taken = make_connected(&self.stage, connection)?;
                }
                Ok(Some(taken))
            }
        }
    }

    fn pool_of(&self, connection: Connection) -> Arc<Pool<Taken>> {
        let mut pools = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let pool = pools.entry(connection).or_insert_with(|| {
            let stage = Arc::clone(&self.stage);
            Arc::new(Pool::new(move || make_connected(&stage, connection)))
        });
        Arc::clone(pool)
    }
}

/// In a thread of its own: it never comes back from the new network.
fn make_unconnected() -> Result<Taken, RunError> {
    let make = || {
        sys::unshare(libc::CLONE_NEWNET)?;
        network::set_up("/proc/thread-self/ns/net")
    };
    let made = thread::Builder::new()
        .name("network".to_owned())
        .spawn(make)
        .map(thread::JoinHandle::join)
        .unwrap_or_else(|error| Ok(Err(error)));
    let namespace = made.unwrap_or_else(|_| Err(io::Error::other("its thread ended unexpectedly")));
    Ok(Taken {
        network: Network::None,
        namespace: namespace.setting_up("make a network", "")?,
        helper: None,
    })
}

/// By the wanted helper, or by the first that can.
fn make_connected(stage: &Executable, connection: Connection) -> Result<Taken, RunError> {
    let wanted = connection.helper;
    let candidates = NetworkHelper::ALL
        .into_iter()
        .filter(|helper| wanted.is_none_or(|wanted| wanted == *helper));
    let mut failed: Option<RunError> = None;
    for helper in candidates {
        let Some(program) = find_program(helper.name()) else {
            continue;
        };
        let connection = Connection {
            helper: Some(helper),
            ..connection
        };
        match connect(stage, program, connection) {
            Ok(taken) => return Ok(taken),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| missing(wanted)))
}

fn missing(wanted: Option<NetworkHelper>) -> RunError {
    let (names, packages) = match wanted {
        Some(NetworkHelper::Pasta) => ("pasta", "the package passt has it"),
        Some(NetworkHelper::Slirp4netns) => ("slirp4netns", "the package of that name has it"),
        None => (
            "pasta or slirp4netns",
            "the packages passt and slirp4netns have them",
        ),
    };
    RunError::Setup {
        action: format!("connect an isolated network: {names} is not in PATH"),
        path: None,
        hint: Some(packages.to_owned()),
        source: io::ErrorKind::NotFound.into(),
    }
}

fn connect(
    stage: &Executable,
    program: PathBuf,
    connection: Connection,
) -> Result<Taken, RunError> {
    let mut stage = Stage::start(stage)?;
    let request = Request::Connect {
        program,
        connection,
    };
    let lost = |stage: &mut Stage| RunError::Lost {
        detail: stage.last_words(),
    };
    match stage.ask(&request) {
        Some(Ok(Received::Message(Event::Connected, fds))) => {
            let namespace = fds.into_iter().next().ok_or_else(|| lost(&mut stage))?;
            Ok(Taken {
                network: Network::Isolated(connection),
                namespace,
                helper: Some(stage),
            })
        }
        Some(Ok(Received::Message(Event::Failed(failure), _))) => Err(failure.into()),
        _ => Err(lost(&mut stage)),
    }
}

/// Ready values, of which a thread makes more as they are taken. The first is made when it is asked
/// for: whoever needs one may need no other.
struct Pool<T> {
    make: Arc<dyn Fn() -> Result<T, RunError> + Send + Sync>,
    was_used: AtomicBool,
    ready: OnceLock<Mutex<Receiver<T>>>,
}

impl<T> std::fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Pool<T> {
    fn new(make: impl Fn() -> Result<T, RunError> + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(make),
            was_used: AtomicBool::new(false),
            ready: OnceLock::new(),
        }
    }

    fn take(&self) -> Result<T, RunError> {
        if !self.was_used.swap(true, Ordering::Relaxed) {
            return (self.make)();
        }
        let ready = self.ready.get_or_init(|| self.start());
        let ready = ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_recv();
        // None is ready, or none could be made: the reason is found out by trying.
        ready.or_else(|_| (self.make)())
    }

    /// Begins to make them. The thread ends with the pool, or when one cannot be made.
    fn start(&self) -> Mutex<Receiver<T>> {
        let (sender, receiver) = sync_channel(READY);
        let make = Arc::clone(&self.make);
        let fill = move || {
            while let Ok(made) = make() {
                if sender.send(made).is_err() {
                    return;
                }
            }
        };
        // Without the thread each is made when it is asked for.
        let _started = thread::Builder::new()
            .name("networks".to_owned())
            .spawn(fill);
        Mutex::new(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn counting() -> (Arc<AtomicU32>, Pool<u32>) {
        let made = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&made);
        let pool = Pool::new(move || Ok(count.fetch_add(1, Ordering::SeqCst)));
        (made, pool)
    }

    #[test]
    fn one_alone_is_made_for_one_who_asks_once() {
        let (made, pool) = counting();
        assert_eq!(pool.take().unwrap(), 0);
        thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn nothing_is_given_out_twice_and_not_many_wait() {
        let (made, pool) = counting();
        let mut taken = std::collections::BTreeSet::new();
        thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).map(|_| pool.take().unwrap()).collect::<Vec<_>>()))
                .collect();
            for taker in takers {
                for one in taker.join().unwrap() {
                    assert!(taken.insert(one), "{one} was given out before");
                }
            }
        });
        thread::sleep(std::time::Duration::from_millis(50));
        let waiting = made.load(Ordering::SeqCst) as usize - taken.len();
        assert!(waiting <= READY + 1, "{waiting}");
    }

    #[test]
    fn what_cannot_be_made_says_why_each_time() {
        let pool: Pool<u32> = Pool::new(|| {
            Err(RunError::Lost {
                detail: Some("broken".to_owned()),
            })
        });
        for _ in 0..3 {
            assert!(pool.take().unwrap_err().to_string().contains("broken"));
        }
    }
}
