//! The names of VIPs follow what works, by the agent's own name server and by a gdnsd that it keeps.

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use common::{Lab, PATIENCE, check, figure, look, seconds, wait_until};
use lab::topology::vips;

const SIZES: [&str; 5] = ["lb4=2", "lb7=2", "servers=2", "reflectors=1", "bgp=bird"];

#[test]
#[ignore = "needs root"]
fn names_follow_the_vips_by_the_agent_itself() {
    names_follow_the_vips("lb", |lab| {
        let told = lab.sh("dns", "lb dns explain www1.example.org --type A || true");
        let why =
            |line: &str| line.starts_with("198.51.100.1 ") && line.ends_with("operator: DOWN in /etc/lb/ext");
        assert!(told.lines().any(why), "{told}");
    });
}

#[test]
#[ignore = "needs root"]
fn names_follow_the_vips_by_gdnsd() {
    names_follow_the_vips("gdnsd", |lab| {
        wait_until("gdnsd has been told", PATIENCE, || {
            let status = lab.sh("dns", "lb dns status || true");
            check(status.contains("answers nowhere by itself") && status.contains("in step"), status)
        });
        let states = lab.sh("dns", "cat /run/lb/gdnsd-states");
        assert!(
            states.contains("198.51.100.1 => DOWN\n") && states.contains("198.51.100.2 => UP\n"),
            "{states}"
        );
    });
}

/// `while_out` looks at the dns node while the operator has taken the first VIP out.
fn names_follow_the_vips(dns: &str, while_out: fn(&Lab)) {
    let flavour = format!("dns={dns}");
    let sets = [&SIZES[..], &[flavour.as_str()]].concat();
    let Some((mut lab, _)) = Lab::up(&format!("dns by {dns}"), &sets) else { return };
    lab.step("checks are quicker", |lab| {
        lab.rewrite(
            "dns",
            "interval: 5s, timeout: 2s, rise: 1, fall: 5",
            "interval: 1s, timeout: 500ms, rise: 1, fall: 2",
        );
        lab.reload("dns");
    });
    lab.step("names stand for VIPs", |lab| {
        for (name, wanted) in [("www", vec![1, 2, 3, 4]), ("www1", vec![1, 2]), ("www2", vec![3, 4])] {
            answered(lab, name, &wanted);
        }
        let answer = lab.sh("users", "curl -sf -m 5 http://www.example.org/");
        assert!(answer.starts_with('s'), "{answer}");
    });
    lab.step("what the operator takes out leaves the answers", |lab| {
        let start = Instant::now();
        lab.sh("dns", "sed -i '/^198.51.100.1 /s/UP/DOWN/' /etc/lb/ext");
        answered(lab, "www1", &[2]);
        figure(&format!("{dns}: an order in a file is in the answers after"), seconds(start.elapsed()));
        answered(lab, "www", &[2, 3, 4]);
        answered(lab, "www2", &[3, 4]);
        while_out(lab);
        lab.sh("dns", "sed -i '/^198.51.100.1 /s/DOWN/UP/' /etc/lb/ext");
        answered(lab, "www1", &[1, 2]);
    });
    lab.step("a VIP that no director announces leaves the answers", |lab| {
        let service = "  - {vip: \"198.51.100.4\", port: 80, protocol: tcp, pool: web, quorum: 1}\n";
        let start = Instant::now();
        for node in lab.nodes("lb4-") {
            lab.rewrite(&node, service, "");
            lab.reload(&node);
        }
        answered(lab, "www2", &[3]);
        figure(
            &format!("{dns}: a VIP that is withdrawn has left the answers after"),
            seconds(start.elapsed()),
        );
        answered(lab, "www", &[1, 2, 3]);
        for node in lab.nodes("lb4-") {
            lab.rewrite(&node, "services:\n", &format!("services:\n{service}"));
            lab.reload(&node);
        }
        answered(lab, "www2", &[3, 4]);
    });
    lab.finish();
}

/// Waits until users resolve the name to the VIPs of these numbers; those of IPv6 are never touched.
#[track_caller]
fn answered(lab: &Lab, name: &str, numbers: &[usize]) {
    let family = |v4: bool| vips().into_iter().filter(move |vip| vip.is_ipv4() == v4).collect::<Vec<_>>();
    let wanted: BTreeSet<IpAddr> = numbers.iter().map(|number| family(true)[number - 1]).collect();
    let all: &[usize] = match name {
        "www1" => &[1, 2],
        "www2" => &[3, 4],
        _ => &[1, 2, 3, 4],
    };
    let wanted6: BTreeSet<IpAddr> = all.iter().map(|number| family(false)[number - 1]).collect();
    let ask = |kind: &str| -> BTreeSet<IpAddr> {
        let name = format!("{name}.example.org");
        let told =
            look::inside(lab, "users", &["dig", "@192.0.2.3", "+short", "+time=1", "+tries=1", &name, kind]);
        told.lines().filter_map(|line| line.parse().ok()).collect()
    };
    wait_until(&format!("{name} has {numbers:?}"), PATIENCE, || {
        let [found, found6] = ["A", "AAAA"].map(ask);
        check(found == wanted && found6 == wanted6, format!("{found:?} {found6:?}"))
    });
}
