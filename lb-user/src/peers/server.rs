//! The listener at which other nodes ask.

use std::io;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::error;

use crate::agent::api::Errors;
use crate::agent_check::listen;
use crate::bgp::Prefix;

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

    /// Serves whom `allow` holds, everybody if it is empty, until the result is dropped.
    pub fn serve(self, router: Router, allow: watch::Receiver<Vec<Prefix>>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for listener in self.0 {
            let allow = allow.clone();
            let guarded =
                router.clone().layer(from_fn(move |request, next| guard(allow.clone(), request, next)));
            let service = guarded.into_make_service_with_connect_info::<SocketAddr>();
            tasks.spawn(async move {
                if let Err(error) = axum::serve(listener, service).await {
                    error!("the listener for peers has ended: {error}");
                }
            });
        }
        tasks
    }
}

async fn guard(allow: watch::Receiver<Vec<Prefix>>, request: Request, next: Next) -> Response {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|from| from.0.ip());
    let refused = from.filter(|from| !allowed(*from, &allow.borrow()));
    let Some(from) = refused else { return next.run(request).await };
    let errors =
        vec![format!("{} may not ask here; add it to peers.allow of this node", from.to_canonical())];
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
