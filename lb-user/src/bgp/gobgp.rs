//! GoBGP: paths injected over its gRPC API, version 3.
//!
//! GoBGP keeps injected paths in memory only. Ours carry a path identifier of our own, so that an agent that was
//! restarted finds them again, and paths that an operator injected are left alone. The identifier stays within GoBGP:
//! towards peers with add-path it numbers paths by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::gobgp_api::{self as api, Attributes, GobgpApiClient};
use super::{Announcements, BgpError, Prefix, Speaker};
use crate::model::Family;

/// Most time to connect.
const CONNECT: Duration = Duration::from_secs(1);
/// Most time for one call.
const CALL: Duration = Duration::from_secs(2);

/// A GoBGP 3 daemon.
pub struct Gobgp {
    place: String,
    client: Option<GobgpApiClient<Channel>>,
    /// Our paths as last seen; `None` while there may be others that were not seen.
    held: Option<Held>,
}

/// Paths and what is told with them.
type Held = BTreeMap<Prefix, Attributes>;

impl Gobgp {
    /// Connects on first use to `api`, `ADDRESS:PORT`.
    pub fn new(api: &str) -> Self {
        Self { place: api.to_owned(), client: None, held: None }
    }

    /// The client, which connects when it is first used and whenever the connection was lost.
    fn client(&mut self) -> Result<GobgpApiClient<Channel>, BgpError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", self.place)).map_err(|error| {
            BgpError::Away { daemon: "GoBGP", place: self.place.clone(), cause: error.to_string() }
        })?;
        let channel = endpoint.connect_timeout(CONNECT).timeout(CALL).connect_lazy();
        Ok(self.client.insert(GobgpApiClient::new(channel)).clone())
    }

    /// Asks for our paths and remembers them. Those of the last time are looked up one by one; GoBGP sends its whole
    /// table only when nothing is remembered.
    async fn look(&mut self) -> Result<Held, BgpError> {
        let before = self.held.take();
        let mut held = Held::new();
        for family in Family::ALL {
            held.append(&mut self.list(family, before.as_ref()).await?);
        }
        if before.is_some_and(|before| before.is_empty()) {
            let mut client = self.client()?;
            let asked = client.get_bgp(api::GetBgpRequest {}).await;
            asked.map_err(|status| self.error("to describe itself", &status))?;
        }
        self.held = Some(held.clone());
        Ok(held)
    }

    async fn list(&mut self, family: Family, known: Option<&Held>) -> Result<Held, BgpError> {
        let of_family = |prefix: &&Prefix| Family::of(prefix.address) == family;
        let exact = |prefix: &Prefix| api::TableLookupPrefix {
            prefix: prefix.to_string(),
            r#type: api::table_lookup_prefix::Type::Exact.into(),
        };
        let prefixes = match known {
            None => Vec::new(),
            Some(known) => known.keys().filter(of_family).map(exact).collect(),
        };
        if known.is_some() && prefixes.is_empty() {
            return Ok(Held::new());
        }
        let request = api::ListPathRequest {
            table_type: api::TableType::Global.into(),
            family: Some(api::family(family)),
            prefixes,
            ..Default::default()
        };
        let mut client = self.client()?;
        let refused = |status| self.error("to list paths", &status);
        let mut answers = client.list_path(request).await.map_err(refused)?.into_inner();
        let mut held = Held::new();
        while let Some(answer) = answers.message().await.map_err(refused)? {
            let Some(destination) = answer.destination else { continue };
            let Ok(prefix) = destination.prefix.parse() else { continue };
            if let Some(path) = destination.paths.iter().find(|path| api::is_ours(path)) {
                held.insert(prefix, Attributes::of(path));
            }
        }
        Ok(held)
    }

    async fn add(&mut self, prefix: Prefix, attributes: &Attributes) -> Result<(), BgpError> {
        let mut client = self.client()?;
        let path = Some(api::path(prefix, attributes));
        let request = api::AddPathRequest { path, ..Default::default() };
        let added = client.add_path(request).await;
        added.map(drop).map_err(|status| self.error(&format!("to announce {prefix}"), &status))
    }

    async fn delete(&mut self, prefix: Prefix) -> Result<(), BgpError> {
        let mut client = self.client()?;
        let path = Some(api::withdrawal(prefix));
        let request = api::DeletePathRequest { path, ..Default::default() };
        let deleted = client.delete_path(request).await;
        deleted.map(drop).map_err(|status| self.error(&format!("to withdraw {prefix}"), &status))
    }

    fn error(&self, what: &str, status: &Status) -> BgpError {
        let message = match status.code() {
            Code::Unimplemented => format!("{}; this agent speaks API v3, of GoBGP 3", status.message()),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                let cause = deepest(status);
                return BgpError::Away { daemon: "GoBGP", place: self.place.clone(), cause };
            }
            _ => status.message().to_owned(),
        };
        BgpError::Refused { daemon: "GoBGP", what: what.to_owned(), message }
    }
}

impl Speaker for Gobgp {
    async fn announce(&mut self, want: &Announcements) -> Result<(), BgpError> {
        let held = self.look().await?;
        // Until all is done, what GoBGP holds is not known.
        self.held = None;
        for prefix in held.keys().filter(|prefix| !want.routes.contains(prefix)) {
            self.delete(*prefix).await?;
        }
        let mut missing = Ok(());
        let mut holds = Held::new();
        for &prefix in &want.routes {
            let attributes = match Attributes::wanted(prefix, want) {
                Ok(attributes) => attributes,
                Err(error) => {
                    missing = Err(error);
                    continue;
                }
            };
            if held.get(&prefix) != Some(&attributes) {
                self.add(prefix, &attributes).await?;
            }
            holds.insert(prefix, attributes);
        }
        self.held = Some(holds);
        missing
    }

    async fn announced(&mut self) -> Result<BTreeSet<Prefix>, BgpError> {
        Ok(self.look().await?.into_keys().collect())
    }
}

/// The innermost cause: tonic's own words are `transport error`.
fn deepest(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.is::<Status>() {
        true => status.message().to_owned(),
        false => error.to_string(),
    }
}
