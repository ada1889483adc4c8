//! Records in etcd in the form of SkyDNS, which CoreDNS's plugin `etcd` answers from.
//!
//! The addresses of `www.example.org` are the keys below `/skydns/org/example/www/`, one each:
//! `{"host":"192.0.2.1","ttl":30}`. Ours end in `lb-4-` or `lb-6-` and the address with dashes; others are left alone. A
//! wildcard is a label `*` in CoreDNS as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::rr::LowerName;
use serde_json::{Value, json};

use super::{Addresses, Changes, Place, Records, SinkError, Store};
use crate::etcd::{Etcd, decode, encode};
use crate::model::Family;

/// Operations in one transaction; etcd takes 128 by default.
const AT_ONCE: usize = 100;

/// An etcd (v3.4 or later) that CoreDNS reads.
pub struct SkyDns {
    etcd: Etcd,
    prefix: String,
}

impl SkyDns {
    /// The first of these members that answers, and the `path` of CoreDNS (`/skydns`).
    pub fn new(urls: Vec<String>, prefix: &str) -> Self {
        SkyDns { etcd: Etcd::new(urls), prefix: prefix.trim_end_matches('/').into() }
    }

    async fn find(&self, places: &BTreeSet<Place>) -> Result<Records, SinkError> {
        let mut found = Records::new();
        let mut names: BTreeMap<&LowerName, Vec<&Place>> = BTreeMap::new();
        for place in places {
            names.entry(&place.name).or_default().push(place);
        }
        let names: Vec<_> = names.into_iter().collect();
        for some in names.chunks(AT_ONCE) {
            let ranges = some.iter().map(|(name, _)| {
                let from = self.key(name, "lb-");
                json!({"request_range": {"key": encode(&from), "range_end": encode(after(&from))}})
            });
            let said = self.transact(ranges.collect()).await?;
            let ranges = said["responses"].as_array().into_iter().flatten();
            for ((_, places), range) in some.iter().zip(ranges) {
                let pairs = range["response_range"]["kvs"].as_array().into_iter().flatten();
                for (address, ttl) in pairs.filter_map(|pair| record(&pair["value"])) {
                    let Some(place) =
                        places.iter().find(|place| (place.family == Family::V4) == address.is_ipv4())
                    else {
                        continue;
                    };
                    let at = found.entry((*place).clone());
                    let addresses = at.or_insert_with(|| Addresses { ttl, all: BTreeSet::new() });
                    addresses.ttl = addresses.ttl.min(ttl);
                    addresses.all.insert(address);
                }
            }
        }
        Ok(found)
    }

    /// Each place in a transaction of its own or with others: a name is never seen without any of its addresses.
    async fn replace(&self, changes: &Changes) -> Result<(), SinkError> {
        let mut operations: Vec<Value> = Vec::new();
        for (place, addresses) in changes {
            let next = self.operations(place, addresses.as_ref()).await?;
            if operations.len() + next.len() > AT_ONCE {
                self.transact(std::mem::take(&mut operations)).await?;
            }
            operations.extend(next);
        }
        self.transact(operations).await.map(drop)
    }

    /// A key must not be written twice in a transaction, so that what stays is not deleted first.
    async fn operations(
        &self,
        place: &Place,
        addresses: Option<&Addresses>,
    ) -> Result<Vec<Value>, SinkError> {
        let have = self.find(&BTreeSet::from([place.clone()])).await?;
        let have = have.get(place).map(|addresses| addresses.all.clone()).unwrap_or_default();
        let want = addresses.map(|addresses| addresses.all.clone()).unwrap_or_default();
        let gone = have
            .difference(&want)
            .map(|address| json!({"request_delete_range": {"key": encode(self.key_of(place, *address))}}));
        let ttl = addresses.map_or(0, |addresses| addresses.ttl);
        let put = want.iter().map(|address| {
            let value = json!({"host": address.to_string(), "ttl": ttl}).to_string();
            json!({"request_put": {"key": encode(self.key_of(place, *address)), "value": encode(&value)}})
        });
        Ok(gone.chain(put).collect())
    }

    async fn transact(&self, operations: Vec<Value>) -> Result<Value, SinkError> {
        if operations.is_empty() {
            return Ok(Value::Null);
        }
        let answer = self.etcd.ask("/v3/kv/txn", &json!({ "success": operations })).await;
        answer.map_err(|error| SinkError { place: "etcd".into(), what: error.to_string() })
    }

    /// The name's labels from the root down, then the record's own.
    fn key(&self, name: &LowerName, last: &str) -> String {
        let name = name.to_string();
        let labels: Vec<&str> = name.trim_end_matches('.').rsplit('.').collect();
        format!("{}/{}/{last}", self.prefix, labels.join("/"))
    }

    fn key_of(&self, place: &Place, address: IpAddr) -> String {
        let family = if address.is_ipv4() { 4 } else { 6 };
        self.key(&place.name, &format!("lb-{family}-{}", address.to_string().replace(['.', ':'], "-")))
    }
}

impl Store for SkyDns {
    fn read<'a>(&'a mut self, places: &'a BTreeSet<Place>) -> BoxFuture<'a, Result<Records, SinkError>> {
        self.find(places).boxed()
    }

    fn write<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, Result<(), SinkError>> {
        self.replace(changes).boxed()
    }
}

/// The first key after all that begin like this one.
fn after(key: &str) -> String {
    let mut bytes = key.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn record(value: &Value) -> Option<(IpAddr, u32)> {
    let value: Value = serde_json::from_slice(&decode(value)?).ok()?;
    Some((value["host"].as_str()?.parse().ok()?, value["ttl"].as_u64()?.try_into().ok()?))
}
