//! Reports as people, programs and build servers read them.

use std::fmt::Write;

use super::verdict::{LoadCount, Report, Verdict};
use crate::load::mix::LoadKind;

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
    let c = &report.connections;
    let _ = writeln!(text, "{} ({}): {}", report.scenario, report.affinity, word(report.verdict));
    let _ = writeln!(
        text,
        "  connections: {} opened, {} survived, {} broken, {} excused; {} answers, the slowest after {} ms",
        c.opened, c.survived, c.broken, c.excused, c.answers, c.slowest_ms
    );
    let r = &report.requests;
    let _ =
        writeln!(text, "  new requests: {} ok, {} failed, 99 of 100 within {} ms", r.ok, r.failed, r.p99_ms);
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
    let _ = writeln!(
        text,
        "  {:>7}  {:>7} {:>8} {:>8} {:>7}  event",
        "at", "broken", "excused", "rescued", "failed"
    );
    for event in &report.events {
        let _ = writeln!(
            text,
            "  {:>5.1} s  {:>7} {:>8} {:>8} {:>7}  {}",
            event.at_s, event.broken, event.excused, event.rescued, event.failed, event.action
        );
        for line in event.output.lines() {
            let _ = writeln!(text, "  {:>45}{line}", "");
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

/// All reports, a line each.
pub fn overview(runs: &[Run]) -> String {
    let width = runs.iter().map(|run| run.report.scenario.len()).max().unwrap_or(0).max(8);
    let mut text = format!(
        "{:<width$}  {:<13}  {:>6} {:>8} {:>6} {:>7} {:>8} {:>8} {:>6} {:>6}  verdict\n",
        "scenario",
        "affinity",
        "opened",
        "survived",
        "broken",
        "excused",
        "rescued",
        "requests",
        "failed",
        "s"
    );
    for Run { report, seconds } in runs {
        let c = &report.connections;
        let rescued: u64 = report.events.iter().map(|event| event.rescued).sum();
        let _ = writeln!(
            text,
            "{:<width$}  {:<13}  {:>6} {:>8} {:>6} {:>7} {:>8} {:>8} {:>6} {:>6.1}  {}",
            report.scenario,
            report.affinity,
            c.opened,
            c.survived,
            c.broken,
            c.excused,
            rescued,
            report.requests.ok + report.requests.failed,
            report.requests.failed,
            seconds,
            word(report.verdict)
        );
    }
    text
}

/// JUnit's XML: a case per scenario.
pub fn junit(runs: &[Run]) -> String {
    let failures = runs.iter().filter(|run| run.report.verdict == Verdict::Fail).count();
    let seconds: f64 = runs.iter().map(|run| run.seconds).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"lab run\" tests=\"{}\" failures=\"{failures}\" time=\"{seconds:.1}\">\n",
        runs.len()
    );
    for Run { report, seconds } in runs {
        let _ = writeln!(
            text,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.1}\">",
            escaped(&report.affinity),
            escaped(&report.scenario)
        );
        if report.verdict == Verdict::Fail {
            let message = escaped(&report.problems.join("; "));
            let _ =
                writeln!(text, "    <failure message=\"{message}\">{}</failure>", escaped(&table(report)));
        }
        text.push_str(&properties(report));
        let _ = writeln!(text, "    <system-out>{}</system-out>\n  </testcase>", escaped(&table(report)));
    }
    text + "</testsuite>\n"
}

/// Counts of each kind of load, as build servers show them.
fn properties(report: &Report) -> String {
    let c = &report.connections;
    let long_lived = (LoadKind::LongLived.word(), c.opened, c.survived, c.broken, c.excused, c.slowest_ms);
    let others = report
        .load
        .iter()
        .map(|(kind, c)| (kind.word(), c.opened, c.survived, c.broken, c.excused, c.slowest_ms));
    let mut text = "    <properties>\n".to_owned();
    for (kind, opened, survived, broken, excused, slowest) in [long_lived].into_iter().chain(others) {
        let value = format!(
            "{opened} opened, {survived} survived, {broken} broken, {excused} excused, slowest {slowest} ms"
        );
        let _ = writeln!(text, "      <property name=\"{kind}\" value=\"{value}\"/>");
    }
    text + "    </properties>\n"
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
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
    use super::*;
    use crate::load::mix::Mix;
    use crate::load::{Count, Summary};
    use crate::scenario::file::Expect;
    use crate::scenario::verdict::{EventSeen, Seen, judge};

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
        Run { report: judge("01-x", "second-chance", (0, &mix), &Expect::default(), &seen), seconds: 1.5 }
    }

    #[test]
    fn junit_counts_failures_and_escapes_what_it_quotes() {
        let xml = junit(&[run(None), run(Some("it says \"no\" & goes"))]);
        assert!(xml.contains("tests=\"2\" failures=\"1\" time=\"3.0\""), "{xml}");
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
            assert!(
                xml.contains(&format!("<property name=\"{}\" value=\"{count} opened", kind.word())),
                "{xml}"
            );
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
    fn table_shows_the_event_and_why_it_failed() {
        let text = table(&run(Some("gone")).report);
        assert!(text.contains("exec r1 a < b\n") && text.contains("problem: exec r1 a < b: gone"), "{text}");
    }
}
