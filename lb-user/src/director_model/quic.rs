//! QUIC by connection id, after draft-ietf-quic-load-balancers: plain server ids behind a byte that begins with the config
//! rotation bits.

use lb_common::reasons::Director;

use super::choose::hop;
use super::parse::Packet;
use super::{View, Way};
use crate::extras::Quic;
use crate::model::{Family, HostId};

/// How an id is written of which no load balancer is to make anything.
const NOBODY: u8 = 7;

/// Sends a packet to the host that its connection id names, if that takes packets; and says how it is counted if it is sent.
pub(super) fn follow(view: &View, packet: &Packet, way: &mut Way) -> Director {
    let quic = view.model.services[&way.service].extras.quic.as_deref();
    let Some(quic) = quic.filter(|_| !packet.quoted) else { return Director::Forwarded };
    let (bytes, count) = (&packet.payload.0, packet.payload.1);
    let id = match connection_id(&bytes[..count]) {
        Written::Nowhere => return Director::Forwarded,
        Written::At(at, length) => {
            bytes[..count].get(at..at + 9).filter(|_| length > usize::from(quic.length))
        }
    };
    let Some(id) = id else { return Director::UnknownId };
    match id[0] >> 5 {
        NOBODY => Director::Forwarded,
        rotation if rotation == quic.rotation => named(view, quic, id, way).unwrap_or(Director::UnknownId),
        _ => Director::UnknownId,
    }
}

enum Written {
    /// None that this server has chosen, as far as one can see.
    Nowhere,
    /// From here on, and how many bytes long at most.
    At(usize, usize),
}

/// Where a packet says its destination connection id (RFC 8999).
fn connection_id(payload: &[u8]) -> Written {
    match payload {
        [] => Written::Nowhere,
        [first, ..] if first & 0x80 == 0 => Written::At(1, 20),
        [first, a, b, c, d, length, ..] => {
            let kind = (first & 0x30) >> 4;
            let opens = match [*a, *b, *c, *d] {
                [0, 0, 0, 1] => [0, 1].contains(&kind),
                [0x6b, 0x33, 0x43, 0xcf] => [1, 2].contains(&kind),
                _ => true,
            };
            if opens { Written::Nowhere } else { Written::At(6, usize::from(*length)) }
        }
        _ => Written::Nowhere,
    }
}

/// The way to the host of a server id, as long as it is healthy and can be reached, drained or not.
fn named(view: &View, quic: &Quic, id: &[u8], way: &mut Way) -> Option<Director> {
    let number = id[1..=usize::from(quic.length)].iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
    way.server_id = Some(number);
    let pool = &view.model.pools[&way.pool];
    let name = quic.server_ids(&way.pool, &pool.hosts).remove(&number)?;
    let id = HostId { pool: way.pool.clone(), host: name };
    let host = &pool.hosts[&id.host];
    let to = hop(view, host, Family::of(way.flow.destination.ip())).ok()?;
    if !view.health.get(&id).copied().unwrap_or(false) {
        return None;
    }
    way.host = Some(id);
    way.hop = Some(to);
    Some(Director::ById)
}
