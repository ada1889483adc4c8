//! `lb agent`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use tracing_subscriber::EnvFilter;

use crate::agent::{self, dataplane::Kernel};
use crate::config::{Config, DEFAULT_FILE};
use crate::descriptors;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// Capabilities that a director or host needs, by their numbers in `linux/capability.h`.
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// Libraries that read packets and requests of whoever sends them.
const FED_BY_STRANGERS: [&str; 6] = ["hickory_proto", "hyper", "hyper_util", "h2", "rustls", "tower"];
/// Grants BPF and PERFMON as well.
const SYS_ADMIN: u32 = 21;

pub(super) fn run(args: Args, kernel: Arc<dyn Kernel>) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    if config.director.is_some() || config.host.is_some() {
        let missing = missing(effective_capabilities()?);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            bail!(
                "agent: the roles of director and host need {missing}; run `lb agent` as root or grant these"
            );
        }
    }
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(log_filter())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    descriptors::raise();
    // One worker is plenty: blocking work has threads of its own, and a node runs much else.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(agent::run(args.config, config, kernel))?;
    Ok(ExitCode::SUCCESS)
}

/// `RUST_LOG`, else states that an operator cares about. Never a line of the libraries that read what strangers send: they write
/// some per packet, with bytes of it.
fn log_filter() -> EnvFilter {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let silenced = FED_BY_STRANGERS.iter().filter_map(|library| format!("{library}=off").parse().ok());
    silenced.fold(chosen, EnvFilter::add_directive)
}

fn effective_capabilities() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    Ok(u64::from_str_radix(set.trim(), 16)?)
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective & (1 << number) != 0;
    let granted = |number| has(number) || (number != 12 && has(SYS_ADMIN));
    NEEDED.into_iter().filter(|(_, number)| !granted(*number)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(missing(1 << 12 | 1 << 38 | 1 << 39).is_empty());
        assert!(missing(u64::MAX).is_empty());
    }
}
