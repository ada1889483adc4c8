//! What is said of the server, and what may be ordered: the documents behind `lb dns`. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use serde::{Deserialize, Serialize};

use super::answer::{Question, answer};
use super::anycast::AnycastStatus;
use super::claim::task::ClaimStatus;
use super::counters;
use super::geo::Source;
use super::geo::follower::GeoStatus;
use super::leader::LeaderStatus;
use super::master;
use super::notify::SecondaryStatus;
use super::observers::ObserverStatus;
use super::policy::{AllDown, Basis, Client, Fate, Policy, Standing};
use super::publish;
use super::server::Server;
use super::service::Told;
use super::sink::SinkStatus;
use super::snapshot::{Data, Order, Orders, Snapshot};
use crate::bgp::Prefix;
use crate::leave::word::Word;
use crate::model::Family;
use crate::vip::Vip;

/// The document behind `lb dns status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// Where the server listens.
    pub listen: Vec<SocketAddr>,
    /// The first checks have not been heard.
    pub starting: bool,
    /// Files with states, or the file of orders, that are wrong.
    pub problems: Vec<String>,
    /// The zones.
    pub zones: Vec<ZoneStatus>,
    /// Names whose addresses are chosen.
    pub names: Vec<NameStatus>,
    /// Orders of the operator.
    pub orders: Vec<OrderStatus>,
    /// Name servers of others that are kept.
    #[serde(default)]
    pub sinks: Vec<SinkStatus>,
    /// Names that are held in turn with other nodes.
    #[serde(default)]
    pub claims: Vec<ClaimStatus>,
    /// Who writes to the sinks, if that is elected.
    #[serde(default)]
    pub leader: Option<LeaderStatus>,
    /// Whose votes decide what probes say.
    #[serde(default)]
    pub observers: Vec<ObserverStatus>,
    /// Addresses that are shared with other servers.
    #[serde(default)]
    pub anycast: Vec<AnycastStatus>,
    /// What secondaries were told of zones that they may have as a whole.
    #[serde(default)]
    pub secondaries: Vec<SecondaryStatus>,
    /// What is known of where clients are, if it is asked for.
    #[serde(default)]
    pub geo: Option<GeoStatus>,
    /// VIPs that leave nodes, and where they are still answered.
    #[serde(default)]
    pub leaving: BTreeMap<Vip, Word>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneStatus {
    /// Its name.
    pub zone: String,
    /// Its serial number.
    pub serial: u32,
}

/// A name whose addresses are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// How is chosen.
    pub policy: Policy,
    /// Its members.
    pub members: Vec<MemberStatus>,
}

/// A member of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its address.
    pub address: IpAddr,
    /// `up`, `unknown`, `failed`, `leaving`, `drained` or `down`.
    pub state: String,
    /// Why.
    pub reason: String,
}

/// An order in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStatus {
    /// The address.
    pub address: IpAddr,
    /// The name it is about; `None`: all.
    pub name: Option<String>,
    /// What is ordered.
    pub order: Order,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRequest {
    /// The address.
    pub address: IpAddr,
    /// Only at this name.
    pub name: Option<String>,
    /// What is wanted; `None`: what its checks say.
    pub state: Option<Order>,
}

/// A zone to be printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRequest {
    /// Its name.
    pub name: String,
}

/// Whose changes are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRequest {
    /// An address, or a name with members; `None`: all.
    pub of: Option<String>,
}

/// A question to be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// The name.
    pub name: String,
    /// The type; `None`: A and AAAA.
    pub kind: Option<String>,
    /// The client, or its network.
    pub from: Option<String>,
}

/// What is answered, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The name that was asked for.
    pub name: String,
    /// The type.
    pub kind: String,
    /// The client it was asked for.
    pub from: String,
    /// RCODE.
    pub code: String,
    /// AA.
    pub authoritative: bool,
    /// Records of the answer section.
    pub answers: Vec<String>,
    /// Records of the authority section.
    pub authorities: Vec<String>,
    /// The choice that gave the addresses.
    pub choice: Option<ChoiceExplanation>,
}

/// How addresses were chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceExplanation {
    /// The name with members; another one than was asked for behind a CNAME or a wildcard.
    pub name: String,
    /// How is chosen.
    pub policy: Policy,
    /// What is answered when too few members work.
    pub all_down: AllDown,
    /// Why the answer is what it is.
    pub basis: Basis,
    /// Leading bits of the client's network that the answer depends on.
    pub scope: u8,
    /// Where the client is, if that decides.
    #[serde(default)]
    pub client: Option<Whereabouts>,
    /// What became of each member.
    pub members: Vec<MemberFate>,
}

/// Where a client is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Its regions, beginning with the smallest; none: nobody knows.
    pub regions: Vec<String>,
    /// The network that this holds for.
    pub network: String,
    /// Who said so.
    pub source: Option<Source>,
}

/// What became of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFate {
    /// Its address.
    pub address: IpAddr,
    /// What became of it.
    pub fate: Fate,
    /// What its checks say.
    pub reason: String,
}

impl DnsStatus {
    /// Writes the document.
    pub fn of(snapshot: &Snapshot, told: &Told, server: &Server) -> Self {
        let data = &snapshot.data;
        let mut zones: Vec<ZoneStatus> = data
            .zones
            .values()
            .map(|zone| ZoneStatus {
                zone: zone.apex().to_string(),
                serial: publish::serial(&snapshot.soa(zone)),
            })
            .collect();
        zones.sort_by(|a, b| a.zone.cmp(&b.zone));
        let counted = counters::ALL.iter().enumerate().map(|(number, (name, _))| {
            let all = server.counters().iter().map(|counters| counters.value(number)).sum();
            ((*name).to_owned(), all)
        });
        DnsStatus {
            listen: server.addresses().to_vec(),
            starting: snapshot.starting,
            problems: told.problems.clone(),
            zones,
            names: (0..data.choices.len()).map(|choice| name_status(snapshot, choice)).collect(),
            orders: told
                .orders
                .iter()
                .map(|((address, name), order)| OrderStatus {
                    address: *address,
                    name: name.clone(),
                    order: *order,
                })
                .collect(),
            sinks: told.sinks.clone(),
            claims: told.claims.clone(),
            leader: told.leader.clone(),
            observers: told.observers.clone(),
            anycast: told.anycast.clone(),
            secondaries: told.secondaries.clone(),
            geo: told.geo.clone(),
            leaving: told.leaving.clone(),
            counters: counted.collect(),
        }
    }
}

fn name_status(snapshot: &Snapshot, choice: usize) -> NameStatus {
    let asked = &snapshot.data.choices[choice];
    let members = asked.members.iter().zip(snapshot.standings(choice)).zip(snapshot.reasons(choice));
    NameStatus {
        name: asked.name.to_ascii(),
        policy: asked.policy,
        members: members
            .map(|((member, standing), reason)| MemberStatus {
                address: member.address,
                state: match standing {
                    Standing::Up(_) => "up",
                    Standing::Unknown => "unknown",
                    Standing::Failed => "failed",
                    Standing::Leaving => "leaving",
                    Standing::Drained => "drained",
                    Standing::Down => "down",
                }
                .into(),
                reason,
            })
            .collect(),
    }
}

/// The orders after one more, and the names that it is about.
pub fn apply(request: &OrderRequest, orders: &Orders, data: &Data) -> Result<(Orders, Vec<String>), String> {
    let name = match &request.name {
        Some(name) => Some(absolute(name)?.to_lowercase().to_ascii()),
        None => None,
    };
    let about: Vec<String> = data
        .choices
        .iter()
        .filter(|choice| choice.members.iter().any(|member| member.address == request.address))
        .map(|choice| choice.name.to_lowercase().to_ascii())
        .filter(|of| name.as_ref().is_none_or(|name| name == of))
        .collect();
    if about.is_empty() && request.state.is_some() {
        let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
        return Err(format!("{} is no member{of}; `lb dns status` shows all", request.address));
    }
    let mut orders = orders.clone();
    match request.state {
        Some(order) => {
            orders.insert((request.address, name), order);
        }
        // Back to the checks: what was ordered for single names ends with what was ordered for all.
        None => {
            orders.retain(|(address, of), _| *address != request.address || (name.is_some() && *of != name))
        }
    }
    Ok((orders, about))
}

/// Explains a question, once per type.
pub fn explain(snapshot: &Snapshot, request: &ExplainRequest) -> Result<Vec<Explanation>, String> {
    let name = absolute(&request.name)?;
    let kinds = match &request.kind {
        Some(kind) => vec![record_type(kind)?],
        None => vec![RecordType::A, RecordType::AAAA],
    };
    let from = request.from.as_deref().unwrap_or("127.0.0.1");
    let network: Prefix = match from.parse::<IpAddr>() {
        Ok(address) => Prefix::host(address),
        Err(_) => from.parse().map_err(|_| {
            format!("not a client: {from:?}; write an address, or a network as in 203.0.113.0/24")
        })?,
    };
    let client = Client { source: network.address, subnet: Some(network) };
    Ok(kinds.into_iter().map(|kind| one(snapshot, &name, kind, &client, from)).collect())
}

fn one(snapshot: &Snapshot, name: &Name, kind: RecordType, client: &Client, from: &str) -> Explanation {
    let question = Question { name: name.clone(), kind, class: DNSClass::IN };
    let given = answer(snapshot, &question, client, 0);
    let choice = given.choice.map(|number| {
        let choice = &snapshot.data.choices[number];
        let family = if kind == RecordType::AAAA { Family::V6 } else { Family::V4 };
        let chosen = snapshot.choose(number, family, client, 0);
        let members = choice.members.iter().zip(&chosen.fates).zip(snapshot.reasons(number));
        ChoiceExplanation {
            name: choice.name.to_ascii(),
            policy: choice.policy,
            all_down: choice.all_down,
            basis: chosen.basis,
            scope: chosen.scope,
            client: snapshot.locate(number, client).map(|located| Whereabouts {
                regions: located.regions.iter().map(ToString::to_string).collect(),
                network: Prefix { length: located.scope, ..client.network() }.network().to_string(),
                source: located.source,
            }),
            members: members
                .map(|((member, fate), reason)| MemberFate { address: member.address, fate: *fate, reason })
                .collect(),
        }
    });
    Explanation {
        name: name.to_ascii(),
        kind: kind.to_string(),
        from: from.to_owned(),
        code: code_name(given.code),
        authoritative: given.authoritative,
        answers: given.answers.iter().map(ToString::to_string).collect(),
        authorities: given.authorities.iter().map(ToString::to_string).collect(),
        choice,
    }
}

/// An RCODE as dig writes it.
fn code_name(code: ResponseCode) -> String {
    format!("{code:?}").to_uppercase()
}

/// A name as somebody writes it; it need not end with a dot.
pub(super) fn absolute(name: &str) -> Result<Name, String> {
    master::name(name, &Name::root())
}

fn record_type(kind: &str) -> Result<RecordType, String> {
    let parsed = kind.to_uppercase().parse();
    parsed.map_err(|_| format!("not a type: {kind:?}; write one as in A, AAAA, MX"))
}
