//! `lb reload`.

use std::process::ExitCode;

use hyper::Method;

use super::{Api, client, runtime};
use crate::agent::Changes;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    api: Api,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let body = runtime()?.block_on(client::request(&args.api.socket(), Method::POST, "/v1/reload"))?;
    println!("{}", summary(&serde_json::from_slice(&body)?));
    Ok(ExitCode::SUCCESS)
}

fn summary(changes: &Changes) -> String {
    let mut lines = match changes.applied.is_empty() {
        true => "reloaded: nothing changed".to_owned(),
        false => format!("reloaded: changed {}", changes.applied.join(", ")),
    };
    if !changes.at_restart.is_empty() {
        let keys = changes.at_restart.join(", ");
        lines += &format!("\nrestart the agent for: {keys} (no traffic stops meanwhile)");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_restart_is_said() {
        let mut changes = Changes::default();
        assert_eq!(summary(&changes), "reloaded: nothing changed");
        changes.applied = vec!["pools".into(), "services".into()];
        changes.at_restart = vec!["api".into()];
        assert_eq!(
            summary(&changes),
            "reloaded: changed pools, services\nrestart the agent for: api (no traffic stops meanwhile)"
        );
    }
}
