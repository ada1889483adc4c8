//! What a director would go by, from files alone: for commands that ask no agent.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::runtime;
use crate::config::Config;
use crate::dataplane::nexthops::Sources;
use crate::director_model::{View, assumed};
use crate::manifest::{self, Manifest, merge, store};

/// What stands in for an agent's knowledge.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Offline {
    /// The manifest that has the pools [default: the one that the configuration names].
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Take this host as failing its health checks; may be given again.
    #[arg(long = "sick", value_name = "HOST")]
    sick: Vec<String>,
    /// MTU of the links to all hosts [default: 1500].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65535))]
    mtu: Option<u32>,
}

/// MTU where none is given.
const MTU: u32 = 1500;

impl Offline {
    /// Something was given that an agent knows itself.
    pub fn is_given(&self) -> bool {
        self.manifest.is_some() || self.mtu.is_some() || !self.sick.is_empty()
    }

    /// The configuration with its pools, and a view in which all hosts are healthy and one hop away, without tables.
    pub fn load(&self, file: &Path) -> anyhow::Result<(Config, View)> {
        let name = file.display().to_string();
        let mut config = Config::load(file)?;
        if config.manifest.is_some() || self.manifest.is_some() {
            let (manifest, source) = self.read(&config)?;
            config = merge(&config, Some(&manifest), &name, &source)?;
        }
        if config.model.services.is_empty() {
            bail!("{name} has no services: every packet would be the kernel's");
        }
        let director = config.director.as_ref();
        let sources = director.map(|role| Sources {
            v4: role.source4,
            v6: role.source6,
            spread4: role.spread4,
            spread6: role.spread6,
        });
        let view = assumed::view(
            config.model.clone(),
            sources.unwrap_or_default(),
            self.mtu.unwrap_or(MTU),
            &self.sick,
        );
        Ok((config, view.map_err(anyhow::Error::msg)?))
    }

    fn read(&self, config: &Config) -> anyhow::Result<(Manifest, String)> {
        if let Some(file) = &self.manifest {
            let source = file.display().to_string();
            let manifest = manifest::file::read(file)?;
            return Ok((manifest.with_context(|| format!("{source}: no such file"))?, source));
        }
        let Some(manifest::Config { place, .. }) = &config.manifest else { bail!("no manifest") };
        let read = runtime()?.block_on(async { store::open(place).read().await });
        let manifest = read.with_context(|| format!("{place}; give it as --manifest FILE"))?;
        Ok((manifest.with_context(|| format!("{place}: there is no manifest yet"))?, place.to_string()))
    }
}
