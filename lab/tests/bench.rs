//! `lb bench`, `scripts/bench` and `scripts/bench-dns` run, and say what they could not run; their figures are nobody's
//! business here.

use std::path::Path;
use std::process::{Command, Output};

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

/// What `lb bench` does, with few packets; `None` if it cannot run here, which is said.
fn lb_bench(arguments: &[&str]) -> Option<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("lab is in the checkout");
    let lb = root.join("target/release/lb");
    let reason = match (nix::unistd::geteuid().is_root(), lb.is_file()) {
        (false, _) => "needs root",
        (_, false) => "no target/release/lb; run scripts/build",
        _ => "",
    };
    if !reason.is_empty() {
        println!("skipped: lb bench: {reason}");
        return None;
    }
    let mut command = Command::new(lb);
    command.args(["bench", "--packets", "800", "--format", "json"]).args(arguments).current_dir(root);
    Some(command.output().expect("running lb bench"))
}

fn json(output: &Output) -> Value {
    let problems = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {problems}"))
}

#[test]
fn a_path_is_reported_beside_the_floor_and_beside_nothing() {
    let Some(output) =
        lb_bench(&["--rounds", "3", "--alone", "5", "--path", "tcp4", "--path", "host_local4"])
    else {
        return;
    };
    let report = json(&output);
    assert!(output.status.success(), "{report}");
    let paths = report["paths"].as_array().expect("paths");
    let names: Vec<_> = paths.iter().map(|path| (path["path"].as_str(), path["flows"].as_u64())).collect();
    let [floor, null, tcp4, host] = ["floor", "null", "tcp4", "host_local4"].map(Some);
    let (one, many) = (Some(1), Some(1 << 20));
    assert_eq!(names, [(floor, one), (null, one), (tcp4, one), (tcp4, many), (host, one)]);
    for path in paths {
        for spread in ["ns", "net_of_null"] {
            let at =
                |key: &str| path[spread][key].as_f64().unwrap_or_else(|| panic!("{spread}.{key} of {path}"));
            let sorted = ["min", "q1", "median", "q3", "max"].map(at);
            assert!(sorted.is_sorted(), "{path}");
        }
        // So few packets say nothing about time: even less than nothing, once the start of a run is taken off.
        assert!(path["over_floor"].is_f64(), "{path}");
        assert_eq!(path["alone_ns"]["packets"].as_u64(), Some(5), "{path}");
    }
    assert!(paths[1]["net_of_null"]["max"].as_f64().is_some_and(|net| net.abs() < 1e-9), "{}", paths[1]);
}

#[test]
fn an_older_object_is_compared_whether_a_directors_or_a_hosts() {
    for (object, path) in [("director", "tcp4"), ("host", "host_local4")] {
        let file = format!("lb-user/prebuilt/{object}.o");
        let Some(output) = lb_bench(&["--path", path, "--against", &file]) else { return };
        let report = json(&output);
        assert_eq!((&report["object"], &report["rounds"]), (&object.into(), &21.into()), "{report}");
        // So few packets say nothing about time; the exit code must say what the report does.
        let slower = report["slower"].as_bool().expect("a judgement");
        assert_eq!(output.status.code(), Some(slower.into()), "{report}");
        let paths = report["paths"].as_array().expect("paths");
        assert!(!paths.is_empty() && paths.iter().all(|of| of["path"] == path), "{report}");
        let above = |of: &Value| of["ratio"]["median"].as_f64().expect("a ratio") > 1.02;
        assert_eq!(paths.iter().any(above), slower, "{report}");
        // It is the same object.
        assert!(paths.iter().all(|of| of["same_packet"] == true), "{report}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_reason() {
    for (arguments, reason) in [
        (&["--against", "no-such.o"][..], "cannot open no-such.o"),
        (&["--against", "Cargo.toml"], "not an ELF file"),
        (&["--against", "target/release/lb"], "lb"),
        (&["--against", "lb-user/prebuilt/golden.o"], "has no program director or host"),
        (&["--against", "lb-user/prebuilt/host.o", "--path", "tcp4"], "none of the paths"),
        (&["--against", "lb-user/prebuilt/director.o", "--rounds", "20"], "at least 21 rounds"),
        (&["--path", "tcp5"], "no path tcp5"),
        (&["--against", "lb-user/prebuilt/director.o", "--path", "tcp5"], "no path tcp5"),
    ] {
        let Some(output) = lb_bench(arguments) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}: {said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
}
