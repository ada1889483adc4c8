//! Pool edits of a timeline on directors that have no agent: what an operator of keepalived does for them.

use std::collections::BTreeMap;

use super::action::{AGENT, Action, real_name};
use super::file::Scenario;
use crate::spec::DirectorKind;
use crate::topology::{Kind, Topology};

/// A change of the hosts that keepalived is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// This weight from now on, of a host that may be new; 0 drains it.
    Weight(String, u32),
    /// No longer a host, once no director counts a connection of it if so.
    Remove {
        /// The host.
        host: String,
        /// Whether to wait for its connections.
        when_safe: bool,
    },
}

impl Edit {
    /// What `lb` with these arguments stands for; an error says why that is nothing to keepalived.
    pub fn parse(arguments: &[String], topology: &Topology) -> Result<Self, String> {
        let mut words = Vec::new();
        let mut when_safe = false;
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            match word {
                // keepalived does not know what other directors have.
                "--wait" => drop(rest.next()),
                "--when-safe" => when_safe = true,
                word => words.push(word),
            }
        }
        let nothing = || format!("`lb {}` means nothing to keepalived", arguments.join(" "));
        let host = |word: &str| {
            let name = real_name(word.split('=').next().unwrap_or(word), topology);
            let is_host = topology.node(&name).is_some_and(|node| node.kind == Kind::L7Host);
            is_host.then_some(name).ok_or_else(|| format!("the lab has no L7 host {word}"))
        };
        match words[..] {
            ["pool", "add", _, name] => Ok(Self::Weight(host(name)?, 1)),
            ["pool", "remove", _, name] => Ok(Self::Remove { host: host(name)?, when_safe }),
            ["drain", name] => Ok(Self::Weight(host(name)?, 0)),
            ["undrain", name] => Ok(Self::Weight(host(name)?, 1)),
            ["weight", name, weight] => Ok(Self::Weight(host(name)?, weight.parse().map_err(|_| nothing())?)),
            _ => Err(nothing()),
        }
    }

    /// The hosts after it.
    pub fn apply(&self, weights: &mut BTreeMap<String, u32>) {
        match self {
            Self::Weight(host, weight) => drop(weights.insert(host.clone(), *weight)),
            Self::Remove { host, .. } => drop(weights.remove(host)),
        }
    }
}

/// Why `scenario` cannot be played on these directors, if so.
pub fn problem(scenario: &Scenario, topology: &Topology) -> Option<String> {
    if topology.spec.director != DirectorKind::Ipvs {
        return None;
    }
    scenario.timeline.iter().find_map(|event| {
        let problem = match &event.action {
            Action::Lb(arguments) => Edit::parse(arguments, topology).err()?,
            Action::Upgrade(nodes) => agentless(nodes.find(topology).ok()?.iter().map(|node| node.kind))?,
            Action::Stop(nodes, process)
            | Action::Continue(nodes, process)
            | Action::Restart(nodes, process)
                if process == AGENT =>
            {
                agentless(nodes.find(topology).ok()?.iter().map(|node| node.kind))?
            }
            _ => return None,
        };
        Some(format!("`{}`: {problem}", event.text))
    })
}

fn agentless(mut kinds: impl Iterator<Item = Kind>) -> Option<String> {
    kinds.any(|kind| kind == Kind::Director).then(|| "directors have no agent".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::library;
    use crate::spec;

    fn topology(director: &str) -> Topology {
        Topology::new(&spec::load("x", library::LAB, &[format!("director={director}")]).unwrap())
    }

    fn edit(text: &str) -> Result<Edit, String> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Edit::parse(&words, &topology("ipvs"))
    }

    #[test]
    fn edits_change_the_weights_of_real_servers() {
        let mut weights = BTreeMap::from([("lb7-1".to_owned(), 1)]);
        for text in [
            "pool add web spare-1=ADDRESSES --wait 3s",
            "drain lb7-1",
            "weight lb7-5 4 --wait 3s",
            "pool remove web lb7-1 --when-safe",
        ] {
            edit(text).unwrap().apply(&mut weights);
        }
        assert_eq!(weights, BTreeMap::from([("lb7-5".to_owned(), 4)]));
        assert_eq!(
            edit("pool remove web lb7-1 --when-safe").unwrap(),
            Edit::Remove { host: "lb7-1".to_owned(), when_safe: true }
        );
    }

    #[test]
    fn what_keepalived_has_not_is_said() {
        assert_eq!(edit("pool show").unwrap_err(), "`lb pool show` means nothing to keepalived");
        assert_eq!(edit("drain lb4-1").unwrap_err(), "the lab has no L7 host lb4-1");
        assert_eq!(
            edit("weight lb7-1 heavy").unwrap_err(),
            "`lb weight lb7-1 heavy` means nothing to keepalived"
        );
    }

    #[test]
    fn all_but_what_is_about_agents_can_be_compared() {
        let (ipvs, xdp) = (topology("ipvs"), topology("xdp"));
        for scenario in library::all().unwrap() {
            assert_eq!(problem(&scenario, &xdp), None);
            let is_about_agents = ["11", "12"].iter().any(|number| scenario.name.starts_with(number));
            assert_eq!(problem(&scenario, &ipvs).is_some(), is_about_agents, "{}", scenario.name);
        }
    }
}
