//! `lab exec` and `lab shell`: this process becomes a command inside a node.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::process;
use crate::state::State;
use crate::topology::Topology;

/// Becomes `argv` inside `node`; returns only with an error.
pub fn exec(paths: &Paths, node: &str, argv: &[String]) -> Result<()> {
    let (_, mut command) = command(paths, node, argv)?;
    let error = command.exec();
    Err(error).with_context(|| format!("running {}", argv[0]))
}

/// Becomes a shell inside `node` whose prompt names it; returns only with an error.
pub fn shell(paths: &Paths, node: &str) -> Result<()> {
    let argv = ["bash", "--norc", "--noprofile", "-i"].map(str::to_owned);
    let (name, mut command) = command(paths, node, &argv)?;
    let lab = if paths.name == "lab" { String::new() } else { format!("{}/", paths.name) };
    let error = command.env("PS1", format!("{lab}{name}:\\w\\$ ")).exec();
    Err(error).context("running bash")
}

fn command(paths: &Paths, node: &str, argv: &[String]) -> Result<(String, Command)> {
    let state = State::of_running(paths)?;
    let topology = Topology::new(&state.spec);
    let Some(node) = topology.node(node) else {
        bail!("lab {} has no node {node}; there are: {}", paths.name, topology.names());
    };
    Ok((node.name.clone(), process::node_command(paths, &node.name, argv, &state.lb)?))
}
