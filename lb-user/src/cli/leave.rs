//! `lb leave` and `lb return`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::ArgAction;
use hyper::Method;
use tokio::time::sleep;

use super::client::ClientError;
use super::{Api, Format, client, runtime};
use crate::agent::status::Status;
use crate::config::Config;
use crate::leave::order::{Haste, Whom, edit, with, without};
use crate::leave::sequence::Stage;
use crate::leave::status::LeavingStatus;
use crate::vip::Vip;

/// How often is looked how far all are.
const POLL: Duration = Duration::from_millis(500);

/// Which VIPs.
#[derive(Debug, clap::Args)]
struct Which {
    /// The VIPs, as in lb.yaml: addresses or prefixes.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    vips: Vec<Vip>,
    /// All VIPs of this node.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Leave {
    #[command(flatten)]
    which: Which,
    /// Do not wait for name servers that are not heard.
    #[arg(long)]
    force: bool,
    /// Wait for nothing: withdraw at once.
    #[arg(long, conflicts_with = "force")]
    now: bool,
    /// Order it, and do not wait until it is done.
    #[arg(long = "no-wait", action = ArgAction::SetFalse)]
    wait: bool,
    #[command(flatten)]
    api: Api,
    /// How to report; json has a line for each news.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Return {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    api: Api,
}

impl Which {
    /// Whom the lines are to be about.
    fn whom(&self) -> BTreeSet<Whom> {
        match self.all {
            true => [Whom::All].into(),
            false => self.vips.iter().map(|vip| Whom::One(*vip)).collect(),
        }
    }

    /// The VIPs that are meant, of those that the node has.
    fn of(&self, config: &Config) -> anyhow::Result<BTreeSet<Vip>> {
        let known = config.model.vips();
        if config.director.is_none() {
            bail!("this node is no director, so that it announces no VIP; ask one");
        }
        if let Some(stranger) = self.vips.iter().find(|vip| !known.contains(vip)) {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            bail!("{stranger} is no VIP of this node; there are {}", known.join(", "));
        }
        Ok(if self.all { known } else { self.vips.iter().copied().collect() })
    }
}

/// `lb leave`.
pub(super) fn leave(args: &Leave) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.api.config)?;
    let vips = args.which.of(&config)?;
    let haste = match (args.force, args.now) {
        (_, true) => Haste::Now,
        (true, _) => Haste::Force,
        _ => Haste::Wait,
    };
    let whom = args.which.whom();
    edit(&config.leave.file, |text| Ok(with(text, &whom, haste))).map_err(anyhow::Error::msg)?;
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let socket = args.api.socket();
    runtime()?.block_on(async {
        tokio::select! {
            done = follow(&socket, &vips, args.format) => done,
            _ = tokio::signal::ctrl_c() => {
                let whom: Vec<String> = args.which.vips.iter().map(ToString::to_string).collect();
                let whom = if args.which.all { "--all".into() } else { whom.join(" ") };
                let file = config.leave.file.display();
                bail!("the order stays in force ({file}); `lb status` shows how far it is, `lb return {whom}` takes it back")
            }
        }
    })
}

/// `lb return`.
pub(super) fn give_back(args: &Return) -> anyhow::Result<ExitCode> {
    // Also what is no VIP of this node any more may still have a line.
    let file = Config::load(&args.api.config)?.leave.file;
    let whom = args.which.whom();
    let mut gone = BTreeSet::new();
    let change = |text: &str| {
        let (new, lines) = without(text, &whom)?;
        gone = lines;
        Ok(new)
    };
    edit(&file, change).map_err(anyhow::Error::msg)?;
    if gone.is_empty() {
        println!("nothing of that was to leave");
    }
    gone.iter().for_each(|whom| println!("{whom} returns"));
    Ok(ExitCode::SUCCESS)
}

/// Says how far all are until they have left.
async fn follow(socket: &Path, vips: &BTreeSet<Vip>, format: Format) -> anyhow::Result<ExitCode> {
    let mut said = BTreeSet::new();
    loop {
        let body = match client::request(socket, Method::GET, "/v1/status").await {
            Err(error @ ClientError::NoAgent(_)) => {
                bail!("{error}; the order stays in force and counts when it runs")
            }
            body => body?,
        };
        let status: Status = serde_json::from_slice(&body)?;
        let all: Vec<&LeavingStatus> = status.leaving.iter().filter(|l| vips.contains(&l.vip)).collect();
        let lines = match format {
            Format::Text => all.iter().map(|leaving| line(leaving)).collect(),
            Format::Json => vec![serde_json::to_string(&all)?],
        };
        let lines: BTreeSet<String> = lines.into_iter().collect();
        lines.difference(&said).for_each(|line| println!("{line}"));
        said = lines;
        if all.len() == vips.len() && all.iter().all(|l| l.stage == Stage::Withdrawn && !l.announced) {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(POLL).await;
    }
}

/// How far one is, in a line.
pub(super) fn line(leaving: &LeavingStatus) -> String {
    let [vip, stage, packets, waits] = row(leaving);
    let packets = if packets.is_empty() { packets } else { format!(" ({packets} packets/s)") };
    let waits = if waits.is_empty() { waits } else { format!(": {waits}") };
    format!("{vip} {stage}{packets}{waits}")
}

/// The same in columns: VIP, stage, packets per second, what is waited for.
pub(super) fn row(leaving: &LeavingStatus) -> [String; 4] {
    let stage = match (leaving.stage, leaving.announced) {
        (Stage::Answers, _) => "answers",
        (Stage::Falling, _) => "falling",
        (Stage::Withdrawn, true) => "withdrawing",
        (Stage::Withdrawn, false) => "withdrawn",
    };
    let stuck = if leaving.stuck { " (stuck)" } else { "" };
    let packets = leaving.packets_per_second.filter(|_| leaving.stage != Stage::Withdrawn);
    let packets = packets.map(|packets| packets.to_string()).unwrap_or_default();
    [leaving.vip.to_string(), format!("{stage}{stuck}"), packets, leaving.waits_for.join("; ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_one_is_and_what_is_waited_for() {
        let mut leaving = LeavingStatus {
            vip: [198, 51, 100, 1].into(),
            stage: Stage::Answers,
            announced: true,
            waits_for: vec!["a".into(), "b".into()],
            stuck: true,
            packets_per_second: Some(7),
        };
        assert_eq!(line(&leaving), "198.51.100.1 answers (stuck) (7 packets/s): a; b");
        leaving = LeavingStatus { stage: Stage::Withdrawn, waits_for: Vec::new(), stuck: false, ..leaving };
        assert_eq!(line(&leaving), "198.51.100.1 withdrawing");
        assert_eq!(line(&LeavingStatus { announced: false, ..leaving }), "198.51.100.1 withdrawn");
    }
}
