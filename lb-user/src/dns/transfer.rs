//! Zones as a whole (AXFR, RFC 5936) and what has changed in them (IXFR, RFC 1995), as one or many messages. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::publish::{Edition, is_ahead};
use super::snapshot::Snapshot;
use super::tsig::{Key, Signed};
use super::wire::Transport;
use crate::bgp::Prefix;

/// Bytes after which a message ends: names can point to what is within the first 16 KiB only (RFC 1035, section 4.1.4).
const FULL: usize = 16 << 10;

/// Who may have a zone as a whole, and who is told that it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferConfig {
    /// Where they ask from; `None`: anywhere.
    pub to: Option<Vec<Prefix>>,
    /// The key that they sign with; `None`: they need none.
    pub key: Option<Key>,
    /// Secondaries that are told.
    pub notify: Vec<std::net::SocketAddr>,
}

impl TransferConfig {
    fn allows(&self, source: IpAddr, signed: Option<&Signed>) -> bool {
        let from = self.to.as_ref().is_none_or(|to| to.iter().any(|prefix| prefix.contains(source)));
        from && self.key.as_ref().is_none_or(|key| signed.is_some_and(|signed| *signed.key() == key.name))
    }
}

/// A question for a transfer; its signature is good, if it has one.
pub struct Asked<'a> {
    /// The question.
    pub query: &'a Query,
    /// The serial that the asker of an IXFR has.
    pub known: Option<u32>,
    /// Who asks.
    pub source: IpAddr,
    /// How.
    pub transport: Transport,
    /// By which key.
    pub signed: Option<&'a Signed>,
}

/// A transfer that goes on: message after message.
#[derive(Debug)]
pub struct Transfer {
    metadata: Metadata,
    query: Query,
    plan: Plan,
    /// Number of the next record, the SOA at the beginning being 0.
    at: usize,
    signed: Option<Signed>,
    /// For the first message.
    edns: Option<Edns>,
}

/// What there is between the SOA record at the beginning and the same at the end.
#[derive(Debug)]
enum Middle {
    /// Nothing, not even the one at the end.
    Absent,
    /// All records.
    Whole,
    /// What has changed.
    Changes(Vec<Record>),
}

/// Finds what is transferred, or why not.
pub fn open(snapshot: &Snapshot, asked: &Asked<'_>) -> Result<Plan, ResponseCode> {
    let apex = LowerName::new(asked.query.name());
    let config = snapshot.data.transfers.get(&apex).ok_or(ResponseCode::Refused)?;
    if !config.allows(asked.source, asked.signed) {
        return Err(ResponseCode::Refused);
    }
    let edition = Arc::clone(snapshot.editions.get(&apex).ok_or(ResponseCode::ServFail)?);
    let middle = match (asked.query.query_type(), asked.transport) {
        // Not defined (RFC 5936, section 4.2).
        (RecordType::AXFR, Transport::Udp) => return Err(ResponseCode::FormErr),
        (RecordType::AXFR, Transport::Tcp) => Middle::Whole,
        (_, transport) => {
            let known = asked.known.ok_or(ResponseCode::FormErr)?;
            match (is_ahead(edition.serial(), known), transport) {
                // They have it already; or they are to come by TCP (RFC 1995, sections 2 and 4).
                (false, _) | (true, Transport::Udp) => Middle::Absent,
                (true, Transport::Tcp) => edition.since(known).map_or(Middle::Whole, Middle::Changes),
            }
        }
    };
    Ok(Plan { edition, middle })
}

/// What is told.
#[derive(Debug)]
pub struct Plan {
    edition: Arc<Edition>,
    middle: Middle,
}

impl Plan {
    /// By which type this is counted: that of the question, unless all is told for want of the changes.
    pub fn kind(&self) -> RecordType {
        if matches!(self.middle, Middle::Whole) { RecordType::AXFR } else { RecordType::IXFR }
    }
}

impl Transfer {
    /// A transfer whose messages begin like this.
    pub fn new(
        metadata: Metadata,
        query: Query,
        plan: Plan,
        signed: Option<Signed>,
        edns: Option<Edns>,
    ) -> Self {
        Transfer { metadata, query, plan, at: 0, signed, edns }
    }

    /// Nothing is left to be sent.
    pub fn is_over(&self) -> bool {
        self.record(self.at).is_none()
    }

    /// Writes the next message. `now` in seconds since 1970.
    pub fn next(&mut self, now: u64, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        out.clear();
        let edns = self.edns.take().map(|edns| Record::from(&edns));
        let room = self.signed.as_ref().map_or(0, Signed::room) + edns.as_ref().map_or(0, |_| 512);
        let mut encoder = BinEncoder::new(out);
        encoder.set_max_size(u16::MAX - room);
        let mut counts = HeaderCounts { queries: 1, answers: 0, authorities: 0, additionals: 0 };
        let header = |counts| Header { metadata: self.metadata, counts };
        header(counts).emit(&mut encoder)?;
        self.query.emit(&mut encoder)?;
        while let Some(record) = self.record(self.at) {
            let before = encoder.offset();
            match emit(record, self.query.name(), &mut encoder) {
                // The first record of a message may be as long as it likes.
                Ok(()) if counts.answers == 0 || encoder.offset() <= FULL => {}
                Ok(()) | Err(ProtoError::MaxBufferSizeExceeded(_)) if counts.answers > 0 => {
                    encoder.set_offset(before);
                    encoder.trim();
                    break;
                }
                Ok(()) => {}
                Err(error) => return Err(error),
            }
            counts.answers += 1;
            self.at += 1;
        }
        if let Some(edns) = edns {
            encoder.set_max_size(u16::MAX);
            edns.emit(&mut encoder)?;
            counts.additionals = 1;
        }
        let mut start = Vec::with_capacity(12);
        header(counts).emit(&mut BinEncoder::new(&mut start))?;
        out[..start.len()].copy_from_slice(&start);
        match &mut self.signed {
            Some(signed) => signed.sign(out, now),
            None => Ok(()),
        }
    }

    fn record(&self, number: usize) -> Option<&Record> {
        let Plan { edition, middle } = &self.plan;
        let soa = edition.soa();
        if number == 0 {
            return Some(soa);
        }
        let (record, end) = match middle {
            Middle::Absent => return None,
            Middle::Whole => (edition.record(number - 1), edition.len()),
            Middle::Changes(changes) => (changes.get(number - 1), changes.len()),
        };
        record.or_else(|| (number - 1 == end).then_some(soa))
    }
}

/// Writes a record whose name ends with the zone, which the question behind the header has. The encoder compresses the first
/// names of a message only.
fn emit(record: &Record, apex: &Name, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
    const QUESTION: u16 = 12;
    let own = record.name.iter().count() - apex.iter().count();
    for label in record.name.iter().take(own) {
        encoder.emit_character_data(label)?;
    }
    encoder.emit_u16(0xc000 | QUESTION)?;
    record.record_type().emit(encoder)?;
    record.dns_class.emit(encoder)?;
    encoder.emit_u32(record.ttl)?;
    let length = encoder.place::<u16>()?;
    record.data.emit(encoder)?;
    let data = encoder.len_since_place(&length) as u16;
    length.replace(encoder, data)
}

/// The serial that the asker of an IXFR says it has, in the authority section (RFC 1995, section 3).
pub fn known_serial(query: &Query, authorities: &[Record]) -> Option<u32> {
    authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) if record.name == *query.name() => Some(soa.serial),
        _ => None,
    })
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
