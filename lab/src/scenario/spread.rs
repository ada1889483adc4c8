//! Several runs of the same scenario in the same flavour: median and spread of each figure.

use std::fmt::Write;

use serde::Serialize;

use super::report::Run;
use super::verdict::{Report, Verdict};

/// A figure of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number, the lower of the two.
    pub median: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

impl Spread {
    fn of(mut figures: Vec<u64>) -> Self {
        figures.sort_unstable();
        let at = |index: usize| figures.get(index).copied().unwrap_or_default();
        Self {
            median: at(figures.len().saturating_sub(1) / 2),
            min: at(0),
            max: at(figures.len().saturating_sub(1)),
        }
    }

    fn text(self) -> String {
        match (self.min, self.max) {
            (min, max) if min == max => min.to_string(),
            (min, max) => format!("{} ({min}–{max})", self.median),
        }
    }
}

/// All runs of one scenario in one flavour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The scenario's name.
    pub scenario: String,
    /// How flows keep to their hosts.
    pub affinity: String,
    /// How many runs.
    pub runs: usize,
    /// How many of them passed.
    pub passed: usize,
    /// Connections, transfers and flows that broke.
    pub broken: Spread,
    /// Of how many that were opened.
    pub opened: Spread,
    /// New requests that failed, and transfers that could not begin.
    pub failed: Spread,
    /// The longest stall, in ms.
    pub stall_ms: Spread,
    /// Packets that hosts rescued.
    pub rescued: Spread,
}

/// A summary per scenario and flavour, in the order in which they first appear.
pub fn summaries(runs: &[Run]) -> Vec<Summary> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        let key = key(&run.report);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.into_iter()
        .map(|wanted| summary(runs.iter().map(|run| &run.report).filter(|r| key(r) == wanted).collect()))
        .collect()
}

fn key(report: &Report) -> (&str, &str) {
    (&report.scenario, &report.affinity)
}

fn summary(reports: Vec<&Report>) -> Summary {
    let spread =
        |figure: fn(&Report) -> u64| Spread::of(reports.iter().map(|report| figure(report)).collect());
    Summary {
        scenario: reports[0].scenario.clone(),
        affinity: reports[0].affinity.clone(),
        runs: reports.len(),
        passed: reports.iter().filter(|report| report.verdict == Verdict::Pass).count(),
        broken: spread(|report| report.total().broken),
        opened: spread(|report| report.total().opened),
        failed: spread(|report| report.total().failed),
        stall_ms: spread(|report| report.stall.longest_ms),
        rescued: spread(|report| report.events.iter().map(|event| event.rescued).sum()),
    }
}

/// The summaries for people, a line each: the median, and from the least to the most where runs differ.
pub fn table(summaries: &[Summary]) -> String {
    let width = summaries.iter().map(|summary| summary.scenario.len()).max().unwrap_or(0).max(8);
    let mut text = format!(
        "{:<width$}  {:<13}  {:>4} {:>6} {:>14} {:>14} {:>22} {:>22}\n",
        "median (min–max)",
        "affinity",
        "runs",
        "passed",
        "broken",
        "failed",
        "longest stall in ms",
        "rescued"
    );
    for summary in summaries {
        let _ = writeln!(
            text,
            "{:<width$}  {:<13}  {:>4} {:>6} {:>14} {:>14} {:>22} {:>22}",
            summary.scenario,
            summary.affinity,
            summary.runs,
            summary.passed,
            summary.broken.text(),
            summary.failed.text(),
            summary.stall_ms.text(),
            summary.rescued.text()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file::Expect;
    use crate::scenario::verdict::{Seen, judge};

    fn run(scenario: &str, affinity: &str, failed: u64) -> Run {
        let mut seen = Seen::default();
        seen.summary.failed = failed;
        Run { report: judge(scenario, affinity, 0, &Expect::default(), &seen), seconds: 1.0 }
    }

    #[test]
    fn spread_is_the_median_between_the_least_and_the_most() {
        assert_eq!(Spread::of(vec![9, 1, 5]), Spread { median: 5, min: 1, max: 9 });
        assert_eq!(Spread::of(vec![4, 1, 2, 3]).median, 2);
        assert_eq!(Spread::of(vec![7, 7]).text(), "7");
        assert_eq!(Spread::of(vec![9, 1, 5]).text(), "5 (1–9)");
    }

    #[test]
    fn runs_of_a_scenario_in_a_flavour_are_summed_up_whatever_their_order() {
        let runs = [run("a", "x", 3), run("a", "y", 0), run("b", "x", 1), run("a", "x", 0), run("a", "x", 8)];
        let found = summaries(&runs);
        let keys: Vec<_> = found.iter().map(|s| (&*s.scenario, &*s.affinity, s.runs, s.passed)).collect();
        assert_eq!(keys, [("a", "x", 3, 1), ("a", "y", 1, 1), ("b", "x", 1, 0)]);
        assert_eq!(found[0].failed, Spread { median: 3, min: 0, max: 8 });
        assert!(table(&found).contains("3 (0–8)"), "{}", table(&found));
    }
}
