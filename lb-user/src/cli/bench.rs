//! `lb bench`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use super::Format;
use crate::bench::{self, Difference, Figure, Options, Report, Size};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rounds over all paths; figures are medians of them.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets per path and round.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    packets: u32,
    /// Packets per path that are run alone, each by a system call of its own, all paths in turn; 0: none.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    alone: u32,
    /// Only this path (besides the floor); may be given again.
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// Also measure a director with 10 000 services, 256 pools and 65 535 hosts loaded (takes half a minute and half a
    /// gigabyte).
    #[arg(long)]
    large: bool,
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
    let report = bench::in_own_network(|| {
        bench::run(&options, |round| {
            if terminal {
                eprint!("\rround {round} of {}", args.rounds);
                let _ = std::io::stderr().flush();
            }
        })
    })?;
    if terminal {
        eprintln!();
    }
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Text => print!("{}", text(&report)),
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let [path, flows, ns, from, to, above] = ["PATH", "FLOWS", "NS", "FROM", "TO", "ABOVE"];
    let [floor, p50, p99] = ["OVER FLOOR", "ALONE P50", "P99"];
    let mut text = format!(
        "{path:<17} {flows:>8} {ns:>6} {from:>6} {to:>6} {above:>6} {floor:>11} {p50:>10} {p99:>7}\n"
    );
    for Figure { path, flows, ns, over_floor, above_floor_ns, alone_ns } in &report.paths {
        let [p50, p99] = match alone_ns {
            Some(alone) => [alone.p50, alone.p99].map(|ns| ns.to_string()),
            None => ["-", "-"].map(Into::into),
        };
        text += &format!(
            "{path:<17} {flows:>8} {:>6.0} {:>6.0} {:>6.0} {above_floor_ns:>6.0} {over_floor:>11.2} {p50:>10} {p99:>7}\n",
            ns.median, ns.min, ns.max
        );
    }
    if report.paths.iter().any(|figure| figure.alone_ns.is_some()) {
        text += "\nALONE: each packet by a system call of its own, among those of all paths, so with cold caches. The call is\n\
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Alone, Nanoseconds};

    fn figure(path: &'static str, flows: u32, alone_ns: Option<Alone>) -> Figure {
        let ns = Nanoseconds { median: 104.0, min: 96.0, max: 131.0 };
        Figure { path, flows, ns, over_floor: 3.25, above_floor_ns: 72.0, alone_ns }
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
PATH                 FLOWS     NS   FROM     TO  ABOVE  OVER FLOOR  ALONE P50     P99
host_rescue4       1048576    104     96    131     72        3.25        870    1963

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
PATH                 FLOWS     NS   FROM     TO  ABOVE  OVER FLOOR  ALONE P50     P99
floor                    1    104     96    131     72        3.25          -       -
";
        assert_eq!(text(&report), expected);
    }
}
