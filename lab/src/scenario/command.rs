//! `lab run` as a command.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::action::duration_of;
use super::file::Scenario;
use super::flavour::Flavour;
use super::lock::{self, Lock};
use super::report::{self, Run};
use super::run::Manner;
use super::stage::Stage;
use super::verdict::Verdict;
use super::{ipvs, library, restore, run, spread};
use crate::interrupt;
use crate::load::mix;
use crate::paths::Paths;
use crate::process;
use crate::progress::Progress;
use crate::spec;
use crate::state::State;
use crate::wait::Wait;
use crate::{down, preflight, up};

/// What to run, and on what.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Scenarios: files, or names or numbers of those that come with the program
    #[arg(required_unless_present = "all")]
    scenarios: Vec<String>,
    /// All that come with the program, one after the other on one lab
    #[arg(long, conflicts_with = "scenarios")]
    all: bool,
    /// The lab file of a lab that is brought up for this, if none is up [default: configs/labs/proof.yaml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Change a key of that lab file, e.g. --set lb4=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Long-lived connections [default: as each scenario says, or 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    connections: Option<u32>,
    /// Change a key of each scenario's `load`, e.g. --load downloads=8,udp=0
    #[arg(long = "load", value_name = "KEY=VALUE", value_delimiter = ',')]
    loads: Vec<String>,
    /// The agent's program [default: lb beside this program]
    #[arg(long, env = "LB_BIN", value_name = "PATH")]
    lb: Option<PathBuf>,
    /// Play it all again with flows kept in these ways, each on a lab that is brought up for it, and show all side by side;
    /// only the runs of the first decide over the exit status
    #[arg(long, value_name = "FLAVOUR", value_enum, value_delimiter = ',')]
    compare: Vec<Flavour>,
    /// Play it all so many times, flavours in turn, and show the median of each figure and its spread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Decides what chance decides in a timeline; each repetition adds one [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Allow stalls of this length, whatever scenarios say, e.g. 20s: for a machine that stalls by itself, as an emulated one
    #[arg(long, value_name = "DURATION", value_parser = stall)]
    stall: Option<Duration>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write JUnit's XML to this file as well
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

fn stall(text: &str) -> Result<Duration, String> {
    let stall = duration_of(text).filter(|stall| !stall.is_zero());
    stall.ok_or_else(|| "write a duration, e.g. 500ms, 5s or 1m".to_owned())
}

/// How reports are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    #[default]
    Table,
    /// One object, or an array of several; with --repeat, all runs and their summaries.
    Json,
    /// JUnit's XML.
    Junit,
}

/// The command; the exit status is 1 if a scenario failed, and a shell's for a signal (130, 143) if one ended the run.
pub fn run(args: &RunArgs, name: Option<&str>) -> Result<u8> {
    let mut scenarios: Vec<Scenario> = match args.all {
        true => library::all()?,
        false => args.scenarios.iter().map(|name| library::find(name)).collect::<Result<_>>()?,
    };
    for scenario in &mut scenarios {
        scenario.load = mix::changed(scenario.load, &args.loads).map_err(anyhow::Error::msg)?;
    }
    interrupt::catch()?;
    let progress = Progress::start();
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Short enough to be typed again.
        (now.as_secs() ^ u64::from(now.subsec_nanos())) % 1_000_000
    });
    let mut runs = Vec::new();
    let mut has_failed = false;
    // In turn, so that what changes on the machine meanwhile changes all of them.
    for round in 1..=args.repeat {
        let flavours = [None].into_iter().chain(args.compare.iter().copied().map(Some));
        for flavour in flavours.take_while(|_| interrupt::signal().is_none()) {
            let manner = Manner {
                connections: args.connections,
                seed: seed.wrapping_add(u64::from(round - 1)),
                round,
                stall: args.stall,
            };
            if args.repeat > 1 {
                let flavour = flavour.map_or("as given", Flavour::word);
                progress.line(&format!("round {round} of {}, {flavour}", args.repeat));
            }
            let before = runs.len();
            let played = play_all(args, name, &scenarios, flavour, manner, &progress, &mut runs);
            has_failed |=
                flavour.is_none() && runs[before..].iter().any(|run| run.report.verdict == Verdict::Fail);
            if interrupt::signal().is_none() {
                played?;
            } else if let Err(error) = played {
                eprintln!("lab run: {error:#}");
            }
        }
    }
    // The same scenario side by side.
    runs.sort_by_key(|run| scenarios.iter().position(|scenario| scenario.name == run.report.scenario));
    print(args, &runs)?;
    Ok(match interrupt::signal() {
        Some(signal) => interrupt::status(signal),
        None => u8::from(has_failed),
    })
}

/// Plays all scenarios on one lab. Runs that came to an end are in `runs`, whatever happens to the next.
fn play_all(
    args: &RunArgs,
    name: Option<&str>,
    scenarios: &[Scenario],
    flavour: Option<Flavour>,
    manner: Manner,
    progress: &Progress,
    runs: &mut Vec<Run>,
) -> Result<()> {
    let lab = Lab::open(args, name, scenarios, flavour, progress)?;
    let stage = Stage::new(lab.paths.clone())?;
    restore::finish_left(&stage, progress)?;
    restore::wait_until_ready(&stage, progress, interrupt::check)?;
    for (index, scenario) in scenarios.iter().enumerate() {
        if let Some(problem) = ipvs::problem(scenario, &stage.topology) {
            ensure!(flavour.is_some(), "{}: {problem}", scenario.name);
            eprintln!("lab run: {} is not compared: {problem}", scenario.name);
            continue;
        }
        let start = Instant::now();
        let report = run::play(scenario, &stage, manner, progress);
        // Whatever came out, the lab is left as it was found, unless it goes now anyway.
        let is_last = index + 1 == scenarios.len() || interrupt::signal().is_some();
        let restored = match lab.is_own && is_last {
            true => Ok(Vec::new()),
            false => restore::restore(&stage, progress),
        };
        let report = report.with_context(|| scenario.name.clone())?;
        if args.format == Format::Table {
            println!("{}", report::table(&report));
        }
        runs.push(Run { report, seconds: start.elapsed().as_secs_f64() });
        let restored = restored.with_context(|| format!("restoring the lab after {}", scenario.name))?;
        if let Some(signal) = interrupt::signal() {
            restore::tell(&restored, progress);
            progress.line(&format!("ended by {signal}: {}", lab.farewell()));
            break;
        }
    }
    Ok(())
}

fn print(args: &RunArgs, runs: &[Run]) -> Result<()> {
    let summaries = spread::summaries(runs);
    match args.format {
        Format::Table => {
            if runs.len() > 1 {
                print!("{}", report::overview(runs));
            }
            if args.repeat > 1 {
                print!("\n{}", spread::table(&summaries));
            }
        }
        Format::Json => {
            let reports: Vec<_> = runs.iter().map(|run| &run.report).collect();
            let document: Value = match reports[..] {
                _ if args.repeat > 1 => json!({"summary": summaries, "runs": reports}),
                [one] => json!(one),
                _ => json!(reports),
            };
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        Format::Junit => print!("{}", report::junit(runs)),
    }
    if let Some(file) = &args.junit {
        fs::write(file, report::junit(runs)).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// The lab that scenarios run on; one that was brought up for them goes when this is dropped.
struct Lab {
    paths: Paths,
    is_own: bool,
    lock: Option<Lock>,
}

impl Lab {
    fn open(
        args: &RunArgs,
        name: Option<&str>,
        scenarios: &[Scenario],
        flavour: Option<Flavour>,
        progress: &Progress,
    ) -> Result<Self> {
        let paths = Paths::new(name.unwrap_or("lab"))?;
        if let Some(state) = State::load(&paths)?.filter(|state| state.complete) {
            let lock = lock::take(&paths)?;
            if !state.temporary {
                ensure!(
                    args.lab.is_none() && args.sets.is_empty() && args.compare.is_empty(),
                    "lab {} is up already; --lab, --set and --compare are for one that lab run brings up: lab down --name {0}",
                    paths.name
                );
                return Ok(Self { paths, is_own: false, lock: Some(lock) });
            }
            progress.line("a lab run was killed that had brought a lab up for itself: removing that");
            drop(lock);
            if let Some(error) = down::remove_last(&paths).into_iter().next() {
                return Err(error.context("removing the lab of a lab run that was killed"));
            }
        }
        let (source, yaml) = match &args.lab {
            None => ("proof.yaml".to_owned(), library::LAB.to_owned()),
            Some(file) => {
                let yaml = fs::read_to_string(file)
                    .with_context(|| format!("{}: cannot be read; name a lab file", file.display()))?;
                (file.display().to_string(), yaml)
            }
        };
        let sets: Vec<String> =
            scenarios.iter().flat_map(|scenario| &scenario.set).chain(&args.sets).cloned().collect();
        let mut spec = spec::load(&source, &yaml, &sets)?;
        spec.name.clone_from(&paths.name);
        if let Some(flavour) = flavour {
            flavour.apply(&mut spec);
        }
        let mut lab = Self { paths, is_own: true, lock: None };
        let options = up::Options {
            dry_run: false,
            lb: preflight::find_lb(args.lb.clone()),
            wait: Wait::Ready,
            timeout: UP,
            json: false,
            temporary: true,
        };
        ensure!(up::run(&spec, &options)? == 0, "the lab did not come up (see above)");
        lab.lock = Some(lock::take(&lab.paths)?);
        // Somebody else may have been quicker.
        lab.is_own = lab.is_ours();
        Ok(lab)
    }

    /// Whether this process has brought it up.
    fn is_ours(&self) -> bool {
        let creator = State::load(&self.paths).ok().flatten().map(|state| state.creator);
        creator.is_some_and(|creator| process::own().is_ok_and(|own| own == creator))
    }

    /// What becomes of it.
    fn farewell(&self) -> &'static str {
        if self.is_own { "the lab goes, as it was brought up for this" } else { "the lab is as it was" }
    }
}

/// How long a lab may take to come up: a few seconds, and minutes on a machine that is emulated.
const UP: Duration = Duration::from_secs(900);

impl Drop for Lab {
    fn drop(&mut self) {
        // One that somebody else has brought up meanwhile stays.
        if self.is_own && self.is_ours() {
            for error in down::remove_last(&self.paths) {
                eprintln!("lab run: taking the lab down: {error:#}");
            }
        }
    }
}
