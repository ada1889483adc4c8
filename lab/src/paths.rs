//! Where a lab keeps its state: one tmpfs and one control group, both found from the lab's name alone, so that
//! whatever a crashed `lab up` left can be removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Parent of all labs' folders.
pub const ROOT: &str = "/run/lab";

/// The places of one lab.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The lab's name.
    pub name: String,
    /// The lab's tmpfs.
    pub folder: PathBuf,
    /// The lab's control group; each node has one below.
    pub cgroup: PathBuf,
}

impl Paths {
    /// The places of lab `name`.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            folder: Path::new(ROOT).join(name),
            cgroup: cgroup2_mount()?.join(format!("lab-{name}")),
        })
    }

    /// The state file.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// Where a node's namespace of `kind` (`net`, `mnt`, `uts`) is kept.
    pub fn namespace(&self, node: &str, kind: &str) -> PathBuf {
        self.folder.join("ns").join(format!("{node}.{kind}"))
    }

    /// A node's own folder, which holds the upper layer of its `/etc`.
    pub fn node(&self, node: &str) -> PathBuf {
        self.folder.join("node").join(node)
    }

    /// The folder that all nodes share.
    pub fn shared(&self) -> PathBuf {
        self.folder.join("shared")
    }

    /// The log of a process.
    pub fn log(&self, node: &str, process: &str) -> PathBuf {
        self.folder.join("log").join(format!("{node}-{process}.log"))
    }

    /// A node's control group.
    pub fn node_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup.join(node)
    }

    /// Names of the labs that exist on this machine.
    pub fn existing() -> Vec<String> {
        let Ok(entries) = fs::read_dir(ROOT) else { return vec![] };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }
}

/// Where control groups of version 2 are mounted.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    mounts(&table)
        .find(|mount| mount.kind == "cgroup2")
        .map(|mount| PathBuf::from(mount.point))
        .context("no cgroup2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// A line of `mountinfo`.
pub struct Mount<'a> {
    /// Mount point.
    pub point: &'a str,
    /// File system type.
    pub kind: &'a str,
}

/// The mounts in `table`, the text of `/proc/self/mountinfo`, oldest first.
pub fn mounts(table: &str) -> impl DoubleEndedIterator<Item = Mount<'_>> {
    table.lines().filter_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        Some(Mount { point: fields.split(' ').nth(4)?, kind: rest.split(' ').next()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_have_point_and_type() {
        let table = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                     41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 master:1 - cgroup2 cgroup2 rw\n";
        let read: Vec<_> = mounts(table).map(|mount| (mount.point, mount.kind)).collect();
        assert_eq!(read, [("/proc", "proc"), ("/sys/fs/cgroup/unified", "cgroup2")]);
    }
}
