//! Namespaces of a node: made, kept by bind mounts, entered.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use crate::paths::{Paths, mounts};

/// The kinds that a node has of its own, as `/proc/PID/ns` calls them. The mount namespace is entered last:
/// the files of the others are not visible from inside it.
const KINDS: [(&str, CloneFlags); 3] =
    [("net", CloneFlags::CLONE_NEWNET), ("uts", CloneFlags::CLONE_NEWUTS), ("mnt", CloneFlags::CLONE_NEWNS)];

/// The folder that all nodes of a lab share, as each of them sees it.
pub const SHARED: &str = "/etc/lb/shared";

/// Makes the namespaces of `node`, runs `inside` in them, then keeps them by bind mounts.
///
/// The work is done by a thread of its own, which ends with it: namespaces belong to threads.
pub fn create<T: Send>(paths: &Paths, node: &str, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_thread(|| {
        let outside = File::open("/proc/thread-self/ns/mnt").context("opening the mount namespace")?;
        let all = KINDS.iter().fold(CloneFlags::empty(), |all, (_, flag)| all | *flag);
        unshare(all).context("making namespaces")?;
        let own: Vec<File> = KINDS
            .iter()
            .map(|(kind, _)| File::open(format!("/proc/thread-self/ns/{kind}")))
            .collect::<io::Result<_>>()
            .context("opening own namespaces")?;
        sethostname(node).context("setting the host name")?;
        private_mounts(paths, node)?;
        let result = inside()?;
        setns(&outside, CloneFlags::CLONE_NEWNS).context("returning to the mount namespace outside")?;
        for ((kind, _), file) in KINDS.iter().zip(&own) {
            keep(file, &paths.namespace(node, kind))?;
        }
        Ok(result)
    })
    .with_context(|| format!("node {node}"))
}

/// Runs `inside` in the namespaces of `node`, in a thread of its own.
pub fn enter<T: Send>(paths: &Paths, node: &str, inside: impl FnOnce() -> T + Send) -> Result<T> {
    let handles = Handles::open(paths, node)?;
    in_thread(|| {
        // Entering a mount namespace needs a root and working directory of one's own.
        unshare(CloneFlags::CLONE_FS).context("separating from the process's folders")?;
        handles.enter().with_context(|| format!("entering node {node}"))?;
        Ok(inside())
    })
}

/// Open namespaces of a node.
pub struct Handles(Vec<(File, CloneFlags)>);

impl Handles {
    /// Opens the namespaces of `node`.
    pub fn open(paths: &Paths, node: &str) -> Result<Self> {
        let open = |(kind, flag): &(&str, CloneFlags)| {
            let path = paths.namespace(node, kind);
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            Ok((file, *flag))
        };
        Ok(Self(KINDS.iter().map(open).collect::<Result<_>>()?))
    }

    /// The network namespace.
    pub fn net(&self) -> impl AsFd {
        self.0[0].0.as_fd()
    }

    /// Moves the calling thread in. Makes system calls only, so that a forked child may call it before exec.
    pub fn enter(&self) -> io::Result<()> {
        for (file, flag) in &self.0 {
            setns(file, *flag)?;
        }
        Ok(())
    }
}

/// Runs `work` in a new thread and waits for it.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(anyhow!("a thread of the lab panicked (see above)")))
    })
}

/// What a node sees of the file system: all of this machine's, but its own /etc (on top of this machine's), /run,
/// /sys (of its network namespace) and bpffs.
fn private_mounts(paths: &Paths, node: &str) -> Result<()> {
    change(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let folder = paths.node(node);
    let layers = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        folder.join("upper").display(),
        folder.join("work").display()
    );
    change(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(&layers))?;
    // What all nodes share goes where it outlives the folder that it comes from.
    fs::create_dir_all(SHARED).with_context(|| format!("creating {SHARED}"))?;
    let shared = paths.shared().display().to_string();
    bind(&shared, SHARED)?;
    // Copies of other mounts below /run, such as other nodes' namespaces, would keep those alive.
    let table = fs::read_to_string("/proc/thread-self/mountinfo").context("reading mountinfo")?;
    for mount in mounts(&table).filter(|mount| mount.point.starts_with("/run/")).rev() {
        // What is gone already was below something detached before it.
        let _ = umount2(mount.point, MntFlags::MNT_DETACH);
    }
    change(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    change(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None)?;
    change(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=700"))
}

fn bind(source: &str, target: &str) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {source} on {target}"))
}

fn change(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    mount(source, target, kind, flags, data)
        .with_context(|| format!("mounting {} on {target}", kind.unwrap_or("nothing")))
}

fn keep(namespace: &File, at: &Path) -> Result<()> {
    use std::os::fd::AsRawFd;
    File::create(at).with_context(|| format!("creating {}", at.display()))?;
    let open = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount(Some(open.as_str()), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("keeping a namespace at {}", at.display()))
}
