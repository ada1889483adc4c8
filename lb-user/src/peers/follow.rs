//! Follows the reports of other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::PeerUrl;
use super::client::{Answer, Client, PeerError};
use super::report::{Report, Told};
use super::view::{Contact, Peer, PeersView};

/// How long a node may keep a question while it has nothing new to say.
const WAIT: Duration = Duration::from_secs(3);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(4500);
/// How long a report counts without contact.
pub const STALE: Duration = Duration::from_secs(5);
/// Pauses after failures grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How long a node that found itself under an address does not ask there again.
const MYSELF: Duration = Duration::from_secs(60);

/// Follows nodes until it is dropped.
pub struct Followers<T = Report> {
    instance: u64,
    view: watch::Sender<PeersView<T>>,
    followed: BTreeMap<PeerUrl, AbortHandle>,
    tasks: JoinSet<()>,
}

impl<T: Told> Followers<T> {
    /// Follows nobody yet; `instance` is what this agent's own reports say.
    pub fn new(instance: u64) -> Self {
        Followers {
            instance,
            view: watch::Sender::default(),
            followed: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// What is known, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<PeersView<T>> {
        self.view.subscribe()
    }

    /// Follows exactly these. Must be called within a Tokio runtime.
    pub fn update(&mut self, nodes: &BTreeSet<PeerUrl>) {
        self.followed.retain(|url, task| {
            let stays = nodes.contains(url);
            if !stays {
                task.abort();
            }
            stays
        });
        for url in nodes {
            if !self.followed.contains_key(url) {
                let peer = Peer { report: None, contact: Contact::New };
                self.view.send_modify(|view| drop(view.insert(url.clone(), peer)));
                let follower = Follower::new(url.clone(), self.instance, self.view.clone());
                self.followed.insert(url.clone(), self.tasks.spawn(follower.run()));
            }
        }
        self.view.send_if_modified(|view| {
            let all = view.len();
            view.retain(|url, _| nodes.contains(url));
            view.len() != all
        });
    }
}

struct Follower<T> {
    url: PeerUrl,
    instance: u64,
    view: watch::Sender<PeersView<T>>,
    client: Client,
    etag: Option<String>,
    /// It is this very agent.
    myself: bool,
    /// When it last answered; before that, when it was first asked.
    heard: Instant,
}

impl<T: Told> Follower<T> {
    fn new(url: PeerUrl, instance: u64, view: watch::Sender<PeersView<T>>) -> Self {
        Follower {
            client: Client::new(url.clone()),
            url,
            instance,
            view,
            etag: None,
            myself: false,
            heard: Instant::now(),
        }
    }

    async fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let path = match &self.etag {
                Some(tag) => format!("{}?after={}&wait={}", T::PATH, tag.trim_matches('"'), WAIT.as_secs()),
                None => T::PATH.to_owned(),
            };
            let asked = self.client.get(&path, PATIENCE).await;
            match asked.and_then(|answer| self.take(&answer)) {
                Ok(rest) => {
                    pause = PAUSES.0;
                    sleep(rest).await;
                }
                Err(error) => {
                    self.lost(&error);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Takes an answer; how long to rest before the next question.
    fn take(&mut self, answer: &Answer) -> Result<Duration, PeerError> {
        if answer.status == StatusCode::NOT_MODIFIED {
            self.heard = Instant::now();
            self.change(|peer| {
                if peer.contact != Contact::Myself {
                    peer.contact = Contact::Fresh;
                }
            });
            return Ok(self.rest());
        }
        let report: T = answer.json()?;
        self.heard = Instant::now();
        self.etag.clone_from(&answer.etag);
        self.myself = report.instance() == self.instance;
        let myself = self.myself;
        let report = Arc::new(report);
        self.change(|peer| {
            peer.contact = if myself { Contact::Myself } else { Contact::Fresh };
            peer.report = Some(Arc::clone(&report));
        });
        Ok(self.rest())
    }

    /// How long not to ask again.
    fn rest(&self) -> Duration {
        match (self.myself, &self.etag) {
            (true, _) => MYSELF,
            // Without a tag there are no long polls, and the next question must not come at once.
            (false, None) => WAIT,
            (false, Some(_)) => Duration::ZERO,
        }
    }

    fn lost(&mut self, error: &PeerError) {
        // A report from before may have come from another process by now.
        self.etag = None;
        let since = self.heard;
        if since.elapsed() >= STALE || self.is_new() {
            self.change(|peer| peer.contact = Contact::Lost { since, reason: error.to_string() });
        }
    }

    fn is_new(&self) -> bool {
        self.view.borrow().get(&self.url).is_some_and(|peer| peer.report.is_none())
    }

    fn change(&self, change: impl FnOnce(&mut Peer<T>)) {
        let url = &self.url;
        self.view.send_if_modified(|view| {
            // An aborted follower may be at its last words.
            let Some(peer) = view.get_mut(url) else { return false };
            let before = peer.clone();
            change(peer);
            log(url, &before, peer);
            *peer != before
        });
    }
}

/// Says what operators care about: that a node is reached or not.
fn log<T: Told>(url: &PeerUrl, before: &Peer<T>, now: &Peer<T>) {
    let node = now.report.as_ref().map(|report| report.node().to_owned()).unwrap_or_default();
    match (&before.contact, &now.contact) {
        (Contact::Lost { .. }, Contact::Lost { .. }) | (Contact::Fresh, Contact::Fresh) => {}
        (_, Contact::Lost { reason, .. }) => warn!(%url, node, "peer does not answer: {reason}"),
        (_, Contact::Fresh) => info!(%url, node, "peer answers"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::*;

    #[tokio::test]
    async fn an_agent_that_found_itself_stays_itself_when_nothing_is_new() {
        let url: PeerUrl = "http://192.0.2.1:7400".parse().unwrap();
        let view = watch::Sender::new(PeersView::from([(
            url.clone(),
            Peer::<Report> { report: None, contact: Contact::New },
        )]));
        let mut follower = Follower::new(url.clone(), 7, view.clone());
        let body = serde_json::to_vec(&Report { instance: 7, ..Report::default() }).unwrap();
        let answer = |status, body| Answer { status, etag: Some("\"1\"".into()), body };
        let rest = follower.take(&answer(StatusCode::OK, body.into())).unwrap();
        assert_eq!((rest, &view.borrow()[&url].contact), (MYSELF, &Contact::Myself));
        let rest = follower.take(&answer(StatusCode::NOT_MODIFIED, Bytes::new())).unwrap();
        assert_eq!((rest, &view.borrow()[&url].contact), (MYSELF, &Contact::Myself));
    }
}
