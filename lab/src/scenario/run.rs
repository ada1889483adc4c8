//! Plays a scenario: load, events at their times, and what was seen.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::file::Scenario;
use super::flavour::Flavour;
use super::rescues::Rescues;
use super::stage::Stage;
use super::verdict::{EventSeen, Report, Seen, judge};
use crate::load::handle::{Heard, Load};
use crate::load::mix::Mix;
use crate::load::{LoadArgs, Order, Said};
use crate::progress::Progress;
use crate::spec::DirectorKind;
use crate::topology::Kind;

/// Connections of a scenario that says nothing about it.
const CONNECTIONS: u32 = 200;
/// Longest wait, after the end, for what runs in the background.
const BACKGROUND: Duration = Duration::from_secs(120);
/// How long agents get to tell their counts between events, and at the end.
const GLANCE: Duration = Duration::from_millis(300);
const COUNTING: Duration = Duration::from_secs(3);

/// Plays `scenario` on the lab of `stage`. `connections` overrides its own number.
pub fn play(
    scenario: &Scenario,
    stage: &Stage,
    connections: Option<u32>,
    progress: &Progress,
) -> Result<Report> {
    check(scenario, stage)?;
    let mix = load_of(scenario, stage);
    let args = LoadArgs {
        connections: connections.or(scenario.connections).unwrap_or(CONNECTIONS),
        addresses: stage.topology.spec.user_addresses,
        requests: scenario.requests,
        think: 3000,
        patience: u64::try_from(scenario.patience.as_millis()).context("patience")?,
        mix,
    };
    let load = Load::start(&stage.paths, &args, &stage.lb())?;
    let mut heard = Vec::new();
    let opened = await_opened(&load, &args, &mut heard)?;
    progress.line(&format!("{}: {opened} connections and flows are open", scenario.name));
    thread::sleep(scenario.warmup);
    heard.extend(load.heard());
    let start = Instant::now();
    let play = Play { scenario, stage, load: &load, rescues: Rescues::default(), start, progress };
    let mut seen = play.timeline();
    load.tell(&Order::Finish)?;
    heard.extend(await_end(&load, scenario.patience)?);
    if let Some(last) = seen.events.last_mut() {
        last.rescued = play.rescued(COUNTING) - last.rescued;
    }
    for line in heard {
        note(&mut seen, start, line);
    }
    let flavour = Flavour::of(&stage.topology.spec).word();
    Ok(judge(&scenario.name, flavour, (args.connections, &mix), &scenario.expect, &seen))
}

/// keepalived's directors have no UDP service.
fn load_of(scenario: &Scenario, stage: &Stage) -> Mix {
    match stage.topology.spec.director {
        DirectorKind::Xdp => scenario.load,
        DirectorKind::Ipvs => Mix { udp: 0, ..scenario.load },
    }
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

/// What is heard meanwhile counts as well: it breaks before anything has happened.
fn await_opened(load: &Load, args: &LoadArgs, heard: &mut Vec<Heard>) -> Result<u32> {
    // Each may take its patience several times; all of them at once.
    let patience = Duration::from_millis(args.patience * 3)
        + Duration::from_secs(u64::from(args.connections + args.mix.total()) / 100);
    let deadline = Instant::now() + patience;
    loop {
        let (when, said) = load.hear(deadline.saturating_duration_since(Instant::now()))?;
        match said {
            Said::Opened { opened: 0, problems } => {
                bail!("no connection could be opened: {}; is the lab ready? lab status", problems.join("; "))
            }
            Said::Opened { opened, .. } => return Ok(opened),
            Said::Done(_) => bail!("the load ended early"),
            said @ (Said::Broken(_) | Said::Failed(_)) => heard.push((when, said)),
        }
    }
}

/// A scenario on its lab, at work.
struct Play<'a> {
    scenario: &'a Scenario,
    stage: &'a Stage,
    load: &'a Load,
    rescues: Rescues,
    start: Instant,
    progress: &'a Progress,
}

impl Play<'_> {
    /// Makes all events happen, each in a thread of its own so that none delays the next.
    fn timeline(&self) -> Seen {
        let mut seen = Seen::default();
        self.begin(&mut seen, "(load alone)");
        thread::scope(|scope| {
            let (done, finished) = channel();
            for (index, event) in self.scenario.timeline.iter().enumerate() {
                sleep_until(self.start + event.at);
                let at = self.begin(&mut seen, &event.text);
                let killed = event.action.kills().map(|nodes| nodes.find(&self.stage.topology));
                for node in killed.and_then(Result::ok).into_iter().flatten() {
                    seen.killed.push((at, node.name.clone()));
                }
                let done = done.clone();
                scope.spawn(move || {
                    let result = self.stage.perform(event, self.load);
                    // Nobody listens any more when the run has given up.
                    let _ = done.send((index + 1, result));
                });
            }
            sleep_until(self.start + self.scenario.duration);
            let deadline = Instant::now() + BACKGROUND;
            for _ in &self.scenario.timeline {
                let patience = deadline.saturating_duration_since(Instant::now());
                let Ok((index, result)) = finished.recv_timeout(patience) else {
                    let waited = BACKGROUND.as_secs();
                    seen.problems.push(format!("actions still run {waited} s after the end"));
                    break;
                };
                record(&mut seen.events[index], result);
            }
        });
        seen
    }

    /// Notes that something begins now, and when that is. Until the next begins, its count of rescued packets is where
    /// it started from.
    fn begin(&self, seen: &mut Seen, action: &str) -> Duration {
        // Agents that are stopped do not answer, and the timeline does not wait for them.
        let rescued = self.rescued(GLANCE);
        if let Some(last) = seen.events.last_mut() {
            last.rescued = rescued - last.rescued;
        }
        let at = self.start.elapsed();
        self.progress.line(&format!("{}: {:.1} s: {action}", self.scenario.name, at.as_secs_f64()));
        seen.events.push(EventSeen { at, action: action.to_owned(), rescued, ..EventSeen::default() });
        at
    }

    fn rescued(&self, patience: Duration) -> u64 {
        let hosts = self.stage.topology.of(Kind::L7Host).map(|node| node.name.as_str());
        self.rescues.sum(&self.stage.paths, &hosts.collect::<Vec<_>>(), patience)
    }
}

fn record(event: &mut EventSeen, result: Result<String>) {
    match result {
        Ok(output) => event.output = output,
        Err(error) => event.problem = Some(format!("{error:#}")),
    }
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

fn note(seen: &mut Seen, start: Instant, (when, said): Heard) {
    let at = when.saturating_duration_since(start);
    match said {
        Said::Broken(broken) => seen.broken.push((at, broken)),
        Said::Failed(failure) => seen.failed.push((at, failure)),
        Said::Done(summary) => seen.summary = summary,
        Said::Opened { .. } => {}
    }
}
