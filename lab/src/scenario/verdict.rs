//! From what was seen to a verdict. Pure: times are since the start of the timeline.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::by_kind::{self, ByKind, Total};
use super::conditions::Conditions;
use super::file::Expect;
use crate::load::mix::LoadKind;
use crate::load::stall::{Late, Waited};
use crate::load::{Broken, Failure, Summary};

/// All that was seen of a run.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The events in order.
    pub events: Vec<EventSeen>,
    /// Which node was killed, and when.
    pub killed: Vec<(Duration, String)>,
    /// Broken connections, and when that was known.
    pub broken: Vec<(Duration, Broken)>,
    /// Failed requests, and when that was known.
    pub failed: Vec<(Duration, Failure)>,
    /// Answers that took long, and when they came.
    pub late: Vec<(Duration, Late)>,
    /// What the load counted.
    pub summary: Summary,
    /// How much was wanted of the kinds of load other than long-lived connections.
    pub wanted: BTreeMap<LoadKind, u32>,
    /// What else went wrong.
    pub problems: Vec<String>,
}

/// An event that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSeen {
    /// When it began.
    pub at: Duration,
    /// What was done, as the scenario has it.
    pub action: String,
    /// Packets that hosts rescued from here to the next event.
    pub rescued: u64,
    /// What it printed.
    pub output: String,
    /// Why it could not be done.
    pub problem: Option<String>,
}

/// What `--format json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// How flows keep to their hosts.
    pub affinity: String,
    /// Long-lived connections.
    pub connections: Connections,
    /// New requests.
    pub requests: Requests,
    /// The other kinds of load.
    pub load: ByKind,
    /// The longest stall.
    pub stall: Stall,
    /// What happened, and what broke after it.
    pub events: Vec<EventReport>,
    /// `pass`, `fail`, or `interrupted`.
    pub verdict: Verdict,
    /// Why it failed.
    pub problems: Vec<String>,
    /// How connections broke that are not excused.
    pub causes: BTreeMap<&'static str, u32>,
    /// The first of them.
    pub examples: Vec<String>,
    /// Under which conditions all this was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
}

/// The longest time that somebody waited (see [`crate::load::stall`]). Connections that are excused do not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    /// How long, in ms.
    pub longest_ms: u64,
    /// What the scenario allows, in ms.
    pub allowed_ms: u64,
    /// Who waited, for what.
    pub by: String,
    /// When it began, in seconds since the start of the timeline; none if that is not known, as it was short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_s: Option<f64>,
}

impl Report {
    /// All kinds of load together.
    pub fn total(&self) -> Total {
        let c = &self.connections;
        let long_lived = Total {
            opened: c.opened.into(),
            survived: c.survived.into(),
            broken: c.broken.into(),
            excused: c.excused.into(),
            failed: self.requests.failed,
        };
        by_kind::total(long_lived, &self.load)
    }
}

/// Long-lived connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Established and answered once.
    pub opened: u32,
    /// Answered to the end.
    pub survived: u32,
    /// Broke.
    pub broken: u32,
    /// Broke as their own host or server was killed.
    pub excused: u32,
    /// Of the survivors, those that ended when they were asked to.
    pub closed: u32,
    /// Answers.
    pub answers: u64,
    /// Answers of another server than before, by HAProxy's decision.
    pub moved: u64,
    /// The slowest answer in ms.
    pub slowest_ms: u64,
}

/// New requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// With a good answer.
    pub ok: u64,
    /// Without.
    pub failed: u64,
    /// 99 of 100 good answers came within this, in ms.
    pub p99_ms: u64,
    /// The slowest good answer, in ms.
    pub slowest_ms: u64,
}

/// An event of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventReport {
    /// When, in seconds since the start of the timeline.
    pub at_s: f64,
    /// What was done.
    pub action: String,
    /// Connections that broke from here to the next event; the excused are not among them.
    pub broken: u32,
    /// Packets that hosts rescued meanwhile.
    pub rescued: u64,
    /// Connections that died with their host or server meanwhile.
    pub excused: u32,
    /// New requests begun meanwhile that failed.
    pub failed: u32,
    /// The longest stall that began meanwhile, in ms; 0 if it was less than a second.
    pub stall_ms: u64,
    /// What it printed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// The end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Not.
    Fail,
    /// The run was ended before there was anything to judge.
    Interrupted,
}

/// Examples in a report.
const EXAMPLES: usize = 8;

/// Judges what was seen.
pub fn judge(scenario: &str, affinity: &str, wanted: u32, expect: &Expect, seen: &Seen) -> Report {
    let mut events: Vec<EventReport> = seen.events.iter().map(event_report).collect();
    let mut causes = BTreeMap::new();
    let mut examples = Vec::new();
    let mut connections = Connections {
        opened: seen.summary.opened,
        survived: seen.summary.survived,
        closed: seen.summary.closed,
        answers: seen.summary.answers,
        moved: seen.summary.moved,
        slowest_ms: seen.summary.slowest_ms,
        ..Connections::default()
    };
    let mut load = by_kind::counts(&seen.wanted, &seen.summary);
    for (known, broken) in &seen.broken {
        let (lost, excused) = match load.get_mut(&broken.kind) {
            Some(count) => (&mut count.broken, &mut count.excused),
            None => (&mut connections.broken, &mut connections.excused),
        };
        let event = event_at(&seen.events, *known, broken.asked_ago_ms).map(|index| &mut events[index]);
        if is_excused(&seen.killed, *known, broken) {
            *excused += 1;
            event.into_iter().for_each(|event| event.excused += 1);
            continue;
        }
        *lost += 1;
        event.into_iter().for_each(|event| event.broken += 1);
        *causes.entry(broken.cause.word()).or_default() += 1;
        if examples.len() < EXAMPLES {
            examples.push(example(*known, broken));
        }
    }
    for (known, failure) in &seen.failed {
        let event = event_at(&seen.events, *known, failure.asked_ago_ms);
        event.into_iter().for_each(|index| events[index].failed += 1);
    }
    for wait in waits(seen) {
        let event = event_at(&seen.events, wait.until, wait.took_ms).map(|index| &mut events[index]);
        event.into_iter().for_each(|event| event.stall_ms = event.stall_ms.max(wait.took_ms));
    }
    let stall = longest_stall(expect, seen);
    let requests = Requests {
        ok: seen.summary.ok,
        failed: seen.summary.failed,
        p99_ms: seen.summary.p99_ms,
        slowest_ms: seen.summary.slowest_request_ms,
    };
    let mut problems = seen.problems.clone();
    problems.extend(
        seen.events
            .iter()
            .filter_map(|event| event.problem.as_ref().map(|problem| format!("{}: {problem}", event.action))),
    );
    problems.extend(shortcomings(wanted, expect, connections, requests, &load));
    problems.extend(by_kind::shortcomings(&load, &seen.wanted));
    problems.extend(too_long(&stall));
    let verdict = if problems.is_empty() { Verdict::Pass } else { Verdict::Fail };
    Report {
        scenario: scenario.to_owned(),
        affinity: affinity.to_owned(),
        connections,
        requests,
        load,
        stall,
        events,
        verdict,
        problems,
        causes,
        examples,
        conditions: None,
    }
}

/// Of a run that was ended at `at` by `signal`: what had happened until then, and no judgement.
pub fn interrupted(scenario: &str, affinity: &str, at: Duration, signal: &str, seen: &Seen) -> Report {
    let mut report = judge(scenario, affinity, 0, &Expect::default(), seen);
    report.verdict = Verdict::Interrupted;
    report.problems = vec![format!("ended by {signal} after {:.1} s: nothing is judged", at.as_secs_f64())];
    report
}

fn event_report(event: &EventSeen) -> EventReport {
    EventReport {
        at_s: (event.at.as_secs_f64() * 100.0).round() / 100.0,
        action: event.action.clone(),
        broken: 0,
        rescued: event.rescued,
        excused: 0,
        failed: 0,
        stall_ms: 0,
        output: event.output.clone(),
    }
}

/// The event that was the last when the request was sent that failed.
fn event_at(events: &[EventSeen], known: Duration, asked_ago_ms: u64) -> Option<usize> {
    let asked = known.saturating_sub(Duration::from_millis(asked_ago_ms));
    let last = events.iter().rposition(|event| event.at <= asked);
    last.or((!events.is_empty()).then_some(0))
}

/// Whether the connection's own host or server had been killed when it was known to be broken.
fn is_excused(killed: &[(Duration, String)], known: Duration, broken: &Broken) -> bool {
    killed.iter().any(|(at, node)| *at <= known && (*node == broken.l7 || *node == broken.server))
}

/// Somebody's wait.
struct Wait {
    until: Duration,
    took_ms: u64,
    by: String,
}

/// All waits whose end is known to the moment: those that were long or for nothing, but not for a host that was killed.
fn waits(seen: &Seen) -> impl Iterator<Item = Wait> {
    let late = seen.late.iter().map(|(until, late)| {
        let by = match (late.waited, &late.user) {
            (Waited::Proof, Some(user)) => format!("connection {user} → {}", late.vip),
            (Waited::Load(kind), Some(user)) => format!("{} {user} → {}", kind.word(), late.vip),
            (Waited::Request, Some(user)) => format!("new request {user} → {}", late.vip),
            (_, _) => format!("{}: new requests did nothing but fail", late.vip),
        };
        Wait { until: *until, took_ms: late.took_ms, by }
    });
    let failed = seen.failed.iter().map(|(until, failure)| {
        let (user, vip, cause) = (failure.user, failure.vip, failure.cause.word());
        let what = failure.kind.map_or("new request", LoadKind::word);
        let by = format!("{what} {user} → {vip}, which failed: {cause}");
        Wait { until: *until, took_ms: failure.asked_ago_ms, by }
    });
    let broken = seen.broken.iter().filter(|(known, broken)| !is_excused(&seen.killed, *known, broken));
    let broken = broken.map(|(until, broken)| {
        let (user, vip, cause) = (&broken.user, broken.vip, broken.cause.word());
        let what = match broken.kind {
            LoadKind::LongLived => "connection",
            kind => kind.word(),
        };
        let by = format!("{what} {user} → {vip}, which broke: {cause}");
        Wait { until: *until, took_ms: broken.asked_ago_ms, by }
    });
    late.chain(failed).chain(broken)
}

fn longest_stall(expect: &Expect, seen: &Seen) -> Stall {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let longest = waits(seen).max_by_key(|wait| wait.took_ms);
    let mut stall = Stall { allowed_ms: milliseconds(expect.stall), ..Stall::default() };
    if let Some(wait) = longest {
        let began = wait.until.saturating_sub(Duration::from_millis(wait.took_ms));
        stall.at_s = Some((began.as_secs_f64() * 100.0).round() / 100.0);
        (stall.longest_ms, stall.by) = (wait.took_ms, wait.by);
    }
    // Shorter ones are counted only.
    let kinds = seen.summary.kinds.iter().map(|(kind, count)| (count.slowest_ms, kind.word()));
    for (took_ms, by) in
        [(seen.summary.slowest_ms, "a connection"), (seen.summary.slowest_request_ms, "a new request")]
            .into_iter()
            .chain(kinds)
    {
        if took_ms > stall.longest_ms {
            (stall.longest_ms, stall.by, stall.at_s) = (took_ms, by.to_owned(), None);
        }
    }
    stall
}

fn too_long(stall: &Stall) -> Option<String> {
    let seconds = |milliseconds| Duration::from_millis(milliseconds).as_secs_f64();
    (stall.longest_ms > stall.allowed_ms).then(|| {
        let when = stall.at_s.map(|at| format!(" from {at:.1} s on")).unwrap_or_default();
        format!(
            "the longest stall was {:.1} s ({}{when}), {} s are allowed",
            seconds(stall.longest_ms),
            stall.by,
            seconds(stall.allowed_ms)
        )
    })
}

fn example(known: Duration, broken: &Broken) -> String {
    format!(
        "{}: {} → {} on {} ({}): {} at {:.1} s, {:.1} s after its request",
        broken.kind.word(),
        broken.user,
        broken.vip,
        broken.l7,
        broken.server,
        broken.cause.word(),
        known.as_secs_f64(),
        Duration::from_millis(broken.asked_ago_ms).as_secs_f64()
    )
}

fn shortcomings(
    wanted: u32,
    expect: &Expect,
    connections: Connections,
    requests: Requests,
    load: &ByKind,
) -> Vec<String> {
    let mut problems = Vec::new();
    let broken = connections.broken + by_kind::sum(load, |count| count.broken);
    if broken > expect.broken {
        let (kinds, allowed) = (by_kind::broken(load, connections.broken), expect.broken);
        problems.push(format!("{broken} connections broke ({kinds}), {allowed} are allowed to"));
    }
    let excused = connections.excused + by_kind::sum(load, |count| count.excused);
    if excused < expect.excused_at_least {
        problems.push(format!(
            "{excused} connections died with their host, at least {} should have: was it killed?",
            expect.excused_at_least
        ));
    }
    if connections.opened < wanted {
        problems.push(format!("{} of {wanted} connections could be opened", connections.opened));
    }
    if connections.opened != connections.survived + connections.broken + connections.excused {
        problems.push("connections are missing: the load ended early".to_owned());
    }
    let transfers = by_kind::sum(load, |count| count.failed);
    let failed = requests.failed + u64::from(transfers);
    if failed > expect.failed {
        let and = if transfers > 0 { " and transfers" } else { "" };
        problems.push(format!("{failed} new requests{and} failed, {} are allowed to", expect.failed));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Cause, Count};

    fn broken(l7: &str, server: &str, asked_ago_ms: u64) -> Broken {
        Broken {
            kind: LoadKind::LongLived,
            user: "203.0.113.7:10000".to_owned(),
            vip: "198.51.100.1".parse().unwrap(),
            l7: l7.to_owned(),
            server: server.to_owned(),
            cause: Cause::Reset,
            asked_ago_ms,
        }
    }

    fn at(seconds: u64, action: &str) -> EventSeen {
        EventSeen { at: Duration::from_secs(seconds), action: action.to_owned(), ..EventSeen::default() }
    }

    fn seen(broken: Vec<(u64, Broken)>, killed: Vec<(u64, &str)>) -> Seen {
        let lost = u32::try_from(broken.len()).unwrap();
        Seen {
            events: vec![at(0, "load"), at(5, "one"), at(10, "two")],
            killed: killed.into_iter().map(|(at, node)| (Duration::from_secs(at), node.to_owned())).collect(),
            broken: broken.into_iter().map(|(at, broken)| (Duration::from_secs(at), broken)).collect(),
            summary: Summary { opened: 10, survived: 10 - lost, ..Summary::default() },
            ..Seen::default()
        }
    }

    fn judged(seen: &Seen) -> Report {
        judge("x", "second-chance", 10, &Expect::default(), seen)
    }

    #[test]
    fn all_survived_is_a_pass() {
        let report = judged(&seen(vec![], vec![]));
        assert_eq!((report.verdict, report.problems.len()), (Verdict::Pass, 0));
    }

    #[test]
    fn one_broken_connection_fails_and_is_counted_at_the_event_before_its_request() {
        let report = judged(&seen(vec![(11, broken("lb7-1", "s1", 3000))], vec![]));
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!((report.connections.broken, report.connections.survived), (1, 9));
        assert_eq!(report.events.iter().map(|event| event.broken).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(report.causes["reset"], 1);
    }

    #[test]
    fn only_connections_of_a_killed_host_or_server_are_excused_and_only_afterwards() {
        let breaks = vec![
            (4, broken("lb7-1", "s1", 0)),
            (6, broken("lb7-1", "s1", 0)),
            (6, broken("lb7-2", "s1", 0)),
            (7, broken("lb7-2", "s2", 0)),
        ];
        let report = judged(&seen(breaks, vec![(5, "lb7-1"), (5, "s2")]));
        assert_eq!((report.connections.broken, report.connections.excused), (2, 2));
        assert_eq!(report.events.iter().map(|event| event.broken).collect::<Vec<_>>(), [1, 1, 0]);
        assert_eq!(report.events.iter().map(|event| event.excused).collect::<Vec<_>>(), [0, 2, 0]);
    }

    #[test]
    fn excused_connections_alone_pass_if_they_are_expected() {
        let seen = seen(vec![(6, broken("lb7-1", "s1", 0))], vec![(5, "lb7-1")]);
        let expect = Expect { excused_at_least: 1, ..Expect::default() };
        assert_eq!(judge("x", "none", 10, &expect, &seen).verdict, Verdict::Pass);
        let expect = Expect { excused_at_least: 2, ..Expect::default() };
        assert_eq!(judge("x", "none", 10, &expect, &seen).verdict, Verdict::Fail);
    }

    #[test]
    fn timeline_that_could_not_happen_proves_nothing() {
        let mut seen = seen(vec![], vec![]);
        seen.events[1].problem = Some("no such pool".to_owned());
        let report = judged(&seen);
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.problems, ["one: no such pool"]);
    }

    fn late(waited: Waited, took_ms: u64) -> Late {
        let user = (waited != Waited::Vip).then(|| "203.0.113.7:10000".to_owned());
        Late { waited, user, vip: "198.51.100.1".parse().unwrap(), took_ms }
    }

    #[test]
    fn failed_requests_fail_unless_they_are_allowed() {
        let mut seen = seen(vec![], vec![]);
        seen.summary.failed = 2;
        let failure = |asked_ago_ms| Failure {
            kind: None,
            user: "203.0.113.9".parse().unwrap(),
            vip: "198.51.100.2".parse().unwrap(),
            cause: Cause::NotConnected,
            asked_ago_ms,
        };
        seen.failed = [10, 2500].map(|ago| (Duration::from_secs(12), failure(ago))).to_vec();
        let report = judged(&seen);
        assert_eq!(report.problems, ["2 new requests failed, 0 are allowed to"]);
        assert_eq!(report.events.iter().map(|event| event.failed).collect::<Vec<_>>(), [0, 1, 1]);
        assert_eq!(report.stall.longest_ms, 2500, "a failure was waited for as well");
        let expect = Expect { failed: 2, ..Expect::default() };
        assert_eq!(judge("x", "none", 10, &expect, &seen).verdict, Verdict::Pass);
    }

    #[test]
    fn stall_beyond_what_is_allowed_fails_and_is_told_with_its_event() {
        for waited in [Waited::Proof, Waited::Request, Waited::Vip] {
            let mut seen = seen(vec![], vec![]);
            seen.late = vec![
                (Duration::from_secs(11), late(waited, 3500)),
                (Duration::from_secs(12), late(waited, 1200)),
            ];
            let report = judged(&seen);
            assert_eq!(report.verdict, Verdict::Fail);
            assert!(report.problems[0].starts_with("the longest stall was 3.5 s ("), "{report:?}");
            assert!(report.problems[0].ends_with(" from 7.5 s on), 3 s are allowed"), "{report:?}");
            assert_eq!(report.events.iter().map(|event| event.stall_ms).collect::<Vec<_>>(), [0, 3500, 1200]);
            let expect = Expect { stall: Duration::from_millis(3500), ..Expect::default() };
            assert_eq!(judge("x", "none", 10, &expect, &seen).verdict, Verdict::Pass);
        }
    }

    #[test]
    fn what_was_waited_for_on_a_killed_host_is_no_stall() {
        let report = judged(&seen(vec![(20, broken("lb7-1", "s1", 9000))], vec![(5, "lb7-1")]));
        assert_eq!((report.verdict, report.stall.longest_ms), (Verdict::Pass, 0));
        let report = judged(&seen(vec![(20, broken("lb7-2", "s1", 9000))], vec![(5, "lb7-1")]));
        assert_eq!(report.stall.longest_ms, 9000);
    }

    #[test]
    fn short_waits_are_the_longest_stall_if_there_is_no_other() {
        let mut seen = seen(vec![], vec![]);
        (seen.summary.slowest_ms, seen.summary.slowest_request_ms) = (212, 40);
        let stall = judged(&seen).stall;
        assert_eq!((stall.longest_ms, stall.allowed_ms, &*stall.by), (212, 3000, "a connection"));
    }

    #[test]
    fn interrupted_run_says_what_had_happened_and_is_neither_pass_nor_fail() {
        let report = interrupted("x", "none", Duration::from_secs(4), "SIGINT", &seen(vec![], vec![]));
        assert_eq!((report.verdict, report.events.len()), (Verdict::Interrupted, 3));
        assert_eq!(report.problems, ["ended by SIGINT after 4.0 s: nothing is judged"]);
    }

    /// Three of a kind of which two were wanted; `lost` of them broke on lb7-1 at 6 s.
    fn judged_with(kind: LoadKind, lost: u32, killed: &[(u64, &str)]) -> Report {
        let of_kind = (0..lost).map(|_| (6, Broken { kind, ..broken("lb7-1", "s1", 0) })).collect();
        let mut seen = seen(of_kind, killed.to_vec());
        let count = Count { opened: 3, survived: 3 - lost, slowest_ms: 7, ..Count::default() };
        seen.summary =
            Summary { opened: 10, survived: 10, kinds: [(kind, count)].into(), ..Summary::default() };
        seen.wanted = [(kind, 2)].into();
        judged(&seen)
    }

    #[test]
    fn every_kind_of_load_is_judged_by_itself() {
        for kind in LoadKind::OTHERS {
            let report = judged_with(kind, 0, &[]);
            assert_eq!((report.verdict, report.load[&kind].survived), (Verdict::Pass, 3), "{report:#?}");
            assert_eq!((report.stall.longest_ms, &*report.stall.by), (7, kind.word()));
            let report = judged_with(kind, 1, &[]);
            assert_eq!((report.connections.broken, report.load[&kind].broken), (0, 1));
            assert_eq!((report.total().opened, report.total().broken), (13, 1));
            let word = kind.word();
            assert_eq!(report.problems, [format!("1 connections broke (1 {word}), 0 are allowed to")]);
            assert_eq!(report.events[1].broken, 1);
            let report = judged_with(kind, 1, &[(5, "lb7-1")]);
            assert_eq!((report.verdict, report.load[&kind].excused), (Verdict::Pass, 1));
        }
    }

    #[test]
    fn transfers_that_could_not_begin_count_like_failed_requests() {
        let mut seen = seen(vec![], vec![]);
        let count = Count { opened: 1, survived: 1, failed: 2, ..Count::default() };
        seen.summary.failed = 1;
        seen.summary.kinds = [(LoadKind::Uploads, count)].into();
        assert_eq!(judged(&seen).problems, ["3 new requests and transfers failed, 0 are allowed to"]);
        let expect = Expect { failed: 3, ..Expect::default() };
        assert_eq!(judge("x", "none", 10, &expect, &seen).verdict, Verdict::Pass);
    }

    #[test]
    fn connections_that_never_opened_or_got_lost_fail() {
        let mut few = seen(vec![], vec![]);
        few.summary.opened = 9;
        few.summary.survived = 9;
        assert_eq!(judged(&few).problems, ["9 of 10 connections could be opened"]);
        let mut lost = seen(vec![], vec![]);
        lost.summary.survived = 8;
        assert_eq!(judged(&lost).verdict, Verdict::Fail);
    }

    #[test]
    fn json_has_the_promised_keys() {
        let report = serde_json::to_value(judged_with(LoadKind::SlowUploads, 0, &[])).unwrap();
        for pointer in [
            "/scenario",
            "/affinity",
            "/connections/opened",
            "/connections/survived",
            "/connections/broken",
            "/connections/excused",
            "/load/slow_uploads/opened",
            "/load/slow_uploads/survived",
            "/load/slow_uploads/broken",
            "/load/slow_uploads/excused",
            "/load/slow_uploads/failed",
            "/load/slow_uploads/slowest_ms",
            "/load/slow_uploads/bytes",
            "/requests/ok",
            "/requests/failed",
            "/requests/slowest_ms",
            "/stall/longest_ms",
            "/stall/allowed_ms",
            "/events/0/at_s",
            "/events/0/action",
            "/events/0/broken",
            "/events/0/rescued",
            "/events/0/failed",
            "/events/0/stall_ms",
        ] {
            assert!(report.pointer(pointer).is_some(), "{pointer}: {report}");
        }
        assert_eq!(report["verdict"], "pass");
    }
}
