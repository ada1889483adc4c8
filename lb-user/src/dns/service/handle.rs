//! The way to ask the name server, and to order.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::Told;
use crate::dns::history::Change;
use crate::dns::leaving;
use crate::dns::observers::observing::Document;
use crate::dns::server::Server;
use crate::dns::snapshot::Snapshot;
use crate::dns::status::{DnsStatus, OrderRequest};

/// The way to ask and to order.
#[derive(Clone)]
pub struct Handle {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) server: Arc<Server>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) told: watch::Receiver<Told>,
    pub(super) sightings: Document,
    pub(super) leaving: leaving::Document,
}

/// What the task is asked.
pub(super) enum Command {
    /// To be carried out; the names that it is about.
    Order(OrderRequest, Reply<Vec<String>>),
    /// What has changed of this address or name; of all without one.
    History(Option<String>, Reply<Vec<Change>>),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, String>>;

impl Handle {
    /// All that answers are made from.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// What the server does.
    pub fn status(&self) -> DnsStatus {
        DnsStatus::of(&self.snapshot(), &self.told.borrow(), &self.server)
    }

    /// What the own probes say, for other observers.
    pub fn sightings(&self) -> Document {
        self.sightings.clone()
    }

    /// Where VIPs that leave are still answered, for the nodes that they leave.
    pub fn leaving(&self) -> leaving::Document {
        self.leaving.clone()
    }

    /// Has an order of the operator carried out; says which names it is about.
    pub async fn order(&self, request: OrderRequest) -> Result<Vec<String>, String> {
        self.ask(|reply| Command::Order(request, reply)).await
    }

    /// What has changed of an address, or of a name with members; of all members without one. The oldest first.
    pub async fn history(&self, of: Option<String>) -> Result<Vec<Change>, String> {
        self.ask(|reply| Command::History(of, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, String> {
        let ending = || "the agent is ending; ask again when it has started".to_owned();
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}
