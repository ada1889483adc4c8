//! A limit of answers by UDP, so that whoever writes a victim's address as the source of questions does not get this
//! server to flood the victim. As other name servers do it: answers that are alike, to one network, at most so many a
//! second; of those beyond, some say "come by TCP" (TC), so that an honest client in that network is still served.
//!
//! The table has a fixed size and no locks: each entry is one word, which all threads change as they go. When networks
//! are more than entries, those that are limited least make room.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::LowerName;

use crate::bgp::Prefix;

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// Answers per second and network that are alike.
    pub rate: u32,
    /// For so long a network that goes on asking too much stays limited.
    pub window: Duration,
    /// One of so many answers beyond the limit says "come by TCP"; 0: none does.
    pub slip: u32,
    /// Bits of IPv4 addresses that make a network.
    pub prefix4: u8,
    /// The same for IPv6.
    pub prefix6: u8,
    /// Clients without a limit.
    pub exempt: Vec<Prefix>,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Send,
    /// It is sent without records, and says "come by TCP".
    Slip,
    /// It is not sent.
    Drop,
}

/// Entries that are looked at for a network: as many as a line of the processor's cache holds.
const WAYS: usize = 8;
/// Lines of entries: 512 KiB in all.
const LINES: usize = 8192;
/// Bits of a word that say when a network has used up what it was given; the others tell networks apart.
const TIME_BITS: u32 = 44;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// Units of time in a second: the word lasts for 8 years.
const TICKS: u64 = 1 << 16;

/// The table.
pub struct Limiter {
    config: RateConfig,
    entries: Box<[AtomicU64]>,
    secret: RandomState,
    started: Duration,
}

/// Without its thousands of entries.
impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Limiter {
    /// An empty table. Times are those since 1970; none is before `started`.
    pub fn new(config: RateConfig, started: Duration) -> Self {
        let entries = (0..LINES * WAYS).map(|_| AtomicU64::new(0)).collect();
        Limiter { config, entries, secret: RandomState::new(), started }
    }

    /// Counts an answer to a client. `about` is the name that it is about: the zone, where there is nothing, or a
    /// wildcard speaks, so that made-up names count as one. `roll` is chance.
    pub fn judge(
        &self,
        client: IpAddr,
        code: ResponseCode,
        about: Option<&LowerName>,
        now: Duration,
        roll: u64,
    ) -> Verdict {
        if self.config.exempt.iter().any(|prefix| prefix.contains(client)) {
            return Verdict::Send;
        }
        let length = if client.is_ipv4() { self.config.prefix4 } else { self.config.prefix6 };
        let network = Prefix { address: client, length }.network().address;
        let alike = self.secret.hash_one((network, u16::from(code), about));
        // Entries that were never used are at 0.
        let now = TICKS + (now.saturating_sub(self.started).as_micros() as u64 * TICKS / 1_000_000);
        match self.count(alike, now) {
            true => Verdict::Send,
            false if self.config.slip > 0 && roll.is_multiple_of(self.config.slip.into()) => Verdict::Slip,
            false => Verdict::Drop,
        }
    }

    /// Whether one more answer of this kind may be sent: a second's worth at once, and then as many as the rate says
    /// (the virtual scheduling of GCRA). Answers beyond count as well, up to the window.
    fn count(&self, alike: u64, now: u64) -> bool {
        let line = &self.entries[(alike as usize % LINES) * WAYS..][..WAYS];
        let mark = alike & !TIME;
        let entry = line
            .iter()
            .find(|entry| entry.load(Ordering::Relaxed) & !TIME == mark)
            .or_else(|| line.iter().min_by_key(|entry| entry.load(Ordering::Relaxed) & TIME));
        let Some(entry) = entry else { return true };
        // Rounded down, so that the whole of a rate fits into its second: at thousands a second a few percent more are sent.
        let cost = TICKS / u64::from(self.config.rate.max(1));
        let most = now + TICKS + self.config.window.as_millis() as u64 * TICKS / 1000;
        let mut sent = true;
        let _ = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let used_up = if word & !TIME == mark { (word & TIME).max(now) } else { now };
            let next = used_up + cost;
            sent = next <= now + TICKS;
            Some(mark | next.min(most) & TIME)
        });
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(change: impl Fn(&mut RateConfig)) -> (Limiter, Duration) {
        let mut config = RateConfig {
            rate: 10,
            window: Duration::from_secs(5),
            slip: 2,
            prefix4: 24,
            prefix6: 56,
            exempt: vec!["198.51.100.0/24".parse().unwrap()],
        };
        change(&mut config);
        let start = Duration::from_secs(1_795_000_000);
        (Limiter::new(config, start), start)
    }

    fn name(text: &str) -> LowerName {
        text.parse().unwrap()
    }

    /// How many of some questions at once are answered.
    fn sent(limiter: &Limiter, client: &str, about: &str, now: Duration, questions: u64) -> usize {
        let (client, about) = (client.parse().unwrap(), name(about));
        let judge = |roll| limiter.judge(client, ResponseCode::NoError, Some(&about), now, roll);
        (0..questions).filter(|roll| judge(*roll) == Verdict::Send).count()
    }

    #[test]
    fn a_network_gets_a_seconds_worth_and_then_its_rate() {
        let (limiter, start) = limiter(|_| {});
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        assert_eq!(sent(&limiter, "192.0.2.1", "a.", at(0.0), 10), 10);
        assert_eq!(sent(&limiter, "192.0.2.77", "a.", at(0.0), 10), 0, "the same network");
        assert_eq!(sent(&limiter, "192.0.3.1", "a.", at(0.0), 10), 10, "another one");
        assert_eq!(sent(&limiter, "192.0.2.1", "b.", at(0.0), 10), 10, "another name");
        assert_eq!(sent(&limiter, "2001:db8::1", "a.", at(0.0), 10), 10);
        assert_eq!(sent(&limiter, "2001:db8:0:ff::1", "a.", at(0.0), 10), 0, "/56");
        assert_eq!(sent(&limiter, "2001:db8:0:100::1", "a.", at(0.0), 10), 10);
        assert_eq!(sent(&limiter, "192.0.3.1", "a.", at(0.5), 10), 5, "what has been given since");
        assert_eq!(sent(&limiter, "198.51.100.1", "a.", at(0.0), 1000), 1000, "exempt");
    }

    #[test]
    fn who_goes_on_stays_limited_for_the_window() {
        let (limited, start) = limiter(|_| {});
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        for tenth in 0..100 {
            sent(&limited, "192.0.2.1", "a.", at(f64::from(tenth) / 10.0), 100);
        }
        assert_eq!(sent(&limited, "192.0.2.1", "a.", at(14.0), 1), 0);
        let (again, start) = limiter(|_| {});
        sent(&again, "192.0.2.1", "a.", start, 10_000);
        assert_eq!(
            sent(&again, "192.0.2.1", "a.", start + Duration::from_secs(7), 100),
            10,
            "all is forgotten"
        );
    }

    #[test]
    fn some_are_told_to_come_by_tcp() {
        for (slip, expected) in [(0, 0), (1, 990), (2, 495)] {
            let (limiter, start) = limiter(|config| config.slip = slip);
            let about = name("a.");
            let judge =
                |roll| limiter.judge([192, 0, 2, 1].into(), ResponseCode::NoError, Some(&about), start, roll);
            let slips = (0..1000).filter(|roll| judge(*roll) == Verdict::Slip).count();
            assert_eq!(slips, expected, "slip {slip}");
        }
    }

    #[test]
    fn a_flood_from_everywhere_neither_grows_the_table_nor_frees_who_is_limited() {
        let (limiter, start) = limiter(|_| {});
        sent(&limiter, "192.0.2.1", "a.", start, 1000);
        let soon = start + Duration::from_millis(100);
        for network in 0..500_000u32 {
            let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + (network << 8));
            limiter.judge(client.into(), ResponseCode::NoError, Some(&name("a.")), soon, 0);
        }
        assert_eq!(sent(&limiter, "192.0.2.1", "a.", soon, 1), 0);
        assert_eq!(limiter.entries.len(), WAYS * LINES);
    }

    #[test]
    fn threads_share_one_limit() {
        let (limiter, start) = limiter(|config| config.rate = 1000);
        let all: usize = std::thread::scope(|scope| {
            let ask = || sent(&limiter, "192.0.2.1", "a.", start, 10_000);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((990..=1010).contains(&all), "{all}");
    }
}
