//! The section `dns` with every default filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hickory_proto::rr::{RData, RecordType};
use serde::Serialize;

use crate::dns::policy::{self, AllDown, Choice, Least, Policy};
use crate::dns::{self, BeforeChecks, ZoneConfig};

use super::dns_group::{EffectiveLeader, EffectiveObservers};
use super::dns_sinks::{EffectiveClaim, EffectiveSink};
use super::effective;
use super::{dns_geo, dns_rate, dns_transfer};

#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<SocketAddr>,
    nsid: String,
    threads: usize,
    tcp: Tcp,
    before_checks: BeforeChecks,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<dns_rate::Effective>,
    state: PathBuf,
    checks: BTreeMap<String, Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    geo: Option<dns_geo::Effective>,
    zones: BTreeMap<String, Zone>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sinks: BTreeMap<String, EffectiveSink>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    claims: BTreeMap<String, EffectiveClaim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<EffectiveLeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observers: Option<EffectiveObservers>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    anycast: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, Serialize)]
struct Tcp {
    connections: usize,
    idle: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Check {
    Probe {
        #[serde(flatten)]
        probe: effective::Probe,
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    Extfile {
        r#type: &'static str,
        file: PathBuf,
        default: &'static str,
    },
    Vip {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        vip: Option<IpAddr>,
        #[serde(skip_serializing_if = "Option::is_none")]
        directors: Option<usize>,
    },
    Pool {
        r#type: &'static str,
        pool: String,
        percent: u32,
        scale: bool,
    },
}

#[derive(Clone, Debug, Serialize)]
struct Zone {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soa: Option<Soa>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<Vec<String>>,
    records: Vec<String>,
    names: BTreeMap<String, Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer: Option<dns_transfer::Effective>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dnssec: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
struct Soa {
    primary: String,
    contact: String,
    serial: u32,
    refresh: i32,
    retry: i32,
    expire: i32,
    negative: u32,
}

#[derive(Clone, Debug, Serialize)]
struct Name {
    policy: Policy,
    ttl: u32,
    answers: usize,
    min_up: MinUp,
    all_down: AllDown,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fallback: Vec<IpAddr>,
    members: Vec<Member>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum MinUp {
    Count(u32),
    Percent(String),
}

#[derive(Clone, Debug, Serialize)]
struct Member {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subnets: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    regions: Vec<String>,
    checks: Vec<String>,
}

impl From<&dns::Config> for Effective {
    fn from(config: &dns::Config) -> Self {
        Effective {
            listen: config.listen.clone(),
            nsid: config.nsid.clone(),
            threads: config.threads,
            tcp: Tcp { connections: config.tcp.connections, idle: effective::shown(config.tcp.idle) },
            before_checks: config.before_checks,
            rate_limit: config.rate_limit.as_ref().map(Into::into),
            state: config.state.clone(),
            checks: config.checks.iter().map(|(name, check)| (name.clone(), Check::from(check))).collect(),
            geo: config.geo.as_ref().map(Into::into),
            zones: config.zones.iter().map(|zone| (zone.apex.to_ascii(), Zone::from(zone))).collect(),
            sinks: config.sinks.iter().map(|(name, sink)| (name.clone(), sink.into())).collect(),
            claims: config.claims.iter().map(|(name, claim)| (name.to_string(), claim.into())).collect(),
            leader: config.leader.as_ref().map(Into::into),
            observers: config.observers.as_ref().map(Into::into),
            anycast: config.anycast.clone(),
        }
    }
}

impl From<&dns::Check> for Check {
    fn from(check: &dns::Check) -> Self {
        match check.clone() {
            dns::Check::Probe { check, host } => Check::Probe { probe: effective::Probe::from(&check), host },
            dns::Check::Extfile { file, default_up } => {
                Check::Extfile { r#type: "extfile", file, default: if default_up { "up" } else { "down" } }
            }
            dns::Check::Vip { vip, directors } => Check::Vip { r#type: "vip", vip, directors },
            dns::Check::Pool { pool, percent, scale } => Check::Pool { r#type: "pool", pool, percent, scale },
        }
    }
}

impl From<&ZoneConfig> for Zone {
    fn from(zone: &ZoneConfig) -> Self {
        let own = zone.file.is_none();
        let soa = zone.records.iter().filter(|_| own).find_map(|record| match &record.data {
            RData::SOA(soa) => Some(Soa {
                primary: soa.mname.to_ascii(),
                contact: soa.rname.to_ascii(),
                serial: soa.serial,
                refresh: soa.refresh,
                retry: soa.retry,
                expire: soa.expire,
                negative: soa.minimum,
            }),
            _ => None,
        });
        // Those of the apex come first, from `ns`; more may be among the lines.
        let of_lines = zone.lines.len();
        let servers = zone.records[..zone.records.len() - if own { of_lines } else { 0 }].iter();
        let servers = servers.filter(|record| record.data.record_type() == RecordType::NS);
        Zone {
            file: zone.file.clone(),
            ttl: zone.ttl,
            soa,
            ns: own.then(|| servers.map(|record| record.data.to_string()).collect()),
            records: zone.lines.clone(),
            names: zone.choices.iter().map(|choice| (choice.name.to_ascii(), Name::from(choice))).collect(),
            transfer: zone.transfer.as_ref().map(Into::into),
            dnssec: zone.keys.iter().map(|key| key.file().to_owned()).collect(),
        }
    }
}

impl From<&Choice> for Name {
    fn from(choice: &Choice) -> Self {
        let weighted = matches!(choice.policy, Policy::Weighted | Policy::Hash);
        let member = |member: &policy::Member| Member {
            address: member.address,
            weight: weighted.then_some(member.weight),
            subnets: member.subnets.iter().map(ToString::to_string).collect(),
            regions: member.regions.iter().map(ToString::to_string).collect(),
            checks: member.checks.clone(),
        };
        Name {
            policy: choice.policy,
            ttl: choice.ttl,
            answers: choice.answers,
            min_up: match choice.min_up {
                Least::Count(count) => MinUp::Count(count),
                Least::Percent(percent) => MinUp::Percent(format!("{percent}%")),
            },
            all_down: choice.all_down,
            fallback: choice.fallback.clone(),
            members: choice.members.iter().map(member).collect(),
        }
    }
}
