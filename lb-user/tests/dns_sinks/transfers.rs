//! Secondaries that take a zone from an agent: BIND and Knot, by AXFR, NOTIFY and IXFR, signed.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::agents::Node;
use super::servers::{SECRET, Server, dig, isolated, wait_until};

/// Where the agent listens.
const PRIMARY: &str = "127.0.0.11";
const PORT: &str = "5301";

const OTHER_SECRET: &str = "bm90IHRoZSBzZWNyZXQgYXQgYWxsLCBvciBpcyBpdD8=";

const AGENT: &str = "dns:
  listen: \"127.0.0.11:5301\"
  checks: {operator: {type: extfile, file: FOLDER/ext}}
  zones:
    example.org:
      ns: [ns1.example.net.]
      soa: {serial: 2026010100}
      records: ['*.w TXT \"wild\"', sub NS ns.sub, ns.sub A 192.0.2.9, MANY]
      names:
        www: {ttl: 30, checks: operator, members: [192.0.2.1, 192.0.2.2, \"2001:db8::1\"]}
        near: {ttl: 30, policy: weighted, checks: operator, members: [192.0.2.1, 192.0.2.2]}
      transfer: {to: 127.0.0.0/8, key: lb-key., secret_file: FOLDER/secret, notify: \"127.0.0.1:5300\"}
";

fn agent() -> String {
    let many: Vec<String> = (0..2000).map(|n| format!("host-{n} A 10.0.{}.{}", n / 250, n % 250)).collect();
    AGENT.replace("MANY", &many.join(", "))
}

fn bind() -> Server {
    let conf = format!(
        "options {{ directory \"FOLDER\"; listen-on port 5300 {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no;
           pid-file none; session-keyfile none; notify no; }};
         controls {{ }};
         key \"lb-key.\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};
         zone \"example.org\" {{ type secondary; file \"copy\"; primaries port {PORT} {{ {PRIMARY} key lb-key.; }}; }};"
    );
    Server::new(&["named", "-g", "-c", "FOLDER/conf"], &[("conf", conf)])
}

fn knot() -> Server {
    let rest = format!(
        "remote:
  - id: lb
    address: {PRIMARY}@{PORT}
    key: lb-key.
acl:
  - id: lb
    address: {PRIMARY}
    key: lb-key.
    action: notify
zone:
  - domain: example.org
    storage: FOLDER
    master: lb
    acl: lb
"
    );
    Server::knot_with(&rest, &[])
}

fn counter(node: &Node, name: &str) -> u64 {
    let status: Value = serde_json::from_str(&node.lb(&["dns", "status", "--format", "json"])).expect("JSON");
    status["counters"][name].as_u64().expect("a counter")
}

/// What dig shows of the agent itself.
fn ask(words: &str) -> String {
    let mut command = Command::new("dig");
    command.args([&format!("@{PRIMARY}"), "-p", PORT, "+tries=1", "+time=5"]).args(words.split(' '));
    String::from_utf8_lossy(&command.output().expect("dig").stdout).into_owned()
}

fn serial_at(server: &str, port: &str) -> u32 {
    let mut command = Command::new("dig");
    command.args([&format!("@{server}"), "-p", port, "+short", "+tries=1", "+time=1", "example.org", "SOA"]);
    let told = String::from_utf8_lossy(&command.output().expect("dig").stdout).into_owned();
    told.split(' ').nth(2).and_then(|serial| serial.parse().ok()).unwrap_or(0)
}

async fn follows(mut secondary: Server) {
    let mut node = Node::start(PRIMARY, &agent()).await;
    wait_until("the agent answers", || serial_at(PRIMARY, PORT) == 2026010100).await;
    secondary.start();
    wait_until("the zone is there", || dig("www.example.org", "A") == ["30 192.0.2.1", "30 192.0.2.2"]).await;
    assert_eq!(dig("near.example.org", "A"), ["30 192.0.2.1", "30 192.0.2.2"], "for everybody the same");
    assert_eq!(dig("www.example.org", "AAAA"), ["30 2001:db8::1"]);
    assert_eq!(dig("x.y.w.example.org", "TXT"), ["3600 \"wild\""]);
    assert_eq!(dig("host-1999.example.org", "A"), ["3600 10.0.7.249"]);
    assert_eq!((counter(&node, "axfr"), counter(&node, "ixfr")), (1, 0));
    assert!(counter(&node, "transfer_messages") >= 2, "more than one message");

    // A member fails: the secondary is told, and asks for the difference.
    fs::write(node.path("ext"), "192.0.2.1 => DOWN\n").expect("a file");
    let failed = std::time::Instant::now();
    wait_until("it has left", || dig("www.example.org", "A") == ["30 192.0.2.2"]).await;
    println!("figure: a member that fails has left the secondary after {:?}", failed.elapsed());
    assert_eq!(dig("near.example.org", "A"), ["30 192.0.2.2"]);
    assert_eq!(serial_at("127.0.0.1", "5300"), 2026010101);
    assert_eq!((counter(&node, "axfr"), counter(&node, "ixfr")), (1, 1), "the difference alone");
    wait_until("it has answered", || counter(&node, "notify_taken") >= 1).await;
    wait_until("and that is said", || {
        let status = node.status();
        status.contains("SECONDARIES OF") && status.contains("2026010101  has answered")
    })
    .await;

    // What a crash hides, the serial shows: the zone is another one, and newer.
    fs::write(node.path("ext"), "192.0.2.2 => DOWN\n").expect("a file");
    node.restart();
    wait_until("it follows after a crash", || dig("www.example.org", "A") == ["30 192.0.2.1"]).await;
    assert!(serial_at("127.0.0.1", "5300") > 2026010101);
    assert_eq!(serial_at("127.0.0.1", "5300"), serial_at(PRIMARY, PORT));

    // Without the key there is nothing.
    assert!(ask("example.org AXFR").contains("Transfer failed"));
    let by = |key: &str, words: &str| ask(&format!("-y hmac-sha256:{key} {words}"));
    let whole = by(&format!("lb-key.:{SECRET}"), "example.org AXFR");
    assert!(whole.contains("host-1999.example.org.") && !whole.contains("failed"), "{whole}");
    assert!(!whole.contains("WARNING") && !whole.contains("Couldn't verify"), "{whole}");
    let wrong = by(&format!("lb-key.:{OTHER_SECRET}"), "example.org SOA");
    assert!(wrong.contains("NOTAUTH") && wrong.contains("BADSIG"), "{wrong}");
    let unknown = by(&format!("nobody.:{SECRET}"), "example.org SOA");
    assert!(unknown.contains("NOTAUTH") && unknown.contains("BADKEY"), "{unknown}");
    assert!(counter(&node, "bad_sig") >= 1 && counter(&node, "bad_key") >= 1);

    // Another secret under the same name counts from the next reload.
    fs::write(node.path("secret"), OTHER_SECRET).expect("a secret");
    node.lb(&["reload"]);
    wait_until("the other secret is the right one", || {
        by(&format!("lb-key.:{OTHER_SECRET}"), "example.org SOA").contains("status: NOERROR")
    })
    .await;
}

#[test]
#[ignore = "needs root"]
fn bind_takes_a_zone_and_its_changes() {
    isolated("BIND as a secondary", &["named", "dig"], || follows(bind()));
}

#[test]
#[ignore = "needs root"]
fn knot_takes_a_zone_and_its_changes() {
    isolated("Knot as a secondary", &["knotd", "dig"], || follows(knot()));
}
