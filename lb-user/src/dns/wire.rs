//! From a packet to its answer: RFC 1035, EDNS (RFC 6891), client subnet (RFC 7871), NSID (RFC 5001), TSIG (RFC 8945). Pure.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts,
};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption, NSIDPayload};
use hickory_proto::rr::rdata::tsig::{TSIG, TsigError};
use hickory_proto::rr::{LowerName, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder, DecodeError};

use super::additional::{Additional, skip};
use super::answer::{Answer, Question, answer};
use super::dnssec::sign::Signatures;
use super::policy::Client;
use super::rate;
use super::snapshot::Snapshot;
use super::transfer::{self, Transfer};
use super::tsig::Signed;
use crate::bgp::Prefix;

/// Bytes of a UDP answer for clients without EDNS (RFC 1035, section 4.2.1).
const PLAIN: u16 = 512;
/// Most bytes of a UDP answer: such are not fragmented on any usual path (DNS flag day 2020).
pub const LARGEST_UDP: u16 = 1232;

/// The flag CO of EDNS (RFC 9824, section 5.1).
const COMPACT_OK: u16 = 0x4000;

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
    /// Too many answers like this went to the client's network.
    Limited {
        /// Answered with "come by TCP" (TC); else not answered.
        slipped: bool,
    },
    /// Answered with NOTAUTH: this is wrong with its signature.
    BadSignature(TsigError),
    /// Answered with a zone as a whole (AXFR), or with what has changed in it (IXFR).
    Transfer(RecordType),
}

/// What a packet is answered by, besides what it says.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// All that answers are made from.
    pub snapshot: &'a Snapshot,
    /// Where the packet came from.
    pub source: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// Signatures that were made.
    pub signatures: &'a Signatures,
    /// Chance.
    pub roll: u64,
    /// The time since 1970.
    pub now: Duration,
}

/// What a packet comes to.
#[derive(Debug)]
pub struct Reply {
    /// What became of it.
    pub outcome: Outcome,
    /// The messages after the first one.
    pub rest: Option<Box<Transfer>>,
    /// In how many ways chance answers the same packet from the same snapshot, its ID aside: rolls that leave the same
    /// remainder come to the same. `None`: it also depends on something else.
    pub ways: Option<usize>,
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        Reply { outcome, rest: None, ways: None }
    }
}

/// Writes the answer to a packet into `out`, its first message at least; empty if there is none.
pub fn respond(around: &Around<'_>, packet: &[u8], out: &mut Vec<u8>) -> Reply {
    out.clear();
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Outcome::TooShort.into() };
    if header.metadata.message_type == MessageType::Response {
        return Outcome::NotAQuestion.into();
    }
    match read(&header, &mut decoder, packet) {
        Ok(mut request) => {
            let check =
                |(at, record)| Signed::check(&around.snapshot.keys, packet, at, record, around.now.as_secs());
            let signed = request.signature.take().map(check);
            answered(around, &header.metadata, request, signed, out)
        }
        Err(code) => {
            // What cannot be read cannot be repeated either: the header alone (RFC 1035, section 4.1.1).
            let written = write(&header.metadata, None, &Answer::of(code), None, 512, out);
            told(written, code, None).into()
        }
    }
}

fn answered(
    around: &Around<'_>,
    asked: &Metadata,
    request: Request,
    mut signed: Option<Signed>,
    out: &mut Vec<u8>,
) -> Reply {
    let Around { snapshot, source, transport, .. } = *around;
    let bad_signature = signed.as_ref().and_then(Signed::error);
    let is_transfer = matches!(request.question.kind, RecordType::AXFR | RecordType::IXFR);
    // Who comes by TCP, or knows a key, is who they say they are.
    let is_sure = transport == Transport::Tcp || (signed.is_some() && bad_signature.is_none());
    let judged = |code, about: Option<&LowerName>| match snapshot.limiter.as_ref().filter(|_| !is_sure) {
        Some(limiter) => limiter.judge(source, code, about, around.now, around.roll),
        None => rate::Verdict::Send,
    };
    let mut answer = match request.verdict {
        _ if bad_signature.is_some() => Answer::of(ResponseCode::NotAuth),
        Some(code) => Answer::of(code),
        None if is_transfer => {
            let (query, known) = (&request.query, request.known);
            let open = transfer::Asked { query, known, source, transport, signed: signed.as_ref() };
            match transfer::open(snapshot, &open) {
                Ok(plan) => {
                    let apex = LowerName::new(request.query.name());
                    if judged(ResponseCode::NoError, Some(&apex)) != rate::Verdict::Send {
                        return Outcome::Limited { slipped: false }.into();
                    }
                    return begin(around, asked, request, plan, signed, out);
                }
                Err(code) => Answer::of(code),
            }
        }
        None => answer(snapshot, &request.question, &Client { source, subnet: request.subnet }, around.roll),
    };
    // Limits and signatures go by the time, too.
    let mut ways = answer.ways.filter(|_| signed.is_none() && snapshot.limiter.is_none());
    if request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok) {
        ways = ways.filter(|_| answer.signed_by.is_none());
        answer = with_signatures(around, answer, request.compact_ok());
    }
    let edns = request.edns.as_ref().map(|asked| edns(asked, &request, &answer, &snapshot.data.nsid));
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN, LARGEST_UDP),
    };
    let limit = limit.saturating_sub(signed.as_ref().map_or(0, Signed::room));
    let may = judged(answer.code, answer.about.as_ref());
    let mut written = match may {
        rate::Verdict::Drop => return Outcome::Limited { slipped: false }.into(),
        rate::Verdict::Slip => slip(asked, &request.query, answer.code, edns.as_ref(), out),
        rate::Verdict::Send => write(asked, Some(&request.query), &answer, edns.as_ref(), limit, out),
    };
    if let Some(signed) = signed.as_mut().filter(|_| written.is_some())
        && signed.sign(out, around.now.as_secs()).is_err()
    {
        out.clear();
        written = None;
    }
    match bad_signature.filter(|_| written.is_some()) {
        _ if may == rate::Verdict::Slip => Outcome::Limited { slipped: true }.into(),
        Some(error) => Outcome::BadSignature(error).into(),
        None => Reply { ways, ..told(written, answer.code, answer.choice).into() },
    }
}

/// The answer as those want it who verify (DO).
fn with_signatures(around: &Around<'_>, mut answer: Answer, compact_ok: bool) -> Answer {
    let zone = answer.signed_by.as_ref().and_then(|apex| around.snapshot.data.zones.get(apex));
    let Some(zone) = zone else { return answer };
    match around.signatures.sign(&mut answer, zone, compact_ok, around.now.as_secs()) {
        Ok(()) => answer,
        // What is not signed would not be believed.
        Err(_) => Answer::of(ResponseCode::ServFail),
    }
}

/// Begins a transfer: the first message is written.
fn begin(
    around: &Around<'_>,
    asked: &Metadata,
    request: Request,
    plan: transfer::Plan,
    signed: Option<Signed>,
    out: &mut Vec<u8>,
) -> Reply {
    let mut metadata = Metadata::response_from_request(asked);
    metadata.authoritative = true;
    let nsid = &around.snapshot.data.nsid;
    let edns =
        request.edns.as_ref().map(|asked| edns(asked, &request, &Answer::of(ResponseCode::NoError), nsid));
    let outcome = Outcome::Transfer(plan.kind());
    let mut transfer = Box::new(Transfer::new(metadata, request.query, plan, signed, edns));
    match transfer.next(around.now.as_secs(), out) {
        Ok(()) => Reply { rest: (!transfer.is_over()).then_some(transfer), ..outcome.into() },
        Err(_) => {
            out.clear();
            Outcome::Unwritable.into()
        }
    }
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
    /// The serial that a secondary has.
    known: Option<u32>,
    /// The name of the server is asked for.
    nsid: bool,
    /// The TSIG record, and where it begins.
    signature: Option<(usize, Box<Record<TSIG>>)>,
    /// The code that needs no look at zones.
    verdict: Option<ResponseCode>,
}

impl Request {
    /// The asker knows how a name is denied that is not there.
    fn compact_ok(&self) -> bool {
        self.edns.as_ref().is_some_and(|edns| edns.flags().z & COMPACT_OK != 0)
    }
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
    let known =
        behind_the_question(decoder, &query, counts.authorities).map_err(|_| ResponseCode::FormErr)?;
    let Additional { edns, subnet: asked_subnet, nsid, signature } =
        Additional::read(decoder, counts.additionals).map_err(|_| ResponseCode::FormErr)?;
    if decoder.index() != packet.len() {
        return Err(ResponseCode::FormErr);
    }
    let question =
        Question { name: query.name().clone(), kind: query.query_type(), class: query.query_class() };
    let mut verdict = None;
    if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        verdict = Some(ResponseCode::BADVERS);
    } else if asked_subnet.is_some_and(|subnet| !is_proper(&subnet)) {
        verdict = Some(ResponseCode::FormErr);
    }
    let subnet = asked_subnet.map(|subnet| Prefix { address: subnet.addr(), length: subnet.source_prefix() });
    Ok(Request { query, question, edns, asked_subnet, subnet, known, nsid, signature, verdict })
}

/// The serial that a secondary has, if it asks by IXFR (RFC 1995, section 3). In other questions nothing there is read.
fn behind_the_question(
    decoder: &mut BinDecoder<'_>,
    query: &Query,
    count: u16,
) -> Result<Option<u32>, DecodeError> {
    if query.query_type() != RecordType::IXFR {
        (0..count).try_for_each(|_| skip(decoder))?;
        return Ok(None);
    }
    let (records, ..) = Message::read_records(decoder, count.into(), false, OpCode::Query)?;
    Ok(transfer::known_serial(query, &records))
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
    if answer.signed_by.is_some() {
        edns.flags_mut().z = asked.flags().z & COMPACT_OK;
    }
    if request.nsid
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

/// Writes an answer without records that says "come by TCP".
fn slip(
    asked: &Metadata,
    query: &Query,
    code: ResponseCode,
    edns: Option<&Edns>,
    out: &mut Vec<u8>,
) -> Option<bool> {
    let mut metadata = Metadata::response_from_request(asked);
    metadata.response_code = code;
    metadata.truncation = true;
    out.clear();
    let none = || [].iter() as std::slice::Iter<'_, Record>;
    let written = emit_message_parts(
        &metadata,
        &mut std::iter::once(query),
        &mut none(),
        &mut none(),
        &mut none(),
        edns,
        None,
        &mut BinEncoder::new(out),
    );
    written.ok().map(|_| true)
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
