//! `lab run`: the fourteen scenarios at a size that fits a test, and that the instrument sees what breaks.

mod common;

use std::fs;
use std::process::Output;

use common::{Lab, figure, text};
use lb_test_support::skip;
use serde_json::Value;

/// Long-lived connections in each scenario.
const CONNECTIONS: &str = "--connections=300";

/// Scenarios in which rows move away from hosts that keep their connections: these live by second chances only.
const MOVES_ROWS: [&str; 9] = ["03", "04", "05", "06", "07", "08", "10", "11", "14"];

fn rescued(report: &Value) -> u64 {
    let events = report["events"].as_array().expect("events");
    events.iter().filter_map(|event| event["rescued"].as_u64()).sum()
}

/// Runs scenarios on a lab that comes and goes with the command.
fn run(lab: &Lab, arguments: &[&str]) -> Option<Output> {
    let output = lab.run(&[&["run"], arguments].concat());
    let said = text(&output.stderr);
    println!("{said}");
    if said.contains("lab up needs:") {
        skip("lab run", said.trim());
        return None;
    }
    Some(output)
}

#[test]
#[ignore = "needs root"]
fn no_scenario_breaks_a_connection() {
    let Some(lab) = Lab::new("no scenario breaks a connection") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let junit = folder.path().join("junit.xml").display().to_string();
    let Some(output) = run(&lab, &["--all", CONNECTIONS, "--format=json", "--junit", &junit]) else { return };
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).expect("reports");
    assert_eq!(reports.len(), 14);
    let mut failed = Vec::new();
    let mut without_rescue = Vec::new();
    for report in &reports {
        let name = report["scenario"].as_str().expect("a name");
        let connections = &report["connections"];
        let rescued = rescued(report);
        figure(
            &format!("scenario {name}"),
            format!(
                "{} of {} survived, {} broken, {} excused, {rescued} packets rescued, {} requests failed, \
                 longest stall {} of {} ms",
                connections["survived"],
                connections["opened"],
                connections["broken"],
                connections["excused"],
                report["requests"]["failed"],
                report["stall"]["longest_ms"],
                report["stall"]["allowed_ms"]
            ),
        );
        if report["verdict"] != "pass" {
            failed.push(format!("{report:#}"));
        }
        if rescued == 0 && MOVES_ROWS.iter().any(|number| name.starts_with(number)) {
            without_rescue.push(name);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(without_rescue.is_empty(), "rows moved, and nobody needed a second chance: {without_rescue:?}");
    assert!(output.status.success());
    let xml = fs::read_to_string(junit).expect("JUnit's file");
    assert!(xml.contains("tests=\"14\" failures=\"0\" errors=\"0\""), "{xml}");
}

/// The proof of the README.
#[test]
#[ignore = "long: fourteen scenarios at full size, half an hour; needs root"]
fn no_scenario_breaks_a_connection_at_full_size() {
    let Some(lab) = Lab::new("no scenario breaks a connection at full size") else { return };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/labs/proof.full.yaml");
    let arguments = ["--all", "--lab", file, "--connections=5000", "--format=json"];
    let Some(output) = run(&lab, &arguments) else { return };
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).expect("reports");
    let failed = reports.iter().filter(|report| report["verdict"] != "pass").collect::<Vec<_>>();
    assert!(reports.len() == 14 && failed.is_empty() && output.status.success(), "{failed:#?}");
}

/// Without a second chance hosts refuse what moved to them: an instrument that passes this sees nothing.
#[test]
#[ignore = "needs root"]
fn without_second_chances_the_same_change_breaks_connections() {
    let Some(lab) = Lab::new("breakage is seen") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("breakage.yaml");
    // Each director has the pool in its own configuration, and hosts know nothing of it.
    let scenario = "description: A host is forgotten while a director loses power.
set: {manifest: false}
timeline:
  - {at: 1s, do: power-off lb4-1}
  - {at: 2s, do: \"exec lb4-*,!lb4-1 sed -i '/lb7-4:/d' /etc/lb/lb.yaml && lb reload\"}
duration: 6s
";
    fs::write(&file, scenario).expect("writing the scenario");
    let Some(output) = run(&lab, &[&file.display().to_string(), CONNECTIONS, "--format=json"]) else {
        return;
    };
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["verdict"], "fail");
    let broken = report["connections"]["broken"].as_u64().expect("a number");
    figure("host forgotten without second chances: connections broken of 300", broken);
    // About a quarter: the rows of one host of four.
    assert!((30..=150).contains(&broken), "{report:#}");
    assert_eq!(report["connections"]["excused"], 0, "{report:#}");
    assert!(!lab.paths.folder.exists(), "the lab went with the command");
}

/// What directors remember of flows does not help when flows reach other directors.
#[test]
#[ignore = "needs root"]
fn flow_tables_break_where_second_chances_do_not() {
    let Some(lab) = Lab::new("the comparison") else { return };
    let arguments = ["07", "08", "--compare", "flow-table", CONNECTIONS, "--format=json"];
    let Some(output) = run(&lab, &arguments) else { return };
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).expect("reports");
    let found: Vec<(&str, u64)> = reports
        .iter()
        .map(|report| {
            let affinity = report["affinity"].as_str().expect("a word");
            (affinity, report["connections"]["broken"].as_u64().expect("a number"))
        })
        .collect();
    figure("scenarios 7 and 8: connections broken of 300, by affinity", format!("{found:?}"));
    let [(first, 0), (second, some), (third, 0), (fourth, others)] = found[..] else {
        panic!("{reports:#?}")
    };
    assert_eq!([first, second, third, fourth], ["second-chance", "flow-table"].repeat(2)[..]);
    assert!(some > 0 && others > 0, "the instrument sees no breakage: {found:?}");
    assert!(output.status.success(), "what it is compared with does not decide");
}

/// Nobody is served for ten seconds. Connections survive that, and it must not pass all the same.
#[test]
fn outage_fails_though_no_connection_breaks() {
    let Some(lab) = Lab::new("outage") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("outage.yaml");
    let scenario = "description: All directors are disabled for ten seconds.
timeline:
  - {at: 1s, do: \"disable lb4-*\"}
  - {at: 11s, do: \"enable lb4-*\"}
duration: 15s
";
    fs::write(&file, scenario).expect("writing the scenario");
    let junit = folder.path().join("junit.xml").display().to_string();
    let file = file.display().to_string();
    let arguments = [&file, "--connections=40", "--format=json", "--junit", &junit];
    let output = lab.run(&[&["run"], &arguments[..]].concat());
    println!("{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["verdict"], "fail");
    let failed = report["requests"]["failed"].as_u64().expect("a number");
    let stall = report["stall"]["longest_ms"].as_u64().expect("a number");
    figure("all directors disabled for 10 s", format!("{failed} requests failed, longest stall {stall} ms"));
    assert!(failed > 0 && stall > 3000, "{report:#}");
    // Of both at the event that brought them about.
    assert!(report["events"][1]["failed"].as_u64() > Some(0), "{report:#}");
    assert!(report["events"][1]["stall_ms"].as_u64() > Some(3000), "{report:#}");
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2), "{report:#}");
    let xml = fs::read_to_string(junit).expect("JUnit's file");
    assert!(xml.contains("failures=\"1\"") && xml.contains("the longest stall was"), "{xml}");
}

/// Rounds go in turn through all flavours, and come out as one line per flavour.
#[test]
fn repeated_comparison_tells_the_spread_and_its_conditions() {
    let Some(lab) = Lab::new("repetition") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("quiet.yaml");
    fs::write(&file, "timeline: []\nduration: 1s\n").expect("writing the scenario");
    let file = file.display().to_string();
    let arguments = ["run", &file, "--connections=20", "--repeat=2", "--compare=flow-table", "--seed=7"];
    let output = lab.run(&[&arguments[..], &["--format=json"]].concat());
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    let runs = document["runs"].as_array().expect("runs");
    let seeds: Vec<_> = runs.iter().map(|run| run["conditions"]["seed"].as_u64()).collect();
    assert_eq!(seeds, [7, 7, 8, 8].map(Some), "{document:#}");
    let affinities: Vec<_> = runs.iter().filter_map(|run| run["affinity"].as_str()).collect();
    assert_eq!(affinities, ["second-chance", "flow-table"].repeat(2), "in turn");
    for pointer in
        ["/versions/lb", "/versions/kernel", "/versions/haproxy", "/machine/load_before", "/nodes/directors"]
    {
        assert!(runs[0]["conditions"].pointer(pointer).is_some(), "{pointer}: {document:#}");
    }
    let summary = document["summary"].as_array().expect("a summary");
    assert_eq!(summary.len(), 2, "{document:#}");
    for flavour in summary {
        assert_eq!((&flavour["runs"], &flavour["passed"]), (&2.into(), &2.into()), "{document:#}");
        assert!(
            flavour["stall_ms"]["median"].as_u64() <= flavour["stall_ms"]["max"].as_u64(),
            "{document:#}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn wrong_scenarios_are_refused_with_their_place_before_anything_happens() {
    let Some(lab) = Lab::new("wrong scenarios") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("x.yaml").display().to_string();
    fs::write(&file, "timeline:\n  - {at: 1s, do: explode lb4-1}\n").expect("writing the scenario");
    for (scenario, problem) in [
        (file.as_str(), format!("lab: {file}:2:18: do: `explode` is no action; there are: ")),
        ("no-such", "lab: no-such: no such file, and no scenario of that name; there are: 01-".to_owned()),
    ] {
        let output = lab.run(&["run", scenario]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&problem), "{said}");
    }
    for (arguments, problem) in [
        (["run", "03", "--repeat=0"], "0 is not in 1..=1000"),
        (["run", "03", "--connections=0"], "0 is not in 1..=50000"),
    ] {
        let output = lab.run(&arguments);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(problem), "{said}");
    }
    assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists());
}
