//! The agent: keeps kernel, BGP daemon and health checks at what the configuration says.
//!
//! ```text
//! health ─┐                 ┌─→ kernel thread ─→ programs and maps
//! paths ──┼─→ runner ─→ decide ─→ announcer ─→ bird | gobgp
//! switch ─┘     ↑           └─→ status ─→ API
//!            API, signals
//! ```
//!
//! Tasks, and what ending them does:
//! - *runner*: the task that calls [`run`]. Owns configuration and decisions, and all that follows. It ends by a signal
//!   or after a detach; what was applied and announced stays.
//! - *kernel thread* ([`kernel_thread`]): makes all calls to the data plane. None on a node that only answers agent
//!   checks. Ends with the runner; programs and maps stay.
//! - *checker*, *announcer*, *switch*, *agent check*: owned by the runner, see their modules. Ending the announcer
//!   withdraws nothing.
//! - *followers* ([`crate::peers`]): owned by the runner; one per node that is asked for its report.
//! - *sampler* ([`crate::connections`]): owned by the runner; counts this machine's connections while it matters.
//! - *leaver* ([`crate::leave`]): owned by the runner; follows the order's file and name servers, and counts packets while
//!   VIPs leave.
//! - *retirement* ([`retire`]): ends old generations of the manifest that no host needs; ends with [`run`].
//! - *name server* ([`crate::dns`]): follows configuration and status of the runner; answers by threads of its own until
//!   [`run`] ends.
//! - *API* ([`api`]): serves the Unix socket; reads the latest status and sends commands to the runner.
//!
//! Nothing is queued but commands: states are `watch` channels, so that a slow reader sees the latest.

pub mod api;
mod ask_hosts;
pub mod dataplane;
mod dns_routes;
mod kernel_thread;
mod metrics;
pub mod readings;
mod reload;
mod retire;
mod runner;
pub mod socket;
pub mod status;
mod systemd;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use crate::agent_check::{AgentCheck, ListenError};
use crate::config::{Config, ConfigErrors};
use crate::dns::server::Sockets;
use crate::dns::service::Dns;
use crate::manifest::routes;
use crate::peers;
use crate::peers::server::Listeners;
use dataplane::{DataplaneError, Kernel};
use runner::{Command, Runner};

pub use reload::Changes;
pub(crate) use runner::detach_without_agent;

/// How long routers get between the withdrawal of a VIP and the end of forwarding for it.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The data plane cannot be opened.
    #[error("data plane")]
    Dataplane(#[from] DataplaneError),
    /// The socket of the API cannot be served.
    #[error(transparent)]
    Socket(#[from] socket::SocketError),
    /// The agent check cannot be served.
    #[error(transparent)]
    AgentCheck(#[from] ListenError),
    /// Other nodes cannot be listened to.
    #[error(transparent)]
    Peers(#[from] peers::server::ListenError),
    /// The name server cannot listen.
    #[error(transparent)]
    Dns(#[from] crate::dns::server::ListenError),
    /// The name server cannot be started.
    #[error("dns: cannot start a thread")]
    Threads(#[source] std::io::Error),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signal(#[source] std::io::Error),
}

/// Runs until SIGTERM, SIGINT or a detach. Called by `lb agent` with the kernel's real data plane.
pub async fn run(file: PathBuf, config: Config, kernel: Arc<dyn Kernel>) -> Result<(), AgentError> {
    let agent_check = config.agent_check.as_ref().map(AgentCheck::start).transpose()?.map(Arc::new);
    let edits = config.peers.as_ref().is_some_and(|peers| peers.edits);
    let nodes = config.peers.as_ref().map_or(0, |peers| peers.nodes.len());
    let listeners = Listeners::bind(config.peers.as_ref().map_or(&[], |peers| &peers.listen))?;
    let sockets = config.dns.as_ref().map(Sockets::bind).transpose()?;
    let socket = socket::bind(&config.api)?;
    let (commands, for_runner) = mpsc::channel(8);
    let signals = forward_signals(commands.clone()).map_err(AgentError::Signal)?;
    let mut runner = Runner::start(file, config, kernel).await?;
    let exchange = runner.exchange();
    let start = |sockets| Dns::start(sockets, runner.configs(), runner.status(), exchange.peers.clone());
    let dns = sockets.map(start).transpose().map_err(AgentError::Threads)?;
    if let Some(dns) = &dns {
        runner.announce_shared(dns.anycast());
    }
    let allow = exchange.allow.clone();
    let manifest =
        routes::Shared { manifests: runner.manifests(), confirmations: Arc::new(exchange.clone()) };
    let _retiring = retire::start(runner.manifests(), exchange.clone());
    let state = api::Api {
        status: runner.status(),
        commands,
        kernel: runner.kernel(),
        agent_check,
        dns: dns.as_ref().map(Dns::handle),
        exchange,
        manifest,
    };
    let _for_peers = listeners.serve(api::for_peers(state.clone(), edits), allow, nodes);
    let api = tokio::spawn(serve_api(socket, state)?);
    let result = runner.run(for_runner).await;
    systemd::notify("STOPPING=1");
    signals.abort();
    api.abort();
    // The socket goes with it.
    let _ = api.await;
    Ok(result?)
}

/// Serves the API at its socket, and makes that anew when somebody has removed or replaced it.
fn serve_api(
    mut socket: socket::Socket,
    state: api::Api,
) -> Result<impl Future<Output = ()>, socket::SocketError> {
    /// How often it is looked for.
    const LOOK: Duration = Duration::from_secs(1);
    let mut serving = JoinSet::new();
    serving.spawn(api::serve(socket.listen()?, state.clone()));
    Ok(async move {
        loop {
            sleep(LOOK).await;
            if socket.is_there() {
                continue;
            }
            // Another agent that answers there keeps it; without room or descriptors it is tried again.
            let made =
                socket::bind(socket.path()).and_then(|made| made.listen().map(|listener| (made, listener)));
            if let Ok((made, listener)) = made {
                warn!("the socket of the API was gone; it is there again");
                serving.spawn(api::serve(listener, state.clone()));
                socket = made;
            }
        }
    })
}

/// SIGHUP reloads; SIGTERM and SIGINT end the agent.
fn forward_signals(commands: mpsc::Sender<Command>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        loop {
            let command = tokio::select! {
                Some(()) = hangup.recv() => Command::Reload(None),
                Some(()) = terminate.recv() => Command::Stop,
                Some(()) = interrupt.recv() => Command::Stop,
                else => return,
            };
            if commands.send(command).await.is_err() {
                return;
            }
        }
    }))
}
