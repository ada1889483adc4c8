//! `lb`: agent and command line.

use std::process::ExitCode;
use std::sync::Arc;

use lb_user::agent::dataplane::{DataplaneError, Kernel, Opened};
use lb_user::config::Config;

/// A build without programs: it checks configurations and answers agent checks.
struct NoPrograms;

impl Kernel for NoPrograms {
    fn open(&self, _: &Config) -> Result<Opened, DataplaneError> {
        Err(DataplaneError("this build has no programs for the kernel; build it with scripts/build".into()))
    }

    fn detach(&self, _: &Config) -> Result<(), DataplaneError> {
        Ok(())
    }
}

fn main() -> ExitCode {
    lb_user::cli::run(Arc::new(NoPrograms))
}
