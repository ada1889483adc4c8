//! `lab up`: from a lab file to answered requests.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::paths::Paths;
use crate::plan::{self, NodePlan};
use crate::process::{self, Process};
use crate::progress::Progress;
use crate::scenario::stage::Stage;
use crate::scenario::{lock, restore};
use crate::spec::{self, LabSpec};
use crate::state::State;
use crate::topology::{Kind, Node, Topology};
use crate::wait::{self, Wait, Waiting};
use crate::{down, machine, pool, preflight, wire};

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
    /// Whether the lab is brought up for a `lab run`, which removes it: nothing is printed on standard output.
    pub temporary: bool,
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
        return second(&paths, spec, options, &progress);
    };
    let state = build(&paths, state, &plans, options, &progress).inspect_err(|_| {
        for error in down::remove_last(&paths) {
            eprintln!("lab: cleaning up: {error:#}");
        }
    })?;
    wait::run(&Waiting {
        paths: &paths,
        topology: &topology,
        state: &state,
        options,
        progress: &progress,
        is_first: true,
    })
}

/// Makes the lab's home and writes down who makes the lab. `None` if the lab is there already; what a crashed
/// `lab up` left is removed first.
fn claim(paths: &Paths, spec: &LabSpec, options: &Options, progress: &Progress) -> Result<Option<State>> {
    // Held until the state is written: two `lab up` of one name cannot both find nothing.
    let _alone = machine::lock()?;
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
        temporary: options.temporary,
        complete: false,
        processes: BTreeMap::new(),
    };
    machine::raise_neighbour_limits()?;
    make_home(paths)?;
    state.save(paths)?;
    Ok(Some(state))
}

/// The second `lab up`: finishes what a killed `lab run` has left, says what differs from what is asked for, and waits as the
/// first one does.
fn second(paths: &Paths, spec: &LabSpec, options: &Options, progress: &Progress) -> Result<u8> {
    let _lock = lock::take(paths)?;
    let mut state = State::of_running(paths)?;
    if state.temporary && !options.temporary {
        progress.line("the lab run that this lab was brought up for was killed; from now on the lab stays until lab down");
        state.temporary = false;
        state.save(paths)?;
    }
    restore::finish_left(&Stage::new(paths.clone())?, progress)?;
    let state = State::of_running(paths)?;
    let mut differences = spec::differences(&state.spec, spec);
    let dead = state.dead();
    differences.extend(dead.iter().map(|(node, process)| format!("{node}: {} is dead", process.name)));
    if differences.is_empty() {
        eprintln!("lab {} is up already, as asked for", paths.name);
        let topology = Topology::new(&state.spec);
        let is_first = false;
        return wait::run(&Waiting {
            paths,
            topology: &topology,
            state: &state,
            options,
            progress,
            is_first,
        });
    }
    if options.json {
        println!("{}", json!({"name": paths.name, "already_up": true, "differences": differences}));
        return Ok(1);
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
    let topology = Topology::new(&state.spec);
    pool::write(paths, &topology)?;
    progress.step(&format!("made {} nodes", plans.len()), || {
        wire::make_switch(paths)?;
        wire::make_nodes(paths, plans)
    })?;
    progress.step("connected them", || wire::connect(paths, &state.spec, plans))?;
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
    for folder in ["ns", "node", "log", "shared"] {
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
