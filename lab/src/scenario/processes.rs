//! Processes of a lab's nodes as actions treat them: killed, started again, replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::PoisonError;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::action::AGENT;
use super::stage::Stage;
use crate::agent;
use crate::cgroup;
use crate::namespace::SHARED;
use crate::patience::LIMIT;
use crate::plan;
use crate::process;
use crate::spec::DirectorKind;
use crate::topology::{Kind, Node};

impl Stage {
    /// All processes of `node` die at once.
    pub(super) fn kill_all(&self, node: &Node) -> Result<String> {
        let group = self.paths.node_cgroup(&node.name);
        cgroup::kill_processes(&group, LIMIT)?;
        Ok(String::new())
    }

    /// Nothing is said to anybody: links go first. A machine without power holds no programs and maps either.
    pub(super) fn power_off(&self, node: &Node) -> Result<String> {
        self.sh(node, "for link in /sys/class/net/eth*; do ip link set ${link##*/} down; done")?;
        self.kill_all(node)?;
        self.sh(node, "rm -rf /sys/fs/bpf/lb /run/lb/agent.sock /run/keepalived/*.pid")
    }

    pub(super) fn power_on(&self, node: &Node) -> Result<String> {
        self.sh(node, "for link in /sys/class/net/eth*; do ip link set ${link##*/} up; done")?;
        self.wire(node)?;
        if node.kind == Kind::Director && self.topology.spec.director == DirectorKind::Ipvs {
            self.write_servers(node, &self.weights.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        self.start_missing(node)?;
        Ok(String::new())
    }

    /// Starts the processes of `node` that do not run, and returns their names. One that a killed run had started, and could
    /// not write down any more, is taken over.
    pub fn start_missing(&self, node: &Node) -> Result<Vec<&'static str>> {
        let mut started = Vec::new();
        for process in plan::plan(&self.topology, node).processes {
            if self.find(node, process.name).is_ok_and(|known| known.is_running()) {
                continue;
            }
            let group = cgroup::processes(&self.paths.node_cgroup(&node.name));
            match group.into_iter().find_map(|pid| process::running(pid, &process)) {
                Some(found) => self.know(node, found)?,
                None => self.start(node, process.name, &self.lb())?,
            }
            started.push(process.name);
        }
        Ok(started)
    }

    pub(super) fn find(&self, node: &Node, process: &str) -> Result<process::Process> {
        let state = self.state();
        let found = state.processes.get(&node.name).into_iter().flatten().find(|found| found.name == process);
        found.cloned().with_context(|| format!("{} runs no {process}", node.name))
    }

    /// Sends `signal` to a process of `node`.
    pub fn signal(&self, node: &Node, process: &str, signal: Signal) -> Result<String> {
        let found = self.find(node, process)?;
        ensure!(found.is_running(), "{process} is dead");
        kill(Pid::from_raw(found.pid), signal).with_context(|| format!("signalling {process}"))?;
        Ok(String::new())
    }

    /// Kills a process of `node`, if it runs, and starts it anew; an agent is waited for.
    pub fn restart(&self, node: &Node, process: &str, lb: &Path) -> Result<String> {
        let old = self.find(node, process)?;
        if old.is_running() {
            kill(Pid::from_raw(old.pid), Signal::SIGKILL).with_context(|| format!("killing {process}"))?;
        }
        self.wait_for(&format!("the old {process} to end"), || {
            if old.is_running() { Err(format!("process {} runs", old.pid)) } else { Ok(()) }
        })?;
        self.start(node, process, lb)?;
        if process == AGENT {
            self.wait_for("the new agent to be ready", || {
                self.sh(node, "lb status >/dev/null").map(drop).map_err(|error| format!("{error:#}"))
            })?;
        }
        Ok(String::new())
    }

    pub(super) fn start(&self, node: &Node, process: &str, lb: &Path) -> Result<()> {
        let plan = plan::plan(&self.topology, node);
        let Some(plan) = plan.processes.iter().find(|plan| plan.name == process) else {
            bail!("{} runs no {process}", node.name);
        };
        self.know(node, process::start(&self.paths, &node.name, plan, lb)?)
    }

    /// Writes down a process that runs.
    pub(super) fn know(&self, node: &Node, process: process::Process) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.processes.entry(node.name.clone()).or_default();
        match known.iter_mut().find(|known| known.name == process.name) {
            Some(known) => *known = process,
            None => known.push(process),
        }
        state.save(&self.paths)
    }

    /// The agent of another build, whose maps are of other sizes and cannot be adopted.
    pub(super) fn upgrade(&self, node: &Node) -> Result<String> {
        // Nodes see the folder that they share, and not the lab's own.
        let copy = self.paths.shared().join("upgrade/lb");
        if !copy.exists() {
            fs::create_dir_all(copy.parent().context("a folder")?)?;
            let new = copy.with_extension("new");
            fs::copy(self.lb(), &new).context("copying the agent")?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
            fs::rename(&new, &copy).context("naming the agent's copy")?;
        }
        // Where sizes are given already, the agent is another one, but adopts what it finds.
        self.sh(
            node,
            &format!(
                "cd /etc/lb && ! grep -q capacity: lb.yaml || exit 0; \
                 sed -E 's/^(director|host):$/\\1:\\n  capacity: {{services: 2048}}/' lb.yaml > new.yaml; \
                 if lb check new.yaml >/dev/null; then cat new.yaml > {}; rm new.yaml; else rm new.yaml; exit 1; fi",
                agent::CONFIG
            ),
        )?;
        self.restart(node, AGENT, &Path::new(SHARED).join("upgrade/lb"))
    }
}
