//! `lab up`: from a lab file to answered requests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::cli::Wait;
use crate::namespace;
use crate::paths::{Paths, ROOT};
use crate::plan::{self, NodePlan};
use crate::process::{self, Process};
use crate::progress::{Progress, seconds};
use crate::request::{self, Answer};
use crate::spec::{self, LabSpec};
use crate::state::State;
use crate::status;
use crate::topology::{Kind, Node, Topology, USER, vips};
use crate::{down, preflight, wire};

/// Processes started at a time.
const STARTERS: usize = 2;

/// How the command was called.
pub struct Options {
    /// Print the plan only.
    pub dry_run: bool,
    /// The agent's program.
    pub lb: PathBuf,
    /// What to wait for.
    pub wait: Wait,
    /// For how long.
    pub timeout: Duration,
    /// Whether to print JSON.
    pub json: bool,
}

/// The command; the result is the exit status.
pub fn run(spec: &LabSpec, options: &Options) -> Result<u8> {
    let topology = Topology::new(spec);
    let plans: Vec<(&Node, NodePlan)> =
        topology.nodes.iter().map(|node| (node, plan::plan(&topology, node))).collect();
    if options.dry_run {
        print_plan(spec, &plans, options.json)?;
        return Ok(0);
    }
    if let Some(problem) = preflight::problem(&topology, &options.lb) {
        bail!("{problem}");
    }
    let paths = Paths::new(&spec.name)?;
    let progress = Progress::start();
    let Some(state) = claim(&paths, spec, options, &progress)? else {
        return compare(&paths, spec, options);
    };
    let state = build(&paths, state, &plans, options, &progress).inspect_err(|_| {
        for error in down::remove(&paths) {
            eprintln!("lab: cleaning up: {error:#}");
        }
    })?;
    wait(&paths, &topology, &state, options, &progress)
}

/// Makes the lab's home and writes down who makes the lab. `None` if the lab is there already; what a crashed
/// `lab up` left is removed first.
fn claim(paths: &Paths, spec: &LabSpec, options: &Options, progress: &Progress) -> Result<Option<State>> {
    // Held until the state is written: two `lab up` of one name cannot both find nothing.
    let _alone = lock_root()?;
    match State::load(paths)? {
        Some(state) if state.complete => return Ok(None),
        Some(state) if state.creator.is_running() => {
            bail!("lab {} is being brought up by process {}; wait for it", paths.name, state.creator.pid)
        }
        _ => {}
    }
    if down::is_needed(paths) {
        let errors = progress.step("removed what an unfinished lab up left", || down::remove(paths));
        if let Some(error) = errors.into_iter().next() {
            return Err(error.context("removing what an unfinished lab up left"));
        }
    }
    let state = State {
        spec: spec.clone(),
        lb: options.lb.clone(),
        creator: process::own()?,
        complete: false,
        processes: BTreeMap::new(),
    };
    make_home(paths)?;
    state.save(paths)?;
    Ok(Some(state))
}

fn lock_root() -> Result<Flock<File>> {
    // `lab down` of the last lab removes the folder; then there is a new one to lock.
    loop {
        fs::create_dir_all(ROOT).with_context(|| format!("creating {ROOT}"))?;
        let Ok(folder) = File::open(ROOT) else { continue };
        let lock = Flock::lock(folder, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("locking {ROOT}"))?;
        let is_current =
            fs::metadata(ROOT).is_ok_and(|now| lock.metadata().is_ok_and(|held| held.ino() == now.ino()));
        if is_current {
            return Ok(lock);
        }
    }
}

/// The second `lab up`: says that it is up, and what differs from what is asked for.
fn compare(paths: &Paths, spec: &LabSpec, options: &Options) -> Result<u8> {
    let state = State::of_running(paths)?;
    let mut differences = spec::differences(&state.spec, spec);
    for (node, processes) in &state.processes {
        let dead = processes.iter().filter(|process| !process.is_running());
        differences.extend(dead.map(|process| format!("{node}: {} is dead", process.name)));
    }
    if options.json {
        println!("{}", json!({"name": paths.name, "already_up": true, "differences": differences}));
        return Ok(u8::from(!differences.is_empty()));
    }
    if differences.is_empty() {
        eprintln!("lab {} is up already, as asked for", paths.name);
        return Ok(0);
    }
    eprintln!(
        "lab {} is up already, but differs; to rebuild it: lab down --name {0}, then lab up",
        paths.name
    );
    for difference in differences {
        eprintln!("  {difference}");
    }
    Ok(1)
}

fn build(
    paths: &Paths,
    mut state: State,
    plans: &[(&Node, NodePlan)],
    options: &Options,
    progress: &Progress,
) -> Result<State> {
    progress.step(&format!("made {} nodes", plans.len()), || {
        wire::make_switch(paths)?;
        wire::make_nodes(paths, plans)
    })?;
    progress.step("connected them", || wire::connect(paths, plans))?;
    state.processes = progress.step("started their processes", || start_all(paths, plans, options))?;
    state.complete = true;
    state.save(paths)?;
    Ok(state)
}

/// The lab's tmpfs, private so that namespaces can be kept on it.
fn make_home(paths: &Paths) -> Result<()> {
    fs::create_dir_all(&paths.folder).with_context(|| format!("creating {}", paths.folder.display()))?;
    mount(
        Some("lab"),
        &paths.folder,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .with_context(|| format!("mounting a tmpfs on {}", paths.folder.display()))?;
    mount(None::<&str>, &paths.folder, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
        .with_context(|| format!("making {} private", paths.folder.display()))?;
    for folder in ["ns", "node", "log"] {
        fs::create_dir(paths.folder.join(folder)).with_context(|| format!("creating {folder}"))?;
    }
    fs::create_dir_all(&paths.cgroup).with_context(|| format!("creating {}", paths.cgroup.display()))
}

/// Starts everything, what others wait for first.
fn start_all(
    paths: &Paths,
    plans: &[(&Node, NodePlan)],
    options: &Options,
) -> Result<BTreeMap<String, Vec<Process>>> {
    let mut order: Vec<&(&Node, NodePlan)> = plans.iter().collect();
    order.sort_by_key(|(node, _)| start_rank(node.kind));
    let next = AtomicUsize::new(0);
    let started = Mutex::new((BTreeMap::new(), None));
    thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                while let Some((node, plan)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result: Result<Vec<Process>> = plan
                        .processes
                        .iter()
                        .map(|process| process::start(paths, &node.name, process, &options.lb))
                        .collect();
                    let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(processes) => {
                            started.0.insert(node.name.clone(), processes);
                        }
                        Err(error) => {
                            started.1.get_or_insert(error);
                            next.store(order.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    match started.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (processes, None) => Ok(processes),
        (_, Some(error)) => Err(error),
    }
}

fn start_rank(kind: Kind) -> u8 {
    match kind {
        Kind::Reflector => 0,
        Kind::Server => 1,
        Kind::Router | Kind::Internet => 2,
        Kind::L7Host => 3,
        Kind::Director => 4,
        Kind::Dns | Kind::Users => 5,
    }
}

/// Waits as asked, prints the summary; exit status 1 if it was in vain.
fn wait(
    paths: &Paths,
    topology: &Topology,
    state: &State,
    options: &Options,
    progress: &Progress,
) -> Result<u8> {
    let mut summary = json!({"name": paths.name, "nodes": topology.nodes.len()});
    if options.wait >= Wait::Answer {
        match first_answer(paths, options, progress)? {
            Some((answer, after)) => {
                progress.line(&format!("first request answered by {} through {}", answer.server, answer.l7));
                summary["first_answer_ms"] = json!(after.as_millis());
                summary["answer"] = json!(answer);
            }
            None => {
                let status = status::lab(paths, topology, state);
                eprint!("{}", status::render(&status));
                bail!(
                    "no request to {} was answered within {}; the lab stays up: lab status, lab down",
                    vips()[0],
                    seconds(options.timeout)
                );
            }
        }
    }
    let mut waiting = Vec::new();
    if options.wait >= Wait::Ready {
        waiting = all_ready(paths, topology, state, options, progress);
        if waiting.is_empty() {
            progress.line(&format!("all {} nodes are ready", topology.nodes.len()));
            summary["ready_ms"] = json!(progress.elapsed().as_millis());
        }
        summary["ready"] = json!(waiting.is_empty());
        summary["not_ready"] = json!(waiting);
    }
    if options.json {
        println!("{summary}");
    } else {
        print_summary(paths);
    }
    for status in &waiting {
        eprintln!("{} is not ready: {}", status.name, status.reasons.join("; "));
    }
    Ok(u8::from(!waiting.is_empty()))
}

/// Asks VIP 1 from a user's address until somebody answers.
fn first_answer(paths: &Paths, options: &Options, progress: &Progress) -> Result<Option<(Answer, Duration)>> {
    progress.note("waiting for the first answer");
    namespace::enter(paths, "users", || {
        while progress.elapsed() < options.timeout {
            if let Ok(answer) = request::get(USER.into(), vips()[0], Duration::from_millis(500)) {
                return Some((answer, progress.elapsed()));
            }
            thread::sleep(Duration::from_millis(30));
        }
        None
    })
}

/// Waits until every node has been ready once; the rest is returned.
fn all_ready(
    paths: &Paths,
    topology: &Topology,
    state: &State,
    options: &Options,
    progress: &Progress,
) -> Vec<status::NodeStatus> {
    let mut waiting: Vec<&Node> = topology.nodes.iter().collect();
    loop {
        let found = status::of_nodes(paths, topology, state, &waiting);
        let not_ready: Vec<status::NodeStatus> = found.into_iter().filter(|status| !status.ready).collect();
        if not_ready.is_empty() || progress.elapsed() > options.timeout {
            return not_ready;
        }
        progress.note(&format!("waiting for {}: {}", not_ready[0].name, not_ready[0].reasons[0]));
        waiting.retain(|node| not_ready.iter().any(|status| status.name == node.name));
        thread::sleep(Duration::from_millis(200));
    }
}

fn print_summary(paths: &Paths) {
    let name = if paths.name == "lab" { String::new() } else { format!(" --name {}", paths.name) };
    println!(
        "lab {} is up. Go on with:
  lab exec{name} users -- curl -si --interface 203.0.113.184 http://198.51.100.1/
  lab exec{name} users -- dig +short www.example.org
  lab exec{name} lb4-1 -- lb status
  lab status{name}
  lab shell{name} lb7-1
  lab down{name}",
        paths.name
    );
}

fn print_plan(spec: &LabSpec, plans: &[(&Node, NodePlan)], json: bool) -> Result<()> {
    if json {
        let nodes: Vec<_> = plans
            .iter()
            .map(|(node, plan)| {
                let links: Vec<_> = node
                    .interfaces
                    .iter()
                    .map(|interface| {
                        json!({
                            "interface": interface.name,
                            "segment": interface.segment,
                            "addresses": interface.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        })
                    })
                    .collect();
                let processes: Vec<_> = plan.processes.iter().map(|process| process.argv.join(" ")).collect();
                json!({"name": node.name, "role": node.kind, "links": links, "processes": processes})
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&json!({"spec": spec, "nodes": nodes}))?);
        return Ok(());
    }
    println!("lab {}: {} nodes", spec.name, plans.len());
    for (node, plan) in plans {
        println!("{} ({})", node.name, node.kind.word());
        for interface in &node.interfaces {
            let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
            println!("  {} on {}: {}", interface.name, interface.segment.bridge(), addresses.join(" "));
        }
        for process in &plan.processes {
            println!("  runs {}", process.argv.join(" "));
        }
    }
    Ok(())
}
