//! `lb plan`: what a change would do.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Subcommand;

use super::{Api, Format, edit, pool};
use crate::manifest::plan::{Plan, Share};

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
        let row = |share: &Share| {
            let change = share.to as i64 - share.from as i64;
            vec![share.host.clone(), share.from.to_string(), share.to.to_string(), format!("{change:+}")]
        };
        page += &super::status::table(
            ["HOST", "ROWS NOW", "ROWS THEN", "CHANGE"],
            plan.shares.iter().map(row).collect(),
        );
        let moved: usize = plan.moves.iter().map(|change| change.rows).sum();
        let needed = match moved {
            0 => "none of the connections that are open now".to_owned(),
            _ => format!("about {:.1} % of the connections that are open now", 100.0 * plan.second_chances),
        };
        let _ = writeln!(page, "\n{moved} of {} rows move: {needed} will need a second chance", plan.rows);
    }
    for risk in &plan.risks {
        let _ = writeln!(page, "risk: {risk}");
    }
    if let Some(refusal) = &plan.refusal {
        let _ = writeln!(page, "refused: {refusal}");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::plan::Move;

    #[test]
    fn a_plan_says_who_gets_what_and_what_could_break() {
        let share = |host: &str, from, to| Share { host: host.into(), from, to };
        let plan = Plan {
            base: 4,
            version: 6,
            pool: "web".into(),
            rows: 251,
            shares: vec![share("lb7-1", 126, 251), share("lb7-2", 125, 0)],
            moves: vec![Move { from: "lb7-2".into(), to: "lb7-1".into(), rows: 125 }],
            generations: vec![2, 1],
            second_chances: 0.498,
            risks: vec!["in 3 of 251 rows there is no room for a backup".into()],
            refusal: Some("9 generations would be in force".into()),
            ..Plan::default()
        };
        let expected = "\
pool web: version 4 to 6; then in force: generation 2, then 1

HOST   ROWS NOW  ROWS THEN  CHANGE
lb7-1  126       251        +125
lb7-2  125       0          -125

125 of 251 rows move: about 49.8 % of the connections that are open now will need a second chance
risk: in 3 of 251 rows there is no room for a backup
refused: 9 generations would be in force
";
        assert_eq!(text(&plan), expected);
    }
}
