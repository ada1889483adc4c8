//! Reports as people, programs and build servers read them.

use std::fmt::Write;

use super::by_kind::{ByKind, LoadCount};
use super::conditions::Conditions;
use super::verdict::{Report, Verdict};

/// A run and how long it took.
pub struct Run {
    /// What came out.
    pub report: Report,
    /// Seconds, load and restoring included.
    pub seconds: f64,
}

/// One report for people.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{} ({}): {}", report.scenario, report.affinity, word(report.verdict));
    if report.verdict != Verdict::Interrupted {
        figures(report, &mut text);
    }
    for line in report.conditions.iter().flat_map(Conditions::lines) {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(
        text,
        "  {:>7}  {:>7} {:>8} {:>8} {:>7} {:>8}  event",
        "at", "broken", "excused", "rescued", "failed", "stall ms"
    );
    for event in &report.events {
        let _ = writeln!(
            text,
            "  {:>5.1} s  {:>7} {:>8} {:>8} {:>7} {:>8}  {}",
            event.at_s,
            event.broken,
            event.excused,
            event.rescued,
            event.failed,
            event.stall_ms,
            event.action
        );
        for line in event.output.lines() {
            let _ = writeln!(text, "  {:>54}{line}", "");
        }
    }
    for (cause, count) in &report.causes {
        let _ = writeln!(text, "  broken by {cause}: {count}");
    }
    for example in &report.examples {
        let _ = writeln!(text, "  e.g. {example}");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
    text
}

/// What the load counted.
fn figures(report: &Report, text: &mut String) {
    let c = &report.connections;
    let _ = writeln!(
        text,
        "  connections: {} opened, {} survived, {} broken, {} excused; {} answers, the slowest after {} ms",
        c.opened, c.survived, c.broken, c.excused, c.answers, c.slowest_ms
    );
    let r = &report.requests;
    let _ = writeln!(
        text,
        "  new requests: {} ok, {} failed, 99 of 100 within {} ms, the slowest after {} ms",
        r.ok, r.failed, r.p99_ms, r.slowest_ms
    );
    for (kind, c) in &report.load {
        let _ = write!(
            text,
            "  {}: {} opened, {} survived, {} broken, {} excused",
            kind.word(),
            c.opened,
            c.survived,
            c.broken,
            c.excused
        );
        let _ = writeln!(text, "{}; the longest wait {} ms", extent(c), c.slowest_ms);
    }
    let s = &report.stall;
    let by = if s.by.is_empty() { String::new() } else { format!(" ({})", s.by) };
    let _ = writeln!(text, "  longest stall: {} ms{by}, {} ms are allowed", s.longest_ms, s.allowed_ms);
}

/// How much it was, and what went wrong before it began or on the way.
fn extent(count: &LoadCount) -> String {
    let mut text = String::new();
    if count.failed > 0 {
        let _ = write!(text, ", {} could not begin", count.failed);
    }
    if count.bytes > 0 {
        let _ = write!(text, "; {} MB verified", count.bytes / 1_000_000);
    }
    if count.lost > 0 {
        let _ = write!(text, "; {} datagrams lost", count.lost);
    }
    text
}

/// All reports, a line each; all kinds of load together.
pub fn overview(runs: &[Run]) -> String {
    let width = runs.iter().map(|run| run.report.scenario.len()).max().unwrap_or(0).max(8);
    let mut text = format!(
        "{:<width$}  {:<13}  {:>6} {:>8} {:>6} {:>7} {:>8} {:>8} {:>6} {:>8} {:>6}  verdict\n",
        "scenario",
        "affinity",
        "opened",
        "survived",
        "broken",
        "excused",
        "rescued",
        "requests",
        "failed",
        "stall ms",
        "s"
    );
    for Run { report, seconds } in runs {
        let total = report.total();
        let rescued: u64 = report.events.iter().map(|event| event.rescued).sum();
        let _ = writeln!(
            text,
            "{:<width$}  {:<13}  {:>6} {:>8} {:>6} {:>7} {:>8} {:>8} {:>6} {:>8} {:>6.1}  {}",
            report.scenario,
            report.affinity,
            total.opened,
            total.survived,
            total.broken,
            total.excused,
            rescued,
            report.requests.ok + report.requests.failed,
            total.failed,
            report.stall.longest_ms,
            seconds,
            word(report.verdict)
        );
    }
    text
}

/// JUnit's XML: a case per scenario.
pub fn junit(runs: &[Run]) -> String {
    let count = |verdict| runs.iter().filter(|run| run.report.verdict == verdict).count();
    let (failures, errors) = (count(Verdict::Fail), count(Verdict::Interrupted));
    let seconds: f64 = runs.iter().map(|run| run.seconds).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"lab run\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds:.1}\">\n",
        runs.len()
    );
    for Run { report, seconds } in runs {
        let _ = writeln!(
            text,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.1}\">",
            escaped(&report.affinity),
            escaped(&report.scenario)
        );
        let _ = writeln!(text, "    <properties>");
        for (name, value) in [
            ("broken", report.total().broken),
            ("failed", report.total().failed),
            ("longest stall in ms", report.stall.longest_ms),
            ("allowed stall in ms", report.stall.allowed_ms),
        ] {
            let _ = writeln!(text, "      <property name=\"{name}\" value=\"{value}\"/>");
        }
        text.push_str(&properties(&report.load));
        let _ = writeln!(text, "    </properties>");
        let element = match report.verdict {
            Verdict::Pass => None,
            Verdict::Fail => Some("failure"),
            Verdict::Interrupted => Some("error"),
        };
        if let Some(element) = element {
            let message = escaped(&report.problems.join("; "));
            let _ = writeln!(
                text,
                "    <{element} message=\"{message}\">{}</{element}>",
                escaped(&table(report))
            );
        }
        let _ = writeln!(text, "    <system-out>{}</system-out>\n  </testcase>", escaped(&table(report)));
    }
    text + "</testsuite>\n"
}

/// Counts of each kind of load, as build servers show them.
fn properties(load: &ByKind) -> String {
    let mut text = String::new();
    for (kind, c) in load {
        let counts = [
            ("opened", u64::from(c.opened)),
            ("survived", u64::from(c.survived)),
            ("broken", u64::from(c.broken)),
            ("excused", u64::from(c.excused)),
            ("failed", u64::from(c.failed)),
            ("longest wait in ms", c.slowest_ms),
        ];
        for (what, value) in counts {
            let name = kind.word();
            let _ = writeln!(text, "      <property name=\"{name} {what}\" value=\"{value}\"/>");
        }
    }
    text
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Interrupted => "interrupted",
    }
}

/// Text between tags or quotes of XML, without characters that XML cannot hold.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::mix::{LoadKind, Mix};
    use crate::load::{Count, Summary};
    use crate::scenario::file::Expect;
    use crate::scenario::verdict::{EventSeen, Seen, interrupted, judge};

    fn run(problem: Option<&str>) -> Run {
        let event = EventSeen {
            action: "exec r1 a < b".to_owned(),
            problem: problem.map(str::to_owned),
            ..EventSeen::default()
        };
        let mix = Mix::default();
        let kinds = LoadKind::OTHERS.map(|kind| {
            let opened = mix.count(kind);
            (kind, Count { opened, survived: opened, ..Count::default() })
        });
        let summary = Summary { kinds: kinds.into(), ..Summary::default() };
        let seen = Seen { events: vec![event], summary, ..Seen::default() };
        Run { report: judge("01-x", "second-chance", 0, &Expect::default(), &seen), seconds: 1.5 }
    }

    #[test]
    fn junit_counts_failures_and_escapes_what_it_quotes() {
        let xml = junit(&[run(None), run(Some("it says \"no\" & goes"))]);
        assert!(xml.contains("tests=\"2\" failures=\"1\" errors=\"0\" time=\"3.0\""), "{xml}");
        assert!(xml.contains("exec r1 a &lt; b: it says &quot;no&quot; &amp; goes"), "{xml}");
        assert!(!xml.contains("a < b"), "{xml}");
    }

    #[test]
    fn every_kind_of_load_is_in_the_table_and_in_junit() {
        let run = run(None);
        let (text, xml) = (table(&run.report), junit(&[run]));
        for kind in LoadKind::OTHERS {
            let count = Mix::default().count(kind);
            let line = format!("  {}: {count} opened, {count} survived, 0 broken, 0 excused;", kind.word());
            assert!(text.contains(&line), "{text}");
            let property = format!("<property name=\"{} opened\" value=\"{count}\"/>", kind.word());
            assert!(xml.contains(&property), "{xml}");
        }
    }

    #[test]
    fn overview_has_a_line_per_scenario() {
        let text = overview(&[run(None), run(Some("x"))]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].ends_with("pass") && lines[2].ends_with("FAIL"), "{text}");
    }

    #[test]
    fn failed_requests_and_the_longest_stall_are_in_every_form() {
        let mut seen = Seen::default();
        (seen.summary.failed, seen.summary.slowest_request_ms) = (435, 15_000);
        let run = Run { report: judge("01-x", "none", 0, &Expect::default(), &seen), seconds: 1.5 };
        let text = table(&run.report);
        assert!(text.contains("0 ok, 435 failed"), "{text}");
        assert!(text.contains("longest stall: 15000 ms (a new request), 3000 ms are allowed"), "{text}");
        assert!(overview(&[run]).contains("    435    15000    1.5  FAIL"));
        let run = Run { report: judge("01-x", "none", 0, &Expect::default(), &seen), seconds: 1.5 };
        let xml = junit(&[run]);
        assert!(xml.contains("failures=\"1\""), "{xml}");
        assert!(xml.contains("<property name=\"failed\" value=\"435\"/>"), "{xml}");
        assert!(xml.contains("<property name=\"longest stall in ms\" value=\"15000\"/>"), "{xml}");
        assert!(
            xml.contains("435 new requests failed, 0 are allowed to; the longest stall was 15.0 s"),
            "{xml}"
        );
    }

    #[test]
    fn interrupted_run_is_an_error_for_junit() {
        let report = interrupted("01-x", "none", Duration::from_secs(3), "SIGINT", &Seen::default());
        assert!(!table(&report).contains("0 opened"), "what was not counted is not told");
        let xml = junit(&[Run { report, seconds: 3.0 }]);
        assert!(xml.contains("failures=\"0\" errors=\"1\""), "{xml}");
        assert!(xml.contains("<error message=\"ended by SIGINT after 3.0 s: nothing is judged\">"), "{xml}");
    }

    #[test]
    fn table_shows_the_event_and_why_it_failed() {
        let text = table(&run(Some("gone")).report);
        assert!(text.contains("exec r1 a < b\n") && text.contains("problem: exec r1 a < b: gone"), "{text}");
    }
}
