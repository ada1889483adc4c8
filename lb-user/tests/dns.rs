//! The name server of a real `lb agent` on loopback, with `dig` as the client.

#[path = "dns/flood.rs"]
mod flood;
#[path = "dns/geo.rs"]
mod geo;
#[path = "dns/mmdb.rs"]
mod mmdb;
#[path = "dns/signed.rs"]
mod signed;
#[path = "dns/strangers.rs"]
mod strangers;
#[path = "dns/world.rs"]
mod world;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use lb_test_support::PATIENCE;
use serde_json::Value;

use world::{Agent, Backend, eventually, has_dig};

/// Two members behind an HTTP check that decides by one result.
const WWW: &str = "
  checks:
    web: {type: http, port: HTTP, path: /healthcheck, interval: 500ms, timeout: 500ms, rise: 1, fall: 1}
    operator: {type: extfile, file: DIR/ext}
  zones:
    example.org:
      ns: [ns1]
      records: [ns1 A 127.0.0.1, alias CNAME www, '*.w TXT \"wild\"', MANY]
      names:
        www: {checks: [web, operator], all_down: servfail, members: [127.0.0.1, 127.0.0.2]}
";

fn www() -> (Agent, Backend, Backend) {
    let first = Backend::start("127.0.0.1:0");
    let second = Backend::start(&format!("127.0.0.2:{}", first.port()));
    let many: Vec<String> = (0..100).map(|i| format!("many A 192.0.2.{i}")).collect();
    let text = WWW.replace("HTTP", &first.port().to_string()).replace("MANY", &many.join(", "));
    (Agent::start(&text), first, second)
}

#[test]
#[ignore = "needs dig"]
fn an_address_that_fails_leaves_the_answer_and_comes_back() {
    if !has_dig() {
        return;
    }
    let (agent, first, _second) = www();
    eventually("both are answered", || agent.addresses("www.example.org") == ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(agent.addresses("alias.example.org +tcp"), ["127.0.0.1", "127.0.0.2"]);
    first.says("503 Service Unavailable");
    let failed = Instant::now();
    eventually("the first has left", || agent.addresses("www.example.org") == ["127.0.0.2"]);
    println!(
        "figure: a member that fails has left the answers after {:?} (checked every 500 ms)",
        failed.elapsed()
    );
    let why = agent.lb(&["dns", "explain", "www.example.org", "--type", "A"]);
    assert!(why.contains("127.0.0.1  out: a check fails"), "{why}");
    assert!(why.contains("answered status 503, expected 200"), "{why}");
    first.says("200 OK");
    eventually("it is back", || agent.addresses("www.example.org").len() == 2);
}

#[test]
#[ignore = "needs dig"]
fn what_has_changed_and_when_is_known_over_a_crash() {
    if !has_dig() {
        return;
    }
    let (mut agent, first, _second) = www();
    eventually("both are answered", || agent.addresses("www.example.org").len() == 2);
    assert_eq!(agent.lb(&["dns", "history"]), "no change is known\n");
    first.says("503 Service Unavailable");
    eventually("the first has left", || agent.addresses("www.example.org") == ["127.0.0.2"]);
    agent.lb(&["dns", "drain", "127.0.0.2"]);
    agent.restart();
    first.says("200 OK");
    eventually("it is back", || agent.addresses("www.example.org") == ["127.0.0.1"]);
    agent.lb(&["dns", "up", "127.0.0.2", "--name", "www.example.org"]);
    agent.lb(&["dns", "up", "127.0.0.2"]);
    // The second `up` had nothing to undo, if the first one undid an order for all names.
    let history = |of: &str| {
        let told: Value =
            serde_json::from_str(&agent.lb(&["dns", "history", of, "--format", "json"])).unwrap();
        let shown = |change: &Value| {
            let [address, by, turn] = ["address", "check", "turn"].map(|key| change[key].as_str());
            format!("{} {} {}", address.unwrap(), by.unwrap_or("operator"), turn.unwrap())
        };
        told.as_array().unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    let all = history("www.example.org");
    assert_eq!(
        all,
        ["127.0.0.1 web down", "127.0.0.2 operator drain", "127.0.0.1 web up", "127.0.0.2 operator checks"]
    );
    assert_eq!(history("127.0.0.1"), ["127.0.0.1 web down", "127.0.0.1 web up"]);
    let text = agent.lb(&["dns", "history", "127.0.0.1"]);
    assert!(text.starts_with("TIME ") && text.contains("answered status 503, expected 200"), "{text}");
    let refused = agent.lb_fails(&["dns", "history", "nobody.example.org"]);
    assert!(refused.contains("nobody.example.org is no address and no name with members"), "{refused}");
}

#[test]
#[ignore = "needs dig"]
fn dig_sees_what_an_authoritative_server_says() {
    if !has_dig() {
        return;
    }
    let (agent, _first, _second) = www();
    let ask = |words: &str| agent.dig(words);
    assert!(ask("example.org SOA").contains("flags: qr aa"), "authoritative");
    assert!(ask("nobody.example.org").contains("status: NXDOMAIN"));
    assert!(
        ask("nobody.example.org").contains("example.org.\t\t60\tIN\tSOA"),
        "{}",
        ask("nobody.example.org")
    );
    assert!(ask("x.y.w.example.org TXT").contains("\"wild\""));
    assert!(ask("example.com").contains("status: REFUSED"));
    assert!(ask("example.org AXFR").contains("Transfer failed"), "{}", ask("example.org AXFR"));
    assert!(ask("www.example.org ANY +notcp").contains("\"RFC8482\""));
    assert!(ask("version.bind CH TXT").contains("status: REFUSED"));
    assert!(ask("www.example.org +opcode=notify").contains("status: NOTIMP"));
    assert!(ask("www.example.org +edns=1 +noednsnegotiation").contains("status: BADVERS"));
    assert!(ask("www.example.org +nsid").contains("(\"ns-under-test\")"));
    assert!(ask("WwW.eXample.ORG").contains("WwW.eXample.ORG."));
    let truncated = ask("many.example.org +ignore");
    assert!(truncated.contains(" tc") && truncated.contains("ANSWER: 0"), "{truncated}");
    assert!(ask("many.example.org").contains("ANSWER: 100"), "dig comes back by TCP");
    // Several questions on one connection.
    let two = ask("ns1.example.org x.w.example.org TXT +tcp +keepopen");
    assert!(two.contains("127.0.0.1") && two.contains("\"wild\""), "{two}");
}

#[test]
#[ignore = "needs dig"]
fn what_the_operator_orders_holds_over_a_crash_and_health_is_remembered() {
    if !has_dig() {
        return;
    }
    let (mut agent, _first, second) = www();
    eventually("both are answered", || agent.addresses("www.example.org").len() == 2);
    let done = agent.lb(&["dns", "drain", "127.0.0.1", "--name", "www.example.org"]);
    assert_eq!(done, "127.0.0.1 is drained at www.example.org.\n");
    assert_eq!(agent.addresses("www.example.org"), ["127.0.0.2"], "at once");
    let refused = agent.lb_fails(&["dns", "down", "192.0.2.77"]);
    assert_eq!(refused, "lb: 192.0.2.77 is no member; `lb dns status` shows all\n");
    eventually("the health is remembered", || agent.read("dns.json").contains("\"up\": true"));
    agent.restart();
    // A server that must wait for its checks would have SERVFAIL here.
    assert_eq!(agent.addresses("www.example.org"), ["127.0.0.2"], "in the first answer");
    drop(second);
    eventually("nothing else works", || agent.dig("www.example.org").contains("SERVFAIL"));
    assert_eq!(agent.lb(&["dns", "up", "127.0.0.1"]), "127.0.0.1 follows its checks at www.example.org.\n");
    assert_eq!(agent.addresses("www.example.org"), ["127.0.0.1"]);
    let status: Value = serde_json::from_str(&agent.lb(&["dns", "status", "--format", "json"])).unwrap();
    assert_eq!(status["names"][0]["members"][1]["state"], "failed", "{status:#}");
    assert!(status["counters"]["servfail"].as_u64() > Some(0));
}

#[test]
#[ignore = "needs dig"]
fn nothing_is_answered_before_the_first_checks() {
    if !has_dig() {
        return;
    }
    // Nobody answers there: the first result takes its time.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = "
  checks: {web: {type: http, port: HTTP, interval: 5s, timeout: 5s}}
  zones:
    example.org:
      ns: [ns.example.net.]
      names: {www: {checks: web, members: [127.0.0.1]}, fix: {members: [192.0.2.2]}}
";
    let text = &text.replace("HTTP", &silent.local_addr().unwrap().port().to_string());
    let agent = Agent::start(text);
    assert!(agent.dig("www.example.org").contains("status: SERVFAIL"));
    assert_eq!(agent.addresses("fix.example.org"), ["192.0.2.2"], "what has no checks waits for none");
    let agent = Agent::start(&format!("{text}  before_checks: answer\n"));
    assert_eq!(agent.addresses("www.example.org"), ["127.0.0.1"]);
}

#[test]
#[ignore = "needs dig"]
fn a_file_takes_addresses_out_and_a_wrong_one_changes_nothing() {
    if !has_dig() {
        return;
    }
    let (agent, _first, _second) = www();
    eventually("both are answered", || agent.addresses("www.example.org").len() == 2);
    agent.write("ext", "127.0.0.1 => DOWN\n");
    eventually("the first has left", || agent.addresses("www.example.org") == ["127.0.0.2"]);
    agent.write("ext", "127.0.0.1 => DOWN\n127.0.0.2 => DWN\n");
    eventually("the mistake is told", || {
        agent.lb(&["dns", "status"]).contains("ext:2:14: not a state: \"DWN\"")
    });
    assert_eq!(agent.addresses("www.example.org"), ["127.0.0.2"]);
    agent.write("ext", "");
    eventually("both are back", || agent.addresses("www.example.org").len() == 2);
}

#[test]
#[ignore = "needs dig"]
fn a_reload_changes_the_zones_as_a_whole_and_a_wrong_one_not_at_all() {
    if !has_dig() {
        return;
    }
    let agent = Agent::start("\n  zones: {example.org: {file: DIR/zone}}\n");
    assert_eq!(agent.addresses("www.example.org"), ["192.0.2.1"]);
    agent.write("zone", "$TTL 60\n@ SOA ns.x. h.x. 2 1 1 1 1\n NS ns.x.\nwww A 192.0.2.2\nwww CNAME x\n");
    let errors = agent.lb_fails(&["reload"]);
    assert!(errors.contains("zone:5:1: www.example.org. has a CNAME record and others"), "{errors}");
    assert_eq!(agent.addresses("www.example.org"), ["192.0.2.1"], "the old zone stays");
    agent.write("zone", "$TTL 60\n@ SOA ns.x. h.x. 2 1 1 1 1\n NS ns.x.\nwww A 192.0.2.2\n");
    assert_eq!(agent.lb(&["reload"]), "reloaded: changed dns\n");
    eventually("the new zone", || agent.addresses("www.example.org") == ["192.0.2.2"]);
    assert!(agent.lb(&["dns", "status"]).contains("example.org.  2"));
}

#[test]
#[ignore = "needs dig"]
fn hostile_clients_are_counted_and_honest_ones_still_served() {
    if !has_dig() {
        return;
    }
    let (agent, _first, _second) = www();
    let good =
        b"\xab\xcd\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03ns1\x07example\x03org\x00\x00\x01\x00\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut loops = good[..12].to_vec();
    loops.extend(b"\xc0\x0c\x00\x01\x00\x01");
    let mut many_questions = good.to_vec();
    many_questions[5] = 200;
    let mut is_an_answer = good.to_vec();
    is_an_answer[2] = 0x80;
    for _ in 0..100 {
        for packet in [&loops, &many_questions, &is_an_answer, &good[..7].to_vec(), &vec![0xff; 3000]] {
            socket.send_to(packet, agent.address).unwrap();
        }
    }
    assert!(agent.addresses("ns1.example.org") == ["127.0.0.1"]);
    // More connections than there may be, which say nothing or little, and one message that never ends.
    let mut slow: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(agent.address).unwrap()).collect();
    for stream in &mut slow {
        let _ = stream.write_all(&[0xff]);
    }
    assert_eq!(agent.addresses("ns1.example.org +tcp"), ["127.0.0.1"], "the idle ones made room");
    let mut junk = TcpStream::connect(agent.address).unwrap();
    junk.set_read_timeout(Some(PATIENCE)).unwrap();
    junk.write_all(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(junk.read(&mut [0; 16]).unwrap(), 0, "what is no question ends the connection");
    let counter = |name: &str| {
        let status: Value = serde_json::from_str(&agent.lb(&["dns", "status", "--format", "json"])).unwrap();
        status["counters"][name].as_u64().unwrap()
    };
    for (name, least) in
        [("formerr", 200), ("not_a_question", 200), ("too_short", 101), ("tcp_displaced", 17), ("noerror", 2)]
    {
        assert!(counter(name) >= least, "{name}: {}", counter(name));
    }
    let idle = || counter("tcp_idle") >= 1;
    eventually("the slow ones are ended", idle);
    assert!(agent.metrics().contains("lb_dns_formerr_total 200\n"));
}

/// Poor man's traffic manager: each balancer answers for itself, and one that is taken out sends resolvers to the other.
#[test]
#[ignore = "needs dig"]
fn balancers_that_answer_with_themselves_are_a_traffic_manager() {
    if !has_dig() {
        return;
    }
    let text = include_str!("../../configs/dns/traffic-manager.yaml");
    let zones = &text[text.find("  zones:").unwrap()..];
    let [first, second] =
        ["192.0.2.1", "192.0.2.2"].map(|own| Agent::start(&format!("\n{}", zones.replace("192.0.2.1", own))));
    for (balancer, own) in [(&first, "192.0.2.1"), (&second, "192.0.2.2")] {
        for name in ["api.example.com", "any.thing.api.example.com"] {
            assert_eq!(balancer.addresses(name), [own]);
        }
        assert!(balancer.dig("api.example.com NS").contains("lb2.example.com."));
    }
    let parent = first.lb(&["dns", "delegation", "api.example.com", "--config", &first.config()]);
    assert_eq!(
        parent,
        "api.example.com. 3600 IN NS lb1.example.com.\napi.example.com. 3600 IN NS lb2.example.com.\n"
    );
    first.lb(&["dns", "down", "192.0.2.1"]);
    for name in ["api.example.com", "x.api.example.com"] {
        assert!(first.dig(name).contains("SERVFAIL"), "resolvers ask the other one");
        assert_eq!(second.addresses(name), ["192.0.2.2"]);
    }
}
