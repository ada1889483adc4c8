//! `lb bench`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use super::Format;
use crate::bench::{self, Figure, Options, Size};

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
    /// Also measure a director with 10 000 services, 256 pools and 65 535 hosts loaded (takes half a minute and half a
    /// gigabyte).
    #[arg(long)]
    large: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (rounds, paths) = (args.rounds as usize, args.paths.clone());
    let options = Options { rounds, repeat: args.packets, paths, large: args.large };
    let terminal = std::io::stderr().is_terminal();
    let (figures, sizes) = bench::in_own_network(|| {
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
        Format::Text => print!("{}\n{}", table(&figures), programs(&sizes)),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<17} {:>8} {:>6} {:>6} {:>6} {:>6} {:>11}\n",
        "PATH", "FLOWS", "NS", "FROM", "TO", "ABOVE", "OVER FLOOR"
    );
    for Figure { path, flows, ns, over_floor, above_floor_ns } in figures {
        text += &format!(
            "{path:<17} {flows:>8} {:>6.0} {:>6.0} {:>6.0} {above_floor_ns:>6.0} {over_floor:>11.2}\n",
            ns.median, ns.min, ns.max
        );
    }
    text
}

/// What the verifier and the compiler of the kernel made of the programs.
fn programs(sizes: &[Size]) -> String {
    let mut text = format!("{:<17} {:>8} {:>12} {:>6}\n", "PROGRAM", "VERIFIED", "INSTRUCTIONS", "BYTES");
    for Size { program, verified, instructions, bytes } in sizes {
        text += &format!("{program:<17} {verified:>8} {instructions:>12} {bytes:>6}\n");
    }
    text
}
