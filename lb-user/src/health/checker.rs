//! Runs the probes of a plan and publishes what they find.
//!
//! Tasks: one *driver*, owned by the [`Checker`], which holds every machine and is the only one to touch them; and per
//! probe one *prober*, owned by the driver, which probes, sends the result and waits. Dropping the [`Checker`] aborts
//! the driver, and with it all probers.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{info, warn};

use super::{Change, CheckKind, HealthView, HostHealth, Machine, Plan, Probe, ProbeError, Through};
use crate::model::HostId;

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
            hosts: Vec::new(),
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
    hosts: Vec<HostId>,
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
                    self.take(report);
                    // A burst of results is one change of the view.
                    while let Ok(report) = results.try_recv() {
                        self.take(report);
                    }
                }
                Some(_) = self.probers.join_next() => continue,
            }
            self.publish();
        }
    }

    fn adopt(&mut self, plan: Plan) {
        let mut before = std::mem::take(&mut self.probes);
        for (host, probes) in &plan {
            for probe in probes {
                let key = Key {
                    host: host.clone(),
                    kind: probe.check.kind.clone(),
                    through: probe.check.through,
                    address: probe.target.address,
                };
                let running = self.follow(&key, probe, before.remove(&key));
                self.probes.insert(key, running);
            }
        }
        for gone in before.into_values() {
            gone.prober.abort();
        }
        self.hosts = plan.into_keys().collect();
        self.publish();
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
            None => Machine::new(rise, fall, self.initial.get(&key.host).copied()),
        };
        self.epoch += 1;
        let prober = prober(key.clone(), probe.clone(), self.epoch, self.results.clone());
        let prober = self.probers.spawn(prober);
        Running { probe: probe.clone(), machine, obstacle: None, epoch: self.epoch, prober }
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
            Err(error) => Err(error.to_string()),
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

    fn publish(&self) {
        let view: HealthView = self.hosts.iter().map(|host| (host.clone(), self.health(host))).collect();
        self.publish.send_if_modified(|published| {
            let changed = *published != view;
            *published = view;
            changed
        });
    }

    fn health(&self, host: &HostId) -> HostHealth {
        let from = Key {
            host: host.clone(),
            kind: CheckKind::Http { path: String::new(), status: Vec::new() },
            through: Through::Address,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let probes: Vec<&Running> =
            self.probes.range(from..).take_while(|(key, _)| key.host == *host).map(|(_, r)| r).collect();
        let healthy = probes.iter().all(|r| r.machine.healthy());
        let found_bad = probes.iter().any(|r| r.machine.known() && !r.machine.healthy());
        let known = found_bad || probes.iter().all(|r| r.machine.known());
        let reason = probes
            .iter()
            .find_map(|r| r.machine.reason())
            .or_else(|| probes.iter().find_map(|r| r.obstacle.as_deref()))
            .map(str::to_owned);
        HostHealth { healthy, known, reason }
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
        let result = super::probe(&probe.check, &probe.target).await;
        if results.send(Report { key: key.clone(), epoch, result }).is_err() {
            return;
        }
        ticks.tick().await;
    }
}
