//! What a timeline can do to a lab, written as a command: `disable lb4-2`.

use std::time::Duration;

use crate::topology::{Kind, Node, Topology};

/// Nodes as a scenario names them: `lb4-1`, `lb4-*`, `spare-1`, several of them with commas between, all but some:
/// `lb4-*,!lb4-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes(pub String);

impl Nodes {
    /// The nodes of `topology`, or what is wrong.
    pub fn find<'a>(&self, topology: &'a Topology) -> Result<Vec<&'a Node>, String> {
        let mut found: Vec<&Node> = Vec::new();
        for name in self.0.split(',') {
            let before = found.len();
            if let Some(name) = name.strip_prefix('!') {
                found.retain(|node| node.name != real_name(name, topology));
                continue;
            }
            if let Some(prefix) = name.strip_suffix('*') {
                found.extend(topology.nodes.iter().filter(|node| node.name.starts_with(prefix)));
            } else {
                found.extend(topology.node(&real_name(name, topology)));
            }
            if found.len() == before {
                let advice = match name.strip_prefix("spare-") {
                    Some(number) => format!("; it needs a lab with spare_lb7={number} or more"),
                    None => format!("; there are: {}", topology.names()),
                };
                return Err(format!("the lab has no node {name}{advice}"));
            }
        }
        Ok(found)
    }
}

/// The name of a node: `spare-1` stands for the first L7 host outside of the pool, whatever the lab's size.
pub fn real_name(word: &str, topology: &Topology) -> String {
    match word.strip_prefix("spare-").and_then(|number| number.parse::<u32>().ok()) {
        Some(number) if number > 0 && number <= topology.spec.spare_lb7 => {
            format!("lb7-{}", topology.spec.lb7 + number)
        }
        _ => word.to_owned(),
    }
}

/// Which packets a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// New connections that are never completed.
    Syn,
    /// Packets of connections that do not exist.
    Ack,
}

/// Something that happens at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// All processes die, links stay.
    Kill(Nodes),
    /// Links go down, then all processes die, and what the kernel held for them goes.
    PowerOff(Nodes),
    /// Links come up, processes start.
    PowerOn(Nodes),
    /// A process is halted (SIGSTOP).
    Stop(Nodes, String),
    /// A halted process goes on.
    Continue(Nodes, String),
    /// A process is killed and started again, on one node after the other.
    Restart(Nodes, String),
    /// The agent is replaced by another copy of its program with other map sizes, on one node after the other.
    Upgrade(Nodes),
    /// `eth0` goes down without a word.
    LinkDown(Nodes),
    /// `eth0` comes up.
    LinkUp(Nodes),
    /// `/etc/lb/disable` appears.
    Disable(Nodes),
    /// `/etc/lb/disable` goes.
    Enable(Nodes),
    /// `/etc/lb/agent-check` says this.
    AgentCheck(Nodes, String),
    /// The host's health check fails; it serves on.
    FailHealth(Nodes),
    /// The host's health check passes again.
    Heal(Nodes),
    /// `lb` with these arguments on a node, in the background.
    Lb(Vec<String>),
    /// Routers hash flows otherwise.
    Reshuffle(Nodes),
    /// `eth0` carries packets of this size at most.
    Mtu(Nodes, u32),
    /// Packets from users, so many a second, for so long.
    Flood(Flag, u32, Duration),
    /// Connections on these L7 hosts end in an orderly way.
    Close(Nodes),
    /// A shell command on each node at the same time.
    Exec(Nodes, String),
}

/// How each action is written.
pub const USAGE: [&str; 20] = [
    "kill NODES",
    "power-off NODES",
    "power-on NODES",
    "stop NODES [PROCESS]",
    "continue NODES [PROCESS]",
    "restart NODES [PROCESS]",
    "upgrade NODES",
    "link-down NODES",
    "link-up NODES",
    "disable NODES",
    "enable NODES",
    "agent-check NODES WORD",
    "fail-health NODES",
    "heal NODES",
    "lb ARGUMENTS",
    "reshuffle NODES",
    "mtu NODES BYTES",
    "flood syn|ack PACKETS_PER_SECOND DURATION",
    "close NODES",
    "exec NODES COMMAND",
];

/// The process that is meant when none is named.
pub const AGENT: &str = "lb-agent";

impl Action {
    /// Reads an action; an error says how it should be written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some((verb, arguments)) = words.split_first() else {
            return Err("nothing to do; write an action, e.g. disable lb4-2".to_owned());
        };
        Self::of_words(verb, arguments, text).ok_or_else(|| {
            let usage = USAGE.iter().find(|usage| usage.split(' ').next() == Some(verb));
            match usage {
                Some(usage) => format!("`{text}` is no action; write: {usage}"),
                None => format!("`{verb}` is no action; there are: {}", USAGE.join(", ")),
            }
        })
    }

    fn of_words(verb: &str, arguments: &[&str], text: &str) -> Option<Self> {
        let nodes = || arguments.first().map(|word| Nodes((*word).to_owned()));
        let only_nodes = || nodes().filter(|_| arguments.len() == 1);
        let process = || match arguments {
            [_] => Some(AGENT.to_owned()),
            [_, process] => Some((*process).to_owned()),
            _ => None,
        };
        Some(match (verb, arguments) {
            ("kill", _) => Self::Kill(only_nodes()?),
            ("power-off", _) => Self::PowerOff(only_nodes()?),
            ("power-on", _) => Self::PowerOn(only_nodes()?),
            ("stop", _) => Self::Stop(nodes()?, process()?),
            ("continue", _) => Self::Continue(nodes()?, process()?),
            ("restart", _) => Self::Restart(nodes()?, process()?),
            ("upgrade", _) => Self::Upgrade(only_nodes()?),
            ("link-down", _) => Self::LinkDown(only_nodes()?),
            ("link-up", _) => Self::LinkUp(only_nodes()?),
            ("disable", _) => Self::Disable(only_nodes()?),
            ("enable", _) => Self::Enable(only_nodes()?),
            ("agent-check", [_, word]) => Self::AgentCheck(nodes()?, (*word).to_owned()),
            ("fail-health", _) => Self::FailHealth(only_nodes()?),
            ("heal", _) => Self::Heal(only_nodes()?),
            ("lb", [_, ..]) => Self::Lb(arguments.iter().map(|word| (*word).to_owned()).collect()),
            ("reshuffle", _) => Self::Reshuffle(only_nodes()?),
            ("mtu", [_, bytes]) => Self::Mtu(nodes()?, bytes.parse().ok()?),
            ("flood", [flag, rate, duration]) => {
                let flag = match *flag {
                    "syn" => Flag::Syn,
                    "ack" => Flag::Ack,
                    _ => return None,
                };
                Self::Flood(flag, rate.parse().ok().filter(|rate| *rate > 0)?, duration_of(duration)?)
            }
            ("close", _) => Self::Close(only_nodes()?),
            ("exec", [nodes, _, ..]) => {
                // The command keeps its spaces.
                let (_, command) = text.split_once(nodes)?;
                Self::Exec(Nodes((*nodes).to_owned()), command.trim().to_owned())
            }
            _ => return None,
        })
    }

    /// The nodes whose own connections die with them: those that are excused.
    pub fn kills(&self) -> Option<&Nodes> {
        match self {
            Self::Kill(nodes) | Self::PowerOff(nodes) => Some(nodes),
            Self::Restart(nodes, process)
                if ["haproxy", "nginx", "bulk", "echo"].contains(&process.as_str()) =>
            {
                Some(nodes)
            }
            _ => None,
        }
    }

    /// The nodes it is about, if it is about nodes.
    pub fn nodes(&self) -> Option<&Nodes> {
        match self {
            Self::Kill(nodes)
            | Self::PowerOff(nodes)
            | Self::PowerOn(nodes)
            | Self::Stop(nodes, _)
            | Self::Continue(nodes, _)
            | Self::Restart(nodes, _)
            | Self::Upgrade(nodes)
            | Self::LinkDown(nodes)
            | Self::LinkUp(nodes)
            | Self::Disable(nodes)
            | Self::Enable(nodes)
            | Self::AgentCheck(nodes, _)
            | Self::FailHealth(nodes)
            | Self::Heal(nodes)
            | Self::Reshuffle(nodes)
            | Self::Mtu(nodes, _)
            | Self::Close(nodes)
            | Self::Exec(nodes, _) => Some(nodes),
            Self::Lb(_) | Self::Flood(..) => None,
        }
    }

    /// What is wrong with doing this in `topology`.
    pub fn problem(&self, topology: &Topology) -> Option<String> {
        let found = match self.nodes()?.find(topology) {
            Ok(found) => found,
            Err(problem) => return Some(problem),
        };
        let wanted = match self {
            Self::FailHealth(_) | Self::Heal(_) | Self::Close(_) => Kind::L7Host,
            Self::Disable(_) | Self::Enable(_) => Kind::Director,
            _ => return None,
        };
        let other = found.iter().find(|node| node.kind != wanted)?;
        Some(format!(
            "{} is {}, and this is for nodes of kind {}",
            other.name,
            other.kind.word(),
            wanted.word()
        ))
    }
}

/// `500ms`, `2s`, `1.5s`, `1m`.
pub fn duration_of(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn topology() -> Topology {
        Topology::new(&spec::load("x", "lb4: 3\nlb7: 4\nspare_lb7: 2\n", &[]).unwrap())
    }

    fn names(nodes: &str) -> Vec<String> {
        let topology = topology();
        let found = Nodes(nodes.to_owned()).find(&topology).unwrap();
        found.iter().map(|node| node.name.clone()).collect()
    }

    #[test]
    fn nodes_are_named_by_star_by_comma_and_as_spares() {
        assert_eq!(names("lb4-*"), ["lb4-1", "lb4-2", "lb4-3"]);
        assert_eq!(names("lb4-*,!lb4-2"), ["lb4-1", "lb4-3"]);
        assert_eq!(names("lb4-2,spare-1"), ["lb4-2", "lb7-5"]);
        assert_eq!(real_name("spare-2", &topology()), "lb7-6");
    }

    #[test]
    fn missing_spare_says_what_the_lab_needs() {
        let error = Nodes("spare-3".to_owned()).find(&topology()).unwrap_err();
        assert_eq!(error, "the lab has no node spare-3; it needs a lab with spare_lb7=3 or more");
    }

    #[test]
    fn every_usage_line_parses_with_plausible_words() {
        for usage in USAGE {
            let text = usage
                .replace("[PROCESS]", "haproxy")
                .replace("NODES", "lb7-1")
                .replace("ARGUMENTS", "pool add web spare-1")
                .replace("BYTES", "1400")
                .replace("syn|ack", "syn")
                .replace("PACKETS_PER_SECOND", "100")
                .replace("DURATION", "2s")
                .replace("COMMAND", "ip  -4 route");
            Action::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(
            Action::parse("exec r1 sh -c 'a  b'").unwrap(),
            Action::Exec(Nodes("r1".to_owned()), "sh -c 'a  b'".to_owned())
        );
    }

    #[test]
    fn wrong_action_says_how_it_is_written() {
        assert_eq!(
            Action::parse("mtu lb7-1 big").unwrap_err(),
            "`mtu lb7-1 big` is no action; write: mtu NODES BYTES"
        );
        assert!(
            Action::parse("explode lb7-1")
                .unwrap_err()
                .starts_with("`explode` is no action; there are: kill NODES")
        );
        let problem = Action::parse("heal lb4-1").unwrap().problem(&topology());
        assert_eq!(problem.unwrap(), "lb4-1 is director, and this is for nodes of kind l7-host");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration_of("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration_of("250ms"), Some(Duration::from_millis(250)));
        assert_eq!((duration_of("3"), duration_of("-1s")), (None, None));
    }
}
