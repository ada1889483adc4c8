//! The scenarios that come with the program.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::file::{self, Scenario};

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        /// Name → YAML, in order.
        pub const SCENARIOS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../configs/scenarios/", $name, ".yaml")))),*];
    };
}

scenarios!(
    "01-director-killed",
    "02-director-drained",
    "03-host-added",
    "04-host-drained-and-removed",
    "05-director-killed-while-host-added",
    "06-director-drained-while-host-drained",
    "07-three-generations",
    "08-routers-reshuffled-while-host-added",
    "09-host-fails-checks-while-director-killed",
    "10-weights-changed-while-director-killed",
    "11-agents-restarted-and-upgraded-while-host-added",
    "12-manifests-apart",
    "13-host-killed",
    "14-floods-while-director-killed-and-host-added",
);

/// The lab that scenarios run on when none is up.
pub const LAB: &str = include_str!("../../../configs/labs/proof.yaml");

/// The scenario in the file `name`, or the one of that name, or of that number, that comes with the program.
pub fn find(name: &str) -> Result<Scenario> {
    if let Some((name, yaml)) = SCENARIOS
        .iter()
        .find(|(known, _)| *known == name || known.split('-').next() == Some(&format!("{name:0>2}")))
    {
        return Ok(file::load(name, yaml)?);
    }
    if !Path::new(name).exists() {
        let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        bail!("{name}: no such file, and no scenario of that name; there are: {}", known.join(", "));
    }
    let yaml = fs::read_to_string(name).with_context(|| format!("reading {name}"))?;
    Ok(file::load(name, &yaml)?)
}

/// All that come with the program.
pub fn all() -> Result<Vec<Scenario>> {
    SCENARIOS.iter().map(|(name, _)| find(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file::Expect;
    use crate::spec;
    use crate::topology::Topology;

    #[test]
    fn there_are_fourteen_and_both_labs_have_what_they_are_about() {
        let full = include_str!("../../../configs/labs/proof.full.yaml");
        let scenarios = all().unwrap();
        assert_eq!(scenarios.len(), 14);
        for lab in [LAB, full] {
            let topology = Topology::new(&spec::load("lab.yaml", lab, &[]).unwrap());
            for scenario in &scenarios {
                for event in &scenario.timeline {
                    assert_eq!(event.action.problem(&topology), None, "{}: {}", scenario.name, event.text);
                }
                assert!(!scenario.description.is_empty(), "{}", scenario.name);
            }
        }
    }

    #[test]
    fn scenarios_are_found_by_name_and_number() {
        assert_eq!(find("13").unwrap().name, "13-host-killed");
        assert_eq!(find("1").unwrap().name, "01-director-killed");
        assert_eq!(find("03-host-added").unwrap().name, "03-host-added");
        let error = find("no-such").unwrap_err().to_string();
        assert!(
            error.starts_with("no-such: no such file, and no scenario of that name; there are: 01-"),
            "{error}"
        );
    }

    /// What is withdrawn, drained or changed must not be felt; what dies without a word is, until it is noticed.
    #[test]
    fn only_scenarios_in_which_something_dies_allow_a_stall_and_say_why() {
        let strict = Expect::default().stall;
        for ((_, yaml), scenario) in SCENARIOS.iter().zip(all().unwrap()) {
            let kills = scenario.timeline.iter().any(|event| event.action.kills().is_some());
            assert_eq!(scenario.expect.stall > strict, kills, "{}", scenario.name);
            let said =
                if scenario.expect == Expect::default() { "# Allows nothing: " } else { "# Allowed: stall " };
            assert!(yaml.contains(said), "{}: no comment `{said}…`", scenario.name);
        }
    }

    /// What does not break anything elsewhere must not be what makes a scenario pass.
    #[test]
    fn only_the_scenario_that_kills_a_host_excuses_anything() {
        for scenario in all().unwrap() {
            assert_eq!(scenario.expect.broken, 0, "{}", scenario.name);
            let kills_host = scenario.timeline.iter().any(|event| {
                event.action.kills().is_some_and(|nodes| nodes.0.contains("lb7") || nodes.0.contains("s1"))
            });
            assert_eq!(scenario.expect.excused_at_least > 0, kills_host, "{}", scenario.name);
            assert_eq!(scenario.expect.failed > 0, kills_host, "{}", scenario.name);
        }
    }
}
