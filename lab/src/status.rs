//! `lab status`: every node, its role, its processes, whether it is ready and why not.

use std::fmt::Write;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use serde::Serialize;

use crate::kinds;
use crate::namespace;
use crate::paths::Paths;
use crate::scenario::lock;
use crate::scenario::undo::Log;
use crate::state::State;
use crate::topology::{Kind, Node, Topology};

/// Nodes looked at at a time; each costs a few short processes.
const WORKERS: usize = 8;

/// What `--format json` prints.
#[derive(Debug, Serialize)]
pub struct LabStatus {
    /// The lab's name.
    pub name: String,
    /// Whether every node is ready.
    pub ready: bool,
    /// Every node.
    pub nodes: Vec<NodeStatus>,
    /// The `lab run` that plays on it now, and may have killed nodes on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_use_by: Option<String>,
    /// What a `lab run` that was killed has changed and not put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_undo: Option<String>,
}

/// A node's part.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// Its role.
    pub role: Kind,
    /// Its addresses on links, `eth0` first.
    pub addresses: Vec<String>,
    /// Whether it does what it is for.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// A process's part.
#[derive(Debug, Serialize)]
pub struct ProcessStatus {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    /// Whether it runs; else it is dead.
    pub running: bool,
}

/// Looks at all nodes.
pub fn lab(paths: &Paths, topology: &Topology, state: &State) -> LabStatus {
    let nodes = of_nodes(paths, topology, state, &topology.nodes.iter().collect::<Vec<_>>());
    let in_use_by = lock::holder(paths).map(|holder| holder.describe());
    let left = if in_use_by.is_none() { Log::load(paths) } else { Ok(None) };
    LabStatus {
        name: paths.name.clone(),
        ready: nodes.iter().all(|node| node.ready),
        nodes,
        in_use_by,
        to_undo: left.map_or_else(|error| Some(format!("{error:#}")), |left| Some(left?.describe())),
    }
}

/// Looks at `nodes`, several at a time; answers in their order.
pub fn of_nodes(paths: &Paths, topology: &Topology, state: &State, nodes: &[&Node]) -> Vec<NodeStatus> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(nodes.len()) {
            scope.spawn(|| {
                while let Some(node) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let status = of_node(paths, topology, state, node);
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(status);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|status| nodes.iter().position(|node| node.name == status.name));
    found
}

fn of_node(paths: &Paths, topology: &Topology, state: &State, node: &Node) -> NodeStatus {
    let processes: Vec<ProcessStatus> = state
        .processes
        .get(&node.name)
        .into_iter()
        .flatten()
        .map(|process| ProcessStatus {
            name: process.name.clone(),
            pid: process.pid,
            running: process.is_running(),
        })
        .collect();
    let mut reasons: Vec<String> = processes
        .iter()
        .filter(|process| !process.running)
        .map(|process| death_notice(paths, &node.name, &process.name))
        .collect();
    match namespace::enter(paths, &node.name, || kinds::health(topology, node, &state.lb)) {
        Ok(found) => reasons.extend(found),
        Err(error) => reasons.push(format!("{error:#}")),
    }
    let addresses = node.interfaces.iter().flat_map(|interface| &interface.addresses);
    NodeStatus {
        name: node.name.clone(),
        role: node.kind,
        addresses: addresses.map(|prefix| prefix.address.to_string()).collect(),
        ready: reasons.is_empty(),
        reasons,
        processes,
    }
}

/// That a process is dead, where its log is, and the last that it said.
pub fn death_notice(paths: &Paths, node: &str, process: &str) -> String {
    let log = paths.log(node, process);
    let text = fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().next_back().map_or_else(String::new, |line| format!(": {line}"));
    format!("{process} is dead, see {}{last}", log.display())
}

/// The table for people: a line per node, and a line per reason below it.
pub fn render(status: &LabStatus) -> String {
    let ready = status.nodes.iter().filter(|node| node.ready).count();
    let mut text = format!("lab {}: {ready} of {} nodes ready\n", status.name, status.nodes.len());
    if let Some(holder) = &status.in_use_by {
        writeln!(text, "in use by {holder}: it may have killed nodes on purpose")
            .expect("writing to a string");
    }
    if let Some(left) = &status.to_undo {
        writeln!(
            text,
            "a lab run was killed and has not put back what it changed: {left}; lab up --name {} does that",
            status.name
        )
        .expect("writing to a string");
    }
    for node in &status.nodes {
        let processes: Vec<String> = node
            .processes
            .iter()
            .map(|process| {
                let state = if process.running { String::new() } else { " dead".to_owned() };
                format!("{}[{}]{state}", process.name, process.pid)
            })
            .collect();
        let state = if node.ready { "ready" } else { "not ready" };
        let address = node.addresses.first().map_or("", String::as_str);
        let line = format!(
            "{:<9} {:<10} {:<10} {address:<16} {}",
            node.name,
            node.role.word(),
            state,
            processes.join(" ")
        );
        writeln!(text, "{}", line.trim_end()).expect("writing to a string");
        for reason in &node.reasons {
            writeln!(text, "          - {reason}").expect("writing to a string");
        }
    }
    text
}

/// The command: exit status 0 if all is ready, 1 if not.
pub fn run(paths: &Paths, json: bool) -> Result<u8> {
    let state = State::of_running(paths)?;
    let topology = Topology::new(&state.spec);
    let status = lab(paths, &topology, &state);
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", render(&status));
    }
    Ok(u8::from(!status.ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_dead_processes_and_reasons() {
        let node = NodeStatus {
            name: "s1".into(),
            role: Kind::Server,
            addresses: vec!["2001:db8:1:0:2::1".into()],
            ready: false,
            reasons: vec!["nginx is dead".into()],
            processes: vec![ProcessStatus { name: "nginx".into(), pid: 7, running: false }],
        };
        let status =
            LabStatus { name: "x".into(), ready: false, nodes: vec![node], in_use_by: None, to_undo: None };
        let text = render(&status);
        assert_eq!(
            text,
            "lab x: 0 of 1 nodes ready\n\
             s1        server     not ready  2001:db8:1:0:2::1 nginx[7] dead\n          - nginx is dead\n"
        );
    }
}
