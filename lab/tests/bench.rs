//! `scripts/bench` runs end to end, and says what it could not run; its figures are nobody's business here.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn every_path_is_measured_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("lab is in the checkout");
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: scripts/bench: needs root");
    }
    for built in ["target/release/lb", "target/release/lab"] {
        if !root.join(built).is_file() {
            return println!("skipped: scripts/bench: no {built}; run scripts/build");
        }
    }
    if Command::new("jq").arg("--version").output().is_err() {
        return println!("skipped: scripts/bench: no jq; apt install jq");
    }
    let script = root.join("scripts/bench");
    let output = Command::new(script)
        .args(["--end-to-end", "--rounds", "1", "--ms", "200", "--format", "json"])
        .output();
    let output = output.expect("running scripts/bench");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
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
    let left = Command::new("ip").args(["netns", "list"]).output().expect("running ip").stdout;
    let left = String::from_utf8_lossy(&left);
    assert!(!left.contains("lb-bench-"), "namespaces are left behind: {left}");
}
