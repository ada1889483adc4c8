//! After a scenario, or after a run that was killed: the lab as it was before, so that the next one finds what it expects.
//!
//! Only what the run changed is put back ([`super::undo`]), in the order of [`Thing`]: links before files, files before the
//! processes that read them, pools last. An error stops nothing; the log stays until all is done.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::stage::Stage;
use super::undo::{Fate, Link, Record, Thing, Value};
use crate::agent;
use crate::kinds::director_ipvs;
use crate::namespace;
use crate::patience::{ANSWER, LIMIT};
use crate::pool;
use crate::progress::Progress;
use crate::status;
use crate::topology::{Kind, Node};

/// Undoes what a killed run has left, if one has, and says so. Call with the lock held.
pub fn finish_left(stage: &Stage, progress: &Progress) -> Result<()> {
    let log = stage.undo_log();
    if log.records.is_empty() {
        return Ok(());
    }
    progress.line(&format!(
        "{} was killed and did not put back what it had changed: doing it now",
        log.by.describe_dead()
    ));
    tell(&restore(stage, progress)?, progress);
    Ok(())
}

/// Says what was done.
pub fn tell(said: &[String], progress: &Progress) {
    said.iter().for_each(|line| progress.line(&format!("restored: {line}")));
}

/// Undoes all that actions have done, then waits until every node is ready. The result says what was done, a line each.
pub fn restore(stage: &Stage, progress: &Progress) -> Result<Vec<String>> {
    let mut work = Work { stage, said: Vec::new(), reload: BTreeSet::new() };
    let mut errors = Vec::new();
    for record in &stage.records() {
        let done = work.put_back(record);
        errors.extend(done.with_context(|| format!("putting back {}", record.thing.words())).err());
    }
    errors.extend(work.reload_agents().err());
    if errors.is_empty() {
        errors.extend(wait_until_ready(stage, progress, || Ok(())).err());
    }
    let said = work.said;
    if errors.is_empty() {
        stage.forget()?;
        return Ok(said);
    }
    tell(&said, progress);
    let errors: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    bail!(
        "lab {0} is not as it was: {1}; the next lab run or lab up --name {0} tries again, lab down --name {0} removes it",
        stage.paths.name,
        errors.join("; ")
    )
}

struct Work<'a> {
    stage: &'a Stage,
    said: Vec<String>,
    /// Nodes whose agents are to read their configuration again.
    reload: BTreeSet<String>,
}

impl<'a> Work<'a> {
    fn put_back(&mut self, record: &Record) -> Result<()> {
        let now = self.stage.now(&record.thing)?;
        match (&record.thing, &record.before) {
            (Thing::Pools, Value::Content(Some(before))) => return self.pools(before, record, &now),
            // Of processes it counts which have ended, not which were started.
            (Thing::Processes(node), Value::Running(ran)) => return self.processes(node, ran, &now),
            _ => {}
        }
        match record.fate(&now) {
            Fate::Nothing => return Ok(()),
            Fate::Keep => {
                self.said.push(format!("not {}: somebody else has changed it since", record.thing.words()));
                return Ok(());
            }
            Fate::Restore => {}
        }
        if record.after.is_none() {
            self.keep_copy(&record.thing, &now)?;
        }
        match (&record.thing, &record.before) {
            (Thing::Halted(node, process), _) => {
                let node = self.node(node)?;
                // One that was killed since is started as others are.
                if self.stage.signal(node, process, Signal::SIGCONT).is_ok() {
                    self.said.push(format!("{}: {process} goes on", node.name));
                }
            }
            (Thing::Links(node), Value::Links(links)) => self.links(node, links)?,
            (Thing::File(node, path), Value::Content(content)) => {
                self.file(node, path, content.as_deref())?
            }
            (Thing::Program(node), _) => {
                let node = self.node(node)?;
                self.stage.restart(node, super::action::AGENT, &self.stage.lb())?;
                self.reload.remove(&node.name);
                self.said.push(format!("{}: its agent is the lab's", node.name));
            }
            (Thing::Enabler(node), _) => {
                let node = self.node(node)?;
                // One that was just started does not listen at once.
                self.stage.wait_for(&format!("HAProxy of {} to answer", node.name), || {
                    let said = self.stage.haproxy_enabler(node, "ready");
                    said.map(drop).map_err(|error| format!("{error:#}"))
                })?;
                self.said.push(format!("{}: its health check passes", node.name));
            }
            (thing, value) => bail!("{} cannot be {value:?}", thing.words()),
        }
        Ok(())
    }

    /// Links as they were, with the addresses and routes that go with them.
    fn links(&mut self, node: &str, links: &[Link]) -> Result<()> {
        let node = self.node(node)?;
        for Link { name, is_up, mtu } in links {
            let state = if *is_up { "up" } else { "down" };
            self.stage.sh(node, &format!("ip link set {name} mtu {mtu} {state}"))?;
        }
        if links.iter().all(|link| link.is_up) {
            self.stage.wire(node)?;
        }
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        self.said.push(format!("{}: {}", node.name, names.join(" ")));
        Ok(())
    }

    fn file(&mut self, node: &str, path: &str, content: Option<&str>) -> Result<()> {
        let node = self.node(node)?;
        namespace::enter(&self.stage.paths, &node.name, || match content {
            Some(content) => fs::write(path, content),
            None => match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        })?
        .with_context(|| format!("{}: writing {path}", node.name))?;
        match path {
            agent::CONFIG => drop(self.reload.insert(node.name.clone())),
            // One that does not run reads it when it starts.
            director_ipvs::KEEPALIVED => {
                drop(self.stage.signal(node, director_ipvs::PROCESS, Signal::SIGHUP));
            }
            _ => {}
        }
        let what = if content.is_some() { "as it was" } else { "removed" };
        self.said.push(format!("{}: {path} {what}", node.name));
        Ok(())
    }

    fn processes(&mut self, node: &str, ran: &[String], now: &Value) -> Result<()> {
        let Value::Running(running) = now else { bail!("processes cannot be {now:?}") };
        if ran.iter().all(|name| running.contains(name)) {
            return Ok(());
        }
        let node = self.node(node)?;
        let started = self.stage.start_missing(node)?;
        if started.contains(&super::action::AGENT) {
            self.reload.remove(&node.name);
        }
        self.said.push(format!("{}: started {}", node.name, started.join(", ")));
        Ok(())
    }

    /// Hosts, weights and states count; versions and generations go on.
    fn pools(&mut self, before: &str, record: &Record, now: &Value) -> Result<()> {
        let Value::Content(Some(now)) = now else { bail!("the manifest is gone") };
        if record.after.as_ref() == Some(&record.before) {
            return Ok(());
        }
        let intent = pool::intent;
        let is_others = match &record.after {
            Some(Value::Content(Some(after))) => {
                let now = intent(now)?;
                now != intent(before)? && now != intent(after)?
            }
            _ => false,
        };
        if is_others {
            self.said.push("not the pools: somebody else has changed them since".to_owned());
            return Ok(());
        }
        let Some(back) = pool::back(before, now)? else { return Ok(()) };
        if record.after.is_none() {
            self.keep_copy(&Thing::Pools, &Value::Content(Some(now.clone())))?;
        }
        pool::replace(&self.stage.paths, &back)?;
        self.said.push("the pools are as they were, by a generation of their own".to_owned());
        Ok(())
    }

    /// The run died at work: what stands there may be somebody else's after all, so it is not lost.
    fn keep_copy(&mut self, thing: &Thing, now: &Value) -> Result<()> {
        let name = match thing {
            Thing::File(node, path) if path.starts_with("/etc/") => {
                format!("{node}{}", path.replace('/', "-"))
            }
            Thing::Pools => pool::MANIFEST.to_owned(),
            _ => return Ok(()),
        };
        let Value::Content(Some(content)) = now else { return Ok(()) };
        let folder = self.stage.paths.folder.join("replaced");
        let file = folder.join(name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&file, content))
            .with_context(|| format!("writing {}", file.display()))?;
        self.said.push(format!(
            "{} was changed when the run was killed; a copy is {}",
            thing.words(),
            file.display()
        ));
        Ok(())
    }

    /// Agents that went on while their configuration changed. One that does not answer yet is waited for.
    fn reload_agents(&self) -> Result<()> {
        for name in &self.reload {
            let node = self.node(name)?;
            self.stage.wait_for(&format!("the agent of {name} to read its configuration"), || {
                self.stage.sh(node, "lb reload").map(drop).map_err(|error| format!("{error:#}"))
            })?;
        }
        Ok(())
    }

    fn node(&self, name: &str) -> Result<&'a Node> {
        self.stage.topology.node(name).with_context(|| format!("the lab has no node {name}"))
    }
}

/// Waits until every node is ready; gives up with what is in the way. `stop` ends the wait with its error.
pub fn wait_until_ready(stage: &Stage, progress: &Progress, stop: impl Fn() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let mut waiting: Vec<&Node> = stage.topology.nodes.iter().collect();
    loop {
        let found = status::of_nodes(&stage.paths, &stage.topology, &stage.state(), &waiting);
        let mut unready: Vec<(String, String)> = found
            .into_iter()
            .filter(|status| !status.ready)
            .map(|status| (status.name, status.reasons.join("; ")))
            .collect();
        if unready.is_empty() {
            unready.extend(behind(stage));
        }
        let Some((name, reason)) = unready.first() else { return Ok(()) };
        stop()?;
        let waited = start.elapsed();
        ensure!(
            waited < LIMIT,
            "waited {} s for {} nodes to be ready; {name} is not: {reason}",
            waited.as_secs(),
            unready.len()
        );
        progress.note(&format!("waiting for {name}: {reason}"));
        waiting.retain(|node| unready.iter().any(|(name, _)| *name == node.name));
        thread::sleep(Duration::from_millis(200));
    }
}

/// A node that does not go by the current manifest yet, and what it says instead.
fn behind(stage: &Stage) -> Option<(String, String)> {
    let version = pool::version(&stage.paths, &stage.topology)?;
    let is_agent = |node: &&Node| matches!(node.kind, Kind::Director | Kind::L7Host);
    stage.topology.nodes.iter().filter(is_agent).find_map(|node| {
        let said = agent::document(&stage.paths, &node.name, ANSWER);
        let reason = match said.as_ref().map(|status| &status["manifest"]["confirmed"]) {
            Some(confirmed) if *confirmed == version => return None,
            Some(confirmed) => {
                format!("goes by version {confirmed} of the manifest, and {version} is current")
            }
            None => format!("its agent did not say within {} s by which manifest it goes", ANSWER.as_secs()),
        };
        Some((node.name.clone(), reason))
    })
}
