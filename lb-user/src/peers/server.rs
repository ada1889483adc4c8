//! The listener at which other nodes ask.
//!
//! Who connects is looked at right after `accept`: an address that is not in `peers.allow` gets a short refusal, if few do
//! at the time, and otherwise nothing. How many connections there may be is bounded, in all and per source.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::{Json, Router};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::Service;

use crate::admission::{Admission, Limits};
use crate::agent::api::Errors;
use crate::agent_check::listen;
use crate::bgp::Prefix;
use crate::{descriptors, http_server};

/// Connections from one source: a node asks by one or two.
const PER_SOURCE: usize = 32;
/// Refusals under way at once; beyond them connections end without a word.
const REFUSALS: usize = 8;
/// How long a refusal may take.
const REFUSAL: Duration = Duration::from_secs(1);
/// How long to wait after the kernel gave no connection, as without descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("peers: cannot listen on {address}: {source}; correct peers.listen")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// Sockets that wait for connections.
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// Listens on all addresses or on none. Must be called within a Tokio runtime.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, ListenError> {
        let bound = |&address| listen(address).map_err(|source| ListenError { address, source });
        addresses.iter().map(bound).collect::<Result<_, _>>().map(Listeners)
    }

    /// Where they listen; differs from what was asked for where that says port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves whom `allow` holds, everybody if it is empty, until the result is dropped. `nodes` are expected to ask.
    pub fn serve(self, router: Router, allow: watch::Receiver<Vec<Prefix>>, nodes: usize) -> JoinSet<()> {
        let total = (2 * nodes + 64).max(256).min(descriptors::share(4));
        let door = Door {
            router,
            allow,
            admission: Admission::new(Limits { total, per_source: PER_SOURCE }),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
        };
        let mut tasks = JoinSet::new();
        for listener in self.0 {
            tasks.spawn(door.clone().accept(listener));
        }
        tasks
    }
}

/// What all listeners share.
#[derive(Clone)]
struct Door {
    router: Router,
    allow: watch::Receiver<Vec<Prefix>>,
    admission: Arc<Admission>,
    refusals: Arc<Semaphore>,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let from = from.ip().to_canonical();
            if !allowed(from, &self.allow.borrow()) {
                if let Ok(slot) = Arc::clone(&self.refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        let refusing =
                            http_server::serve_within(stream, |_| async { refusal(from) }, REFUSAL, REFUSAL);
                        let _ = timeout(REFUSAL, refusing).await;
                        drop(slot);
                    });
                }
            } else if let Some(permit) = self.admission.admit(from) {
                let door = self.clone();
                connections.spawn(async move {
                    door.serve(stream, from).await;
                    drop(permit);
                });
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn serve(self, stream: TcpStream, from: IpAddr) {
        // Answers are small, and other nodes wait for each.
        let _ = stream.set_nodelay(true);
        let answer = |request: Request<Body>| {
            // The list may have changed since the connection was made.
            let routed = allowed(from, &self.allow.borrow()).then(|| self.router.clone().call(request));
            async move {
                match routed {
                    Some(routed) => routed.await.into_response(),
                    None => refusal(from),
                }
            }
        };
        http_server::serve(stream, answer).await;
    }
}

fn refusal(from: IpAddr) -> Response<Body> {
    let errors = vec![format!("{from} may not ask here; add it to peers.allow of this node")];
    (StatusCode::FORBIDDEN, Json(Errors { errors })).into_response()
}

/// Whether an address is in one of the prefixes, or there are none.
fn allowed(from: IpAddr, allow: &[Prefix]) -> bool {
    let from = from.to_canonical();
    allow.is_empty() || allow.iter().any(|prefix| prefix.contains(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_on_an_ipv6_socket_is_the_ipv4_address() {
        let allow: Vec<Prefix> =
            ["192.0.2.128/25", "2001:db8::/64"].iter().map(|p| p.parse().unwrap()).collect();
        let is = |address: &str| allowed(address.parse().unwrap(), &allow);
        assert!(is("192.0.2.129") && is("::ffff:192.0.2.129") && is("2001:db8::1"));
        assert!(!is("192.0.2.1") && !is("::ffff:192.0.2.1") && !is("2001:db8:1::1"));
        assert!(allowed("203.0.113.1".parse().unwrap(), &[]));
    }
}
