//! What a node tells of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::agent::dataplane::{Applied, Role};
use crate::config::Config;
use crate::health::HealthView;
use crate::model::HostState;
use crate::vip::Vip;

/// A document that nodes ask each other for by long polls.
pub trait Told: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static {
    /// Where it is asked for.
    const PATH: &'static str;

    /// What the node calls itself.
    fn node(&self) -> &str;

    /// Differs from process to process, so that a node recognises itself.
    fn instance(&self) -> u64;
}

impl Told for Report {
    const PATH: &'static str = "/v1/report";

    fn node(&self) -> &str {
        &self.node
    }

    fn instance(&self) -> u64 {
        self.instance
    }
}

/// What a node tells of itself. A newer agent's additional keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What the node calls itself.
    pub node: String,
    /// Differs from process to process, so that a node recognises itself.
    pub instance: u64,
    /// Version of the agent.
    pub version: String,
    /// The parts that it plays.
    pub roles: Vec<String>,
    /// Version of the manifest that its kernel treats packets by; none without a manifest or before it is applied.
    pub manifest_version: Option<u64>,
    /// It goes by a manifest and may change it.
    #[serde(default)]
    pub may_edit: bool,
    /// The tables in its kernel, in order.
    pub tables: Vec<TableReport>,
    /// VIPs that it announces, or that it can serve if it announces none at all.
    #[serde(default)]
    pub announced: BTreeSet<Vip>,
    /// VIPs that are to leave this node, announced or not (see [`crate::leave`]).
    #[serde(default)]
    pub leaving: BTreeSet<Vip>,
    /// How the hosts of each pool answer its checks; on directors only.
    pub answers: BTreeMap<String, Answers>,
}

/// A table in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// Name of the pool.
    pub pool: String,
    /// For which role.
    pub role: Role,
    /// The pool's generation.
    pub generation: u16,
    /// Digest of the rows, 16 hexadecimal digits.
    pub digest: String,
}

/// How the hosts of a pool answer a director's checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Hosts that give no answer of any kind.
    pub silent: BTreeSet<String>,
    /// How many others do: a refusal or a wrong answer counts.
    pub answering: usize,
}

impl Report {
    /// The report of a node that has `config` in force, with `applied` in its kernel.
    pub fn of(
        config: &Config,
        instance: u64,
        manifest_version: Option<u64>,
        applied: &Applied,
        health: &HealthView,
    ) -> Self {
        let tables = applied.tables.iter().map(|((role, pool), serving)| TableReport {
            pool: pool.clone(),
            role: *role,
            generation: serving.generation,
            digest: format!("{:016x}", serving.digest),
        });
        Report {
            node: config.node.clone(),
            instance,
            version: env!("CARGO_PKG_VERSION").into(),
            roles: config.roles().into_iter().map(Into::into).collect(),
            manifest_version,
            may_edit: false,
            announced: BTreeSet::new(),
            leaving: BTreeSet::new(),
            tables: tables.collect(),
            answers: if config.director.is_some() { answers(config, health) } else { BTreeMap::new() },
        }
    }

    /// How an address stands with it.
    pub fn offer(&self, address: IpAddr) -> Offer {
        offer(&self.announced, &self.leaving, address)
    }

    /// Whether it plays this part.
    pub fn plays(&self, role: Role) -> bool {
        self.roles.iter().any(|played| played == role.name())
    }
}

/// How an address stands with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It does not announce it.
    None,
    /// It announces it, and does not want to be asked for it any more.
    Leaving,
    /// It announces it.
    Announced,
}

/// How an address stands with a node that announces these VIPs and that these leave. The smallest that holds it counts.
pub fn offer(announced: &BTreeSet<Vip>, leaving: &BTreeSet<Vip>, address: IpAddr) -> Offer {
    let held = announced.iter().chain(leaving).filter(|vip| vip.contains(address));
    match held.max_by_key(|vip| vip.prefix().length) {
        Some(vip) if !announced.contains(vip) => Offer::None,
        Some(vip) if leaving.contains(vip) => Offer::Leaving,
        Some(_) => Offer::Announced,
        None => Offer::None,
    }
}

/// Hosts that the operator has taken down are not spoken of.
fn answers(config: &Config, health: &HealthView) -> BTreeMap<String, Answers> {
    let mut pools: BTreeMap<String, Answers> = BTreeMap::new();
    for (id, _) in config.model.hosts().filter(|(_, host)| host.state != HostState::Down) {
        let answers = pools.entry(id.pool.clone()).or_default();
        match health.get(&id) {
            Some(health) if health.silent => drop(answers.silent.insert(id.host)),
            Some(health) if health.known => answers.answering += 1,
            _ => {}
        }
    }
    pools
}

/// A report as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published<T = Report> {
    /// The report.
    pub report: T,
    /// The report as JSON.
    pub body: String,
    /// Tells reports apart, in the form of the header.
    pub etag: String,
}

impl<T: Told> Published<T> {
    /// Makes a report ready to be sent.
    pub fn new(report: T) -> Self {
        // Strings, numbers and maps with text keys: this cannot fail.
        let body = serde_json::to_string(&report).unwrap_or_default();
        let mut hasher = SipHasher13::new();
        hasher.write(body.as_bytes());
        let etag = format!("\"{:016x}\"", hasher.finish());
        Published { report, body, etag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Serving;
    use crate::health::HostHealth;
    use crate::model::HostId;

    #[test]
    fn a_director_tells_who_is_silent_and_how_many_answer() {
        let text = "director: {interfaces: [eth0]}\npools: {web: {hosts: {a: {address4: 192.0.2.1}, b: {address4: \
                    192.0.2.2}, c: {address4: 192.0.2.3}, d: {address4: 192.0.2.4, state: down}, e: {address4: \
                    192.0.2.5}}}}\nservices: [{vip: 198.51.100.1, port: 80, pool: web}]\n";
        let config = Config::parse("lb.yaml", text, "n").unwrap();
        let id = |host: &str| HostId { pool: "web".into(), host: host.into() };
        let health = |healthy, known, silent| HostHealth { healthy, known, silent, reason: None };
        let health = HealthView::from([
            (id("a"), health(true, true, false)),
            (id("b"), health(false, true, true)),
            (id("c"), health(false, true, false)),
            (id("d"), health(false, true, true)),
            (id("e"), health(false, false, false)),
        ]);
        let tables = [((Role::Director, "web".to_owned()), Serving { generation: 3, digest: 0xab })]
            .into_iter()
            .collect();
        let applied = Applied { tables, ..Applied::default() };
        let report = Report::of(&config, 7, Some(5), &applied, &health);
        let expected = Answers { silent: ["b".to_owned()].into(), answering: 2 };
        assert_eq!(report.answers, BTreeMap::from([("web".to_owned(), expected)]));
        assert_eq!(report.tables[0].digest, "00000000000000ab");
        assert!(report.plays(Role::Director) && !report.plays(Role::Host));
        let published = Published::new(report.clone());
        assert_eq!(serde_json::from_str::<Report>(&published.body).unwrap(), report);
    }

    #[test]
    fn the_smallest_vip_that_holds_an_address_says_how_it_stands() {
        let vips = |all: &[&str]| all.iter().map(|vip| vip.parse().unwrap()).collect::<BTreeSet<Vip>>();
        let (around, inner) = ("2001:db8:5::/64", "2001:db8:5::1");
        let stands = |announced: &[&str], leaving: &[&str]| {
            offer(&vips(announced), &vips(leaving), inner.parse().unwrap())
        };
        assert_eq!(stands(&[around], &[]), Offer::Announced);
        assert_eq!(stands(&[around], &[around]), Offer::Leaving);
        assert_eq!(stands(&[around, inner], &[around]), Offer::Announced);
        assert_eq!(stands(&[around, inner], &[inner]), Offer::Leaving);
        assert_eq!(stands(&[around], &[inner]), Offer::None, "it has left, though the prefix has not");
        assert_eq!(stands(&["2001:db8:6::/64"], &[]), Offer::None);
    }

    #[test]
    fn the_tag_changes_with_the_report_alone() {
        let one = Published::new(Report::default());
        assert_eq!(one.etag, Published::new(Report::default()).etag);
        let other = Report { manifest_version: Some(1), ..Report::default() };
        assert_ne!(one.etag, Published::new(other).etag);
    }
}
