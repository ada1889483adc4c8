//! Whether a client may use a service, and how much.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::reasons::Director;

use super::parse::Packet;
use super::{Memory, View, Way};
use crate::bgp::Prefix;
use crate::extras::{Counted, Limit};
use crate::model::ServiceKey;

/// By service and source.
pub type Credits = BTreeMap<(ServiceKey, Prefix), Credit>;

/// Time that a source has to spend, at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    left: Duration,
    at: Duration,
}

/// Refuses a flow whose client may not use its service, or not just now; it has no way then. An error about a flow is judged by
/// that flow's client, whoever sent it, and is not counted.
pub(super) fn check(
    view: &View,
    memory: &mut Memory,
    packet: &Packet,
    way: &mut Way,
) -> Result<(), Director> {
    let extras = &view.model.services[&way.service].extras;
    let client = way.flow.source.ip();
    way.ruling = extras.sources.as_ref().map(|list| list.ruling(client));
    way.limit = extras.limit;
    let refused = if way.ruling.is_some_and(|ruling| !ruling.allowed) {
        Director::SourceDenied
    } else if let Some(limit) = extras.limit.filter(|limit| counts(limit, packet))
        && !spend(memory, &limit, (way.service, limit.source(client)))
    {
        Director::RateLimited
    } else {
        return Ok(());
    };
    (way.host, way.hop) = (None, None);
    Err(refused)
}

fn counts(limit: &Limit, packet: &Packet) -> bool {
    !packet.quoted && (packet.opens || limit.of == Counted::Packets)
}

/// Takes the price of a packet from a source's credit, which grows with time, up to that of a burst.
fn spend(memory: &mut Memory, limit: &Limit, source: (ServiceKey, Prefix)) -> bool {
    let price = Duration::from_nanos(limit.interval());
    let most = price * limit.burst;
    let now = memory.now;
    let credit = memory.credits.entry(source).or_insert(Credit { left: most, at: now });
    let grown = credit.left + now.saturating_sub(credit.at);
    *credit = Credit { left: grown.min(most), at: now };
    let enough = credit.left >= price;
    if enough {
        credit.left -= price;
    }
    enough
}
