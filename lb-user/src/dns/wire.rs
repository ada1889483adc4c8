//! From a packet to its answer: RFC 1035, EDNS (RFC 6891), client subnet (RFC 7871), NSID (RFC 5001). Pure.

use std::net::IpAddr;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts,
};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption, NSIDPayload};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};

use super::answer::{Answer, Question, answer};
use super::policy::Client;
use super::snapshot::Snapshot;
use crate::bgp::Prefix;

/// Bytes of a UDP answer for clients without EDNS (RFC 1035, section 4.2.1).
const PLAIN: u16 = 512;
/// Most bytes of a UDP answer: such are not fragmented on any usual path (DNS flag day 2020).
pub const LARGEST_UDP: u16 = 1232;

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection, with its length before it.
    Tcp,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer: shorter than a header.
    TooShort,
    /// No answer: it is an answer itself. To answer those would have two servers talk for ever.
    NotAQuestion,
    /// No answer: it cannot be written. Nothing leads here.
    Unwritable,
    /// Answered.
    Answered {
        /// How it went.
        code: ResponseCode,
        /// The answer did not fit, and says so (TC).
        truncated: bool,
        /// Number of the choice that gave the addresses.
        choice: Option<usize>,
    },
}

/// Writes the answer to a packet into `out`; empty if there is none. `roll` is chance.
pub fn respond(
    snapshot: &Snapshot,
    packet: &[u8],
    source: IpAddr,
    transport: Transport,
    roll: u64,
    out: &mut Vec<u8>,
) -> Outcome {
    out.clear();
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Outcome::TooShort };
    if header.metadata.message_type == MessageType::Response {
        return Outcome::NotAQuestion;
    }
    let request = match read(&header, &mut decoder, packet) {
        Ok(request) => request,
        Err(code) => {
            // What cannot be read cannot be repeated either: the header alone (RFC 1035, section 4.1.1).
            let written = write(&header.metadata, None, &Answer::of(code), None, 512, out);
            return told(written, code, None);
        }
    };
    let client = Client { source, subnet: request.subnet };
    let answer = match request.verdict {
        Some(code) => Answer::of(code),
        None => answer(snapshot, &request.question, &client, roll),
    };
    let edns = request.edns.as_ref().map(|asked| edns(asked, &request, &answer, &snapshot.data.nsid));
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN, LARGEST_UDP),
    };
    let code = answer.code;
    let written = write(&header.metadata, Some(&request.query), &answer, edns.as_ref(), limit, out);
    told(written, code, answer.choice)
}

/// A packet that can be answered.
struct Request {
    query: Query,
    question: Question,
    edns: Option<Edns>,
    /// Client subnet as it was asked.
    asked_subnet: Option<ClientSubnet>,
    /// The same, if it can be used.
    subnet: Option<Prefix>,
    /// The code that needs no look at zones.
    verdict: Option<ResponseCode>,
}

/// Reads a packet behind its header; the code of what cannot be read.
fn read(header: &Header, decoder: &mut BinDecoder<'_>, packet: &[u8]) -> Result<Request, ResponseCode> {
    if header.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let counts = &header.counts;
    // One question, and nothing that a question does not have (RFC 9619). EDNS, TSIG and SIG(0) are additional.
    if counts.queries != 1 || counts.answers != 0 || counts.authorities > 1 || counts.additionals > 2 {
        return Err(ResponseCode::FormErr);
    }
    let query = Query::read(decoder).map_err(|_| ResponseCode::FormErr)?;
    let op_code = header.metadata.op_code;
    // IXFR has a SOA there (RFC 1995, section 3).
    Message::read_records(decoder, counts.authorities.into(), false, op_code)
        .map_err(|_| ResponseCode::FormErr)?;
    let (_, edns, _) = Message::read_records(decoder, counts.additionals.into(), true, op_code)
        .map_err(|_| ResponseCode::FormErr)?;
    if decoder.index() != packet.len() {
        return Err(ResponseCode::FormErr);
    }
    let question =
        Question { name: query.name().clone(), kind: query.query_type(), class: query.query_class() };
    let asked_subnet = edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Subnet) {
        Some(EdnsOption::Subnet(subnet)) => Some(*subnet),
        _ => None,
    });
    let mut verdict = None;
    if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        verdict = Some(ResponseCode::BADVERS);
    } else if asked_subnet.is_some_and(|subnet| !is_proper(&subnet)) {
        verdict = Some(ResponseCode::FormErr);
    }
    let subnet = asked_subnet.map(|subnet| Prefix { address: subnet.addr(), length: subnet.source_prefix() });
    Ok(Request { query, question, edns, asked_subnet, subnet, verdict })
}

/// RFC 7871, section 7.1.2: no scope in a question, no length beyond the address, no bits beyond the length.
fn is_proper(subnet: &ClientSubnet) -> bool {
    let length = subnet.source_prefix();
    let rest = match subnet.addr() {
        IpAddr::V4(address) if length <= 32 => {
            u128::from(address.to_bits().checked_shl(u32::from(length)).unwrap_or(0))
        }
        IpAddr::V6(address) if length <= 128 => address.to_bits().checked_shl(u32::from(length)).unwrap_or(0),
        _ => return false,
    };
    subnet.scope_prefix() == 0 && rest == 0
}

/// The OPT record of the answer.
fn edns(asked: &Edns, request: &Request, answer: &Answer, nsid: &str) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST_UDP).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
    if asked.version() != 0 {
        return edns;
    }
    if asked.option(EdnsCode::NSID).is_some()
        && let Ok(payload) = NSIDPayload::new(nsid.as_bytes())
    {
        edns.options_mut().insert(EdnsOption::NSID(payload));
    }
    if let Some(subnet) = request.asked_subnet.filter(|_| request.verdict.is_none()) {
        // An answer for nobody in particular has scope 0; so has one for a resolver that wants its client left out.
        let scope = if subnet.source_prefix() == 0 { 0 } else { answer.scope };
        let told = ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope);
        edns.options_mut().insert(EdnsOption::Subnet(told));
    }
    edns
}

/// Writes an answer that fits; returns whether it had to be truncated, or `None` if it cannot be written.
fn write(
    asked: &Metadata,
    query: Option<&Query>,
    answer: &Answer,
    edns: Option<&Edns>,
    limit: u16,
    out: &mut Vec<u8>,
) -> Option<bool> {
    let mut metadata = Metadata::response_from_request(asked);
    metadata.authoritative = answer.authoritative;
    metadata.response_code = answer.code;
    let parts = |metadata: &Metadata, take: Take, out: &mut Vec<u8>| {
        out.clear();
        let mut encoder = BinEncoder::new(out);
        encoder.set_max_size(if take == Take::Nothing { u16::MAX } else { limit });
        let (answers, authorities, additionals) = match take {
            Take::All => (&answer.answers[..], &answer.authorities[..], &answer.additionals[..]),
            Take::Needed => (&answer.answers[..], &answer.authorities[..], &[][..]),
            Take::Nothing => (&[][..], &[][..], &[][..]),
        };
        let written = emit_message_parts(
            metadata,
            &mut query.into_iter(),
            &mut answers.iter(),
            &mut authorities.iter(),
            &mut additionals.iter(),
            edns,
            None,
            &mut encoder,
        );
        written.map(|header| header.metadata.truncation)
    };
    let whole = parts(&metadata, Take::All, out);
    if matches!(whole, Ok(false)) {
        return Some(false);
    }
    // Addresses that a client can ask for by itself make room first.
    if !answer.needs_additionals && matches!(parts(&metadata, Take::Needed, out), Ok(false)) {
        return Some(false);
    }
    metadata.truncation = true;
    parts(&metadata, Take::Nothing, out).ok().map(|_| true)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    All,
    Needed,
    Nothing,
}

fn told(written: Option<bool>, code: ResponseCode, choice: Option<usize>) -> Outcome {
    match written {
        Some(truncated) => Outcome::Answered { code, truncated, choice },
        None => Outcome::Unwritable,
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
