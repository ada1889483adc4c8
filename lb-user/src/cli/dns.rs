//! `lb dns`.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use hickory_proto::rr::Name;
use hyper::Method;

use super::status::table;
use super::{Api, Format, client, runtime};
use crate::config::Config;
use crate::dns;
use crate::dns::corefile::corefile;
use crate::dns::delegation::delegation;
use crate::dns::dnssec::ZoneKey;
use crate::dns::leader::LeaderStatus;
use crate::dns::master;
use crate::dns::policy::{Basis, Fate};
use crate::dns::sink::SinkStatus;
use crate::dns::snapshot::Order;
use crate::dns::status::{
    ChoiceExplanation, DnsStatus, ExplainRequest, Explanation, MemberFate, OrderRequest,
};

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

fn status_text(status: &DnsStatus) -> String {
    let listen: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
    let starting = if status.starting { ", waits for the first checks" } else { "" };
    let answers = if listen.is_empty() {
        "answers nowhere by itself".into()
    } else {
        format!("answers at {}", listen.join(", "))
    };
    let mut page = format!("{answers}{starting}\n");
    for problem in status.problems.iter().flat_map(|problem| problem.lines()) {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  {problem}");
    }
    let zones = status.zones.iter().map(|zone| vec![zone.zone.clone(), zone.serial.to_string()]);
    page += &table(["ZONE", "SERIAL"], zones.collect());
    let members = status.names.iter().flat_map(|name| {
        name.members.iter().map(move |member| {
            let policy = format!("{:?}", name.policy).to_lowercase();
            let address = member.address.to_string();
            vec![name.name.clone(), policy, address, member.state.clone(), member.reason.clone()]
        })
    });
    page += &table(["NAME", "POLICY", "ADDRESS", "STATE", "WHY"], members.collect());
    let orders = status.orders.iter().map(|order| {
        let name = order.name.clone().unwrap_or_else(|| "all".into());
        vec![order.address.to_string(), name, format!("{:?}", order.order).to_lowercase()]
    });
    page += &table(["ORDER FOR", "AT", "STATE"], orders.collect());
    let sinks = status.sinks.iter().map(|sink| {
        let state = match sink {
            SinkStatus { standby: true, .. } => "standby".into(),
            SinkStatus { in_step: true, .. } => "in step".into(),
            behind => format!("behind for {} ms", behind.lag_ms),
        };
        let error = sink.error.clone().unwrap_or_default();
        vec![
            sink.name.clone(),
            sink.kind.clone(),
            sink.places.to_string(),
            sink.written.to_string(),
            state,
            error,
        ]
    });
    page += &table(["SINK", "TYPE", "PLACES", "WRITTEN", "STATE", "WHY"], sinks.collect());
    if let Some(leader) = &status.leader {
        let _ = writeln!(page, "\n{}", leader_text(leader));
    }
    let claims = status
        .claims
        .iter()
        .map(|claim| vec![claim.name.clone(), claim.holder.clone(), claim.error.clone().unwrap_or_default()]);
    page += &table(["HELD IN TURN", "HOLDER", "WHY"], claims.collect());
    let observers = status.observers.iter().map(|observer| {
        let state = if observer.heard { "heard" } else { "not heard" };
        let node = observer.node.clone().unwrap_or_default();
        let reason = observer.reason.clone().unwrap_or_default();
        vec![observer.url.clone(), node, observer.down.to_string(), state.into(), reason]
    });
    page += &table(["OBSERVER", "NODE", "SEES FAIL", "STATE", "WHY"], observers.collect());
    let shared = status.anycast.iter().map(|shared| {
        let state = if shared.answers { "answers" } else { "withdrawn" };
        vec![shared.address.to_string(), state.into(), shared.reason.clone().unwrap_or_default()]
    });
    page += &table(["SHARED ADDRESS", "STATE", "WHY"], shared.collect());
    let secondaries = status.secondaries.iter().map(|secondary| {
        let serial = secondary.serial.map(|serial| serial.to_string()).unwrap_or_default();
        let state = match (secondary.serial, secondary.answered) {
            (None, _) => "nothing to tell yet",
            (_, true) => "has answered",
            (_, false) => "has not answered",
        };
        let error = secondary.error.clone().unwrap_or_default();
        vec![secondary.zone.clone(), secondary.address.to_string(), serial, state.into(), error]
    });
    page += &table(["SECONDARIES OF", "ADDRESS", "TOLD", "STATE", "WHY"], secondaries.collect());
    let leaving = status.leaving.iter().map(|(vip, word)| {
        let state = word.waits_for().unwrap_or_else(|| "out".into());
        let state = if word.others > 0 { "announced by others".into() } else { state };
        vec![vip.to_string(), state]
    });
    page += &table(["LEAVES", "STATE"], leaving.collect());
    let counters = status.counters.iter().filter(|(_, value)| **value > 0);
    let counters = counters.map(|(name, value)| vec![name.clone(), value.to_string()]);
    page + &table(["COUNTER", "VALUE"], counters.collect())
}

fn leader_text(leader: &LeaderStatus) -> String {
    let who = match (&leader.leader, leader.leads) {
        (_, true) => "this node writes to the sinks".into(),
        (Some(other), false) => format!("{other} writes to the sinks"),
        (None, false) => "nobody is known to write to the sinks".into(),
    };
    match &leader.error {
        Some(error) => format!("{who}: {error}"),
        None => who,
    }
}

fn explanation_text(told: &Explanation) -> String {
    let authority = if told.authoritative { ", authoritative" } else { "" };
    let mut page = format!("{} {} for {}: {}{authority}\n", told.name, told.kind, told.from, told.code);
    for record in told.answers.iter().chain(&told.authorities) {
        let _ = writeln!(page, "  {record}");
    }
    let Some(choice) = &told.choice else { return page };
    let _ = writeln!(page, "{}", basis(choice));
    let rows = choice.members.iter().map(|MemberFate { address, fate, reason }| {
        vec![address.to_string(), fate_text(*fate).into(), reason.clone()]
    });
    page + table(["ADDRESS", "FATE", "WHY"], rows.collect()).trim_start_matches('\n')
}

fn basis(choice: &ChoiceExplanation) -> String {
    let policy = format!("{:?}", choice.policy).to_lowercase();
    let because = match choice.basis {
        Basis::Healthy => "enough members work".to_owned(),
        Basis::TooFew => {
            format!("too few members work, all_down: {}", format!("{:?}", choice.all_down).to_lowercase())
        }
        Basis::NotYetChecked => "no answer before the first checks".to_owned(),
        Basis::NoSuchFamily => "no member has such an address".to_owned(),
    };
    let scope = match choice.scope {
        0 => String::new(),
        bits => format!("; the answer is for the first {bits} bits of the client's network"),
    };
    format!("{}: policy {policy}, {because}{scope}", choice.name)
}

fn fate_text(fate: Fate) -> &'static str {
    match fate {
        Fate::Given => "given",
        Fate::LastResort => "given although it does not work",
        Fate::OtherFamily => "other family",
        Fate::Behind => "works, behind others",
        Fate::OtherClients => "works, for other clients",
        Fate::NotDrawn => "works, not drawn",
        Fate::Failed => "out: a check fails",
        Fate::Unknown => "out: not checked yet",
        Fate::Leaving => "out: leaves",
        Fate::Drained => "out: drained",
        Fate::Down => "out: taken out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::policy::{AllDown, Policy};

    #[test]
    fn the_explanation_says_why_each_address_is_in_or_out() {
        let member = |last, fate, reason: &str| MemberFate {
            address: [198, 51, 100, last].into(),
            fate,
            reason: reason.into(),
        };
        let told = Explanation {
            name: "www.example.org.".into(),
            kind: "A".into(),
            from: "203.0.113.7".into(),
            code: "NOERROR".into(),
            authoritative: true,
            answers: vec!["www.example.org. 60 IN A 198.51.100.1".into()],
            authorities: Vec::new(),
            choice: Some(ChoiceExplanation {
                name: "www.example.org.".into(),
                policy: Policy::Failover,
                all_down: AllDown::All,
                basis: Basis::Healthy,
                scope: 0,
                members: vec![
                    member(1, Fate::Given, "works"),
                    member(2, Fate::Failed, "web: connect to 198.51.100.2:80: connection refused"),
                ],
            }),
        };
        let expected = "\
www.example.org. A for 203.0.113.7: NOERROR, authoritative
  www.example.org. 60 IN A 198.51.100.1
www.example.org.: policy failover, enough members work
ADDRESS       FATE                WHY
198.51.100.1  given               works
198.51.100.2  out: a check fails  web: connect to 198.51.100.2:80: connection refused
";
        assert_eq!(explanation_text(&told), expected);
    }
}
