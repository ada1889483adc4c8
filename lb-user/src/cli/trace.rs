//! `lb trace`.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::offline::Offline;
use super::{Api, Format, client, runtime};
use crate::model::{HashBy, Protocol};
use crate::trace::packet::{first_of, from_hex, to_hex};
use crate::trace::{Ends, NextHop, Question, Source, Told, Trace, trace};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Protocol of the flow.
    #[arg(value_enum, required_unless_present = "hex", requires = "source")]
    protocol: Option<Transport>,
    /// The client, as ADDRESS:PORT or [ADDRESS]:PORT.
    #[arg(requires = "destination")]
    source: Option<SocketAddr>,
    /// The VIP, likewise.
    destination: Option<SocketAddr>,
    /// Bytes of the flow's packet, from the IP header on [default: its smallest size].
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "hex"
    )]
    size: usize,
    /// A frame or an IP packet in hexadecimal digits, instead of a flow.
    #[arg(long, value_name = "PACKET", conflicts_with = "protocol")]
    hex: Option<String>,
    /// Ask no agent: go by --config alone, with all hosts healthy and reachable.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    assumed: Offline,
    #[command(flatten)]
    api: Api,
    /// How to report.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// As [`Protocol`], on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

impl Args {
    fn frame(&self) -> anyhow::Result<Vec<u8>> {
        if let Some(hex) = &self.hex {
            return Ok(from_hex(hex)?);
        }
        let protocol = match self.protocol.context("no protocol")? {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        let source = self.source.context("no source")?;
        let destination = self.destination.context("no destination")?;
        Ok(first_of(&Ends { source, destination, protocol }, self.size)?)
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let frame = args.frame()?;
    if args.assumed.is_given() && !args.offline {
        bail!("--manifest, --sick and --mtu are for --offline: the agent goes by what it knows");
    }
    let body = match args.offline {
        true => {
            let (_, view) = args.assumed.load(&args.api.config)?;
            serde_json::to_vec(&trace(view, &Source::Assumed, &frame))?
        }
        false => {
            let question = Question { frame: to_hex(&frame) };
            runtime()?.block_on(client::post(&args.api.socket(), "/v1/trace", &question))?.to_vec()
        }
    };
    match args.format {
        Format::Text => print!("{}", text(&serde_json::from_slice(&body)?)),
        // As it came, so that a newer agent's keys are not lost.
        Format::Json => println!("{:#}", serde_json::from_slice::<serde_json::Value>(&body)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer for people.
fn text(trace: &Trace) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    if let Some(Ends { source, destination, protocol }) = trace.flow {
        let _ = write!(page, "{source} → {destination}/{protocol}: ");
    }
    let _ = writeln!(page, "{} ({}): {}", trace.verdict, trace.reason, trace.why);
    if let Some(way) = &trace.way {
        told(&mut page, way, trace.bytes.unwrap_or(0));
    }
    for note in &trace.notes {
        let _ = writeln!(page, "note: {note}");
    }
    page
}

fn told(page: &mut String, way: &Told, bytes: usize) {
    let affinity = serde_json::to_value(way.affinity).unwrap_or_default();
    let kernel = match way.in_kernel {
        Some(true) => " (as in the kernel)",
        Some(false) => " (not what the kernel holds)",
        None => "",
    };
    let affinity = affinity.as_str().unwrap_or_default();
    let hash = match way.hash {
        HashBy::FiveTuple => String::new(),
        hash => format!(", hash {hash}"),
    };
    let _ = writeln!(page, "service     {}, affinity {affinity}{hash}", way.service);
    let _ = writeln!(
        page,
        "pool        {}, generation {}, table {}{kernel}",
        way.pool, way.generation, way.digest
    );
    let _ = writeln!(page, "row         {} of {}", way.row, way.rows);
    let owners = way.owners.iter().map(|owner| {
        let fate = match &owner.passed_over {
            _ if way.host.as_ref() == Some(&owner.host) => "gets it".to_owned(),
            Some(obstacle) => format!("passed over: {obstacle}"),
            None => "-".to_owned(),
        };
        let address = owner.address.map_or("-".into(), |address| address.to_string());
        vec![owner.host.clone(), address, owner.by.join(", "), fate]
    });
    page.push_str(super::status::table(["OWNER", "ADDRESS", "BY", "FATE"], owners.collect()).trim_start());
    if let Some(NextHop { interface, tags, mac, source, destination, mtu, fits }) = &way.next_hop {
        let tags: String = tags.iter().map(|tag| format!(", tag {tag}")).collect();
        let tags = if tags.is_empty() { tags } else { tags + "," };
        let _ = writeln!(
            page,
            "sent        by {interface}{tags} to {mac}, outer header {source} → {destination}"
        );
        let _ = writeln!(page, "size        {bytes} bytes; {fits} fit, with the outer header in MTU {mtu}");
    }
    if !way.second_chances.is_empty() {
        let _ =
            writeln!(page, "then        to {}, if none before knows the flow", way.second_chances.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Affinity, ServiceKey};
    use crate::trace::Owner;

    #[test]
    fn the_answer_says_where_and_why() {
        let owner = |host: &str, last, by: &[&str], passed_over: Option<&str>| Owner {
            host: host.into(),
            address: Some([192, 0, 2, last].into()),
            by: by.iter().map(|by| (*by).to_owned()).collect(),
            passed_over: passed_over.map(str::to_owned),
        };
        let told = Told {
            pool: "web".into(),
            affinity: Affinity::SecondChance,
            service: ServiceKey { vip: [198, 51, 100, 1].into(), port: 80, protocol: Protocol::Tcp },
            hash: HashBy::default(),
            generation: 3,
            digest: "00000000000000ff".into(),
            in_kernel: Some(true),
            rows: 251,
            row: 17,
            owners: vec![
                owner("lb7-1", 146, &["generation 3"], Some("fails its health checks")),
                owner("lb7-10", 155, &["backup of generation 3", "generation 2"], None),
            ],
            host: Some("lb7-10".into()),
            next_hop: Some(NextHop {
                interface: "eth0".into(),
                tags: vec!["802.1Q 5".into()],
                mac: "02:00:00:00:00:01".into(),
                source: [192, 0, 2, 132].into(),
                destination: [192, 0, 2, 155].into(),
                mtu: 1540,
                fits: 1520,
            }),
            second_chances: vec!["lb7-1".into()],
        };
        let trace = Trace {
            verdict: "tx".into(),
            reason: "forwarded".into(),
            why: "Encapsulated and sent to the L7 host of its flow.".into(),
            bytes: Some(40),
            flow: Some(Ends {
                source: "203.0.113.7:40000".parse().unwrap(),
                destination: "198.51.100.1:80".parse().unwrap(),
                protocol: Protocol::Tcp,
            }),
            way: Some(told),
            notes: vec!["something else".into()],
        };
        let expected = "\
203.0.113.7:40000 → 198.51.100.1:80/tcp: tx (forwarded): Encapsulated and sent to the L7 host of its flow.
service     198.51.100.1:80/tcp, affinity second-chance
pool        web, generation 3, table 00000000000000ff (as in the kernel)
row         17 of 251
OWNER   ADDRESS      BY                                    FATE
lb7-1   192.0.2.146  generation 3                          passed over: fails its health checks
lb7-10  192.0.2.155  backup of generation 3, generation 2  gets it
sent        by eth0, tag 802.1Q 5, to 02:00:00:00:00:01, outer header 192.0.2.132 → 192.0.2.155
size        40 bytes; 1520 fit, with the outer header in MTU 1540
then        to lb7-1, if none before knows the flow
note: something else
";
        assert_eq!(text(&trace), expected);
    }
}
