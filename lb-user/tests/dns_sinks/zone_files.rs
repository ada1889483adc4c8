//! Zone files that an agent keeps, read by Knot and BIND.

use std::fs;
use std::path::Path;

use super::agents::{Node, lb};
use super::servers::{Server, dig, isolated, wait_until};

/// An agent that keeps files for a server whose folder is `server`, where `reload` is a shell command.
async fn agent(server: &Path, reload: &str) -> Node {
    let text = format!(
        "dns:
  checks: {{operator: {{type: extfile, file: FOLDER/ext}}}}
  zones:
    example.org:
      ns: [ns1]
      soa: {{serial: 2026010100}}
      records: [ns1 A 127.0.0.1, 'text TXT \"a \\\" and ; here\"', '_443._tcp TLSA 3 1 1 0a0b']
      names:
        www: {{ttl: 30, checks: operator, all_down: none, members: [192.0.2.1, 192.0.2.2, \"2001:db8::1\"]}}
        '*.api': {{ttl: 30, members: [192.0.2.7]}}
  sinks:
    files: {{type: file, folder: FOLDER/zones, reload: [sh, -c, {reload:?}]}}
"
    );
    Node::start("127.0.0.11", &text.replace("SERVER", &server.display().to_string())).await
}

/// The serial number that the server answers with.
fn serial() -> u32 {
    let soa = dig("example.org", "SOA");
    soa.first().and_then(|soa| soa.split(' ').nth(3)?.parse().ok()).unwrap_or_default()
}

async fn serves_what_an_agent_keeps(mut server: Server, reload: &str) {
    let node = agent(server.folder.path(), reload).await;
    let file = node.path("zones/example.org.zone");
    // The server does not run yet, so that it cannot be told.
    wait_until("the agent says what is wrong", || {
        let status = node.status();
        file.exists() && status.contains("files  file") && status.contains("behind for")
    })
    .await;
    fs::copy(&file, server.folder.path().join("first")).expect("the file");
    server.sh(&format!("ln -sf {} FOLDER/zone", file.display()));
    server.start();
    wait_until("the addresses are there", || dig("www.example.org", "A") == ["30 192.0.2.1", "30 192.0.2.2"])
        .await;
    wait_until("the agent is in step", || node.status().contains("in step")).await;
    assert_eq!(dig("www.example.org", "AAAA"), ["30 2001:db8::1"]);
    assert_eq!(dig("any.api.example.org", "A"), ["30 192.0.2.7"]);
    assert_eq!(dig("text.example.org", "TXT"), ["3600 \"a \\\" and ; here\""]);
    assert_eq!(dig("_443._tcp.example.org", "TLSA"), ["3600 3 1 1 0A0B"]);
    let before = serial();
    assert!(before >= 2026010100, "{before}");

    fs::write(node.path("ext"), "192.0.2.1 => DOWN\n2001:db8::1 => DOWN\n").expect("a file");
    wait_until("one has left", || dig("www.example.org", "A") == ["30 192.0.2.2"]).await;
    wait_until("of the other family the last", || dig("www.example.org", "AAAA").is_empty()).await;
    assert!(serial() > before);

    // What is printed is the zone that the server has.
    let printed = node.lb(&["dns", "zone", "example.org"]);
    let text = fs::read_to_string(&file).expect("the file");
    for line in printed.lines().filter(|line| !line.ends_with("; serial")) {
        assert!(text.contains(&format!("{line}\n")), "{line:?} is not in {text}");
    }
    let corefile = lb(&["dns", "corefile", "--config", &node.path("lb.yaml").display().to_string()]);
    assert!(
        corefile.contains(&format!("directory {} (.*)\\.zone {{1}}\n", node.path("zones").display())),
        "{corefile}"
    );

    // A record that is configured anew comes with the next reload of the agent.
    let config = fs::read_to_string(node.path("lb.yaml")).expect("a configuration");
    let before = serial();
    fs::write(
        node.path("lb.yaml"),
        config.replace("[ns1 A 127.0.0.1,", "[ns1 A 127.0.0.1, new A 192.0.2.50,"),
    )
    .expect("a configuration");
    assert_eq!(node.lb(&["reload"]), "reloaded: changed dns\n");
    wait_until("the new record", || dig("new.example.org", "A") == ["3600 192.0.2.50"]).await;
    assert_eq!((serial() - before, dig("www.example.org", "A")), (1, vec!["30 192.0.2.2".into()]));
}

#[test]
#[ignore = "needs root"]
fn knot_reads_zone_files() {
    isolated("Knot reads zone files", &["knotd", "knotc", "dig"], || {
        serves_what_an_agent_keeps(Server::knot_of_file(), "knotc -c SERVER/conf zone-reload")
    });
}

#[test]
#[ignore = "needs root"]
fn bind_reads_zone_files() {
    isolated("BIND reads zone files", &["named", "dig"], || {
        serves_what_an_agent_keeps(Server::bind_of_file(), "kill -HUP $(cat SERVER/pid)")
    });
}
