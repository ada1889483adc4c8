//! Does what actions say, to the nodes of a lab that is up.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::action::{AGENT, Action, Flag, Nodes, real_name};
use super::file::Event;
use super::ipvs::Edit;
use crate::agent;
use crate::bird::Family;
use crate::cgroup;
use crate::kinds::director_ipvs;
use crate::load::Order;
use crate::load::handle::Load;
use crate::namespace::{self, SHARED};
use crate::paths::Paths;
use crate::plan;
use crate::process;
use crate::spec::DirectorKind;
use crate::state::State;
use crate::topology::{Kind, Node, Topology};

/// How long a killed process may take to end, and a started agent to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the connections of a host that is to be removed may take to end, where no `lb` waits for them.
const REMOVAL: Duration = Duration::from_secs(15);

/// A lab as a timeline sees it.
pub struct Stage {
    /// Its places.
    pub paths: Paths,
    /// Its nodes.
    pub topology: Topology,
    state: Mutex<State>,
    /// Held by what replaces processes: two such actions go one after the other, however long the first takes.
    replacing: Mutex<()>,
    /// Held by `lb`: an operator waits for one command before he gives the next.
    commanding: Mutex<()>,
    /// The hosts that keepalived is configured with, where it is.
    weights: Mutex<BTreeMap<String, u32>>,
}

impl Stage {
    /// The lab that is up.
    pub fn new(paths: Paths) -> Result<Self> {
        let state = State::of_running(&paths)?;
        let topology = Topology::new(&state.spec);
        Ok(Self {
            paths,
            weights: Mutex::new(director_ipvs::weights(&topology)),
            topology,
            state: Mutex::new(state),
            replacing: Mutex::new(()),
            commanding: Mutex::new(()),
        })
    }

    /// The agent's program.
    pub fn lb(&self) -> PathBuf {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lb.clone()
    }

    /// A copy of what is known of processes.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does it; the result is what it printed.
    pub fn perform(&self, event: &Event, load: &Load) -> Result<String> {
        match &event.action {
            Action::Kill(nodes) => self.each(nodes, |node| self.kill_all(node)),
            Action::PowerOff(nodes) => self.each(nodes, |node| self.power_off(node)),
            Action::PowerOn(nodes) => self.each(nodes, |node| self.power_on(node)),
            Action::Stop(nodes, process) => {
                self.each(nodes, |node| self.signal(node, process, Signal::SIGSTOP))
            }
            Action::Continue(nodes, process) => {
                self.each(nodes, |node| self.signal(node, process, Signal::SIGCONT))
            }
            Action::Restart(nodes, process) => {
                let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
                self.each(nodes, |node| self.restart(node, process, &self.lb()))
            }
            Action::Upgrade(nodes) => {
                let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
                self.each(nodes, |node| self.upgrade(node))
            }
            Action::LinkDown(nodes) => self.each(nodes, |node| self.sh(node, "ip link set eth0 down")),
            Action::LinkUp(nodes) => self.each(nodes, |node| self.sh(node, "ip link set eth0 up")),
            Action::Disable(nodes) => self.each(nodes, |node| self.sh(node, "touch /etc/lb/disable")),
            Action::Enable(nodes) => self.each(nodes, |node| self.sh(node, "rm -f /etc/lb/disable")),
            Action::AgentCheck(nodes, word) => {
                self.each(nodes, |node| self.sh(node, &format!("echo {word} > /etc/lb/agent-check")))
            }
            Action::FailHealth(nodes) => self.each(nodes, |node| self.haproxy_enabler(node, "maint")),
            Action::Heal(nodes) => self.each(nodes, |node| self.haproxy_enabler(node, "ready")),
            Action::Reshuffle(nodes) => {
                let seed = process::own()?.start_time % 0xffff + u64::from(event.at.subsec_millis()) + 1;
                self.each(nodes, |node| self.hash_seed(node, seed))
            }
            Action::Mtu(nodes, bytes) => {
                self.each(nodes, |node| self.sh(node, &format!("ip link set eth0 mtu {bytes}")))
            }
            Action::Exec(nodes, command) => self.each(nodes, |node| self.sh(node, command)),
            Action::Close(nodes) => self.each(nodes, |node| {
                load.tell(&Order::Close(node.name.clone()))?;
                Ok(String::new())
            }),
            Action::Lb(arguments) => self.lb_command(arguments, &event.on),
            Action::Flood(flag, rate, duration) => self.flood(*flag, *rate, *duration),
        }
    }

    /// Does `work` to all nodes, a few at a time for those that wait; every output line says its node.
    fn each(&self, nodes: &Nodes, work: impl Fn(&Node) -> Result<String>) -> Result<String> {
        let mut said = String::new();
        for node in nodes.find(&self.topology).map_err(anyhow::Error::msg)? {
            let output = work(node).with_context(|| node.name.clone())?;
            for line in output.lines() {
                said.push_str(&format!("{}: {line}\n", node.name));
            }
        }
        Ok(said.trim_end().to_owned())
    }

    /// What a shell prints in `node`; it must succeed.
    pub fn sh(&self, node: &Node, script: &str) -> Result<String> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        self.output(process::node_command(&self.paths, &node.name, &argv, &self.lb())?, script)
    }

    fn output(&self, mut command: Command, what: &str) -> Result<String> {
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {what}"))?;
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        let said = said.join("\n").trim().to_owned();
        ensure!(output.status.success(), "{what}: {}: {said}", output.status);
        Ok(said)
    }

    fn lb_command(&self, arguments: &[String], on: &str) -> Result<String> {
        if self.topology.spec.director == DirectorKind::Ipvs {
            return self.edit_servers(&Edit::parse(arguments, &self.topology).map_err(anyhow::Error::msg)?);
        }
        let Some(node) = self.topology.node(on) else { bail!("the lab has no node {on} to run lb on") };
        let words = arguments.iter().map(|word| self.word(word));
        let argv: Vec<String> = [self.lb().display().to_string()].into_iter().chain(words).collect();
        let what = format!("lb {}", argv[1..].join(" "));
        let _alone = self.commanding.lock().unwrap_or_else(PoisonError::into_inner);
        self.output(process::node_command(&self.paths, &node.name, &argv, &self.lb())?, &what)
    }

    /// A word of a command: nodes by their names, and `spare-1=ADDRESSES` with the addresses of the node.
    fn word(&self, word: &str) -> String {
        let Some(name) = word.strip_suffix("=ADDRESSES") else { return real_name(word, &self.topology) };
        let name = real_name(name, &self.topology);
        match self.topology.node(&name) {
            Some(node) => format!("{name}={}", Family::ALL.map(|f| f.address(node, 0).to_string()).join(",")),
            None => word.to_owned(),
        }
    }

    /// An edit of keepalived's hosts on all directors that run; the others get it when they start.
    fn edit_servers(&self, edit: &Edit) -> Result<String> {
        let _alone = self.commanding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Edit::Remove { host, when_safe: true } = edit {
            let host = self.topology.node(host).context("a host")?;
            wait_for(REMOVAL, "no director counts a connection of the host", || {
                let counts = self.running_directors().map(|director| {
                    namespace::enter(&self.paths, &director.name, || director_ipvs::established(host))
                });
                counts.map(|count| Ok(count??)).sum::<Result<u64>>().map(|count| count == 0)
            })?;
        }
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        edit.apply(&mut weights);
        self.configure_servers(&weights)
    }

    /// keepalived's hosts as they were at the start.
    pub fn restore_servers(&self) -> Result<()> {
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let first = director_ipvs::weights(&self.topology);
        if self.topology.spec.director == DirectorKind::Ipvs && *weights != first {
            *weights = first;
            self.configure_servers(&weights)?;
        }
        Ok(())
    }

    fn configure_servers(&self, weights: &BTreeMap<String, u32>) -> Result<String> {
        let mut told = Vec::new();
        for director in self.running_directors() {
            self.write_servers(director, weights)?;
            self.signal(director, director_ipvs::PROCESS, Signal::SIGHUP)?;
            told.push(director.name.as_str());
        }
        Ok(format!("keepalived reads its hosts anew on {}", told.join(", ")))
    }

    fn write_servers(&self, director: &Node, weights: &BTreeMap<String, u32>) -> Result<String> {
        let text = director_ipvs::keepalived(&self.topology, director, weights);
        let file = director_ipvs::KEEPALIVED;
        self.sh(director, &format!("cat > {file} <<'END_OF_FILE'\n{text}END_OF_FILE"))
    }

    fn running_directors(&self) -> impl Iterator<Item = &Node> {
        let runs =
            |node: &&Node| self.find(node, director_ipvs::PROCESS).is_ok_and(|found| found.is_running());
        self.topology.of(Kind::Director).filter(runs)
    }

    fn flood(&self, flag: Flag, rate: u32, duration: Duration) -> Result<String> {
        let program = std::env::current_exe().context("finding this program")?;
        let kind = match flag {
            Flag::Syn => "syn",
            Flag::Ack => "ack",
        };
        let argv = [
            program.display().to_string(),
            "flood".to_owned(),
            kind.to_owned(),
            rate.to_string(),
            duration.as_millis().to_string(),
        ];
        let command = process::node_command(&self.paths, "users", &argv, &self.lb())?;
        self.output(command, &format!("flood {kind}"))
    }

    /// All processes of `node` die at once.
    fn kill_all(&self, node: &Node) -> Result<String> {
        let group = self.paths.node_cgroup(&node.name);
        cgroup::kill_processes(&group, PATIENCE)?;
        Ok(String::new())
    }

    /// Nothing is said to anybody: links go first. A machine without power holds no programs and maps either.
    fn power_off(&self, node: &Node) -> Result<String> {
        self.sh(node, "for link in /sys/class/net/eth*; do ip link set ${link##*/} down; done")?;
        self.kill_all(node)?;
        self.sh(node, "rm -rf /sys/fs/bpf/lb /run/lb/agent.sock /run/keepalived/*.pid")
    }

    fn power_on(&self, node: &Node) -> Result<String> {
        self.sh(node, "for link in /sys/class/net/eth*; do ip link set ${link##*/} up; done")?;
        self.start_missing(node)
    }

    /// Starts the processes of `node` that do not run.
    pub fn start_missing(&self, node: &Node) -> Result<String> {
        if node.kind == Kind::Director && self.topology.spec.director == DirectorKind::Ipvs {
            self.write_servers(node, &self.weights.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        for process in plan::plan(&self.topology, node).processes {
            let is_running = {
                let state = self.state();
                let known = state.processes.get(&node.name).into_iter().flatten();
                known.into_iter().any(|known| known.name == process.name && known.is_running())
            };
            if !is_running {
                self.start(node, process.name, &self.lb())?;
            }
        }
        Ok(String::new())
    }

    fn find(&self, node: &Node, process: &str) -> Result<process::Process> {
        let state = self.state();
        let found = state.processes.get(&node.name).into_iter().flatten().find(|found| found.name == process);
        found.cloned().with_context(|| format!("{} runs no {process}", node.name))
    }

    fn signal(&self, node: &Node, process: &str, signal: Signal) -> Result<String> {
        let found = self.find(node, process)?;
        ensure!(found.is_running(), "{process} is dead");
        kill(Pid::from_raw(found.pid), signal).with_context(|| format!("signalling {process}"))?;
        Ok(String::new())
    }

    fn restart(&self, node: &Node, process: &str, lb: &Path) -> Result<String> {
        self.signal(node, process, Signal::SIGKILL)?;
        let old = self.find(node, process)?;
        wait_until("the old process ends", || Ok(!old.is_running()))?;
        self.start(node, process, lb)?;
        if process == AGENT {
            wait_until("the new agent is ready", || Ok(self.sh(node, "lb status >/dev/null").is_ok()))?;
        }
        Ok(String::new())
    }

    fn start(&self, node: &Node, process: &str, lb: &Path) -> Result<()> {
        let plan = plan::plan(&self.topology, node);
        let Some(plan) = plan.processes.iter().find(|plan| plan.name == process) else {
            bail!("{} runs no {process}", node.name);
        };
        let started = process::start(&self.paths, &node.name, plan, lb)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.processes.entry(node.name.clone()).or_default();
        known.retain(|known| known.name != process);
        known.push(started);
        state.save(&self.paths)
    }

    /// The agent of another build, whose maps are of other sizes and cannot be adopted.
    fn upgrade(&self, node: &Node) -> Result<String> {
        // Nodes see the folder that they share, and not the lab's own.
        let copy = self.paths.shared().join("upgrade/lb");
        if !copy.exists() {
            fs::create_dir_all(copy.parent().context("a folder")?)?;
            fs::copy(self.lb(), &copy).context("copying the agent")?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        }
        // What this version of the agent does not know, it refuses, and the old sizes stay.
        self.sh(
            node,
            &format!(
                "cd /etc/lb && sed -E 's/^(director|host):$/\\1:\\n  capacity: {{services: 2048}}/' lb.yaml > new.yaml; \
                 if lb check --config new.yaml >/dev/null 2>&1; then cp lb.yaml old.yaml; cat new.yaml > {}; fi; rm new.yaml",
                agent::CONFIG
            ),
        )?;
        self.restart(node, AGENT, &Path::new(SHARED).join("upgrade/lb"))
    }

    /// Puts an upgraded agent's configuration back. Whether there was one.
    pub fn undo_upgrade(&self, node: &Node) -> Result<bool> {
        let script = "cd /etc/lb && if [ -e old.yaml ]; then mv old.yaml lb.yaml && echo yes; fi";
        let was_upgraded = self.sh(node, script)? == "yes";
        if was_upgraded {
            self.restart(node, AGENT, &self.lb())?;
        }
        Ok(was_upgraded)
    }

    /// The health check of HAProxy counts its backend `enabler`, which serves nobody.
    pub fn haproxy_enabler(&self, node: &Node, state: &str) -> Result<String> {
        use std::io::Read;
        let order = format!("set server enabler/enabler state {state}\n");
        let said = namespace::enter(&self.paths, &node.name, || -> Result<String> {
            let mut socket = std::os::unix::net::UnixStream::connect(crate::kinds::HAPROXY_SOCKET)
                .context("HAProxy does not answer")?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.write_all(order.as_bytes())?;
            let mut said = String::new();
            socket.read_to_string(&mut said)?;
            Ok(said)
        })??;
        ensure!(said.trim().is_empty(), "HAProxy: {}", said.trim());
        Ok(String::new())
    }

    /// Other seed, other paths. By its usual policy the kernel takes the hash that a packet already has, which in a lab is that
    /// of its socket in another node, and no seed matters: so the policy becomes one that looks at the packet (addresses,
    /// protocol and ports). Seed 0 brings the usual one back. A kernel without seeds looks at the port of the destination, and
    /// the next time not.
    pub fn hash_seed(&self, node: &Node, seed: u64) -> Result<String> {
        let policy = if seed == 0 { 1 } else { 3 };
        self.sh(
            node,
            &format!(
                "cd /proc/sys/net; for f in ipv4 ipv6; do fields=55; \
                 if [ ! -e ipv4/fib_multipath_hash_seed ] && [ $(cat $f/fib_multipath_hash_policy) = 3 ] && \
                 [ $(cat $f/fib_multipath_hash_fields) = 55 ]; then fields=23; fi; \
                 echo $fields > $f/fib_multipath_hash_fields; echo {policy} > $f/fib_multipath_hash_policy; done; \
                 if [ -e ipv4/fib_multipath_hash_seed ]; then echo {seed} > ipv4/fib_multipath_hash_seed; fi"
            ),
        )
    }
}

/// Waits until `attempt` says yes.
pub fn wait_until(what: &str, attempt: impl Fn() -> Result<bool>) -> Result<()> {
    wait_for(PATIENCE, what, attempt)
}

fn wait_for(patience: Duration, what: &str, attempt: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !attempt()? {
        ensure!(start.elapsed() < patience, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(30));
    }
    Ok(())
}
