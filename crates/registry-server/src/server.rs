//! Connections: accepting, limiting and closing them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use longshore_content::StateRoot;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Options;
use crate::http;
use crate::service::Service;

/// How long to wait after a failed accept: when files have run out, some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);
const HTTP2_STREAMS_MAX: u32 = 128;

/// A registry that serves the repositories of a state root.
#[derive(Clone, Debug)]
pub struct RegistryServer {
    service: Arc<Service>,
    root: StateRoot,
}

impl RegistryServer {
    /// Serves `root`'s repositories. Other processes may work on the same root meanwhile.
    pub fn new(root: &StateRoot, options: Options) -> Self {
        Self {
            service: Arc::new(Service::new(root, options)),
            root: root.clone(),
        }
    }

    /// The state root that is served.
    pub fn root(&self) -> &StateRoot {
        &self.root
    }

    /// The registry as a service for requests, without connections.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.service))
    }

    /// Serves connections until `shutdown` ends, then lets open requests go on for the grace
    /// period. What is unfinished then is cut off; uploads can be resumed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let connections = Connections::new(&self);
        let housekeeping = tokio::spawn(keep_house(Arc::clone(&self.service)));
        tokio::select! {
            () = connections.accept(listener) => {}
            () = shutdown => {}
        }
        housekeeping.abort();
        let grace = self.service.options.shutdown_grace;
        let closed = connections.graceful.shutdown();
        if tokio::time::timeout(grace, closed).await.is_err() {
            tracing::warn!("connections are cut off at the end of the grace period");
        }
        drop(connections.cut_off);
    }
}

async fn keep_house(service: Arc<Service>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING_INTERVAL).await;
        service.sessions.close_idle();
    }
}

struct Connections {
    router: Router,
    builder: Builder<TokioExecutor>,
    permits: Arc<Semaphore>,
    graceful: GracefulShutdown,
    end: CancellationToken,
    /// Ends what is left of the connections when it is dropped.
    cut_off: DropGuard,
}

impl Connections {
    fn new(server: &RegistryServer) -> Self {
        let options = &server.service.options;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.head_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS_MAX);
        let end = CancellationToken::new();
        Self {
            cut_off: end.clone().drop_guard(),
            end,
            router: server.router(),
            builder,
            permits: Arc::new(Semaphore::new(options.connections_max)),
            graceful: GracefulShutdown::new(),
        }
    }

    /// Accepts until it is dropped.
    async fn accept(&self, listener: TcpListener) {
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => self.start(stream, permit),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    fn start(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot turn off Nagle's algorithm");
        }
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self
            .builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let watched = self.graceful.watch(connection);
        let end = self.end.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = watched => if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended early");
                },
                () = end.cancelled() => {}
            }
            drop(permit);
        });
    }
}

/// A connection that broke before it was accepted is nothing; other errors pass with time.
async fn pause_after(error: &io::Error) {
    let harmless = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !harmless {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
