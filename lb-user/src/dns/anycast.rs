//! Addresses that several name servers share, announced by BGP while the one of this node answers there: this agent, or a
//! server beside it that a sink keeps.
//!
//! The server is asked by UDP, at the very address, for the SOA of the first zone. Two good answers in a row and the
//! address is announced, two bad ones and it is withdrawn: resolvers then reach the next server that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::Config;
use crate::config;

/// How often each address is asked, and how long an answer may take.
const EVERY: Duration = Duration::from_secs(1);
/// Where name servers of others listen.
const PORT: u16 = 53;
/// So many results in a row change the judgement.
const IN_A_ROW: u32 = 2;

/// An address that is shared, as `lb dns status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnycastStatus {
    /// The address.
    pub address: IpAddr,
    /// The server of this node answers there.
    pub answers: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// What became of the questions at one address. Pure.
#[derive(Clone, Debug, Default)]
struct Judge {
    answers: bool,
    /// Results in a row that say otherwise.
    against: u32,
    reason: Option<String>,
}

impl Judge {
    fn take(&mut self, result: Result<(), String>) {
        self.against = if result.is_ok() == self.answers { 0 } else { self.against + 1 };
        if self.against == IN_A_ROW {
            (self.answers, self.against) = (!self.answers, 0);
        }
        self.reason = result.err();
    }

    fn status(&self, address: IpAddr) -> AnycastStatus {
        let waits = || "asked for the first time".to_owned();
        let reason = self.reason.clone().or_else(|| (!self.answers).then(waits));
        AnycastStatus { address, answers: self.answers, reason: reason.filter(|_| !self.answers) }
    }
}

/// Asks the server at its shared addresses until it is dropped.
pub struct Anycast {
    status: watch::Receiver<Option<Vec<AnycastStatus>>>,
    _task: JoinSet<()>,
}

impl Anycast {
    /// Asks at the addresses of the configuration that is in force. Must be called within a Tokio runtime.
    pub fn start(configs: watch::Receiver<Arc<config::Config>>) -> Self {
        let (publish, status) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(ask_all(configs, publish));
        Anycast { status, _task: tasks }
    }

    /// Where the server answers, now and whenever that changes; `None` until it has been asked often enough to say.
    pub fn status(&self) -> watch::Receiver<Option<Vec<AnycastStatus>>> {
        self.status.clone()
    }
}

async fn ask_all(
    configs: watch::Receiver<Arc<config::Config>>,
    publish: watch::Sender<Option<Vec<AnycastStatus>>>,
) {
    let mut judges: BTreeMap<IpAddr, Judge> = BTreeMap::new();
    let (mut rounds, mut ticks) = (0, interval(EVERY));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let questions = configs.borrow().dns.as_ref().map(questions).unwrap_or_default();
        let asked: BTreeSet<IpAddr> = questions.iter().map(|(address, _)| address.ip()).collect();
        judges.retain(|address, _| asked.contains(address));
        let asking = questions.iter().map(|(address, zone)| ask(*address, zone));
        for ((address, _), result) in questions.iter().zip(join_all(asking).await) {
            judges.entry(address.ip()).or_default().take(result);
        }
        rounds = IN_A_ROW.min(rounds + 1);
        if rounds == IN_A_ROW {
            let now: Vec<_> = judges.iter().map(|(address, judge)| judge.status(*address)).collect();
            publish.send_if_modified(|before| {
                log(before.as_deref().unwrap_or_default(), &now);
                before.replace(now.clone()).as_ref() != Some(&now)
            });
        }
    }
}

/// Where is asked, and for which zone.
fn questions(config: &Config) -> Vec<(SocketAddr, Name)> {
    let Some(zone) = config.zones.first() else { return Vec::new() };
    let at = |address: &IpAddr| {
        let own = config.listen.iter().find(|listen| listen.ip() == *address);
        own.copied().unwrap_or(SocketAddr::new(*address, PORT))
    };
    config.anycast.iter().map(|address| (at(address), zone.apex.clone())).collect()
}

async fn ask(server: SocketAddr, zone: &Name) -> Result<(), String> {
    let asked = timeout(EVERY, exchange(server, zone)).await;
    match asked.map_err(|_| format!("no answer within {EVERY:?}"))? {
        Ok(answer) => judge(&answer),
        Err(error) => Err(error.to_string()),
    }
}

/// A zone's own server has its SOA, whatever its names wait for.
fn judge(answer: &Message) -> Result<(), String> {
    match answer.metadata.response_code {
        ResponseCode::NoError if answer.metadata.authoritative => Ok(()),
        ResponseCode::NoError => Err("answered without authority".into()),
        code => Err(format!("answered {code}")),
    }
}

async fn exchange(server: SocketAddr, zone: &Name) -> anyhow::Result<Message> {
    // From the same address: one that this node does not have must not be answered by another node.
    let socket = UdpSocket::bind((server.ip(), 0)).await?;
    socket.connect(server).await?;
    let mut question = Message::new(super::server::seed() as u16, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(zone.clone(), RecordType::SOA));
    socket.send(&question.to_vec()?).await?;
    let mut bytes = [0; 4096];
    loop {
        let length = socket.recv(&mut bytes).await?;
        let answer = Message::from_vec(&bytes[..length])?;
        if answer.metadata.id == question.metadata.id && answer.metadata.message_type == MessageType::Response
        {
            return Ok(answer);
        }
    }
}

fn log(before: &[AnycastStatus], now: &[AnycastStatus]) {
    for status in now {
        let did = before.iter().any(|before| before.address == status.address && before.answers);
        let address = status.address;
        match (did, status.answers) {
            (false, true) => info!(%address, "dns: answers at a shared address"),
            (true, false) => {
                let reason = status.reason.as_deref().unwrap_or_default();
                warn!(%address, reason, "dns: no answers at a shared address");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_results_in_a_row_change_the_judgement() {
        let mut judge = Judge::default();
        let mut after = |results: &[bool]| {
            for good in results {
                judge.take(if *good { Ok(()) } else { Err("refused".into()) });
            }
            judge.answers
        };
        assert!(!after(&[true, false, true]));
        assert!(after(&[true]));
        assert!(after(&[false, true, false]));
        assert!(!after(&[false]));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_told_so() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let result = ask(silent.local_addr().unwrap(), &Name::root()).await;
        assert_eq!(result, Err("no answer within 1s".into()));
    }
}
