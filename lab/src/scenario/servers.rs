//! The hosts that keepalived is configured with, on directors that have no agent.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::ipvs::Edit;
use super::stage::Stage;
use crate::kinds::director_ipvs;
use crate::namespace;
use crate::topology::{Kind, Node};

impl Stage {
    /// An edit of keepalived's hosts on all directors that run; the others get it when they start.
    pub(super) fn edit_servers(&self, edit: &Edit) -> Result<String> {
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

    pub(super) fn configure_servers(&self, weights: &BTreeMap<String, u32>) -> Result<String> {
        let mut told = Vec::new();
        for director in self.running_directors() {
            self.write_servers(director, weights)?;
            self.signal(director, director_ipvs::PROCESS, Signal::SIGHUP)?;
            told.push(director.name.as_str());
        }
        Ok(format!("keepalived reads its hosts anew on {}", told.join(", ")))
    }

    pub(super) fn write_servers(&self, director: &Node, weights: &BTreeMap<String, u32>) -> Result<String> {
        let text = director_ipvs::keepalived(&self.topology, director, weights);
        let file = director_ipvs::KEEPALIVED;
        self.sh(director, &format!("cat > {file} <<'END_OF_FILE'\n{text}END_OF_FILE"))
    }

    pub(super) fn running_directors(&self) -> impl Iterator<Item = &Node> {
        let runs =
            |node: &&Node| self.find(node, director_ipvs::PROCESS).is_ok_and(|found| found.is_running());
        self.topology.of(Kind::Director).filter(runs)
    }
}
