//! Name servers of others that are kept (`dns.sinks`), and names that are held in turn (`dns.claims`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::rr::{LowerName, Name};
use serde::Serialize;

use crate::dns::claim::ClaimConfig;
use crate::dns::sink::SinkConfig;
use crate::dns::sink::server::{Kind, Server};
use crate::dns::{Check, ZoneConfig};

use super::dns::Ttl;
use super::dns_key::{self, DnsName};
use super::effective::shown;
use super::leaf::Leaf;
use super::problem::nearest;
use super::reader::{At, Reader, Section};
use super::schema;
use super::tree::{Node, Value};
use super::written::{List, Maybe, sections};

/// How often a server is compared as a whole, unless the configuration says otherwise.
const FULL_SYNC: Duration = Duration::from_secs(300);
/// TTL of names that are held in turn, unless the configuration says otherwise.
const CLAIM_TTL: u32 = 60;

/// As they are written.
pub(super) struct Written {
    sinks: Vec<(At<String>, Sink)>,
    claims: Vec<(At<String>, Claim)>,
}

struct Sink {
    kind: Maybe<Kind>,
    server: Maybe<SocketAddr>,
    key: dns_key::Written,
    urls: List<String>,
    server_id: Maybe<String>,
    prefix: Maybe<String>,
    file: Maybe<PathBuf>,
    folder: Maybe<PathBuf>,
    reload: List<String>,
    zones: List<DnsName>,
    full_sync: Maybe<Duration>,
    place: At<()>,
    /// Keys that are there, rightly or wrongly.
    keys: Vec<&'static str>,
}

struct Claim {
    sink: Maybe<String>,
    zone: Maybe<DnsName>,
    addresses: List<IpAddr>,
    ttl: Maybe<Ttl>,
    check: Maybe<String>,
    own: Maybe<DnsName>,
    place: At<()>,
}

/// The keys that a sink of this kind has.
fn keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Rfc2136 => &["type", "server", "key", "algorithm", "secret_file", "zones", "full_sync"],
        Kind::PowerDns => &["type", "urls", "secret_file", "server_id", "zones", "full_sync"],
        Kind::Etcd => &["type", "urls", "prefix", "zones", "full_sync"],
        Kind::Gdnsd => &["type", "file", "zones", "full_sync"],
        Kind::File => &["type", "folder", "reload", "zones", "full_sync"],
    }
}

impl Leaf for Kind {
    fn read(node: &Node) -> Result<Self, String> {
        let found = match &node.value {
            Value::Text(text) => Kind::ALL.into_iter().find(|kind| kind.name() == text),
            _ => None,
        };
        let names = Kind::ALL.map(Kind::name).join(" or ");
        found.ok_or_else(|| format!("unknown: {}; write {names}", node.shown()))
    }
}

/// Reads both from the section `dns`.
pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Written {
    Written {
        sinks: sections(r, s, "sinks", &schema::DNS_SINK, sink),
        claims: sections(r, s, "claims", &schema::DNS_CLAIM, claim),
    }
}

fn sink(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Sink {
    Sink {
        kind: r.required(s, "type", &format!("write {}", Kind::ALL.map(Kind::name).join(" or "))),
        server: r.leaf(s, "server"),
        key: dns_key::read(s, r),
        urls: r.one_or_more(s, "urls"),
        server_id: r.leaf(s, "server_id"),
        prefix: r.leaf(s, "prefix"),
        file: r.leaf(s, "file"),
        folder: r.leaf(s, "folder"),
        reload: r.list(s, "reload", "[rndc, reload]"),
        zones: r.one_or_more(s, "zones"),
        full_sync: r.leaf(s, "full_sync"),
        keys: schema::DNS_SINK.keys.iter().copied().filter(|key| s.has(key)).collect(),
        place,
    }
}

fn claim(s: &Section<'_>, place: At<()>, r: &mut Reader) -> Claim {
    if !s.has("addresses") {
        r.missing(s, "addresses", "list the addresses of this node that the name gets, as in [192.0.2.1]");
    }
    Claim {
        sink: r.required(s, "sink", "write the name of one of dns.sinks"),
        zone: r.required(s, "zone", "write the zone that the name is in, as in example.org"),
        addresses: r.one_or_more(s, "addresses"),
        ttl: r.leaf(s, "ttl"),
        check: r.required(
            s,
            "check",
            "write the name of a check of dns.checks that asks the holder's address",
        ),
        own: r.leaf(s, "own"),
        place,
    }
}

/// Fits them to the zones and checks of the section.
pub(super) fn check(
    w: &Written,
    zones: &[ZoneConfig],
    checks: &BTreeMap<String, Check>,
    r: &mut Reader,
) -> (BTreeMap<String, SinkConfig>, BTreeMap<Name, ClaimConfig>) {
    let mut sinks = BTreeMap::new();
    for (name, written) in &w.sinks {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !name.value.bytes().all(plain) {
            let message = "names a file as well; write letters, digits, - and _ only";
            r.wrong(name.at, &name.key, message);
        }
        if let Some(sink) = one_sink(written, zones, r) {
            sinks.insert(name.value.clone(), sink);
        }
    }
    let kind_of = |sink: &Sink| sink.kind.as_ref().map(|kind| kind.value);
    let known: BTreeMap<&str, Option<Kind>> =
        w.sinks.iter().map(|(name, sink)| (name.value.as_str(), kind_of(sink))).collect();
    let mut claims = BTreeMap::new();
    for (name, written) in &w.claims {
        if let Some((name, claim)) = one_claim(name, written, &known, checks, r) {
            claims.insert(name, claim);
        }
    }
    (sinks, claims)
}

fn one_sink(w: &Sink, zones: &[ZoneConfig], r: &mut Reader) -> Option<SinkConfig> {
    let kind = w.kind.as_ref()?.value;
    let place = &w.place;
    for key in w.keys.iter().filter(|key| !keys(kind).contains(key)) {
        let message = format!("not for sinks of type {}; those have {}", kind.name(), keys(kind).join(", "));
        r.wrong(place.at, &format!("{}.{key}", place.key), message);
    }
    let mut missing = |key: &str, advice: &str| {
        if !w.keys.contains(&key) {
            r.wrong(place.at, &format!("{}.{key}", place.key), format!("missing; {advice}"));
        }
    };
    match kind {
        Kind::Rfc2136 => {
            missing("server", "write address and port of the zone's primary, as in \"192.0.2.53:53\"");
        }
        Kind::PowerDns => {
            missing("urls", "write where its API is, as in http://192.0.2.53:8081");
            missing("secret_file", "write the file with its api-key");
        }
        Kind::Etcd => missing("urls", "write where its members are, as in [\"http://192.0.2.10:2379\"]"),
        Kind::Gdnsd => missing("file", "write the file of its service type, as in /var/lib/gdnsd/extfile/lb"),
        Kind::File => missing("folder", "write where the server has its zone files, as in /var/lib/lb/zones"),
    }
    let urls = urls(&w.urls, r);
    let secret = w.key.secret_file.as_ref().map(|file| file.value.clone());
    let text = |written: &Maybe<String>, default: &str| {
        written.as_ref().map_or(default.to_owned(), |written| written.value.clone())
    };
    let mut server = match kind {
        Kind::Rfc2136 => {
            let key = dns_key::check(&w.key, place, |key| w.keys.contains(&key), r);
            Server::Rfc2136 { address: w.server.as_ref()?.value, key }
        }
        Kind::PowerDns => Server::PowerDns { urls, secret: secret?, server: text(&w.server_id, "localhost") },
        Kind::Etcd => Server::Etcd { urls, prefix: text(&w.prefix, "/skydns") },
        Kind::Gdnsd => Server::Gdnsd { file: w.file.as_ref()?.value.clone() },
        Kind::File => Server::File {
            folder: w.folder.as_ref()?.value.clone(),
            reload: w.reload.iter().flat_map(|list| &list.value).map(|word| word.value.clone()).collect(),
            zones: zones.to_vec(),
        },
    };
    let mut of = BTreeSet::new();
    for zone in w.zones.iter().flat_map(|list| &list.value) {
        if !zones.iter().any(|known| known.apex.to_lowercase() == zone.value.0) {
            let name = &zone.value.0;
            r.wrong(zone.at, &zone.key, format!("{name} is not among dns.zones; add it there or remove it"));
        }
        of.insert(LowerName::new(&zone.value.0));
    }
    let of = w.zones.as_ref().map(|_| of);
    if let Server::File { zones, .. } = &mut server {
        zones.retain(|zone| of.as_ref().is_none_or(|of| of.contains(&LowerName::new(&zone.apex))));
        for zone in zones.iter().filter(|zone| !zone.keys.is_empty()) {
            let apex = &zone.apex;
            let message = format!(
                "{apex} is signed as questions come, and a file would be without signatures; name other zones, or remove its dnssec"
            );
            r.wrong(place.at, &place.key, message);
        }
    }
    Some(SinkConfig { server, zones: of, full_sync: w.full_sync.as_ref().map_or(FULL_SYNC, |it| it.value) })
}

/// Where servers are asked by HTTP.
pub(super) fn urls(written: &List<String>, r: &mut Reader) -> Vec<String> {
    for url in written.iter().flat_map(|list| &list.value) {
        let rest = url.value.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        if rest.is_none_or(|rest| rest.is_empty() || rest.contains('/')) {
            let message = format!("not a URL of a server: {:?}; write http://ADDRESS:PORT", url.value);
            r.wrong(url.at, &url.key, message);
        }
    }
    let all = written.iter().flat_map(|list| &list.value);
    all.map(|url| url.value.trim_end_matches('/').to_owned()).collect()
}

fn one_claim(
    name: &At<String>,
    w: &Claim,
    sinks: &BTreeMap<&str, Option<Kind>>,
    checks: &BTreeMap<String, Check>,
    r: &mut Reader,
) -> Option<(Name, ClaimConfig)> {
    let text = Node { value: Value::Text(name.value.clone()), at: name.at };
    let of: Option<At<DnsName>> = r.value(&text, name.key.clone());
    let zone = w.zone.as_ref().map(|zone| &zone.value.0);
    let of = of.map(|of| of.value.0);
    let own = w.own.as_ref().map(|own| (own.value.0.clone(), own));
    if let (Some(zone), Some(of)) = (zone, &of) {
        let outside =
            |name: &Name| format!("{name} is outside of the zone {zone}; write the zone that it is in");
        if !zone.zone_of(of) {
            r.wrong(name.at, &name.key, outside(of));
        }
        if let Some((own, at)) = own.as_ref().filter(|(own, _)| !zone.zone_of(own)) {
            r.wrong(at.at, &at.key, outside(own));
        }
        if let Some((_, at)) = own.as_ref().filter(|(own, _)| own == of) {
            r.wrong(at.at, &at.key, "is the name that is held in turn; write one of this node alone");
        }
    }
    if let Some(sink) = &w.sink {
        match sinks.get(sink.value.as_str()) {
            None => {
                let near = nearest(&sink.value, sinks.keys().copied());
                let advice =
                    near.map_or("add it to dns.sinks".into(), |near| format!("did you mean {near:?}?"));
                r.wrong(sink.at, &sink.key, format!("no such sink: {:?}; {advice}", sink.value));
            }
            Some(Some(kind)) if !kind.is_shared() => {
                let shared: Vec<&str> =
                    Kind::ALL.into_iter().filter(|kind| kind.is_shared()).map(Kind::name).collect();
                let message = format!(
                    "type {} is this node's own; name a sink that others write to as well: {}",
                    kind.name(),
                    shared.join(" or ")
                );
                r.wrong(sink.at, &sink.key, message);
            }
            Some(_) => {}
        }
    }
    let probe = w.check.as_ref().and_then(|check| match checks.get(&check.value) {
        Some(Check::Probe { check, host }) => Some((check.clone(), host.clone())),
        Some(_) => {
            let message = "does not ask an address; write the name of a check of type http or tcp";
            r.wrong(check.at, &check.key, message);
            None
        }
        None => {
            let near = nearest(&check.value, checks.keys().map(String::as_str));
            let advice = near.map_or("add it to dns.checks".into(), |near| format!("did you mean {near:?}?"));
            r.wrong(check.at, &check.key, format!("no such check: {:?}; {advice}", check.value));
            None
        }
    });
    let addresses: BTreeSet<IpAddr> =
        w.addresses.iter().flat_map(|list| &list.value).map(|address| address.value).collect();
    if w.addresses.is_some() && addresses.is_empty() {
        r.wrong(w.place.at, &format!("{}.addresses", w.place.key), "names none; list this node's addresses");
    }
    let probe = probe?;
    let claim = ClaimConfig {
        sink: w.sink.as_ref()?.value.clone(),
        zone: LowerName::new(zone?),
        addresses,
        ttl: w.ttl.as_ref().map_or(CLAIM_TTL, |ttl| ttl.value.0),
        check_name: w.check.as_ref()?.value.clone(),
        check: probe.0,
        host: probe.1,
        own: own.map(|(own, _)| LowerName::new(&own)),
    };
    Some((of?, claim))
}

/// A sink as it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EffectiveSink {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<SocketAddr>,
    #[serde(flatten)]
    key: dns_key::Effective,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reload: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zones: Option<Vec<String>>,
    full_sync: String,
}

impl From<&SinkConfig> for EffectiveSink {
    fn from(sink: &SinkConfig) -> Self {
        let mut shown = EffectiveSink {
            r#type: sink.server.kind().name(),
            server: None,
            key: dns_key::Effective::default(),
            urls: Vec::new(),
            server_id: None,
            prefix: None,
            file: None,
            folder: None,
            reload: Vec::new(),
            zones: sink.zones.as_ref().map(|zones| zones.iter().map(ToString::to_string).collect()),
            full_sync: shown(sink.full_sync),
        };
        match &sink.server {
            Server::Rfc2136 { address, key } => {
                shown.server = Some(*address);
                shown.key = key.as_ref().map(Into::into).unwrap_or_default();
            }
            Server::PowerDns { urls, secret, server } => {
                (shown.urls, shown.server_id) = (urls.clone(), Some(server.clone()));
                shown.key.secret_file = Some(secret.clone());
            }
            Server::Etcd { urls, prefix } => {
                (shown.urls, shown.prefix) = (urls.clone(), Some(prefix.clone()));
            }
            Server::Gdnsd { file } => shown.file = Some(file.clone()),
            Server::File { folder, reload, .. } => {
                (shown.folder, shown.reload) = (Some(folder.clone()), reload.clone());
            }
        }
        shown
    }
}

/// A claim as it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EffectiveClaim {
    sink: String,
    zone: String,
    addresses: BTreeSet<IpAddr>,
    ttl: u32,
    check: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<String>,
}

impl From<&ClaimConfig> for EffectiveClaim {
    fn from(claim: &ClaimConfig) -> Self {
        EffectiveClaim {
            sink: claim.sink.clone(),
            zone: claim.zone.to_string(),
            addresses: claim.addresses.clone(),
            ttl: claim.ttl,
            check: claim.check_name.clone(),
            own: claim.own.as_ref().map(ToString::to_string),
        }
    }
}
