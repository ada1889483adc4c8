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
use super::zone::{Fault, Zone, labels, last_labels};
use crate::model::{Family, HostId};

/// So many zones are few.
const FEW: usize = 8;

/// What a configuration serves, in the form that questions are looked up in.
#[derive(Debug, Default)]
pub struct Data {
    /// Zones by name.
    pub zones: HashMap<LowerName, Zone>,
    /// Labels of the longest zone name.
    most_labels: usize,
    /// Names whose addresses are chosen.
    pub choices: Vec<Choice>,
    /// Number of the first member of each choice, members of all choices being counted on.
    seats: Vec<usize>,
    /// What members follow, in order.
    watches: Vec<Watch>,
    /// How many watches there are of each check, in the same order.
    of_checks: Vec<usize>,
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
    /// What it says in words; many say the same.
    pub reason: Arc<str>,
}

impl Observed {
    /// Of a check that passes or not, with all capacity there.
    pub fn of(up: Option<bool>, reason: impl Into<Arc<str>>) -> Self {
        Observed { up, share: 1000, leaving: false, reason: reason.into() }
    }
}

/// What all checks say, in the order of [`Data::watches`].
pub type Observations = Arc<[Observed]>;

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
    /// What that follows from.
    seen: Observations,
    /// And this.
    orders: Orders,
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
                    data.most_labels = data.most_labels.max(labels(built.apex()));
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
        self.of_checks = self.watches.chunk_by(|a, b| a.check() == b.check()).map(<[_]>::len).collect();
    }

    /// The zone that a name belongs to: the longest one.
    pub fn zone_of(&self, name: &LowerName) -> Option<&Zone> {
        // To compare with a few is quicker than to take the name apart.
        if self.zones.len() <= FEW {
            let around = self.zones.values().filter(|zone| zone.apex().zone_of(name));
            return around.max_by_key(|zone| zone.apex().num_labels());
        }
        let mut at = last_labels(name, self.most_labels).into_owned();
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

    /// The same, those of each check together.
    pub fn by_check(&self) -> impl Iterator<Item = &[Watch]> {
        let mut rest = &self.watches[..];
        self.of_checks.iter().map(move |count| rest.split_off(..*count).unwrap_or_default())
    }
}

impl Snapshot {
    /// A snapshot of what is known now; what `seen` does not have is not known.
    pub fn new(data: Arc<Data>, seen: Observations, orders: &Orders, starting: bool) -> Self {
        let mut snapshot = Snapshot {
            data,
            standings: Vec::new(),
            seen,
            orders: orders.clone(),
            starting,
            editions: Editions::new(),
            keys: Arc::default(),
            limiter: None,
            geo: Arc::default(),
        };
        snapshot.standings = (0..snapshot.data.choices.len())
            .flat_map(|choice| snapshot.grounds(choice).map(|grounds| grounds.standing()))
            .collect();
        snapshot
    }

    /// What follows of the members of a choice.
    fn grounds(&self, choice: usize) -> impl Iterator<Item = Grounds<'_>> {
        let of = &self.data.choices[choice];
        // Most of the time there are no orders.
        let name = (!self.orders.is_empty()).then(|| of.name.to_lowercase().to_ascii());
        of.members.iter().zip(&self.data.follows[self.data.seats[choice]..]).map(move |(member, follows)| {
            let order = name.as_ref().and_then(|name| {
                let of = |name: Option<&String>| self.orders.get(&(member.address, name.cloned()));
                of(Some(name)).or_else(|| of(None))
            });
            Grounds { order: order.copied(), follows, watches: &self.data.watches, seen: &self.seen }
        })
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
    pub fn reasons(&self, choice: usize) -> impl Iterator<Item = String> {
        self.grounds(choice).map(|grounds| grounds.reason())
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

/// What is known of a member.
struct Grounds<'a> {
    order: Option<Order>,
    /// What it follows, by numbers of watches.
    follows: &'a [usize],
    watches: &'a [Watch],
    seen: &'a [Observed],
}

impl<'a> Grounds<'a> {
    /// Each check with what it says, if it has said something.
    fn checks(&self) -> impl Iterator<Item = (&'a str, Option<&'a Observed>)> {
        let (watches, seen) = (self.watches, self.seen);
        let heard = |number: usize| seen.get(number).filter(|seen| seen.up.is_some());
        self.follows.iter().map(move |number| (watches[*number].check(), heard(*number)))
    }

    fn standing(&self) -> Standing {
        match self.order {
            Some(Order::Down) => return Standing::Down,
            Some(Order::Drain) => return Standing::Drained,
            None => {}
        }
        let (mut share, mut unknown, mut leaving) = (1000, false, false);
        for (_, seen) in self.checks() {
            match seen {
                Some(seen) if seen.up == Some(false) => return Standing::Failed,
                Some(seen) => (share, leaving) = (share.min(seen.share), leaving | seen.leaving),
                None => unknown = true,
            }
        }
        match (unknown, leaving) {
            (true, _) => Standing::Unknown,
            (false, true) => Standing::Leaving,
            (false, false) => Standing::Up(share),
        }
    }

    /// Why it is that.
    fn reason(&self) -> String {
        let told = || self.checks().filter_map(|(check, seen)| Some((check, seen?)));
        let say = |(check, seen): (&str, &Observed)| format!("{check}: {}", seen.reason);
        match self.standing() {
            Standing::Down => "taken out by the operator".into(),
            Standing::Drained => "drained by the operator".into(),
            Standing::Failed => told().find(|(_, seen)| seen.up == Some(false)).map(say).unwrap_or_default(),
            Standing::Unknown => {
                let silent = self.checks().find(|(_, seen)| seen.is_none());
                silent.map(|(check, _)| format!("{check}: no result yet")).unwrap_or_default()
            }
            Standing::Leaving | Standing::Up(_) => {
                let told: Vec<String> = told().filter(|(_, seen)| !seen.reason.is_empty()).map(say).collect();
                if told.is_empty() { "works".into() } else { told.join("; ") }
            }
        }
    }
}
