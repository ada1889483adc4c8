//! Which addresses a name has now, and why each of its members is in or out. Pure: health, client and chance are given.

use std::cmp::Ordering;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::geo::Located;
use super::geo::region::Region;
use crate::bgp::Prefix;
use crate::model::Family;

/// A name whose addresses are chosen among members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The name.
    pub name: Name,
    /// How is chosen.
    pub policy: Policy,
    /// Seconds that resolvers may keep the answer.
    pub ttl: u32,
    /// Most addresses in an answer.
    pub answers: usize,
    /// Fewest members of a family that must work, or else [`Choice::all_down`] says what is answered.
    pub min_up: Least,
    /// What is answered when too few members work.
    pub all_down: AllDown,
    /// The addresses for [`AllDown::Fallback`].
    pub fallback: Vec<IpAddr>,
    /// In the order in which they are preferred by [`Policy::Failover`].
    pub members: Vec<Member>,
}

/// An address that may be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address.
    pub address: IpAddr,
    /// Its share with [`Policy::Weighted`] and [`Policy::Hash`].
    pub weight: u32,
    /// Clients it is for, with [`Policy::Subnet`]; none: all that no other member is for.
    pub subnets: Vec<Prefix>,
    /// Regions whose clients it is for, with [`Policy::Geo`]; none: all that no other member is for.
    pub regions: Vec<Region>,
    /// Names of the checks that all must pass.
    pub checks: Vec<String>,
}

/// How is chosen among the members that work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// All of them, beginning with another one each time.
    #[default]
    All,
    /// The first ones.
    Failover,
    /// By chance, in proportion to their weights.
    Weighted,
    /// Those that are for the smallest subnet that the client is in.
    Subnet,
    /// Those that are for the smallest region that the client is in.
    Geo,
    /// By the client's network, so that it gets the same one while that works (highest random weight).
    Hash,
}

/// What is answered when too few members work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllDown {
    /// As if all worked: a check may be wrong, and no address never works.
    #[default]
    All,
    /// Other addresses.
    Fallback,
    /// SERVFAIL, which sends resolvers to another name server.
    Servfail,
    /// No address.
    None,
}

/// Fewest members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded up.
    Percent(u32),
}

impl Least {
    fn of(self, members: usize) -> usize {
        match self {
            Least::Count(count) => count as usize,
            Least::Percent(percent) => (members * percent as usize).div_ceil(100),
        }
    }
}

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It works; per mille of its capacity that is there.
    Up(u16),
    /// Not all its checks have said something yet.
    Unknown,
    /// A check fails.
    Failed,
    /// It works, and wants no new clients while others work.
    Leaving,
    /// The operator wants no new clients there while others work.
    Drained,
    /// The operator has taken it out.
    Down,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where the question came from.
    pub source: IpAddr,
    /// Whom the resolver asks for, by EDNS client subnet (RFC 7871).
    pub subnet: Option<Prefix>,
}

impl Client {
    /// The network that decides. A resolver that says nothing of its client (`/0`) is taken for its client.
    pub fn network(&self) -> Prefix {
        self.subnet.filter(|subnet| subnet.length > 0).unwrap_or_else(|| Prefix::host(self.source))
    }
}

/// What became of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// In the answer.
    Given,
    /// In the answer although it does not work, since too few members do.
    LastResort,
    /// It has no address of the family that is asked for.
    OtherFamily,
    /// It works, and others come before it.
    Behind,
    /// It works, and is for other clients.
    OtherClients,
    /// It works, and chance took others.
    NotDrawn,
    /// A check fails.
    Failed,
    /// Not checked yet.
    Unknown,
    /// It works, and leaves.
    Leaving,
    /// Drained by the operator.
    Drained,
    /// Taken out by the operator.
    Down,
}

/// Why the answer is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Enough members work.
    Healthy,
    /// Too few members work: the name's rule for that holds.
    TooFew,
    /// The first checks have not been heard.
    NotYetChecked,
    /// No member has an address of this family.
    NoSuchFamily,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These addresses, in this order; none: the name has no address of this family now.
    Addresses(Vec<IpAddr>),
    /// SERVFAIL.
    Servfail,
}

/// What follows for a name and a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What is answered.
    pub verdict: Verdict,
    /// Why.
    pub basis: Basis,
    /// What became of each member.
    pub fates: Vec<Fate>,
    /// Leading bits of the client's network that the answer depends on (the scope of RFC 7871, section 7.2.1).
    pub scope: u8,
    /// In how many ways chance chooses, the same for all clients: rolls that leave the same remainder come to the same.
    /// `None`: it depends on the client, or is drawn.
    pub ways: Option<usize>,
}

/// What is given from outside.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What is known of each member, in their order.
    pub standings: &'a [Standing],
    /// The agent has just started: nothing is answered until all members have been checked.
    pub starting: bool,
    /// Who asks.
    pub client: &'a Client,
    /// Where they are, with [`Policy::Geo`].
    pub located: Located<'a>,
    /// Chance.
    pub roll: u64,
}

/// How addresses are chosen: as the name says, or for everybody.
#[derive(Clone, Copy)]
struct How {
    policy: Policy,
    /// Most addresses.
    answers: usize,
}

/// Leading bits of a client's address that consistent hashing looks at, IPv4 and IPv6 (RFC 7871, section 11.1).
const HASHED_BITS: [u8; 2] = [24, 56];

impl Choice {
    /// Chooses addresses of a family.
    pub fn choose(&self, family: Family, now: &Circumstances<'_>) -> Chosen {
        self.choose_by(How { policy: self.policy, answers: self.answers }, family, now)
    }

    /// The addresses of a family for servers that give everybody the same answer: where clients or chance decide, all
    /// that work. `None`: what they have is to stay, as nothing is known yet, or SERVFAIL would be answered.
    pub fn for_everybody(
        &self,
        family: Family,
        standings: &[Standing],
        starting: bool,
    ) -> Option<Vec<IpAddr>> {
        let how = match self.policy {
            Policy::Failover => How { policy: Policy::Failover, answers: self.answers },
            Policy::All | Policy::Weighted | Policy::Subnet | Policy::Geo | Policy::Hash => {
                How { policy: Policy::All, answers: usize::MAX }
            }
        };
        let client = Client { source: IpAddr::V4(Ipv4Addr::UNSPECIFIED), subnet: None };
        let located = Located::default();
        let now = Circumstances { standings, starting, client: &client, located, roll: 0 };
        match self.choose_by(how, family, &now).verdict {
            Verdict::Addresses(addresses) => Some(addresses),
            Verdict::Servfail => None,
        }
    }

    fn choose_by(&self, how: How, family: Family, now: &Circumstances<'_>) -> Chosen {
        let of_family = |i: &usize| Family::of(self.members[*i].address) == family;
        let members: Vec<usize> = (0..self.members.len()).filter(of_family).collect();
        let fates = self.members.iter().zip(now.standings).map(|(member, standing)| match standing {
            _ if Family::of(member.address) != family => Fate::OtherFamily,
            Standing::Up(_) => Fate::Behind,
            Standing::Unknown => Fate::Unknown,
            Standing::Failed => Fate::Failed,
            Standing::Leaving => Fate::Leaving,
            Standing::Drained => Fate::Drained,
            Standing::Down => Fate::Down,
        });
        let mut chosen = Chosen {
            verdict: Verdict::Addresses(Vec::new()),
            basis: Basis::NoSuchFamily,
            fates: fates.collect(),
            scope: 0,
            ways: Some(1),
        };
        if members.is_empty() {
            return chosen;
        }
        let standing = |i: &usize| now.standings[*i];
        let up: Vec<usize> =
            members.iter().copied().filter(|i| matches!(standing(i), Standing::Up(_))).collect();
        let unknown = members.iter().any(|i| standing(i) == Standing::Unknown);
        let enough = up.len() >= self.min_up.of(members.len()).max(1);
        if unknown && (now.starting || !enough) {
            chosen.basis = Basis::NotYetChecked;
            chosen.verdict = Verdict::Servfail;
        } else if enough {
            chosen.basis = Basis::Healthy;
            self.pick(how, &up, Fate::Given, now, &mut chosen);
        } else {
            chosen.basis = Basis::TooFew;
            self.all_down(how, &members, family, now, &mut chosen);
        }
        chosen
    }

    fn all_down(
        &self,
        how: How,
        members: &[usize],
        family: Family,
        now: &Circumstances<'_>,
        chosen: &mut Chosen,
    ) {
        match self.all_down {
            AllDown::Servfail => chosen.verdict = Verdict::Servfail,
            AllDown::None => {}
            AllDown::Fallback => {
                let fallback = self.fallback.iter().copied().filter(|a| Family::of(*a) == family);
                chosen.verdict = Verdict::Addresses(fallback.collect());
            }
            AllDown::All => {
                // What leaves still works, so that it comes first. What the operator has taken out stays out; what is drained
                // comes last.
                let of = |wanted: fn(Standing) -> bool| -> Vec<usize> {
                    members.iter().copied().filter(|i| wanted(now.standings[*i])).collect()
                };
                let mut left = of(|standing| matches!(standing, Standing::Up(_) | Standing::Leaving));
                if left.len() < self.min_up.of(members.len()).max(1) {
                    left = of(|standing| !matches!(standing, Standing::Drained | Standing::Down));
                }
                if left.is_empty() {
                    left = of(|standing| standing == Standing::Drained);
                }
                match left.is_empty() {
                    true => chosen.verdict = Verdict::Servfail,
                    false => self.pick(how, &left, Fate::LastResort, now, chosen),
                }
            }
        }
    }

    /// Chooses among these members, at least one, as the policy says.
    fn pick(&self, how: How, among: &[usize], fate: Fate, now: &Circumstances<'_>, chosen: &mut Chosen) {
        let (mut picked, mut left_out) = (among.to_vec(), Fate::Behind);
        chosen.ways = match how.policy {
            Policy::All => Some(picked.len()),
            Policy::Failover => Some(1),
            Policy::Weighted | Policy::Subnet | Policy::Geo | Policy::Hash => None,
        };
        match how.policy {
            Policy::All => rotate(&mut picked, now.roll),
            Policy::Failover => {}
            Policy::Weighted => {
                left_out = Fate::NotDrawn;
                picked = self.draw(picked, now);
            }
            Policy::Subnet => {
                let network = now.client.network();
                chosen.scope = self.scope(network);
                keep_best(&mut picked, |i| self.members[i].fit(network), chosen);
                rotate(&mut picked, now.roll);
            }
            Policy::Geo => {
                chosen.scope = now.located.scope;
                keep_best(&mut picked, |i| now.located.fit(&self.members[i].regions), chosen);
                rotate(&mut picked, now.roll);
            }
            Policy::Hash => {
                left_out = Fate::OtherClients;
                let network = hashed(now.client.network());
                chosen.scope = network.length;
                picked.sort_by(|a, b| {
                    let (a, b) = (&self.members[*a], &self.members[*b]);
                    by_rendezvous(network.address, a, b).then(a.address.cmp(&b.address))
                });
            }
        }
        for i in picked.iter().skip(how.answers) {
            if chosen.fates[*i] != Fate::OtherClients {
                chosen.fates[*i] = if fate == Fate::Given { left_out } else { chosen.fates[*i] };
            }
        }
        picked.truncate(how.answers);
        for i in &picked {
            let works = matches!(now.standings[*i], Standing::Up(_) | Standing::Leaving);
            chosen.fates[*i] = if works { Fate::Given } else { fate };
        }
        chosen.verdict = Verdict::Addresses(picked.iter().map(|i| self.members[*i].address).collect());
    }

    /// All of them, in an order drawn by weight and capacity.
    fn draw(&self, mut from: Vec<usize>, now: &Circumstances<'_>) -> Vec<usize> {
        let weight = |i: usize| {
            let share = match now.standings[i] {
                Standing::Up(share) => u64::from(share),
                _ => 1000,
            };
            (u64::from(self.members[i].weight) * share).max(1)
        };
        let (mut drawn, mut roll) = (Vec::with_capacity(from.len()), now.roll);
        while drawn.len() < self.answers && !from.is_empty() {
            roll = mix(roll);
            let all: u64 = from.iter().map(|i| weight(*i)).sum();
            let mut point = ((u128::from(roll) * u128::from(all)) >> 64) as u64;
            let hit = from.iter().position(|i| {
                let hit = point < weight(*i);
                point = point.saturating_sub(weight(*i));
                hit
            });
            drawn.push(from.remove(hit.unwrap_or(0)));
        }
        drawn.extend(from);
        drawn
    }

    /// How many bits of a client's network decide which subnets it is in.
    fn scope(&self, network: Prefix) -> u8 {
        let subnets = self.members.iter().flat_map(|member| &member.subnets);
        let same = subnets.filter(|subnet| subnet.address.is_ipv4() == network.address.is_ipv4());
        same.map(|subnet| match common_bits(subnet.address, network.address) {
            common if common >= subnet.length => subnet.length,
            common => common + 1,
        })
        .max()
        .unwrap_or(0)
    }
}

impl Member {
    /// Length of the smallest subnet of this member that holds the network; 0: it is for all; `None`: for others.
    fn fit(&self, network: Prefix) -> Option<u8> {
        if self.subnets.is_empty() {
            return Some(0);
        }
        let holds = |subnet: &&Prefix| {
            subnet.address.is_ipv4() == network.address.is_ipv4()
                && subnet.length <= network.length
                && common_bits(subnet.address, network.address) >= subnet.length
        };
        self.subnets.iter().filter(holds).map(|subnet| subnet.length).max()
    }
}

/// Keeps the members that fit this client best. Without any that fit, all are better than none.
fn keep_best(members: &mut Vec<usize>, fit: impl Fn(usize) -> Option<u8>, chosen: &mut Chosen) {
    if let Some(best) = members.iter().filter_map(|i| fit(*i)).max() {
        for i in members.extract_if(.., |i| fit(*i) != Some(best)) {
            chosen.fates[i] = Fate::OtherClients;
        }
    }
}

fn rotate(members: &mut [usize], roll: u64) {
    let by = (roll % members.len().max(1) as u64) as usize;
    members.rotate_left(by);
}

/// Leading bits that two addresses of a family have in common.
fn common_bits(a: IpAddr, b: IpAddr) -> u8 {
    let common = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    common as u8
}

/// The part of a client's network that consistent hashing goes by.
fn hashed(network: Prefix) -> Prefix {
    let [v4, v6] = HASHED_BITS;
    match network.address {
        IpAddr::V4(address) => {
            let length = network.length.min(v4);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Prefix { address: IpAddr::V4((address.to_bits() & mask).into()), length }
        }
        IpAddr::V6(address) => {
            let length = network.length.min(v6);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Prefix { address: IpAddr::V6((address.to_bits() & mask).into()), length }
        }
    }
}

/// Highest random weight: the one whose `-log2(hash) ÷ weight` is least comes first. In whole numbers, so that all
/// machines agree.
fn by_rendezvous(network: IpAddr, a: &Member, b: &Member) -> Ordering {
    let cost = |member: &Member| {
        let mut hasher = SipHasher13::new();
        for address in [network, member.address] {
            match address {
                IpAddr::V4(address) => hasher.write(&address.octets()),
                IpAddr::V6(address) => hasher.write(&address.octets()),
            }
        }
        u128::from(negative_log2(hasher.finish()))
    };
    (cost(a) * u128::from(b.weight)).cmp(&(cost(b) * u128::from(a.weight)))
}

/// `-log2(hash ÷ 2^64)` with 32 bits behind the point.
fn negative_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    let mut mantissa = u128::from(hash << zeros);
    let mut fraction = 0u64;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (u64::from(zeros + 1) << 32) - fraction
}

/// SplitMix64: the next number of a sequence.
pub fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
