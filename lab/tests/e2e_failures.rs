//! Directors that are switched off, die, or lose their agent while users send requests.

mod common;

use std::time::{Duration, Instant};

use common::load::{Load, Report, Users};
use common::{Lab, PATIENCE, SMALL, check, figure, look, seconds, wait_until};
use lab::cgroup;
use lab::topology::vips;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
#[ignore = "needs root"]
fn directors_come_and_go_under_load() {
    let Some((mut lab, _)) = Lab::up("failures", &SMALL) else { return };
    lab.step("disable file on a director with BIRD", |lab| disable_and_enable(lab, "lb4-1", "bird"));
    lab.step("disable file on a director with GoBGP", |lab| disable_and_enable(lab, "lb4-2", "gobgp"));
    lab.step("agent killed and started again", agent_killed_and_started);
    lab.step("agent started over new maps", agent_started_over_new_maps);
    lab.step("sidecars killed and started again", sidecars_killed_and_started);
    lab.step("all agents killed, of directors and hosts", all_agents_killed);
    // The last: nobody plugs it in again.
    lab.step("director killed without warning", director_killed);
    lab.finish();
}

/// How long until the VIPs are gone from both routers' kernels, or there again.
fn routers_have_vips_via(lab: &Lab, node: &str, wanted: usize) -> Duration {
    let addresses = look::addresses(lab, node);
    wait_until("both routers follow", PATIENCE, || {
        for router in ["r1", "r2"] {
            let found = look::vips_via(lab, router, &addresses);
            check(found == wanted, format!("{router} has {found} VIPs via {node}"))?;
        }
        Ok(())
    })
}

fn disable_and_enable(lab: &Lab, node: &str, driver: &str) {
    assert_eq!(lab.agent(node)["bgp"]["driver"], driver);
    routers_have_vips_via(lab, node, vips().len());
    let load = Load::start(lab, Users::default());
    lab.sh(node, "touch /etc/lb/disable");
    let gone = routers_have_vips_via(lab, node, 0);
    figure(&format!("{driver}: VIPs gone from both routers after touch disable (bound 1 s)"), seconds(gone));
    load.answered(100);
    let status = lab.agent(node);
    assert_eq!((&status["disabled"], &status["ready"]), (&true.into(), &true.into()), "{status}");
    assert!(!status["services"].as_array().expect("services").iter().any(|s| s["announced"] == true));
    let quiet = lab.counter(node, "director", "forwarded");
    load.answered(100);
    let stray = lab.counter(node, "director", "forwarded") - quiet;
    lab.sh(node, "rm /etc/lb/disable");
    let back = routers_have_vips_via(lab, node, vips().len());
    figure(&format!("{driver}: VIPs back on both routers after rm disable"), seconds(back));
    load.answered(100);
    assert!(lab.counter(node, "director", "forwarded") > quiet + stray, "it carries traffic again");
    let report = load.stop();
    figure(&format!("{driver}: requests while VIPs went and came"), report.summary());
    report.assert_flawless();
}

/// The data plane needs no agent; the next agent takes over what is there.
fn agent_killed_and_started(lab: &Lab) {
    let node = "lb4-1";
    let load = Load::start(lab, Users::default());
    let before = lab.agent(node);
    let forwarded = carries_traffic(lab, &load, node);
    lab.kill(node, "lb-agent");
    load.answered(1000);
    lab.start(node, "lb-agent");
    let ready = ready_again(lab, node);
    load.answered(200);
    let after = lab.agent(node);
    assert_eq!(after["adopted"], true);
    assert_eq!(before["services"], after["services"], "the same tables in the kernel, announced");
    let now = lab.counter(node, "director", "forwarded");
    // Some of a thousand requests, of which a third is this director's, at four packets each at least.
    assert!(now > forwarded + 500, "counters go on, also without an agent: {forwarded} → {now}");
    let report = load.stop();
    figure("agent killed, a thousand requests without, then adopted: requests", report.summary());
    figure("agent started again: ready after", seconds(ready));
    report.assert_flawless();
}

/// Maps of another size cannot be adopted: new ones are filled, then the program over them replaces the one that runs.
fn agent_started_over_new_maps(lab: &Lab) {
    let node = "lb4-1";
    let load = Load::start(lab, Users::default());
    carries_traffic(lab, &load, node);
    lab.rewrite(node, "director:\n", "director:\n  capacity: {services: 2048}\n");
    lab.kill(node, "lb-agent");
    load.answered(250);
    lab.start(node, "lb-agent");
    ready_again(lab, node);
    load.answered(200);
    carries_traffic(lab, &load, node);
    let report = load.stop();
    figure("agent started over new maps: requests", report.summary());
    report.assert_flawless();
}

/// BGP daemons restart beside a healthy agent: the agent announces everything again.
fn sidecars_killed_and_started(lab: &Lab) {
    for (node, sidecar) in [("lb4-1", "bird"), ("lb4-2", "gobgpd")] {
        lab.kill(node, sidecar);
        wait_until("the agent misses its sidecar", PATIENCE, || {
            let status = lab.try_agent(node)?;
            check(status["ready"] == false && status["bgp"]["up"] == false, &status["bgp"])
        });
        lab.start(node, sidecar);
        let took = routers_have_vips_via(lab, node, vips().len());
        figure(&format!("{sidecar} started again: VIPs back on both routers after"), seconds(took));
    }
}

fn all_agents_killed(lab: &Lab) {
    let load = Load::start(lab, Users::default());
    let nodes = [lab.nodes("lb4-"), lab.nodes("lb7-")].concat();
    for node in &nodes {
        lab.kill(node, "lb-agent");
    }
    load.answered(400);
    for node in &nodes {
        lab.start(node, "lb-agent");
    }
    for node in &nodes {
        ready_again(lab, node);
        assert_eq!(lab.agent(node)["adopted"], true, "{node}");
    }
    load.answered(100);
    let report = load.stop();
    figure("all agents of directors and hosts killed and started: requests", report.summary());
    report.assert_flawless();
}

/// Everything on the director dies, and its link: only its silence tells.
fn director_killed(lab: &Lab) {
    let node = "lb4-3";
    // Impatient users: what a dead director swallows shows as a failure soon.
    let load = Load::start(lab, Users { per_second: 150, patience: Duration::from_millis(700) });
    carries_traffic(lab, &load, node);
    let event = Instant::now();
    look::inside(lab, node, &["ip", "link", "set", "eth0", "down"]);
    for pid in cgroup::processes(&lab.paths.node_cgroup(node)) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killing a process of the lab");
    }
    let link = look::inside(lab, node, &["cat", "/sys/class/net/eth0/operstate"]);
    assert_eq!(link, "down\n");
    let gone = routers_have_vips_via(lab, node, 0);
    // Two seconds of requests: what was sent to the dead director before that has failed by then.
    load.answered(300);
    let report: Report = load.stop();
    let outage = report.outage(event);
    figure("director killed: routers drop it after (hold time 6 s)", seconds(gone));
    figure("director killed: requests succeed again after (bound 6 s)", seconds(outage));
    figure("director killed: requests", report.summary());
    assert!(outage < Duration::from_secs(18), "three times the bound: {outage:?}");
    assert!(!report.failures.is_empty(), "a dead director swallows packets; was it dead?");
}

/// The director's count of forwarded packets, once it grows.
fn carries_traffic(lab: &Lab, load: &Load, node: &str) -> u64 {
    let before = lab.counter(node, "director", "forwarded");
    load.answered(100);
    let now = lab.counter(node, "director", "forwarded");
    assert!(now > before, "{node} carries no traffic");
    now
}

fn ready_again(lab: &Lab, node: &str) -> Duration {
    wait_until("the agent is ready", PATIENCE, || {
        let status = lab.try_agent(node)?;
        check(status["ready"] == true, &status["reasons"])
    })
}
