//! The task that keeps a daemon at what is wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Announcements, BgpConfig, BgpError, BgpStatus, Bird, Driver, Gobgp, Prefix, Speaker};

/// How often the daemon is looked at. A daemon that restarted has its routes back after at most this time.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps a daemon at what is wanted until it is dropped; the routes then stay as they are.
pub struct Announcer {
    status: watch::Receiver<BgpStatus>,
    withdrawals: mpsc::Sender<oneshot::Sender<Result<(), BgpError>>>,
    /// Holds the task; dropping it aborts the task.
    _task: JoinSet<()>,
}

impl Announcer {
    /// Starts. While `want` is `None` the daemon is looked at and nothing is changed: at the start of an agent that
    /// means that the routes of its predecessor stay.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(config: &BgpConfig, want: watch::Receiver<Option<Announcements>>) -> Self {
        match &config.driver {
            Driver::Bird { include, control } => Self::with(Bird::new(include, control), "bird", want),
            Driver::Gobgp { api } => Self::with(Gobgp::new(api), "gobgp", want),
        }
    }

    /// Starts with any speaker.
    pub fn with<S: Speaker + 'static>(
        speaker: S,
        driver: &'static str,
        want: watch::Receiver<Option<Announcements>>,
    ) -> Self {
        let (publish, status) = watch::channel(BgpStatus {
            driver,
            up: false,
            announced: BTreeSet::new(),
            reason: Some("starting".into()),
        });
        let (withdrawals, requests) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(Task { speaker, want, publish }.run(requests));
        Self { status, withdrawals, _task: tasks }
    }

    /// What the daemon does, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<BgpStatus> {
        self.status.clone()
    }

    /// Withdraws every route of ours and ends.
    pub async fn withdraw_all(self) -> Result<(), BgpError> {
        let (reply, answer) = oneshot::channel();
        let gone = || BgpError::Away {
            daemon: "the announcing task",
            place: "this process".into(),
            cause: "it ended early".into(),
        };
        self.withdrawals.send(reply).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Withdraws every route of ours without an [`Announcer`].
pub async fn withdraw_all(config: &BgpConfig) -> Result<(), BgpError> {
    let nothing = Announcements::default();
    match &config.driver {
        Driver::Bird { include, control } => Bird::new(include, control).announce(&nothing).await,
        Driver::Gobgp { api } => Gobgp::new(api).announce(&nothing).await,
    }
}

struct Task<S> {
    speaker: S,
    want: watch::Receiver<Option<Announcements>>,
    publish: watch::Sender<BgpStatus>,
}

impl<S: Speaker> Task<S> {
    async fn run(mut self, mut withdrawals: mpsc::Receiver<oneshot::Sender<Result<(), BgpError>>>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the daemon was last made to hold; `None` once it is not known to hold it.
        let mut done: Option<Announcements> = None;
        let mut want_ended = false;
        loop {
            tokio::select! {
                biased;
                Some(reply) = withdrawals.recv() => {
                    let result = self.speaker.announce(&Announcements::default()).await;
                    let _ = reply.send(result);
                    return;
                }
                changed = self.want.changed(), if !want_ended => want_ended = changed.is_err(),
                _ = looks.tick() => {}
            }
            let want = self.want.borrow_and_update().clone();
            let result = self.reconcile(want.as_ref(), &mut done).await;
            self.report(result);
        }
    }

    async fn reconcile(
        &mut self,
        want: Option<&Announcements>,
        done: &mut Option<Announcements>,
    ) -> Result<BTreeSet<Prefix>, BgpError> {
        let Some(want) = want else {
            return self.speaker.announced().await;
        };
        if done.as_ref() == Some(want) {
            let have = self.speaker.announced().await.inspect_err(|_| *done = None)?;
            if have == want.routes {
                return Ok(have);
            }
            warn!("the BGP daemon lost or gained routes of ours; restoring them");
        }
        *done = None;
        self.speaker.announce(want).await?;
        *done = Some(want.clone());
        info!(routes = %list(&want.routes), "announced");
        Ok(want.routes.clone())
    }

    fn report(&self, result: Result<BTreeSet<Prefix>, BgpError>) {
        self.publish.send_if_modified(|status| {
            let before = status.clone();
            match result {
                Ok(announced) => {
                    status.up = true;
                    status.announced = announced;
                    status.reason = None;
                }
                Err(error) => {
                    status.up = false;
                    let reason = error.to_string();
                    if status.reason.as_ref() != Some(&reason) {
                        warn!("{reason}");
                    }
                    status.reason = Some(reason);
                }
            }
            *status != before
        });
    }
}

fn list(routes: &BTreeSet<Prefix>) -> String {
    routes.iter().map(Prefix::to_string).collect::<Vec<_>>().join(" ")
}
