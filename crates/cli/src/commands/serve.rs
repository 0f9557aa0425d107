//! `longshore serve`.

use anyhow::{Context as _, Result};
use longshore_content::StateRoot;
use longshore_registry_server::{Options, RegistryServer};
use tokio::net::TcpListener;

use crate::args::{Global, ServeArgs};
use crate::config;
use crate::exit::Exit;
use crate::report::say;

pub(crate) fn run(global: &Global, args: &ServeArgs) -> Result<Exit> {
    let root = StateRoot::open(config::state_root(global)?)?;
    let server = RegistryServer::new(&root, Options::open_to_all());
    config::runtime()?.block_on(async {
        let listener = TcpListener::bind(&args.listen)
            .await
            .with_context(|| format!("cannot listen on `{}`", args.listen))?;
        say(&format!(
            "serving {} on http://{}",
            root.path().display(),
            listener.local_addr()?
        ));
        server.serve(listener, ended()).await;
        Ok(Exit::Done)
    })
}

/// Ends with Ctrl-C or SIGTERM; where neither can be waited for, never.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
