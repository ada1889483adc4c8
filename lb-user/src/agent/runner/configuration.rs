//! The configuration that the runner goes by: the file, with the pools of the manifest; read again when either is said to
//! have changed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info};

use super::{INHERITANCE, PATHS, Runner, silent};
use crate::agent::SETTLE;
use crate::agent::reload::{Changes, merge};
use crate::agent::status::ManifestStatus;
use crate::bgp::Prefix;
use crate::config::{Config, ConfigErrors};
use crate::manifest::{self, Manifests, Reading};
use crate::switch::Switch;
use crate::vip::Vip;

impl Runner {
    pub(super) fn answer_reload(&mut self, reply: Option<oneshot::Sender<Result<Changes, ConfigErrors>>>) {
        let result = self.reload();
        match &result {
            Ok(changes) => info!(applied = ?changes.applied, at_restart = ?changes.at_restart, "reloaded"),
            Err(errors) => {
                for line in errors.lines() {
                    error!("reload refused, the last configuration stays in force: {line}");
                }
            }
        }
        if let Some(reply) = reply {
            // Whoever asked, and looks at the status next, finds it there.
            self.act();
            let _ = reply.send(result);
        }
    }

    fn reload(&mut self) -> Result<Changes, ConfigErrors> {
        let new = Config::load(&self.file).inspect_err(|errors| {
            self.reload.failed += 1;
            self.reload.errors = errors.lines();
        })?;
        // Another place of the manifest is read at once.
        let manifests =
            (new.manifest != self.config.manifest).then(|| new.manifest.as_ref().map(Manifests::start));
        let reading = manifests.as_ref().map(|manifests| reading_of(manifests.as_ref()));
        let reading = reading.unwrap_or_else(|| self.reading.clone());
        let now = reading.borrow().clone();
        let merged = with_manifest(&new, &now, &self.file).inspect_err(|errors| {
            self.reload.failed += 1;
            self.reload.errors = errors.lines();
        })?;
        if let Some(manifests) = manifests {
            self.manifests.send_replace(manifests);
            self.reading = reading;
        }
        let (config, changes) = merge(&self.config, merged);
        self.manifest_problem = None;
        self.go_by(config);
        self.reload.done += 1;
        self.reload.errors.clear();
        self.reload.at_restart.clone_from(&changes.at_restart);
        Ok(changes)
    }

    /// Goes by the manifest that has come, as a whole or not at all.
    pub(super) fn take_manifest(&mut self) {
        let reading = self.reading.borrow_and_update().clone();
        match with_manifest(&self.config, &reading, &self.file) {
            Ok(config) => {
                self.manifest_problem = None;
                self.go_by(config);
            }
            Err(errors) => {
                let problem = format!("the last one stays in force: {errors}");
                error!("manifest refused, {problem}");
                self.manifest_problem = Some(problem);
            }
        }
    }

    fn go_by(&mut self, config: Config) {
        if self.config.waits_for_manifest() && !config.waits_for_manifest() {
            let inherits = |role: bool, time| (self.adopted.is_some() && role).then(|| Instant::now() + time);
            self.adopted_paths_until = inherits(config.director.is_some(), PATHS);
            self.inherited_until = inherits(self.announcer.is_some(), INHERITANCE);
        }
        if self.announcer.is_some() && self.withdraws(&config) {
            self.in_force_until = Some(Instant::now() + SETTLE);
        } else if self.announcer.is_some() && config.model != self.config.model {
            // What is announced stays until the kernel, the routes and the checks have caught up with what is new.
            self.inherited_until = Some(Instant::now() + INHERITANCE);
        }
        if config.disable_file != self.config.disable_file {
            self.switch = Switch::start(&config.disable_file);
            self.disabled = self.switch.present();
        }
        self.exchange.update(&config);
        self.leaver.update(&config.leave);
        self.config = Arc::new(config);
        self.configs.send_replace(Arc::clone(&self.config));
    }

    /// Does this configuration lack a VIP that is announced?
    pub(super) fn withdraws(&self, config: &Config) -> bool {
        let vips: BTreeSet<Prefix> = config.model.vips().into_iter().map(Vip::prefix).collect();
        let (bgp, routes) = (self.bgp.borrow(), self.routes.borrow());
        let announced = bgp.announced.iter().chain(routes.iter().flat_map(|routes| &routes.routes));
        announced.into_iter().any(|prefix| !vips.contains(prefix))
    }

    pub(super) fn manifest_status(&self) -> Option<ManifestStatus> {
        let manifests = self.manifests.borrow();
        let manifests = manifests.as_ref()?;
        let reading = self.reading.borrow();
        Some(ManifestStatus {
            place: manifests.place().to_string(),
            version: self.config.manifest_version,
            confirmed: *self.confirmed.borrow(),
            cached: reading.cached && reading.manifest.is_some(),
            problem: reading.problem.clone().or_else(|| self.manifest_problem.clone()),
        })
    }
}

pub(super) fn reading_of(manifests: Option<&Manifests>) -> watch::Receiver<Reading> {
    manifests.map_or_else(|| silent(Reading::default()), Manifests::reading)
}

/// The configuration with the pools of the manifest, if one has been read.
pub(super) fn with_manifest(config: &Config, reading: &Reading, file: &Path) -> Result<Config, ConfigErrors> {
    let place = config.manifest.as_ref().map(|manifest| manifest.place.to_string()).unwrap_or_default();
    manifest::merge(config, reading.manifest.as_deref(), &file.display().to_string(), &place)
}
