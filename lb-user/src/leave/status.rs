//! How far VIPs are on their way out, as `lb status` shows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sequence::{Sequences, Stage};
use crate::vip::Vip;

/// A VIP that leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingStatus {
    /// The VIP.
    pub vip: Vip,
    /// How far it is.
    pub stage: Stage,
    /// It is still announced.
    pub announced: bool,
    /// What is waited for.
    pub waits_for: Vec<String>,
    /// It has been in this stage for longer than it should.
    pub stuck: bool,
    /// Packets per second that this node still sends to its hosts; `None`: not counted.
    pub packets_per_second: Option<u64>,
}

/// What is to be said of all.
pub fn statuses(sequences: &Sequences, announced: impl Fn(Vip) -> bool) -> Vec<LeavingStatus> {
    let one = |(vip, sequence): (&Vip, &super::sequence::Sequence)| LeavingStatus {
        vip: *vip,
        stage: sequence.stage,
        announced: announced(*vip),
        waits_for: sequence.waits_for.clone(),
        stuck: sequence.stuck,
        packets_per_second: sequence.packets_per_second,
    };
    sequences.iter().map(one).collect()
}

impl LeavingStatus {
    /// What is said loudly of one that is stuck.
    pub fn warning(&self, wait: Duration) -> Option<String> {
        let LeavingStatus { vip, waits_for, .. } = self;
        self.stuck.then(|| {
            format!(
                "{vip} was to leave and is still announced after {wait:?}: {}; withdraw it by `lb leave {vip} --now`, or keep it by \
                 `lb return {vip}`",
                waits_for.join("; ")
            )
        })
    }
}
