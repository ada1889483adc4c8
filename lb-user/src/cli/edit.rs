//! Carries an edit out: plan, question, and then step by step, each when all nodes have confirmed the one before.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::{Api, Format, client, plan, runtime};
use crate::config::leaf::Leaf;
use crate::config::tree::{Node, Value};
use crate::manifest::Manifest;
use crate::manifest::edit::Edit;
use crate::manifest::follow::Edited;
use crate::manifest::plan::Plan;
use crate::manifest::routes::{Missing, Request};

/// How often is asked who has confirmed.
const POLL: Duration = Duration::from_millis(100);
/// How often is asked whether a host is safe to remove.
const SAFE_POLL: Duration = Duration::from_secs(1);

/// How a change is carried out.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    api: Api,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// How long nodes get to confirm a step before the next one is made without them.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    wait: Duration,
    /// How to report; json says it all at the end.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Options {
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Progress: part of the report for people, beside the one for programs.
    fn say(&self, line: &str) {
        match self.format {
            Format::Text => println!("{line}"),
            Format::Json => eprintln!("{line}"),
        }
    }
}

/// What `--format json` reports.
#[derive(Debug, Serialize)]
struct Report<'a> {
    plan: &'a Plan,
    /// Versions that were made, in order.
    versions: Vec<u64>,
    /// Nodes that had not confirmed the last one.
    missing: Vec<String>,
    done: bool,
}

/// What a host reports of its connections.
#[derive(Debug, Deserialize)]
struct Holding {
    pool: String,
    host: String,
    safe: bool,
    #[serde(default)]
    established: u64,
}

/// The manifest in force.
pub(super) fn manifest(api: &Api) -> anyhow::Result<Manifest> {
    let body = runtime()?.block_on(client::request(&api.socket(), Method::GET, "/v1/manifest"))?;
    Ok(Manifest::parse("the agent's manifest", &String::from_utf8_lossy(&body))?)
}

/// What an edit would do.
pub(super) fn plan(api: &Api, edit: &Edit) -> anyhow::Result<Plan> {
    let request = Request { edit: edit.clone(), base: None };
    let body = runtime()?.block_on(client::post(&api.socket(), "/v1/plan", &request))?;
    Ok(serde_json::from_slice(&body)?)
}

/// Shows the plan, asks, and carries it out.
pub(super) fn run(edit: &Edit, options: &Options) -> anyhow::Result<ExitCode> {
    let plan = plan(&options.api, edit)?;
    let mut report = Report { plan: &plan, versions: Vec::new(), missing: Vec::new(), done: false };
    if options.format == Format::Text {
        print!("{}", plan::text(&plan));
    }
    if plan.refusal.is_none() && agreed(options)? {
        carry_out(edit, options, &mut report)?;
        report.done = true;
    }
    if options.format == Format::Json {
        println!("{:#}", serde_json::to_value(&report)?);
    }
    Ok(if report.done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The same when the hosts of a removal hold no connection any more.
pub(super) fn run_when_safe(edit: &Edit, options: &Options) -> anyhow::Result<ExitCode> {
    let Edit::Remove { pool, hosts, .. } = edit else { return run(edit, options) };
    // What is refused now will not be better later.
    if plan(&options.api, edit)?.refusal.is_some() {
        return run(edit, options);
    }
    let mut said = String::new();
    loop {
        let body =
            runtime()?.block_on(client::request(&options.api.socket(), Method::GET, "/v1/connections"))?;
        let holdings: Vec<Holding> = serde_json::from_slice(&body)?;
        let waits = waits(pool, hosts.iter(), &holdings);
        if waits.is_empty() {
            return run(edit, options);
        }
        let line = format!("waiting: {}", waits.join(", "));
        if line != said {
            options.say(&line);
            said = line;
        }
        std::thread::sleep(SAFE_POLL);
    }
}

/// What each host that is not safe to remove waits for.
fn waits<'h>(pool: &str, hosts: impl Iterator<Item = &'h String>, holdings: &[Holding]) -> Vec<String> {
    let mut waits = Vec::new();
    for host in hosts {
        let of_host = holdings.iter().find(|holding| holding.pool == pool && holding.host == *host);
        match of_host {
            Some(holding) if holding.safe => {}
            Some(holding) if holding.established == 0 => {
                waits.push(format!("{host} has not said that it is safe"))
            }
            Some(holding) => waits.push(format!("{host} holds {} connections", holding.established)),
            None => waits.push(format!("{host} says nothing of its connections")),
        }
    }
    waits
}

fn carry_out(edit: &Edit, options: &Options, report: &mut Report<'_>) -> anyhow::Result<()> {
    let mut left = vec![(edit.clone(), Some(report.plan.base))];
    while !left.is_empty() {
        let (edit, base) = left.remove(0);
        let pool = edit.pool().to_owned();
        let begun = !report.versions.is_empty();
        let advice = || {
            format!(
                "half done; finish it by `lb pool activate {pool}` or take it back by `lb pool abort {pool}`"
            )
        };
        let made = step(&edit, base, options, report);
        let edited = if begun { made.with_context(advice)? } else { made? };
        left.splice(0..0, edited.then.into_iter().map(|edit| (edit, None)));
    }
    Ok(())
}

/// One step, and the wait until it is confirmed.
fn step(
    edit: &Edit,
    base: Option<u64>,
    options: &Options,
    report: &mut Report<'_>,
) -> anyhow::Result<Edited> {
    let socket = options.api.socket();
    let runtime = runtime()?;
    let request = Request { edit: edit.clone(), base };
    let edited: Edited =
        serde_json::from_slice(&runtime.block_on(client::post(&socket, "/v1/edit", &request))?)?;
    report.versions.push(edited.version);
    options.say(&format!("version {}: {}", edited.version, what(edit, &edited)));
    let path = format!("/v1/manifest/confirmed?version={}", edited.version);
    let start = Instant::now();
    let mut said = Vec::new();
    loop {
        let body = runtime.block_on(client::request(&socket, Method::GET, &path))?;
        let Missing { missing } = serde_json::from_slice(&body)?;
        report.missing.clone_from(&missing);
        if missing.is_empty() {
            options.say("  confirmed by all nodes");
            return Ok(edited);
        }
        if start.elapsed() >= options.wait {
            options.say(&format!("  going on without {} after {:?}", missing.join(", "), options.wait));
            return Ok(edited);
        }
        // Most confirm at once: only those that do not are worth a line.
        if said != missing && start.elapsed() > 5 * POLL {
            options.say(&format!("  waiting for {}", missing.join(", ")));
            said = missing;
        }
        std::thread::sleep(POLL);
    }
}

fn what(edit: &Edit, edited: &Edited) -> String {
    let prepared = edited.then.iter().find_map(|then| match then {
        Edit::Activate { generation, .. } => *generation,
        _ => None,
    });
    match (prepared, edit) {
        (Some(generation), _) => format!("generation {generation} is prepared"),
        (None, Edit::Activate { .. }) => "the prepared generation is in force".into(),
        (None, Edit::Abort { .. }) => "the prepared generation is given up".into(),
        (None, Edit::Retire { generation, .. }) => format!("generation {generation} is retired"),
        (None, Edit::Remove { hosts, .. }) => {
            format!("removed {}", hosts.iter().cloned().collect::<Vec<_>>().join(", "))
        }
        (None, _) => "changed".into(),
    }
}

/// The operator's word, if one sits there.
fn agreed(options: &Options) -> anyhow::Result<bool> {
    if options.yes || options.format == Format::Json || !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    print!("Go on? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::read(&Node { at: Default::default(), value: Value::Text(text.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_safe_to_remove_only_when_it_says_so() {
        let holdings: Vec<Holding> = serde_json::from_str(
            r#"[{"node": "a", "pool": "web", "host": "a", "safe": true, "established": 0},
                {"node": "b", "pool": "web", "host": "b", "safe": false, "established": 3},
                {"node": "c", "pool": "dns", "host": "c", "safe": true, "established": 0}]"#,
        )
        .unwrap();
        let of = |hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            waits("web", hosts.iter(), &holdings)
        };
        assert!(of(&["a"]).is_empty());
        assert_eq!(of(&["a", "b", "c"]), ["b holds 3 connections", "c says nothing of its connections"]);
    }
}
