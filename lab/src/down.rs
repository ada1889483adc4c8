//! `lab down`: removes all that a lab of this name can have left, whatever state it is in.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;
use crate::machine;
use crate::paths::{Paths, mounts};
use crate::patience::LIMIT;
use crate::process::{self, Process};
use crate::scenario::lock;
use crate::state::State;

/// Whether there is anything to remove.
pub fn is_needed(paths: &Paths) -> bool {
    paths.folder.exists() || paths.cgroup.exists()
}

/// Removes processes, control groups, mounts (with them namespaces and BPF pins) and folders. Goes on after an
/// error; returns all of them.
pub fn remove(paths: &Paths) -> Vec<anyhow::Error> {
    let steps: [fn(&Paths) -> Result<()>; 4] =
        [stop_others, |paths| cgroup::remove(&paths.cgroup, LIMIT), unmount, remove_folder];
    steps.iter().filter_map(|step| step(paths).err()).collect()
}

/// Removes the lab, and what labs share if it was the last.
pub fn remove_last(paths: &Paths) -> Vec<anyhow::Error> {
    let mut errors = remove(paths);
    errors.extend(machine::lock().and_then(|_alone| machine::forget()).err());
    errors
}

/// Ends a `lab up` or `lab run` that is still at work on this lab, lest it go on making things, or miss them.
fn stop_others(paths: &Paths) -> Result<()> {
    if let Some(holder) = lock::holder(paths) {
        stop(&holder.process, "lab run")?;
    }
    // A state that cannot be read names nobody to stop.
    let Ok(Some(state)) = State::load(paths) else { return Ok(()) };
    if state.complete { Ok(()) } else { stop(&state.creator, "lab up") }
}

fn stop(other: &Process, name: &str) -> Result<()> {
    if *other == process::own()? || !other.is_running() {
        return Ok(());
    }
    eprintln!("ending {name} (process {}), which is at work on it", other.pid);
    match kill(Pid::from_raw(other.pid), Signal::SIGKILL) {
        // It has ended meanwhile.
        Err(Errno::ESRCH) => return Ok(()),
        result => result.with_context(|| format!("ending {name}"))?,
    }
    let deadline = Instant::now() + LIMIT;
    while other.is_running() {
        ensure!(Instant::now() < deadline, "process {} of {name} does not end", other.pid);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The namespaces' bind mounts lie on the lab's tmpfs and go before it.
fn unmount(paths: &Paths) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let folder = paths.folder.to_string_lossy().into_owned();
    let below = format!("{folder}/");
    let mut first_error = None;
    for mount in mounts(&table).rev().filter(|mount| mount.point == folder || mount.point.starts_with(&below))
    {
        if let Err(error) = umount2(mount.point, MntFlags::MNT_DETACH) {
            first_error
                .get_or_insert(anyhow::Error::from(error).context(format!("unmounting {}", mount.point)));
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn remove_folder(paths: &Paths) -> Result<()> {
    match fs::remove_dir_all(&paths.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", paths.folder.display()));
        }
        _ => {}
    }
    Ok(())
}

/// The command: prints what happened and returns the exit status.
pub fn run(paths: &Paths) -> Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("lab needs root; run it with sudo");
    }
    if !is_needed(paths) {
        eprintln!("lab {} is not up: nothing to remove", paths.name);
        return Ok(0);
    }
    let start = Instant::now();
    let errors = remove_last(paths);
    for error in &errors {
        eprintln!("lab down: {error:#}");
    }
    if errors.is_empty() {
        eprintln!("lab {} is down ({:.2} s)", paths.name, start.elapsed().as_secs_f64());
        return Ok(0);
    }
    eprintln!("lab {} is not completely removed; run lab down again", paths.name);
    Ok(1)
}
