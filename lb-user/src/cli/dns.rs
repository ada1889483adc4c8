//! `lb dns`.

mod text;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use hickory_proto::rr::Name;
use hyper::Method;

use self::text::{explanation_text, history_text, status_text};
use super::{Api, Format, client, runtime};
use crate::config::Config;
use crate::dns;
use crate::dns::corefile::corefile;
use crate::dns::delegation::delegation;
use crate::dns::dnssec::ZoneKey;
use crate::dns::history::Change;
use crate::dns::master;
use crate::dns::snapshot::Order;
use crate::dns::status::{DnsStatus, ExplainRequest, Explanation, OrderRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    api: Api,
    /// How to report.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show zones, names with their members, orders and counters; exit code 0 only if every name has a member that works.
    #[command(after_help = "Example: lb dns status")]
    Status,
    /// Say what is answered to a question, and why each address is in or out. Nothing is sent.
    #[command(after_help = "Example: lb dns explain www.example.org --from 203.0.113.7")]
    Explain {
        /// The name.
        name: String,
        /// The client that asks, or its network [default: 127.0.0.1].
        #[arg(long, value_name = "ADDRESS[/LENGTH]")]
        from: Option<String>,
        /// The type [default: A and AAAA].
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Print the records that the parent of a zone must have, by the configuration alone. No agent is asked.
    #[command(after_help = "Example: lb dns delegation api.example.com --config /etc/lb/lb.yaml")]
    Delegation {
        /// The zone [default: all].
        zone: Option<String>,
    },
    /// Print a zone as it is answered now, as a master file that other name servers read.
    #[command(after_help = "Example: lb dns zone example.org >example.org.zone")]
    Zone {
        /// The zone.
        zone: String,
    },
    /// Print a Corefile for a CoreDNS that answers from a sink, by the configuration alone. No agent is asked.
    #[command(after_help = "Example: lb dns corefile >/etc/coredns/Corefile")]
    Corefile {
        /// The sink, of type file or etcd [default: the only one].
        sink: Option<String>,
    },
    /// Make a key that a zone is signed with, in a file that only its owner can read, and print what the configuration and
    /// the parent zone need. No agent is asked.
    #[command(after_help = "Example: lb dns key example.org --file /etc/lb/example.org.key")]
    Key {
        /// The zone.
        zone: String,
        /// The file, which must not be there yet [default: /etc/lb/dnssec/ZONE.pem].
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Show what has changed of members, and when: what checks said, and what the operator ordered.
    #[command(after_help = "Example: lb dns history www.example.org")]
    History {
        /// A name with members, or an address [default: all].
        of: Option<String>,
    },
    /// Put an address back to what its checks say.
    #[command(after_help = "Example: lb dns up 198.51.100.1")]
    Up(Whom),
    /// Take an address out, whatever its checks say, also when no other works.
    #[command(after_help = "Example: lb dns down 198.51.100.1 --name www.example.org")]
    Down(Whom),
    /// Take an address out while others work.
    #[command(after_help = "Example: lb dns drain 198.51.100.1\n\n\
        Wait for the TTL of its names afterwards; resolvers that ignore it come still.")]
    Drain(Whom),
}

#[derive(Debug, clap::Args)]
struct Whom {
    /// The address.
    address: IpAddr,
    /// At this name only [default: at all names that have it].
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Status => status(args),
        Command::Explain { name, from, kind } => {
            let request = ExplainRequest { name: name.clone(), kind: kind.clone(), from: from.clone() };
            explain(args, &request)
        }
        Command::Delegation { zone } => delegations(args, zone.as_deref()),
        Command::Zone { zone } => print_zone(args, zone),
        Command::Corefile { sink } => {
            let text = corefile(&section(args)?, sink.as_deref()).map_err(anyhow::Error::msg)?;
            print_text(args, &text)
        }
        Command::Key { zone, file } => key(args, zone, file.as_deref()),
        Command::History { of } => history(args, of.as_deref()),
        Command::Up(whom) => order(args, whom, None),
        Command::Down(whom) => order(args, whom, Some(Order::Down)),
        Command::Drain(whom) => order(args, whom, Some(Order::Drain)),
    }
}

fn status(args: &Args) -> anyhow::Result<ExitCode> {
    let body = runtime()?.block_on(client::request(&args.api.socket(), Method::GET, "/v1/dns"))?;
    let status: DnsStatus = serde_json::from_slice(&body)?;
    match args.format {
        Format::Text => print!("{}", status_text(&status)),
        // As it came, so that a newer agent's keys are not lost.
        Format::Json => println!("{}", String::from_utf8_lossy(&body)),
    }
    let works = status.names.iter().all(|name| name.members.iter().any(|member| member.state == "up"));
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(args: &Args, request: &ExplainRequest) -> anyhow::Result<ExitCode> {
    let body = runtime()?.block_on(client::post(&args.api.socket(), "/v1/dns/explain", request))?;
    let explanations: Vec<Explanation> = serde_json::from_slice(&body)?;
    match args.format {
        Format::Text => {
            let texts: Vec<String> = explanations.iter().map(explanation_text).collect();
            print!("{}", texts.join("\n"));
        }
        Format::Json => println!("{}", String::from_utf8_lossy(&body)),
    }
    Ok(ExitCode::SUCCESS)
}

fn history(args: &Args, of: Option<&str>) -> anyhow::Result<ExitCode> {
    let query = of.map(|of| format!("?of={}", escaped(of))).unwrap_or_default();
    let path = format!("/v1/dns/history{query}");
    let body = runtime()?.block_on(client::request(&args.api.socket(), Method::GET, &path))?;
    let changes: Vec<Change> = serde_json::from_slice(&body)?;
    match args.format {
        Format::Text if changes.is_empty() => println!("no change is known"),
        Format::Text => print!("{}", history_text(&changes)),
        Format::Json => println!("{}", String::from_utf8_lossy(&body)),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_zone(args: &Args, zone: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/dns/zone?name={}", escaped(zone));
    let body = runtime()?.block_on(client::request(&args.api.socket(), Method::GET, &path))?;
    print_text(args, &String::from_utf8_lossy(&body))
}

/// A name as a part of a query: bytes that have a meaning there by their numbers (RFC 3986, section 2.1).
fn escaped(name: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(byte).collect()
}

/// Prints a text that is for other programs; with `--format json` as a JSON string.
fn print_text(args: &Args, text: &str) -> anyhow::Result<ExitCode> {
    match args.format {
        Format::Text => print!("{text}"),
        Format::Json => println!("{}", serde_json::to_string(text)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// The section `dns` of the configuration.
fn section(args: &Args) -> anyhow::Result<dns::Config> {
    let config = Config::load(&args.api.config)?;
    config.dns.context("this node is no name server; add the section dns to its configuration")
}

fn delegations(args: &Args, zone: Option<&str>) -> anyhow::Result<ExitCode> {
    let dns = section(args)?;
    let wanted = |apex: String| {
        let apex = apex.to_lowercase();
        zone.is_none_or(|zone| apex.trim_end_matches('.') == zone.to_lowercase().trim_end_matches('.'))
    };
    let zones: Vec<_> = dns.zones.iter().filter(|zone| wanted(zone.apex.to_ascii())).collect();
    if zones.is_empty() {
        let known: Vec<String> = dns.zones.iter().map(|zone| zone.apex.to_ascii()).collect();
        bail!("no such zone: {}; there are {}", zone.unwrap_or_default(), known.join(", "));
    }
    let records: Vec<String> = zones.into_iter().flat_map(delegation).collect();
    match args.format {
        Format::Text => records.iter().for_each(|record| println!("{record}")),
        Format::Json => println!("{}", serde_json::to_string(&records)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn key(args: &Args, zone: &str, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let apex = master::name(zone, &Name::root()).map_err(anyhow::Error::msg)?;
    let default = || format!("/etc/lb/dnssec/{}.pem", master::file_stem(&apex.to_lowercase())).into();
    let file = file.map_or_else(default, Path::to_owned);
    ZoneKey::make(&file).with_context(|| {
        format!("{}: cannot be written; name a file that is not there yet", file.display())
    })?;
    let made = ZoneKey::read(&file).map_err(anyhow::Error::msg)?;
    let ds = made.ds(&apex).map(|ds| format!("{} IN DS {ds}", apex.to_ascii())).unwrap_or_default();
    match args.format {
        Format::Text => {
            println!("dns.zones.{zone}.dnssec: {}", file.display());
            println!("{ds}");
        }
        Format::Json => println!("{}", serde_json::json!({"file": file, "ds": ds})),
    }
    Ok(ExitCode::SUCCESS)
}

fn order(args: &Args, whom: &Whom, state: Option<Order>) -> anyhow::Result<ExitCode> {
    let request = OrderRequest { address: whom.address, name: whom.name.clone(), state };
    let body = runtime()?.block_on(client::post(&args.api.socket(), "/v1/dns/order", &request))?;
    let names: Vec<String> = serde_json::from_slice(&body)?;
    match args.format {
        Format::Text => {
            let state = match state {
                None => "follows its checks",
                Some(Order::Drain) => "is drained",
                Some(Order::Down) => "is down",
            };
            println!("{} {state} at {}", whom.address, names.join(", "));
        }
        Format::Json => println!("{}", String::from_utf8_lossy(&body)),
    }
    Ok(ExitCode::SUCCESS)
}
