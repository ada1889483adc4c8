//! New requests all the time, each over a connection of its own.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connection::{ask, connect};
use super::stall::{Late, Waited, tell_gap};
use super::{Cause, Failure, Said, Shared, milliseconds, say, scramble};

/// Asks at the wanted rate until told to finish, then waits for the last answers.
pub async fn all(shared: Rc<Shared>) {
    let mut orders = shared.orders.clone();
    let mut tasks = JoinSet::new();
    if shared.args.requests > 0 {
        let mut ticks = interval(Duration::from_secs(1) / shared.args.requests);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0.. {
            tokio::select! {
                _ = ticks.tick() => { tasks.spawn_local(one(number, shared.clone())); }
                _ = orders.changed() => {}
            }
            // Finished ones are forgotten as others come.
            while tasks.try_join_next().is_some() {}
            if orders.borrow().finish {
                break;
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn one(number: u64, shared: Rc<Shared>) {
    // Other combinations of users and VIPs than the long-lived connections have.
    let (user, vip) = shared.route(scramble(number) >> 1);
    let begun = Instant::now();
    let path = format!("/new/{number}");
    let request = async {
        let mut stream = connect(None, user, vip).await.map_err(|_| Cause::NotConnected)?;
        ask(&mut stream, &path, true).await
    };
    let result = timeout(Duration::from_millis(shared.args.patience), request).await;
    let took = milliseconds(begun.elapsed());
    match result.unwrap_or(Err(Cause::Timeout)) {
        Ok(_) => {
            shared.summary.borrow_mut().ok += 1;
            Late { waited: Waited::Request, user: Some(user.to_string()), vip, took_ms: took }.tell();
            if let Some(gap) = shared.gaps.borrow_mut().answered(vip, shared.start.elapsed()) {
                tell_gap(vip, gap);
            }
            shared.latencies.borrow_mut().push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        Err(cause) => {
            shared.summary.borrow_mut().failed += 1;
            shared.gaps.borrow_mut().failed(vip, begun.into_std() - shared.start);
            say(&Said::Failed(Failure { kind: None, user, vip, cause, asked_ago_ms: took }));
        }
    }
}
