//! Which of several agents writes to the sinks they share: the one that holds a key in etcd, as long as its lease lasts.
//!
//! Every agent with `dns.leader` asks for the key in turns of a quarter of the lease; whoever finds it free takes it, bound to
//! a lease of its own, which it renews each turn. One that dies leaves the key behind until its lease runs out, and another
//! takes it within a turn; one that is told to be out of service (`/etc/lb/disable`) gives it back at once. Without etcd
//! nobody writes, and what stands in the servers stays.
//!
//! **Never two at once.** A lease counts from the moment when its renewal was *asked* for, which is before etcd counts, and an
//! eighth is left out for clocks that run at different speeds. A write that is on its way when a lease ends may overlap
//! with another's: both write what they think is right, and what is left wrong is mended at the next comparison.

pub mod task;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How a leader is elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderConfig {
    /// Members of etcd; the first that answers is used.
    pub urls: Vec<String>,
    /// The key.
    pub key: String,
    /// How long a leader that is gone keeps others from leading, at most; etcd's least is 2 s.
    pub lease: Duration,
}

impl LeaderConfig {
    /// How often etcd is asked.
    pub fn turn(&self) -> Duration {
        self.lease / 4
    }

    /// How long one of the members gets to answer: a turn is over when all of them have had it.
    pub fn patience(&self) -> Duration {
        self.turn() / self.urls.len().max(1) as u32
    }
}

/// What is to be said of the election.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// This node leads.
    pub leads: bool,
    /// Who does, as far as it is known.
    pub leader: Option<String>,
    /// Why that is not known.
    pub error: Option<String>,
}

/// What one turn found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The key is bound to our lease, which was renewed for so long.
    Ours(Duration),
    /// Another node has it.
    Other(String),
}

/// What this node knows of the election. Pure: times are passed in.
#[derive(Clone, Debug, Default)]
pub struct Term {
    until: Option<Instant>,
    leader: Option<String>,
    error: Option<String>,
}

impl Term {
    /// A turn that was begun at `asked` found this.
    pub fn found(&mut self, node: &str, found: Found, asked: Instant) {
        self.error = None;
        match found {
            Found::Ours(lease) => {
                self.until = Some(asked + (lease - lease / 8));
                self.leader = Some(node.to_owned());
            }
            Found::Other(other) => {
                self.until = None;
                self.leader = Some(other);
            }
        }
    }

    /// A turn found nothing; a lease goes on until it ends.
    pub fn failed(&mut self, error: String, now: Instant) {
        if !self.leads(now) {
            self.leader = None;
        }
        self.error = Some(error);
    }

    /// The key has been given back.
    pub fn resigned(&mut self) {
        *self = Term::default();
    }

    /// Until when this node leads, if it does.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// This node leads.
    pub fn leads(&self, now: Instant) -> bool {
        self.until(now).is_some()
    }

    /// What is to be said.
    pub fn status(&self, now: Instant) -> LeaderStatus {
        let leads = self.leads(now);
        let is_over = self.until.is_some() && !leads;
        LeaderStatus { leads, leader: self.leader.clone().filter(|_| !is_over), error: self.error.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(8);

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for_and_ends_early() {
        let (mut term, start) = (Term::default(), Instant::now());
        assert!(!term.leads(start));
        term.found("a", Found::Ours(LEASE), start);
        assert!(term.leads(start + Duration::from_millis(6999)));
        assert!(!term.leads(start + Duration::from_secs(7)));
        assert_eq!(term.status(start + Duration::from_secs(7)).leader, None);
        // A renewal that took three seconds to be answered.
        term.found("a", Found::Ours(LEASE), start + Duration::from_secs(2));
        assert_eq!(term.until(start), Some(start + Duration::from_secs(9)));
    }

    #[test]
    fn without_etcd_a_leader_leads_until_its_lease_ends() {
        let (mut term, start) = (Term::default(), Instant::now());
        term.found("a", Found::Ours(LEASE), start);
        let soon = start + Duration::from_secs(1);
        term.failed("no answer".into(), soon);
        let status = term.status(soon);
        assert_eq!((status.leads, status.leader.as_deref()), (true, Some("a")));
        assert_eq!(status.error.as_deref(), Some("no answer"));
        let late = start + LEASE;
        term.failed("no answer".into(), late);
        let status = term.status(late);
        assert_eq!((status.leads, status.leader), (false, None));
    }

    #[test]
    fn who_hears_of_another_leader_or_resigns_leads_no_more() {
        let (mut term, start) = (Term::default(), Instant::now());
        term.found("a", Found::Ours(LEASE), start);
        term.found("a", Found::Other("b".into()), start);
        assert_eq!((term.leads(start), term.status(start).leader.as_deref()), (false, Some("b")));
        term.found("a", Found::Ours(LEASE), start);
        term.resigned();
        assert_eq!(term.status(start), LeaderStatus::default());
    }
}
