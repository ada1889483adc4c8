//! Plays a scenario: load, events at their times, and what was seen.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::file::{Event, Scenario};
use super::restore;
use super::stage::Stage;
use super::verdict::{EventSeen, Report, Seen, judge};
use crate::load::handle::{Heard, Load};
use crate::load::{LoadArgs, Order, Said};
use crate::progress::Progress;

/// Connections of a scenario that says nothing about it.
const CONNECTIONS: u32 = 200;
/// Longest wait, after the end, for what runs in the background.
const BACKGROUND: Duration = Duration::from_secs(60);

/// Plays `scenario` on the lab of `stage`. `connections` overrides its own number.
pub fn play(
    scenario: &Scenario,
    stage: &Stage,
    connections: Option<u32>,
    progress: &Progress,
) -> Result<Report> {
    check(scenario, stage)?;
    let args = LoadArgs {
        connections: connections.or(scenario.connections).unwrap_or(CONNECTIONS),
        addresses: stage.topology.spec.user_addresses,
        requests: scenario.requests,
        think: 3000,
        patience: u64::try_from(scenario.patience.as_millis()).context("patience")?,
    };
    let load = Load::start(&stage.paths, &args, &stage.lb())?;
    let opened = await_opened(&load, &args)?;
    progress.line(&format!("{}: {opened} connections are open", scenario.name));
    thread::sleep(scenario.warmup);
    let mut seen = Seen::default();
    let mut heard = load.heard();
    let start = Instant::now();
    let rescued = events(scenario, stage, &load, start, progress, &mut seen)?;
    load.tell(&Order::Finish)?;
    heard.extend(await_end(&load, scenario.patience)?);
    count_rescued(&mut seen, &rescued, restore::rescued(stage));
    for line in heard {
        note(&mut seen, start, line);
    }
    let affinity = stage.topology.spec.affinity.word();
    Ok(judge(&scenario.name, affinity, args.connections, &scenario.expect, &seen))
}

/// Before anything happens: whether the lab has what the timeline is about.
fn check(scenario: &Scenario, stage: &Stage) -> Result<()> {
    let problems: Vec<String> = scenario
        .timeline
        .iter()
        .filter_map(|event| {
            let problem = event.action.problem(&stage.topology)?;
            Some(format!("{}: `{}`: {problem}", scenario.name, event.text))
        })
        .collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn await_opened(load: &Load, args: &LoadArgs) -> Result<u32> {
    // Each may take its patience several times; all of them at once.
    let patience =
        Duration::from_millis(args.patience * 3) + Duration::from_secs(u64::from(args.connections) / 100);
    let deadline = Instant::now() + patience;
    loop {
        match load.hear(deadline.saturating_duration_since(Instant::now()))?.1 {
            Said::Opened { opened: 0, problems } => {
                bail!("no connection could be opened: {}; is the lab ready? lab status", problems.join("; "))
            }
            Said::Opened { opened, .. } => return Ok(opened),
            Said::Done(_) => bail!("the load ended early"),
            // What happens before the timeline is of no interest unless it lasts.
            Said::Broken(_) | Said::Failed(_) => {}
        }
    }
}

/// Makes all events happen, each in a thread of its own so that none delays the next. Returns the hosts' counts of rescued
/// packets at each.
fn events(
    scenario: &Scenario,
    stage: &Stage,
    load: &Load,
    start: Instant,
    progress: &Progress,
    seen: &mut Seen,
) -> Result<Vec<u64>> {
    let mut rescued = vec![restore::rescued(stage)];
    seen.events.push(EventSeen { action: "(load alone)".to_owned(), ..EventSeen::default() });
    thread::scope(|scope| {
        let (done, finished) = channel();
        for (index, event) in scenario.timeline.iter().enumerate() {
            sleep_until(start + event.at);
            rescued.push(restore::rescued(stage));
            let at = start.elapsed();
            for node in
                event.action.kills().iter().filter_map(|nodes| nodes.find(&stage.topology).ok()).flatten()
            {
                seen.killed.push((at, node.name.clone()));
            }
            progress.line(&format!("{}: {:.1} s: {}", scenario.name, at.as_secs_f64(), event.text));
            seen.events.push(EventSeen { at, action: event.text.clone(), ..EventSeen::default() });
            let done = done.clone();
            scope.spawn(move || {
                let result = stage.perform(event, load);
                // Nobody listens any more when the run has given up.
                let _ = done.send((index + 1, result));
            });
        }
        sleep_until(start + scenario.duration);
        let deadline = Instant::now() + BACKGROUND;
        for _ in &scenario.timeline {
            let Ok((index, result)) =
                finished.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            else {
                seen.problems.push(format!("actions still run {} s after the end", BACKGROUND.as_secs()));
                break;
            };
            record(&mut seen.events[index], &scenario.timeline[index - 1], result);
        }
    });
    Ok(rescued)
}

fn record(event: &mut EventSeen, wanted: &Event, result: Result<String>) {
    match result {
        Ok(output) => event.output = output,
        Err(error) => event.problem = Some(format!("{error:#}")),
    }
    debug_assert_eq!(event.action, wanted.text);
}

fn sleep_until(when: Instant) {
    thread::sleep(when.saturating_duration_since(Instant::now()));
}

/// Every connection has its patience to prove itself, and the last request before it as well.
fn await_end(load: &Load, patience: Duration) -> Result<Vec<Heard>> {
    let deadline = Instant::now() + 2 * patience + Duration::from_secs(30);
    let mut heard = Vec::new();
    loop {
        let line = load.hear(deadline.saturating_duration_since(Instant::now()))?;
        let is_last = matches!(line.1, Said::Done(_));
        heard.push(line);
        if is_last {
            return Ok(heard);
        }
    }
}

/// Each event has what was counted from it to the next. A host that was away counts from nothing again.
fn count_rescued(seen: &mut Seen, before: &[u64], end: u64) {
    let after = before.iter().skip(1).copied().chain([end]);
    for ((event, before), after) in seen.events.iter_mut().zip(before).zip(after) {
        event.rescued = after.saturating_sub(*before);
    }
}

fn note(seen: &mut Seen, start: Instant, (when, said): Heard) {
    let at = when.saturating_duration_since(start);
    match said {
        Said::Broken(broken) => seen.broken.push((at, broken)),
        Said::Failed(failure) => seen.failed.push((at, failure)),
        Said::Done(summary) => seen.summary = summary,
        Said::Opened { .. } => {}
    }
}
