//! How many packets hosts have rescued: accepted after another host had passed them on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::agent;
use crate::paths::Paths;

/// Counts that only go up, though agents are away for a while and counters begin anew with new maps.
#[derive(Debug, Default)]
pub struct Rescues(Mutex<BTreeMap<String, Count>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    before: u64,
    now: u64,
}

impl Count {
    fn see(&mut self, now: u64) {
        if now < self.now {
            self.before += self.now;
        }
        self.now = now;
    }
}

impl Rescues {
    /// Asks all `hosts` at once; one that does not answer counts as it did last.
    pub fn sum(&self, paths: &Paths, hosts: &[&str]) -> u64 {
        let found: Vec<(&str, Option<u64>)> = thread::scope(|scope| {
            let ask = |host| (host, scope.spawn(move || of_host(paths, host)));
            let asked: Vec<_> = hosts.iter().copied().map(ask).collect();
            asked.into_iter().map(|(host, thread)| (host, thread.join().ok().flatten())).collect()
        });
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, now) in found.into_iter().filter_map(|(host, now)| Some((host, now?))) {
            counts.entry(host.to_owned()).or_default().see(now);
        }
        counts.values().map(|count| count.before + count.now).sum()
    }
}

fn of_host(paths: &Paths, host: &str) -> Option<u64> {
    rescued(&agent::document(paths, host)?)
}

/// The sum over all services, generations and distances in what an agent says of itself.
fn rescued(status: &serde_json::Value) -> Option<u64> {
    let accounts = status.get("accounts")?.as_array()?;
    let counts = accounts.iter().filter_map(|account| account.get("rescued")?.as_array());
    Some(counts.flatten().filter_map(serde_json::Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_begin_anew_add_to_what_was() {
        let mut count = Count::default();
        for now in [5, 9, 2, 4] {
            count.see(now);
        }
        assert_eq!(count.before + count.now, 9 + 4);
    }

    #[test]
    fn all_services_and_distances_count() {
        let status = serde_json::json!({"accounts": [{"rescued": [1, 2, 0, 0]}, {"rescued": [0, 0, 4, 0]}]});
        assert_eq!(rescued(&status), Some(7));
        assert_eq!(rescued(&serde_json::json!({})), None);
    }
}
