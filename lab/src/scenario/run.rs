//! Plays a scenario: load, events at their times, and what was seen.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::conditions::{self, Conditions, Machine, Nodes};
use super::file::{Expect, Scenario};
use super::flavour::Flavour;
use super::rescues::Rescues;
use super::stage::Stage;
use super::verdict::{EventSeen, Report, Seen, interrupted, judge};
use crate::interrupt::{self, NOTICE};
use crate::load::handle::{Heard, Load};
use crate::load::mix::{LoadKind, Mix};
use crate::load::{LoadArgs, Order, Said};
use crate::progress::Progress;
use crate::spec::DirectorKind;
use crate::topology::Kind;

/// Connections of a scenario that says nothing about it.
const CONNECTIONS: u32 = 200;
/// Longest wait, after the end, for what runs in the background.
const BACKGROUND: Duration = Duration::from_secs(120);
/// How long agents get to tell their counts between events, which must not be late, and at the end.
const GLANCE: Duration = Duration::from_millis(300);
const COUNTING: Duration = Duration::from_secs(10);
/// What the load may need to speak, on a machine that is busy, beyond what it is asked to wait for.
const SPEAKING: Duration = Duration::from_secs(120);

/// How to play, beyond what the scenario says.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Long-lived connections, if not as the scenario has it.
    pub connections: Option<u32>,
    /// Decides what chance decides.
    pub seed: u64,
    /// Which repetition this is, from 1.
    pub round: u32,
    /// The longest stall that is allowed, if not as the scenario has it.
    pub stall: Option<Duration>,
}

/// Plays `scenario` on the lab of `stage`. A run that a signal ends says how far it got; what it changed is still to be undone.
pub fn play(scenario: &Scenario, stage: &Stage, manner: Manner, progress: &Progress) -> Result<Report> {
    check(scenario, stage)?;
    let start = Instant::now();
    let load_before = conditions::load_average();
    let mut seen = Seen::default();
    let connections = manner.connections.or(scenario.connections).unwrap_or(CONNECTIONS);
    let flavour = Flavour::of(&stage.topology.spec).word();
    stage.begin()?;
    let watched = watch(scenario, stage, connections, manner.seed, progress, &mut seen);
    let mut report = match (watched, interrupt::signal()) {
        (_, Some(signal)) => interrupted(&scenario.name, flavour, start.elapsed(), signal.as_str(), &seen),
        (Err(error), None) => return Err(error),
        (Ok(()), None) => {
            let stall = manner.stall.unwrap_or(scenario.expect.stall);
            let expect = Expect { stall, ..scenario.expect };
            judge(&scenario.name, flavour, connections, &expect, &seen)
        }
    };
    report.conditions = Some(Conditions {
        versions: conditions::versions(&stage.topology.spec, &stage.lb()),
        commit: conditions::commit().to_owned(),
        seed: manner.seed,
        round: manner.round,
        nodes: Nodes::of(&stage.topology.spec),
        connections,
        requests_per_second: scenario.requests,
        load: load_of(scenario, stage),
        duration_s: (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        machine: Machine {
            processors: conditions::processors(),
            load_before,
            load_after: conditions::load_average(),
            held_up_ms: seen.summary.held_up_ms,
        },
    });
    Ok(report)
}

/// Load, timeline, and the end of both: all that is seen meanwhile.
fn watch(
    scenario: &Scenario,
    stage: &Stage,
    connections: u32,
    seed: u64,
    progress: &Progress,
    seen: &mut Seen,
) -> Result<()> {
    let mix = load_of(scenario, stage);
    seen.wanted = LoadKind::OTHERS.map(|kind| (kind, mix.count(kind))).into();
    let args = LoadArgs {
        connections,
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
    interrupt::sleep_until(Instant::now() + scenario.warmup);
    heard.extend(load.heard());
    let start = Instant::now();
    let play = Play { scenario, stage, load: &load, seed, rescues: Rescues::default(), start, progress };
    play.timeline(seen);
    interrupt::check()?;
    progress.note(&format!("{}: every connection proves itself once more", scenario.name));
    load.tell(&Order::Finish)?;
    heard.extend(await_end(&load, scenario.patience)?);
    if let Some(last) = seen.events.last_mut() {
        last.rescued = play.rescued(COUNTING) - last.rescued;
    }
    for line in heard {
        note(seen, start, line);
    }
    seen.problems.extend(stage.ended_by_themselves()?);
    Ok(())
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
        + Duration::from_secs(u64::from(args.connections + args.mix.total()) / 100)
        + SPEAKING;
    loop {
        let what = format!("{} connections to open", args.connections);
        let (when, said) = await_line(load, patience, &what, heard.len())?;
        match said {
            Said::Opened { opened: 0, problems } => {
                bail!("no connection could be opened: {}; is the lab ready? lab status", problems.join("; "))
            }
            Said::Opened { opened, .. } => return Ok(opened),
            Said::Done(_) => bail!("the load ended early"),
            said @ (Said::Broken(_) | Said::Failed(_) | Said::Late(_)) => heard.push((when, said)),
        }
    }
}

/// The next line of the load, unless a signal comes first.
fn await_line(load: &Load, patience: Duration, what: &str, heard: usize) -> Result<Heard> {
    let deadline = Instant::now() + patience;
    loop {
        interrupt::check()?;
        if let Some(line) = load.poll(NOTICE)? {
            return Ok(line);
        }
        ensure!(
            Instant::now() < deadline,
            "waited {} s for {what}; the load has said {heard} things so far, and nothing meanwhile",
            patience.as_secs()
        );
    }
}

/// A scenario on its lab, at work.
struct Play<'a> {
    scenario: &'a Scenario,
    stage: &'a Stage,
    load: &'a Load,
    seed: u64,
    rescues: Rescues,
    start: Instant,
    progress: &'a Progress,
}

impl Play<'_> {
    /// Makes all events happen, each in a thread of its own so that none delays the next. A signal ends the timeline, and
    /// what actions run.
    fn timeline(&self, seen: &mut Seen) {
        self.begin(seen, "(load alone)");
        thread::scope(|scope| {
            let (done, finished) = channel();
            let mut running = Vec::new();
            for (index, event) in self.scenario.timeline.iter().enumerate() {
                interrupt::sleep_until(self.start + event.at);
                if interrupt::signal().is_some() {
                    break;
                }
                let at = self.begin(seen, &event.text);
                let killed = event.action.kills().map(|nodes| nodes.find(&self.stage.topology));
                for node in killed.and_then(Result::ok).into_iter().flatten() {
                    seen.killed.push((at, node.name.clone()));
                }
                running.push(index + 1);
                let done = done.clone();
                scope.spawn(move || {
                    let result = self.stage.perform(event, self.load, self.seed);
                    // Nobody listens any more when the run has given up.
                    let _ = done.send((index + 1, result));
                });
            }
            interrupt::sleep_until(self.start + self.scenario.duration);
            let deadline = Instant::now() + BACKGROUND;
            while !running.is_empty() {
                if interrupt::signal().is_some() {
                    self.stage.cancel(true);
                }
                match finished.recv_timeout(NOTICE) {
                    Ok((index, result)) => {
                        running.retain(|other| *other != index);
                        record(&mut seen.events[index], result);
                    }
                    Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                    Err(_) => {
                        let actions: Vec<&str> =
                            running.iter().map(|index| seen.events[*index].action.as_str()).collect();
                        let waited = BACKGROUND.as_secs();
                        let actions = actions.join("`, `");
                        seen.problems
                            .push(format!("`{actions}` still ran {waited} s after the end, and was ended"));
                        self.stage.cancel(true);
                        break;
                    }
                }
            }
        });
        self.stage.cancel(false);
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

/// Every connection has its patience to prove itself, and the last request before it as well.
fn await_end(load: &Load, patience: Duration) -> Result<Vec<Heard>> {
    let mut heard = Vec::new();
    loop {
        let what = "the last answer of every connection";
        let line = await_line(load, 2 * patience + SPEAKING, what, heard.len())?;
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
        Said::Late(late) => seen.late.push((at, late)),
        Said::Done(summary) => seen.summary = summary,
        Said::Opened { .. } => {}
    }
}
