//! All that answers are made from, as one value that is replaced as a whole. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::{LowerName, Record};
use serde::{Deserialize, Serialize};

use super::Config;
use super::geo::{Geo, Located};
use super::policy::{Choice, Chosen, Circumstances, Client, Member, Policy, Standing};
use super::publish::{self, Editions};
use super::rate::Limiter;
use super::transfer::TransferConfig;
use super::tsig::Keyring;
use super::zone::{Fault, Zone};
use crate::model::{Family, HostId};

/// What a configuration serves, in the form that questions are looked up in.
#[derive(Debug, Default)]
pub struct Data {
    /// Zones by name.
    pub zones: HashMap<LowerName, Zone>,
    /// Labels of the longest zone name.
    most_labels: u8,
    /// Names whose addresses are chosen.
    pub choices: Vec<Choice>,
    /// Number of the first member of each choice, members of all choices being counted on.
    seats: Vec<usize>,
    /// What members follow, in order.
    watches: Vec<Watch>,
    /// What each member follows, by numbers of watches.
    follows: Vec<Box<[usize]>>,
    /// What this server calls itself.
    pub nsid: String,
    /// Who may have which zone as a whole.
    pub transfers: BTreeMap<LowerName, TransferConfig>,
}

/// What is followed: a check of a member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Name of the check, and the address in words: what the checker calls it, and the order of all watches.
    pub id: HostId,
    /// The address.
    pub address: IpAddr,
}

impl Watch {
    fn new(check: &str, address: IpAddr) -> Self {
        Watch { id: HostId { pool: check.to_owned(), host: address.to_string() }, address }
    }

    /// Name of the check.
    pub fn check(&self) -> &str {
        &self.id.pool
    }
}

/// What a check says of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// It passes; `None`: nothing is known yet.
    pub up: Option<bool>,
    /// Per mille of its capacity that is there.
    pub share: u16,
    /// It passes, and is to get no new clients while others work: the VIP leaves (see [`crate::leave`]).
    pub leaving: bool,
    /// What it says in words.
    pub reason: String,
}

impl Observed {
    /// Of a check that passes or not, with all capacity there.
    pub fn of(up: Option<bool>, reason: impl Into<String>) -> Self {
        Observed { up, share: 1000, leaving: false, reason: reason.into() }
    }
}

/// What all checks say, in the order of [`Data::watches`].
pub type Observations = Vec<Observed>;

/// What the operator ordered for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// No new clients while others work.
    Drain,
    /// None in any case.
    Down,
}

/// What the operator ordered, by address and, for orders about one name only, by name in lower case.
pub type Orders = BTreeMap<(IpAddr, Option<String>), Order>;

/// All that answers are made from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What is served.
    pub data: Arc<Data>,
    /// What is known of each member of each choice.
    standings: Vec<Standing>,
    /// Why, in words.
    reasons: Vec<Arc<str>>,
    /// The first checks have not been heard.
    pub starting: bool,
    /// What secondaries get.
    pub editions: Editions,
    /// What questions may be signed with.
    pub keys: Arc<Keyring>,
    /// Counts answers by network, if they are limited.
    pub limiter: Option<Arc<Limiter>>,
    /// Where clients are.
    pub geo: Arc<Geo>,
}

impl Data {
    /// What a configuration serves, or all that is wrong with its zones, each with the zone's number.
    pub fn new(config: &Config) -> Result<Self, Vec<(usize, Fault)>> {
        let mut data = Data { nsid: config.nsid.clone(), ..Data::default() };
        let (mut faults, mut seats) = (Vec::new(), 0);
        for (number, zone) in config.zones.iter().enumerate() {
            let mut chosen = Vec::new();
            for choice in &zone.choices {
                chosen.push((choice.name.clone(), data.choices.len()));
                data.seats.push(seats);
                seats += choice.members.len();
                data.choices.push(choice.clone());
            }
            match Zone::build(&zone.apex, &zone.all_records(), &chosen) {
                Ok(built) => {
                    let built = built.signed_with(&zone.keys);
                    if let Some(transfer) = &zone.transfer {
                        data.transfers.insert(built.apex().clone(), transfer.clone());
                    }
                    data.most_labels = data.most_labels.max(built.apex().num_labels());
                    data.zones.insert(built.apex().clone(), built);
                }
                Err(found) => faults.extend(found.into_iter().map(|fault| (number, fault))),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        data.follow();
        Ok(data)
    }

    /// Numbers all that members follow.
    fn follow(&mut self) {
        let members = || self.choices.iter().flat_map(|choice| &choice.members);
        let watches = members().flat_map(|m| m.checks.iter().map(|check| Watch::new(check, m.address)));
        let sorted: BTreeMap<HostId, Watch> = watches.map(|watch| (watch.id.clone(), watch)).collect();
        let numbers: HashMap<&HostId, usize> = sorted.keys().enumerate().map(|(n, id)| (id, n)).collect();
        let numbered =
            |m: &Member| m.checks.iter().map(|check| numbers[&Watch::new(check, m.address).id]).collect();
        self.follows = members().map(numbered).collect();
        self.watches = sorted.into_values().collect();
    }

    /// The zone that a name belongs to: the longest one.
    pub fn zone_of(&self, name: &LowerName) -> Option<&Zone> {
        let mut at = name.clone();
        for _ in self.most_labels..name.num_labels() {
            at = at.base_name();
        }
        loop {
            if let Some(zone) = self.zones.get(&at) {
                return Some(zone);
            }
            if at.is_root() {
                return None;
            }
            at = at.base_name();
        }
    }

    /// All that members follow, in order.
    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }
}

impl Snapshot {
    /// A snapshot of what is known now; what `seen` does not have is not known.
    pub fn new(data: Arc<Data>, seen: &[Observed], orders: &Orders, starting: bool) -> Self {
        let (mut standings, mut reasons) = (Vec::new(), Vec::new());
        // Most members say the same.
        let works: Arc<str> = "works".into();
        let mut follows = data.follows.iter();
        for choice in &data.choices {
            // Most of the time there are no orders.
            let name = (!orders.is_empty()).then(|| choice.name.to_lowercase().to_ascii());
            for member in &choice.members {
                let order = name.as_ref().and_then(|name| {
                    let of = |name: Option<&String>| orders.get(&(member.address, name.cloned()));
                    of(Some(name)).or_else(|| of(None))
                });
                let numbers = follows.next().map_or(&[][..], |numbers| numbers);
                let checks = numbers.iter().map(|number| (data.watches[*number].check(), seen.get(*number)));
                let (standing, reason) = judge(order.copied(), checks);
                standings.push(standing);
                reasons.push(reason.map_or_else(|| Arc::clone(&works), Into::into));
            }
        }
        Snapshot {
            data,
            standings,
            reasons,
            starting,
            editions: Editions::new(),
            keys: Arc::default(),
            limiter: None,
            geo: Arc::default(),
        }
    }

    /// The SOA record of a zone; its serial is that of what secondaries get, if any may have it.
    pub fn soa(&self, zone: &Zone) -> Record {
        match self.editions.get(zone.apex()) {
            Some(edition) => edition.soa().clone(),
            None => publish::soa(zone, zone.serial()),
        }
    }

    /// What is known of the members of a choice.
    pub fn standings(&self, choice: usize) -> &[Standing] {
        let first = self.data.seats[choice];
        &self.standings[first..first + self.data.choices[choice].members.len()]
    }

    /// Why, in words.
    pub fn reasons(&self, choice: usize) -> &[Arc<str>] {
        let first = self.data.seats[choice];
        &self.reasons[first..first + self.data.choices[choice].members.len()]
    }

    /// The addresses of a choice for a client.
    pub fn choose(&self, choice: usize, family: Family, client: &Client, roll: u64) -> Chosen {
        let standings = self.standings(choice);
        let located = self.locate(choice, client).unwrap_or_default();
        let now = Circumstances { standings, starting: self.starting, client, located, roll };
        self.data.choices[choice].choose(family, &now)
    }

    /// Where a client is, if the choice depends on that.
    pub fn locate(&self, choice: usize, client: &Client) -> Option<Located<'_>> {
        let asks = self.data.choices[choice].policy == Policy::Geo;
        asks.then(|| self.geo.locate(client.network().address))
    }
}

/// What follows from an order and from what the checks say; the reason where it is not plainly that all is well.
fn judge<'a>(
    order: Option<Order>,
    checks: impl Iterator<Item = (&'a str, Option<&'a Observed>)>,
) -> (Standing, Option<String>) {
    match order {
        Some(Order::Down) => return (Standing::Down, Some("taken out by the operator".into())),
        Some(Order::Drain) => return (Standing::Drained, Some("drained by the operator".into())),
        None => {}
    }
    let (mut share, mut unknown, mut told, mut leaving) = (1000, None, Vec::new(), false);
    for (check, seen) in checks {
        match seen {
            Some(Observed { up: Some(false), reason, .. }) => {
                return (Standing::Failed, Some(format!("{check}: {reason}")));
            }
            Some(Observed { up: Some(true), share: of_check, leaving: leaves, reason }) => {
                share = share.min(*of_check);
                leaving |= leaves;
                if !reason.is_empty() {
                    told.push(format!("{check}: {reason}"));
                }
            }
            _ => unknown = unknown.or(Some(check)),
        }
    }
    match unknown {
        None if leaving => (Standing::Leaving, Some(told.join("; "))),
        Some(check) => (Standing::Unknown, Some(format!("{check}: no result yet"))),
        None if told.is_empty() => (Standing::Up(share), None),
        None => (Standing::Up(share), Some(told.join("; "))),
    }
}
