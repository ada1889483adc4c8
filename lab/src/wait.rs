//! The end of `lab up`: until the first answer, until every node is ready, and what to do next.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use serde_json::json;

use crate::interrupt;
use crate::namespace;
use crate::paths::Paths;
use crate::patience::ANSWER;
use crate::progress::{Progress, seconds};
use crate::request::{self, Answer};
use crate::state::State;
use crate::status::{self, NodeStatus};
use crate::topology::{Node, Topology, USER, vips};
use crate::up::Options;

/// How long the first request may take: most are sent before there is a route.
const FIRST: Duration = Duration::from_millis(500);

/// What `lab up` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Wait {
    /// Nothing: processes are started.
    None,
    /// The first answered request.
    Answer,
    /// Every node is ready.
    #[default]
    Ready,
}

/// A lab whose processes were started.
pub struct Waiting<'a> {
    /// Its places.
    pub paths: &'a Paths,
    /// Its nodes.
    pub topology: &'a Topology,
    /// Its processes.
    pub state: &'a State,
    /// What to wait for, and how long.
    pub options: &'a Options,
    /// Where to show it.
    pub progress: &'a Progress,
    /// Whether it was brought up just now, and not before.
    pub is_first: bool,
}

/// Waits as asked, prints the summary; exit status 1 if nodes are not ready in time.
pub fn run(lab: &Waiting<'_>) -> Result<u8> {
    let nodes = lab.topology.nodes.len();
    let mut summary = json!({"name": lab.paths.name, "nodes": nodes});
    if !lab.is_first {
        summary["already_up"] = json!(true);
        summary["differences"] = json!([]);
    }
    if lab.options.wait >= Wait::Answer {
        let answer = first_answer(lab).inspect_err(|_| print_unready(lab))?;
        lab.progress.line(&format!("first request answered by {} through {}", answer.server, answer.l7));
        summary["first_answer_ms"] = json!(lab.progress.elapsed().as_millis());
        summary["answer"] = json!(answer);
    }
    let mut unready = Vec::new();
    if lab.options.wait >= Wait::Ready {
        unready = all_ready(lab);
        if unready.is_empty() {
            lab.progress.line(&format!("all {nodes} nodes are ready"));
            summary["ready_ms"] = json!(lab.progress.elapsed().as_millis());
        }
        summary["ready"] = json!(unready.is_empty());
        summary["not_ready"] = json!(unready);
    }
    match lab.options {
        Options { temporary: true, .. } => {}
        Options { json: true, .. } => println!("{summary}"),
        _ if lab.is_first => print_next_steps(lab.paths),
        _ => {}
    }
    if !unready.is_empty() {
        eprintln!(
            "waited {} for {nodes} nodes to be ready; {} are not:",
            seconds(lab.options.timeout),
            unready.len()
        );
    }
    for status in &unready {
        eprintln!("{} is not ready: {}", status.name, status.reasons.join("; "));
    }
    Ok(u8::from(!unready.is_empty()))
}

/// Asks VIP 1 from a user's address until somebody answers; gives up early when a process has died.
fn first_answer(lab: &Waiting<'_>) -> Result<Answer> {
    lab.progress.note("waiting for the first answer");
    let vip = vips()[0];
    let mut patience = FIRST;
    namespace::enter(lab.paths, "users", || {
        let mut seen = "nothing was asked".to_owned();
        while lab.progress.elapsed() < lab.options.timeout {
            match request::get(USER.into(), vip, patience) {
                Ok(answer) => return Ok(answer),
                Err(error) => seen = format!("{error:#}"),
            }
            interrupt::check()?;
            // Routes come in a moment; what takes longer than that is slow, and not missing.
            patience = (patience * 2).min(ANSWER);
            if let Some((node, process)) = lab.state.dead().first() {
                bail!("{} of {node} ended early; the lab stays up: lab status, lab down", process.name);
            }
            thread::sleep(Duration::from_millis(30));
        }
        Err(anyhow!(
            "waited {} for an answer of {vip}; seen last: {seen}; the lab stays up: lab status, lab down; \
             a machine that is slow needs more --timeout",
            seconds(lab.options.timeout)
        ))
    })?
}

/// Waits until one look finds every node ready; those that the last look found otherwise are returned.
///
/// Looking at all of them takes a second, so only those that were not ready are looked at again, and all once more
/// at the end: a node that was ready may not be any more.
fn all_ready(lab: &Waiting<'_>) -> Vec<NodeStatus> {
    let all: Vec<&Node> = lab.topology.nodes.iter().collect();
    let mut waiting = all.clone();
    loop {
        let found = status::of_nodes(lab.paths, lab.topology, lab.state, &waiting);
        let unready: Vec<NodeStatus> = found.into_iter().filter(|status| !status.ready).collect();
        if unready.is_empty() && waiting.len() == all.len() {
            return unready;
        }
        let Some(first) = unready.first() else {
            waiting.clone_from(&all);
            continue;
        };
        if lab.progress.elapsed() > lab.options.timeout || interrupt::signal().is_some() {
            return unready;
        }
        lab.progress.note(&format!("waiting for {}: {}", first.name, first.reasons[0]));
        waiting.retain(|node| unready.iter().any(|status| status.name == node.name));
        thread::sleep(Duration::from_millis(200));
    }
}

/// Says of every node that is not ready why.
fn print_unready(lab: &Waiting<'_>) {
    let mut status = status::lab(lab.paths, lab.topology, lab.state);
    status.nodes.retain(|node| !node.ready);
    for node in status.nodes {
        lab.progress.line(&format!("{}: {}", node.name, node.reasons.join("; ")));
    }
}

fn print_next_steps(paths: &Paths) {
    let name = if paths.name == "lab" { String::new() } else { format!(" --name {}", paths.name) };
    println!(
        "lab {} is up. Go on with:
  lab exec{name} users -- curl -si --interface 203.0.113.184 http://198.51.100.1/
  lab exec{name} users -- dig +short www.example.org
  lab exec{name} lb4-1 -- lb status
  lab status{name}
  lab shell{name} lb7-1
  lab down{name}",
        paths.name
    );
}
