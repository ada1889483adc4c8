//! Processes of nodes: started detached, found again by pid and start time.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::namespace::Handles;
use crate::paths::Paths;
use crate::plan::ProcessPlan;

/// This program as it runs, also when another one has taken its file's place since, as after a build.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As status prints it.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    /// When it started, in the kernel's ticks: tells it from a later process of the same id.
    pub start_time: u64,
    /// Program and arguments.
    pub argv: Vec<String>,
}

impl Process {
    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        matches!(stat(self.pid), Some((state, start_time)) if state != 'Z' && start_time == self.start_time)
    }
}

/// Process `pid`, if it runs what `plan` says.
pub fn running(pid: i32, plan: &ProcessPlan) -> Option<Process> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let wanted: Vec<u8> = plan.argv.iter().flat_map(|word| word.bytes().chain([0])).collect();
    let (_, start_time) = stat(pid)?;
    (command == wanted).then(|| Process {
        name: plan.name.to_owned(),
        pid,
        start_time,
        argv: plan.argv.clone(),
    })
}

/// This process.
pub fn own() -> Result<Process> {
    let pid = i32::try_from(std::process::id()).context("a process id beyond i32")?;
    let (_, start_time) = stat(pid).context("reading /proc")?;
    Ok(Process { name: "lab".to_owned(), pid, start_time, argv: std::env::args().collect() })
}

/// Starts `plan` in `node`, in a session of its own, output to the node's log.
pub fn start(paths: &Paths, node: &str, plan: &ProcessPlan, lb: &Path) -> Result<Process> {
    let log = paths.log(node, plan.name);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("opening {}", log.display()))?;
    let mut command = node_command(paths, node, &plan.argv, lb)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let child = command.spawn().with_context(|| format!("{node}: starting {}", plan.argv.join(" ")))?;
    let pid = i32::try_from(child.id()).context("a process id beyond i32")?;
    Ok(Process {
        name: plan.name.to_owned(),
        pid,
        start_time: stat(pid).map_or(0, |(_, start_time)| start_time),
        argv: plan.argv.clone(),
    })
}

/// A command that runs inside `node` once spawned or executed, with `lb` and this program on its path.
pub fn node_command(paths: &Paths, node: &str, argv: &[String], lb: &Path) -> Result<Command> {
    let handles = Handles::open(paths, node)?;
    let cgroup = paths.node_cgroup(node).join("cgroup.procs");
    let cgroup = OpenOptions::new()
        .write(true)
        .open(&cgroup)
        .with_context(|| format!("opening {}", cgroup.display()))?;
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env("PATH", path_with(lb));
    // SAFETY: only system calls (write, setns) on descriptors opened before, which are async-signal-safe.
    unsafe { command.pre_exec(move || enter(&handles, &cgroup)) };
    Ok(command)
}

/// A command for a look into a node, killed when the thread that starts it ends: what a killed `lab up` was running
/// belongs to no node's control group, and would stay in the node's namespaces for a while.
pub fn short_lived(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: one system call without pointers, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command
}

fn enter(handles: &Handles, mut cgroup: &File) -> std::io::Result<()> {
    cgroup.write_all(b"0")?;
    handles.enter()
}

/// The search path with the folders of `lb` and of this program first, and the system's included.
fn path_with(lb: &Path) -> OsString {
    let mut path = lb.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
    path.push(":");
    // `lab serve` runs in nodes.
    if let Some(own) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        path.push(own);
        path.push(":");
    }
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The fields after the name, which may itself hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_names_with_parentheses() {
        let text = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(text), Some(('S', 777)));
    }

    #[test]
    fn running_process_is_known_by_its_command() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = || running(pid, &ProcessPlan::new("x", "sleep 1000"));
        // Until it executes the program, it is a copy of this one.
        while found().is_none() {
            std::thread::yield_now();
        }
        assert!(found().unwrap().is_running());
        assert_eq!(running(pid, &ProcessPlan::new("x", "sleep 1")), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn own_process_is_running_and_another_start_time_is_another_process() {
        let own = own().unwrap();
        assert!(own.is_running());
        assert!(!Process { start_time: own.start_time + 1, ..own }.is_running());
    }
}
