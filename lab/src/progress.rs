//! Progress on stderr: one line per step with its time; on a terminal the line shows the step at work first.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Prints steps as they happen.
pub struct Progress {
    start: Instant,
    is_terminal: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { start: Instant::now(), is_terminal: stderr().is_terminal() }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Runs `work` as the step `what`.
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        self.note(what);
        let result = work();
        self.line(&format!("{what} ({})", seconds(begin.elapsed())));
        result
    }

    /// Shows `text` until the next line, on terminals only.
    pub fn note(&self, text: &str) {
        if self.is_terminal {
            let _ = write!(stderr(), "\r\x1b[K{text} …");
            let _ = stderr().flush();
        }
    }

    /// Prints a line that stays, with the time since the start.
    pub fn line(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}{:>7}  {text}", seconds(self.elapsed()));
    }
}

/// `1.23 s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
