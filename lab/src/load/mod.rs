//! The load of a scenario: long-lived and idle connections that prove that they are still the same ([`connection`]),
//! transfers with hashes ([`transfer`]), UDP flows ([`udp`]), and new requests all the time ([`requests`]).
//!
//! `lab load` runs inside the users node, on one thread: every connection is a task. It says what happens in lines of
//! JSON ([`Said`]) and is told what to do in lines of words ([`Order`]); [`handle`] is the other end of both. How much
//! there is of each kind says [`mix`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::address::twin;
use crate::topology::vips;

use mix::{LoadKind, Mix};

mod answer;
mod connection;
pub mod content;
pub mod handle;
pub mod mix;
mod requests;
pub mod stall;
mod transfer;
pub mod udp;

/// How much load there is.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Long-lived connections
    #[arg(long, default_value_t = 200)]
    pub connections: u32,
    /// Users' addresses they come from
    #[arg(long, default_value_t = 200)]
    pub addresses: u32,
    /// New requests a second
    #[arg(long, default_value_t = 50)]
    pub requests: u32,
    /// Milliseconds between two requests of a connection, on average
    #[arg(long, default_value_t = 3000)]
    pub think: u64,
    /// Milliseconds after which an answer is missing
    #[arg(long, default_value_t = 20000)]
    pub patience: u64,
    /// How much of the other kinds of load, in JSON
    #[arg(long, default_value = "{}", value_parser = Mix::from_json)]
    pub mix: Mix,
}

/// How a connection or a request ended that should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// RST.
    Reset,
    /// FIN, without being asked to, or before all had been sent.
    Closed,
    /// No answer, or no progress, in time.
    Timeout,
    /// The answer is to another request.
    WrongEcho,
    /// Another L7 host answered.
    OtherHost,
    /// A status other than 200.
    Status,
    /// What arrived is not what was sent, by its length or its hash.
    WrongHash,
    /// No HTTP.
    Garbage,
    /// The connection was not established.
    NotConnected,
}

impl Cause {
    /// As JSON has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::WrongEcho => "wrong-echo",
            Self::OtherHost => "other-host",
            Self::Status => "status",
            Self::WrongHash => "wrong-hash",
            Self::Garbage => "garbage",
            Self::NotConnected => "not-connected",
        }
    }
}

/// A connection or UDP flow that broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// What kind of load it was.
    pub kind: LoadKind,
    /// Its user's address and port.
    pub user: String,
    /// Where it goes.
    pub vip: IpAddr,
    /// The L7 host that holds it.
    pub l7: String,
    /// The server that answered last; empty for UDP, which hosts answer themselves.
    pub server: String,
    /// How it broke.
    pub cause: Cause,
    /// How long ago the request was sent that was not answered, or when a transfer last made progress; 0 for a
    /// connection that broke while idle.
    pub asked_ago_ms: u64,
}

/// A new request without a good answer, or a transfer that could not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of load it was; `None` for a new request.
    pub kind: Option<LoadKind>,
    /// Its user's address.
    pub user: IpAddr,
    /// Where it went.
    pub vip: IpAddr,
    /// What was wrong.
    pub cause: Cause,
    /// How long ago it was begun.
    pub asked_ago_ms: u64,
}

/// The end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Connections that were established and answered once.
    pub opened: u32,
    /// Those that answered to the end, or until they were asked to end.
    pub survived: u32,
    /// Of these, the ones that were asked to end before the others.
    pub closed: u32,
    /// Answers on long-lived connections.
    pub answers: u64,
    /// Answers by another server than the last one, through the same L7 host: HAProxy's decision.
    pub moved: u64,
    /// The slowest answer on a long-lived connection, in ms.
    pub slowest_ms: u64,
    /// New requests with a good answer.
    pub ok: u64,
    /// Without.
    pub failed: u64,
    /// 99 of 100 good answers to new requests came within this, in ms.
    pub p99_ms: u64,
    /// The slowest good answer to a new request, in ms.
    pub slowest_request_ms: u64,
    /// How late the load itself got to run at the worst, in ms.
    pub held_up_ms: u64,
    /// The other kinds of load.
    #[serde(default)]
    pub kinds: BTreeMap<LoadKind, Count>,
}

/// What became of a kind of load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Connections, flows or transfers that were established and answered once.
    pub opened: u32,
    /// Those that went on to the end, or until they were asked to end, without a fault.
    pub survived: u32,
    /// Of these, the ones that were asked to end before the others.
    pub closed: u32,
    /// Transfers that could not begin.
    pub failed: u32,
    /// The longest time without an answer or progress that ended well, in ms.
    pub slowest_ms: u64,
    /// Bytes of transfers, verified.
    pub bytes: u64,
    /// Datagrams without an echo.
    pub lost: u64,
}

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// All connections were tried; from here on they count.
    Opened {
        /// Connections that were established and answered once.
        opened: u32,
        /// Why others were not, some of the reasons.
        problems: Vec<String>,
    },
    /// A connection broke.
    Broken(Broken),
    /// A new request failed.
    Failed(Failure),
    /// An answer took long.
    Late(stall::Late),
    /// All connections have ended.
    Done(Summary),
}

/// A line of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connections on this L7 host end in an orderly way, after an answer.
    Close(String),
    /// Every connection proves itself once more and ends.
    Finish,
}

impl Order {
    fn parse(line: &str) -> Option<Self> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["close", host] => Some(Self::Close(host.to_owned())),
            ["finish"] => Some(Self::Finish),
            _ => None,
        }
    }

    /// The line that [`Order::parse`] reads.
    pub fn line(&self) -> String {
        match self {
            Self::Close(host) => format!("close {host}\n"),
            Self::Finish => "finish\n".to_owned(),
        }
    }
}

/// What connections were told so far.
#[derive(Clone, Debug, Default)]
struct Orders {
    close: Vec<String>,
    finish: bool,
}

impl Orders {
    /// Whether a connection on `l7` that was opened when there had been `since` orders to close should end.
    fn end(&self, l7: &str, since: usize) -> bool {
        self.finish || self.close.iter().skip(since).any(|closed| closed == l7)
    }
}

/// What all tasks of the one thread share.
struct Shared {
    args: LoadArgs,
    orders: watch::Receiver<Orders>,
    summary: RefCell<Summary>,
    problems: RefCell<Vec<String>>,
    tried: Cell<u32>,
    /// Of new requests with good answers.
    latencies: RefCell<Vec<u32>>,
    /// Of new requests, since `start`.
    gaps: RefCell<stall::Gaps>,
    start: Instant,
}

/// The command: runs until told to finish, or until nobody listens any more.
pub fn run(args: LoadArgs) -> Result<u8> {
    allow_descriptors(u64::from(args.connections) + u64::from(args.mix.total()) + 4096);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("making a runtime")?;
    LocalSet::new().block_on(&runtime, work(args));
    // A thread may still wait for input.
    runtime.shutdown_background();
    Ok(0)
}

async fn work(args: LoadArgs) {
    let (tell, orders) = watch::channel(Orders::default());
    let shared = Rc::new(Shared {
        args,
        orders,
        summary: RefCell::default(),
        problems: RefCell::default(),
        tried: Cell::new(0),
        latencies: RefCell::default(),
        gaps: RefCell::default(),
        start: Instant::now(),
    });
    tokio::task::spawn_local(listen(tell));
    let mut tasks = JoinSet::new();
    for number in 0..shared.args.connections {
        tasks.spawn_local(connection::live(LoadKind::LongLived, number, shared.clone()));
    }
    for kind in LoadKind::OTHERS {
        for number in 0..shared.args.mix.count(kind) {
            match kind {
                LoadKind::Udp => tasks.spawn_local(udp::live(number, shared.clone())),
                LoadKind::Idle => tasks.spawn_local(connection::live(kind, number, shared.clone())),
                _ => tasks.spawn_local(transfer::repeat(kind, number, shared.clone())),
            };
        }
    }
    tasks.spawn_local(requests::all(shared.clone()));
    tasks.spawn_local(stall::watch_self(shared.clone()));
    while tasks.join_next().await.is_some() {}
    let mut summary = shared.summary.borrow().clone();
    let mut latencies = shared.latencies.borrow_mut();
    latencies.sort_unstable();
    let p99 = latencies.get((latencies.len() * 99 / 100).min(latencies.len().saturating_sub(1)));
    summary.p99_ms = p99.copied().unwrap_or_default().into();
    summary.slowest_request_ms = latencies.last().copied().unwrap_or_default().into();
    for (vip, gap) in shared.gaps.borrow().open(shared.start.elapsed()) {
        stall::tell_gap(vip, gap);
    }
    say(&Said::Done(summary));
}

/// Takes orders; the end of input is one to finish.
async fn listen(tell: watch::Sender<Orders>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match Order::parse(&line) {
            Some(Order::Close(host)) => tell.send_modify(|orders| orders.close.push(host)),
            Some(Order::Finish) => break,
            None => eprintln!("lab load: not an order: {line}"),
        }
    }
    tell.send_modify(|orders| orders.finish = true);
    // Whoever waits for a change sees an open channel.
    tell.closed().await;
}

impl Shared {
    /// Source and destination of connection or request `number`: users and VIPs in all combinations.
    fn route(&self, number: u64) -> (IpAddr, IpAddr) {
        let vips = vips();
        let vip = vips[usize::try_from(number).unwrap_or_default() % vips.len()];
        let user = scramble(number) % u64::from(self.args.addresses.max(1));
        let user = Ipv4Addr::new(203, 0, 113, u8::try_from(user + 1).unwrap_or(1));
        (if vip.is_ipv4() { user.into() } else { twin(user).into() }, vip)
    }

    /// Another of the first connections and flows was tried. When all were, they begin to count.
    fn tried(&self, problem: Option<String>) {
        self.problems.borrow_mut().extend(problem);
        self.tried.set(self.tried.get() + 1);
        if self.tried.get() == self.args.connections + self.args.mix.total() {
            let problems = self.problems.borrow().iter().take(5).cloned().collect();
            let summary = self.summary.borrow();
            let opened = summary.opened + summary.kinds.values().map(|count| count.opened).sum::<u32>();
            say(&Said::Opened { opened, problems });
        }
    }

    /// Changes the counts of `kind`, which is not [`LoadKind::LongLived`].
    fn count(&self, kind: LoadKind, change: impl FnOnce(&mut Count)) {
        change(self.summary.borrow_mut().kinds.entry(kind).or_default());
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.args.patience)
    }
}

/// Writes a line. If nobody reads, the load has no purpose any more.
fn say(said: &Said) {
    use std::io::Write;
    let line = serde_json::to_string(said).expect("plain data");
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// SplitMix64's output function: looks random, is the same in each run.
pub fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Allows at least `wanted` open files, as far as the machine permits; connections beyond that say so themselves.
fn allow_descriptors(wanted: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to a `rlimit` that outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < wanted {
            limit.rlim_cur = wanted;
            limit.rlim_max = limit.rlim_max.max(wanted);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in [Order::Close("lb7-2".to_owned()), Order::Finish] {
            assert_eq!(Order::parse(&order.line()), Some(order));
        }
        assert_eq!(Order::parse("close"), None);
    }

    #[test]
    fn only_connections_that_were_there_end_by_an_order_to_close() {
        let mut orders = Orders { close: vec!["lb7-2".to_owned()], finish: false };
        assert!(orders.end("lb7-2", 0) && !orders.end("lb7-1", 0) && !orders.end("lb7-2", 1));
        orders.finish = true;
        assert!(orders.end("lb7-1", 1));
    }

    #[test]
    fn what_is_said_is_one_line_that_reads_back() {
        let broken = Said::Broken(Broken {
            kind: LoadKind::SlowUploads,
            user: "203.0.113.7:10022".to_owned(),
            vip: "198.51.100.1".parse().unwrap(),
            l7: "lb7-1".to_owned(),
            server: "s1".to_owned(),
            cause: Cause::Reset,
            asked_ago_ms: 12,
        });
        let line = serde_json::to_string(&broken).unwrap();
        assert!(!line.contains('\n') && line.contains("\"cause\":\"reset\""), "{line}");
        assert_eq!(serde_json::from_str::<Said>(&line).unwrap(), broken);
        let count = Count { opened: 3, ..Count::default() };
        let done = Said::Done(Summary { kinds: [(LoadKind::Udp, count)].into(), ..Summary::default() });
        let line = serde_json::to_string(&done).unwrap();
        assert_eq!(serde_json::from_str::<Said>(&line).unwrap(), done);
    }
}
