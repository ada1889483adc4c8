//! The agent's HTTP API: all of it on the Unix socket, and what changes nothing also at `peers.listen`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | the status as JSON |
//! | `GET /v1/report?after=TAG&wait=SECONDS` | what other nodes must know of this one; 304 if it is still `TAG` after that time |
//! | `GET /v1/connections` | what each host holds, as asked for now; with `?own=1` of this node alone |
//! | `GET /v1/peers` | the reports of all nodes as this one knows them |
//! | `POST /v1/trace` | what the director would do with a frame, and why |
//! | `POST /v1/reload` | what changed; 422 and the errors when the file is wrong |
//! | `POST /v1/detach` | when all is withdrawn and removed; 500 and the error when that failed |
//! | `GET`, `PUT /v1/manifest`, `POST /v1/plan`, `POST /v1/edit` | see [`crate::manifest::routes`] |
//! | `GET /v1/dns`, `GET /v1/dns/zone`, `POST /v1/dns/explain`, `POST /v1/dns/order` | see [`super::dns_routes`] |
//! | `GET /metrics` | the same as the status, for Prometheus |

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::Service;
use tracing::warn;

use super::ask_hosts;
use super::dataplane::Counter;
use super::kernel_thread::KernelHandle;
use super::metrics;
use super::readings::Readings;
use super::runner::{Command, ExchangeEnds};
use super::status::{AgentCheckStatus, Status};
use crate::agent_check::AgentCheck;
use crate::connections::HostConnections;
use crate::dns::service as dns;
use crate::http_server;
use crate::manifest::routes;
use crate::peers::view::statuses;
use crate::peers::{PeerStatus, Published, Told};
use crate::trace::packet::from_hex;
use crate::trace::{Question, Seen, Source};

/// Longest time that a question is kept.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What the API reads and whom it asks.
#[derive(Clone)]
pub(super) struct Api {
    pub status: watch::Receiver<Arc<Status>>,
    pub commands: mpsc::Sender<Command>,
    pub kernel: Option<KernelHandle>,
    pub agent_check: Option<Arc<AgentCheck>>,
    pub dns: Option<dns::Handle>,
    pub manifest: routes::Shared,
    pub exchange: ExchangeEnds,
}

/// The body of an answer that is not good.
#[derive(Debug, Serialize, Deserialize)]
pub struct Errors {
    /// One line each.
    pub errors: Vec<String>,
}

/// Most connections to the Unix socket at once.
const CONNECTIONS: usize = 64;

/// Serves until it is aborted.
pub(super) async fn serve(listener: UnixListener, api: Api) {
    let router = router(api);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let answer = |request: axum::extract::Request| {
                        let routed = router.clone().call(request);
                        async { routed.await.into_response() }
                    };
                    http_server::serve(stream, answer).await;
                    drop(place);
                });
            }
            // Out of descriptors, or the connection was aborted: neither ends the API.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// All of it.
fn router(api: Api) -> Router {
    reading()
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .route("/v1/trace", post(trace))
        .merge(super::dns_routes::ordering())
        .merge(routes::routes(api.manifest.clone()))
        .fallback(|uri: Uri| {
            no_such_path(
                uri,
                "GET /v1/status, GET /v1/report, GET /v1/connections, GET /v1/peers, GET /v1/dns, GET /v1/dns/sightings, GET /v1/dns/leaving, GET /v1/dns/zone, \
                 POST /v1/dns/explain, POST /v1/dns/order, \
                 GET and PUT /v1/manifest, POST /v1/plan, POST /v1/edit, POST /v1/trace, POST /v1/reload, POST /v1/detach and GET /metrics",
            )
        })
        .with_state(api)
}

/// What other nodes may ask for. With `edits` also what changes pools.
pub(super) fn for_peers(api: Api, edits: bool) -> Router {
    let manifest = match edits {
        true => routes::routes(api.manifest.clone()),
        false => routes::reading(api.manifest.clone()),
    };
    reading()
        .merge(manifest)
        .fallback(|uri: Uri| {
            no_such_path(
                uri,
                "GET /v1/status, GET /v1/report, GET /v1/connections, GET /v1/peers, GET /v1/dns, GET /v1/dns/sightings, GET /v1/dns/leaving, GET /v1/manifest and GET /metrics; \
                 all else is on the Unix socket (with peers.edits also PUT /v1/manifest, POST /v1/plan and POST /v1/edit)",
            )
        })
        .with_state(api)
}

/// What changes nothing.
fn reading() -> Router<Api> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/report", get(report))
        .route("/v1/peers", get(peers))
        .route("/v1/connections", get(connections))
        .merge(super::dns_routes::reading())
        .route("/metrics", get(prometheus))
}

async fn no_such_path(uri: Uri, known: &str) -> Response {
    failed(StatusCode::NOT_FOUND, vec![format!("no such path: {}; there are {known}", uri.path())])
}

async fn report(State(api): State<Api>, uri: Uri) -> Response {
    long_poll(api.exchange.reports.clone(), &uri).await
}

/// The latest document, once it is another one than the asker has.
pub(super) async fn long_poll<T: Told>(
    mut documents: watch::Receiver<Arc<Published<T>>>,
    uri: &Uri,
) -> Response {
    let tag = |tag: &str| format!("\"{tag}\"");
    let after = parameter(uri, "after").map(tag);
    let wait = parameter(uri, "wait").and_then(|wait| wait.parse().ok()).unwrap_or(0);
    let wait = Duration::from_secs(wait).min(LONGEST_WAIT);
    let news = documents.wait_for(|published| after.as_ref() != Some(&published.etag));
    match timeout(wait, news).await {
        Ok(Ok(published)) => {
            let headers =
                [(header::CONTENT_TYPE, "application/json"), (header::ETAG, published.etag.as_str())];
            (headers, published.body.clone()).into_response()
        }
        Ok(Err(_)) => ending(),
        Err(_) => StatusCode::NOT_MODIFIED.into_response(),
    }
}

async fn peers(State(api): State<Api>) -> Json<Vec<PeerStatus>> {
    let own = Arc::clone(&api.exchange.reports.borrow());
    Json(statuses(&own.report, &api.exchange.peers.borrow(), Instant::now()))
}

async fn connections(State(api): State<Api>, uri: Uri) -> Json<Vec<HostConnections>> {
    Json(match parameter(&uri, "own") {
        Some(_) => api.exchange.sampler.counts().await,
        None => ask_hosts::connections(&api.exchange).await,
    })
}

/// A parameter of the query; none of ours needs escapes.
fn parameter<'u>(uri: &'u Uri, name: &str) -> Option<&'u str> {
    let mut pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

async fn status(State(api): State<Api>) -> Json<Status> {
    let (mut status, counters) = api.read().await;
    if api.exchange.sampler.config().is_some_and(|config| ask_hosts::matter(&config.model)) {
        status.connections = Some(ask_hosts::connections(&api.exchange).await);
    }
    for counter in counters {
        let of_role = status.counters.entry(counter.role.name().into()).or_default();
        of_role.insert(counter.name.into(), counter.value);
    }
    Json(status)
}

async fn prometheus(State(api): State<Api>) -> Response {
    let (status, counters) = api.read().await;
    let mut text = metrics::render(&status, &counters);
    if let Some(dns) = &api.dns {
        text += &metrics::render_dns(&dns.status());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn reload(State(api): State<Api>) -> Response {
    match api.ask(|reply| Command::Reload(Some(reply))).await {
        Some(Ok(changes)) => Json(changes).into_response(),
        Some(Err(errors)) => failed(StatusCode::UNPROCESSABLE_ENTITY, errors.lines()),
        None => ending(),
    }
}

async fn trace(State(api): State<Api>, Json(question): Json<Question>) -> Response {
    let frame = match from_hex(&question.frame) {
        Ok(frame) => frame,
        Err(error) => return failed(StatusCode::UNPROCESSABLE_ENTITY, vec![error.to_string()]),
    };
    let seen = match &api.kernel {
        Some(kernel) => kernel.seen().await,
        None => Ok(None),
    };
    let Seen { view, confirmed } = match seen {
        Ok(Some(seen)) => seen,
        Ok(None) => {
            let error = "this node is no director; ask one, or use --offline".to_owned();
            return failed(StatusCode::NOT_FOUND, vec![error]);
        }
        Err(error) => return failed(StatusCode::INTERNAL_SERVER_ERROR, vec![error.to_string()]),
    };
    // Tables are made anew, which takes up to a second.
    let work = move || crate::trace::trace(view, &Source::Agent(&confirmed), &frame);
    match tokio::task::spawn_blocking(work).await {
        Ok(trace) => Json(trace).into_response(),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, vec![error.to_string()]),
    }
}

async fn detach(State(api): State<Api>) -> Response {
    match api.ask(Command::Detach).await {
        Some(Ok(())) => Json(serde_json::json!({})).into_response(),
        Some(Err(error)) => failed(StatusCode::INTERNAL_SERVER_ERROR, vec![error]),
        None => ending(),
    }
}

impl Api {
    /// The latest status and the counters as they are now.
    async fn read(&self) -> (Status, Vec<Counter>) {
        let counters = match &self.kernel {
            Some(kernel) => kernel.counters().await.unwrap_or_else(|error| {
                warn!("counters: {error}");
                Vec::new()
            }),
            None => Vec::new(),
        };
        let mut status = Status::clone(&self.status.borrow());
        if let Some(kernel) = &self.kernel {
            status.accounts = kernel.accounts().await.unwrap_or_else(|error| {
                warn!("accounts: {error}");
                Vec::new()
            });
            let readings = kernel.readings().await.unwrap_or_else(|error| {
                warn!("memory and traffic: {error}");
                Readings::default()
            });
            status.memory = readings.memory;
            status.service_traffic = readings.services;
            status.host_traffic = readings.hosts;
        }
        status.agent_check =
            self.agent_check.as_ref().map(|server| AgentCheckStatus { answer: server.answer() });
        (status, counters)
    }

    /// The runner's answer; `None` if it has ended.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn ending() -> Response {
    failed(StatusCode::SERVICE_UNAVAILABLE, vec!["the agent is ending; ask again when it has started".into()])
}

pub(super) fn failed(code: StatusCode, errors: Vec<String>) -> Response {
    (code, Json(Errors { errors })).into_response()
}
