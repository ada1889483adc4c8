//! What all labs of this machine share: the folder above them, its lock, and the kernel's neighbour tables.
//!
//! A neighbour table is one for all network namespaces, and its default limit of 1024 entries is that of one host.
//! A lab of the reference's size has several hundred neighbours per family; beyond the limit, addresses are
//! unreachable at random. So the first lab raises the limits, and the last one puts them back.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::paths::{Paths, ROOT};

/// Where the limits from before the first lab are kept; no lab can have this name.
const KEPT: &str = ".neighbour-limits";

/// The settings and the values that labs need, the upper limit first: the kernel compares them in this order.
const LIMITS: [(&str, u32); 3] = [("gc_thresh3", 16384), ("gc_thresh2", 8192), ("gc_thresh1", 4096)];

/// Waits until no other lab comes up or goes down; held as long as the result lives.
pub fn lock() -> Result<Flock<File>> {
    // Removed with the last lab; then there is a new one to lock.
    loop {
        fs::create_dir_all(ROOT).with_context(|| format!("creating {ROOT}"))?;
        let Ok(folder) = File::open(ROOT) else { continue };
        let lock = Flock::lock(folder, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("locking {ROOT}"))?;
        let held = lock.metadata().context("looking at the lock")?;
        if fs::metadata(ROOT).is_ok_and(|current| current.ino() == held.ino()) {
            return Ok(lock);
        }
    }
}

/// Raises the limits that are lower than labs need, and keeps what they were. Call with the lock held.
pub fn raise_neighbour_limits() -> Result<()> {
    let mut before = String::new();
    for (file, wanted) in settings() {
        // Only the first network namespace of a machine has these.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let is_low = text.trim().parse::<u32>().is_ok_and(|current| current < wanted);
        if is_low {
            before.push_str(&format!("{} {}\n", file.display(), text.trim()));
            fs::write(&file, wanted.to_string())
                .with_context(|| format!("raising {} to {wanted}", file.display()))?;
        }
    }
    let kept = Path::new(ROOT).join(KEPT);
    if before.is_empty() || kept.exists() {
        return Ok(());
    }
    fs::write(&kept, before).with_context(|| format!("writing {}", kept.display()))
}

/// After the last lab: puts the limits back and removes the folder. Call with the lock held.
pub fn forget() -> Result<()> {
    if !Paths::existing().is_empty() {
        return Ok(());
    }
    let kept = Path::new(ROOT).join(KEPT);
    let before = fs::read_to_string(&kept).unwrap_or_default();
    // Lowest first, the reverse of raising.
    for (file, value) in before.lines().rev().filter_map(|line| line.split_once(' ')) {
        fs::write(file, value).with_context(|| format!("putting {file} back to {value}"))?;
    }
    // Neither is there if no lab ever came far enough.
    let _ = fs::remove_file(&kept);
    let _ = fs::remove_dir(ROOT);
    Ok(())
}

fn settings() -> impl Iterator<Item = (PathBuf, u32)> {
    ["ipv4", "ipv6"].into_iter().flat_map(|family| {
        LIMITS.map(|(name, value)| {
            (Path::new("/proc/sys/net").join(family).join("neigh/default").join(name), value)
        })
    })
}
