//! `lb`: agent and command line.

use std::process::ExitCode;
use std::sync::Arc;

use lb_user::dataplane::live::Live;

fn main() -> ExitCode {
    lb_user::cli::run(Arc::new(Live))
}
