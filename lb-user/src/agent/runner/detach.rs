//! Taking this node out of service for good: withdraw, let routers learn of it, then detach.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::info;

use super::Runner;
use crate::agent::SETTLE;
use crate::agent::dataplane::Kernel;
use crate::bgp::{self, Announcer, BgpError};
use crate::config::Config;

/// How long a BGP daemon gets to withdraw before a detach is given up.
const WITHDRAWAL: Duration = Duration::from_secs(5);

impl Runner {
    /// Withdraws and detaches. If the BGP daemon does not withdraw, all stays as it is.
    pub(super) async fn detach(&mut self) -> Result<(), String> {
        if let (Some(announcer), Some(bgp)) = (self.announcer.take(), self.config.bgp.clone()) {
            if let Err(error) = withdrawn(announcer.withdraw_all()).await {
                let announcer = Announcer::start(&bgp, self.routes.subscribe());
                self.bgp = announcer.status();
                self.announcer = Some(announcer);
                return Err(error);
            }
            info!("withdrawn; routers get {SETTLE:?}");
            sleep(SETTLE).await;
        }
        if let Some(kernel) = &self.kernel {
            kernel.detach(Arc::clone(&self.config)).await.map_err(|error| error.to_string())?;
        }
        info!("detached");
        Ok(())
    }
}

/// Withdraws and detaches while no agent runs.
pub(crate) async fn detach_without_agent(config: Config, kernel: Arc<dyn Kernel>) -> Result<(), String> {
    if let Some(bgp) = &config.bgp {
        withdrawn(bgp::withdraw_all(bgp)).await?;
        sleep(SETTLE).await;
    }
    let detaching = tokio::task::spawn_blocking(move || kernel.detach(&config));
    detaching.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn withdrawn(withdrawal: impl Future<Output = Result<(), BgpError>>) -> Result<(), String> {
    let result = match timeout(WITHDRAWAL, withdrawal).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {WITHDRAWAL:?}")),
    };
    result.map_err(|error| {
        format!(
            "cannot withdraw, so nothing was detached: {error}; if the BGP daemon is gone for good, stop the agent, take \
             bgp out of the configuration and detach again"
        )
    })
}
