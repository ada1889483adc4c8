//! The manifest's part of the API, for the Unix socket and for a TCP listener alike.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/manifest` | the manifest in force, as YAML; `?after=N` waits up to half a minute for another version |
//! | `GET /v1/manifest/confirmed?version=N` | the nodes that have not confirmed it: `{"missing": [NODE, …]}` |
//! | `POST /v1/plan` | what an edit would do |
//! | `POST /v1/edit` | makes it, if the version is the one it was planned for |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::edit::Edit;
use super::follow::{EditError, Manifests};
use super::plan;
use super::store::StoreError;
use crate::agent::api::Errors;

/// How long a question for another version waits.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Says which nodes have not yet confirmed a version.
pub trait Confirmations: Send + Sync + 'static {
    /// Their names, in order.
    fn missing(&self, version: u64) -> Vec<String>;
}

/// What these requests need.
#[derive(Clone)]
pub struct Shared {
    /// The manifest; `None` while the node goes by none.
    pub manifests: watch::Receiver<Option<Manifests>>,
    /// Who has confirmed it.
    pub confirmations: Arc<dyn Confirmations>,
}

/// Body of `POST /v1/plan` and `POST /v1/edit`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// What to change.
    pub edit: Edit,
    /// The version that the plan was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
}

/// Answer of `GET /v1/manifest/confirmed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Nodes, in order.
    pub missing: Vec<String>,
}

impl Shared {
    fn manifests(&self) -> Option<Manifests> {
        self.manifests.borrow().clone()
    }
}

/// The routes, with their state; those that change something only with `edits`.
pub fn routes<S: Clone + Send + Sync + 'static>(shared: Shared, edits: bool) -> Router<S> {
    let reading = Router::new()
        .route("/v1/manifest", get(manifest))
        .route("/v1/manifest/confirmed", get(confirmed))
        .route("/v1/plan", post(plan_edit));
    let all = if edits { reading.route("/v1/edit", post(make_edit)) } else { reading };
    all.with_state(shared)
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

async fn manifest(State(shared): State<Shared>, Query(After { after }): Query<After>) -> Response {
    let Some(manifests) = shared.manifests() else { return none() };
    let mut reading = manifests.reading();
    if let Some(after) = after {
        let other = reading.wait_for(|now| now.manifest.as_ref().is_some_and(|m| m.version != after));
        drop(timeout(PATIENCE, other).await);
    }
    let now = reading.borrow().manifest.clone();
    match now {
        Some(manifest) => ([(header::CONTENT_TYPE, "application/yaml")], manifest.print()).into_response(),
        None => failed(StatusCode::NOT_FOUND, "there is no manifest yet; make one by `lb pool add --create`"),
    }
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

async fn confirmed(
    State(shared): State<Shared>,
    Query(Version { version }): Query<Version>,
) -> Json<Missing> {
    Json(Missing { missing: shared.confirmations.missing(version) })
}

async fn plan_edit(State(shared): State<Shared>, Json(request): Json<Request>) -> Response {
    let Some(manifests) = shared.manifests() else { return none() };
    let now = match manifests.fresh().await {
        Ok(now) => now,
        Err(error) => return failed_by(&error.into()),
    };
    let made = tokio::task::spawn_blocking(move || plan::plan(&now, &request.edit)).await;
    match made {
        Ok(plan) => Json(plan).into_response(),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn make_edit(State(shared): State<Shared>, Json(request): Json<Request>) -> Response {
    let Some(manifests) = shared.manifests() else { return none() };
    match manifests.edit(&request.edit, request.base).await {
        Ok(edited) => Json(edited).into_response(),
        Err(error) => failed_by(&error),
    }
}

fn none() -> Response {
    failed(StatusCode::NOT_FOUND, "this node has no manifest; add manifest to its configuration")
}

fn failed_by(error: &EditError) -> Response {
    let code = match error {
        EditError::Refused(_) | EditError::Store(StoreError::Invalid(_)) => StatusCode::UNPROCESSABLE_ENTITY,
        EditError::Store(StoreError::Moved { .. }) => StatusCode::CONFLICT,
        EditError::Store(StoreError::Unreachable(_)) => StatusCode::SERVICE_UNAVAILABLE,
    };
    failed(code, &error.to_string())
}

fn failed(code: StatusCode, error: &str) -> Response {
    (code, Json(Errors { errors: error.lines().map(Into::into).collect() })).into_response()
}
