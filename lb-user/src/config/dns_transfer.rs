//! The section `transfer` of a zone: who may have it as a whole, and who is told that it has changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hickory_proto::rr::Name;
use serde::Serialize;

use crate::bgp::Prefix;
use crate::dns::transfer::TransferConfig;
use crate::dns::tsig::Key;

use super::check::nothing_listed;
use super::dns_key;
use super::problem::Position;
use super::reader::{At, Reader, Section};
use super::schema;
use super::written::List;

/// As it is written.
pub(super) struct Written {
    to: List<Prefix>,
    key: dns_key::Written,
    notify: List<SocketAddr>,
    place: At<()>,
    /// Keys that are there, rightly or wrongly.
    keys: Vec<&'static str>,
}

/// Reads it from the section of a zone.
pub(super) fn read(zone: &Section<'_>, r: &mut Reader) -> Option<Written> {
    let s = r.subsection(zone, "transfer", &schema::DNS_TRANSFER)?;
    Some(Written {
        to: r.one_or_more(&s, "to"),
        key: dns_key::read(&s, r),
        notify: r.one_or_more(&s, "notify"),
        keys: schema::DNS_TRANSFER.keys.iter().copied().filter(|key| s.has(key)).collect(),
        place: At { value: (), at: s.at, key: s.key.clone() },
    })
}

/// Names of keys, each with its key and the line where that is first written.
pub(super) type Known = BTreeMap<Name, (Key, Position)>;

/// Fits it to the keys of the other zones.
pub(super) fn check(w: &Written, known: &mut Known, r: &mut Reader) -> TransferConfig {
    let place = &w.place;
    if !["to", "key"].iter().any(|key| w.keys.contains(key)) {
        let message = "says nobody; write to (prefixes of secondaries), key (of a TSIG key), or both";
        r.wrong(place.at, &place.key, message);
    }
    nothing_listed(&w.to, "list at least one prefix, as in [192.0.2.54/32]", r);
    nothing_listed(&w.notify, "list at least one secondary, as in [\"192.0.2.54:53\"]", r);
    let key = dns_key::check(&w.key, place, |key| w.keys.contains(&key), r);
    if let Some((key, name)) = key.as_ref().zip(w.key.name.as_ref()) {
        let (first, at) = known.entry(key.name.clone()).or_insert_with(|| (key.clone(), name.at));
        if first != key {
            let message = format!(
                "has another secret or algorithm in line {}; write the same, or use another name",
                at.line
            );
            r.wrong(name.at, &name.key, message);
        }
    }
    TransferConfig {
        to: w.to.as_ref().map(|list| list.value.iter().map(|prefix| prefix.value).collect()),
        key,
        notify: w.notify.iter().flat_map(|list| &list.value).map(|address| address.value).collect(),
    }
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<String>>,
    #[serde(flatten)]
    key: dns_key::Effective,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notify: Vec<SocketAddr>,
}

impl From<&TransferConfig> for Effective {
    fn from(transfer: &TransferConfig) -> Self {
        Effective {
            to: transfer.to.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
            key: transfer.key.as_ref().map(Into::into).unwrap_or_default(),
            notify: transfer.notify.clone(),
        }
    }
}
