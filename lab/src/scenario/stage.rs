//! Does what actions say, to the nodes of a lab that is up. What they do to processes is in [`super::processes`], and to
//! keepalived's hosts in [`super::servers`].

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::action::{Action, Flag, Nodes, real_name};
use super::child;
use super::file::Event;
use super::ipvs::Edit;
use super::lock::Holder;
use super::things::{self, AGENT_CHECK, DISABLE};
use super::undo::{Log, Record, Thing, Value};
use crate::agent;
use crate::bird::Family;
use crate::kinds::director_ipvs;
use crate::load::Order;
use crate::load::handle::Load;
use crate::namespace;
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
    pub(super) state: Mutex<State>,
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
    pub(super) weights: Mutex<BTreeMap<String, u32>>,
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

    fn flood(&self, flag: Flag, rate: u32, duration: Duration) -> Result<String> {
        let kind = match flag {
            Flag::Syn => "syn",
            Flag::Ack => "ack",
        };
        let argv = [
            process::OWN_PROGRAM.to_owned(),
            "flood".to_owned(),
            kind.to_owned(),
            rate.to_string(),
            duration.as_millis().to_string(),
        ];
        let command = process::node_command(&self.paths, "users", &argv, &self.lb())?;
        self.output(command, &format!("flood {kind}"))
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
