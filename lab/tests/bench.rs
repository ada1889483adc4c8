//! `scripts/bench` and `scripts/bench-dns` run, and say what they could not run; their figures are nobody's business here.

use std::path::Path;
use std::process::Command;

use lb_test_support::{has_programs, is_root, skip};
use serde_json::Value;

/// What a bench reports; `None` if it cannot run here, which is said. `namespaces` is what the names of its own begin with.
fn report(
    bench: &str,
    namespaces: &str,
    built: &[&str],
    programs: &[&str],
    arguments: &[&str],
) -> Option<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("lab is in the checkout");
    let missing = built.iter().find(|built| !root.join("target/release").join(built).is_file());
    if let Some(built) = missing {
        skip(bench, format_args!("no target/release/{built}; run scripts/build"));
        return None;
    }
    if !is_root(bench) || !has_programs(bench, programs) {
        return None;
    }
    let mut command = Command::new(root.join(bench));
    let output = command.args(arguments).args(["--format", "json"]).output().expect("running a bench");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = Command::new("ip").args(["netns", "list"]).output().expect("running ip").stdout;
    let left = String::from_utf8_lossy(&left);
    assert!(!left.contains(namespaces), "namespaces are left behind: {left}");
    // Their folders have such names, too.
    let left = Command::new("pgrep").args(["-af", namespaces]).output().expect("running pgrep");
    assert!(left.stdout.is_empty(), "left behind: {}", String::from_utf8_lossy(&left.stdout));
    Some(serde_json::from_slice(&output.stdout).expect("a report"))
}

#[test]
#[ignore = "needs root"]
fn every_path_is_measured_or_says_why_not() {
    let arguments = ["--end-to-end", "--rounds", "1", "--ms", "200"];
    let Some(report) = report("scripts/bench", "lb-bench-", &["lb", "lab"], &["jq"], &arguments) else {
        return;
    };
    let paths = report["end_to_end"]["paths"].as_array().expect("paths");
    let names: Vec<_> = paths.iter().map(|path| path["path"].as_str().expect("its name")).collect();
    assert_eq!(names, ["plain", "native", "generic", "ipvs"]);
    for path in paths {
        println!("figure: {path}");
        let reached = path["packets_per_second"]["median"].as_f64().is_some_and(|rate| rate > 0.0);
        let why_not = path["not_run"].as_str().is_some_and(|reason| !reason.is_empty());
        // The lab's own machine has what the first three need.
        assert!(reached || path["path"] == "ipvs" && why_not, "{path}");
    }
}

#[test]
#[ignore = "needs root"]
fn every_name_server_answers_or_says_why_not() {
    let programs = ["jq", "dig", "dnsperf"];
    let Some(report) = report("scripts/bench-dns", "lb-dns-bench-", &["lb"], &programs, &["--quick"]) else {
        return;
    };
    println!("figure: {report}");
    for server in ["ours", "gdnsd", "knot", "bind", "powerdns", "floor"] {
        let of = &report["servers"][server];
        let answers = of["per_second"][0].as_u64().is_some_and(|rate| rate > 0);
        let why_not = of["refused"].as_str().is_some_and(|reason| !reason.is_empty());
        assert!(answers || !["ours", "floor"].contains(&server) && why_not, "{server}: {of}");
    }
    for health in ["ours-quiet", "ours-flapping", "floor-quiet"] {
        assert!(report["at_half"][health]["p99_us"][0].as_u64() > Some(0), "{report}");
    }
}
