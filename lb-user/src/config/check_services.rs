//! The services: what users connect to, and how it is spread over hosts.

use std::collections::BTreeMap;

use crate::extras::Counted;
use crate::model::{Affinity, Fragments, HashBy, Protocol, Service, ServiceKey};
use crate::vip::Vip;

use super::check::{copied, known_pool, quorum, usable_vip};
use super::reader::Reader;
use super::written::{self, Written};
use super::{extras, overlaps};

type Services = BTreeMap<ServiceKey, Service>;

pub(super) fn services(w: &Written, r: &mut Reader) -> Services {
    let mut services = Services::new();
    let mut places = overlaps::Places::new();
    let mut of_fragments = BTreeMap::new();
    for service in &w.services {
        let pool = service.pool.as_ref().and_then(|pool| known_pool(pool, w, r));
        let quorum = quorum(&service.quorum, pool, r);
        let vip = service.vip.as_ref().and_then(|vip| usable_vip(vip, r));
        let (Some(vip), Some(port), false) = (vip, &service.port, service.protocol_is_wrong) else {
            continue;
        };
        let protocol = service.protocol.as_ref().map_or(Protocol::Tcp, |protocol| protocol.value);
        let key = ServiceKey { vip, port: port.value.0, protocol };
        let place = &service.place;
        if let Some(first) = places.get(&key) {
            let line = first.at.line;
            let message =
                format!("{key} is a service already, in line {line}; remove one or change its port");
            r.wrong(place.at, &place.key, message);
            continue;
        }
        places.insert(key, place.clone());
        let pool = service.pool.as_ref().map(|pool| pool.value.clone()).unwrap_or_default();
        let affinity = service.affinity.as_ref().map_or(Affinity::of(protocol), |affinity| affinity.value);
        let fragments = copied(&service.fragments);
        let hash = hash(service, affinity, fragments, r);
        let extras = extras::check(&service.extras, place, key, affinity, r);
        let checked = Service { pool, quorum, affinity, hash, fragments, extras };
        fragments_agree(&key, &checked, service, &mut of_fragments, r);
        fragments_open_nothing(&checked, service, r);
        services.insert(key, checked);
    }
    overlaps::fragments(&services, &places, r);
    services
}

/// What of a flow chooses its host. A director remembers whole flows only; and fragments, which have no ports, find the
/// host of the other packets only if their ports do not matter either.
fn hash(service: &written::Service, affinity: Affinity, fragments: Fragments, r: &mut Reader) -> HashBy {
    let default = match fragments {
        Fragments::Drop => HashBy::FiveTuple,
        Fragments::Forward => HashBy::Addresses,
    };
    let hash = service.hash.as_ref().map_or(default, |hash| hash.value);
    if let Some(written) = service.hash.as_ref().filter(|_| default != HashBy::FiveTuple)
        && hash == HashBy::FiveTuple
    {
        let message = "5-tuple does not go with fragments: forward, as fragments have no ports; write addresses or source";
        r.wrong(written.at, &written.key, message);
    } else if affinity == Affinity::FlowTable && hash != HashBy::FiveTuple {
        let (at, key) = match (&service.hash, &service.fragments) {
            (Some(hash), _) => (hash.at, &hash.key),
            (None, Some(fragments)) => (fragments.at, &fragments.key),
            (None, None) => (service.place.at, &service.place.key),
        };
        let message =
            "does not go with affinity: flow-table, which knows flows by their ports; change one of them";
        r.wrong(at, key, message);
    }
    hash
}

/// A fragment is known by VIP and protocol alone, so that all services of these must treat it alike.
fn fragments_agree(
    key: &ServiceKey,
    service: &Service,
    written: &written::Service,
    seen: &mut BTreeMap<(Vip, Protocol), (Service, u64)>,
    r: &mut Reader,
) {
    let at = written.fragments.as_ref().map_or(written.place.at, |fragments| fragments.at);
    let (first, line) =
        seen.entry((key.vip, key.protocol)).or_insert_with(|| (service.clone(), written.place.at.line));
    if !overlaps::alike(first, service) {
        let message = format!(
            "fragments of {}/{} have no ports: services of one VIP and protocol forward all of them or none, with the same \
             pool, hash, sources and limit; line {line} says otherwise",
            key.vip, key.protocol
        );
        let key = written.fragments.as_ref().map_or(&written.place.key, |fragments| &fragments.key);
        r.wrong(at, key, message);
    }
}

/// What opens a connection cannot be seen in a fragment, so that a limit of connections would be none.
fn fragments_open_nothing(service: &Service, written: &written::Service, r: &mut Reader) {
    let counts_connections = service.extras.limit.is_some_and(|limit| limit.of == Counted::Connections);
    if let Some(fragments) = &written.fragments
        && fragments.value == Fragments::Forward
        && counts_connections
    {
        let message = "forward does not go with limit.connections, as a fragment hides what opens a connection; \
                       limit packets, or drop fragments";
        r.wrong(fragments.at, &fragments.key, message);
    }
}
