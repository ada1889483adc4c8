//! How many file descriptors the agent may have.
//!
//! Sockets are opened for others' sake (connections that are accepted, probes), and for the agent's own: netlink, maps, files.
//! The first kind is bounded by a share of the limit, so that the second never goes without.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is taken for granted if the kernel does not say.
const USUAL: u64 = 1024;

/// Raises the limit as far as this process may, since a service has 1024 by default; returns what it is then.
pub fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return USUAL };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// One of so many equal parts of the limit.
pub fn share(parts: u64) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft);
    usize::try_from(limit / parts.max(1)).unwrap_or(usize::MAX).max(1)
}
