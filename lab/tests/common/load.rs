//! Users: requests at a bounded rate from random addresses to all VIPs, a new connection for each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::address::twin;
use lab::paths::Paths;
use lab::topology::vips;
use lab::{namespace, request};

use super::{Lab, PATIENCE, check, wait_until};

/// More than requests that fail at the slowest occupy.
const WORKERS: u64 = 24;

/// How users behave.
#[derive(Clone, Copy, Debug)]
pub struct Users {
    /// Requests a second, all together.
    pub per_second: u64,
    /// How long each waits for a step of its request.
    pub patience: Duration,
}

impl Default for Users {
    /// Patient enough for a lost packet to be sent again: what fails then is broken, not slow.
    fn default() -> Self {
        Self { per_second: 250, patience: Duration::from_secs(8) }
    }
}

/// A request without a good answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was sent.
    pub at: Instant,
    /// To whom, and why it failed.
    pub what: String,
}

/// What users saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Good answers.
    pub ok: u64,
    /// Everything else.
    pub failures: Vec<Failure>,
    /// The slowest good answer.
    pub slowest: Duration,
    /// Good answers later than a lost packet is sent again.
    pub slow: u64,
    /// TCP segments that the users' node sent again.
    pub retransmitted: u64,
    /// Answers by VIP.
    pub by_vip: BTreeMap<IpAddr, u64>,
    /// Which servers answered.
    pub servers: BTreeSet<String>,
    /// Which L7 hosts answered.
    pub l7_hosts: BTreeSet<String>,
}

impl Report {
    /// Panics if any request failed.
    #[track_caller]
    pub fn assert_flawless(&self) {
        let first: Vec<&str> = self.failures.iter().take(5).map(|failure| failure.what.as_str()).collect();
        assert!(self.failures.is_empty(), "{} of {} failed: {first:#?}", self.failures.len(), self.total());
        assert!(self.ok > 0, "there were no requests");
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.ok + self.failures.len() as u64
    }

    /// From `event` until the last request was sent that failed.
    pub fn outage(&self, event: Instant) -> Duration {
        let last = self.failures.iter().map(|failure| failure.at).max();
        last.map_or(Duration::ZERO, |last| last.saturating_duration_since(event))
    }

    /// In a line, for figures.
    pub fn summary(&self) -> String {
        format!(
            "{} ok, {} failed, slowest {} ms, {} slower than 0.9 s, {} segments sent again",
            self.ok,
            self.failures.len(),
            self.slowest.as_millis(),
            self.slow,
            self.retransmitted
        )
    }
}

/// Users at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    ok: Arc<AtomicU64>,
    thread: Option<JoinHandle<Report>>,
}

impl Load {
    /// Begins, and returns once requests are answered.
    pub fn start(lab: &Lab, users: Users) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ok = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (paths, stop, ok) = (lab.paths.clone(), stop.clone(), ok.clone());
            move || work(&paths, users, &stop, &ok)
        });
        let load = Self { stop, ok, thread: Some(thread) };
        load.answered(50);
        load
    }

    /// Waits for so many more good answers.
    #[track_caller]
    pub fn answered(&self, more: u64) {
        let before = self.ok.load(Ordering::Relaxed);
        wait_until("requests are answered", PATIENCE, || {
            let now = self.ok.load(Ordering::Relaxed);
            check(now >= before + more, format!("{} answered", now - before))
        });
    }

    /// Ends and reports.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only stop takes it");
        thread.join().expect("users do not panic")
    }
}

impl Drop for Load {
    /// A test that panics leaves no threads in a namespace.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// So many requests, as fast as `users` say.
pub fn requests(lab: &Lab, count: u64) -> Report {
    let load = Load::start(lab, Users::default());
    load.answered(count.saturating_sub(50));
    load.stop()
}

/// Requests from the users node until `stop`. Threads inherit the namespaces of the thread that makes them.
fn work(paths: &Paths, users: Users, stop: &AtomicBool, ok: &AtomicU64) -> Report {
    namespace::enter(paths, "users", || {
        let report = Mutex::new(Report::default());
        let start = Instant::now();
        let turn = AtomicU64::new(0);
        let before = retransmitted();
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let number = turn.fetch_add(1, Ordering::Relaxed);
                        let due = start + Duration::from_micros(number * 1_000_000 / users.per_second);
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        ask(number, users.patience, &report, ok);
                    }
                });
            }
        });
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.retransmitted = retransmitted() - before;
        report
    })
    .expect("entering the users node")
}

fn ask(number: u64, patience: Duration, report: &Mutex<Report>, ok: &AtomicU64) {
    let vips = vips();
    let vip = vips[usize::try_from(number).expect("64 bits") % vips.len()];
    let last = u8::try_from(1 + scramble(number) % 200).expect("at most 200");
    let source = Ipv4Addr::new(203, 0, 113, last);
    let source = if vip.is_ipv4() { IpAddr::V4(source) } else { IpAddr::V6(twin(source)) };
    let at = Instant::now();
    let result = request::get(source, vip, patience);
    let took = at.elapsed();
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(answer) => {
            report.ok += 1;
            report.slow += u64::from(took > Duration::from_millis(900));
            report.slowest = report.slowest.max(took);
            *report.by_vip.entry(vip).or_default() += 1;
            report.servers.insert(answer.server);
            report.l7_hosts.insert(answer.l7);
            ok.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => {
            let what = format!("{source} → {vip} after {} ms: {error:#}", took.as_millis());
            report.failures.push(Failure { at, what });
        }
    }
}

/// SplitMix64's output function: looks random, is the same in each run.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `RetransSegs` of the calling thread's network namespace.
fn retransmitted() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("reading net/snmp");
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().expect("names of TCP's counters").split_whitespace();
    let mut values = lines.next().expect("TCP's counters").split_whitespace();
    let position = names.clone().position(|name| name == "RetransSegs").expect("RetransSegs");
    values.nth(position).and_then(|value| value.parse().ok()).expect("a number")
}
