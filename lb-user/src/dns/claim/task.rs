//! The task of one machine that may hold a name.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use futures::future::join_all;
use hickory_proto::rr::LowerName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{ClaimConfig, Claimant, Holder, Step, records};
use crate::dns::sink::{Changes, Place, Records, SinkError, Store};
use crate::health::{self, ProbeTarget};
use crate::model::Family;

/// What is to be said of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The name.
    pub name: String,
    /// This machine holds it.
    pub held: bool,
    /// Who does, in words.
    pub holder: String,
    /// What keeps this machine from looking or taking.
    pub error: Option<String>,
}

/// Looks after a name until it is dropped; the name then stays as it is.
pub struct Claim {
    status: watch::Receiver<ClaimStatus>,
    _task: JoinSet<()>,
}

impl Claim {
    /// Starts. While `able` is false this machine takes the name from nobody, and gives it up if it holds it; while it is
    /// not known, nobody looks.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(
        name: LowerName,
        config: ClaimConfig,
        store: Box<dyn Store>,
        able: watch::Receiver<Option<bool>>,
    ) -> Self {
        let place = |family| Place { zone: config.zone.clone(), name: name.clone(), family };
        let places = Family::ALL.map(place);
        let claimant =
            Claimant::new(records(places.clone(), &config.addresses, config.ttl), config.check.fall);
        let (publish, status) = watch::channel(told(&name, &claimant, None));
        let mut tasks = JoinSet::new();
        tasks.spawn(Task { name, places: places.into(), config, store, claimant, publish }.run(able));
        Claim { status, _task: tasks }
    }

    /// Who holds the name, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<ClaimStatus> {
        self.status.clone()
    }
}

struct Task {
    name: LowerName,
    places: BTreeSet<Place>,
    config: ClaimConfig,
    store: Box<dyn Store>,
    claimant: Claimant,
    publish: watch::Sender<ClaimStatus>,
}

impl Task {
    async fn run(mut self, mut able: watch::Receiver<Option<bool>>) {
        if able.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut looks = interval(self.config.check.interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                changed = able.changed() => if changed.is_err() { return },
            }
            let may = able.borrow_and_update().unwrap_or(false);
            let error = self.look(may).await.err();
            if error.is_some() {
                self.claimant.blind();
            }
            self.tell(error.map(|error| error.to_string()));
        }
    }

    async fn look(&mut self, may: bool) -> Result<(), SinkError> {
        // Whoever does not serve itself must not take the name, or keep it.
        let able = may && self.answers(&self.config.addresses).await;
        let seen = self.store.read(&self.places).await?;
        let mut step = self.claimant.looked(&seen, able);
        if let Step::Check(addresses) = &step {
            let answers = self.answers(addresses).await;
            step = self.claimant.checked(answers);
        }
        let next = match &step {
            Step::Take(records) => records.clone(),
            Step::Release => Records::new(),
            Step::Wait | Step::Check(_) => return Ok(()),
        };
        let places = self.places.iter();
        let changes: Changes = places.map(|place| (place.clone(), next.get(place).cloned())).collect();
        // Who was faster is seen at the next look.
        if self.store.swap(&seen, &changes).await? {
            self.claimant.done(&step);
        }
        Ok(())
    }

    /// Whether all these addresses pass the check.
    async fn answers(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        let check = &self.config.check;
        let name = self.name.to_string();
        let host = self.config.host.as_deref().unwrap_or_else(|| name.trim_end_matches('.'));
        let probes = addresses.iter().map(|address| async {
            let address = SocketAddr::new(*address, check.port);
            let target = ProbeTarget { address, mark: None, host_header: host.to_owned() };
            health::probe(check, &target).await
        });
        join_all(probes).await.iter().all(Result::is_ok)
    }

    fn tell(&self, error: Option<String>) {
        let status = told(&self.name, &self.claimant, error);
        self.publish.send_if_modified(|before| {
            if *before == status {
                return false;
            }
            match &status.error {
                Some(error) => warn!(name = status.name, error, "cannot look after the name"),
                None => info!(name = status.name, holder = status.holder, "holder"),
            }
            *before = status;
            true
        });
    }
}

fn told(name: &LowerName, claimant: &Claimant, error: Option<String>) -> ClaimStatus {
    let list = |addresses: &BTreeSet<IpAddr>| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        addresses.join(", ")
    };
    let holder = match claimant.holder() {
        Holder::Unknown => "not known".into(),
        Holder::Nobody => "nobody".into(),
        Holder::Us => "this node".into(),
        Holder::Other(addresses, 0) => list(addresses),
        Holder::Other(addresses, failures) => format!("{} ({failures} checks failed)", list(addresses)),
    };
    ClaimStatus { name: name.to_string(), held: *claimant.holder() == Holder::Us, holder, error }
}
