//! `lb check`: the agent's own way of loading, minus effects.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::Format;
use crate::config::{Config, DEFAULT_FILE, Effective};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration.
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    file: PathBuf,
    /// How to report; json has the configuration with every default filled in.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let result = Config::load(&args.file);
    match (&result, args.format) {
        (Ok(config), Format::Text) => println!("{}", summary(&args.file.display().to_string(), config)),
        (Err(_), Format::Text) => return Err(result.expect_err("it is wrong").into()),
        (Ok(config), Format::Json) => print(json!({"ok": true, "config": Effective::from(config)})),
        (Err(errors), Format::Json) => {
            print(json!({"ok": false, "file": errors.file, "errors": errors.problems}))
        }
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: serde_json::Value) {
    println!("{report:#}");
}

fn summary(file: &str, config: &Config) -> String {
    let model = &config.model;
    let hosts: usize = model.pools.values().map(|pool| pool.hosts.len()).sum();
    let zones = config.dns.as_ref().map(|dns| format!(", {}", counted(dns.zones.len(), "zone")));
    format!(
        "{file}: good: {}; {}, {}, {}{}",
        config.roles().join(" + "),
        counted(model.services.len(), "service"),
        counted(model.pools.len(), "pool"),
        counted(hosts, "host"),
        zones.unwrap_or_default(),
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_is_summed_up_in_one_line() {
        let text = "director: {interfaces: [e]}\npools: {w: {hosts: {a: {address4: 10.0.0.1}, b: {address4: 10.0.0.2}}}}\n";
        let config = Config::parse("lb.yaml", text, "n").unwrap();
        assert_eq!(summary("lb.yaml", &config), "lb.yaml: good: director; 0 services, 1 pool, 2 hosts");
    }
}
