//! What actions change, and how it is now: the undo log's eyes.

use std::fs;
use std::io::{self, Read};

use anyhow::{Context, Result};

use super::action::Action;
use super::undo::{Content, Link, Thing, Value};
use crate::agent;
use crate::kinds::director_ipvs;
use crate::namespace;
use crate::paths::Paths;
use crate::pool;
use crate::spec::DirectorKind;
use crate::state::State;
use crate::topology::{Kind, Node, Topology};

/// A director's word that it is not to be used.
pub const DISABLE: &str = "/etc/lb/disable";
/// What an agent answers HAProxy's agent checks with.
pub const AGENT_CHECK: &str = "/etc/lb/agent-check";
/// How routers spread flows.
pub const HASHING: [&str; 5] = [
    "/proc/sys/net/ipv4/fib_multipath_hash_policy",
    "/proc/sys/net/ipv4/fib_multipath_hash_fields",
    "/proc/sys/net/ipv4/fib_multipath_hash_seed",
    "/proc/sys/net/ipv6/fib_multipath_hash_policy",
    "/proc/sys/net/ipv6/fib_multipath_hash_fields",
];
/// The most that is kept of a file.
const LONGEST: u64 = 4 << 20;

/// What `action` may change on `node`.
pub fn touched(action: &Action, node: &Node, topology: &Topology) -> Vec<Thing> {
    let name = || node.name.clone();
    let file = |path: &str| Thing::File(name(), path.to_owned());
    let processes = || Thing::Processes(name());
    let links = || Thing::Links(name());
    let is_ipvs = node.kind == Kind::Director && topology.spec.director == DirectorKind::Ipvs;
    match action {
        Action::Kill(_) | Action::Restart(..) => vec![processes()],
        Action::PowerOff(_) => vec![links(), processes()],
        Action::PowerOn(_) if is_ipvs => vec![links(), file(director_ipvs::KEEPALIVED), processes()],
        Action::PowerOn(_) => vec![links(), processes()],
        Action::Stop(_, process) => vec![Thing::Halted(name(), process.clone())],
        Action::Upgrade(_) => vec![file(agent::CONFIG), processes(), Thing::Program(name())],
        Action::LinkDown(_) | Action::LinkUp(_) | Action::Mtu(..) => vec![links()],
        Action::Disable(_) | Action::Enable(_) => vec![file(DISABLE)],
        Action::AgentCheck(..) => vec![file(AGENT_CHECK)],
        Action::FailHealth(_) | Action::Heal(_) => vec![Thing::Enabler(name())],
        Action::Reshuffle(_) => HASHING.map(file).into(),
        // A shell command can do anything; this is what it usually does.
        Action::Exec(..) => {
            let mut things = vec![links(), file(DISABLE), file(AGENT_CHECK), processes(), Thing::Pools];
            things.extend(HASHING.map(file));
            things.push(file(if is_ipvs { director_ipvs::KEEPALIVED } else { agent::CONFIG }));
            things
        }
        Action::Continue(..) | Action::Close(_) | Action::Lb(_) | Action::Flood(..) => vec![],
    }
}

/// How `thing` is now. A process of `state` that has ended does not run.
pub fn now(thing: &Thing, paths: &Paths, topology: &Topology, state: &State) -> Result<Value> {
    Ok(match thing {
        Thing::Halted(..) | Thing::Program(_) | Thing::Enabler(_) => Value::Changed,
        Thing::Links(node) => Value::Links(links(paths, topology.node(node).context("a node")?)?),
        Thing::File(node, path) => Value::Content(
            namespace::enter(paths, node, || content(path))?
                .with_context(|| format!("{node}: reading {path}"))?,
        ),
        Thing::Processes(node) => {
            let known = state.processes.get(node).into_iter().flatten();
            let running = known.filter(|process| process.is_running());
            Value::Running(running.map(|process| process.name.clone()).collect())
        }
        Thing::Pools => Value::Content(pool::text(paths, topology)?),
    })
}

fn content(path: &str) -> io::Result<Content> {
    let mut text = String::new();
    match fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn links(paths: &Paths, node: &Node) -> Result<Vec<Link>> {
    let names: Vec<&str> = node.interfaces.iter().map(|interface| interface.name).collect();
    let all = || names.iter().map(|name| link(name)).collect::<Result<Vec<_>>>();
    namespace::enter(paths, &node.name, all)?.with_context(|| format!("{}: reading links", node.name))
}

fn link(name: &str) -> Result<Link> {
    let read = |attribute: &str| {
        let path = format!("/sys/class/net/{name}/{attribute}");
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    };
    let flags = read("flags")?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).context("flags of a link")?;
    let mtu = read("mtu")?.trim().parse().context("the MTU of a link")?;
    Ok(Link { name: name.to_owned(), is_up: flags & libc::IFF_UP.cast_unsigned() != 0, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::action::USAGE;
    use crate::scenario::library;
    use crate::spec;

    #[test]
    fn every_action_that_lasts_has_something_to_undo() {
        let topology = Topology::new(&spec::load("x", library::LAB, &[]).unwrap());
        let node = topology.node("lb7-1").unwrap();
        for usage in USAGE {
            let text = usage
                .replace("[PROCESS]", "haproxy")
                .replace("NODES", "lb7-1")
                .replace("ARGUMENTS", "pool add web spare-1")
                .replace("BYTES", "1400")
                .replace("syn|ack", "syn")
                .replace("PACKETS_PER_SECOND", "100")
                .replace("DURATION", "2s")
                .replace("COMMAND", "ip route");
            let things = touched(&Action::parse(&text).unwrap(), node, &topology);
            // `lb` changes the pools, whatever the node.
            let is_harmless = ["continue", "close", "flood", "lb"].contains(&text.split(' ').next().unwrap());
            assert_eq!(things.is_empty(), is_harmless, "{text}");
        }
    }

    #[test]
    fn own_links_and_files_are_read() {
        let lo = link("lo").unwrap();
        assert!(lo.mtu > 1000, "{lo:?}");
        assert_eq!(content("/no/such/file").unwrap(), None);
        assert!(content("/proc/self/stat").unwrap().is_some());
    }
}
