//! How long users wait: the part of a stall that counts failures does not show.
//!
//! A *stall* is the longest of
//! - the time from sending a request (connecting included) to its complete answer, or to when it failed or was given up;
//! - the time in which a transfer that could go on made no progress, or none of a flow's datagrams was echoed;
//! - the time in which new requests to one VIP did nothing but fail: from the beginning of the first that failed to the next
//!   good answer of that VIP, or to the end of the load. A VIP that refuses everything at once is not fast.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::mix::LoadKind;
use super::{Said, Shared, milliseconds, say};

/// Waits from here on are told one by one; shorter ones are only in the summary.
const LATE: u64 = 1000;
/// How often the load looks whether it gets to run.
const GLANCE: Duration = Duration::from_millis(50);

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waited {
    /// The answer on a long-lived connection.
    Proof,
    /// The answer to a new request.
    Request,
    /// An answer or progress of another kind of load.
    Load(LoadKind),
    /// Any good answer of a VIP to new requests.
    Vip,
}

/// Somebody waited long, and got an answer in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// For what.
    pub waited: Waited,
    /// The user's address; none for all users of a VIP.
    pub user: Option<String>,
    /// Where the request went.
    pub vip: IpAddr,
    /// For how long.
    pub took_ms: u64,
}

impl Late {
    /// Says so, if it took long enough to be worth a line.
    pub fn tell(self) {
        if self.took_ms >= LATE {
            say(&Said::Late(self));
        }
    }
}

/// Since when new requests to each VIP fail. Times are since any one moment.
#[derive(Debug, Default)]
pub struct Gaps(BTreeMap<IpAddr, Gap>);

#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    answered: Duration,
    failing_since: Option<Duration>,
}

impl Gaps {
    /// A good answer; how long there had been none, if others had failed meanwhile.
    pub fn answered(&mut self, vip: IpAddr, now: Duration) -> Option<Duration> {
        let gap = self.0.entry(vip).or_default();
        gap.answered = now;
        Some(now - gap.failing_since.take()?)
    }

    /// A failure of a request that was begun at `begun`. Answers since then were answers.
    pub fn failed(&mut self, vip: IpAddr, begun: Duration) {
        let gap = self.0.entry(vip).or_default();
        gap.failing_since.get_or_insert(begun.max(gap.answered));
    }

    /// VIPs whose requests still fail, and for how long.
    pub fn open(&self, now: Duration) -> impl Iterator<Item = (IpAddr, Duration)> {
        self.0.iter().filter_map(move |(vip, gap)| Some((*vip, now.saturating_sub(gap.failing_since?))))
    }
}

/// Says for how long new requests to `vip` had only failed.
pub fn tell_gap(vip: IpAddr, gap: Duration) {
    Late { waited: Waited::Vip, user: None, vip, took_ms: milliseconds(gap) }.tell();
}

/// Measures how late this very thread gets to run: a machine that is too busy stalls the load, not the load balancer.
pub(super) async fn watch_self(shared: Rc<Shared>) {
    let mut orders = shared.orders.clone();
    while !orders.borrow_and_update().finish {
        let due = Instant::now() + GLANCE;
        sleep(GLANCE).await;
        let late = milliseconds(due.elapsed());
        let mut summary = shared.summary.borrow_mut();
        summary.held_up_ms = summary.held_up_ms.max(late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn gap_of_a_vip_is_from_its_first_failure_to_its_next_answer() {
        let [vip, other] = ["198.51.100.1", "198.51.100.2"].map(|vip| vip.parse().unwrap());
        let mut gaps = Gaps::default();
        assert_eq!(gaps.answered(vip, at(1)), None);
        gaps.failed(vip, at(2));
        gaps.failed(vip, at(3));
        assert_eq!(gaps.answered(other, at(4)), None);
        assert_eq!(gaps.open(at(7)).collect::<Vec<_>>(), [(vip, at(5))]);
        assert_eq!(gaps.answered(vip, at(8)), Some(at(6)));
        assert_eq!((gaps.answered(vip, at(9)), gaps.open(at(9)).count()), (None, 0));
    }

    #[test]
    fn answers_while_a_request_was_failing_are_no_gap() {
        let vip = "198.51.100.1".parse().unwrap();
        let mut gaps = Gaps::default();
        gaps.answered(vip, at(19));
        gaps.failed(vip, at(1));
        assert_eq!(gaps.answered(vip, at(20)), Some(at(1)));
    }
}
