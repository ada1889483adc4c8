//! The task that takes part in the election.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::{Found, LeaderConfig, LeaderStatus, Term};
use crate::etcd::{Etcd, EtcdError, decode, encode, number};

/// Takes part until it is dropped. The key then stays until the lease ends.
pub struct Election {
    status: watch::Receiver<LeaderStatus>,
    _task: JoinSet<()>,
}

impl Election {
    /// Starts; `node` is what others are told, and `able` whether this node may lead, once it is known.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(config: &LeaderConfig, node: String, able: watch::Receiver<Option<bool>>) -> Self {
        let (publish, status) = watch::channel(LeaderStatus::default());
        let task = Task {
            etcd: Etcd::with_patience(config.urls.clone(), config.patience()),
            config: config.clone(),
            node,
            lease: None,
            term: Term::default(),
            publish,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(able));
        Election { status, _task: tasks }
    }

    /// Who leads, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<LeaderStatus> {
        self.status.clone()
    }
}

struct Task {
    etcd: Etcd,
    config: LeaderConfig,
    node: String,
    /// Id of our lease, as etcd writes it.
    lease: Option<String>,
    term: Term,
    publish: watch::Sender<LeaderStatus>,
}

impl Task {
    async fn run(mut self, mut able: watch::Receiver<Option<bool>>) {
        if able.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let asked = Instant::now();
            let may = able.borrow_and_update().unwrap_or(false);
            // Who leads says so no longer than that, whatever becomes of the question.
            let end = self.term.until(asked).unwrap_or(asked + self.config.lease);
            let turn =
                async { if may { self.turn().await.map(Some) } else { self.resign().await.map(|()| None) } };
            match timeout_at(end.into(), turn).await {
                Ok(Ok(Some(found))) => self.term.found(&self.node, found, asked),
                Ok(Ok(None)) => self.term.resigned(),
                Ok(Err(error)) => self.term.failed(error.to_string(), Instant::now()),
                Err(_) => self.term.failed("etcd does not answer in time".into(), Instant::now()),
            }
            self.tell();
            let next = asked + self.config.turn();
            loop {
                // A lease that ends before the next turn ends when it ends.
                let end = self.term.until(Instant::now()).filter(|until| *until < next);
                tokio::select! {
                    () = sleep_until(TokioInstant::from_std(end.unwrap_or(next))) => {}
                    changed = able.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    }
                }
                self.tell();
                if end.is_none() {
                    break;
                }
            }
        }
    }

    /// Renews or makes our lease, and takes the key if it is free.
    async fn turn(&mut self) -> Result<Found, EtcdError> {
        let (id, lasts) = match self.renewed().await? {
            Some(renewed) => renewed,
            None => self.granted().await?,
        };
        let key = encode(&self.config.key);
        let is_free = json!({"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"});
        let take = json!({"request_put": {"key": key, "value": encode(&self.node), "lease": id}});
        let look = json!({"request_range": {"key": key}});
        let answer = self
            .etcd
            .ask("/v3/kv/txn", &json!({"compare": [is_free], "success": [take], "failure": [look]}))
            .await?;
        if answer["succeeded"].as_bool() == Some(true) {
            return Ok(Found::Ours(lasts));
        }
        let holder = &answer["responses"][0]["response_range"]["kvs"][0];
        if holder["lease"].as_str() == Some(&id) {
            return Ok(Found::Ours(lasts));
        }
        let name = decode(&holder["value"]).unwrap_or_default();
        Ok(Found::Other(String::from_utf8_lossy(&name).into_owned()))
    }

    /// Our lease and how long it lasts from now on; `None` if there is none any more.
    async fn renewed(&mut self) -> Result<Option<(String, Duration)>, EtcdError> {
        let Some(id) = &self.lease else { return Ok(None) };
        let answer = self.etcd.ask("/v3/lease/keepalive", &json!({ "ID": id })).await?;
        let lasts = seconds(&answer["result"]["TTL"]);
        let renewed = (!lasts.is_zero()).then(|| (id.clone(), lasts));
        if renewed.is_none() {
            self.lease = None;
        }
        Ok(renewed)
    }

    async fn granted(&mut self) -> Result<(String, Duration), EtcdError> {
        let lasts = self.config.lease.as_secs().to_string();
        let answer = self.etcd.ask("/v3/lease/grant", &json!({ "TTL": lasts })).await?;
        let id = answer["ID"].as_str().ok_or_else(|| self.etcd.refused("it granted no lease"))?.to_owned();
        self.lease = Some(id.clone());
        Ok((id, seconds(&answer["TTL"])))
    }

    /// Ends our lease, and with it goes the key.
    async fn resign(&mut self) -> Result<(), EtcdError> {
        if let Some(id) = self.lease.take() {
            // What is not said may take until the lease ends.
            self.term.resigned();
            self.tell();
            self.etcd.ask("/v3/lease/revoke", &json!({ "ID": id })).await?;
        }
        Ok(())
    }

    fn tell(&self) {
        let status = self.term.status(Instant::now());
        self.publish.send_if_modified(|before| {
            if *before == status {
                return false;
            }
            if before.leads != status.leads {
                let leader = status.leader.as_deref().unwrap_or("not known");
                info!(
                    leader,
                    "dns: {}",
                    if status.leads { "this node leads" } else { "this node does not lead any more" }
                );
            }
            if let Some(error) = status.error.as_ref().filter(|_| before.error != status.error) {
                warn!(error, "dns: the leader cannot be elected");
            }
            *before = status;
            true
        });
    }
}

fn seconds(ttl: &Value) -> Duration {
    Duration::from_secs(number(ttl))
}
