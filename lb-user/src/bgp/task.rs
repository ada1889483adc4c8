//! The task that keeps a daemon at what is wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Announcements, BgpConfig, BgpError, BgpStatus, Bird, Driver, Gobgp, Prefix, STARTING, Speaker};

/// How often the daemon is looked at. A daemon that restarted has its routes back after at most this time.
const LOOK: Duration = Duration::from_millis(500);
/// How long to leave alone a daemon that refused: the same again would only fill its log.
const RETRY: Duration = Duration::from_secs(1);

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
            reason: Some(STARTING.into()),
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
            if matches!(result, Err(BgpError::Refused { .. } | BgpError::NotLoaded { .. })) {
                looks.reset_after(RETRY);
            }
            self.report(result);
        }
    }

    async fn reconcile(
        &mut self,
        want: Option<&Announcements>,
        done: &mut Option<Announcements>,
    ) -> Result<(), BgpError> {
        let Some(want) = want else {
            return self.look().await.map(drop);
        };
        if done.as_ref() == Some(want) {
            let have = self.look().await.inspect_err(|_| *done = None)?;
            if have == want.routes {
                return Ok(());
            }
            warn!(want = %list(&want.routes), have = %list(&have), "the BGP daemon lost routes of ours or has more");
        }
        *done = None;
        if let Err(error) = self.speaker.announce(want).await {
            // Part of it may have been done.
            let _ = self.look().await;
            return Err(error);
        }
        info!(routes = %list(&want.routes), "announced");
        *done = Some(want.clone());
        self.publish(|status| status.announced.clone_from(&want.routes));
        Ok(())
    }

    async fn look(&mut self) -> Result<BTreeSet<Prefix>, BgpError> {
        let have = self.speaker.announced().await?;
        self.publish(|status| status.announced.clone_from(&have));
        Ok(have)
    }

    fn report(&self, result: Result<(), BgpError>) {
        let reason = result.err().map(|error| error.to_string());
        self.publish(|status| {
            match &reason {
                Some(reason) if status.reason.as_ref() != Some(reason) => warn!("{reason}"),
                None if !status.up => info!("the BGP daemon is up"),
                _ => {}
            }
            status.up = reason.is_none();
            status.reason = reason;
        });
    }

    fn publish(&self, change: impl FnOnce(&mut BgpStatus)) {
        self.publish.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}

fn list(routes: &BTreeSet<Prefix>) -> String {
    routes.iter().map(Prefix::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use lb_test_support::{PATIENCE, check, wait_until_async};
    use tokio::time::{Instant, timeout};

    use super::*;

    /// A daemon that does as it is told, unless it is away.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<FakeState>>);

    #[derive(Default)]
    struct FakeState {
        away: bool,
        holds: BTreeSet<Prefix>,
        calls: Vec<Announcements>,
    }

    impl Fake {
        fn with<T>(&self, use_it: impl FnOnce(&mut FakeState) -> T) -> T {
            use_it(&mut self.0.lock().unwrap())
        }

        fn there(&self) -> Result<(), BgpError> {
            match self.with(|state| state.away) {
                true => Err(BgpError::Away { daemon: "fake", place: "here".into(), cause: "told so".into() }),
                false => Ok(()),
            }
        }
    }

    impl Speaker for Fake {
        async fn announce(&mut self, want: &Announcements) -> Result<(), BgpError> {
            self.there()?;
            self.with(|state| {
                state.calls.push(want.clone());
                state.holds = want.routes.clone();
            });
            Ok(())
        }

        async fn announced(&mut self) -> Result<BTreeSet<Prefix>, BgpError> {
            self.there()?;
            Ok(self.with(|state| state.holds.clone()))
        }
    }

    fn want(routes: &[&str]) -> Option<Announcements> {
        let routes = routes.iter().map(|route| route.parse().unwrap()).collect();
        Some(Announcements { routes, ..Default::default() })
    }

    async fn wait(announcer: &Announcer, met: impl FnMut(&BgpStatus) -> bool) -> BgpStatus {
        let mut status = announcer.status();
        let waited = timeout(PATIENCE, status.wait_for(met)).await;
        waited.expect("status in time").unwrap().clone()
    }

    #[tokio::test]
    async fn nothing_is_changed_until_something_is_wanted() {
        let fake = Fake::default();
        fake.with(|state| state.holds = want(&["198.51.100.1/32"]).unwrap().routes);
        let (_want, wants) = watch::channel(None);
        let announcer = Announcer::with(fake.clone(), "fake", wants);
        let status = wait(&announcer, |status| status.up).await;
        assert_eq!(status.announced, want(&["198.51.100.1/32"]).unwrap().routes);
        assert!(fake.with(|state| state.calls.is_empty()));
    }

    #[tokio::test]
    async fn a_wish_is_applied_at_once_and_only_once() {
        let fake = Fake::default();
        let (wish, wants) = watch::channel(None);
        let announcer = Announcer::with(fake.clone(), "fake", wants);
        wait(&announcer, |status| status.up).await;
        let mut waited = Vec::new();
        for routes in [&["198.51.100.1/32"] as &[_], &["198.51.100.1/32", "2001:db8::1/128"], &[]] {
            let asked = Instant::now();
            wish.send_replace(want(routes));
            wait(&announcer, |status| status.announced.len() == routes.len()).await;
            waited.push(asked.elapsed());
        }
        // Once, at least: a busy machine may be late.
        assert!(waited.iter().any(|waited| *waited < LOOK / 2), "{waited:?}");
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(fake.with(|state| state.calls.len()), 3);
    }

    #[tokio::test]
    async fn a_restarted_daemon_gets_its_routes_back() {
        let fake = Fake::default();
        let (_wish, wants) = watch::channel(want(&["198.51.100.1/32"]));
        let announcer = Announcer::with(fake.clone(), "fake", wants);
        wait(&announcer, |status| status.up).await;
        fake.with(|state| {
            state.away = true;
            state.holds.clear();
        });
        let status = wait(&announcer, |status| !status.up).await;
        assert_eq!(status.reason.unwrap(), "fake does not answer at here: told so; is it running?");
        fake.with(|state| state.away = false);
        wait(&announcer, |status| status.up).await;
        // Too quick to be seen away.
        fake.with(|state| state.holds.clear());
        let routes = want(&["198.51.100.1/32"]).unwrap().routes;
        wait_until_async("the routes are back", PATIENCE, async || {
            fake.with(|state| check(state.holds == routes, format!("{:?}", state.holds)))
        })
        .await;
    }

    #[tokio::test]
    async fn only_the_latest_wish_reaches_a_daemon_that_was_away() {
        let fake = Fake::default();
        fake.with(|state| state.away = true);
        let (wish, wants) = watch::channel(want(&["198.51.100.1/32"]));
        let announcer = Announcer::with(fake.clone(), "fake", wants);
        wait(&announcer, |status| status.reason.as_ref().is_some_and(|r| r != "starting")).await;
        wish.send_replace(want(&["198.51.100.2/32"]));
        wish.send_replace(want(&["198.51.100.3/32"]));
        fake.with(|state| state.away = false);
        wait(&announcer, |status| status.up).await;
        let last = fake.with(|state| state.calls.last().cloned());
        assert_eq!(last, want(&["198.51.100.3/32"]));
    }

    #[tokio::test]
    async fn dropping_leaves_the_routes_and_withdrawing_takes_them() {
        let fake = Fake::default();
        let (_wish, wants) = watch::channel(want(&["198.51.100.1/32"]));
        let announcer = Announcer::with(fake.clone(), "fake", wants.clone());
        wait(&announcer, |status| status.up).await;
        drop(announcer);
        tokio::time::sleep(LOOK).await;
        assert_eq!(fake.with(|state| state.holds.len()), 1);

        let announcer = Announcer::with(fake.clone(), "fake", wants);
        wait(&announcer, |status| status.up).await;
        announcer.withdraw_all().await.unwrap();
        tokio::time::sleep(LOOK).await;
        assert_eq!(fake.with(|state| state.holds.len()), 0);
    }
}
