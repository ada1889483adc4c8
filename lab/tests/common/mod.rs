//! What end-to-end tests share: a lab of a unique name that goes whatever happens, steps that are reported by name,
//! and ways to look at nodes and to do things to them.

// Each test program uses a part of this.
#![allow(dead_code)]

pub mod load;
pub mod look;
pub mod programs;
pub mod wires;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab::paths::Paths;
use lab::plan::ProcessPlan;
use lab::process;
use lab::spec;
use lab::state::State;
use lab::topology::Topology;
#[allow(unused_imports)] // each test program uses a part
pub use lb_test_support::{PATIENCE, check, wait_until};
use lb_test_support::{has_programs, is_root, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A lab for tests that do not depend on size. BIRD alone is up soonest.
pub const SMALL: [&str; 3] = ["lb4=3", "lb7=4", "servers=3"];

/// What tests look with.
const NEEDED: [&str; 6] = ["ip", "nft", "bpftool", "dig", "curl", "tcpdump"];

/// The machine has two processors: one lab at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A lab of a unique name, removed when dropped, also by a panic.
pub struct Lab {
    pub name: String,
    pub paths: Paths,
    pub topology: Topology,
    test: String,
    failed: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    /// A lab that is not up yet; `None`, with the reason printed, where labs cannot run.
    pub fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_root(test) || !has_agent(test) || !has_programs(test, &NEEDED) {
            return None;
        }
        let name = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let paths = match Paths::new(&name) {
            Ok(paths) => paths,
            Err(error) => {
                skip(test, format_args!("{error:#}"));
                return None;
            }
        };
        let topology = Topology::new(&spec::load("reference", spec::REFERENCE, &[]).expect("the reference"));
        Some(Self { name, paths, topology, test: test.to_owned(), failed: vec![], _alone: alone })
    }

    /// A lab that is up and ready, changed from the reference by `sets`, and what `lab up` printed.
    pub fn up(test: &str, sets: &[&str]) -> Option<(Self, Value)> {
        let mut lab = Self::new(test)?;
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        lab.topology = Topology::new(&spec::load("reference", spec::REFERENCE, &sets).expect("good sets"));
        let mut arguments = vec!["up", "--format", "json", "--timeout", "120"];
        for set in &sets {
            arguments.extend(["--set", set]);
        }
        let output = lab.run(&arguments);
        let said = text(&output.stderr);
        if said.contains("lab up needs:") {
            skip(test, said.trim());
            return None;
        }
        println!("{said}");
        let summary = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if !output.status.success() {
            lab.print_logs();
            panic!("lab up failed, {}: {summary}", output.status);
        }
        Some((lab, summary))
    }

    /// Runs `lab` on this lab.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("running lab")
    }

    /// `lab` on this lab, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg(arguments[0]).args(["--name", &self.name]).args(&arguments[1..]).env("LB_BIN", lb());
        command
    }

    /// Runs a command in a node.
    pub fn exec(&self, node: &str, command: &[&str]) -> Output {
        self.run(&[&["exec", node, "--"], command].concat())
    }

    /// What a shell script prints in a node; it must succeed.
    #[track_caller]
    pub fn sh(&self, node: &str, script: &str) -> String {
        let output = self.exec(node, &["sh", "-c", script]);
        assert!(
            output.status.success(),
            "{node}: {script}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// One part of a test. A failed one is reported at the end, so that the others are seen as well; each begins
    /// with a lab that is ready.
    pub fn step(&mut self, name: &str, work: impl FnOnce(&Self)) {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.settle();
            work(self);
        }));
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("step: {}: {name}: ok ({took:.1} s)", self.test),
            Err(panic) => {
                println!("step: {}: {name}: FAILED ({took:.1} s)", self.test);
                self.print_logs();
                self.failed.push(name.to_owned());
                if self.failed.len() > 2 {
                    resume_unwind(panic);
                }
            }
        }
    }

    /// Fails if a step did.
    #[track_caller]
    pub fn finish(self) {
        assert!(self.failed.is_empty(), "failed steps: {}", self.failed.join(", "));
    }

    /// Waits until every node is ready.
    #[track_caller]
    pub fn settle(&self) {
        wait_until("every node is ready", PATIENCE, || {
            let output = self.run(&["status"]);
            match output.status.success() {
                true => Ok(()),
                false => Err(text(&output.stdout) + &text(&output.stderr)),
            }
        });
    }

    /// The document of `lb status` in `node`.
    pub fn agent(&self, node: &str) -> Value {
        self.try_agent(node).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where the agent may not answer.
    pub fn try_agent(&self, node: &str) -> Result<Value, String> {
        let output = self.exec(node, &["lb", "status", "--format", "json"]);
        serde_json::from_slice(&output.stdout).map_err(|_| format!("{node}: {}", text(&output.stderr)))
    }

    /// A counter of the agent in `node`.
    pub fn counter(&self, node: &str, role: &str, name: &str) -> u64 {
        let status = self.agent(node);
        status["counters"][role][name].as_u64().unwrap_or_else(|| panic!("{node} has no {role}.{name}"))
    }

    /// Names of the nodes that begin with `prefix`.
    pub fn nodes(&self, prefix: &str) -> Vec<String> {
        let is_wanted = |name: &&String| {
            name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.parse::<u32>().is_ok())
        };
        self.topology.nodes.iter().map(|node| &node.name).filter(is_wanted).cloned().collect()
    }

    /// The agent's configuration in `node`.
    pub fn config(&self, node: &str) -> String {
        self.sh(node, "cat /etc/lb/lb.yaml")
    }

    /// Changes the agent's configuration in `node`; `from` must be in it.
    #[track_caller]
    pub fn rewrite(&self, node: &str, from: &str, to: &str) {
        let old = self.config(node);
        assert!(old.contains(from), "{node}: no {from:?} in {old}");
        self.write_config(node, &old.replace(from, to));
    }

    /// Replaces the agent's configuration in `node`.
    pub fn write_config(&self, node: &str, content: &str) {
        let file = self.paths.node(node).join("upper/lb/lb.yaml");
        let script = format!("cat > /etc/lb/lb.yaml <<'END_OF_FILE'\n{content}END_OF_FILE\n");
        self.sh(node, &script);
        assert!(file.exists(), "{} is the node's own", file.display());
    }

    /// `lb reload`, which must succeed.
    #[track_caller]
    pub fn reload(&self, node: &str) -> String {
        self.sh(node, "lb reload")
    }

    /// Kills a process that the lab started.
    #[track_caller]
    pub fn kill(&self, node: &str, process: &str) {
        let state = self.state();
        let found = state.processes[node].iter().find(|found| found.name == process);
        let found = found.unwrap_or_else(|| panic!("{node} runs no {process}"));
        kill(Pid::from_raw(found.pid), Signal::SIGKILL).expect("killing it");
        wait_until("the process is gone", PATIENCE, || {
            if found.is_running() { Err(format!("{found:?}")) } else { Ok(()) }
        });
    }

    /// Starts a process again as the lab started it.
    pub fn start(&self, node: &str, process: &str) {
        let mut state = self.state();
        let of_node = state.processes.get_mut(node).expect("a node with processes");
        let old = of_node.iter_mut().find(|old| old.name == process).expect("a process of the lab");
        let names = ["lb-agent", "haproxy", "bird", "gobgpd"];
        let name = names.into_iter().find(|name| *name == process).expect("a known process");
        let plan = ProcessPlan { name, argv: old.argv.clone() };
        *old = process::start(&self.paths, node, &plan, &lb()).expect("starting it");
        state.save(&self.paths).expect("saving the state");
    }

    /// The lab's state file.
    pub fn state(&self) -> State {
        State::load(&self.paths).expect("a readable state").expect("a lab that is up")
    }

    /// The end of what agents wrote, for a test that failed.
    fn print_logs(&self) {
        for entry in std::fs::read_dir(self.paths.folder.join("log")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(6)..];
            if name.contains("lb-agent") && !name.starts_with('s') {
                println!("--- {name}\n{}", tail.join("\n"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = self.run(&["down"]);
        if !thread::panicking() {
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}

/// Prints a measured value; the test's output is where figures are found.
pub fn figure(name: &str, value: impl std::fmt::Display) {
    println!("figure: {name}: {value}");
}

/// Seconds, for figures.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the agent is built; skips the test otherwise.
pub fn has_agent(test: &str) -> bool {
    let is_there = lb().is_file();
    if !is_there {
        skip(test, format_args!("no agent at {}; build it: scripts/build", lb().display()));
    }
    is_there
}

/// The agent's program: beside `lab`.
pub fn lb() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name("lb")
}
