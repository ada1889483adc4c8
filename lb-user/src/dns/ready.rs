//! Answers that are ready: a question that was heard before is answered as it was then, as long as all that answers are
//! made from is the same. What the answer would have to be made anew for is not kept: see [`Reply::ways`]. Pure.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::snapshot::Snapshot;
use super::wire::{Around, Outcome, Reply, respond};

/// Questions that are kept. Two that meet in one place displace each other.
const PLACES: usize = 8192;
/// Most ways in which a question is answered that is kept.
const MOST_WAYS: usize = 4;
/// Bytes of the longest question that is kept, and of the longest answer. With these bounds, all that is kept is 11 MB at
/// most, and usually two.
const LONGEST: [usize; 2] = [128, 256];

/// The answers of one thread.
pub(super) struct Ready {
    /// What they were made from.
    of: Option<Arc<Snapshot>>,
    /// How many that were before; what is kept of another number is out of date.
    edition: u64,
    hasher: RandomState,
    places: Box<[Place]>,
}

#[derive(Clone, Default)]
struct Place {
    edition: u64,
    /// The packet behind its ID.
    question: Vec<u8>,
    /// In how many ways it is answered.
    ways: usize,
    answers: [Answer; MOST_WAYS],
}

#[derive(Clone, Default)]
struct Answer {
    /// What became of the packet; `None`: this answer is not known yet.
    outcome: Option<Outcome>,
    /// The packet behind its ID.
    rest: Vec<u8>,
}

impl Ready {
    pub fn new() -> Self {
        let places = vec![Place::default(); PLACES].into();
        Ready { of: None, edition: 0, hasher: RandomState::new(), places }
    }

    /// As [`respond`], for a datagram that is to be answered from this snapshot, which is that of `around`.
    pub fn respond(
        &mut self,
        snapshot: &Arc<Snapshot>,
        around: &Around<'_>,
        packet: &[u8],
        out: &mut Vec<u8>,
    ) -> Outcome {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            self.of = Some(Arc::clone(snapshot));
            self.edition += 1;
        }
        let Some((id, question)) = packet.split_at_checked(2).filter(|(_, rest)| rest.len() <= LONGEST[0])
        else {
            return respond(around, packet, out).outcome;
        };
        let place = &mut self.places[self.hasher.hash_one(question) as usize % PLACES];
        let is_known = place.edition == self.edition && place.question == question;
        if is_known {
            let answer = &place.answers[way(around, place.ways)];
            if let Some(outcome) = answer.outcome {
                out.clear();
                out.extend_from_slice(id);
                out.extend_from_slice(&answer.rest);
                return outcome;
            }
        }
        let Reply { outcome, ways, .. } = respond(around, packet, out);
        let Some(ways) = ways.filter(|ways| (1..=MOST_WAYS).contains(ways)) else { return outcome };
        if let Some(rest) = out.get(2..).filter(|rest| rest.len() <= LONGEST[1]) {
            if !is_known {
                (place.edition, place.ways) = (self.edition, ways);
                replace(&mut place.question, question);
                place.answers.iter_mut().for_each(|answer| answer.outcome = None);
            }
            let answer = &mut place.answers[way(around, ways)];
            answer.outcome = Some(outcome);
            replace(&mut answer.rest, rest);
        }
        outcome
    }
}

/// Which of so many ways chance has chosen.
fn way(around: &Around<'_>, ways: usize) -> usize {
    (around.roll % ways.max(1) as u64) as usize
}

/// In the memory that is there.
fn replace(held: &mut Vec<u8>, with: &[u8]) {
    held.clear();
    held.extend_from_slice(with);
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
