//! `lb detach`: through the agent if one runs, else by ourselves.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use hyper::Method;

use super::client::{self, ClientError};
use super::{Api, runtime};
use crate::agent::{dataplane::Kernel, detach_without_agent};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
}

pub(super) fn run(args: &Args, kernel: Arc<dyn Kernel>) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    match runtime.block_on(client::request(&args.api.socket(), Method::POST, "/v1/detach")) {
        Ok(_) => println!("detached; the agent has ended"),
        Err(ClientError::NoAgent(_)) => {
            if !nix::unistd::geteuid().is_root() {
                bail!("detach: no agent runs, and removing programs and pins needs root; run this as root");
            }
            let config = Config::load(&args.api.config)?;
            runtime.block_on(detach_without_agent(config, kernel)).map_err(|error| anyhow!(error))?;
            println!("detached");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}
