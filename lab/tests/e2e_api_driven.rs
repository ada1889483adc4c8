//! Global load balancing as configs/dns/powerdns.yaml has it: PowerDNS servers at three sites that share a database and an address,
//! an agent beside each of them, and a majority of the agents that decides what works.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::programs::{Program, has};
use common::wires::{Machine, can_run, wire};
use common::{PATIENCE, check, text, wait_until};
use lb_test_support::stays;
use serde_json::Value;

/// Of all three PowerDNS servers.
const SHARED: &str = "192.0.2.53";
/// At another site each.
const WEB: [&str; 2] = ["10.9.1.1", "10.9.2.1"];
/// Of the checks, beside which an answer may take 300 ms.
const INTERVAL: Duration = Duration::from_millis(500);
/// Where the router is in the network of all sites.
const ROUTER: u8 = 100;
const ZONE: &str = "$ORIGIN example.org.
@ 300 SOA ns1.example.net. hostmaster 1 3600 600 86400 30
@ 300 NS ns1.example.net.
www 300 TXT \"not the agents'\"
";

/// An agent as in the example, with the places of this test.
fn agent(number: u8, folder: &Path) -> String {
    let nodes = [1, 2, 3].map(|number| format!("\"http://10.1.0.{number}:7400\"")).join(", ");
    let folder = folder.display();
    format!(
        "peers: {{listen: \"10.1.0.{number}:7400\", allow: [10.1.0.0/24]}}
bgp: {{driver: bird, bird: {{include: {folder}/lb.conf, control: {folder}/bird.ctl}}}}
dns:
  state: FOLDER/dns.json
  checks: {{web: {{type: tcp, port: 80, interval: 500ms, timeout: 500ms, rise: 1, fall: 1}}}}
  zones: {{example.org: {{ns: [ns1.example.net.], names: {{www: {{ttl: 1, checks: web, members: [{}]}}}}}}}}
  sinks: {{powerdns: {{type: powerdns, urls: [\"http://127.0.0.1:8081\"], secret_file: {folder}/key}}}}
  observers: {{nodes: [{nodes}]}}
  anycast: [{SHARED}]
",
        WEB.join(", ")
    )
}

/// A PowerDNS on the database that all have.
fn powerdns(machine: &Machine, number: u8, folder: &Path, database: &Path) -> Program {
    let (at, database) = (folder.display(), database.display());
    let text = format!(
        "launch=gsqlite3\ngsqlite3-database={database}\napi=yes\napi-key=secret\nwebserver=yes\nwebserver-address=127.0.0.1
webserver-port=8081\nwebserver-allow-from=127.0.0.0/8\nlocal-address=10.1.0.{number},{SHARED}\nlocal-port=53\nsocket-dir={at}
guardian=no\ndaemon=no\ncache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nsecurity-poll-suffix=\n"
    );
    fs::write(folder.join("pdns.conf"), text).expect("a configuration");
    fs::write(folder.join("key"), "secret").expect("a key");
    Program::start(machine, &format!("exec pdns_server --config-dir={at}"))
}

/// What the client is told at the shared address.
fn asked(client: &Machine, kind: &str) -> Result<Vec<String>, String> {
    let dig = || {
        let at = format!("@{SHARED}");
        Command::new("dig").args([&at, "+short", "+time=1", "+tries=1", "www.example.org", kind]).output()
    };
    let output = client.inside(dig).map_err(|error| error.to_string())?;
    let told = text(&output.stdout);
    if !output.status.success() {
        return Err(told);
    }
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn is(client: &Machine, wanted: &[&str]) -> Result<(), String> {
    let told = asked(client, "A")?;
    check(told == wanted, format!("{told:?} instead of {wanted:?}"))
}

/// How many observers an agent hears, itself too.
fn heard(machine: &Machine) -> Result<usize, String> {
    let told = machine.lb(&["dns", "status", "--format", "json"])?;
    let status: Value = serde_json::from_str(&told).map_err(|error| format!("{error}: {told}"))?;
    let all = status["observers"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter(|observer| observer["heard"] == true).count())
}

#[test]
#[ignore = "needs root"]
fn records_of_an_api_follow_what_a_majority_sees_and_the_servers_share_an_address() {
    let test = "records_of_an_api_follow_what_a_majority_sees_and_the_servers_share_an_address";
    if !can_run(test) || !has(test, &["bird", "pdns_server", "sqlite3", "dig"]) {
        return;
    }
    let switch = Machine::new("switch");
    switch.sh("ip link add br0 type bridge; ip link set br0 up");
    let plug = |machine: &Machine, port: &str| {
        wire((&switch, port), (machine, "eth0"), 1500);
        switch.sh(&format!("ip link set {port} master br0"));
    };
    let (router, client) = (Machine::new("router"), Machine::new("client"));
    plug(&router, "router");
    router.address("eth0", 1, ROUTER);
    wire((&router, "eth1"), (&client, "eth0"), 1500);
    router.address("eth1", 2, 1);
    client.address("eth0", 2, 2);
    client.route(None, 2, 1);
    let webs = [Machine::new("web1"), Machine::new("web2")];
    for ((web, (port, last)), address) in webs.iter().zip([("web1", 101), ("web2", 102)]).zip(WEB) {
        plug(web, port);
        web.address("eth0", 1, last);
        web.serve(&[address.parse().expect("an address")], &[80]);
    }
    let shared = tempfile::tempdir().expect("a folder");
    let database = shared.path().join("db");
    fs::write(shared.path().join("zone"), ZONE).expect("a zone");
    router.sh(&format!(
        "cd {}; echo launch=gsqlite3 >pdns.conf; echo gsqlite3-database=$PWD/db >>pdns.conf
         sqlite3 db </usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql; sqlite3 db 'pragma journal_mode=wal'
         pdnsutil --config-dir=. load-zone example.org zone",
        shared.path().display()
    ));

    let at_router = tempfile::tempdir().expect("a folder");
    let _bird = Program::bird(&router, at_router.path(), ROUTER, &[1, 2, 3]);
    let mut sites = Vec::new();
    for (name, number) in ["ns-a", "ns-b", "ns-c"].into_iter().zip(1u8..) {
        let machine = Machine::new(name);
        plug(&machine, name);
        machine.address("eth0", 1, number);
        machine.sh(&format!(
            "ip address add {SHARED}/32 dev lo; ip route add default via 10.1.0.{ROUTER}
             ip route add {} via 10.1.0.101; ip route add {} via 10.1.0.102",
            WEB[0], WEB[1]
        ));
        let folder = tempfile::tempdir().expect("a folder");
        let server = powerdns(&machine, number, folder.path(), &database);
        let bird = Program::bird(&machine, folder.path(), number, &[ROUTER]);
        sites.push((machine, folder, server, bird));
    }
    for ((machine, folder, ..), number) in sites.iter_mut().zip(1..) {
        machine.start(&agent(number, folder.path()));
    }
    let [(a, _, server_a, _), (b, ..), (c, ..)] = &sites[..] else { unreachable!() };
    wait_until("the client is told of both", PATIENCE, || is(&client, &WEB));
    wait_until("all hear each other", PATIENCE, || {
        let heard: Vec<usize> = [a, b, c].into_iter().map(heard).collect::<Result<_, _>>()?;
        check(heard == [3; 3], format!("{heard:?}"))
    });

    // One site reaches its PowerDNS and the router alone, and sees everything fail.
    c.sh(&format!(
        "nft add table inet t; nft 'add chain inet t out {{ type filter hook output priority 0; }}'
         nft add rule inet t out ip daddr {{ 10.9.0.0/16, 10.1.0.1, 10.1.0.2 }} drop
         nft add rule inet t out ip daddr 10.1.0.{ROUTER} accept"
    ));
    wait_until("it hears nobody", PATIENCE, || {
        let heard = heard(c)?;
        check(heard == 1, heard)
    });
    stays("what nobody withdraws", 6 * INTERVAL, || is(&client, &WEB));

    // One of the servers fails in truth: the other two agree.
    webs[0].sh("ip link set eth0 down");
    let failed = Instant::now();
    wait_until("the client is told of the other", PATIENCE, || is(&client, &WEB[1..]));
    println!(
        "figure: a server that failed had left what three PowerDNS with one database answer after {:.1?} (checked every \
         {INTERVAL:?}, by two of three observers)",
        failed.elapsed()
    );
    assert_eq!(asked(&client, "TXT"), Ok(vec!["\"not the agents'\"".to_owned()]));

    // A PowerDNS that hangs loses the address that it shares.
    let routed = || router.sh(&format!("ip -4 route show {SHARED}"));
    assert!(routed().contains("via 10.1.0.1 "), "{}", routed());
    server_a.hang(true);
    let hung = Instant::now();
    wait_until("another one answers", PATIENCE, || {
        is(&client, &WEB[1..])?;
        check(!routed().contains("via 10.1.0.1 "), routed())
    });
    println!("figure: another PowerDNS answered at the shared address {:.1?} after one hung", hung.elapsed());

    // Everything returns.
    server_a.hang(false);
    wait_until("it answers again", PATIENCE, || check(routed().contains("via 10.1.0.1 "), routed()));
    webs[0].sh("ip link set eth0 up");
    c.sh("nft delete table inet t");
    wait_until("both work again", PATIENCE, || is(&client, &WEB));
}
