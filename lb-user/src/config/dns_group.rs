//! What name servers do together: one that writes (`dns.leader`), votes on health (`dns.observers`), and a shared address
//! (`dns.anycast`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::dns::leader::LeaderConfig;
use crate::dns::observers::ObserversConfig;
use crate::model::Model;
use crate::peers::PeerUrl;

use super::check::{not_unicast, nothing_listed, within};
use super::dns_sinks::urls;
use super::effective::shown;
use super::leaf::Driver;
use super::problem::Position;
use super::reader::{Reader, Section};
use super::schema;
use super::written::{List, Maybe};

/// The key that leaders hold, unless the configuration says otherwise.
const LEADER_KEY: &str = "/lb/dns/leader";
/// How long a lease lasts, unless the configuration says otherwise: etcd's least.
const LEASE: Duration = Duration::from_secs(2);

/// As they are written.
pub(super) struct Written {
    leader: Option<Leader>,
    observers: Option<Observers>,
    anycast: List<IpAddr>,
}

struct Leader {
    etcd: List<String>,
    key: Maybe<String>,
    lease: Maybe<Duration>,
}

struct Observers {
    at: Position,
    nodes: List<PeerUrl>,
    quorum: Maybe<u32>,
}

/// What it comes to.
pub(super) struct Group {
    pub leader: Option<LeaderConfig>,
    pub observers: Option<ObserversConfig>,
    pub anycast: BTreeSet<IpAddr>,
}

/// What of the rest of the file it is fitted to.
pub(super) struct Around<'a> {
    pub model: &'a Model,
    pub has_zones: bool,
    pub has_sinks: bool,
    pub has_own_names: bool,
    pub bgp: Option<&'a super::written::Bgp>,
    pub director: bool,
    /// Others can ask this node.
    pub peers_listen: bool,
}

impl Written {
    /// Addresses are to be announced.
    pub fn has_anycast(&self) -> bool {
        self.anycast.is_some()
    }
}

pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Written {
    let leader = r.subsection(s, "leader", &schema::DNS_LEADER).map(|s| {
        if !s.has("etcd") {
            r.missing(&s, "etcd", "write where etcd's members are, as in [\"http://192.0.2.10:2379\"]");
        }
        Leader { etcd: r.one_or_more(&s, "etcd"), key: r.leaf(&s, "key"), lease: r.leaf(&s, "lease") }
    });
    let observers = r.subsection(s, "observers", &schema::DNS_OBSERVERS).map(|s| {
        if !s.has("nodes") {
            r.missing(&s, "nodes", "list all observers, as in [\"http://192.0.2.53:7400\"]");
        }
        Observers { at: s.at, nodes: r.one_or_more(&s, "nodes"), quorum: r.leaf(&s, "quorum") }
    });
    Written { leader, observers, anycast: r.one_or_more(s, "anycast") }
}

pub(super) fn check(w: &Written, around: &Around<'_>, r: &mut Reader) -> Group {
    Group {
        leader: w.leader.as_ref().and_then(|leader| one_leader(leader, around, r)),
        observers: w.observers.as_ref().and_then(|observers| some_observers(observers, around, r)),
        anycast: anycast(&w.anycast, around, r),
    }
}

fn one_leader(w: &Leader, around: &Around<'_>, r: &mut Reader) -> Option<LeaderConfig> {
    let etcd = w.etcd.as_ref()?;
    nothing_listed(&w.etcd, "write where etcd's members are", r);
    if !around.has_sinks {
        r.wrong(
            etcd.at,
            &etcd.key,
            "nothing to write: the leader is who writes to dns.sinks; add one, or remove dns.leader",
        );
    }
    if around.has_own_names {
        let message = "dns.claims have names of this node alone (own), which every node must write; remove them, or dns.leader";
        r.wrong(etcd.at, &etcd.key, message);
    }
    if let Some(key) = w.key.as_ref().filter(|key| key.value.is_empty()) {
        r.wrong(key.at, &key.key, "empty; write the key that the leader holds, as in /lb/dns/leader");
    }
    if let Some(lease) = w.lease.as_ref().filter(|it| it.value < LEASE || it.value.subsec_nanos() != 0) {
        r.wrong(lease.at, &lease.key, "etcd takes whole seconds, 2s at least; write one, as in 5s");
    }
    Some(LeaderConfig {
        urls: urls(&w.etcd, r),
        key: w.key.as_ref().map_or(LEADER_KEY, |key| &key.value).to_owned(),
        lease: w.lease.as_ref().map_or(LEASE, |lease| lease.value),
    })
}

fn some_observers(w: &Observers, around: &Around<'_>, r: &mut Reader) -> Option<ObserversConfig> {
    let nodes: BTreeSet<PeerUrl> = w.nodes.as_ref()?.value.iter().map(|node| node.value.clone()).collect();
    nothing_listed(&w.nodes, "list all observers, this node too if it is one", r);
    if !around.peers_listen {
        let message = "others cannot ask this node what it sees; write where, as in peers: {listen: \"192.0.2.53:7400\"}";
        r.wrong(w.at, "dns.observers", message);
    }
    let all = nodes.len() as u32;
    let least = all / 2 + 1;
    let quorum = w.quorum.as_ref().filter(|_| all > 0).map_or(least, |quorum| within(quorum, least, all, r));
    Some(ObserversConfig { nodes, quorum: quorum as usize })
}

fn anycast(w: &List<IpAddr>, around: &Around<'_>, r: &mut Reader) -> BTreeSet<IpAddr> {
    nothing_listed(w, "list addresses that other name servers have as well", r);
    let Some(list) = w else { return BTreeSet::new() };
    for address in &list.value {
        if let Some(kind) = not_unicast(address.value) {
            let message = format!(
                "{kind} address cannot be shared: {}; write a routable unicast address",
                address.value
            );
            r.wrong(address.at, &address.key, message);
        } else if around.model.services.keys().any(|service| service.vip.contains(address.value)) {
            let message = format!(
                "{} is a VIP, which is announced by what its hosts do; write another one",
                address.value
            );
            r.wrong(address.at, &address.key, message);
        }
    }
    if !around.has_zones {
        r.wrong(list.at, &list.key, "asked for a zone's SOA, and there is none; add dns.zones");
    }
    match around.bgp {
        None => r.wrong(list.at, &list.key, "announced by BGP; add the section bgp"),
        Some(bgp)
            if !around.director
                && bgp.driver.as_ref().is_some_and(|driver| driver.value == Driver::Gobgp) =>
        {
            let message =
                "GoBGP takes no route without a next hop, which a director alone has (source4); use bird";
            r.wrong(list.at, &list.key, message);
        }
        Some(_) => {}
    }
    list.value.iter().map(|address| address.value).collect()
}

/// An election as it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EffectiveLeader {
    etcd: Vec<String>,
    key: String,
    lease: String,
}

impl From<&LeaderConfig> for EffectiveLeader {
    fn from(leader: &LeaderConfig) -> Self {
        EffectiveLeader { etcd: leader.urls.clone(), key: leader.key.clone(), lease: shown(leader.lease) }
    }
}

/// Observers as they would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EffectiveObservers {
    nodes: Vec<String>,
    quorum: usize,
}

impl From<&ObserversConfig> for EffectiveObservers {
    fn from(observers: &ObserversConfig) -> Self {
        let nodes = observers.nodes.iter().map(ToString::to_string).collect();
        EffectiveObservers { nodes, quorum: observers.quorum }
    }
}
