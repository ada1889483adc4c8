//! One agent per folder of pins: two that write the same maps and links would undo each other's work, and both call themselves
//! ready.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Error, Result};

/// How long the agent before this one may still hold the lock: a killed process ends thread by thread.
const HANDOVER: Duration = Duration::from_secs(3);
/// How often it is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

/// Held by the agent that works on a folder of pins; ends with the agent, however that ends.
#[derive(Debug)]
pub struct PinsLock {
    _held: Flock<File>,
}

impl PinsLock {
    /// Takes the lock, and waits a moment for the agent of before.
    pub fn take(pins: &Path) -> Result<Self> {
        Self::take_within(pins, HANDOVER)
    }

    fn take_within(pins: &Path, patience: Duration) -> Result<Self> {
        let failed = |what| move |source| Error::Pin { what, path: pins.into(), source };
        fs::create_dir_all(pins).map_err(failed("create"))?;
        let mut folder = File::open(pins).map_err(failed("open"))?;
        let end = Instant::now() + patience;
        loop {
            match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(PinsLock { _held: held }),
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() > end => {
                    return Err(Error::InUse { pins: pins.into(), by: holder(pins) });
                }
                Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) => folder = again,
                Err((_, error)) => return Err(failed("lock")(error.into())),
            }
            thread::sleep(AGAIN);
        }
    }
}

/// Who holds the lock of a folder, as far as the kernel says.
fn holder(pins: &Path) -> String {
    let inode = fs::metadata(pins).map(|folder| folder.ino()).ok();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let process = inode.and_then(|inode| process_of(&locks, inode));
    process.map_or_else(|| "another agent".to_owned(), |process| format!("another agent (process {process})"))
}

/// The process that holds a `flock` on an inode, by the lines of `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 4242 00:1f:77 0 EOF`.
fn process_of(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, process) = (words.next()?, words.nth(2)?);
        let place = words.next()?.rsplit(':').next()?;
        (kind == "FLOCK" && place.parse() == Ok(inode)).then(|| process.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_holds_a_folder_and_the_other_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let pins = folder.path().join("lb");
        let held = PinsLock::take(&pins).unwrap();
        let refused = PinsLock::take_within(&pins, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(refused.starts_with("another agent"), "{refused}");
        assert!(refused.contains(&pins.display().to_string()), "{refused}");
        drop(held);
        PinsLock::take_within(&pins, Duration::ZERO).unwrap();
    }

    #[test]
    fn the_kernel_names_the_process() {
        let locks =
            "1: POSIX  ADVISORY  READ 5 00:1f:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 4242 00:1f:77 0 EOF\n";
        assert_eq!(process_of(locks, 77), Some(4242));
        assert_eq!(process_of(locks, 78), None);
        assert_eq!(process_of("nonsense\n\n3:", 77), None);
    }
}
