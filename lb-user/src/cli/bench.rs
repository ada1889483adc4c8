//! `lb bench`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use super::Format;
use crate::bench::{self, Figure, Options};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rounds over all paths; figures are medians of them.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets per path and round.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    packets: u32,
    /// Only this path (besides the floor); may be given again.
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = Options { rounds: args.rounds as usize, repeat: args.packets, paths: args.paths.clone() };
    let terminal = std::io::stderr().is_terminal();
    let figures = bench::in_own_network(|| {
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
        Format::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
        Format::Text => print!("{}", table(&figures)),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(figures: &[Figure]) -> String {
    let mut text =
        format!("{:<15} {:>8} {:>8} {:>8} {:>8} {:>11}\n", "PATH", "FLOWS", "NS", "FROM", "TO", "OVER FLOOR");
    for Figure { path, flows, ns, over_floor } in figures {
        text += &format!(
            "{path:<15} {flows:>8} {:>8.0} {:>8.0} {:>8.0} {over_floor:>11.2}\n",
            ns.median, ns.min, ns.max
        );
    }
    text
}
