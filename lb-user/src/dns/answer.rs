//! From a question to the sections of its answer: RFC 1034, section 4.3.2. Pure.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HINFO};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};

use super::dnssec::deny::{Denial, NXNAME};
use super::policy::{Client, Verdict};
use super::snapshot::Snapshot;
use super::zone::{Found, Node, Zone};
use crate::model::Family;

/// Most CNAME records of an answer: a chain that is longer ends there, and with it one that comes back to itself.
const LONGEST_CHAIN: usize = 16;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, as it was written.
    pub name: Name,
    /// The type.
    pub kind: RecordType,
    /// The class.
    pub class: DNSClass,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it went.
    pub code: ResponseCode,
    /// This server has authority over the name (AA).
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section, without OPT.
    pub additionals: Vec<Record>,
    /// The additional section must not be left out to make room: without these addresses nobody goes on (RFC 9471).
    pub needs_additionals: bool,
    /// Leading bits of the client's network that the answer depends on.
    pub scope: u8,
    /// In how many ways chance answers, see [`super::policy::Chosen::ways`]; `None` as well where nobody needs to know.
    pub ways: Option<usize>,
    /// Number of the choice that was asked last.
    pub choice: Option<usize>,
    /// What the answer is about, as far as limits go: the name, or its zone for what is not there, is referred to others,
    /// or is said by a wildcard.
    pub about: Option<LowerName>,
    /// The zone, if it is signed.
    pub signed_by: Option<LowerName>,
    /// DS records of a delegation in a signed zone, for those who want to verify.
    pub ds: Vec<Record>,
    /// What is not there, in a signed zone.
    pub denial: Option<Denial>,
}

impl Answer {
    /// An answer without any records.
    pub fn of(code: ResponseCode) -> Self {
        Answer {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            needs_additionals: false,
            scope: 0,
            ways: None,
            choice: None,
            about: None,
            signed_by: None,
            ds: Vec::new(),
            denial: None,
        }
    }
}

/// Answers.
pub fn answer(snapshot: &Snapshot, question: &Question, client: &Client, roll: u64) -> Answer {
    if let Some(code) = refused(question) {
        return Answer::of(code);
    }
    let mut name = LowerName::new(&question.name);
    let Some(zone) = snapshot.data.zone_of(&name) else { return Answer::of(ResponseCode::Refused) };
    // The parent side of a delegation has the DS (RFC 4035, section 3.1.4.1), here as well if it is ours too.
    let parent = (question.kind == RecordType::DS && *zone.apex() == name && !name.is_root())
        .then(|| snapshot.data.zone_of(&name.base_name()));
    let zone = parent.flatten().unwrap_or(zone);
    let is_there = zone.node(&name).is_some();
    let mut answer = Answer {
        authoritative: true,
        ways: Some(1),
        about: Some(if is_there { name.clone() } else { zone.apex().clone() }),
        signed_by: (!zone.keys().is_empty()).then(|| zone.apex().clone()),
        ..Answer::of(ResponseCode::NoError)
    };
    // Records are given with the name as the question wrote it: resolvers compare its case (0x20).
    let mut owner = question.name.clone();
    for _ in 0..=LONGEST_CHAIN {
        let node = match zone.find(&name, question.kind == RecordType::DS) {
            Found::Node(node) => node,
            Found::Delegated { cut, node } => {
                // Behind a CNAME the answer so far has authority, and the client goes on by itself.
                if answer.answers.is_empty() {
                    refer(zone, cut, node, &mut answer);
                }
                return answer;
            }
            Found::Nothing => {
                answer.code = ResponseCode::NXDomain;
                deny(snapshot, zone, || Denial::of_name(&owner), &mut answer);
                return answer;
            }
        };
        let Some(target) = records(snapshot, zone, node, &owner, question.kind, client, roll, &mut answer)
        else {
            return answer;
        };
        name = LowerName::new(&target);
        if !zone.apex().zone_of(&name) {
            return answer;
        }
        owner = target;
    }
    answer
}

/// Questions that no zone answers.
fn refused(question: &Question) -> Option<ResponseCode> {
    if !matches!(question.class, DNSClass::IN | DNSClass::ANY) {
        return Some(ResponseCode::Refused);
    }
    match question.kind {
        RecordType::ANY => None,
        // Zones as a whole are another matter (see `transfer`).
        RecordType::AXFR | RecordType::IXFR => Some(ResponseCode::Refused),
        // There are no records of the latter (RFC 9824, section 3.5).
        RecordType::OPT | RecordType::ZERO | NXNAME => Some(ResponseCode::FormErr),
        // Signatures come with what they are of.
        RecordType::RRSIG => Some(ResponseCode::NotImp),
        // Other meta types (RFC 6895, section 3.1).
        kind if (128..=255).contains(&u16::from(kind)) => Some(ResponseCode::NotImp),
        _ => None,
    }
}

/// Adds what a node says of a type. Returns the name that goes on after a CNAME.
#[expect(clippy::too_many_arguments, reason = "one step of the walk in `answer`, with all its state")]
fn records(
    snapshot: &Snapshot,
    zone: &Zone,
    node: &Node,
    owner: &Name,
    kind: RecordType,
    client: &Client,
    roll: u64,
    answer: &mut Answer,
) -> Option<Name> {
    if kind == RecordType::ANY {
        minimal_any(snapshot, zone, node, owner, answer);
        return None;
    }
    if let (Some(choice), Some(family)) = (node.choice, family_of(kind)) {
        let chosen = snapshot.choose(choice, family, client, roll);
        answer.choice = Some(choice);
        answer.scope = answer.scope.max(chosen.scope);
        answer.ways = chosen.ways;
        match chosen.verdict {
            Verdict::Servfail => {
                answer.code = ResponseCode::ServFail;
                answer.answers.clear();
                answer.authoritative = false;
            }
            Verdict::Addresses(addresses) if addresses.is_empty() => {
                deny(snapshot, zone, || Denial::of_type(owner, node, kind), answer);
            }
            Verdict::Addresses(addresses) => {
                let ttl = snapshot.data.choices[choice].ttl;
                let data = addresses.into_iter().map(|address| match address {
                    std::net::IpAddr::V4(address) => RData::A(A(address)),
                    std::net::IpAddr::V6(address) => RData::AAAA(AAAA(address)),
                });
                answer.answers.extend(data.map(|data| Record::from_rdata(owner.clone(), ttl, data)));
            }
        }
        return None;
    }
    if kind == RecordType::NSEC && answer.signed_by.is_some() {
        // The record that denies everything else.
        let denial = Denial::of_type(owner, node, kind);
        answer.answers.extend(denial.record(zone.negative_ttl()));
        return None;
    }
    if kind == RecordType::SOA && node.set(kind).is_some() {
        let mut soa = snapshot.soa(zone);
        soa.name = owner.clone();
        answer.answers.push(soa);
        return None;
    }
    if let Some(set) = node.set(kind) {
        for data in &set.data {
            answer.answers.push(Record::from_rdata(owner.clone(), set.ttl, data.clone()));
            add_addresses(zone, data, &mut answer.additionals);
        }
        return None;
    }
    let Some(alias) = node.set(RecordType::CNAME) else {
        deny(snapshot, zone, || Denial::of_type(owner, node, kind), answer);
        return None;
    };
    let RData::CNAME(target) = &alias.data[0] else { return None };
    answer.answers.push(Record::from_rdata(owner.clone(), alias.ttl, alias.data[0].clone()));
    Some(target.0.clone())
}

/// The SOA record says for how long there is nothing (RFC 2308, section 3).
fn deny(snapshot: &Snapshot, zone: &Zone, denial: impl FnOnce() -> Denial, answer: &mut Answer) {
    answer.denial = answer.signed_by.as_ref().map(|_| denial());
    let mut soa = snapshot.soa(zone);
    soa.ttl = zone.negative_ttl();
    answer.authorities.push(soa);
}

/// ANY is answered with one set at most, else by HINFO (RFC 8482, section 4).
fn minimal_any(snapshot: &Snapshot, zone: &Zone, node: &Node, owner: &Name, answer: &mut Answer) {
    if let Some(alias) = node.set(RecordType::CNAME) {
        answer.answers.push(Record::from_rdata(owner.clone(), alias.ttl, alias.data[0].clone()));
    } else if node.sets.is_empty() && node.choice.is_none() {
        deny(snapshot, zone, || Denial::of_type(owner, node, RecordType::ANY), answer);
    } else {
        let says = RData::HINFO(HINFO::new("RFC8482".into(), String::new()));
        answer.answers.push(Record::from_rdata(owner.clone(), zone.negative_ttl(), says));
    }
}

/// Refers to the name servers of a delegation, with their addresses as far as they are known here.
fn refer(zone: &Zone, cut: &LowerName, node: &Node, answer: &mut Answer) {
    answer.authoritative = false;
    let owner = Name::from(cut.clone());
    for set in node.sets.iter().filter(|set| set.kind == RecordType::NS) {
        for data in &set.data {
            answer.authorities.push(Record::from_rdata(owner.clone(), set.ttl, data.clone()));
            add_addresses(zone, data, &mut answer.additionals);
        }
    }
    answer.needs_additionals = !answer.additionals.is_empty();
    // The parent side says whether the zone below is signed (RFC 4035, section 3.1.4).
    if answer.signed_by.is_some() {
        match node.set(RecordType::DS) {
            Some(set) => {
                let records =
                    set.data.iter().map(|ds| Record::from_rdata(owner.clone(), set.ttl, ds.clone()));
                answer.ds.extend(records);
            }
            None => answer.denial = Some(Denial::of_ds(&owner)),
        }
    }
}

/// The addresses of the name that a record points to, if they are static ones of this zone.
fn add_addresses(zone: &Zone, data: &RData, additionals: &mut Vec<Record>) {
    let target = match data {
        RData::NS(target) => &target.0,
        RData::MX(mx) => &mx.exchange,
        RData::SRV(srv) => &srv.target,
        _ => return,
    };
    let Some(node) = zone.node(&LowerName::new(target)) else { return };
    for kind in [RecordType::A, RecordType::AAAA] {
        for (set, data) in node.set(kind).iter().flat_map(|set| set.data.iter().map(move |data| (set, data)))
        {
            let record = Record::from_rdata(target.clone(), set.ttl, data.clone());
            if !additionals.contains(&record) {
                additionals.push(record);
            }
        }
    }
}

fn family_of(kind: RecordType) -> Option<Family> {
    match kind {
        RecordType::A => Some(Family::V4),
        RecordType::AAAA => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
