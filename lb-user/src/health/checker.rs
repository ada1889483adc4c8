//! Runs the probes of a plan and publishes what they find.
//!
//! Tasks: one *driver*, owned by the [`Checker`], which holds every machine and is the only one to touch them; and per
//! probe one *prober*, owned by the driver, which probes, sends the result and waits. Dropping the [`Checker`] aborts
//! the driver, and with it all probers.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::mem;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{info, warn};

use super::{Change, CheckKind, Failure, HealthView, HostHealth, Machine, Plan, Probe, ProbeError, Through};
use crate::descriptors;
use crate::model::HostId;

/// Places for probes: a probe has a descriptor until its answer or timeout, so thousands of silent hosts would leave none for
/// anything else. A probe that finds no place waits, and is late; that says nothing about its host.
static UNDER_WAY: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(descriptors::share(2).min(Semaphore::MAX_PERMITS)));

/// Runs the probes of a plan until it is dropped.
pub struct Checker {
    plans: mpsc::UnboundedSender<Plan>,
    view: watch::Receiver<HealthView>,
    /// Holds the driver; dropping it aborts the task.
    _driver: JoinSet<()>,
}

impl Checker {
    /// Starts probing at once. Hosts named in `initial` go on from that state; of others the first result decides.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(plan: Plan, initial: BTreeMap<HostId, bool>) -> Self {
        let (plans, new_plans) = mpsc::unbounded_channel();
        let (publish, view) = watch::channel(HealthView::new());
        let (results, from_probers) = mpsc::unbounded_channel();
        let mut driver = Driver {
            initial,
            probes: BTreeMap::new(),
            hosts: BTreeMap::new(),
            epoch: 0,
            results,
            probers: JoinSet::new(),
            publish,
        };
        driver.adopt(plan);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(new_plans, from_probers));
        Self { plans, view, _driver: tasks }
    }

    /// Takes a new plan. What is probed as before keeps its state, also when interval, timeout, thresholds or mark
    /// are new.
    pub fn update(&self, plan: Plan) {
        // The driver ends only with the checker.
        let _ = self.plans.send(plan);
    }

    /// What is known of the hosts, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<HealthView> {
        self.view.clone()
    }
}

/// What makes a probe the same as before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    host: HostId,
    kind: CheckKind,
    through: Through,
    address: SocketAddr,
}

struct Running {
    probe: Probe,
    machine: Machine,
    /// Why this machine cannot probe, if it cannot.
    obstacle: Option<String>,
    /// Which prober results are accepted from; an aborted one may have sent its last.
    epoch: u64,
    prober: AbortHandle,
}

struct Report {
    key: Key,
    epoch: u64,
    result: Result<(), ProbeError>,
}

struct Driver {
    initial: BTreeMap<HostId, bool>,
    probes: BTreeMap<Key, Running>,
    /// Every host of the plan, with its probes.
    hosts: BTreeMap<HostId, Vec<Key>>,
    epoch: u64,
    results: mpsc::UnboundedSender<Report>,
    probers: JoinSet<()>,
    publish: watch::Sender<HealthView>,
}

impl Driver {
    async fn run(
        mut self,
        mut plans: mpsc::UnboundedReceiver<Plan>,
        mut results: mpsc::UnboundedReceiver<Report>,
    ) {
        loop {
            tokio::select! {
                biased;
                plan = plans.recv() => match plan {
                    Some(plan) => self.adopt(plan),
                    None => return,
                },
                Some(report) = results.recv() => {
                    // A burst of results is one change of the view.
                    let mut hosts = BTreeSet::from([report.key.host.clone()]);
                    self.take(report);
                    while let Ok(report) = results.try_recv() {
                        hosts.insert(report.key.host.clone());
                        self.take(report);
                    }
                    self.publish(&hosts);
                }
                // Aborted probers.
                Some(_) = self.probers.join_next() => {}
            }
        }
    }

    fn adopt(&mut self, plan: Plan) {
        let mut before = mem::take(&mut self.probes);
        self.hosts.clear();
        for (host, probes) in &plan {
            let mut keys = Vec::new();
            for probe in probes {
                let key = Key {
                    host: host.clone(),
                    kind: probe.check.kind.clone(),
                    through: probe.check.through,
                    address: probe.target.address,
                };
                // The same check written twice is one.
                if !self.probes.contains_key(&key) {
                    let running = self.follow(&key, probe, before.remove(&key));
                    self.probes.insert(key.clone(), running);
                    keys.push(key);
                }
            }
            self.hosts.insert(host.clone(), keys);
        }
        for gone in before.into_values() {
            gone.prober.abort();
        }
        // A host that leaves and returns later is a new one.
        self.initial.retain(|host, _| plan.contains_key(host));
        self.publish.send_if_modified(|view| {
            let all = view.len();
            view.retain(|host, _| plan.contains_key(host));
            view.len() != all
        });
        self.publish(plan.keys());
    }

    /// The running probe that does what `probe` says, with the state that `before` had.
    fn follow(&mut self, key: &Key, probe: &Probe, before: Option<Running>) -> Running {
        let (rise, fall) = (probe.check.rise, probe.check.fall);
        let machine = match before {
            Some(same) if same.probe == *probe => return same,
            Some(mut changed) => {
                changed.prober.abort();
                changed.machine.set_thresholds(rise, fall);
                changed.machine
            }
            None => Machine::new(rise, fall, self.state_of(&key.host)),
        };
        self.epoch += 1;
        let prober = prober(key.clone(), probe.clone(), self.epoch, self.results.clone());
        let prober = self.probers.spawn(prober);
        Running { probe: probe.clone(), machine, obstacle: None, epoch: self.epoch, prober }
    }

    /// The state that a new probe of a host goes on from: a check that is added to a healthy host must not make it
    /// unhealthy before it has failed.
    fn state_of(&self, host: &HostId) -> Option<bool> {
        match self.publish.borrow().get(host) {
            Some(health) if health.known => Some(health.healthy),
            _ => self.initial.get(host).copied(),
        }
    }

    fn take(&mut self, report: Report) {
        let Some(running) = self.probes.get_mut(&report.key).filter(|r| r.epoch == report.epoch) else {
            return;
        };
        let host = &report.key.host;
        let result = match report.result {
            Err(error) if error.is_local() => {
                let obstacle = error.to_string();
                if running.obstacle.as_ref() != Some(&obstacle) {
                    warn!(%host, "{obstacle}; the host keeps its state");
                }
                running.obstacle = Some(obstacle);
                return;
            }
            Err(error) => Err(Failure { reason: error.to_string(), silent: error.is_silence() }),
            Ok(()) => Ok(()),
        };
        running.obstacle = None;
        match running.machine.result(result) {
            Some(Change::Up) => info!(%host, address = %report.key.address, "check passes"),
            Some(Change::Down) => {
                let reason = running.machine.reason().unwrap_or_default();
                warn!(%host, address = %report.key.address, "check fails: {reason}");
            }
            None => {}
        }
    }

    /// Publishes what is known of these hosts, if that is news.
    fn publish<'a>(&self, hosts: impl IntoIterator<Item = &'a HostId>) {
        self.publish.send_if_modified(|view| {
            let mut news = false;
            for host in hosts {
                let Some(keys) = self.hosts.get(host) else { continue };
                let health = self.health(keys);
                if view.get(host) != Some(&health) {
                    view.insert(host.clone(), health);
                    news = true;
                }
            }
            news
        });
    }

    fn health(&self, keys: &[Key]) -> HostHealth {
        let probes: Vec<&Running> = keys.iter().filter_map(|key| self.probes.get(key)).collect();
        let healthy = probes.iter().all(|r| r.machine.healthy());
        let found_bad = probes.iter().any(|r| r.machine.known() && !r.machine.healthy());
        let known = found_bad || probes.iter().all(|r| r.machine.known());
        let reason = probes
            .iter()
            .find_map(|r| r.machine.reason())
            .or_else(|| probes.iter().find_map(|r| r.obstacle.as_deref()))
            .map(str::to_owned);
        // A probe that cannot be sent says nothing.
        let mut sent = probes.iter().filter(|r| r.obstacle.is_none()).peekable();
        let silent = !healthy && sent.peek().is_some() && sent.all(|r| r.machine.silent());
        HostHealth { healthy, known, silent, reason }
    }
}

/// Probes at once, then after a part of the interval that differs from probe to probe, then at each interval.
async fn prober(key: Key, probe: Probe, epoch: u64, results: mpsc::UnboundedSender<Report>) {
    let interval = probe.check.interval.max(Duration::from_millis(1));
    let mut hasher = SipHasher13::new();
    key.hash(&mut hasher);
    let share = (hasher.finish() >> 32) as f64 / f64::from(u32::MAX);
    let mut ticks = interval_at(Instant::now() + interval.mul_f64(share), interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let result = {
            let _place = UNDER_WAY.acquire().await;
            super::probe(&probe.check, &probe.target).await
        };
        if results.send(Report { key: key.clone(), epoch, result }).is_err() {
            return;
        }
        ticks.tick().await;
    }
}

#[cfg(test)]
mod tests;
