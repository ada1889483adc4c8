//! Control groups: which processes belong to a node, and how to end them all.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The processes in `group` itself.
pub fn processes(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills everything in `group` and below, waits until it has ended, and removes the groups.
pub fn remove(group: &Path, patience: Duration) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + patience;
    kill_processes(group, patience)?;
    remove_tree(group, deadline)
}

/// Kills everything in `group` and below, and waits until it has ended.
pub fn kill_processes(group: &Path, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        kill(group).with_context(|| format!("killing the processes in {}", group.display()))?;
        if !is_populated(group) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes in {} do not end: {:?}", group.display(), all_processes(group));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn kill(group: &Path) -> io::Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        // Before Linux 5.14 there is no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for pid in all_processes(group) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            Ok(())
        }
        result => result,
    }
}

fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

fn children(group: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return vec![] };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn all_processes(group: &Path) -> Vec<i32> {
    let mut all = processes(group);
    all.extend(children(group).iter().flat_map(|child| all_processes(child)));
    all
}

/// A group can be busy for a moment after its last process has ended.
fn remove_tree(group: &Path, deadline: Instant) -> Result<()> {
    for child in children(group) {
        remove_tree(&child, deadline)?;
    }
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result.with_context(|| format!("removing {}", group.display())),
        }
    }
}
