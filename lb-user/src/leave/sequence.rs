//! How far each VIP is on its way out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Config;
use super::order::{Haste, Order};
use super::word::{Answers, Leaving, judge};
use crate::peers::PeersView;
use crate::vip::Vip;

/// How far a VIP is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Announced; names are still answered with it, or resolvers still have such answers.
    Answers,
    /// Announced; nobody should come any more, but somebody does, or did a moment ago.
    Falling,
    /// Not announced.
    Withdrawn,
}

/// A VIP on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// How far it is.
    pub stage: Stage,
    /// Since when it is to leave, as far as this agent knows.
    ordered: Instant,
    /// Since when it is in this stage.
    entered: Instant,
    /// Since when it is unused.
    unused: Option<Instant>,
    /// What is waited for.
    pub waits_for: Vec<String>,
    /// It has been in this stage for longer than [`Config::wait`].
    pub stuck: bool,
    /// Packets per second; `None`: not counted.
    pub packets_per_second: Option<u64>,
}

/// All VIPs on their way out.
pub type Sequences = BTreeMap<Vip, Sequence>;

/// Packets of VIPs in an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The end of the interval.
    pub at: Instant,
    /// Its length.
    pub over: Duration,
    /// Packets that were sent to hosts. A VIP that is not there was not counted.
    pub packets: BTreeMap<Vip, u64>,
}

/// All packets of VIPs at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// When.
    pub at: Instant,
    /// Packets that were sent to hosts; a VIP that is not there was not counted.
    pub packets: BTreeMap<Vip, u64>,
}

/// What decides.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// What this node calls itself.
    pub node: &'a str,
    /// How VIPs leave.
    pub config: &'a Config,
    /// Which ones.
    pub order: &'a Order,
    /// The VIPs of this node.
    pub vips: &'a BTreeSet<Vip>,
    /// Whether a VIP is announced; `None`: not known yet.
    pub announced: &'a dyn Fn(Vip) -> Option<bool>,
    /// What name servers say.
    pub words: &'a PeersView<Leaving>,
    /// The last count of packets.
    pub counted: Option<&'a Counted>,
    /// Now.
    pub now: Instant,
}

/// How far all are now. A VIP that is to leave and has no place in the result is one of which it is not known yet whether it
/// is announced.
pub fn next(before: &Sequences, facts: &Facts<'_>) -> Sequences {
    let ordered = facts.vips.iter().filter_map(|vip| Some((*vip, facts.order.of(*vip)?)));
    ordered.filter_map(|(vip, haste)| Some((vip, one(before.get(&vip), vip, haste, facts)?))).collect()
}

fn one(before: Option<&Sequence>, vip: Vip, haste: Haste, facts: &Facts<'_>) -> Option<Sequence> {
    let announced = (facts.announced)(vip);
    let mut sequence = match before {
        Some(before) => before.clone(),
        None if announced.is_none() => return None,
        None => Sequence {
            stage: Stage::Answers,
            ordered: facts.now,
            entered: facts.now,
            unused: None,
            waits_for: Vec::new(),
            stuck: false,
            packets_per_second: None,
        },
    };
    // Nothing brings back what has left but the end of the order.
    if sequence.stage == Stage::Withdrawn || haste == Haste::Now || announced == Some(false) {
        return Some(Sequence { stage: Stage::Withdrawn, waits_for: Vec::new(), stuck: false, ..sequence });
    }
    let (stage, waits_for) = match answers(&sequence, vip, haste, facts) {
        Answers::Wait(waits) => (Stage::Answers, waits),
        Answers::Elsewhere => (Stage::Withdrawn, Vec::new()),
        Answers::Out => {
            let since = if sequence.stage == Stage::Falling { sequence.entered } else { facts.now };
            sequence.count(vip, since, facts);
            match sequence.is_unused(facts) {
                true => (Stage::Withdrawn, Vec::new()),
                false => (Stage::Falling, vec![sequence.falls(facts)]),
            }
        }
    };
    if stage == Stage::Answers {
        sequence.unused = None;
    }
    if stage != sequence.stage {
        sequence.entered = facts.now;
    }
    let packets_per_second = facts.counted.and_then(|counted| counted.per_second(vip));
    let late = facts.now.saturating_duration_since(sequence.entered) >= facts.config.wait;
    let stuck = late && stage != Stage::Withdrawn;
    Some(Sequence { stage, waits_for, stuck, packets_per_second, ..sequence })
}

/// Whether names are still answered with it.
fn answers(sequence: &Sequence, vip: Vip, haste: Haste, facts: &Facts<'_>) -> Answers {
    if !facts.config.name_servers.is_empty() {
        return judge(facts.node, &facts.config.name_servers, facts.words, vip, haste);
    }
    let (since, ttl) = (facts.now.saturating_duration_since(sequence.ordered), facts.config.ttl);
    match since >= ttl {
        true => Answers::Out,
        false => Answers::Wait(vec![format!("resolvers: {} s of {} s", since.as_secs(), ttl.as_secs())]),
    }
}

impl Sequence {
    /// Takes the last count, as far as it is about the time after `since`.
    fn count(&mut self, vip: Vip, since: Instant, facts: &Facts<'_>) {
        let Some(counted) = facts.counted.filter(|counted| counted.at > since) else { return };
        let began = counted.at.checked_sub(counted.over).unwrap_or(since).max(since);
        match counted.is_below(vip, facts.config.below) {
            true => drop(self.unused.get_or_insert(began)),
            false => self.unused = None,
        }
    }

    fn is_unused(&self, facts: &Facts<'_>) -> bool {
        let for_long = |since: Instant, counted: &Counted| {
            counted.at.saturating_duration_since(since) >= facts.config.hold
        };
        self.unused.zip(facts.counted).is_some_and(|(since, counted)| for_long(since, counted))
    }

    fn falls(&self, facts: &Facts<'_>) -> String {
        let Config { below, hold, .. } = facts.config;
        match (self.unused, facts.counted) {
            (_, None) => "packets are not counted yet".into(),
            (Some(since), Some(counted)) => {
                let held = counted.at.saturating_duration_since(since).as_secs();
                format!("fewer than {below} packets/s for {held} s of {hold:?}")
            }
            (None, Some(_)) => format!("fewer than {below} packets/s, for {hold:?}"),
        }
    }
}

impl Counted {
    /// What came between two counts; nothing was counted of a VIP whose count is new or fell.
    pub fn between(before: Option<&Totals>, after: &Totals) -> Self {
        let came = |(vip, packets): (&Vip, &u64)| {
            let had = before.and_then(|before| before.packets.get(vip))?;
            Some((*vip, packets.checked_sub(*had)?))
        };
        let over = before.map_or(Duration::ZERO, |before| after.at.saturating_duration_since(before.at));
        Counted { at: after.at, over, packets: after.packets.iter().filter_map(came).collect() }
    }

    fn is_below(&self, vip: Vip, below: u32) -> bool {
        let allowed = u128::from(below) * self.over.as_millis();
        self.packets.get(&vip).is_some_and(|packets| u128::from(*packets) * 1000 < allowed)
    }

    /// Packets per second, rounded up.
    fn per_second(&self, vip: Vip) -> Option<u64> {
        let millis = (self.over.as_millis() as u64).max(1);
        self.packets.get(&vip).map(|packets| (packets.saturating_mul(1000)).div_ceil(millis))
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;
