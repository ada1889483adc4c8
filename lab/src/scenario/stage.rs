//! Does what actions say, to the nodes of a lab that is up.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::action::{AGENT, Action, Flag, Nodes, real_name};
use super::child;
use super::file::Event;
use super::ipvs::Edit;
use super::lock::Holder;
use super::things::{self, AGENT_CHECK, DISABLE};
use super::undo::{Log, Record, Thing, Value};
use crate::agent;
use crate::bird::Family;
use crate::cgroup;
use crate::kinds::director_ipvs;
use crate::load::Order;
use crate::load::handle::Load;
use crate::namespace::{self, SHARED};
use crate::paths::Paths;
use crate::patience::{self, ANSWER, LIMIT};
use crate::plan;
use crate::process;
use crate::spec::DirectorKind;
use crate::state::State;
use crate::topology::{Kind, Node, Topology};
use crate::wire;

/// A lab as a timeline sees it.
pub struct Stage {
    /// Its places.
    pub paths: Paths,
    /// Its nodes.
    pub topology: Topology,
    state: Mutex<State>,
    /// What was changed, as it was before.
    undo: Mutex<Log>,
    /// Which processes ran when the run began.
    ran: Mutex<Vec<Record>>,
    /// Whether commands and waits are to end.
    cancelled: AtomicBool,
    /// Held by what replaces processes: two such actions go one after the other, however long the first takes.
    replacing: Mutex<()>,
    /// Held by `lb`: an operator waits for one command before he gives the next.
    commanding: Mutex<()>,
    /// The hosts that keepalived is configured with, where it is.
    weights: Mutex<BTreeMap<String, u32>>,
}

impl Stage {
    /// The lab that is up. What a run before this has left to undo is in [`Self::undo_log`].
    pub fn new(paths: Paths) -> Result<Self> {
        let state = State::of_running(&paths)?;
        let topology = Topology::new(&state.spec);
        let undo = match Log::load(&paths)? {
            Some(left) => left,
            None => Log::new(Holder::own()?),
        };
        Ok(Self {
            paths,
            weights: Mutex::new(director_ipvs::weights(&topology)),
            topology,
            state: Mutex::new(state),
            undo: Mutex::new(undo),
            ran: Mutex::default(),
            cancelled: AtomicBool::new(false),
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

    /// Ends what actions are running, or lets them run again.
    pub fn cancel(&self, cancel: bool) {
        self.cancelled.store(cancel, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// A copy of what was changed.
    pub fn undo_log(&self) -> Log {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a run. Notes which processes run, so that those that end by themselves are started again afterwards.
    pub fn begin(&self) -> Result<()> {
        let processes = self.topology.nodes.iter().map(|node| {
            let thing = Thing::Processes(node.name.clone());
            Ok(Record { before: self.now(&thing)?, thing, after: None })
        });
        let ran = processes.collect::<Result<_>>()?;
        *self.ran.lock().unwrap_or_else(PoisonError::into_inner) = ran;
        *self.undo.lock().unwrap_or_else(PoisonError::into_inner) = Log::new(Holder::own()?);
        Ok(())
    }

    /// Processes that have ended though nothing was done to those of their node.
    pub fn ended_by_themselves(&self) -> Result<Vec<String>> {
        let log = self.undo_log();
        let ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ended = Vec::new();
        for record in ran.iter().filter(|record| !log.has(&record.thing)) {
            let (Value::Running(before), Value::Running(now)) = (&record.before, self.now(&record.thing)?)
            else {
                continue;
            };
            let node = record.thing.node().unwrap_or_default();
            ended.extend(
                before
                    .iter()
                    .filter(|name| !now.contains(name))
                    .map(|name| crate::status::death_notice(&self.paths, node, name))
                    .map(|notice| format!("{node}: {notice}")),
            );
        }
        Ok(ended)
    }

    /// All that there is to look at when the lab is to be as it was.
    pub fn records(&self) -> Vec<Record> {
        let log = self.undo_log();
        let ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ran = ran.into_iter().filter(|record| !log.has(&record.thing));
        let mut records: Vec<Record> = log.records.iter().cloned().chain(ran).collect();
        records.sort_by(|one, other| one.thing.cmp(&other.thing));
        records
    }

    /// All is as it was.
    pub fn forget(&self) -> Result<()> {
        let mut log = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        log.records.clear();
        log.save(&self.paths)?;
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = director_ipvs::weights(&self.topology);
        Ok(())
    }

    /// How `thing` is.
    pub fn now(&self, thing: &Thing) -> Result<Value> {
        things::now(thing, &self.paths, &self.topology, &self.state())
    }

    /// Does `work`, which changes `things`: the undo log has them before it begins.
    fn changing<T>(&self, things: &[Thing], work: impl FnOnce() -> Result<T>) -> Result<T> {
        if things.is_empty() {
            return work();
        }
        {
            let mut log = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
            for thing in things {
                let usual = matches!(thing, Thing::Halted(..) | Thing::Program(_) | Thing::Enabler(_));
                let now = if usual { Value::Usual } else { self.now(thing)? };
                log.begin(thing.clone(), now);
            }
            log.save(&self.paths)?;
        }
        let result = work();
        let mut log = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        for thing in things {
            // What cannot be read stays as it is while an action is at work: anything there may be the run's.
            if let Ok(now) = self.now(thing) {
                log.end(thing, now);
            }
        }
        log.save(&self.paths)?;
        result
    }

    /// Does it; the result is what it printed. `seed` decides what chance decides.
    pub fn perform(&self, event: &Event, load: &Load, seed: u64) -> Result<String> {
        let action = &event.action;
        let _alone = matches!(action, Action::Restart(..) | Action::Upgrade(_))
            .then(|| self.replacing.lock().unwrap_or_else(PoisonError::into_inner));
        match action {
            Action::Lb(arguments) => self.lb_command(arguments, &event.on),
            Action::Flood(flag, rate, duration) => self.flood(*flag, *rate, *duration),
            _ => self.each(action.nodes().context("an action on nodes")?, |node| {
                let things = things::touched(action, node, &self.topology);
                self.changing(&things, || self.perform_on(node, event, load, seed))
            }),
        }
    }

    fn perform_on(&self, node: &Node, event: &Event, load: &Load, seed: u64) -> Result<String> {
        match &event.action {
            Action::Kill(_) => self.kill_all(node),
            Action::PowerOff(_) => self.power_off(node),
            Action::PowerOn(_) => self.power_on(node),
            Action::Stop(_, process) => self.signal(node, process, Signal::SIGSTOP),
            Action::Continue(_, process) => self.signal(node, process, Signal::SIGCONT),
            Action::Restart(_, process) => self.restart(node, process, &self.lb()),
            Action::Upgrade(_) => self.upgrade(node),
            Action::LinkDown(_) => self.sh(node, "ip link set eth0 down"),
            Action::LinkUp(_) => self.sh(node, "ip link set eth0 up").and_then(|_| self.wire(node)),
            Action::Disable(_) => self.sh(node, &format!("touch {DISABLE}")),
            Action::Enable(_) => self.sh(node, &format!("rm -f {DISABLE}")),
            Action::AgentCheck(_, word) => self.sh(node, &format!("echo {word} > {AGENT_CHECK}")),
            Action::FailHealth(_) => self.haproxy_enabler(node, "maint"),
            Action::Heal(_) => self.haproxy_enabler(node, "ready"),
            Action::Reshuffle(_) => self.hash_seed(node, seed_at(seed, event.at)),
            Action::Mtu(_, bytes) => self.sh(node, &format!("ip link set eth0 mtu {bytes}")),
            Action::Exec(_, command) => self.sh(node, command),
            Action::Close(_) => load.tell(&Order::Close(node.name.clone())).map(|()| String::new()),
            Action::Lb(_) | Action::Flood(..) => bail!("no action on nodes"),
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

    fn output(&self, command: Command, what: &str) -> Result<String> {
        child::output(command, what, || self.is_cancelled())
    }

    /// Waits for something that one action does, unless the run ends.
    pub fn wait_for(&self, what: &str, look: impl FnMut() -> Result<(), String>) -> Result<()> {
        let stop = || {
            ensure!(!self.is_cancelled(), "ended while waiting for {what}");
            Ok(())
        };
        patience::wait_for(what, LIMIT, stop, look)
    }

    /// Addresses and routes of `node`, which its kernel forgets with links that go down or shrink.
    pub fn wire(&self, node: &Node) -> Result<String> {
        let plan = plan::plan(&self.topology, node);
        namespace::enter(&self.paths, &node.name, || wire::restore(node, &plan))??;
        Ok(String::new())
    }

    fn lb_command(&self, arguments: &[String], on: &str) -> Result<String> {
        if self.topology.spec.director == DirectorKind::Ipvs {
            let edit = Edit::parse(arguments, &self.topology).map_err(anyhow::Error::msg)?;
            let directors = self.topology.of(Kind::Director);
            let files =
                directors.map(|node| Thing::File(node.name.clone(), director_ipvs::KEEPALIVED.to_owned()));
            let _alone = self.commanding.lock().unwrap_or_else(PoisonError::into_inner);
            return self.changing(&files.collect::<Vec<_>>(), || self.edit_servers(&edit));
        }
        let Some(node) = self.topology.node(on) else { bail!("the lab has no node {on} to run lb on") };
        let words = arguments.iter().map(|word| self.word(word));
        let argv: Vec<String> = [self.lb().display().to_string()].into_iter().chain(words).collect();
        let what = format!("lb {}", argv[1..].join(" "));
        let _alone = self.commanding.lock().unwrap_or_else(PoisonError::into_inner);
        let things = match self.topology.spec.has_manifest() {
            true => Thing::Pools,
            false => Thing::File(node.name.clone(), agent::CONFIG.to_owned()),
        };
        self.changing(&[things], || {
            self.output(process::node_command(&self.paths, &node.name, &argv, &self.lb())?, &what)
        })
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
        if let Edit::Remove { host, when_safe: true } = edit {
            let host = self.topology.node(host).context("a host")?;
            self.wait_for(&format!("the last connection of {} on any director", host.name), || {
                let counts = self.running_directors().map(|director| {
                    namespace::enter(&self.paths, &director.name, || director_ipvs::established(host))
                });
                let count: Result<u64> = counts.map(|count| Ok(count??)).sum();
                match count {
                    Ok(0) => Ok(()),
                    Ok(count) => Err(format!("{count} connections")),
                    Err(error) => Err(format!("{error:#}")),
                }
            })?;
        }
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        edit.apply(&mut weights);
        self.configure_servers(&weights)
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
        cgroup::kill_processes(&group, LIMIT)?;
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

    fn find(&self, node: &Node, process: &str) -> Result<process::Process> {
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

    fn start(&self, node: &Node, process: &str, lb: &Path) -> Result<()> {
        let plan = plan::plan(&self.topology, node);
        let Some(plan) = plan.processes.iter().find(|plan| plan.name == process) else {
            bail!("{} runs no {process}", node.name);
        };
        self.know(node, process::start(&self.paths, &node.name, plan, lb)?)
    }

    /// Writes down a process that runs.
    fn know(&self, node: &Node, process: process::Process) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.processes.entry(node.name.clone()).or_default();
        match known.iter_mut().find(|known| known.name == process.name) {
            Some(known) => *known = process,
            None => known.push(process),
        }
        state.save(&self.paths)
    }

    /// The agent of another build, whose maps are of other sizes and cannot be adopted.
    fn upgrade(&self, node: &Node) -> Result<String> {
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

    /// The health check of HAProxy counts its backend `enabler`, which serves nobody.
    pub fn haproxy_enabler(&self, node: &Node, state: &str) -> Result<String> {
        use std::io::Read;
        let order = format!("set server enabler/enabler state {state}\n");
        let said = namespace::enter(&self.paths, &node.name, || -> Result<String> {
            let mut socket = std::os::unix::net::UnixStream::connect(crate::kinds::HAPROXY_SOCKET)
                .context("HAProxy does not answer")?;
            socket.set_read_timeout(Some(ANSWER))?;
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
    /// protocol and ports). A kernel without seeds looks at the port of the destination, and
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

/// A seed that is another one with each `seed` and each moment of a timeline; never 0, which stands for none.
fn seed_at(seed: u64, at: Duration) -> u64 {
    let moment = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    crate::load::scramble(seed ^ moment.rotate_left(32)) % 0xffff_ffff + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reshuffle_of_a_run_has_a_seed_of_its_own() {
        let at = Duration::from_secs;
        assert_ne!(seed_at(1, at(2)), seed_at(1, at(4)));
        assert_ne!(seed_at(1, at(2)), seed_at(2, at(2)));
        assert_eq!(seed_at(1, at(2)), seed_at(1, at(2)));
    }
}
