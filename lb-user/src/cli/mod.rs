//! The command line: one file per command. Each returns its exit code; errors are printed once, here.

mod agent;
mod bench;
mod capture;
mod check;
pub(crate) mod client;
mod detach;
mod dns;
mod edit;
mod leave;
mod offline;
mod plan;
mod pool;
mod reload;
mod replay;
mod status;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};

use crate::agent::dataplane::Kernel;
use crate::config::{Config, DEFAULT_API, DEFAULT_FILE};

/// The agent and the command line of the load balancer.
///
/// Exit codes: 0 all is well, 1 there is a problem, 2 the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "lb", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node until SIGTERM; packets and announcements go on without it.
    #[command(
        after_help = "Example: lb agent --config /etc/lb/lb.yaml\n\nSIGHUP reloads, as `lb reload` does."
    )]
    Agent(agent::Args),
    /// Check a configuration and change nothing; all that is wrong is listed at once.
    #[command(after_help = "Example: lb check /etc/lb/lb.yaml && lb reload")]
    Check(check::Args),
    /// Show what the agent does: readiness, services, hosts, announcements.
    #[command(
        after_help = "Example: lb status --format json | jq .ready\n\nExit code 0 only if the node is ready."
    )]
    Status(status::Args),
    /// Have the agent read its configuration again; a wrong one is refused and the last one stays in force.
    #[command(after_help = "Example: lb reload")]
    Reload(reload::Args),
    /// Say what a change of a pool would do, and change nothing.
    #[command(after_help = "Example: lb plan drain lb7-3\n\nExit code 1 if the change would be refused.")]
    Plan(plan::Args),
    /// Show and change pools: hosts that join and leave, generations.
    #[command(after_help = "Example: lb pool add web lb7-14=192.0.2.152,2001:db8::c000:298")]
    Pool(pool::Args),
    /// Give hosts no new connections; those that they have go on.
    #[command(
        after_help = "Example: lb drain lb7-3 && lb pool remove web lb7-3 --when-safe\n\nShows the plan first and asks, on a terminal."
    )]
    Drain(pool::Hosts),
    /// Give hosts that were drained new connections again.
    #[command(after_help = "Example: lb undrain lb7-3")]
    Undrain(pool::Hosts),
    /// Change a host's share of new connections.
    #[command(after_help = "Example: lb weight lb7-3 5")]
    Weight(pool::Weight),
    /// Have VIPs leave this node: out of the names' answers first, then unused, then out of BGP. Exit code 0 when withdrawn.
    #[command(after_help = "Example: lb leave 198.51.100.1\n\x20        lb leave --all --no-wait\n\n\
        Writes the order into `leave_file`, which outlives restarts, and follows it. ^C ends the command, not the order.")]
    Leave(leave::Leave),
    /// Have VIPs that left announced again; names are answered with them when they are.
    #[command(after_help = "Example: lb return 198.51.100.1")]
    Return(leave::Return),
    /// The name server: what it answers and why, and addresses that the operator takes out.
    #[command(after_help = "Example: lb dns explain www.example.org --from 203.0.113.7\n\
        \x20        lb dns drain 198.51.100.1")]
    Dns(dns::Args),
    /// Say which way a flow or packet takes: service, generation, row, owners, host, next hop, MTU, and why.
    #[command(after_help = "Example: lb trace tcp 203.0.113.7:40000 198.51.100.1:80\n\
        \x20        lb trace udp [2001:db8::7]:40000 [2001:db8::c633:6401]:53 --size 1400\n\
        \x20        lb trace --hex \"4500 0028 …\" --format json\n\n\
        Asks the director that runs here; with --offline, a configuration. No packet is sent.")]
    Trace(trace::Args),
    /// Run the packets of a capture through the director's real program and say what becomes of each. Needs root.
    #[command(
        after_help = "Example: lb replay users.pcap --config /etc/lb/lb.yaml --sick lb7-3 --totals\n\n\
        Goes by the configuration, with all hosts healthy and reachable but those named by --sick; no interface and no \
        agent is touched. Reads pcap and pcapng. What was not captured of a packet is taken as zeros.\n\
        Exit code 1 if a packet cannot be read or run."
    )]
    Replay(replay::Args),
    /// Capture packets with the verdict that the running director gives them, as pcapng or a line each. Needs root.
    #[command(
        after_help = "Example: lb capture drops.pcapng --reason no_host --reason too_big --seconds 10\n\
        \x20        lb capture --vip 198.51.100.1 --sample 100\n\
        \x20        ssh lb4-1 lb capture - | wireshark -k -i -\n\n\
        Packets are captured as they leave: with their outer header, if they are sent to a host. A program that tells of \
        packets takes the place of the director's own while the command runs, over the same tables; ^C puts that back. \
        Costs nothing otherwise. --vip and --service choose among what was captured; a sample is taken before that."
    )]
    Capture(capture::Args),
    /// Measure what the programs cost per packet, as a ratio to the least that any director must do. Needs root.
    #[command(after_help = "Example: lb bench --path tcp4 --path host_local4\n\
        \x20        lb bench --against older/director.o\n\n\
        Everything runs in the kernel on made-up packets; no traffic is touched. Compare ratios, not nanoseconds.\n\
        Packets in a row have warm caches. Those that are run alone find caches as the system call between them leaves \
        them, and are told by median and 99th percentile.")]
    Bench(bench::Args),
    /// Withdraw all VIPs, then remove programs and pins, then end the agent. This node forwards nothing afterwards.
    #[command(after_help = "Example: systemctl stop lb; lb detach --config /etc/lb/lb.yaml")]
    Detach(detach::Args),
}

/// The running agent.
#[derive(Debug, clap::Args)]
struct Api {
    /// Unix socket of the agent's API [default: `api` of the configuration, if it can be read].
    #[arg(long, value_name = "SOCKET", global = true)]
    api: Option<PathBuf>,
    /// The agent's configuration, for its `api`.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE, global = true)]
    config: PathBuf,
}

impl Api {
    /// The socket that is meant.
    fn socket(&self) -> PathBuf {
        let configured = || Config::load(&self.config).ok().map(|config| config.api);
        self.api.clone().or_else(configured).unwrap_or_else(|| DEFAULT_API.into())
    }
}

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Runs the command line of this process.
pub fn run(kernel: Arc<dyn Kernel>) -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(args, kernel),
        Command::Bench(args) => bench::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Pool(args) => pool::run(&args),
        Command::Drain(args) => args.run(pool::Hosts::drain),
        Command::Undrain(args) => args.run(pool::Hosts::undrain),
        Command::Weight(args) => args.run(),
        Command::Leave(args) => leave::leave(&args),
        Command::Return(args) => leave::give_back(&args),
        Command::Dns(args) => dns::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Detach(args) => detach::run(&args, kernel),
    };
    result.unwrap_or_else(|error| {
        // Several lines are several errors, each complete.
        for line in shown(&error).lines() {
            eprintln!("lb: {line}");
        }
        ExitCode::FAILURE
    })
}

/// An error with its causes, but for causes that its message tells already.
fn shown(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

/// A runtime for commands that talk and wait; the agent has its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_has_an_example() {
        Cli::command().debug_assert();
        let mut cli = Cli::command();
        for command in cli.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example: "), "{help}");
        }
    }

    #[test]
    fn options_stand_before_or_behind_the_change_of_a_plan() {
        for line in [
            "lb plan --config /x drain a --format json",
            "lb plan drain a --config /x",
            "lb drain a --config /x --wait 2s -y",
            "lb pool add web a=192.0.2.1,2001:db8::1 --weight 3 --create --size 251 --config /x",
            "lb pool remove web a --when-safe --config /x",
            "lb leave 198.51.100.1 2001:db8:5::/64 --force --no-wait --config /x",
            "lb leave --all --now --format json",
            "lb return --all --config /x",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("disk full");
        assert_eq!(shown(&anyhow::Error::from(cause).context("cannot save")), "cannot save: disk full");
        let cause = std::io::Error::other("disk full");
        assert_eq!(
            shown(&anyhow::Error::from(cause).context("cannot save: disk full; rm")),
            "cannot save: disk full; rm"
        );
    }

    #[test]
    fn the_socket_is_the_given_one_then_the_configured_one_then_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lb.yaml");
        let mut api = Api { api: None, config: file.clone() };
        assert_eq!(api.socket(), PathBuf::from(DEFAULT_API));
        std::fs::write(&file, "api: /run/x\nagent_check: {}\n").unwrap();
        assert_eq!(api.socket(), PathBuf::from("/run/x"));
        api.api = Some("/run/y".into());
        assert_eq!(api.socket(), PathBuf::from("/run/y"));
    }
}
