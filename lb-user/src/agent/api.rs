//! The agent's HTTP API on its Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | the status as JSON |
//! | `POST /v1/reload` | what changed; 422 and the errors when the file is wrong |
//! | `POST /v1/detach` | when all is withdrawn and removed; 500 and the error when that failed |
//! | `GET /v1/manifest`, `POST /v1/plan`, `POST /v1/edit` | see [`crate::manifest::routes`] |
//! | `GET /metrics` | the same as the status, for Prometheus |

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::dataplane::Counter;
use super::kernel_thread::KernelHandle;
use super::metrics;
use super::runner::Command;
use super::status::{AgentCheckStatus, Status};
use crate::agent_check::AgentCheck;
use crate::manifest::routes;

/// What the API reads and whom it asks.
#[derive(Clone)]
pub(super) struct Api {
    pub status: watch::Receiver<Arc<Status>>,
    pub commands: mpsc::Sender<Command>,
    pub kernel: Option<KernelHandle>,
    pub agent_check: Option<Arc<AgentCheck>>,
    pub manifest: routes::Shared,
}

/// The body of an answer that is not good.
#[derive(Debug, Serialize, Deserialize)]
pub struct Errors {
    /// One line each.
    pub errors: Vec<String>,
}

/// Serves until it is aborted.
pub(super) async fn serve(listener: UnixListener, api: Api) {
    if let Err(error) = axum::serve(listener, router(api)).await {
        error!("the API has ended: {error}");
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .route("/metrics", get(prometheus))
        .merge(routes::routes(api.manifest.clone()))
        .fallback(|uri: Uri| async move {
            let known = "GET /v1/status, GET /v1/manifest, POST /v1/plan, POST /v1/edit, POST /v1/reload, \
                         POST /v1/detach and GET /metrics";
            failed(StatusCode::NOT_FOUND, vec![format!("no such path: {}; there are {known}", uri.path())])
        })
        .with_state(api)
}

async fn status(State(api): State<Api>) -> Json<Status> {
    let (mut status, counters) = api.read().await;
    for counter in counters {
        let of_role = status.counters.entry(counter.role.name().into()).or_default();
        of_role.insert(counter.name.into(), counter.value);
    }
    Json(status)
}

async fn prometheus(State(api): State<Api>) -> Response {
    let (status, counters) = api.read().await;
    let text = metrics::render(&status, &counters);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn reload(State(api): State<Api>) -> Response {
    match api.ask(|reply| Command::Reload(Some(reply))).await {
        Some(Ok(changes)) => Json(changes).into_response(),
        Some(Err(errors)) => failed(StatusCode::UNPROCESSABLE_ENTITY, errors.lines()),
        None => ending(),
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

fn failed(code: StatusCode, errors: Vec<String>) -> Response {
    (code, Json(Errors { errors })).into_response()
}
