//! PowerDNS by its HTTP API: the addresses of names in zones that exist there, whatever its back end.
//!
//! All places of a zone that change are replaced by one request, which PowerDNS applies as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::rr::LowerName;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Addresses, Changes, Place, Records, SinkError, Store};
use crate::http::{ANSWER, Question, Servers};
use crate::model::Family;

/// A PowerDNS authoritative server with `api=yes`.
pub struct PowerDns {
    servers: Servers,
    key: String,
    server: String,
}

/// The part of a zone that matters here.
#[derive(Deserialize)]
struct Zone {
    rrsets: Vec<RrSet>,
}

#[derive(Deserialize)]
struct RrSet {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: u32,
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    content: String,
    #[serde(default)]
    disabled: bool,
}

impl PowerDns {
    /// The API at the first of these URLs that answers, its key, and the server's id there (`localhost`).
    pub fn new(urls: Vec<String>, key: String, server: String) -> Self {
        PowerDns { servers: Servers::new(urls), key, server }
    }

    async fn find(&self, places: &BTreeSet<Place>) -> Result<Records, SinkError> {
        let mut found = Records::new();
        let zones: BTreeSet<&LowerName> = places.iter().map(|place| &place.zone).collect();
        for zone in zones {
            let said = self.ask(&Method::GET, zone, "").await?;
            let said: Zone = serde_json::from_slice(&said).map_err(|error| self.error(error))?;
            let there: BTreeMap<(String, &str), &RrSet> = said
                .rrsets
                .iter()
                .map(|set| ((set.name.to_ascii_lowercase(), set.kind.as_str()), set))
                .collect();
            for place in places.iter().filter(|place| place.zone == *zone) {
                let at = |kind| there.get(&(place.name.to_string(), kind));
                if at("CNAME").is_some() {
                    return Err(self.error(format_args!("{} is an alias there; remove that", place.name)));
                }
                if let Some(set) = at(kind(place)) {
                    let used = set.records.iter().filter(|record| !record.disabled);
                    let all: BTreeSet<IpAddr> =
                        used.filter_map(|record| record.content.parse().ok()).collect();
                    if !all.is_empty() {
                        found.insert(place.clone(), Addresses { ttl: set.ttl, all });
                    }
                }
            }
        }
        Ok(found)
    }

    async fn replace(&self, changes: &Changes) -> Result<(), SinkError> {
        let mut by_zone: BTreeMap<&LowerName, Vec<Value>> = BTreeMap::new();
        for (place, addresses) in changes {
            by_zone.entry(&place.zone).or_default().push(rrset(place, addresses.as_ref()));
        }
        for (zone, rrsets) in by_zone {
            self.ask(&Method::PATCH, zone, &json!({ "rrsets": rrsets }).to_string()).await?;
        }
        Ok(())
    }

    async fn ask(&self, method: &Method, zone: &LowerName, body: &str) -> Result<Vec<u8>, SinkError> {
        let path = format!("/api/v1/servers/{}/zones/{zone}", self.server);
        let question = Question { method, path: &path, headers: &[("x-api-key", &self.key)], body };
        let answer = self.servers.ask_whole(question, ANSWER).await;
        let (status, said) = answer.map_err(|error| self.error(error))?;
        match status {
            _ if status.is_success() => Ok(said.to_vec()),
            StatusCode::UNAUTHORIZED => Err(self.error("it does not take this API key")),
            StatusCode::NOT_FOUND => {
                Err(self.error(format_args!("no zone {zone} at server id {}; create it there", self.server)))
            }
            _ => {
                let said: Value = serde_json::from_slice(&said).unwrap_or_default();
                let why = said["error"].as_str().unwrap_or("it does not say why");
                Err(self.error(format_args!("{status} for zone {zone}: {why}")))
            }
        }
    }

    fn error(&self, what: impl ToString) -> SinkError {
        SinkError { place: format!("PowerDNS at {}", self.servers), what: what.to_string() }
    }
}

impl Store for PowerDns {
    fn read<'a>(&'a mut self, places: &'a BTreeSet<Place>) -> BoxFuture<'a, Result<Records, SinkError>> {
        self.find(places).boxed()
    }

    fn write<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, Result<(), SinkError>> {
        self.replace(changes).boxed()
    }
}

fn kind(place: &Place) -> &'static str {
    match place.family {
        Family::V4 => "A",
        Family::V6 => "AAAA",
    }
}

fn rrset(place: &Place, addresses: Option<&Addresses>) -> Value {
    let (name, kind) = (place.name.to_string(), kind(place));
    match addresses {
        Some(Addresses { ttl, all }) => {
            let records: Vec<Value> = all
                .iter()
                .map(|address| json!({"content": address.to_string(), "disabled": false}))
                .collect();
            json!({"name": name, "type": kind, "changetype": "REPLACE", "ttl": ttl, "records": records})
        }
        None => json!({"name": name, "type": kind, "changetype": "DELETE"}),
    }
}
