//! Shared by the tests of all crates: how a test says that it cannot run here, and how it waits.
//!
//! `tests/README.md` describes the tiers and the words in `#[ignore = "…"]`.

use std::env;
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};

/// How long a test waits for anything that forks, binds, connects or converges. A test that passes never waits that long;
/// the limit only ends one that would wait forever, so it allows for a machine with four times as much work as cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The variable by which `scripts/test` says that it counts skipped tests, and which tier it runs: `default` or `all`.
pub const TIER: &str = "LB_TEST_TIER";

/// How often a condition is looked at while a test waits for it.
const LOOK: Duration = Duration::from_millis(20);

/// Says that `test` cannot run here; the caller returns.
///
/// Under `scripts/test` this prints the line by which the test is reported and counted as skipped.
///
/// # Panics
///
/// Without `scripts/test`: nobody would count the line, and a test that did not run must not pass.
#[track_caller]
pub fn skip(test: &str, reason: impl Display) {
    assert!(env::var_os(TIER).is_some(), "{test} cannot run here: {reason}; scripts/test would skip it");
    println!("skipped: {test}: {reason}");
}

/// The name of the running test, by which its thread is called.
pub fn this_test() -> String {
    thread::current().name().unwrap_or("a test").to_owned()
}

/// Whether the tests of the tier `--all` run.
pub fn is_all() -> bool {
    env::var_os(TIER).is_some_and(|tier| tier == "all")
}

/// Whether this is root; skips the test otherwise.
#[track_caller]
pub fn is_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip(test, "needs root");
    }
    is_root
}

/// Whether these programs are in `PATH`; skips the test if one is missing.
#[track_caller]
pub fn has_programs(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !has_program(program));
    if let Some(program) = missing {
        skip(test, format_args!("{program} is missing; run: sudo scripts/setup"));
    }
    missing.is_none()
}

/// Whether a program is in `PATH`.
pub fn has_program(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| access(&folder.join(program), AccessFlags::X_OK).is_ok())
}

/// Waits until `attempt` succeeds, and returns how long that took.
///
/// # Panics
///
/// After `patience`, with the last error.
#[track_caller]
pub fn wait_until(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<(), String>,
) -> Duration {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return start.elapsed(),
            Err(error) if start.elapsed() > patience => panic!("not within {patience:?}: {what}: {error}"),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// The same for tasks.
///
/// # Panics
///
/// After `patience`, with the last error.
pub async fn wait_until_async(
    what: &str,
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> Result<(), String>,
) -> Duration {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(()) => return start.elapsed(),
            Err(error) if start.elapsed() > patience => panic!("not within {patience:?}: {what}: {error}"),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Looks for this long that something stays as it is.
///
/// Only for what a right program never does, however slow the machine: a state that may pass by proves nothing. Better is to
/// wait for a sign that the program has decided, and to look once.
///
/// # Panics
///
/// With the first error.
#[track_caller]
pub fn stays(what: &str, time: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(error) = look() {
            panic!("after {:?}: {what}: {error}", start.elapsed());
        }
        thread::sleep(LOOK);
    }
}

/// The same for tasks.
///
/// # Panics
///
/// With the first error.
pub async fn stays_async(what: &str, time: Duration, mut look: impl AsyncFnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(error) = look().await {
            panic!("after {:?}: {what}: {error}", start.elapsed());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// For `wait_until`: an error if `condition` is not met.
///
/// # Errors
///
/// `error`, as text.
pub fn check(condition: bool, error: impl Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "it stays: gone")]
    fn what_goes_does_not_stay() {
        let mut looks = 0;
        stays("it stays", PATIENCE, || {
            looks += 1;
            check(looks < 3, "gone")
        });
    }

    #[test]
    fn waiting_ends_with_the_last_error() {
        let mut looks = 0;
        let took = wait_until("a third look", PATIENCE, || {
            looks += 1;
            check(looks == 3, looks)
        });
        assert_eq!(looks, 3);
        assert!(took < PATIENCE);
        let panic = std::panic::catch_unwind(|| {
            wait_until("nothing", Duration::ZERO, || Err("still not".into()));
        });
        let said = panic.expect_err("no patience left").downcast::<String>().expect("a text");
        assert_eq!(*said, "not within 0ns: nothing: still not");
    }
}
