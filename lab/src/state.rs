//! What is known about a lab that runs, in a file on the lab's tmpfs, rewritten as the lab comes up.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::process::Process;
use crate::spec::LabSpec;

/// The state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What was asked for.
    pub spec: LabSpec,
    /// The agent's program.
    pub lb: PathBuf,
    /// The `lab up` that wrote this, to tell one at work from one that crashed.
    pub creator: Process,
    /// Whether that was a `lab run` which needed a lab for itself, and removes it.
    #[serde(default)]
    pub temporary: bool,
    /// Whether all nodes exist and all processes were started.
    pub complete: bool,
    /// Node → its processes in order of start.
    pub processes: BTreeMap<String, Vec<Process>>,
}

impl State {
    /// Writes the file; readers see the old one or the new one.
    pub fn save(&self, paths: &Paths) -> Result<()> {
        let file = paths.state();
        let new = file.with_extension("new");
        let json = serde_json::to_vec_pretty(self).context("writing the state as JSON")?;
        fs::write(&new, json)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Reads the file; `None` if there is none.
    pub fn load(paths: &Paths) -> Result<Option<Self>> {
        let file = paths.state();
        match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
            Ok(json) => serde_json::from_slice(&json).map(Some).with_context(|| {
                format!(
                    "{} is not a lab's state; remove the lab: lab down --name {}",
                    file.display(),
                    paths.name
                )
            }),
        }
    }

    /// The started processes that have ended, with their nodes.
    pub fn dead(&self) -> Vec<(&str, &Process)> {
        let all = self
            .processes
            .iter()
            .flat_map(|(node, processes)| processes.iter().map(move |process| (node.as_str(), process)));
        all.filter(|(_, process)| !process.is_running()).collect()
    }

    /// The state of a lab that is up, or an error that says what to do.
    pub fn of_running(paths: &Paths) -> Result<Self> {
        match Self::load(paths)? {
            Some(state) if state.complete => Ok(state),
            Some(_) => {
                bail!(
                    "lab {0} is not completely up; wait for lab up, or remove it: lab down --name {0}",
                    paths.name
                )
            }
            None => {
                let others = Paths::existing();
                let others = if others.is_empty() {
                    String::new()
                } else {
                    format!(" (there is: {})", others.join(", "))
                };
                bail!("lab {0} is not up{others}; start it: lab up --name {0}", paths.name)
            }
        }
    }
}
