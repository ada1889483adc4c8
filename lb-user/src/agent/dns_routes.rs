//! The part of the API that speaks of the name server.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/dns` | zones, names, members and why they are in or out, orders, counters |
//! | `GET /v1/dns/zone?name=ZONE` | the zone as it is answered now, as a master file; on the Unix socket only, since not everybody may have it |
//! | `POST /v1/dns/explain` | the answer to a question, and what became of each member; nothing is sent |
//! | `GET /v1/dns/history?of=NAME\|ADDRESS` | the last changes of members, by checks and by orders |
//! | `GET /v1/dns/sightings?after=TAG&wait=SECONDS` | what this node's own probes say, for other observers |
//! | `GET /v1/dns/leaving?after=TAG&wait=SECONDS` | VIPs that leave nodes, and where they are still answered, for those nodes |
//! | `POST /v1/dns/order` | the names that an order of the operator is about; on the Unix socket only |

use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::api::{Api, failed, long_poll};
use crate::dns::everybody::zone_text;
use crate::dns::observers::Sightings;
use crate::dns::service::Handle;
use crate::dns::status::{ExplainRequest, HistoryRequest, OrderRequest, ZoneRequest, explain};
use crate::leave::word::Leaving;
use crate::peers::Told;

/// What changes nothing.
pub(super) fn reading() -> Router<Api> {
    Router::new()
        .route("/v1/dns", get(status))
        .route(Sightings::PATH, get(sightings))
        .route(Leaving::PATH, get(leaving))
        .route("/v1/dns/explain", post(explained))
        .route("/v1/dns/history", get(history))
}

/// What the operator orders, and what is for the operator alone.
pub(super) fn ordering() -> Router<Api> {
    Router::new().route("/v1/dns/order", post(order)).route("/v1/dns/zone", get(zone))
}

async fn status(State(api): State<Api>) -> Response {
    match server(&api) {
        Ok(dns) => Json(dns.status()).into_response(),
        Err(refusal) => refusal,
    }
}

async fn sightings(State(api): State<Api>, uri: Uri) -> Response {
    match server(&api) {
        Ok(dns) => long_poll(dns.sightings(), &uri).await,
        Err(refusal) => refusal,
    }
}

async fn leaving(State(api): State<Api>, uri: Uri) -> Response {
    match server(&api) {
        Ok(dns) => long_poll(dns.leaving(), &uri).await,
        Err(refusal) => refusal,
    }
}

async fn zone(State(api): State<Api>, Query(request): Query<ZoneRequest>) -> Response {
    let dns = match server(&api) {
        Ok(dns) => dns,
        Err(refusal) => return refusal,
    };
    match zone_text(&dns.snapshot(), &request.name) {
        Ok(text) => text.into_response(),
        Err(error) => failed(StatusCode::NOT_FOUND, vec![error]),
    }
}

async fn explained(State(api): State<Api>, Json(request): Json<ExplainRequest>) -> Response {
    let dns = match server(&api) {
        Ok(dns) => dns,
        Err(refusal) => return refusal,
    };
    match explain(&dns.snapshot(), &request) {
        Ok(explanations) => Json(explanations).into_response(),
        Err(error) => failed(StatusCode::UNPROCESSABLE_ENTITY, vec![error]),
    }
}

async fn history(State(api): State<Api>, Query(request): Query<HistoryRequest>) -> Response {
    let dns = match server(&api) {
        Ok(dns) => dns,
        Err(refusal) => return refusal,
    };
    match dns.history(request.of).await {
        Ok(changes) => Json(changes).into_response(),
        Err(error) => failed(StatusCode::NOT_FOUND, vec![error]),
    }
}

async fn order(State(api): State<Api>, Json(request): Json<OrderRequest>) -> Response {
    let dns = match server(&api) {
        Ok(dns) => dns,
        Err(refusal) => return refusal,
    };
    match dns.order(request).await {
        Ok(names) => Json(names).into_response(),
        Err(error) => failed(StatusCode::UNPROCESSABLE_ENTITY, vec![error]),
    }
}

#[expect(clippy::result_large_err, reason = "made once per request that is refused")]
fn server(api: &Api) -> Result<&Handle, Response> {
    api.dns.as_ref().ok_or_else(|| {
        let error = "this node is no name server; add the section dns to its configuration".to_owned();
        failed(StatusCode::NOT_FOUND, vec![error])
    })
}
