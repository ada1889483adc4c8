//! The task that owns configuration and decisions.

mod announce;
mod configuration;
mod detach;
mod leave;
mod peers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use self::configuration::{reading_of, with_manifest};
pub(crate) use self::detach::detach_without_agent;
use self::leave::Leaver;
use self::peers::Exchange;
pub(super) use self::peers::ExchangeEnds;
use super::dataplane::{Applied, DataplaneError, Kernel, Role, Want};
use super::kernel_thread::{self, KernelHandle};
use super::reload::Changes;
use super::status::{Known, ReloadStatus, Status};
use super::{SETTLE, systemd};
use crate::bgp::{Announcements, Announcer, BgpStatus};
use crate::config::{Config, ConfigErrors};
use crate::desired::{self, Decision, Facts, Paths};
use crate::dns::anycast::AnycastStatus;
use crate::health::{self, Checker, HealthView};
use crate::manifest::{Manifests, Reading};
use crate::model::{HostId, Service};
use crate::peers::Report;
use crate::switch::Switch;
use crate::vip::Vip;

/// How long the announcements of an earlier agent may stand while health is unknown.
const INHERITANCE: Duration = Duration::from_secs(10);
/// How long the kernel is left as it was adopted while paths are unknown.
const PATHS: Duration = Duration::from_secs(2);
/// How long after a problem the kernel is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What others ask of the runner.
pub(super) enum Command {
    /// Read the configuration again; a signal waits for no answer.
    Reload(Option<oneshot::Sender<Result<Changes, ConfigErrors>>>),
    /// Withdraw, then remove programs and pins, then end.
    Detach(oneshot::Sender<Result<(), String>>),
    /// End, and leave all as it is.
    Stop,
}

/// The state of the agent.
pub(super) struct Runner {
    file: PathBuf,
    config: Arc<Config>,
    /// The same, for others to follow.
    configs: watch::Sender<Arc<Config>>,
    kernel: Option<KernelHandle>,
    checker: Option<Checker>,
    announcer: Option<Announcer>,
    switch: Switch,

    health: watch::Receiver<HealthView>,
    paths: watch::Receiver<Paths>,
    bgp: watch::Receiver<BgpStatus>,
    disabled: watch::Receiver<bool>,
    manifests: watch::Sender<Option<Manifests>>,
    reading: watch::Receiver<Reading>,
    /// Why the last reading is not in force although it is good in itself.
    manifest_problem: Option<String>,
    /// Version of the manifest that the kernel treats packets by.
    confirmed: watch::Sender<Option<u64>>,
    exchange: Exchange,
    leaver: Leaver,
    anycast: watch::Receiver<Option<Vec<AnycastStatus>>>,

    /// Hosts whose health was found in the kernel, so that it counts as known.
    adopted: Option<BTreeSet<HostId>>,
    /// Until when the announcements of an earlier agent may stand; `None` once this agent has decided.
    inherited_until: Option<Instant>,
    /// Until when adopted next hops may stand; `None` once the paths have been looked up. To apply before would take
    /// away what packets are being sent by.
    adopted_paths_until: Option<Instant>,
    decision: Decision,
    routes: watch::Sender<Option<Announcements>>,

    /// What the kernel was last asked for.
    asked: Option<Want>,
    applying: Option<oneshot::Receiver<Applied>>,
    applied: Applied,
    /// The kernel is to be asked again although nothing else is wanted.
    again: bool,
    /// When the kernel is asked again because of a problem.
    retry_at: Option<Instant>,
    /// What kernel and checks go by: the configuration but for [`SETTLE`] after a reload that withdraws a VIP, since
    /// routers still send its packets.
    in_force: Arc<Config>,
    in_force_until: Option<Instant>,

    reload: ReloadStatus,
    status: watch::Sender<Arc<Status>>,
    announced_readiness: bool,
}

impl Runner {
    /// Opens the data plane and starts all tasks; nothing is changed yet.
    pub async fn start(
        file: PathBuf,
        config: Config,
        kernel: Arc<dyn Kernel>,
    ) -> Result<Self, DataplaneError> {
        let manifests = config.manifest.as_ref().map(Manifests::start);
        let mut reading = reading_of(manifests.as_ref());
        let first = reading.borrow_and_update().clone();
        let (config, manifest_problem) = match with_manifest(&config, &first, &file) {
            Ok(config) => (config, None),
            Err(errors) => (config, Some(errors.to_string())),
        };
        let config = Arc::new(config);
        let needs_kernel = config.director.is_some() || config.host.is_some();
        let started = match needs_kernel {
            true => Some(kernel_thread::start(kernel, Arc::clone(&config)).await?),
            false => None,
        };
        let (kernel, adopted, paths) = match started {
            Some(started) => (Some(started.handle), started.adopted, started.paths),
            None => (None, None, silent(Paths::new())),
        };
        let initial = adopted.as_ref().map(|adopted| adopted.healthy.clone()).unwrap_or_default();
        let adopted = adopted.map(|adopted| adopted.healthy.into_keys().collect());
        let checker = config.director.as_ref().map(|_| {
            Checker::start(health::plan(&config.model, &config.checks, &Default::default()), initial)
        });
        let health = checker.as_ref().map_or_else(|| silent(HealthView::new()), Checker::view);
        let (routes, wanted_routes) = watch::channel(None);
        let announcer = config.bgp.as_ref().map(|bgp| Announcer::start(bgp, wanted_routes));
        let bgp = announcer.as_ref().map_or_else(|| silent(no_bgp()), Announcer::status);
        let switch = Switch::start(&config.disable_file);
        let exchange = Exchange::start(&config);
        let leaver = Leaver::start(&config.leave, exchange.instance, kernel.as_ref());
        let inherits = |role: bool, time| (adopted.is_some() && role).then(|| Instant::now() + time);
        let runner = Runner {
            adopted_paths_until: inherits(config.director.is_some(), PATHS),
            inherited_until: inherits(announcer.is_some(), INHERITANCE),
            file,
            in_force: Arc::clone(&config),
            configs: watch::Sender::new(Arc::clone(&config)),
            config,
            kernel,
            checker,
            announcer,
            disabled: switch.present(),
            switch,
            health,
            paths,
            bgp,
            manifests: watch::Sender::new(manifests),
            reading,
            manifest_problem,
            confirmed: watch::Sender::default(),
            exchange,
            leaver,
            anycast: silent(None),
            adopted,
            decision: Decision::default(),
            routes,
            asked: None,
            applying: None,
            applied: Applied::default(),
            again: false,
            retry_at: None,
            in_force_until: None,
            reload: ReloadStatus::default(),
            status: watch::Sender::default(),
            announced_readiness: false,
        };
        info!(node = runner.config.node, roles = ?runner.config.roles(), adopted = runner.adopted.is_some(), "started");
        Ok(runner)
    }

    /// The latest status.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// The configuration as it is written, now and after each reload.
    pub fn configs(&self) -> watch::Receiver<Arc<Config>> {
        self.configs.subscribe()
    }

    /// The way to the data plane, on a node that has one.
    pub fn kernel(&self) -> Option<KernelHandle> {
        self.kernel.clone()
    }

    /// The manifest, while the node goes by one.
    pub fn manifests(&self) -> watch::Receiver<Option<Manifests>> {
        self.manifests.subscribe()
    }

    /// The ends by which others hear of this node and it of them.
    pub fn exchange(&self) -> ExchangeEnds {
        self.exchange.ends()
    }

    /// What is to be announced.
    #[cfg(test)]
    pub fn routes(&self) -> watch::Receiver<Option<Announcements>> {
        self.routes.subscribe()
    }

    /// Reacts to everything until it is told to end.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), DataplaneError> {
        loop {
            self.act();
            let wake = [self.retry_at, self.in_force_until, self.inherited_until, self.adopted_paths_until];
            tokio::select! {
                () = changed(&mut self.health) => {}
                () = changed(&mut self.disabled) => {}
                () = changed(&mut self.bgp) => {}
                () = changed(&mut self.exchange.view) => {}
                () = changed(&mut self.anycast) => {}
                () = self.leaver.changed() => {}
                () = changed(&mut self.paths) => self.again = true,
                () = changed(&mut self.reading) => self.take_manifest(),
                applied = answered(&mut self.applying) => self.take(applied?),
                () = until(wake.into_iter().flatten().min()) => self.forget_what_is_past(),
                command = commands.recv() => match command {
                    Some(Command::Reload(reply)) => self.answer_reload(reply),
                    Some(Command::Detach(reply)) => {
                        let result = self.detach().await;
                        let done = result.is_ok();
                        let _ = reply.send(result);
                        if done {
                            // The API's task sends the answer; the agent's end must not overtake it.
                            sleep(Duration::from_millis(100)).await;
                            return Ok(());
                        }
                    }
                    Some(Command::Stop) | None => {
                        self.leave_shared().await;
                        info!("stopping; programs, maps and announcements stay");
                        return Ok(());
                    }
                },
            }
        }
    }

    /// Decides and has it done. Announcements go first: what is withdrawn must not wait for the kernel.
    fn act(&mut self) {
        if self.in_force_until.is_none() && !Arc::ptr_eq(&self.in_force, &self.config) {
            self.in_force = Arc::clone(&self.config);
            self.plan_checks();
        }
        if self.kernel.is_none() {
            // Nothing is left to be done for what is in force.
            self.confirmed.send_replace(self.in_force.manifest_version);
        }
        let health = self.known_health();
        // What comes while something else is looked at would not be told again: the kernel has to have it all the same.
        self.again |= self.paths.has_changed().unwrap_or(false);
        let paths = self.paths.borrow_and_update().clone();
        let disabled = *self.disabled.borrow_and_update();
        let waiting = self.config.waits_for_manifest();
        self.look_who_leaves();
        self.decision = desired::decide(&Facts {
            model: &self.config.model,
            health: &health,
            paths: &paths,
            confirmed: &self.applied.services,
            disabled,
            withdrawn: &self.leaver.withdrawn(),
            inherited: self.inherited_until.is_some(),
            waiting,
        });
        let keeps = waiting && (self.adopted.is_some() || self.asked.is_some());
        if (keeps || self.leaver.is_undecided()) && !disabled {
            // What is announced and served already goes on.
            self.decision.vips = None;
        }
        self.announce();
        self.exchange.judge(self.report(&health));
        self.exchange.sampler.update(&self.in_force, *self.confirmed.borrow());
        self.ask_kernel(&health, &paths);
        self.publish(&health, &paths, disabled);
    }

    /// What the checks say; health found in the kernel counts as known.
    fn known_health(&mut self) -> HealthView {
        let mut health = self.health.borrow_and_update().clone();
        for host in self.adopted.iter().flatten() {
            if let Some(health) = health.get_mut(host) {
                health.known = true;
            }
        }
        health
    }

    fn report(&self, health: &HealthView) -> Report {
        let version = *self.confirmed.borrow();
        let may_edit = self.manifests.borrow().is_some();
        let report = Report::of(&self.in_force, self.exchange.instance, version, &self.applied, health);
        // Without BGP a VIP is somewhere by other means.
        let is_there =
            |vip: &&Vip| self.announcer.is_none() || self.bgp.borrow().announced.contains(&vip.prefix());
        let announced = self.decision.vips.iter().flatten().filter(is_there).copied().collect();
        Report { may_edit, announced, leaving: self.leaver.ordered().clone(), ..report }
    }

    fn ask_kernel(&mut self, health: &HealthView, paths: &Paths) {
        if desired::paths_are_known(&self.in_force.model, paths) {
            self.adopted_paths_until = None;
        }
        let Some(kernel) = &self.kernel else { return };
        if self.applying.is_some() || self.adopted_paths_until.is_some() || self.in_force.waits_for_manifest()
        {
            return;
        }
        let healthy = health.iter().filter(|(_, health)| health.healthy).map(|(host, _)| host.clone());
        let doubts =
            if self.in_force.host.is_some() { self.exchange.doubts.clone() } else { Default::default() };
        let want = Want { config: Arc::clone(&self.in_force), healthy: healthy.collect(), doubts };
        if self.again || self.asked.as_ref() != Some(&want) {
            self.again = false;
            self.applying = Some(kernel.apply(want.clone()));
            self.asked = Some(want);
        }
    }

    fn take(&mut self, applied: Applied) {
        self.applying = None;
        for problem in applied.problems.iter().filter(|problem| !self.applied.problems.contains(problem)) {
            warn!("data plane: {problem}");
        }
        if !applied.problems.is_empty() || applied.services.values().any(Result::is_err) {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        if self.asked.as_ref().is_some_and(|asked| is_done(&asked.config, &applied)) {
            let asked = self.asked.as_ref().and_then(|asked| asked.config.manifest_version);
            self.confirmed.send_if_modified(|confirmed| std::mem::replace(confirmed, asked) != asked);
        }
        let marks_are_new = applied.marks != self.applied.marks;
        self.applied = applied;
        if marks_are_new {
            self.plan_checks();
        }
        if !self.announced_readiness {
            self.announced_readiness = true;
            systemd::notify("READY=1");
        }
    }

    fn plan_checks(&self) {
        if let Some(checker) = &self.checker {
            checker.update(health::plan(&self.in_force.model, &self.in_force.checks, &self.applied.marks));
        }
    }

    fn forget_what_is_past(&mut self) {
        let now = Instant::now();
        let past = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        self.again |= past(&mut self.retry_at);
        if past(&mut self.in_force_until) && self.bgp.borrow().up && self.withdraws(&self.config) {
            // The daemon still announces a VIP that is to go: what serves it stays meanwhile.
            self.in_force_until = Some(now + SETTLE);
        }
        past(&mut self.adopted_paths_until);
        if past(&mut self.inherited_until) {
            warn!("some hosts are still unknown; deciding without them");
        }
    }

    fn publish(&mut self, health: &HealthView, paths: &Paths, disabled: bool) {
        let bgp = self.bgp.borrow_and_update().clone();
        let status = Status::of(&Known {
            config: &self.config,
            health,
            paths,
            applied: &self.applied,
            decision: &self.decision,
            bgp: self.announcer.is_some().then_some(&bgp),
            disabled,
            adopted: self.adopted.is_some(),
            reload: &self.reload,
            manifest: self.manifest_status(),
            doubts: &self.exchange.doubts,
            disagreements: &self.exchange.disagreements,
            leaving: self
                .leaver
                .statuses(|vip| self.announcer.is_some() && bgp.announced.contains(&vip.prefix())),
            leave_problems: self.leaver.problems(),
        });
        self.status.send_if_modified(|last| {
            if **last == status {
                return false;
            }
            if status.ready && !last.ready {
                info!("ready");
            } else if !status.ready && last.reasons != status.reasons {
                info!(reasons = ?status.reasons, "not ready");
            }
            *last = Arc::new(status);
            true
        });
    }
}

/// The kernel treats packets as this configuration says, in every role.
fn is_done(config: &Config, applied: &Applied) -> bool {
    let tables = |service: &Service| applied.tables.contains_key(&(Role::Host, service.pool.clone()));
    applied.services.values().all(Result::is_ok)
        && (config.host.is_none() || config.model.services.values().all(tables))
}

/// A state that never changes.
fn silent<T>(value: T) -> watch::Receiver<T> {
    watch::channel(value).1
}

fn no_bgp() -> BgpStatus {
    BgpStatus { driver: "none", up: false, announced: BTreeSet::new(), reason: None }
}

/// Returns when there is something new; never for one whose sender is gone.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn answered(applying: &mut Option<oneshot::Receiver<Applied>>) -> Result<Applied, DataplaneError> {
    match applying {
        Some(answer) => answer.await.map_err(|_| kernel_thread::ended()),
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
