//! `lb plan`: what a change would do.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{Api, Format, edit, pool};
use crate::manifest::plan::Plan;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    change: Change,
    #[command(flatten)]
    api: Api,
    /// How to report.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Add hosts to a pool.
    Add(pool::Add),
    /// Give hosts no new connections.
    Drain(pool::Named),
    /// Give hosts that were drained new connections again.
    Undrain(pool::Named),
    /// Change a host's share of new connections.
    Weight(pool::Weighed),
    /// Remove hosts.
    Remove(pool::Remove),
    /// Forget an old generation.
    Retire(pool::Retire),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let change = match &args.change {
        Change::Add(add) => add.edit()?,
        Change::Drain(hosts) => hosts.drain(&args.api)?,
        Change::Undrain(hosts) => hosts.undrain(&args.api)?,
        Change::Weight(weight) => weight.edit(&args.api)?,
        Change::Remove(remove) => remove.edit(),
        Change::Retire(retire) => retire.edit(),
    };
    let plan = edit::plan(&args.api, &change)?;
    match args.format {
        Format::Text => print!("{}", text(&plan)),
        Format::Json => println!("{:#}", serde_json::to_value(&plan)?),
    }
    Ok(if plan.refusal.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The plan for people.
pub(super) fn text(plan: &Plan) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    if plan.rows > 0 {
        let generations: Vec<_> = plan.generations.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            page,
            "pool {}: version {} to {}; then in force: generation {}",
            plan.pool,
            plan.base,
            plan.version,
            generations.join(", then ")
        );
        let row = |share: &crate::manifest::plan::Share| {
            let change = share.to as i64 - share.from as i64;
            vec![share.host.clone(), share.from.to_string(), share.to.to_string(), format!("{change:+}")]
        };
        page += &super::status::table(
            ["HOST", "ROWS NOW", "ROWS THEN", "CHANGE"],
            plan.shares.iter().map(row).collect(),
        );
        let moved: usize = plan.moves.iter().map(|change| change.rows).sum();
        let _ = writeln!(
            page,
            "\n{moved} of {} rows move: about {:.1} % of the connections that are open now will need a second chance",
            plan.rows,
            100.0 * plan.second_chances
        );
    }
    for risk in &plan.risks {
        let _ = writeln!(page, "risk: {risk}");
    }
    if let Some(refusal) = &plan.refusal {
        let _ = writeln!(page, "refused: {refusal}");
    }
    page
}
