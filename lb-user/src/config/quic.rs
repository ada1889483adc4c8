//! How the connection ids of a QUIC service name hosts, as it is written.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::extras::Quic;
use crate::model::{Affinity, Protocol, ServiceKey};

use super::check::within;
use super::problem::Position;
use super::reader::{At, Reader, Section};
use super::schema;
use super::written::Maybe;

/// Bytes of a server id, unless the configuration says otherwise: enough that derived ones differ.
const LENGTH: u32 = 8;

/// As it is written.
pub(super) struct Written {
    at: Position,
    key: String,
    rotation: Maybe<u32>,
    length: Maybe<u32>,
    server_ids: Vec<(At<String>, Option<At<String>>)>,
}

/// Reads it from a service.
pub(super) fn read(service: &Section<'_>, r: &mut Reader) -> Option<Written> {
    let s = r.subsection(service, "quic", &schema::QUIC)?;
    let named = r.named(&s, "server_ids");
    let server_ids = named.into_iter().map(|(host, node)| {
        let key = host.key.clone();
        (host, r.value(node, key))
    });
    let server_ids = server_ids.collect();
    Some(Written {
        at: s.at,
        key: s.key.clone(),
        rotation: r.leaf(&s, "rotation"),
        length: r.leaf(&s, "length"),
        server_ids,
    })
}

/// Fits it to the service.
pub(super) fn check(
    written: Option<&Written>,
    place: &At<()>,
    service: ServiceKey,
    affinity: Affinity,
    r: &mut Reader,
) -> Option<Quic> {
    if affinity != Affinity::Quic {
        if let Some(written) = written {
            r.wrong(
                written.at,
                &written.key,
                "means nothing without affinity: quic; add that or remove this",
            );
        }
        return None;
    }
    if service.protocol != Protocol::Udp {
        r.wrong(place.at, &place.key, "affinity: quic is for UDP; write protocol: udp, or another affinity");
    }
    let Some(written) = written else {
        return Some(Quic { rotation: 0, length: LENGTH as u8, given: BTreeMap::new() });
    };
    let rotation = written.rotation.as_ref().map_or(0, |bits| within(bits, 0, 6, r)) as u8;
    let length = written.length.as_ref().map_or(LENGTH, |length| within(length, 1, 8, r)) as u8;
    let mut given: BTreeMap<String, u64> = BTreeMap::new();
    for (host, id) in &written.server_ids {
        let Some(id) = id else { continue };
        let hex = id.value.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(&id.value, 16).ok();
        let Some(number) = number.filter(|_| hex && id.value.len() == 2 * usize::from(length)) else {
            let message = format!(
                "not a server id: {:?}; write {length} bytes as {} hexadecimal digits, in quotes",
                id.value,
                2 * length
            );
            r.wrong(id.at, &id.key, message);
            continue;
        };
        if let Some((other, _)) = given.iter().find(|(_, have)| **have == number) {
            r.wrong(
                id.at,
                &id.key,
                format!("{} is the server id of {other:?} already; write another", id.value),
            );
        }
        given.insert(host.value.clone(), number);
    }
    Some(Quic { rotation, length, given })
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    rotation: u8,
    length: u8,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    server_ids: BTreeMap<String, String>,
}

impl From<&Quic> for Effective {
    fn from(quic: &Quic) -> Self {
        let shown = quic.given.iter().map(|(host, id)| (host.clone(), quic.shown(*id)));
        Effective { rotation: quic.rotation, length: quic.length, server_ids: shown.collect() }
    }
}
