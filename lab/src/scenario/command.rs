//! `lab run` as a command.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::file::Scenario;
use super::flavour::Flavour;
use super::report::{self, Run};
use super::stage::Stage;
use super::verdict::Verdict;
use super::{ipvs, library, restore, run};
use crate::cli::Wait;
use crate::load::mix;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::spec;
use crate::state::State;
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
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Change a key of each scenario's `load`, e.g. --load downloads=8,udp=0
    #[arg(long = "load", value_name = "KEY=VALUE", value_delimiter = ',')]
    loads: Vec<String>,
    /// The agent's program [default: lb beside this program]
    #[arg(long, env = "LB_BIN", value_name = "PATH")]
    lb: Option<PathBuf>,
    /// Play it all again with flows kept in these ways, each on a lab that is brought up for it, and show all side by side;
    /// only the first run decides over the exit status
    #[arg(long, value_name = "FLAVOUR", value_enum, value_delimiter = ',')]
    compare: Vec<Flavour>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write JUnit's XML to this file as well
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// How reports are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    #[default]
    Table,
    /// One object, or an array of several.
    Json,
    /// JUnit's XML.
    Junit,
}

/// The command; the exit status is 1 if a scenario failed.
pub fn run(args: &RunArgs, name: Option<&str>) -> Result<u8> {
    let mut scenarios: Vec<Scenario> = match args.all {
        true => library::all()?,
        false => args.scenarios.iter().map(|name| library::find(name)).collect::<Result<_>>()?,
    };
    for scenario in &mut scenarios {
        scenario.load = mix::changed(scenario.load, &args.loads).map_err(anyhow::Error::msg)?;
    }
    let progress = Progress::start();
    let mut runs = play_all(args, name, &scenarios, None, &progress)?;
    let has_failed = runs.iter().any(|run| run.report.verdict == Verdict::Fail);
    for other in &args.compare {
        runs.extend(play_all(args, name, &scenarios, Some(*other), &progress)?);
    }
    // The same scenario side by side.
    runs.sort_by_key(|run| scenarios.iter().position(|scenario| scenario.name == run.report.scenario));
    print(args, &runs)?;
    Ok(u8::from(has_failed))
}

/// Plays all scenarios on one lab.
fn play_all(
    args: &RunArgs,
    name: Option<&str>,
    scenarios: &[Scenario],
    flavour: Option<Flavour>,
    progress: &Progress,
) -> Result<Vec<Run>> {
    let lab = Lab::open(args, name, scenarios, flavour)?;
    let stage = Stage::new(lab.paths.clone())?;
    restore::wait_until_ready(&stage)?;
    let mut runs = Vec::new();
    for scenario in scenarios {
        if let Some(problem) = ipvs::problem(scenario, &stage.topology) {
            ensure!(flavour.is_some(), "{}: {problem}", scenario.name);
            eprintln!("lab run: {} is not compared: {problem}", scenario.name);
            continue;
        }
        let start = Instant::now();
        let report = run::play(scenario, &stage, args.connections, progress);
        // Whatever came out, the lab is left as it was found.
        let restored = if lab.is_own && scenarios.len() == 1 { Ok(()) } else { restore::restore(&stage) };
        let report = report.with_context(|| scenario.name.clone())?;
        if args.format == Format::Table {
            println!("{}", report::table(&report));
        }
        runs.push(Run { report, seconds: start.elapsed().as_secs_f64() });
        restored.with_context(|| format!("restoring the lab after {}", scenario.name))?;
    }
    Ok(runs)
}

fn print(args: &RunArgs, runs: &[Run]) -> Result<()> {
    match args.format {
        Format::Table if runs.len() > 1 => print!("{}", report::overview(runs)),
        Format::Table => {}
        Format::Json => match runs {
            [one] => println!("{}", serde_json::to_string_pretty(&one.report)?),
            runs => {
                let reports: Vec<_> = runs.iter().map(|run| &run.report).collect();
                println!("{}", serde_json::to_string_pretty(&reports)?);
            }
        },
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
}

impl Lab {
    fn open(
        args: &RunArgs,
        name: Option<&str>,
        scenarios: &[Scenario],
        flavour: Option<Flavour>,
    ) -> Result<Self> {
        let paths = Paths::new(name.unwrap_or("lab"))?;
        if State::load(&paths)?.is_some_and(|state| state.complete) {
            ensure!(
                args.lab.is_none() && args.sets.is_empty() && args.compare.is_empty(),
                "lab {} is up already; --lab, --set and --compare are for one that lab run brings up: lab down --name {0}",
                paths.name
            );
            return Ok(Self { paths, is_own: false });
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
        let lab = Self { paths, is_own: true };
        let options = up::Options {
            dry_run: false,
            lb: preflight::find_lb(args.lb.clone()),
            wait: Wait::Ready,
            timeout: Duration::from_secs(120),
            json: false,
            quiet: true,
        };
        ensure!(up::run(&spec, &options)? == 0, "the lab did not come up (see above)");
        Ok(lab)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.is_own {
            for error in down::remove_last(&self.paths) {
                eprintln!("lab run: taking the lab down: {error:#}");
            }
        }
    }
}
