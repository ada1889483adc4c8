//! Commands that actions run: bounded in what they say, ended when the run is, and never left behind.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// As much of what a command prints, on each of its outputs, as a report takes.
const LONGEST: u64 = 64 * 1024;
/// Between two looks at a command.
const PAUSE: Duration = Duration::from_millis(5);

/// What `command`, called `what` in messages, prints; it must succeed. It is killed when `is_cancelled`, and when the thread
/// that started it ends, by whatever.
pub fn output(mut command: Command, what: &str, is_cancelled: impl Fn() -> bool) -> Result<String> {
    // A group of its own: ^C is for this program, which ends the command when it sees fit.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // SAFETY: one system call without pointers, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let mut child = command.spawn().with_context(|| format!("running {what}"))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id beyond i32")?);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (status, said, is_killed) = thread::scope(|scope| {
        let readers = [scope.spawn(move || read(stdout)), scope.spawn(move || read(stderr))];
        let mut is_killed = false;
        // A command that has ended may have left others that hold its output.
        let status = loop {
            let status = child.try_wait();
            match status {
                Ok(None) => {}
                Ok(Some(_)) if !readers.iter().all(thread::ScopedJoinHandle::is_finished) => {}
                status => break status,
            }
            if !is_killed && is_cancelled() {
                is_killed = true;
                // What has ended meanwhile needs no signal.
                let _ = killpg(group, Signal::SIGKILL);
            }
            thread::sleep(PAUSE);
        };
        (status, readers.map(|reader| reader.join().unwrap_or_default()).join("\n"), is_killed)
    });
    if is_killed {
        bail!("{what}: ended before it was done");
    }
    let status = status.with_context(|| format!("waiting for {what}"))?.context("no status")?;
    let said = said.trim().to_owned();
    ensure!(status.success(), "{what}: {status}: {said}");
    Ok(said)
}

/// The beginning of what comes; the rest is read as well, as nobody could write it otherwise.
fn read(from: Option<impl Read>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut bytes = Vec::new();
    // What cannot be read any more was not said.
    let _ = from.by_ref().take(LONGEST).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, is_cancelled: bool) -> Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        output(command, "it", || is_cancelled)
    }

    #[test]
    fn both_outputs_and_the_status_are_told() {
        assert_eq!(sh("echo a; echo b >&2", false).unwrap(), "a\nb");
        let error = sh("echo no >&2; exit 3", false).unwrap_err().to_string();
        assert_eq!(error, "it: exit status: 3: no");
    }

    #[test]
    fn endless_output_is_read_and_cut() {
        let said = sh("yes | head -c 10000000", false).unwrap();
        assert!(u64::try_from(said.len()).unwrap() <= LONGEST, "{}", said.len());
    }

    #[test]
    fn cancelled_command_dies_with_all_that_it_started() {
        let error = sh("sleep 1000 & sleep 1000", true).unwrap_err().to_string();
        assert_eq!(error, "it: ended before it was done");
        // The shell itself is gone at once, and only its child holds the output.
        assert!(sh("sleep 1000 &", true).is_err());
    }
}
