//! The reference lab in full size: requests, names, routes, the way back, and that nothing is left.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use common::load::{self, Report};
use common::{Lab, PATIENCE, check, figure, look, text, wait_until};
use lab::topology::vips;

/// How many requests go over counters.
const REQUESTS: u64 = 400;

#[test]
#[ignore = "needs root"]
fn reference_lab_serves_requests_and_leaves_nothing() {
    let Some((mut lab, summary)) = Lab::up("reference", &[]) else { return };
    let milliseconds = |key: &str| summary[key].as_u64().unwrap_or_else(|| panic!("no {key}: {summary}"));
    figure(
        "lab up, 37 nodes, to the first answered request (bound 10 s)",
        seconds(milliseconds("first_answer_ms")),
    );
    figure("lab up, 37 nodes, until all are ready", seconds(milliseconds("ready_ms")));
    assert!(milliseconds("first_answer_ms") < 30_000, "three times the bound");
    lab.step("37 nodes, all ready", all_nodes_are_ready);
    lab.step("all VIPs are answered, by several servers and hosts", every_vip_is_answered);
    lab.step("names stand for the VIPs", names_stand_for_vips);
    lab.step("the server sees the user", servers_see_users);
    lab.step("directors hold the same tables", directors_agree);
    lab.step("routers spread VIPs over all directors, by BGP", routers_spread_over_directors);
    lab.step("hosts learn the way back by BGP", hosts_learn_the_way_back);
    lab.step("the way back crosses no director", the_way_back_crosses_no_director);
    lab.step("a second lab up", second_up_says_what_differs);
    lab.step("lab exec", exec_is_inside);
    lab.step("lab down leaves nothing", down_leaves_nothing_after_settling);
    lab.finish();
}

fn seconds(milliseconds: u64) -> String {
    common::seconds(Duration::from_millis(milliseconds))
}

/// A node may miss a single look, when two busy cores answer a request too late: then it must be back in the next ones.
fn all_nodes_are_ready(lab: &Lab) {
    let mut status = serde_json::Value::Null;
    wait_until("all nodes are ready", PATIENCE, || {
        let output = lab.run(&["status", "--format", "json"]);
        status = serde_json::from_slice(&output.stdout).expect("status is JSON");
        let nodes = status["nodes"].as_array().expect("nodes");
        let unready: Vec<String> = nodes
            .iter()
            .filter(|node| node["ready"] != true)
            .map(|node| node["reasons"].to_string())
            .collect();
        check(status["ready"] == true, unready.join("; "))
            .inspect_err(|error| println!("not ready at once: {error}"))
    });
    let nodes = status["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 37);
    for node in nodes {
        assert_eq!((&node["ready"], &node["reasons"]), (&true.into(), &serde_json::json!([])), "{node}");
        let processes = node["processes"].as_array().expect("processes");
        assert!(processes.iter().all(|process| process["running"] == true), "{node}");
    }
}

fn every_vip_is_answered(lab: &Lab) {
    let report = load::requests(lab, REQUESTS);
    report.assert_flawless();
    assert_eq!(report.by_vip.keys().copied().collect::<BTreeSet<_>>(), vips().into_iter().collect());
    assert_eq!(report.servers.len(), 10, "{:?}", report.servers);
    assert!(report.l7_hosts.len() > 10, "{:?}", report.l7_hosts);
    figure("requests to eight VIPs", report.summary());
}

fn names_stand_for_vips(lab: &Lab) {
    for (name, numbers) in [("www", 1..=4), ("www1", 1..=2), ("www2", 3..=4)] {
        for (kind, is_four) in [("A", true), ("AAAA", false)] {
            let output = lab.sh("users", &format!("dig +short +time=2 {name}.example.org {kind}"));
            let answers: BTreeSet<IpAddr> = output.lines().map(|line| line.parse().expect(line)).collect();
            let family: Vec<IpAddr> = vips().into_iter().filter(|vip| vip.is_ipv4() == is_four).collect();
            let wanted = numbers.clone().map(|number: usize| family[number - 1]).collect();
            assert_eq!(answers, wanted, "{name} {kind}");
        }
    }
}

fn servers_see_users(lab: &Lab) {
    for (user, url) in
        [("203.0.113.184", "http://198.51.100.2/"), ("2001:db8::cb00:71b8", "http://[2001:db8::c633:6402]/")]
    {
        let answer = lab.sh("users", &format!("curl -sgi -m 5 --interface {user} '{url}'")).to_lowercase();
        assert!(answer.contains(&format!("x-client: {user}\r\n")), "{answer}");
        assert!(answer.contains("x-server: s") && answer.contains("x-l7: lb7-"), "{answer}");
    }
}

fn directors_agree(lab: &Lab) {
    let digests: BTreeSet<String> = lab
        .nodes("lb4-")
        .iter()
        .flat_map(|node| {
            let status = lab.agent(node);
            let services = status["services"].as_array().expect("services").clone();
            services.into_iter().map(|service| service["digest"].as_str().expect("a digest").to_owned())
        })
        .collect();
    assert_eq!(digests.len(), 1, "{digests:?}");
    figure("table digest on all directors", digests.first().expect("one"));
}

/// Both kinds of sidecar announce to the GoBGP reflectors, which pass all paths on; BIRD merges them.
fn routers_spread_over_directors(lab: &Lab) {
    let driver = |node: &String| lab.agent(node)["bgp"]["driver"].as_str().expect("a driver").to_owned();
    let drivers: BTreeSet<String> = lab.nodes("lb4-").iter().map(driver).collect();
    assert_eq!(drivers, BTreeSet::from(["bird".to_owned(), "gobgp".to_owned()]));
    for router in ["r1", "r2"] {
        wait_until("a route per VIP with all directors", PATIENCE, || {
            let routes = look::vip_routes(lab, router);
            for vip in vips() {
                let family = usize::from(vip.is_ipv6());
                let wanted: BTreeSet<IpAddr> =
                    lab.nodes("lb4-").iter().map(|node| look::addresses(lab, node)[family]).collect();
                let hops: BTreeSet<IpAddr> = routes.get(&vip).into_iter().flatten().copied().collect();
                check(hops == wanted, format!("{router}: {vip}: {hops:?}"))?;
            }
            Ok(())
        });
        let route = lab.sh(router, "ip route show 198.51.100.1");
        assert!(route.contains("proto bird"), "{route}");
        let bird = lab.sh(router, "birdc -s /run/bird/bird.ctl show route 198.51.100.1/32");
        assert!(bird.contains("BGP") || bird.contains("[rr1_4"), "{bird}");
    }
}

fn hosts_learn_the_way_back(lab: &Lab) {
    for host in lab.nodes("lb7-") {
        for (family, users) in [("-4", "203.0.113.0/24"), ("-6", "2001:db8::cb00:7100/120")] {
            let route = look::inside(lab, &host, &["ip", family, "route", "show", users]);
            assert!(route.contains("proto bird"), "{host}: {route}");
            assert_eq!(route.matches("via ").count(), 2, "{host}: both routers: {route}");
        }
        let table = look::inside(lab, &host, &["sh", "-c", "ip -4 route; ip -6 route"]);
        assert!(!table.contains("proto static"), "{host}: {table}");
        assert!(!table.lines().any(|line| line.starts_with("default")), "{host}: {table}");
    }
}

/// Packets from VIPs are counted where they arrive: at each director, and at the routers by who sent them.
fn the_way_back_crosses_no_director(lab: &Lab) {
    let directors = lab.nodes("lb4-");
    for node in directors.iter().map(String::as_str).chain(["r1", "r2"]) {
        look::count_vip_sources(lab, node);
    }
    let forwarded = || directors.iter().map(|node| lab.counter(node, "director", "forwarded")).sum::<u64>();
    let before = forwarded();
    let report = load::requests(lab, REQUESTS);
    report.assert_flawless();
    let way_there = forwarded() - before;
    let sum =
        |nodes: &[String], name: &str| nodes.iter().map(|node| look::counted(lab, node, name)).sum::<u64>();
    let routers = ["r1".to_owned(), "r2".to_owned()];
    let (at_directors, at_routers) = (sum(&directors, "all_of_them"), sum(&routers, "hosts"));
    figure(
        &format!("{} requests: packets forwarded by directors", report.total()),
        format!(
            "{way_there}; packets from VIPs received by directors: {at_directors}; by routers from L7 hosts: \
             {at_routers}, from directors: {}",
            sum(&routers, "directors")
        ),
    );
    // A request and its answer are at least SYN, ACK, GET, FIN there and SYN-ACK, answer, FIN back.
    assert!(way_there >= 4 * report.total(), "{way_there}");
    assert!(at_routers >= 3 * report.total(), "{at_routers}");
    assert_eq!((at_directors, sum(&routers, "directors")), (0, 0));
    control(lab, &report);
}

/// An answer that is sent to a director on purpose is seen by these counters.
fn control(lab: &Lab, report: &Report) {
    let director = look::addresses(lab, "lb4-1")[0];
    let foreign = lab.counter("lb4-1", "director", "not_vip");
    for host in &report.l7_hosts {
        lab.sh(host, &format!("ip route add 203.0.113.250/32 via {director}"));
    }
    lab.sh("users", "ip addr add 203.0.113.250/32 dev lo");
    // No answer comes back: a director does not route.
    lab.exec("users", &["curl", "-s", "-m", "1", "--interface", "203.0.113.250", "http://198.51.100.1/"]);
    assert!(look::counted(lab, "lb4-1", "all_of_them") > 0, "the counter would not see an answer");
    assert!(lab.counter("lb4-1", "director", "not_vip") > foreign, "nor would the program");
    lab.sh("users", "ip addr del 203.0.113.250/32 dev lo");
    for host in &report.l7_hosts {
        lab.sh(host, "ip route del 203.0.113.250/32");
    }
}

fn second_up_says_what_differs(lab: &Lab) {
    let same = lab.run(&["up"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stderr));
    let said = text(&same.stderr);
    assert!(said.starts_with(&format!("lab {} is up already, as asked for\n", lab.name)), "{said}");
    assert!(said.contains("all 37 nodes are ready"), "the second one waits as well: {said}");
    let other = lab.run(&["up", "--set", "lb4=3"]);
    assert_eq!(other.status.code(), Some(1));
    let said = text(&other.stderr);
    assert!(
        said.contains("is up already, but differs") && said.contains("lb4: 7 is running, 3 is asked for")
    );
}

fn exec_is_inside(lab: &Lab) {
    assert_eq!(lab.exec("users", &["sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(lab.exec("users", &["sh", "-c", "kill -9 $$"]).status.code(), None);
    assert_eq!(lab.sh("LB7-13", "hostname"), "lb7-13\n");
    assert!(lab.sh("lb4-7", "cat /etc/lb/lb.yaml").contains("node: lb4-7\n"));
    lab.sh("lb7-13", "touch /etc/lb/only-here");
    assert!(!lab.exec("lb7-12", &["test", "-e", "/etc/lb/only-here"]).status.success());
    assert!(!Path::new("/etc/lb/only-here").exists());
}

/// Everything that is the lab's is written down while it is up, and looked for afterwards.
fn down_leaves_nothing_after_settling(lab: &Lab) {
    let namespaces: BTreeSet<u64> = fs::read_dir(lab.paths.folder.join("ns"))
        .expect("namespaces")
        .map(|entry| fs::metadata(entry.expect("an entry").path()).expect("its inode").ino())
        .collect();
    assert_eq!(namespaces.len(), 38 * 3, "37 nodes and the switch, three kinds");
    let processes: Vec<_> = lab.state().processes.into_values().flatten().collect();
    let programs = programs(lab);
    assert!(!programs.is_empty());
    let output = lab.run(&["down"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!processes.iter().any(lab::process::Process::is_running));
    assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&lab.name), "{mounts}");
    let users = users_of(&namespaces);
    assert!(users.is_empty(), "processes in the lab's namespaces: {users:?}");
    // The kernel takes a network namespace apart after its last user has gone, and with it links and programs.
    let took = wait_until("programs are gone", PATIENCE, || {
        let left: Vec<_> = programs.iter().filter(|id| program_exists(id)).collect();
        check(left.is_empty(), format!("{left:?}"))
    });
    figure("lab down: BPF programs unloaded after", common::seconds(took));
}

/// Identifiers of the programs on `eth0` of directors and hosts.
fn programs(lab: &Lab) -> BTreeSet<String> {
    let nodes = [lab.nodes("lb4-"), lab.nodes("lb7-")].concat();
    let ids = nodes.iter().filter_map(|node| {
        let link = look::inside(lab, node, &["ip", "link", "show", "eth0"]);
        let id = link.split_whitespace().skip_while(|word| *word != "prog/xdp").nth(2).map(str::to_owned);
        assert!(id.is_some(), "{node}: {link}");
        id
    });
    ids.collect()
}

fn program_exists(id: &str) -> bool {
    let output = std::process::Command::new("bpftool").args(["prog", "show", "id", id]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Processes that are in one of `namespaces`.
fn users_of(namespaces: &BTreeSet<u64>) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("reading /proc").flatten();
    processes
        .map(|entry| entry.path())
        .filter(|process| {
            ["net", "mnt", "uts"].iter().any(|kind| {
                fs::metadata(process.join("ns").join(kind)).is_ok_and(|ns| namespaces.contains(&ns.ino()))
            })
        })
        .map(|process| process.display().to_string())
        .collect()
}
