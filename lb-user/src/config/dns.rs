//! The section `dns` as it is written.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::bgp::Prefix;
use crate::dns::BeforeChecks;
use crate::dns::geo::region::Region;
use crate::dns::master;
use crate::dns::policy::{AllDown, Least, Policy};

use super::leaf::{CheckType, Leaf, Port};
use super::problem::Position;
use super::reader::{At, Reader, Section};
use super::schema;
use super::tree::{Node, Value};
use super::written::{Check as ProbeWritten, List, Maybe, sections};
use super::{dns_geo, dns_group, dns_rate, dns_sinks, dns_transfer};

pub(super) struct Written {
    pub at: Position,
    pub listen: List<SocketAddr>,
    pub nsid: Maybe<String>,
    pub threads: Maybe<u32>,
    pub connections: Maybe<u32>,
    pub idle: Maybe<Duration>,
    pub before_checks: Maybe<BeforeChecks>,
    pub rate_limit: Option<dns_rate::Written>,
    pub state: Maybe<PathBuf>,
    pub checks: Vec<(At<String>, Check)>,
    pub geo: Option<dns_geo::Written>,
    pub zones: Vec<(At<String>, Zone)>,
    pub others: dns_sinks::Written,
    pub group: dns_group::Written,
}

pub(super) struct Check {
    pub kind: Maybe<Kind>,
    pub probe: ProbeWritten,
    pub host: Maybe<String>,
    pub verify: Maybe<bool>,
    pub file: Maybe<PathBuf>,
    pub default: Maybe<State>,
    pub vip: Maybe<IpAddr>,
    pub directors: Maybe<u32>,
    pub pool: Maybe<String>,
    pub percent: Maybe<u32>,
    pub scale: Maybe<bool>,
    /// Keys that are there, rightly or wrongly.
    pub keys: Vec<&'static str>,
}

pub(super) struct Zone {
    pub at: At<()>,
    pub file: Maybe<PathBuf>,
    pub ttl: Maybe<Ttl>,
    pub soa: Option<Soa>,
    pub ns: List<String>,
    pub records: List<String>,
    pub names: Vec<(At<String>, Name)>,
    pub transfer: Option<dns_transfer::Written>,
    pub dnssec: List<PathBuf>,
    /// The place of a key that a zone file says already.
    pub besides_file: Option<(Position, &'static str)>,
}

#[derive(Default)]
pub(super) struct Soa {
    pub primary: Maybe<String>,
    pub contact: Maybe<String>,
    pub serial: Maybe<u32>,
    pub refresh: Maybe<Ttl>,
    pub retry: Maybe<Ttl>,
    pub expire: Maybe<Ttl>,
    pub negative: Maybe<Ttl>,
}

pub(super) struct Name {
    pub policy: Maybe<Policy>,
    pub ttl: Maybe<Ttl>,
    pub answers: Maybe<u32>,
    pub min_up: Maybe<Least>,
    pub all_down: Maybe<AllDown>,
    pub fallback: List<IpAddr>,
    pub checks: List<String>,
    pub members: Vec<Member>,
    pub place: At<()>,
}

pub(super) struct Member {
    pub address: Maybe<IpAddr>,
    pub weight: Maybe<u32>,
    pub subnets: List<Prefix>,
    pub regions: List<Region>,
    pub checks: List<String>,
}

/// What a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Probe(CheckType),
    Https,
    Extfile,
    Vip,
    Pool,
}

impl Kind {
    /// The keys that a check of this kind has.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Probe(CheckType::Http) => {
                &["type", "port", "path", "host", "status", "interval", "timeout", "rise", "fall"]
            }
            Kind::Https => {
                &["type", "port", "path", "host", "status", "verify", "interval", "timeout", "rise", "fall"]
            }
            Kind::Probe(CheckType::Tcp) => &["type", "port", "interval", "timeout", "rise", "fall"],
            Kind::Extfile => &["type", "file", "default"],
            Kind::Vip => &["type", "vip", "directors"],
            Kind::Pool => &["type", "pool", "percent", "scale"],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Probe(CheckType::Http) => "http",
            Kind::Https => "https",
            Kind::Probe(CheckType::Tcp) => "tcp",
            Kind::Extfile => "extfile",
            Kind::Vip => "vip",
            Kind::Pool => "pool",
        }
    }
}

impl Leaf for Kind {
    fn read(node: &Node) -> Result<Self, String> {
        let [http, tcp] = [CheckType::Http, CheckType::Tcp].map(Kind::Probe);
        let all = [http, Kind::Https, tcp, Kind::Extfile, Kind::Vip, Kind::Pool];
        let found = match &node.value {
            Value::Text(text) => all.into_iter().find(|kind| kind.name() == text),
            _ => None,
        };
        let names = all.map(Kind::name).join(" or ");
        found.ok_or_else(|| format!("unknown: {}; write {names}", node.shown()))
    }
}

/// Up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Down,
}

/// Seconds that resolvers may keep something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ttl(pub u32);

impl Leaf for Ttl {
    fn read(node: &Node) -> Result<Self, String> {
        let ttl = match &node.value {
            Value::Integer(seconds) => u32::try_from(*seconds).ok().filter(|ttl| *ttl <= master::LONGEST_TTL),
            Value::Text(text) => master::ttl(text),
            _ => None,
        };
        ttl.map(Ttl).ok_or_else(|| {
            let most = master::LONGEST_TTL;
            format!("not a TTL: {}; write seconds up to {most}, or as in 1h30m", node.shown())
        })
    }
}

impl Leaf for Least {
    fn read(node: &Node) -> Result<Self, String> {
        let least = match &node.value {
            Value::Integer(count @ 1..=1000) => Some(Least::Count(*count as u32)),
            Value::Text(text) => text
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok())
                .filter(|percent| (1..=100).contains(percent))
                .map(Least::Percent),
            _ => None,
        };
        least.ok_or_else(|| {
            format!("not a least number: {}; write 1 to 1000, or a part as in 50%", node.shown())
        })
    }
}

pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Written {
    let tcp = r.subsection(s, "tcp", &schema::DNS_TCP);
    if !["listen", "sinks"].iter().any(|key| s.has(key)) {
        r.missing(s, "listen", "list addresses of this node, as in [\"192.0.2.3:53\"], or write sinks");
    }
    if !["zones", "claims"].iter().any(|key| s.has(key)) {
        r.missing(s, "zones", "write at least one zone, as in zones: {example.org: {ns: [ns1], …}}");
    }
    Written {
        at: s.at,
        listen: r.one_or_more(s, "listen"),
        nsid: r.leaf(s, "nsid"),
        threads: r.leaf(s, "threads"),
        connections: tcp.as_ref().and_then(|tcp| r.leaf(tcp, "connections")),
        idle: tcp.as_ref().and_then(|tcp| r.leaf(tcp, "idle")),
        before_checks: r.leaf(s, "before_checks"),
        rate_limit: dns_rate::read(s, r),
        state: r.leaf(s, "state"),
        checks: sections(r, s, "checks", &schema::DNS_CHECK, check),
        geo: dns_geo::read(s, r),
        zones: sections(r, s, "zones", &schema::DNS_ZONE, zone),
        others: dns_sinks::read(s, r),
        group: dns_group::read(s, r),
    }
}

fn check(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Check {
    let all = "write http, https, tcp, extfile, vip or pool";
    let kind: Maybe<Kind> = r.required(s, "type", all);
    let as_probe = kind.as_ref().and_then(|kind| match kind.value {
        Kind::Probe(probe) => Some(At { value: probe, at: kind.at, key: kind.key.clone() }),
        // The same within TLS.
        Kind::Https => Some(At { value: CheckType::Http, at: kind.at, key: kind.key.clone() }),
        _ => None,
    });
    let port: Maybe<Port> = match as_probe {
        Some(_) => r.required(s, "port", "write the port that is probed"),
        None => r.leaf(s, "port"),
    };
    Check {
        kind,
        probe: ProbeWritten {
            kind: as_probe,
            port,
            path: r.leaf(s, "path"),
            status: r.one_or_more(s, "status"),
            through: None,
            interval: r.leaf(s, "interval"),
            timeout: r.leaf(s, "timeout"),
            rise: r.leaf(s, "rise"),
            fall: r.leaf(s, "fall"),
            place,
        },
        host: r.leaf(s, "host"),
        verify: r.leaf(s, "verify"),
        file: r.leaf(s, "file"),
        default: r.leaf(s, "default"),
        vip: r.leaf(s, "vip"),
        directors: r.leaf(s, "directors"),
        pool: r.leaf(s, "pool"),
        percent: r.leaf(s, "percent"),
        scale: r.leaf(s, "scale"),
        keys: schema::DNS_CHECK.keys.iter().copied().filter(|key| s.has(key)).collect(),
    }
}

fn zone(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Zone {
    let soa = r.subsection(s, "soa", &schema::DNS_SOA).map(|s| Soa {
        primary: r.leaf(&s, "primary"),
        contact: r.leaf(&s, "contact"),
        serial: r.leaf(&s, "serial"),
        refresh: r.leaf(&s, "refresh"),
        retry: r.leaf(&s, "retry"),
        expire: r.leaf(&s, "expire"),
        negative: r.leaf(&s, "negative"),
    });
    if !s.has("ns") && !s.has("file") {
        r.missing(s, "ns", "list the zone's name servers, as in [ns1, ns2.example.net.], or write file");
    }
    Zone {
        at: place,
        file: r.leaf(s, "file"),
        ttl: r.leaf(s, "ttl"),
        soa,
        ns: r.list(s, "ns", "[ns1, ns2.example.net.]"),
        records: r.list(s, "records", "[\"www A 192.0.2.1\"]"),
        names: sections(r, s, "names", &schema::DNS_NAME, name),
        transfer: dns_transfer::read(s, r),
        dnssec: r.one_or_more(s, "dnssec"),
        besides_file: ["soa", "ns"].into_iter().find_map(|key| Some((s.place(key)?, key))),
    }
}

fn name(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Name {
    if !s.has("members") {
        r.missing(s, "members", "list the addresses, as in [192.0.2.1, 192.0.2.2]");
    }
    Name {
        policy: r.leaf(s, "policy"),
        ttl: r.leaf(s, "ttl"),
        answers: r.leaf(s, "answers"),
        min_up: r.leaf(s, "min_up"),
        all_down: r.leaf(s, "all_down"),
        fallback: r.one_or_more(s, "fallback"),
        checks: r.one_or_more(s, "checks"),
        members: members(s, r),
        place,
    }
}

/// Members are maps, or addresses alone.
fn members(s: &Section<'_>, r: &mut Reader) -> Vec<Member> {
    let mut found = Vec::new();
    for item in r.items(s, "members") {
        if !matches!(item.value.value, Value::Map(_)) {
            let address = r.value(item.value, item.key);
            found.push(Member { address, weight: None, subnets: None, regions: None, checks: None });
            continue;
        }
        let Some(s) = r.section(item.value, item.at, &item.key, &schema::DNS_MEMBER) else { continue };
        found.push(Member {
            address: r.required(&s, "address", "write the address that is answered"),
            weight: r.leaf(&s, "weight"),
            subnets: r.one_or_more(&s, "subnets"),
            regions: r.one_or_more(&s, "regions"),
            checks: r.one_or_more(&s, "checks"),
        });
    }
    found
}
