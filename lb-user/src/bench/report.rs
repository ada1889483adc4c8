//! What is reported of what was measured: pure functions.

use serde::Serialize;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// All paths in order.
    pub paths: Vec<Figure>,
    /// What a packet that a host passes on costs it more than one of its own; if both were run alone.
    pub rescue_over_local: Vec<Difference>,
    /// The programs that were measured.
    pub programs: Vec<Size>,
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Its name.
    pub program: &'static str,
    /// Instructions that the verifier went through, on all ways.
    pub verified: u32,
    /// States that it kept; none if its log could not be had.
    pub states: Option<u32>,
    /// Instructions of the program as it runs.
    pub instructions: u32,
    /// Bytes of machine code.
    pub bytes: u32,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub path: &'static str,
    /// Different flows in turn.
    pub flows: u32,
    /// Per packet of many in a row.
    pub ns: Nanoseconds,
    /// Median over the median of the floor.
    pub over_floor: f64,
    /// Nanoseconds more than the floor's median: what depends least on the wrapper, whose time is in both.
    pub above_floor_ns: f64,
    /// Packets that are run alone; none if none were.
    pub alone_ns: Option<Alone>,
}

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Nanoseconds {
    /// Median of the rounds.
    pub median: f64,
    /// The quickest round.
    pub min: f64,
    /// The slowest.
    pub max: f64,
}

/// Nanoseconds of packets that are run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Alone {
    /// As many.
    pub packets: usize,
    /// Median.
    pub p50: u32,
    /// 99th percentile.
    pub p99: u32,
}

/// How much longer one path takes than another, in nanoseconds: differences of percentiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Different flows in turn on the dearer path.
    pub flows: u32,
    /// Of the medians.
    pub p50_ns: i64,
    /// Of the 99th percentiles.
    pub p99_ns: i64,
}

/// What was measured of one path.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub path: &'static str,
    pub flows: u32,
    /// Nanoseconds per packet, by round.
    pub rounds: Vec<f64>,
    /// Nanoseconds of each packet that was run alone.
    pub alone: Vec<u32>,
}

impl Report {
    /// The report of what was measured.
    pub(super) fn of(times: &[Times], programs: Vec<Size>) -> Self {
        let floor = times.iter().find(|times| times.path == "floor");
        let floor = floor.map_or(f64::NAN, |floor| nanoseconds(&floor.rounds).median);
        let figure = |times: &Times| {
            let ns = nanoseconds(&times.rounds);
            let (over_floor, above_floor_ns) = (ns.median / floor, ns.median - floor);
            Figure {
                path: times.path,
                flows: times.flows,
                ns,
                over_floor,
                above_floor_ns,
                alone_ns: alone(&times.alone),
            }
        };
        let paths: Vec<Figure> = times.iter().map(figure).collect();
        Report { rescue_over_local: differences(&paths, "host_rescue4", "host_local4"), paths, programs }
    }
}

/// How much longer packets of `dear` take than those of `cheap`, when they are run alone.
fn differences(paths: &[Figure], dear: &str, cheap: &str) -> Vec<Difference> {
    let alone = |figure: &Figure| figure.alone_ns.map(|alone| (figure.flows, alone));
    let of = |path| paths.iter().filter(move |figure| figure.path == path).filter_map(alone);
    let Some((_, cheap)) = of(cheap).next() else { return Vec::new() };
    let difference = |(flows, dear): (u32, Alone)| Difference {
        flows,
        p50_ns: i64::from(dear.p50) - i64::from(cheap.p50),
        p99_ns: i64::from(dear.p99) - i64::from(cheap.p99),
    };
    of(dear).map(difference).collect()
}

fn nanoseconds(times: &[f64]) -> Nanoseconds {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    Nanoseconds { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
}

fn alone(times: &[u32]) -> Option<Alone> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    Some(Alone { packets: sorted.len(), p50: percentile(&sorted, 50)?, p99: percentile(&sorted, 99)? })
}

/// The least of the sorted values that so many percent of them do not exceed.
fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(path: &'static str, flows: u32, rounds: &[f64], alone: &[u32]) -> Times {
        Times { path, flows, rounds: rounds.to_vec(), alone: alone.to_vec() }
    }

    #[test]
    fn figures_are_medians_over_the_floors() {
        let report = Report::of(
            &[times("tcp4", 1, &[90.0, 70.0, 80.0], &[]), times("floor", 1, &[50.0, 40.0, 41.0], &[])],
            vec![],
        );
        let figures = report.paths;
        assert_eq!(figures[0].ns, Nanoseconds { median: 80.0, min: 70.0, max: 90.0 });
        assert!((figures[0].over_floor - 80.0 / 41.0).abs() < 1e-9);
        assert!((figures[1].over_floor - 1.0).abs() < 1e-9);
        assert_eq!((figures[0].alone_ns, report.rescue_over_local), (None, vec![]));
    }

    #[test]
    fn a_percentile_is_the_least_value_that_so_many_percent_do_not_exceed() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (Some(50), Some(99)));
        let more: Vec<u32> = (1..=101).collect();
        assert_eq!((percentile(&more, 50), percentile(&more, 99)), (Some(51), Some(100)));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (Some(7), Some(7)));
        assert_eq!(percentile(&[], 99), None);
        // The dearest packet of a hundred is beyond the 99th percentile, two are not; order does not matter.
        let mut times = vec![5; 100];
        times[0] = 900;
        assert_eq!(alone(&times), Some(Alone { packets: 100, p50: 5, p99: 5 }));
        times[50] = 800;
        assert_eq!(alone(&times), Some(Alone { packets: 100, p50: 5, p99: 800 }));
    }

    #[test]
    fn what_passing_on_costs_more_is_the_difference_of_percentiles() {
        let ns = [1.0];
        let report = Report::of(
            &[
                times("floor", 1, &ns, &[1, 1, 1]),
                times("host_local4", 1, &ns, &[200, 300, 250]),
                times("host_rescue4", 1, &ns, &[270, 450, 290]),
                times("host_rescue4", 1 << 20, &ns, &[240, 290, 230]),
            ],
            vec![],
        );
        let one = Difference { flows: 1, p50_ns: 40, p99_ns: 150 };
        let many = Difference { flows: 1 << 20, p50_ns: -10, p99_ns: -10 };
        assert_eq!(report.rescue_over_local, [one, many]);
    }
}
