//! VIPs that hold others: what the services of an address must agree on.

use std::collections::BTreeMap;

use crate::extras::Extras;
use crate::model::{Fragments, Model, Service, ServiceKey};

use super::problem::Position;
use super::reader::{At, Reader};

/// Where each service is written.
pub(super) type Places = BTreeMap<ServiceKey, At<()>>;

/// A fragment is known by address and protocol alone: where a service of a prefix shows through at a VIP in it, because
/// that has none of this port, it must treat fragments as the services of that VIP do.
pub(super) fn fragments(services: &BTreeMap<ServiceKey, Service>, places: &Places, r: &mut Reader) {
    if services.values().all(|service| service.fragments == Fragments::Drop) {
        return;
    }
    let model = Model { services: services.clone(), ..Model::default() };
    for vip in model.vips() {
        let all = model.services_at(vip);
        let own: Vec<_> = all.iter().filter(|(key, _)| key.vip == vip).collect();
        let through = |(key, service): &(&ServiceKey, &Service)| {
            own.iter().find(|(o, first)| o.protocol == key.protocol && !alike(first, service)).copied()
        };
        let around = all.iter().filter(|(key, _)| key.vip != vip);
        let Some((around, (key, _))) = around.filter_map(|one| Some((one.0, through(one)?))).next() else {
            continue;
        };
        let (Some(place), Some(other)) = (places.get(key), places.get(around)) else { continue };
        let Position { line, .. } = other.at;
        let message = format!(
            "fragments to {vip} have no ports, and {around} in line {line} serves {vip} too: both forward fragments or none, with \
             the same pool, hash, sources and limit; or give {vip} a service of that port"
        );
        r.wrong(place.at, &place.key, message);
    }
}

/// Fragments go to the same hosts by both, from the same sources.
pub(super) fn alike(first: &Service, second: &Service) -> bool {
    let treated = |service: &Service| {
        let Extras { sources, limit, .. } = service.extras.clone();
        (service.pool.clone(), service.hash, sources, limit)
    };
    match (first.fragments, second.fragments) {
        (Fragments::Drop, Fragments::Drop) => true,
        (Fragments::Forward, Fragments::Forward) => treated(first) == treated(second),
        _ => false,
    }
}
