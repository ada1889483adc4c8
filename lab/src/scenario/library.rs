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

scenarios!("01-director-killed");

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
