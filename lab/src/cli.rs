//! The command line.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::load::LoadArgs;
use crate::paths::Paths;
use crate::scenario::command::RunArgs;
use crate::scenario::flood::FloodArgs;
use crate::send::{self, SendArgs};
use crate::serve::{self, ServeArgs};
use crate::spec::{self, LabSpec};
use crate::wait::Wait;
use crate::{down, exec, load, preflight, scenario, status, up};

/// The whole load balancer on one machine, in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Which lab; labs of different names coexist [default: lab]
    #[arg(long, global = true, env = "LAB_NAME")]
    name: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up and wait until it answers
    Up(UpArgs),
    /// Remove a lab with all that belongs to it
    Down,
    /// Show every node, its role, its processes, and why it is not ready
    Status {
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Run a command in a node; its exit status is ours
    Exec {
        /// A node, e.g. lb4-1
        node: String,
        /// The command, after --
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Play a timeline of faults and changes over live load, and judge what broke
    Run(RunArgs),
    /// The load of a scenario, inside the users node
    #[command(hide = true)]
    Load(LoadArgs),
    /// What answers the load, inside servers and L7 hosts
    #[command(hide = true)]
    Serve(ServeArgs),
    /// The flood of a scenario, inside the users node
    #[command(hide = true)]
    Flood(FloodArgs),
    /// Small packets as fast as they go, for scripts/bench
    #[command(hide = true)]
    Send(SendArgs),
    /// Open a shell in a node
    Shell {
        /// A node, e.g. lb4-1
        node: String,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// A lab file [default: the reference lab]
    file: Option<PathBuf>,
    /// Change a key of the lab file, e.g. --set lb4=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print what would be built, touch nothing
    #[arg(long)]
    dry_run: bool,
    /// The agent's program [default: lb beside this program]
    #[arg(long, env = "LB_BIN", value_name = "PATH")]
    lb: Option<PathBuf>,
    /// What to wait for
    #[arg(long, value_enum, default_value_t)]
    wait: Wait,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How commands print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Runs the command; the result is the exit status.
pub fn run(cli: Cli) -> Result<u8> {
    if let Some(name) = &cli.name {
        spec::check_name(name)?;
    }
    let name = cli.name.as_deref().unwrap_or("lab");
    // `lab up` says itself what it needs, and plans without root.
    if let Some(problem) = preflight::not_root().filter(|_| !matches!(cli.command, Command::Up(_))) {
        bail!(problem);
    }
    match cli.command {
        Command::Up(args) => run_up(args, cli.name.as_deref()),
        Command::Down => down::run(&Paths::new(name)?),
        Command::Status { format } => status::run(&Paths::new(name)?, format == Format::Json),
        Command::Exec { node, command } => exec::exec(&Paths::new(name)?, &node, &command).map(|()| 0),
        Command::Run(args) => scenario::command::run(&args, cli.name.as_deref()),
        Command::Load(args) => load::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Flood(args) => scenario::flood::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Shell { node } => exec::shell(&Paths::new(name)?, &node).map(|()| 0),
    }
}

fn run_up(args: UpArgs, name: Option<&str>) -> Result<u8> {
    let spec = read_spec(&args, name)?;
    up::run(
        &spec,
        &up::Options {
            dry_run: args.dry_run,
            lb: preflight::find_lb(args.lb),
            wait: args.wait,
            timeout: Duration::from_secs(args.timeout),
            json: args.format == Format::Json,
            temporary: false,
        },
    )
}

fn read_spec(args: &UpArgs, name: Option<&str>) -> Result<LabSpec> {
    let mut spec = match &args.file {
        None => spec::load("reference.yaml", spec::REFERENCE, &args.sets)?,
        Some(file) => {
            let yaml = fs::read_to_string(file)
                .with_context(|| format!("{}: cannot be read; name a lab file", file.display()))?;
            spec::load(&file.display().to_string(), &yaml, &args.sets)?
        }
    };
    if let Some(name) = name {
        spec.name = name.to_owned();
    }
    Ok(spec)
}
