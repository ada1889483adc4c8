//! A zone's records, and what they say of a name: RFC 1034, section 4.3.2; wildcards as in RFC 4592. Pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use hickory_proto::rr::{LowerName, Name, RData, RecordType};

use super::dnssec::ZoneKey;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rr {
    /// Its owner.
    pub name: Name,
    /// Seconds that resolvers may keep it.
    pub ttl: u32,
    /// What it says.
    pub data: RData,
}

/// All records of one type at one name (RFC 2181, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    /// Their type.
    pub kind: RecordType,
    /// Their TTL in seconds: the shortest that was written (RFC 2181, section 5.2).
    pub ttl: u32,
    /// What they say, each once.
    pub data: Vec<RData>,
}

/// What there is at a name.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The static records. None at a name that exists only because names below it do (RFC 4592, section 2.2.2).
    pub sets: Vec<RrSet>,
    /// Number of the choice that gives this name its addresses.
    pub choice: Option<usize>,
}

impl Node {
    /// The static records of a type.
    pub fn set(&self, kind: RecordType) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.kind == kind)
    }

    fn is_cut(&self) -> bool {
        self.set(RecordType::NS).is_some()
    }
}

/// What a zone knows of a name.
#[derive(Clone, Copy, Debug)]
pub enum Found<'z> {
    /// The name exists, or a wildcard stands for it.
    Node(&'z Node),
    /// The name is at or below this delegation.
    Delegated {
        /// The name that is delegated.
        cut: &'z LowerName,
        /// Its name servers.
        node: &'z Node,
    },
    /// There is no such name.
    Nothing,
}

/// A zone.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: LowerName,
    nodes: HashMap<LowerName, Node>,
    soa: Rr,
    /// Some names below the apex are delegated.
    has_cuts: bool,
    /// Labels of the name that has most: nothing exists below that, and no question is looked up deeper.
    depth: usize,
    /// What it is signed with; none: it is not.
    keys: Vec<Arc<ZoneKey>>,
}

/// What is wrong with a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The record that is wrong, counted from 0; `None`: the zone as a whole.
    pub of: Option<usize>,
    /// What is wrong; what to do.
    pub message: String,
}

impl Zone {
    /// A zone of these records and of names whose addresses are chosen, each with the number of its choice; or all that
    /// is wrong with it.
    pub fn build(apex: &Name, records: &[Rr], chosen: &[(Name, usize)]) -> Result<Self, Vec<Fault>> {
        let mut builder = Builder { apex: LowerName::new(apex), nodes: HashMap::new(), faults: Vec::new() };
        for (number, record) in records.iter().enumerate() {
            builder.add(number, record);
        }
        for (name, choice) in chosen {
            builder.node(&LowerName::new(name)).choice = Some(*choice);
        }
        builder.check(records);
        let soa = records.iter().find(|record| matches!(record.data, RData::SOA(_)));
        let Builder { apex, nodes, faults } = builder;
        match soa {
            Some(soa) if faults.is_empty() => {
                let has_cuts = nodes.iter().any(|(name, node)| *name != apex && node.is_cut());
                let depth = nodes.keys().map(labels).max().unwrap_or(0);
                Ok(Zone { apex, nodes, soa: soa.clone(), has_cuts, depth, keys: Vec::new() })
            }
            _ => Err(faults),
        }
    }

    /// The zone signed with these keys, of which its records speak already.
    pub fn signed_with(mut self, keys: &[Arc<ZoneKey>]) -> Self {
        self.keys = keys.to_vec();
        self
    }

    /// What the zone is signed with; none: it is not. The first one signs everything.
    pub fn keys(&self) -> &[Arc<ZoneKey>] {
        &self.keys
    }

    /// The zone's name.
    pub fn apex(&self) -> &LowerName {
        &self.apex
    }

    /// The SOA record as it is; its TTL is that of positive answers.
    pub fn soa(&self) -> &Rr {
        &self.soa
    }

    /// The serial number.
    pub fn serial(&self) -> u32 {
        match &self.soa.data {
            RData::SOA(soa) => soa.serial,
            _ => 0,
        }
    }

    /// Seconds that resolvers may remember that something is not there: the lesser of the SOA's TTL and its last field
    /// (RFC 2308, section 5).
    pub fn negative_ttl(&self) -> u32 {
        match &self.soa.data {
            RData::SOA(soa) => self.soa.ttl.min(soa.minimum),
            _ => self.soa.ttl,
        }
    }

    /// All names that exist, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = (&LowerName, &Node)> {
        self.nodes.iter()
    }

    /// The static records, each once: the SOA, the others of the apex, then by name.
    pub fn records(&self) -> Vec<Rr> {
        let mut nodes: Vec<(&LowerName, &Node)> = self.nodes.iter().collect();
        nodes.sort_by_key(|(name, _)| (**name != self.apex, *name));
        let sets = nodes.into_iter().flat_map(|(name, node)| node.sets.iter().map(move |set| (name, set)));
        let records = sets.flat_map(|(name, set)| {
            let record = |data: &RData| Rr { name: name.clone().into(), ttl: set.ttl, data: data.clone() };
            set.data.iter().map(record).collect::<Vec<_>>()
        });
        let mut records: Vec<Rr> = records.collect();
        // In a stable order: those of the apex are in front already.
        records.sort_by_key(|record| !matches!(record.data, RData::SOA(_)));
        records
    }

    /// What is at exactly this name.
    pub fn node(&self, name: &LowerName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// What the zone says of a name that is at or below its apex. `of_parent`: the question is one that the parent side
    /// of a delegation answers (DS, RFC 4035, section 3.1.4.1).
    pub fn find(&self, name: &LowerName, of_parent: bool) -> Found<'_> {
        let reached = last_labels(name, self.depth);
        if self.has_cuts
            && let Some((cut, node)) = self.cut_above(name, &reached, of_parent)
        {
            return Found::Delegated { cut, node };
        }
        // The closest encloser is the nearest ancestor that exists; only a wildcard right below it counts (RFC 4592,
        // section 3.3.1).
        let mut encloser = match &reached {
            Cow::Borrowed(name) => match self.nodes.get(*name) {
                Some(node) => return Found::Node(node),
                None => name.base_name(),
            },
            Cow::Owned(ancestor) => ancestor.clone(),
        };
        while !self.nodes.contains_key(&encloser) {
            if encloser == self.apex || encloser.is_root() {
                return Found::Nothing;
            }
            encloser = encloser.base_name();
        }
        match Name::from(encloser).prepend_label("*").map(|name| LowerName::new(&name)) {
            Ok(wildcard) => self.nodes.get(&wildcard).map_or(Found::Nothing, Found::Node),
            // The name would be too long to exist.
            Err(_) => Found::Nothing,
        }
    }

    /// The delegation nearest to the apex that the name is at or below. `reached` is as much of it as may exist.
    fn cut_above(
        &self,
        name: &LowerName,
        reached: &LowerName,
        of_parent: bool,
    ) -> Option<(&LowerName, &Node)> {
        let mut found = None;
        let mut at = reached.clone();
        while at != self.apex && !at.is_root() {
            if !(of_parent && at == *name)
                && let Some((cut, node)) = self.nodes.get_key_value(&at).filter(|(_, node)| node.is_cut())
            {
                found = Some((cut, node));
            }
            at = at.base_name();
        }
        found
    }
}

/// Labels of a name, a `*` in front among them.
pub(super) fn labels(name: &LowerName) -> usize {
    name.iter().count()
}

/// The last `most` labels of a name, in one pass however many it has; the name itself if it has no more.
pub(super) fn last_labels(name: &LowerName, most: usize) -> Cow<'_, LowerName> {
    match labels(name) > most {
        true => Cow::Owned(LowerName::new(&name.trim_to(most))),
        false => Cow::Borrowed(name),
    }
}

struct Builder {
    apex: LowerName,
    nodes: HashMap<LowerName, Node>,
    faults: Vec<Fault>,
}

impl Builder {
    fn wrong(&mut self, of: impl Into<Option<usize>>, message: String) {
        self.faults.push(Fault { of: of.into(), message });
    }

    fn add(&mut self, number: usize, record: &Rr) {
        let name = LowerName::new(&record.name);
        if !self.apex.zone_of(&name) {
            let message = format!("{} is outside of the zone {}; move it to its own", record.name, self.apex);
            return self.wrong(number, message);
        }
        let kind = record.data.record_type();
        if name != self.apex && kind == RecordType::SOA {
            return self
                .wrong(number, format!("an SOA record stands at {} only; remove this one", self.apex));
        }
        let (ttl, data) = (record.ttl, record.data.clone());
        let node = self.node(&name);
        match node.sets.iter_mut().find(|set| set.kind == kind) {
            Some(set) if matches!(kind, RecordType::SOA | RecordType::CNAME) && set.data[0] != data => {
                let message = format!("{} has a {kind} record already; remove one", record.name);
                self.wrong(number, message);
            }
            Some(set) => {
                set.ttl = set.ttl.min(ttl);
                if !set.data.contains(&data) {
                    set.data.push(data);
                }
            }
            None => node.sets.push(RrSet { kind, ttl, data: vec![data] }),
        }
    }

    /// The node of a name; all names between it and the apex exist from now on.
    fn node(&mut self, name: &LowerName) -> &mut Node {
        let mut above = name.clone();
        while above != self.apex && !above.is_root() {
            above = above.base_name();
            if self.nodes.contains_key(&above) {
                break;
            }
            self.nodes.insert(above.clone(), Node::default());
        }
        self.nodes.entry(name.clone()).or_default()
    }

    fn check(&mut self, records: &[Rr]) {
        let has = |kind| self.nodes.get(&self.apex).is_some_and(|node| node.set(kind).is_some());
        let missing: Vec<String> = [(RecordType::SOA, "SOA record"), (RecordType::NS, "name server")]
            .into_iter()
            .filter(|(kind, _)| !has(*kind))
            .map(|(_, what)| format!("the zone {} has no {what}; add one", self.apex))
            .collect();
        for message in missing {
            self.wrong(None, message);
        }
        for (number, record) in records.iter().enumerate() {
            if let Some(message) = self.misplaced(record) {
                self.wrong(number, message);
            }
        }
    }

    /// What is wrong with a record beside the others.
    fn misplaced(&self, record: &Rr) -> Option<String> {
        let name = LowerName::new(&record.name);
        let node = self.nodes.get(&name)?;
        let kind = record.data.record_type();
        let is_address = matches!(kind, RecordType::A | RecordType::AAAA);
        if kind == RecordType::CNAME && (node.sets.len() > 1 || node.choice.is_some()) {
            return Some(format!(
                "{} has a CNAME record and others; a CNAME stands alone (RFC 1034, section 3.6.2): remove one",
                record.name
            ));
        }
        if is_address && node.choice.is_some() {
            return Some(format!(
                "the addresses of {} are chosen among members; make this address one of them",
                record.name
            ));
        }
        let is_cut = name != self.apex && node.is_cut();
        let below = self.is_below_a_cut(&name);
        let fits = is_address || (is_cut && !below && matches!(kind, RecordType::NS | RecordType::DS));
        if (below || is_cut) && !fits {
            return Some(format!(
                "{} is delegated: only addresses of name servers belong here; remove it",
                record.name
            ));
        }
        match &record.data {
            RData::NS(server) => self.without_address(&LowerName::new(&server.0)),
            _ => None,
        }
    }

    fn is_below_a_cut(&self, name: &LowerName) -> bool {
        let mut at = name.clone();
        while at != self.apex && !at.is_root() {
            at = at.base_name();
            if at != self.apex && self.nodes.get(&at).is_some_and(Node::is_cut) {
                return true;
            }
        }
        false
    }

    /// A name server within the zone must have an address there, or nobody finds it.
    fn without_address(&self, server: &LowerName) -> Option<String> {
        if !self.apex.zone_of(server) {
            return None;
        }
        let has_address = |node: &Node| {
            node.choice.is_some()
                || [RecordType::A, RecordType::AAAA].iter().any(|kind| node.set(*kind).is_some())
        };
        let found = self.nodes.get(server).is_some_and(has_address);
        (!found).then(|| format!("the name server {server} has no address here; add an A or AAAA record"))
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
