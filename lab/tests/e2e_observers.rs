//! Name servers at several places: votes on what works, and an address that several of them share.

mod common;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::programs::{Program, has};
use common::wires::{Machine, can_run, wire};
use common::{PATIENCE, check, wait_until};
use lb_test_support::stays;
use serde_json::Value;

/// What is watched.
const WEB: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OBSERVERS: u8 = 5;
/// Of the checks, beside which an answer may take 300 ms.
const INTERVAL: Duration = Duration::from_millis(500);

fn observer(number: u8) -> String {
    let nodes: Vec<String> =
        (1..=OBSERVERS).map(|number| format!("\"http://10.1.0.{number}:7400\"")).collect();
    format!(
        "peers: {{listen: \"10.1.0.{number}:7400\", allow: [10.1.0.0/24]}}
dns:
  listen: \"10.1.0.{number}:53\"
  state: FOLDER/dns.json
  observers: {{nodes: [{}]}}
  checks: {{web: {{type: tcp, port: 80, interval: 500ms, timeout: 500ms, rise: 1, fall: 1}}}}
  zones: {{example.org: {{ns: [ns1], records: [ns1 A 10.1.0.{number}], names: {{www: {{checks: [web], members: [{WEB}, 10.1.0.99], min_up: 1}}}}}}}}
",
        nodes.join(", ")
    )
}

fn status(machine: &Machine) -> Result<Value, String> {
    let told = machine.lb(&["dns", "status", "--format", "json"])?;
    serde_json::from_str(&told).map_err(|error| format!("{error}: {told}"))
}

/// What the agent decided about WEB.
fn state(machine: &Machine) -> Result<String, String> {
    let status = status(machine)?;
    Ok(status["names"][0]["members"][0]["state"].as_str().unwrap_or_default().to_owned())
}

fn is(machines: &[&Machine], wanted: &str) -> Result<(), String> {
    for machine in machines {
        let state = state(machine)?;
        check(state == wanted, format!("{state} instead of {wanted}"))?;
    }
    Ok(())
}

/// How many observers each hears, itself too.
fn heard(machine: &Machine) -> Result<usize, String> {
    let status = status(machine)?;
    let all = status["observers"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter(|observer| observer["heard"] == true).count())
}

#[test]
#[ignore = "needs root"]
fn observers_that_are_cut_off_decide_nothing() {
    if !can_run("observers_that_are_cut_off_decide_nothing") {
        return;
    }
    let switch = Machine::new("switch");
    switch.sh(
        "ip link add br0 type bridge; ip link set br0 up; ip link add br1 type bridge; ip link set br1 up",
    );
    let web = Machine::new("web");
    let names = ["o1", "o2", "o3", "o4", "o5"];
    let mut all: Vec<Machine> = names.iter().map(|name| Machine::new(name)).collect();
    let ports = ["p1", "p2", "p3", "p4", "p5"];
    for ((machine, port), number) in all.iter().zip(ports).zip(1..) {
        wire((&switch, port), (machine, "eth0"), 1500);
        switch.sh(&format!("ip link set {port} master br0"));
        machine.address("eth0", 1, number);
        machine.route(Some(9), 1, 99);
    }
    wire((&switch, "web"), (&web, "eth0"), 1500);
    switch.sh("ip link set web master br0");
    web.address("eth0", 1, 99);
    web.serve(&[WEB.into()], &[80]);
    for (machine, number) in all.iter_mut().zip(1..) {
        machine.start(&observer(number));
    }
    let all: Vec<&Machine> = all.iter().collect();
    let (most, few) = all.split_at(3);
    wait_until("all agree that it works", PATIENCE, || is(&all, "up"));
    wait_until("all hear each other", PATIENCE, || {
        let heard: Vec<usize> = all.iter().map(|machine| heard(machine)).collect::<Result<_, _>>()?;
        check(heard == [5; 5], format!("{heard:?}"))
    });

    // Two are cut off, with each other: they reach nothing else.
    switch.sh("ip link set p4 master br1; ip link set p5 master br1");
    wait_until("the two hear each other alone, and see it fail", PATIENCE, || {
        for machine in few {
            let status = status(machine)?;
            let own = status["observers"].as_array().into_iter().flatten().filter(|o| o["heard"] == true);
            let fails: Vec<u64> = own.filter_map(|observer| observer["down"].as_u64()).collect();
            check(fails.len() == 2 && fails.iter().all(|fails| *fails > 0), &status)?;
        }
        Ok(())
    });
    stays("what nobody withdraws", 6 * INTERVAL, || is(&all, "up"));

    // It fails in truth: the three that see it are more than half.
    web.sh("ip link set eth0 down");
    let failed = Instant::now();
    wait_until("three of five agree", PATIENCE, || is(most, "failed"));
    let agreed = failed.elapsed();
    println!(
        "figure: a real failure was agreed on by 3 of 5 observers after {agreed:.2?} (bound: 2 intervals of {INTERVAL:?})"
    );
    is(few, "up").expect("those that are cut off stay with what was agreed on");

    // Everything returns.
    web.sh("ip link set eth0 up; ip route replace default via 10.1.0.1 || true");
    switch.sh("ip link set p4 master br0; ip link set p5 master br0");
    wait_until("all agree again", PATIENCE, || is(&all, "up"));
}

#[test]
#[ignore = "needs root"]
fn a_shared_address_is_announced_while_it_answers() {
    let test = "a_shared_address_is_announced_while_it_answers";
    if !can_run(test) || !has(test, &["bird"]) {
        return;
    }
    const SHARED: &str = "192.0.2.53";
    let router = Machine::new("router");
    let mut server = Machine::new("ns1");
    wire((&router, "eth0"), (&server, "eth0"), 1500);
    router.address("eth0", 1, 1);
    server.address("eth0", 1, 2);
    server.sh(&format!("ip address add {SHARED}/32 dev lo"));
    let (at_router, at_server) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let _router_bird = Program::bird(&router, at_router.path(), 1, &[2]);
    let _server_bird = Program::bird(&server, at_server.path(), 2, &[1]);
    let folder = at_server.path().display();
    server.start(&format!(
        "bgp: {{driver: bird, bird: {{include: {folder}/lb.conf, control: {folder}/bird.ctl}}}}
dns:
  listen: [\"10.1.0.2:53\", \"{SHARED}:53\"]
  anycast: [{SHARED}]
  state: {folder}/dns.json
  zones: {{example.org: {{ns: [ns1], records: [\"ns1 A {SHARED}\", \"www A 198.51.100.1\"]}}}}
"
    ));
    let routed = || router.sh(&format!("ip -4 route show {SHARED}"));
    let wait = |what: &str, is: bool| {
        wait_until(what, PATIENCE, || check(routed().contains("via 10.1.0.2") == is, routed()));
    };
    wait("the router has a route", true);
    let asked = router.inside(|| {
        let dig = ["+short", "+time=1", "+tries=1", "@192.0.2.53", "www.example.org"];
        Command::new("dig")
            .args(dig)
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    });
    assert_eq!(asked.ok().as_deref(), Some("198.51.100.1\n"));
    // Nobody can ask the server there any more: queries are dropped on the way to it.
    server.sh("nft add table inet t; nft 'add chain inet t in { type filter hook input priority 0; }'
        nft add rule inet t in ip daddr 192.0.2.53 udp dport 53 drop");
    let silent = Instant::now();
    wait("the route goes", false);
    println!(
        "figure: a name server that did not answer lost its shared address after {:.1?}",
        silent.elapsed()
    );
    let status = status(&server).expect("a status");
    assert_eq!(status["anycast"][0]["answers"], false, "{status}");
    server.sh("nft delete table inet t");
    wait("the route returns", true);
    // Out of service by the operator's word.
    server.disable(true);
    wait("the route goes at once", false);
    server.disable(false);
    wait("the route returns", true);
    // An agent that ends leaves no address behind at which nobody answers.
    server.stop();
    wait("the route goes with the agent", false);
}
