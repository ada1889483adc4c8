//! `lab`: the whole load balancer on one machine.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match lab::cli::run(lab::cli::Cli::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
