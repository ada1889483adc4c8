//! VIPs that leave in sequence ([`crate::leave`]): the file, the name servers, the packets, and how far all are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::changed;
use crate::agent::kernel_thread::KernelHandle;
use crate::config::Config;
use crate::leave;
use crate::leave::order::{Reading, look};
use crate::leave::sequence::{Counted, Facts, Sequences, Stage, Totals, next};
use crate::leave::status::{LeavingStatus, statuses};
use crate::leave::word::Leaving;
use crate::peers::{Followers, PeersView};
use crate::vip::Vip;
use crate::watched::Watched;

/// How often packets are counted while VIPs leave.
const COUNT: Duration = Duration::from_secs(1);

/// All VIPs that leave, and what is known of them.
pub(super) struct Leaver {
    config: leave::Config,
    file: Watched<Reading>,
    reading: watch::Receiver<Reading>,
    followers: Followers<Leaving>,
    words: watch::Receiver<PeersView<Leaving>>,
    counting: watch::Sender<bool>,
    counted: watch::Receiver<Option<Counted>>,
    sequences: Sequences,
    /// The VIPs of this node that are to leave.
    ordered: BTreeSet<Vip>,
    problems: Vec<String>,
    /// Holds the task that counts; dropping it aborts the task.
    _task: JoinSet<()>,
}

impl Leaver {
    /// Follows file and name servers. Must be called within a Tokio runtime.
    pub fn start(config: &leave::Config, instance: u64, kernel: Option<&KernelHandle>) -> Self {
        let file = Watched::start(&config.file, Reading::default(), look);
        let mut followers = Followers::new(instance);
        followers.update(&config.name_servers);
        let (counting, is_counting) = watch::channel(false);
        let (publish, counted) = watch::channel(None);
        let mut tasks = JoinSet::new();
        if let Some(kernel) = kernel {
            tasks.spawn(count(kernel.clone(), is_counting, publish));
        }
        Leaver {
            config: config.clone(),
            reading: file.value(),
            file,
            words: followers.view(),
            followers,
            counting,
            counted,
            sequences: Sequences::new(),
            ordered: BTreeSet::new(),
            problems: Vec::new(),
            _task: tasks,
        }
    }

    /// Follows another configuration.
    pub fn update(&mut self, config: &leave::Config) {
        if config.file != self.config.file {
            self.file = Watched::start(&config.file, Reading::default(), look);
            self.reading = self.file.value();
        }
        self.followers.update(&config.name_servers);
        self.config = config.clone();
    }

    /// Returns when something is new; while VIPs leave, once a second as well.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = changed(&mut self.reading) => {}
            () = changed(&mut self.words) => {}
            () = changed(&mut self.counted) => {}
        }
    }

    /// Finds how far all are now.
    pub fn look(&mut self, config: &Config, announced: &dyn Fn(Vip) -> Option<bool>) {
        let vips: BTreeSet<Vip> = if config.director.is_some() {
            config.model.vips().into_iter().collect()
        } else {
            BTreeSet::new()
        };
        let reading = self.reading.borrow_and_update();
        let order = &reading.order;
        let unknown = |vip| {
            format!("{}: {vip} is no VIP of this node; correct or remove it", self.config.file.display())
        };
        self.problems = reading.problems.iter().cloned().chain(order.unknown(&vips).map(unknown)).collect();
        self.ordered = vips.iter().copied().filter(|vip| order.of(*vip).is_some()).collect();
        let now = next(
            &self.sequences,
            &Facts {
                node: &config.node,
                config: &self.config,
                order,
                vips: &vips,
                announced,
                words: &self.words.borrow_and_update(),
                counted: self.counted.borrow_and_update().as_ref(),
                now: Instant::now(),
            },
        );
        log(&self.sequences, &now);
        let pending = |sequence: &leave::sequence::Sequence| sequence.stage != Stage::Withdrawn;
        let counting = now.values().any(pending);
        self.counting.send_if_modified(|was| std::mem::replace(was, counting) != counting);
        self.sequences = now;
    }

    /// Of some it is not known yet whether they are announced.
    pub fn is_undecided(&self) -> bool {
        self.ordered.iter().any(|vip| !self.sequences.contains_key(vip))
    }

    /// VIPs that are to leave, however far they are.
    pub fn ordered(&self) -> &BTreeSet<Vip> {
        &self.ordered
    }

    /// VIPs that are not to be announced.
    pub fn withdrawn(&self) -> BTreeSet<Vip> {
        let gone = self.sequences.iter().filter(|(_, sequence)| sequence.stage == Stage::Withdrawn);
        gone.map(|(vip, _)| *vip).collect()
    }

    /// What is to be said of all.
    pub fn statuses(&self, announced: impl Fn(Vip) -> bool) -> Vec<LeavingStatus> {
        statuses(&self.sequences, announced)
    }

    /// What is wrong with the order.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

fn log(before: &Sequences, now: &Sequences) {
    for (vip, sequence) in now {
        let was = before.get(vip);
        if was.map(|was| was.stage) != Some(sequence.stage) {
            info!(%vip, stage = ?sequence.stage, "leaves");
        }
        if sequence.stuck && !was.is_some_and(|was| was.stuck) {
            warn!(%vip, stage = ?sequence.stage, "does not leave: {}", sequence.waits_for.join("; "));
        }
    }
    for vip in before.keys().filter(|vip| !now.contains_key(vip)) {
        info!(%vip, "returns");
    }
}

/// Counts packets while that is wanted.
async fn count(
    kernel: KernelHandle,
    mut wanted: watch::Receiver<bool>,
    publish: watch::Sender<Option<Counted>>,
) {
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        let mut before = None;
        while *wanted.borrow() {
            let packets = kernel.readings().await.map_or_else(
                |error| {
                    warn!("packets: {error}");
                    BTreeMap::new()
                },
                |readings| {
                    let mut packets: BTreeMap<Vip, u64> = BTreeMap::new();
                    for traffic in readings.services {
                        *packets.entry(traffic.service.vip).or_default() += traffic.packets;
                    }
                    packets
                },
            );
            let now = Totals { at: Instant::now(), packets };
            publish.send_replace(Some(Counted::between(before.as_ref(), &now)));
            before = Some(now);
            sleep(COUNT).await;
        }
    }
}
