//! The section `dns.geo`: where clients are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::bgp::Prefix;
use crate::dns::geo::GeoConfig;
use crate::dns::geo::region::Region;
use crate::dns::policy::Policy;

use super::dns;
use super::leaf::Leaf;
use super::problem::Position;
use super::reader::{At, Reader, Section};
use super::schema;
use super::tree::{Node, Value};
use super::written::{List, Maybe};

/// As it is written.
pub(super) struct Written {
    at: Position,
    file: Maybe<PathBuf>,
    networks: Vec<(At<Prefix>, At<Region>)>,
}

impl Leaf for Region {
    fn read(node: &Node) -> Result<Self, String> {
        match &node.value {
            Value::Text(text) => text.parse(),
            _ => Err(format!("not a region: {}; write a text as in EU, DE or US-CA", node.shown())),
        }
    }
}

/// Reads it from the section `dns`.
pub(super) fn read(dns: &Section<'_>, r: &mut Reader) -> Option<Written> {
    let s = r.subsection(dns, "geo", &schema::DNS_GEO)?;
    if !["file", "networks"].iter().any(|key| s.has(key)) {
        r.missing(&s, "file", "name a file of countries or cities, as of GeoLite2, or write networks");
    }
    let mut networks = Vec::new();
    for (name, region) in r.named(&s, "networks") {
        let network = Node { value: Value::Text(name.value), at: name.at };
        let network = r.value(&network, name.key.clone());
        if let (Some(network), Some(region)) = (network, r.value(region, name.key)) {
            networks.push((network, region));
        }
    }
    Some(Written { at: s.at, file: r.leaf(&s, "file"), networks })
}

/// Where clients are. The file is read by the agent only: it need not be on the machine that checks.
pub(super) fn check(w: &Written, r: &mut Reader) -> GeoConfig {
    let mut networks = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for (network, region) in &w.networks {
        if let Some(line) = lines.insert(network.value, network.at.line) {
            let message =
                format!("{} is there already, in line {line}; remove one of the two", network.value);
            r.wrong(network.at, &network.key, message);
        }
        networks.insert(network.value, region.value);
    }
    if w.file.is_none() && networks.is_empty() && r.problems.is_empty() {
        r.wrong(w.at, "dns.geo", "empty; name a file, or write at least one network");
    }
    GeoConfig { file: w.file.as_ref().map(|file| file.value.clone()), networks }
}

/// Names that ask where clients are, where nobody knows.
pub(super) fn check_asked(zones: &[(At<String>, dns::Zone)], r: &mut Reader) {
    for (_, name) in zones.iter().flat_map(|(_, zone)| &zone.names) {
        if let Some(policy) = name.policy.as_ref().filter(|policy| policy.value == Policy::Geo) {
            r.wrong(
                policy.at,
                &policy.key,
                "nothing says where clients are; add dns.geo with a file, or networks",
            );
        }
    }
}

/// The regions of a member.
pub(super) fn regions(list: &List<Region>, policy: Policy, r: &mut Reader) -> Vec<Region> {
    if let Some(regions) = list.as_ref().filter(|_| policy != Policy::Geo) {
        r.wrong(regions.at, &regions.key, "only with policy geo; remove it or change the policy");
    }
    super::check::nothing_listed(list, "list at least one region, as in [EU, US-CA]", r);
    let mut found = Vec::new();
    for region in list.iter().flat_map(|list| &list.value) {
        if found.contains(&region.value) {
            r.wrong(
                region.at,
                &region.key,
                format!("{} is there already; remove one of the two", region.value),
            );
        }
        found.push(region.value);
    }
    found
}

/// As it would be written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effective {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    networks: BTreeMap<String, String>,
}

impl From<&GeoConfig> for Effective {
    fn from(geo: &GeoConfig) -> Self {
        let shown = |(network, region): (&Prefix, &Region)| (network.to_string(), region.to_string());
        Effective { file: geo.file.clone(), networks: geo.networks.iter().map(shown).collect() }
    }
}
