//! ^C and its like, for commands that must put things back before they end.
//!
//! The handler only counts. Whoever waits looks at [`signal`] meanwhile, stops what it does, and tidies up. A third signal
//! ends the program at once; what it has left is in the undo log ([`crate::scenario::undo`]).

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The first signal; 0 for none.
static FIRST: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The signals that ask for an end: a terminal's ^C, a service manager's or `timeout`'s, a terminal that goes away.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How long a wait may take to notice.
pub const NOTICE: Duration = Duration::from_millis(50);

extern "C" fn note(signal: i32) {
    let _ = FIRST.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    if COUNT.fetch_add(1, Ordering::Relaxed) >= 2 {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) }
    }
}

/// From here on signals are noted and do not end the program.
pub fn catch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: the handler touches atomics and calls _exit, nothing else.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("catching {signal}"))?;
    }
    Ok(())
}

/// The signal that asked for an end, if one did. Never one in a program that does not [`catch`].
pub fn signal() -> Option<Signal> {
    Signal::try_from(FIRST.load(Ordering::Relaxed)).ok()
}

/// An error if a signal asked for an end: for long waits on the way.
pub fn check() -> Result<()> {
    match signal() {
        Some(signal) => bail!("ended by {signal}"),
        None => Ok(()),
    }
}

/// Sleeps until `when`, or until a signal asks for an end.
pub fn sleep_until(when: Instant) {
    while signal().is_none() {
        let left = when.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(NOTICE));
    }
}

/// The exit status of a program that `signal` ended, as shells have it.
pub fn status(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_a_signal_is_the_shells() {
        assert_eq!([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].map(status), [130, 143, 129]);
    }
}
