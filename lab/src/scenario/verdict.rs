//! From what was seen to a verdict. Pure: times are since the start of the timeline.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::file::Expect;
use crate::load::mix::{LoadKind, Mix};
use crate::load::{Broken, Count, Failure, Summary};

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
    /// What the load counted.
    pub summary: Summary,
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
    pub load: BTreeMap<LoadKind, LoadCount>,
    /// What happened, and what broke after it.
    pub events: Vec<EventReport>,
    /// `pass` or `fail`.
    pub verdict: Verdict,
    /// Why it failed.
    pub problems: Vec<String>,
    /// How connections broke that are not excused.
    pub causes: BTreeMap<&'static str, u32>,
    /// The first of them.
    pub examples: Vec<String>,
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
}

/// A kind of load other than long-lived connections and new requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadCount {
    /// Connections, flows or transfers that were established and answered once.
    pub opened: u32,
    /// Went on to the end without a fault.
    pub survived: u32,
    /// Broke.
    pub broken: u32,
    /// Broke as their own host or server was killed.
    pub excused: u32,
    /// Of the survivors, those that ended when they were asked to.
    pub closed: u32,
    /// Transfers that could not begin.
    pub failed: u32,
    /// The longest wait for an answer or for progress, in ms.
    pub slowest_ms: u64,
    /// Bytes of transfers, verified.
    pub bytes: u64,
    /// Datagrams without an echo.
    pub lost: u64,
}

impl LoadCount {
    fn new(count: &Count) -> Self {
        Self {
            opened: count.opened,
            survived: count.survived,
            broken: 0,
            excused: 0,
            closed: count.closed,
            failed: count.failed,
            slowest_ms: count.slowest_ms,
            bytes: count.bytes,
            lost: count.lost,
        }
    }
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
}

/// Examples in a report.
const EXAMPLES: usize = 8;

/// Judges what was seen. `wanted` are the long-lived connections and the other load that were asked for.
pub fn judge(scenario: &str, affinity: &str, wanted: (u32, &Mix), expect: &Expect, seen: &Seen) -> Report {
    let mut load: BTreeMap<LoadKind, LoadCount> = LoadKind::OTHERS
        .into_iter()
        .filter(|kind| wanted.1.count(*kind) > 0 || seen.summary.kinds.contains_key(kind))
        .map(|kind| (kind, seen.summary.kinds.get(&kind).map_or_else(LoadCount::default, LoadCount::new)))
        .collect();
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
    for (known, broken) in &seen.broken {
        let event = event_at(&seen.events, *known, broken.asked_ago_ms).map(|index| &mut events[index]);
        let (lost, excused) = match load.get_mut(&broken.kind) {
            Some(count) => (&mut count.broken, &mut count.excused),
            None => (&mut connections.broken, &mut connections.excused),
        };
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
    let requests = Requests { ok: seen.summary.ok, failed: seen.summary.failed, p99_ms: seen.summary.p99_ms };
    let mut problems = seen.problems.clone();
    problems.extend(
        seen.events
            .iter()
            .filter_map(|event| event.problem.as_ref().map(|problem| format!("{}: {problem}", event.action))),
    );
    problems.extend(shortcomings(wanted, expect, connections, requests, &load));
    let verdict = if problems.is_empty() { Verdict::Pass } else { Verdict::Fail };
    Report {
        scenario: scenario.to_owned(),
        affinity: affinity.to_owned(),
        connections,
        requests,
        load,
        events,
        verdict,
        problems,
        causes,
        examples,
    }
}

fn event_report(event: &EventSeen) -> EventReport {
    EventReport {
        at_s: (event.at.as_secs_f64() * 100.0).round() / 100.0,
        action: event.action.clone(),
        broken: 0,
        rescued: event.rescued,
        excused: 0,
        failed: 0,
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
    (wanted, mix): (u32, &Mix),
    expect: &Expect,
    connections: Connections,
    requests: Requests,
    load: &BTreeMap<LoadKind, LoadCount>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let broken = connections.broken + load.values().map(|count| count.broken).sum::<u32>();
    if broken > expect.broken {
        let kinds: Vec<String> = load
            .iter()
            .map(|(kind, count)| (kind.word(), count.broken))
            .chain([(LoadKind::LongLived.word(), connections.broken)])
            .filter(|(_, broken)| *broken > 0)
            .map(|(kind, broken)| format!("{broken} {kind}"))
            .collect();
        let (kinds, allowed) = (kinds.join(", "), expect.broken);
        problems.push(format!("{broken} connections broke ({kinds}), {allowed} are allowed to"));
    }
    let excused = connections.excused + load.values().map(|count| count.excused).sum::<u32>();
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
    for (kind, count) in load {
        let (word, wanted) = (kind.word(), mix.count(*kind));
        if count.opened < wanted {
            problems.push(format!("{word}: {} of {wanted} could be opened", count.opened));
        }
        if count.opened != count.survived + count.broken + count.excused {
            problems.push(format!("{word}: some are missing: the load ended early"));
        }
    }
    let failures = requests.failed + load.values().map(|count| u64::from(count.failed)).sum::<u64>();
    if let Some(failed) = expect.failed.filter(|failed| failures > *failed) {
        problems.push(format!("{failures} new requests and transfers failed, {failed} are allowed to"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Cause;

    const NOTHING: Mix = Mix {
        downloads: 0,
        slow_downloads: 0,
        uploads: 0,
        slow_uploads: 0,
        idle: 0,
        half_closed: 0,
        udp: 0,
        size: 1,
        rate: 1,
        pause_ms: 1,
    };

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
        judge("x", "second-chance", (10, &NOTHING), &Expect::default(), seen)
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
        assert_eq!(judge("x", "none", (10, &NOTHING), &expect, &seen).verdict, Verdict::Pass);
        let expect = Expect { excused_at_least: 2, ..Expect::default() };
        assert_eq!(judge("x", "none", (10, &NOTHING), &expect, &seen).verdict, Verdict::Fail);
    }

    #[test]
    fn timeline_that_could_not_happen_proves_nothing() {
        let mut seen = seen(vec![], vec![]);
        seen.events[1].problem = Some("no such pool".to_owned());
        let report = judged(&seen);
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.problems, ["one: no such pool"]);
    }

    /// `opened` of a kind that was asked for twice, of which `broken` broke on lb7-1 at 6 s.
    fn judged_with(kind: LoadKind, opened: u32, broken_of_it: u32, killed: &[(u64, &str)]) -> Report {
        let of_kind = (0..broken_of_it).map(|_| (6, Broken { kind, ..broken("lb7-1", "s1", 0) })).collect();
        let mut seen = seen(of_kind, killed.to_vec());
        let count =
            Count { opened, survived: opened - broken_of_it, slowest_ms: 7, bytes: 9, ..Count::default() };
        seen.summary =
            Summary { opened: 10, survived: 10, kinds: [(kind, count)].into(), ..Summary::default() };
        let mut mix = NOTHING;
        *match kind {
            LoadKind::Udp => &mut mix.udp,
            LoadKind::HalfClosed => &mut mix.half_closed,
            _ => &mut mix.slow_uploads,
        } = 2;
        judge("x", "second-chance", (10, &mix), &Expect::default(), &seen)
    }

    #[test]
    fn every_kind_of_load_is_judged_by_itself() {
        for kind in [LoadKind::Udp, LoadKind::HalfClosed, LoadKind::SlowUploads] {
            let report = judged_with(kind, 3, 0, &[]);
            assert_eq!((report.verdict, report.load[&kind].survived), (Verdict::Pass, 3), "{report:#?}");
            let report = judged_with(kind, 3, 1, &[]);
            assert_eq!((report.connections.broken, report.load[&kind].broken), (0, 1));
            let word = kind.word();
            assert_eq!(report.problems, [format!("1 connections broke (1 {word}), 0 are allowed to")]);
            assert_eq!(report.events[1].broken, 1);
            let report = judged_with(kind, 3, 1, &[(5, "lb7-1")]);
            assert_eq!((report.verdict, report.load[&kind].excused), (Verdict::Pass, 1));
            let report = judged_with(kind, 1, 0, &[]);
            assert_eq!(report.problems, [format!("{word}: 1 of 2 could be opened")]);
        }
    }

    #[test]
    fn kind_that_was_asked_for_and_never_seen_fails() {
        let mix = Mix { idle: 4, ..NOTHING };
        let report = judge("x", "none", (10, &mix), &Expect::default(), &seen(vec![], vec![]));
        assert_eq!(report.problems, ["idle: 0 of 4 could be opened"]);
    }

    #[test]
    fn transfers_that_could_not_begin_count_like_failed_requests() {
        let mut seen = seen(vec![], vec![]);
        let count = Count { opened: 1, survived: 1, failed: 2, ..Count::default() };
        seen.summary.failed = 1;
        seen.summary.kinds = [(LoadKind::Uploads, count)].into();
        for (allowed, verdict) in [(3, Verdict::Pass), (2, Verdict::Fail)] {
            let expect = Expect { failed: Some(allowed), ..Expect::default() };
            assert_eq!(judge("x", "none", (10, &NOTHING), &expect, &seen).verdict, verdict);
        }
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
        let report = serde_json::to_value(judged_with(LoadKind::SlowUploads, 2, 0, &[])).unwrap();
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
            "/events/0/at_s",
            "/events/0/action",
            "/events/0/broken",
            "/events/0/rescued",
        ] {
            assert!(report.pointer(pointer).is_some(), "{pointer}: {report}");
        }
        assert_eq!(report["verdict"], "pass");
    }
}
