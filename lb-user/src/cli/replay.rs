//! `lb replay`.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::Format;
use super::offline::Offline;
use crate::config::DEFAULT_FILE;
use crate::replay::capture::{self, Frame};
use crate::replay::{Outcome, Replay, Totals};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The capture, pcap or pcapng.
    #[arg(value_name = "FILE")]
    capture: PathBuf,
    /// The configuration whose services and pools are used.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    #[command(flatten)]
    assumed: Offline,
    /// Print the totals only.
    #[arg(long)]
    totals: bool,
    /// How to report.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What `--format json` reports.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<&'a [Outcome]>,
    totals: &'a Totals,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = args.capture.display();
    // Before the program is loaded, which takes root.
    let file = File::open(&args.capture).with_context(|| format!("{name} cannot be read"))?;
    let (config, view) = args.assumed.load(&args.config)?;
    let mut replay = Replay::load(&config, view)?;
    let (mut totals, mut outcomes, mut start) = (Totals::default(), Vec::new(), None);
    let read = capture::read(file, |frame| {
        let Frame { number, time, bytes, captured } = frame;
        let mut outcome = replay.run(&bytes)?;
        outcome.number = number;
        outcome.time = time.map(|time| time.as_secs_f64() - start.get_or_insert(time).as_secs_f64());
        if captured < bytes.len() {
            let missing = bytes.len() - captured;
            outcome.notes.push(format!("{missing} bytes were not captured and are taken as zeros"));
        }
        totals.add(&outcome);
        match (args.totals, args.format) {
            (true, _) => {}
            (false, Format::Text) => println!("{}", line(&outcome)),
            (false, Format::Json) => outcomes.push(outcome),
        }
        Ok(())
    });
    // What was read is told, whatever comes after it.
    match args.format {
        Format::Text => print!("{}", text(&totals)),
        Format::Json => {
            let packets = (!args.totals).then_some(&outcomes[..]);
            println!("{}", serde_json::to_string_pretty(&Report { packets, totals: &totals })?);
        }
    }
    read.with_context(|| name.to_string())?;
    Ok(if totals.not_run + totals.differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A packet for people.
fn line(outcome: &Outcome) -> String {
    let time = outcome.time.map_or_else(|| "-".into(), |time| format!("{time:.6}"));
    let (verdict, reason) = (outcome.verdict.unwrap_or("-"), outcome.reason.unwrap_or("not_run"));
    let mut line = format!("{:>6} {time:>12} {verdict:4} {reason}", format!("#{}", outcome.number));
    if let Some(flow) = &outcome.flow {
        line += &format!("  {} → {}/{}", flow.source, flow.destination, flow.protocol);
    }
    if let Some(host) = &outcome.host {
        line += &format!(" → {host}");
    }
    for note in &outcome.notes {
        line += &format!("; {note}");
    }
    line
}

fn text(totals: &Totals) -> String {
    let row = |(name, count): (String, u64)| vec![name, count.to_string()];
    let mut rows: Vec<_> = totals.reasons.iter().map(|(name, count)| row(((*name).into(), *count))).collect();
    if totals.not_run > 0 {
        rows.push(row(("not run".into(), totals.not_run)));
    }
    rows.push(row(("all".into(), totals.packets)));
    let mut page = super::status::table(["REASON", "PACKETS"], rows);
    let hosts = totals.hosts.iter().map(|(host, count)| row((host.clone(), *count)));
    page += &super::status::table(["SENT TO", "PACKETS"], hosts.collect());
    if totals.differ > 0 {
        page += &format!("\nthe program and the model of it differ in {} packets\n", totals.differ);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::trace::Ends;

    #[test]
    fn each_packet_has_a_line_and_the_totals_come_last() {
        let flow = Ends {
            source: "203.0.113.7:40000".parse().unwrap(),
            destination: "198.51.100.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
        };
        let sent = Outcome {
            number: 1,
            time: Some(0.25),
            bytes: 54,
            verdict: Some("tx"),
            reason: Some("forwarded"),
            flow: Some(flow),
            host: Some("web/lb7-1".into()),
            ..Outcome::default()
        };
        let long = Outcome { number: 2, notes: vec!["not run: too long".into()], ..Outcome::default() };
        let mut totals = Totals::default();
        for outcome in [&sent, &sent, &long] {
            totals.add(outcome);
        }
        assert_eq!(
            line(&sent),
            "    #1     0.250000 tx   forwarded  203.0.113.7:40000 → 198.51.100.1:80/tcp → web/lb7-1"
        );
        assert_eq!(line(&long), "    #2            - -    not_run; not run: too long");
        let expected = "
REASON     PACKETS
forwarded  2
not run    1
all        3

SENT TO    PACKETS
web/lb7-1  2
";
        assert_eq!(text(&totals), expected);
    }
}
