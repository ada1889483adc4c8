//! Waits: each says what it waits for, and what it saw last when its time is up.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For what takes a second at most on a machine of one's own: it may be emulated, or have ten times as much to do as it has
/// processors. Only what hangs takes this long.
pub const LIMIT: Duration = Duration::from_secs(120);

/// For one answer over a socket of this machine, after which it is asked again or counts as missing.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(30);

/// Looks again and again until `look` finds nothing in the way; `look` says what is. `stop` ends the wait with its error.
pub fn wait_for(
    what: &str,
    limit: Duration,
    stop: impl Fn() -> Result<()>,
    mut look: impl FnMut() -> Result<(), String>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let Err(seen) = look() else { return Ok(()) };
        stop()?;
        if start.elapsed() >= limit {
            bail!("waited {} s for {what}; seen last: {seen}", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_with_success_with_its_limit_or_when_it_is_stopped() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            if looks < 3 { Err(format!("look {looks}")) } else { Ok(()) }
        };
        wait_for("the third", LIMIT, || Ok(()), third).unwrap();
        assert_eq!(looks, 3);
        let never = || Err("no answer".to_owned());
        let error = wait_for("an answer", Duration::ZERO, || Ok(()), never).unwrap_err().to_string();
        assert_eq!(error, "waited 0 s for an answer; seen last: no answer");
        let error = wait_for("an answer", LIMIT, || bail!("stopped"), never).unwrap_err().to_string();
        assert_eq!(error, "stopped");
    }
}
