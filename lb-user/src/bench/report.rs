//! What is reported of what was measured: pure functions.

use serde::Serialize;

use super::spread::{Spread, percentile};

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
    /// Nanoseconds per packet of many in a row, through the wrapper.
    pub ns: Spread,
    /// Nanoseconds more than `null` took in the same round: what the program itself costs, since all that the wrapper does
    /// is in both.
    pub net_of_null: Spread,
    /// Median over the median of the floor.
    pub over_floor: f64,
    /// Nanoseconds more than the floor's median.
    pub above_floor_ns: f64,
    /// Packets that are run alone; none if none were.
    pub alone_ns: Option<Alone>,
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
        let rounds = |path| {
            let found = times.iter().find(|times| times.path == path);
            found.map_or(&[][..], |times| times.rounds.as_slice())
        };
        let (null, floor) = (rounds("null"), Spread::of(rounds("floor").iter().copied()).median);
        let figure = |times: &Times| {
            let ns = Spread::of(times.rounds.iter().copied());
            Figure {
                path: times.path,
                flows: times.flows,
                ns,
                net_of_null: Spread::of(times.rounds.iter().zip(null).map(|(ns, null)| ns - null)),
                over_floor: ns.median / floor,
                above_floor_ns: ns.median - floor,
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

fn alone(times: &[u32]) -> Option<Alone> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    Some(Alone { packets: sorted.len(), p50: percentile(&sorted, 50)?, p99: percentile(&sorted, 99)? })
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
        assert_eq!(figures[0].ns, Spread { median: 80.0, q1: 70.0, q3: 90.0, min: 70.0, max: 90.0 });
        assert!((figures[0].over_floor - 80.0 / 41.0).abs() < 1e-9);
        assert!((figures[1].over_floor - 1.0).abs() < 1e-9);
        assert_eq!((figures[0].alone_ns, report.rescue_over_local), (None, vec![]));
    }

    #[test]
    fn net_of_null_is_taken_round_by_round() {
        // The machine was busy in the second round, for both alike.
        let (tcp4, null) = ([90.0, 130.0, 91.0], [40.0, 79.0, 42.0]);
        let report = Report::of(&[times("null", 1, &null, &[]), times("tcp4", 1, &tcp4, &[])], vec![]);
        let net = Spread { median: 50.0, q1: 49.0, q3: 51.0, min: 49.0, max: 51.0 };
        assert_eq!(report.paths[1].net_of_null, net);
        assert!(report.paths[0].net_of_null.max.abs() < 1e-9);
    }

    #[test]
    fn percentiles_of_packets_alone_do_not_depend_on_their_order() {
        // The dearest packet of a hundred is beyond the 99th percentile, two are not.
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
