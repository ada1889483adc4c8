//! The task that watches what members follow, and publishes snapshots for the server.
//!
//! Task: one, owned by the [`Dns`]; dropping that ends it, its probes and the server. It waits for one of: another
//! configuration, another health, another status of the agent, a tick (files are looked at), a large file that has been
//! read, an order of the operator. Then everything is judged anew, and what has changed is published.

mod handle;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use self::handle::Command;
pub use self::handle::Handle;
use self::writing::{Writing, written};
use super::anycast::{Anycast, AnycastStatus};
use super::claim::task::ClaimStatus;
use super::counters::Counters;
use super::extfile::Extfiles;
use super::geo::follower::{Follower, GeoStatus};
use super::history::{self, Change, History, Turn};
use super::leader::LeaderStatus;
use super::leaving::{self, Telling};
use super::memory::Memory;
use super::notify::{Notifier, SecondaryStatus};
use super::observe::{Facts, observe, plan};
use super::observers::ObserverStatus;
use super::observers::observing::Observing;
use super::others::Others;
use super::publish::Publisher;
use super::rate::Limiter;
use super::server::{Sockets, seed, since_1970};
use super::sink::SinkStatus;
use super::snapshot::{Data, Observations, Observed, Orders, Snapshot};
use super::status::{OrderRequest, apply};
use super::tsig::Keyring;
use super::{BeforeChecks, Check, Config};
use crate::agent::status::Status;
use crate::config;
use crate::health::{Checker, HealthView};
use crate::leave::word::Word;
use crate::model::HostId;
use crate::peers::PeersView;
use crate::vip::Vip;

/// How often files with states, and of where clients are, are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long what is not yet known may keep names from being answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the last health is written to the file, if it has changed.
const REMEMBER: Duration = Duration::from_secs(5);
/// How many changes at once have a line each in the log.
const LOGGED: usize = 20;

/// The running name server.
pub struct Dns {
    handle: Handle,
    anycast: Anycast,
    _task: JoinSet<()>,
}

/// What the task says besides snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Orders in force.
    pub orders: Orders,
    /// What is wrong with files.
    pub problems: Vec<String>,
    /// What the sinks do.
    pub sinks: Vec<SinkStatus>,
    /// Who holds the names that are held in turn.
    pub claims: Vec<ClaimStatus>,
    /// Who writes to the sinks, if that is elected.
    pub leader: Option<LeaderStatus>,
    /// Whose votes decide what probes say.
    pub observers: Vec<ObserverStatus>,
    /// Addresses that are shared with other servers.
    pub anycast: Vec<AnycastStatus>,
    /// What secondaries were told.
    pub secondaries: Vec<SecondaryStatus>,
    /// What is known of where clients are, if it is asked for.
    pub geo: Option<GeoStatus>,
    /// VIPs that leave nodes, and where they are still answered.
    pub leaving: BTreeMap<Vip, Word>,
}

/// What checks said.
struct Judged {
    data: Arc<Data>,
    /// In the order of its watches.
    seen: Observations,
}

impl Dns {
    /// Starts to answer on these sockets. `configs`, `status` and `peers` are the agent's.
    pub fn start(
        sockets: Sockets,
        configs: watch::Receiver<Arc<config::Config>>,
        status: watch::Receiver<Arc<Status>>,
        peers: watch::Receiver<PeersView>,
    ) -> io::Result<Self> {
        let config = configs.borrow().dns.clone().unwrap_or_else(nothing);
        let mut problems = Vec::new();
        let memory = Memory::read(&config.state).unwrap_or_else(|problem| {
            warn!("dns: {problem}");
            problems.push(problem);
            Memory::default()
        });
        let (told, for_handle) = watch::channel(Told::default());
        let anycast = Anycast::start(configs.clone());
        let (commands, to_do) = mpsc::channel(8);
        let beside = Arc::new(Counters::default());
        // JSON numbers are safe up to 53 bits.
        let instance = seed() >> 11;
        let mut task = Watching {
            config: nothing(),
            data: Arc::default(),
            checker: Checker::start(BTreeMap::new(), BTreeMap::new()),
            configs,
            status,
            extfiles: Extfiles::default(),
            geo: Follower::start(config.geo.as_ref()),
            started: Instant::now(),
            starting: config.before_checks == BeforeChecks::Wait,
            remembered: memory.health(),
            orders: memory.orders(),
            publisher: Publisher::new(memory.serials()),
            history: History::of(memory.history()),
            written: memory,
            write_failure: problems.pop(),
            writing: None,
            judged: None,
            stale: false,
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::new(
                Arc::default(),
                Arc::default(),
                &Orders::new(),
                true,
            ))),
            past: Vec::new(),
            told,
            others: Others::default(),
            observing: Observing::new(instance),
            telling: Telling::new(instance),
            peers,
            anycast: anycast.status(),
            keys: Arc::default(),
            key_problems: Vec::new(),
            notifier: Notifier::new(&sockets.addresses(), Arc::clone(&beside)),
            limiter: None,
        };
        task.go_by(config);
        task.judge();
        let (snapshot, sightings) = (Arc::clone(&task.snapshot), task.observing.document());
        let leaving = task.telling.document();
        let server = Arc::new(sockets.serve(Arc::clone(&snapshot), beside)?);
        info!(addresses = ?server.addresses(), "dns: answering");
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(to_do));
        let handle = Handle { snapshot, server, commands, told: for_handle, sightings, leaving };
        Ok(Dns { handle, anycast, _task: tasks })
    }

    /// Where the server answers of the addresses that it shares; see [`Anycast::status`].
    pub fn anycast(&self) -> watch::Receiver<Option<Vec<AnycastStatus>>> {
        self.anycast.status()
    }

    /// The way to ask and to order.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// A section that serves nothing.
fn nothing() -> Config {
    Config {
        listen: Vec::new(),
        nsid: String::new(),
        threads: 1,
        tcp: super::Tcp { connections: 1, idle: PATIENCE },
        before_checks: BeforeChecks::Wait,
        state: PathBuf::new(),
        checks: BTreeMap::new(),
        rate_limit: None,
        geo: None,
        zones: Vec::new(),
        sinks: BTreeMap::new(),
        claims: BTreeMap::new(),
        leader: None,
        observers: None,
        anycast: Default::default(),
    }
}

struct Watching {
    config: Config,
    data: Arc<Data>,
    checker: Checker,
    configs: watch::Receiver<Arc<config::Config>>,
    status: watch::Receiver<Arc<Status>>,
    extfiles: Extfiles,
    geo: Follower,
    started: Instant,
    /// The first checks have not all been heard.
    starting: bool,
    remembered: BTreeMap<HostId, bool>,
    orders: Orders,
    /// What is in the file.
    written: Memory,
    write_failure: Option<String>,
    /// The last health on its way to the file; that may take a while, and answers must not wait for it.
    writing: Option<Writing>,
    /// What the checks said last, of the members of that time.
    judged: Option<Judged>,
    /// Something else than what checks say has changed.
    stale: bool,
    history: History,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Those before, as long as answers may be made from them: to give their memory back is not for a thread that answers.
    past: Vec<Arc<Snapshot>>,
    told: watch::Sender<Told>,
    others: Others,
    observing: Observing,
    telling: Telling,
    peers: watch::Receiver<PeersView>,
    anycast: watch::Receiver<Option<Vec<AnycastStatus>>>,
    publisher: Publisher,
    keys: Arc<Keyring>,
    /// Secrets of keys that cannot be had.
    key_problems: Vec<String>,
    notifier: Notifier,
    limiter: Option<Arc<Limiter>>,
}

impl Watching {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut health = self.checker.view();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut remembers = interval(REMEMBER);
        remembers.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.configs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let config = self.configs.borrow_and_update().dns.clone();
                    match config {
                        Some(config) if config != self.config => {
                            self.finish_writing().await;
                            self.geo.go_by(config.geo.as_ref()).await;
                            self.go_by(config);
                        }
                        // The same with another secret.
                        _ => self.read_keys(),
                    }
                }
                Ok(()) = health.changed() => {}
                Ok(()) = self.status.changed() => {}
                () = self.observing.changed() => {}
                Ok(()) = self.peers.changed() => {}
                () = self.others.election() => self.others.publish(&self.snapshot.load()),
                // All is published anew, although nothing else has changed.
                () = self.geo.read() => self.stale = true,
                _ = looks.tick() => {
                    self.let_go();
                    self.geo.look();
                    let settling = self.starting || !self.is_settled();
                    if !self.extfiles.look() && !settling {
                        self.tell();
                        continue;
                    }
                }
                _ = remembers.tick() => {
                    self.remember();
                    // A secret may have been corrected.
                    if !self.key_problems.is_empty() {
                        self.read_keys();
                    }
                }
                done = written(&mut self.writing) => self.take_written(done),
                Some(command) = commands.recv() => match command {
                    Command::Order(request, reply) => {
                        self.finish_writing().await;
                        let result = self.obey(&request);
                        self.judge();
                        let _ = reply.send(result);
                    }
                    Command::History(of, reply) => {
                        let _ = reply.send(self.history.about(of.as_deref(), &self.data));
                        continue;
                    }
                }
            }
            self.judge();
        }
    }

    /// Serves another configuration; it has been checked.
    fn go_by(&mut self, config: Config) {
        let data = match Data::new(&config) {
            Ok(data) => data,
            Err(faults) => {
                for (_, fault) in faults {
                    warn!("dns: the last zones stay in force: {}", fault.message);
                }
                return;
            }
        };
        if let (None, Some(_), Some(last)) = (&self.config.observers, &config.observers, &self.judged) {
            self.observing.take_over(&self.config.checks, last.data.watches(), &last.seen);
        }
        self.data = Arc::new(data);
        self.checker.update(plan(&config, self.data.watches()));
        let files = config.checks.values().filter_map(|check| match check {
            Check::Extfile { file, .. } => Some(file.clone()),
            _ => None,
        });
        self.extfiles.follow(files.collect());
        self.others.go_by(&config, &self.configs.borrow().node, able(&self.status.borrow()));
        self.observing.go_by(config.observers.as_ref());
        self.notifier.go_by(&config);
        if self.config.rate_limit != config.rate_limit {
            let new = |limits| Arc::new(Limiter::new(limits, since_1970()));
            self.limiter = config.rate_limit.clone().map(new);
        }
        self.config = config;
        self.read_keys();
        // Before anybody can see one: serials that a crash would undo are none.
        if self.publisher.prepare(&self.data) {
            let memory = self.written.clone().with_serials(self.publisher.bounds());
            match memory.write(&self.config.state) {
                Ok(()) => self.written = memory,
                Err(problem) => self.fail_to_write(problem),
            }
        }
    }

    fn read_keys(&mut self) {
        let keys = self.data.transfers.values().filter_map(|transfer| transfer.key.as_ref());
        let (keys, errors) = Keyring::read(keys);
        self.keys = Arc::new(keys);
        let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if problems != self.key_problems {
            problems.iter().for_each(|problem| warn!("dns: {problem}"));
            self.key_problems = problems;
        }
        self.stale = true;
    }

    fn is_settled(&self) -> bool {
        self.started.elapsed() >= PATIENCE
    }

    /// Judges everything anew and publishes what has changed.
    fn judge(&mut self) {
        let health = self.checker.view();
        let seen = {
            let health: &HealthView = &health.borrow();
            let status = self.status.borrow_and_update().clone();
            self.others.set_able(able(&status));
            self.observing.publish(&self.configs.borrow().node, self.data.watches(), health);
            let jury = self.observing.jury();
            let settled = self.is_settled();
            let facts = Facts {
                config: &self.config,
                health,
                remembered: &self.remembered,
                status: &status,
                extfiles: &self.extfiles,
                jury: jury.as_ref(),
                peers: &self.peers.borrow_and_update(),
                settled,
            };
            observe(&facts, &self.data)
        };
        self.observing.agree(&self.config.checks, self.data.watches(), &seen);
        let was_starting = self.starting;
        self.starting &= !self.is_settled() && seen.iter().any(|seen| seen.up.is_none());
        let has = |last: &Judged| Arc::ptr_eq(&last.data, &self.data) && last.seen == seen;
        if self.stale || was_starting != self.starting || !self.judged.as_ref().is_some_and(has) {
            self.stale = false;
            let changes = self.changes(&seen);
            log(&changes);
            self.history.note(changes);
            self.publish(Arc::clone(&seen));
            self.judged = Some(Judged { data: Arc::clone(&self.data), seen });
        }
        self.telling.look(&leaving::Facts {
            zones: &self.config.zones,
            snapshot: &self.snapshot.load(),
            orders: &self.orders,
            status: &self.status.borrow(),
            peers: &self.peers.borrow(),
        });
        self.tell();
    }

    /// What has changed since checks were judged last, or since before the agent started.
    fn changes(&self, seen: &[Observed]) -> Vec<Change> {
        let before = |number: usize, id: &HostId| match &self.judged {
            Some(last) if Arc::ptr_eq(&last.data, &self.data) => Turn::of(&last.seen[number]),
            Some(last) => {
                let number = last.data.watches().binary_search_by(|watch| watch.id.cmp(id)).ok()?;
                Turn::of(&last.seen[number])
            }
            None => self.remembered.get(id).map(|up| if *up { Turn::Up } else { Turn::Down }),
        };
        history::observed(self.data.watches(), seen, before, now_ms())
    }

    /// Says what there is to say besides snapshots.
    fn tell(&mut self) {
        let sinks = self.others.sinks();
        let leaving = self.telling.tell(&self.configs.borrow().node, &sinks);
        let files = self.extfiles.problems().chain(self.geo.problem()).chain(&self.key_problems).cloned();
        let problems = files.chain(self.write_failure.clone());
        let told = Told {
            orders: self.orders.clone(),
            problems: problems.collect(),
            sinks,
            claims: self.others.claims(),
            leader: self.others.leader(),
            observers: self.observing.statuses(),
            anycast: self.anycast.borrow().clone().unwrap_or_default(),
            secondaries: self.notifier.status(),
            geo: self.geo.status(),
            leaving,
        };
        self.told.send_if_modified(|last| std::mem::replace(last, told.clone()) != told);
    }

    fn publish(&mut self, seen: Observations) {
        let mut snapshot = Snapshot::new(Arc::clone(&self.data), seen, &self.orders, self.starting);
        snapshot.editions = self.publisher.publish(&snapshot);
        snapshot.keys = Arc::clone(&self.keys);
        snapshot.limiter = self.limiter.clone();
        snapshot.geo = Arc::clone(self.geo.geo());
        if self.publisher.bounds() != &self.written.serials() {
            self.remember();
        }
        let snapshot = Arc::new(snapshot);
        // Own answers do not wait for what others are to be told.
        self.let_go();
        self.past.push(self.snapshot.swap(Arc::clone(&snapshot)));
        self.others.publish(&snapshot);
        self.notifier.publish(&snapshot.editions);
    }

    /// Gives back the memory of snapshots that nobody answers from any more.
    fn let_go(&mut self) {
        self.past.retain(|past| Arc::strong_count(past) > 1);
    }

    fn obey(&mut self, request: &OrderRequest) -> Result<Vec<String>, String> {
        let (orders, names) = apply(request, &self.orders, &self.data)?;
        let change = (orders != self.orders).then(|| history::ordered(request, &names, now_ms()));
        let orders = std::mem::replace(&mut self.orders, orders);
        let history = self.history.clone();
        self.history.note(change);
        // An order that a restart would undo is none.
        if let Err(problem) = self.write() {
            (self.orders, self.history) = (orders, history);
            return Err(format!("{problem}; nothing was changed"));
        }
        info!(address = %request.address, state = ?request.state, ?names, "dns: ordered");
        self.stale = true;
        Ok(names)
    }
}

/// Whether this node may hold names that it shares; not known before the agent has said anything.
fn able(status: &Status) -> Option<bool> {
    (!status.node.is_empty()).then_some(!status.disabled)
}

/// Each change has a line, unless there are many at once.
fn log(changes: &[Change]) {
    for Change { address, check, turn, reason, .. } in changes.iter().take(LOGGED) {
        info!(reason, "dns: {address} by {}: {turn:?}", check.as_deref().unwrap_or_default());
    }
    if let Some(more) = changes.len().checked_sub(LOGGED).filter(|more| *more > 0) {
        info!("dns: {more} more changed at the same time; see `lb dns history`");
    }
}

/// The time in milliseconds since 1970.
fn now_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}
