//! How much each source may use a service, as it is written.

use std::time::Duration;

use serde::Serialize;

use crate::extras::{Counted, Limit};
use crate::model::{Protocol, ServiceKey};

use super::check::within;
use super::effective::shown;
use super::problem::Position;
use super::reader::{Reader, Section};
use super::schema;
use super::written::Maybe;

/// Most connections or packets in the given time, and at once.
const MOST: u32 = 1_000_000;

/// As it is written.
pub(super) struct Written {
    at: Position,
    key: String,
    connections: Maybe<u32>,
    packets: Maybe<u32>,
    /// How many of the two are there, rightly or wrongly.
    bounds: usize,
    per: Maybe<Duration>,
    burst: Maybe<u32>,
    prefix4: Maybe<u32>,
    prefix6: Maybe<u32>,
}

/// Reads it from a service.
pub(super) fn read(service: &Section<'_>, r: &mut Reader) -> Option<Written> {
    let s = r.subsection(service, "limit", &schema::LIMIT)?;
    Some(Written {
        at: s.at,
        key: s.key.clone(),
        connections: r.leaf(&s, "connections"),
        packets: r.leaf(&s, "packets"),
        bounds: ["connections", "packets"].into_iter().filter(|key| s.has(key)).count(),
        per: r.leaf(&s, "per"),
        burst: r.leaf(&s, "burst"),
        prefix4: r.leaf(&s, "prefix4"),
        prefix6: r.leaf(&s, "prefix6"),
    })
}

/// Fits it to the service.
pub(super) fn check(written: &Written, service: ServiceKey, r: &mut Reader) -> Option<Limit> {
    if written.bounds != 1 {
        r.wrong(written.at, &written.key, "write one of connections and packets");
    }
    if let Some(connections) = &written.connections
        && service.protocol == Protocol::Udp
    {
        let message = "UDP has no connections to count; write packets";
        r.wrong(connections.at, &connections.key, message);
    }
    let of = if written.connections.is_some() { Counted::Connections } else { Counted::Packets };
    let count = written.connections.as_ref().or(written.packets.as_ref())?;
    let count_is = within(count, 1, MOST, r);
    let burst = written.burst.as_ref().map_or(count_is, |burst| within(burst, 1, MOST, r));
    let bits = |written: &Maybe<u32>, default, most, r: &mut Reader| {
        written.as_ref().map_or(default, |bits| within(bits, 0, most, r)) as u8
    };
    Some(Limit {
        of,
        count: count_is,
        per: written.per.as_ref().map_or(Duration::from_secs(1), |per| per.value),
        burst,
        prefix4: bits(&written.prefix4, 32, 32, r),
        prefix6: bits(&written.prefix6, 64, 128, r),
    })
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u32>,
    per: String,
    burst: u32,
    prefix4: u8,
    prefix6: u8,
}

impl From<&Limit> for Effective {
    fn from(limit: &Limit) -> Self {
        let Limit { of, count, per, burst, prefix4, prefix6 } = *limit;
        Effective {
            connections: (of == Counted::Connections).then_some(count),
            packets: (of == Counted::Packets).then_some(count),
            per: shown(per),
            burst,
            prefix4,
            prefix6,
        }
    }
}
