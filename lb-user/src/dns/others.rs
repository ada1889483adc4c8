//! The sinks and claims of a configuration, started and ended as it changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hickory_proto::rr::{LowerName, Name};
use tokio::sync::watch;

use super::Config;
use super::claim::ClaimConfig;
use super::claim::task::{Claim, ClaimStatus};
use super::everybody::{chosen, states, wanted};
use super::leader::task::Election;
use super::leader::{LeaderConfig, LeaderStatus};
use super::sink::keeper::Timing;
use super::sink::server::{Kind, Way};
use super::sink::task::Sink;
use super::sink::{Addresses, Place, SinkConfig, SinkStatus, Wanted, Wish};
use super::snapshot::Snapshot;
use crate::model::Family;

/// Servers of others that are kept now.
#[derive(Default)]
pub struct Others {
    sinks: BTreeMap<String, Kept>,
    claims: BTreeMap<Name, Held>,
    election: Option<Elected>,
}

struct Kept {
    config: SinkConfig,
    want: Want,
    sink: Sink,
}

/// What a sink is told.
enum Want {
    Records(watch::Sender<Option<Wanted>>),
    States(watch::Sender<Option<Wanted<IpAddr, bool>>>),
}

struct Elected {
    config: LeaderConfig,
    able: watch::Sender<Option<bool>>,
    _election: Election,
    status: watch::Receiver<LeaderStatus>,
}

struct Held {
    config: (ClaimConfig, SinkConfig),
    able: watch::Sender<Option<bool>>,
    claim: Claim,
}

impl Others {
    /// Starts what is new and ends what is gone; records of what is gone stay. `node` is what this node calls itself. Must be
    /// called within a Tokio runtime.
    pub fn go_by(&mut self, config: &Config, node: &str, able: Option<bool>) {
        self.election.take_if(|elected| config.leader.as_ref() != Some(&elected.config));
        if let (Some(leader), None) = (&config.leader, &self.election) {
            let (sender, may) = watch::channel(able);
            let election = Election::start(leader, node.to_owned(), may);
            let status = election.status();
            self.election =
                Some(Elected { config: leader.clone(), able: sender, _election: election, status });
        }
        self.sinks.retain(|name, kept| config.sinks.get(name) == Some(&kept.config));
        for (name, sink) in &config.sinks {
            self.sinks
                .entry(name.clone())
                .or_insert_with(|| Kept::start(name, sink, memory(&config.state, name)));
        }
        let all = config.claims.iter().filter_map(|(name, claim)| {
            let sink = config.sinks.get(&claim.sink)?;
            Some((name, (claim.clone(), sink.clone())))
        });
        let all: BTreeMap<_, _> = all.collect();
        self.claims.retain(|name, held| all.get(name) == Some(&held.config));
        for (name, config) in all {
            if self.claims.contains_key(name) {
                continue;
            }
            // Names are held in turn on servers that several nodes write to, and those hold records.
            let Way::Records(store) = config.1.server.open() else { continue };
            let (sender, may) = watch::channel(able);
            let claim = Claim::start(LowerName::new(name), config.0.clone(), store, may);
            self.claims.insert(name.clone(), Held { config, able: sender, claim });
        }
    }

    /// Has the sinks hold what names have now, or leaves them to the node that leads.
    pub fn publish(&self, snapshot: &Snapshot) {
        let leads = self.election.as_ref().is_none_or(|elected| elected.status.borrow().leads);
        for (name, kept) in &self.sinks {
            let kind = kept.config.server.kind();
            if !leads && kind.is_shared() {
                kept.want.stand_by();
                continue;
            }
            // A new file would lack all that is not known yet.
            if snapshot.starting && kind == Kind::File {
                continue;
            }
            let names = chosen(snapshot, kept.config.zones.as_ref());
            match &kept.want {
                Want::Records(want) => {
                    let mut wanted = wanted(snapshot, &names);
                    let claims = self.claims.values().map(|held| &held.config.0);
                    wanted.extend(claims.filter(|claim| claim.sink == *name).flat_map(own));
                    tell(want, wanted);
                }
                Want::States(want) => tell(want, states(&names)),
            }
        }
    }

    /// Whether this node may hold names and lead, if it is known.
    pub fn set_able(&self, able: Option<bool>) {
        let elected = self.election.iter().map(|elected| &elected.able);
        for told in self.claims.values().map(|held| &held.able).chain(elected) {
            told.send_if_modified(|before| std::mem::replace(before, able) != able);
        }
    }

    /// Returns when another node leads, or when this one does: sinks are to be published to anew.
    pub async fn election(&mut self) {
        match &mut self.election {
            Some(elected) => drop(elected.status.changed().await),
            None => std::future::pending().await,
        }
    }

    /// Who writes to the sinks, if that is elected.
    pub fn leader(&self) -> Option<LeaderStatus> {
        self.election.as_ref().map(|elected| elected.status.borrow().clone())
    }

    /// What the sinks do.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.sinks.values().map(|kept| kept.sink.status().borrow().clone()).collect()
    }

    /// Who holds the names that are held in turn.
    pub fn claims(&self) -> Vec<ClaimStatus> {
        self.claims.values().map(|held| held.claim.status().borrow().clone()).collect()
    }
}

impl Kept {
    fn start(name: &str, config: &SinkConfig, memory: PathBuf) -> Self {
        let (timing, kind) = (Timing::new(config.full_sync), config.server.kind());
        let (want, sink) = match config.server.open() {
            Way::Records(store) => {
                let (want, wanted) = watch::channel(None);
                (Want::Records(want), Sink::start(name.into(), kind, store, timing, memory, wanted))
            }
            Way::States(store) => {
                let (want, wanted) = watch::channel(None);
                (Want::States(want), Sink::start(name.into(), kind, store, timing, memory, wanted))
            }
        };
        Kept { config: config.clone(), want, sink }
    }
}

impl Want {
    /// Another node tells the server.
    fn stand_by(&self) {
        fn nothing<T>(want: &watch::Sender<Option<T>>) {
            want.send_if_modified(|before| before.take().is_some());
        }
        match self {
            Want::Records(want) => nothing(want),
            Want::States(want) => nothing(want),
        }
    }
}

fn tell<T: PartialEq>(want: &watch::Sender<Option<T>>, wanted: T) {
    want.send_if_modified(|before| {
        let differs = before.as_ref() != Some(&wanted);
        *before = Some(wanted);
        differs
    });
}

/// The name that has this node's addresses in any case.
fn own(claim: &ClaimConfig) -> Wanted {
    let Some(own) = &claim.own else { return Wanted::new() };
    let wish = |family| {
        let all = claim.addresses.iter().copied().filter(|address| Family::of(*address) == family);
        let addresses = Addresses { ttl: claim.ttl, all: all.collect() };
        let wish = if addresses.all.is_empty() { Wish::Nothing } else { Wish::Value(addresses) };
        (Place { zone: claim.zone.clone(), name: own.clone(), family }, wish)
    };
    Family::ALL.map(wish).into()
}

/// The file in which a sink remembers where it wrote, beside the state of the name server.
fn memory(state: &Path, sink: &str) -> PathBuf {
    let stem = state.file_stem().unwrap_or_default().to_string_lossy();
    state.with_file_name(format!("{stem}-sink-{sink}.json"))
}
