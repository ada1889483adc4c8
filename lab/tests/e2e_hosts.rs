//! L7 hosts and servers that fail or are taken out, checks through the tunnel, refused senders, refused configurations.

mod common;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::load::{self, Load, Users};
use common::{Lab, PATIENCE, SMALL, check, figure, look, seconds, text, wait_until};
use lab::namespace;
use lab::topology::vips;

#[test]
#[ignore = "needs root"]
fn hosts_come_and_go_under_load() {
    // Pools in the directors' own configuration: this is about what a single agent does with it.
    let sets = [&SMALL[..], &["bgp=bird", "manifest=false"]].concat();
    let Some((mut lab, _)) = Lab::up("hosts", &sets) else { return };
    lab.step("outer headers carry generation and hop", outer_headers_carry_generation_and_hop);
    lab.step("HAProxy killed and started again", haproxy_killed_and_started);
    lab.step("agent-check drain on a server", server_drained);
    lab.step("agent-check down on a host, below quorum", host_down_below_quorum);
    lab.step("checks through the tunnel", checks_through_the_tunnel);
    lab.step("tunnels from users are refused", tunnels_from_users_are_refused);
    lab.step("a refused configuration changes nothing", refused_configuration_changes_nothing);
    lab.finish();
}

/// On the wire to a host: identification or flow label is the generation that directors report, and hop 0.
fn outer_headers_carry_generation_and_hop(lab: &Lab) {
    let generation = lab.agent("lb4-1")["services"][0]["generation"].as_u64().expect("a generation");
    let filter = "ip proto 4 or ip6 proto 41";
    let frames = look::capture(lab, "lb7-1.0", filter, 60, || {
        load::requests(lab, 200).assert_flawless();
    });
    assert_eq!(frames.len(), 60);
    let directors: Vec<_> = lab.nodes("lb4-").iter().flat_map(|node| look::addresses(lab, node)).collect();
    let mut seen = [0, 0];
    for frame in &frames {
        let (source, label): (IpAddr, u64) = match frame[12..14] {
            [0x08, 0x00] => {
                assert_eq!(frame[20] & 0xe0, 0x40, "only DF: {frame:x?}");
                let source: [u8; 4] = frame[26..30].try_into().expect("four bytes");
                (source.into(), u16::from_be_bytes([frame[18], frame[19]]).into())
            }
            _ => {
                let source: [u8; 16] = frame[22..38].try_into().expect("sixteen bytes");
                (source.into(), u32::from_be_bytes([0, frame[15] & 15, frame[16], frame[17]]).into())
            }
        };
        seen[usize::from(source.is_ipv6())] += 1;
        assert!(directors.contains(&source), "{source}");
        let bits = if source.is_ipv4() { 0xfff } else { 0xffff };
        assert_eq!((label >> 4, label & 15), (generation & bits, 0), "generation and hop: {frame:x?}");
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    figure("encapsulated packets captured on the wire, IPv4 and IPv6", format!("{seen:?}"));
}

/// Waits until a director has that many healthy hosts of its first service; how long that took.
fn healthy(lab: &Lab, director: &str, wanted: u64) -> Duration {
    wait_until("the health checks follow", PATIENCE, || {
        let status = lab.try_agent(director)?;
        check(status["services"][0]["healthy"] == wanted, format!("{director}: {}", status["hosts"]))
    })
}

fn on_all_directors_healthy(lab: &Lab, wanted: u64) {
    for director in lab.nodes("lb4-") {
        healthy(lab, &director, wanted);
    }
}

fn haproxy_killed_and_started(lab: &Lab) {
    let load = Load::start(lab, Users { patience: Duration::from_millis(700), ..Users::default() });
    let event = Instant::now();
    lab.kill("lb7-1", "haproxy");
    on_all_directors_healthy(lab, 3);
    figure("HAProxy killed: out on all directors after", seconds(event.elapsed()));
    load.answered(200);
    let report = load.stop();
    figure("HAProxy killed: requests succeed again after", seconds(report.outage(event)));
    figure("HAProxy killed: requests", report.summary());
    assert!(report.outage(event) < Duration::from_secs(12));
    let status = lab.agent("lb4-1");
    let host = &status["hosts"][0];
    assert_eq!((&host["name"], &host["healthy"]), (&"lb7-1".into(), &false.into()));
    assert!(host["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{host}");
    let without = load::requests(lab, 200);
    without.assert_flawless();
    assert!(!without.l7_hosts.contains("lb7-1"));
    let event = Instant::now();
    lab.start("lb7-1", "haproxy");
    on_all_directors_healthy(lab, 4);
    figure("HAProxy started: in on all directors after", seconds(event.elapsed()));
    let with = load::requests(lab, 300);
    with.assert_flawless();
    assert!(with.l7_hosts.contains("lb7-1"), "{:?}", with.l7_hosts);
}

fn server_drained(lab: &Lab) {
    assert!(load::requests(lab, 100).servers.contains("s1"));
    let load = Load::start(lab, Users::default());
    lab.sh("s1", "echo drain > /etc/lb/agent-check");
    assert_eq!(lab.agent("s1")["agent_check"]["answer"], "drain");
    let took = on_all_hosts(lab, "s1,DRAIN");
    figure("drain on a server: drained on all hosts after", seconds(took));
    let report = load.stop();
    report.assert_flawless();
    let without = load::requests(lab, 200);
    without.assert_flawless();
    assert!(!without.servers.contains("s1"), "{:?}", without.servers);
    // HAProxy leaves drain by `ready` only; `up` is about failures.
    lab.sh("s1", "echo ready > /etc/lb/agent-check");
    let event = Instant::now();
    on_all_hosts(lab, "s1,UP");
    figure("ready on a server: up on all hosts after", seconds(event.elapsed()));
    lab.sh("s1", "rm /etc/lb/agent-check");
    assert!(load::requests(lab, 100).servers.contains("s1"));
}

/// Waits until HAProxy on every host has the server in that state; how long that took.
fn on_all_hosts(lab: &Lab, wanted: &str) -> Duration {
    wait_until("all hosts know the server's state", PATIENCE, || {
        for host in lab.nodes("lb7-") {
            let servers = server_states(lab, &host);
            check(servers.contains(wanted), format!("{host}: {servers}"))?;
        }
        Ok(())
    })
}

/// `NAME,STATE` of each server, as HAProxy on `host` has it, a line for each.
fn server_states(lab: &Lab, host: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect("/run/haproxy/admin.sock")?;
        stream.write_all(b"show stat -1 4 -1\n")?;
        let mut table = String::new();
        stream.read_to_string(&mut table)?;
        Ok(table)
    };
    let table = namespace::enter(&lab.paths, host, ask).expect("entering").expect("HAProxy answers");
    let lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    lines.filter(|fields| fields.len() > 17).map(|fields| format!("{},{}\n", fields[1], fields[17])).collect()
}

/// With a quorum of all four hosts, one that says `down` to its HAProxy makes one director withdraw.
fn host_down_below_quorum(lab: &Lab) {
    let original = lab.config("lb4-1");
    lab.rewrite("lb4-1", "quorum: 1", "quorum: 4");
    assert_eq!(lab.reload("lb4-1"), "reloaded: changed services\n");
    let via = |wanted: usize| {
        let addresses = look::addresses(lab, "lb4-1");
        wait_until("both routers follow", PATIENCE, || {
            for router in ["r1", "r2"] {
                let found = look::vips_via(lab, router, &addresses);
                check(found == wanted, format!("{router} has {found} VIPs via lb4-1"))?;
            }
            Ok(())
        })
    };
    via(8);
    let load = Load::start(lab, Users::default());
    let event = Instant::now();
    lab.sh("lb7-2", "echo down > /etc/lb/agent-check");
    assert_eq!(lab.agent("lb7-2")["agent_check"]["answer"], "down");
    wait_until("the monitor fails", PATIENCE, || {
        let address = look::addresses(lab, "lb7-2")[0];
        let answer = lab.sh("users", &format!("curl -si -m 2 http://{address}/healthcheck || true"));
        check(answer.contains(" 503 "), answer)
    });
    healthy(lab, "lb4-1", 3);
    via(0);
    figure("agent-check down on a host: below quorum, VIPs withdrawn after", seconds(event.elapsed()));
    let status = lab.agent("lb4-1");
    let service = &status["services"][0];
    assert_eq!((&service["announced"], &service["healthy"]), (&false.into(), &3.into()), "{service}");
    assert_eq!(service["reason"], "3 of 4 hosts work, 4 needed");
    assert!(lab.agent("lb4-2")["services"][0]["announced"] == true, "its quorum is 1");
    load.answered(200);
    let report = load.stop();
    // Connections that are open while rows move to another host break: without a manifest there is no second chance.
    figure("agent-check down on a host: requests", report.summary());
    assert!(report.failures.len() as u64 * 50 < report.total(), "{:#?}", report.failures);
    lab.sh("lb7-2", "rm /etc/lb/agent-check");
    via(8);
    lab.write_config("lb4-1", &original);
    lab.reload("lb4-1");
}

/// A host that refuses one director's tunnel answers its address all the same: only a check through the tunnel sees it.
fn checks_through_the_tunnel(lab: &Lab) {
    let (director, host) = ("lb4-2", "lb7-3");
    let original = (lab.config(director), lab.config(host));
    lab.rewrite(director, "path: /healthcheck,", "path: /healthcheck, through: tunnel,");
    assert_eq!(lab.reload(director), "reloaded: changed pools\n");
    wait_until("probes go through the tunnel", PATIENCE, || {
        let status = lab.try_agent(director)?;
        let sent = &status["counters"]["director"]["probe_sent"];
        // Eight VIPs, four hosts, a SYN, an ACK, a request and a FIN each.
        // Several rounds: a host that is not reached has failed by then.
        check(sent.as_u64().unwrap_or(0) > 4 * 8 * 4 * 4, format!("probe_sent {sent}, {}", status["hosts"]))
    });
    let status = lab.agent(director);
    assert_eq!((&status["services"][0]["healthy"], &status["ready"]), (&4.into(), &true.into()), "{status}");
    load::requests(lab, 100).assert_flawless();

    let others = lab.nodes("lb4-").into_iter().filter(|other| other != director);
    let others: Vec<String> = others
        .flat_map(|other| look::addresses(lab, &other))
        .map(|address| format!("\"{address}\""))
        .collect();
    let senders = "[\"192.0.2.128/25\", \"2001:db8::c000:280/121\"]";
    lab.rewrite(host, senders, &format!("[{}]", others.join(", ")));
    let event = Instant::now();
    assert_eq!(lab.reload(host), "reloaded: changed host\n");
    healthy(lab, director, 3);
    figure("tunnel refused: out on the director that checks it after", seconds(event.elapsed()));
    let status = lab.agent(director);
    let hosts = status["hosts"].as_array().expect("hosts");
    let refused = hosts.iter().find(|found| found["name"] == host).expect("the host");
    assert_eq!(refused["healthy"], false);
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("198.51.100.")), "{refused}");
    assert_eq!(lab.agent("lb4-1")["services"][0]["healthy"], 4, "others check the address, and are accepted");
    assert!(lab.counter(host, "host", "sender_refused") > 0);
    load::requests(lab, 200).assert_flawless();
    lab.write_config(host, &original.1);
    lab.reload(host);
    healthy(lab, director, 4);
    lab.write_config(director, &original.0);
    lab.reload(director);
}

fn tunnels_from_users_are_refused(lab: &Lab) {
    let [host4, host6] = look::addresses(lab, "lb7-1");
    let users = ["203.0.113.9".parse().expect("address"), "2001:db8::cb00:7109".parse().expect("address")];
    for (family, host) in [host4, host6].into_iter().enumerate() {
        let counters = || ["sender_refused", "local"].map(|name| lab.counter("lb7-1", "host", name));
        let before = counters();
        look::send_encapsulated(lab, users[family], host, vips()[family * 4], 20);
        wait_until("they are refused", PATIENCE, || {
            let refused = counters()[0] - before[0];
            check(refused == 20, format!("{refused} of 20 refused"))
        });
        figure(&format!("encapsulated packets from a user to {host}: refused"), counters()[0] - before[0]);
    }
}

/// Each mistake has one line with its place, whoever reads it, and requests go on.
fn refused_configuration_changes_nothing(lab: &Lab) {
    let good = lab.config("lb4-1");
    let line_of =
        |needle: &str| 1 + good.lines().position(|line| line.contains(needle)).expect("in the file");
    let vip = "  - {vip: \"198.51.100.1\", port: 80, protocol: tcp, pool: web, quorum: 1}\n";
    let hosts: String =
        good.lines().filter(|l| l.starts_with("      lb7-")).map(|l| format!("{l}\n")).collect();
    let cases = [
        ("unknown key", good.replace("  xdp: auto", "  xpd: auto"), line_of("  xdp: auto"), "unknown key"),
        ("wrong address", good.replacen("192.0.2.13", "192.0.2.1333", 1), line_of("192.0.2.13"), "1333"),
        (
            "two services on one VIP and port",
            good.replacen(vip, &format!("{vip}{vip}"), 1),
            line_of("vip: \"198.51.100.1\"") + 1,
            "is a service already",
        ),
        (
            "pool without hosts",
            good.replace(&format!("    hosts:\n{hosts}"), "    hosts: {}\n"),
            line_of("    hosts:"),
            "a pool without hosts",
        ),
    ];
    let load = Load::start(lab, Users::default());
    let before = lab.agent("lb4-1");
    for (what, bad, line, part) in cases {
        assert_ne!(bad, good, "{what}");
        lab.write_config("lb4-1", &bad);
        for command in [&["lb", "check"][..], &["lb", "reload"]] {
            let output = lab.exec("lb4-1", command);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{what}: {said}");
            assert_eq!(said.lines().count(), 1, "{what}: {said}");
            assert!(said.starts_with(&format!("lb: /etc/lb/lb.yaml:{line}:")), "{what}, line {line}: {said}");
            assert!(said.contains(part), "{what}: {said}");
            println!("{what}: {}", said.trim());
        }
    }
    // A reload is answered a moment before the status counts it.
    wait_until("four reloads have failed", PATIENCE, || {
        let failed = lab.agent("lb4-1")["reload"]["failed"].clone();
        check(failed == 4, failed)
    });
    let after = lab.agent("lb4-1");
    assert_eq!((&before["services"], &before["hosts"]), (&after["services"], &after["hosts"]));
    assert_eq!(after["ready"], true, "{after}");
    load.answered(100);
    lab.write_config("lb4-1", &good);
    assert_eq!(lab.reload("lb4-1"), "reloaded: nothing changed\n");
    let report = load.stop();
    figure("four refused configurations: requests", report.summary());
    report.assert_flawless();
}
