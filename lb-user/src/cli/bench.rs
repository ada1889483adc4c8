//! `lb bench`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;

use super::Format;
use crate::bench::against::{self, Comparison, LEAST_ROUNDS, Older, Pair};
use crate::bench::{self, Difference, Figure, Options, Report, Size};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rounds over all paths; figures are medians of them.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets per path and round.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    packets: u32,
    /// Packets per path that are run alone, each by a system call of its own, all paths in turn; 0: none.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    alone: u32,
    /// Only this path (besides the floor and null); may be given again.
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// Also measure a director with 10 000 services, 256 pools and 65 535 hosts loaded (takes half a minute and half a
    /// gigabyte).
    #[arg(long)]
    large: bool,
    /// Compare with an older object file, a director's or a host's by the programs in it: both run in turn. Exit code 1 if
    /// the present object is slower: the median ratio of a path is above 1.02.
    #[arg(long, value_name = "OBJECT", conflicts_with = "alone")]
    against: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = Options {
        rounds: args.rounds as usize,
        repeat: args.packets,
        alone: args.alone as usize,
        paths: args.paths.clone(),
        large: args.large,
    };
    let terminal = std::io::stderr().is_terminal();
    let progress = |round| {
        if terminal {
            eprint!("\rround {round} of {}", args.rounds);
            let _ = std::io::stderr().flush();
        }
    };
    let Some(path) = &args.against else {
        let report = bench::in_own_network(|| bench::run(&options, progress))?;
        done(terminal);
        print(args.format, &report, text)?;
        return Ok(ExitCode::SUCCESS);
    };
    ensure!(
        args.rounds >= LEAST_ROUNDS,
        "--against judges by at least {LEAST_ROUNDS} rounds; leave out --rounds {}",
        args.rounds
    );
    let older = Older::read(path)?;
    let comparison = bench::in_own_network(|| against::compare(&older, &options, progress))?;
    done(terminal);
    print(args.format, &comparison, compared)?;
    Ok(if comparison.slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Ends the line of progress.
fn done(terminal: bool) {
    if terminal {
        eprintln!();
    }
}

fn print<T: serde::Serialize>(format: Format, value: &T, text: fn(&T) -> String) -> anyhow::Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Format::Text => print!("{}", text(value)),
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let [path, flows, ns, q1, q3, net] = ["PATH", "FLOWS", "NS", "Q1", "Q3", "NET"];
    let [floor, p50, p99] = ["OVER FLOOR", "ALONE P50", "P99"];
    let mut text = format!(
        "{path:<17} {flows:>8} {ns:>6} {q1:>6} {q3:>6} {net:>6} {q1:>6} {q3:>6} {floor:>11} {p50:>10} {p99:>7}\n"
    );
    for Figure { path, flows, ns, net_of_null: net, over_floor, alone_ns, .. } in &report.paths {
        let [p50, p99] = match alone_ns {
            Some(alone) => [alone.p50, alone.p99].map(|ns| ns.to_string()),
            None => ["-", "-"].map(Into::into),
        };
        text += &format!(
            "{path:<17} {flows:>8} {:>6.1} {:>6.1} {:>6.1} {:>6.1} {:>6.1} {:>6.1} {over_floor:>11.2} {p50:>10} {p99:>7}\n",
            ns.median, ns.q1, ns.q3, net.median, net.q1, net.q3
        );
    }
    text += "\nNS: nanoseconds per packet, through a wrapper that restores it. NET: more than null takes in the same round, which is\n\
             what the program itself costs. Both are medians, with their quartiles.\n";
    if report.paths.iter().any(|figure| figure.alone_ns.is_some()) {
        text += "ALONE: each packet by a system call of its own, among those of all paths, so with cold caches. The call is\n\
                 not in the time; two readings of the clock are, as in null.\n";
    }
    for Difference { flows, p50_ns, p99_ns } in &report.rescue_over_local {
        text += &format!(
            "host_rescue4 over host_local4, alone, {flows} flow{}: {p50_ns} ns at the median, {p99_ns} ns at the 99th \
             percentile\n",
            if *flows == 1 { "" } else { "s" }
        );
    }
    text + &programs(&report.programs)
}

/// What the verifier and the compiler of the kernel made of the programs.
fn programs(sizes: &[Size]) -> String {
    if sizes.is_empty() {
        return String::new();
    }
    let [program, verified, states] = ["PROGRAM", "VERIFIED", "STATES"];
    let mut text =
        format!("\n{program:<17} {verified:>8} {states:>7} {:>12} {:>6}\n", "INSTRUCTIONS", "BYTES");
    for Size { program, verified, states, instructions, bytes } in sizes {
        let states = states.map_or("-".to_owned(), |states| states.to_string());
        text += &format!("{program:<17} {verified:>8} {states:>7} {instructions:>12} {bytes:>6}\n");
    }
    text
}

fn compared(comparison: &Comparison) -> String {
    let Comparison { against, object, rounds, limit, slower, paths } = comparison;
    let [path, flows, older, present, net] = ["PATH", "FLOWS", "OLDER", "PRESENT", "NET"];
    let [ratio, q1, q3] = ["RATIO", "Q1", "Q3"];
    let mut text = format!(
        "{path:<17} {flows:>8} {older:>7} {net:>6} {present:>8} {net:>6} {ratio:>7} {q1:>6} {q3:>6}\n"
    );
    for pair in paths {
        let Pair { path, flows, older_ns, present_ns, older_net, present_net, ratio, slower, .. } = pair;
        let verdict = if *slower { "  slower" } else { "" };
        text += &format!(
            "{path:<17} {flows:>8} {:>7.1} {:>6.1} {:>8.1} {:>6.1} {:>7.3} {:>6.3} {:>6.3}{verdict}\n",
            older_ns.median,
            older_net.median,
            present_ns.median,
            present_net.median,
            ratio.median,
            ratio.q1,
            ratio.q3
        );
    }
    for Pair { path, .. } in paths.iter().filter(|pair| !pair.same_packet) {
        text += &format!("{path}: the two make different packets of it, so they do different work\n");
    }
    text += &format!(
        "\nThe {object} of this release against {against}, both in turn, {rounds} rounds. Nanoseconds per packet through the\n\
         wrapper, and net of null: medians. RATIO: present ÷ older by round, its median and quartiles.\n"
    );
    let judgement = if *slower { "slower on some paths" } else { "not slower" };
    text + &format!("{judgement}: not slower is a median ratio of at most {limit} on every path\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Alone, Spread};

    fn spread(median: f64) -> Spread {
        Spread { median, q1: median - 1.0, q3: median + 2.0, min: median - 8.0, max: median + 27.0 }
    }

    fn figure(path: &'static str, flows: u32, alone_ns: Option<Alone>) -> Figure {
        let (ns, net_of_null) = (spread(104.0), spread(64.26));
        Figure { path, flows, ns, net_of_null, over_floor: 3.25, above_floor_ns: 72.0, alone_ns }
    }

    #[test]
    fn what_is_run_alone_has_its_columns_and_passing_on_its_line() {
        let alone = Some(Alone { packets: 10_000, p50: 870, p99: 1963 });
        let report = Report {
            paths: vec![figure("host_rescue4", 1 << 20, alone)],
            rescue_over_local: vec![Difference { flows: 1 << 20, p50_ns: 210, p99_ns: 480 }],
            programs: vec![Size {
                program: "host",
                verified: 10_574,
                states: Some(512),
                instructions: 1800,
                bytes: 9000,
            }],
        };
        let expected = "\
PATH                 FLOWS     NS     Q1     Q3    NET     Q1     Q3  OVER FLOOR  ALONE P50     P99
host_rescue4       1048576  104.0  103.0  106.0   64.3   63.3   66.3        3.25        870    1963

NS: nanoseconds per packet, through a wrapper that restores it. NET: more than null takes in the same round, which is
what the program itself costs. Both are medians, with their quartiles.
ALONE: each packet by a system call of its own, among those of all paths, so with cold caches. The call is
not in the time; two readings of the clock are, as in null.
host_rescue4 over host_local4, alone, 1048576 flows: 210 ns at the median, 480 ns at the 99th percentile

PROGRAM           VERIFIED  STATES INSTRUCTIONS  BYTES
host                 10574     512         1800   9000
";
        assert_eq!(text(&report), expected);
        let report =
            Report { paths: vec![figure("floor", 1, None)], rescue_over_local: vec![], programs: vec![] };
        let expected = "\
PATH                 FLOWS     NS     Q1     Q3    NET     Q1     Q3  OVER FLOOR  ALONE P50     P99
floor                    1  104.0  103.0  106.0   64.3   63.3   66.3        3.25          -       -

NS: nanoseconds per packet, through a wrapper that restores it. NET: more than null takes in the same round, which is
what the program itself costs. Both are medians, with their quartiles.
";
        assert_eq!(text(&report), expected);
    }

    #[test]
    fn a_comparison_says_which_path_is_slower_and_which_compares_unlike_work() {
        let ratio = |median: f64| Spread { median, q1: median - 0.01, q3: median + 0.02, min: 0.9, max: 1.3 };
        let pair = |path, ratio: Spread, same_packet| Pair {
            path,
            flows: 1,
            older_ns: spread(120.0),
            present_ns: spread(96.04),
            older_net: spread(75.0),
            present_net: spread(51.0),
            ratio,
            slower: ratio.median > 1.02,
            same_packet,
        };
        let mut comparison = Comparison {
            against: "older.o".to_owned(),
            object: "director",
            rounds: 21,
            limit: 1.02,
            slower: true,
            paths: vec![pair("tcp4", ratio(0.8), true), pair("pass4", ratio(1.031), false)],
        };
        let expected = "\
PATH                 FLOWS   OLDER    NET  PRESENT    NET   RATIO     Q1     Q3
tcp4                     1   120.0   75.0     96.0   51.0   0.800  0.790  0.820
pass4                    1   120.0   75.0     96.0   51.0   1.031  1.021  1.051  slower
pass4: the two make different packets of it, so they do different work

The director of this release against older.o, both in turn, 21 rounds. Nanoseconds per packet through the
wrapper, and net of null: medians. RATIO: present ÷ older by round, its median and quartiles.
slower on some paths: not slower is a median ratio of at most 1.02 on every path
";
        assert_eq!(compared(&comparison), expected);
        comparison.paths.truncate(1);
        comparison.slower = false;
        assert!(
            compared(&comparison)
                .ends_with("\nnot slower: not slower is a median ratio of at most 1.02 on every path\n")
        );
    }
}
