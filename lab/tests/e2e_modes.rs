//! Other ways to attach: generic XDP, decapsulation by TC and by the kernel.

mod common;

use std::process::Command;

use common::load;
use common::wires::{Machine, can_run};
use common::{Lab, PATIENCE, check, figure, text, wait_until};
use lb_test_support::skip;

#[test]
#[ignore = "needs root"]
fn generic_xdp_and_tc_carry_requests_and_kernel_tunnels_do_or_say_why_not() {
    let sets = ["lb4=2", "lb7=2", "servers=2", "bgp=bird", "xdp=generic", "decapsulation=tc"];
    let Some((mut lab, _)) = Lab::up("modes", &sets) else { return };
    lab.step("generic XDP on directors, TC on hosts", generic_and_tc);
    lab.step("native XDP after detach", native_after_detach);
    lab.step("the kernel's tunnel devices", kernel_tunnels);
    lab.finish();
}

#[test]
#[ignore = "needs root"]
fn the_kernels_tunnel_devices_carry_requests() {
    let test = "the_kernels_tunnel_devices_carry_requests";
    if !can_run(test) {
        return;
    }
    let probe = Machine::new("probe");
    let has_ipip = || Command::new("ip").args("link add e2e type ipip external".split(' ')).status();
    if !probe.inside(has_ipip).is_ok_and(|status| status.success()) {
        skip(test, "this kernel has no ipip");
        return;
    }
    let sets = ["lb4=2", "lb7=2", "servers=2", "bgp=bird", "decapsulation=kernel"];
    let Some((lab, _)) = Lab::up("kernel tunnels", &sets) else { return };
    let report = load::requests(&lab, 200);
    report.assert_flawless();
    assert_eq!(report.l7_hosts.len(), 2);
}

fn mode(lab: &Lab, node: &str) -> String {
    lab.agent(node)["interfaces"][0]["mode"].as_str().unwrap_or_default().to_owned()
}

fn generic_and_tc(lab: &Lab) {
    for (nodes, wanted) in [(lab.nodes("lb4-"), "xdp-generic"), (lab.nodes("lb7-"), "tc")] {
        for node in nodes {
            assert_eq!(mode(lab, &node), wanted, "{node}");
        }
    }
    assert!(lab.sh("lb4-1", "ip link show eth0").contains("xdpgeneric"));
    let report = load::requests(lab, 300);
    report.assert_flawless();
    assert_eq!((report.by_vip.len(), report.l7_hosts.len()), (8, 2));
    figure("generic XDP, TC: requests", report.summary());
}

/// Detaching leaves neither program nor pin nor announcement; the agent then starts as its configuration says now.
fn native_after_detach(lab: &Lab) {
    for (node, role, wanted) in
        [("lb4-1", "  xdp: generic", "xdp-native"), ("lb7-1", "decapsulation: tc", "xdp-native")]
    {
        let link = || lab.sh(node, "ip link show eth0");
        detach(lab, node);
        assert!(!link().contains("xdp"), "{}", link());
        assert!(lab.sh(node, "find /sys/fs/bpf -mindepth 2").is_empty());
        if node == "lb7-1" {
            lab.rewrite(node, role, "decapsulation: xdp");
            lab.rewrite(node, "  xdp: generic", "  xdp: auto");
        } else {
            lab.rewrite(node, role, "  xdp: auto");
        }
        lab.start(node, "lb-agent");
        ready(lab, node);
        assert_eq!(mode(lab, node), wanted, "{node}");
    }
    lab.settle();
    let report = load::requests(lab, 200);
    report.assert_flawless();
    assert_eq!(report.l7_hosts.len(), 2);
}

fn kernel_tunnels(lab: &Lab) {
    let node = "lb7-2";
    let has_ipip = lab
        .exec(node, &["sh", "-c", "ip link add e2e type ipip external && ip link del e2e"])
        .status
        .success();
    detach(lab, node);
    lab.rewrite(node, "decapsulation: tc", "decapsulation: kernel");
    lab.start(node, "lb-agent");
    if has_ipip {
        ready(lab, node);
        assert_eq!(mode(lab, node), "kernel");
        lab.settle();
        let report = load::requests(lab, 200);
        report.assert_flawless();
        assert!(report.l7_hosts.contains(node));
        figure("the kernel's tunnel devices: requests", report.summary());
    } else {
        wait_until("the agent says why it is not ready", PATIENCE, || {
            let status = lab.try_agent(node)?;
            let reasons = status["reasons"].to_string();
            let says = reasons.contains("the kernel needs the ipip driver")
                && reasons.contains("set host.decapsulation to xdp");
            check(status["ready"] == false && says, status)
        });
        println!("{node}: {}", lab.agent(node)["reasons"]);
    }
    lab.exec(node, &["lb", "detach"]);
    wait_until("the agent has ended", PATIENCE, || check(lab.try_agent(node).is_err(), "it answers"));
    lab.rewrite(node, "decapsulation: kernel", "decapsulation: auto");
    lab.start(node, "lb-agent");
    ready(lab, node);
    lab.settle();
    let report = load::requests(lab, 100);
    report.assert_flawless();
    assert!(report.l7_hosts.contains(node));
}

#[track_caller]
fn detach(lab: &Lab, node: &str) {
    let output = lab.exec(node, &["lb", "detach"]);
    assert_eq!(text(&output.stdout), "detached; the agent has ended\n", "{}", text(&output.stderr));
    wait_until("the agent has ended", PATIENCE, || {
        let processes = lab.state().processes;
        let agent = processes[node].iter().find(|process| process.name == "lb-agent").expect("an agent");
        check(!agent.is_running(), "it runs")
    });
}

fn ready(lab: &Lab, node: &str) {
    wait_until("the agent is ready", PATIENCE, || {
        let status = lab.try_agent(node)?;
        check(status["ready"] == true, &status["reasons"])
    });
}
