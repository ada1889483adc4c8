//! `lb trace --offline` and `lb replay`, as they are run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lb_user::model::Protocol;
use lb_user::trace::Ends;
use lb_user::trace::packet::{first_of, to_hex};
use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = "
node: node
director: {interfaces: [eth0], source4: 192.0.2.140}
manifest: {file: DIR/manifest.yaml}
services:
  - {vip: 198.51.100.1, port: 80, pool: web}
  - {vip: '2001:db8::c633:6401', port: 53, protocol: udp, pool: web}
";

const MANIFEST: &str = "
version: 4
pools:
  web:
    seed: 7
    size: 251
    generation: 3
    hosts:
      a: {address4: 192.0.2.1}
      b: {address4: 192.0.2.2}
";

/// A folder with a configuration and its manifest.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { folder };
        let place = files.folder.path().display().to_string();
        files.write("lb.yaml", CONFIG.replace("DIR", &place).as_bytes());
        files.write("manifest.yaml", MANIFEST.as_bytes());
        files
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("lb.yaml")
    }

    fn lb(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(arguments).arg("--config").arg(self.config()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.lb(&[arguments, &["--format", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }
}

fn flow(source: &str, destination: &str, protocol: Protocol) -> Ends {
    Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol }
}

fn web() -> Ends {
    flow("203.0.113.7:40000", "198.51.100.1:80", Protocol::Tcp)
}

fn dns() -> Ends {
    flow("[2001:db8::7]:40000", "[2001:db8::c633:6401]:53", Protocol::Udp)
}

fn frame(flow: &Ends, bytes: usize) -> Vec<u8> {
    first_of(flow, bytes).unwrap()
}

/// A capture of these frames, of which at most `snap` bytes each are kept, one second apart.
fn pcap(frames: &[Vec<u8>], snap: usize) -> Vec<u8> {
    let words = [0xa1b2_c3d4, 0x0004_0002, 0, 0, snap as u32, 1u32];
    let mut file = words.map(u32::to_le_bytes).concat();
    for (second, frame) in (0u32..).zip(frames) {
        let kept = &frame[..frame.len().min(snap)];
        file.extend([second, 0, kept.len() as u32, frame.len() as u32].map(u32::to_le_bytes).concat());
        file.extend(kept);
    }
    file
}

fn can_load(test: &str) -> bool {
    lb_test_support::is_root(test)
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_flow_is_traced_by_a_configuration_alone() {
    let files = Files::new();
    let traced = files.json(&["trace", "tcp", "203.0.113.7:40000", "198.51.100.1:80", "--offline"]);
    assert_eq!((&traced["verdict"], &traced["reason"]), (&"tx".into(), &"forwarded".into()));
    let way = &traced["way"];
    assert_eq!((&way["pool"], &way["generation"], &way["rows"]), (&"web".into(), &3.into(), &251.into()));
    assert!(way.get("next_hop").is_none(), "nobody knows it");
    let first = way["host"].as_str().unwrap();
    assert_eq!(way["owners"][0]["host"], first);

    let arguments = ["trace", "tcp", "203.0.113.7:40000", "198.51.100.1:80", "--offline", "--sick", first];
    let backup = files.json(&arguments);
    assert_ne!(backup["way"]["host"], first);
    assert_eq!(backup["way"]["owners"][0]["passed_over"], "fails its health checks");

    let by_hex = files.json(&["trace", "--offline", "--hex", &to_hex(&frame(&web(), 0)[14..])]);
    assert_eq!(by_hex, traced);
    let text = files.lb(&["trace", "udp", "[2001:db8::7]:40000", "[2001:db8::c633:6401]:53", "--offline"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("service     [2001:db8::c633:6401]:53/udp, affinity none\n"), "{text}");
}

#[test]
fn what_cannot_be_traced_says_why() {
    let files = Files::new();
    let two = files.lb(&["trace", "tcp", "203.0.113.7:40000", "[2001:db8::c633:6401]:80", "--offline"]);
    assert!(error(&two).contains("different address families"));
    let hex = files.lb(&["trace", "--offline", "--hex", "45 0"]);
    assert!(error(&hex).contains("only one"));
    let host = files.lb(&["trace", "tcp", "203.0.113.7:1", "198.51.100.1:80", "--offline", "--sick", "c"]);
    assert!(error(&host).contains("no host c in any pool"));
    let agent = files.lb(&["trace", "tcp", "203.0.113.7:1", "198.51.100.1:80", "--sick", "a"]);
    assert!(error(&agent).contains("are for --offline"));
    std::fs::remove_file(files.folder.path().join("manifest.yaml")).unwrap();
    let gone = files.lb(&["trace", "tcp", "203.0.113.7:1", "198.51.100.1:80", "--offline"]);
    assert!(error(&gone).contains("there is no manifest yet"));
}

#[test]
#[ignore = "needs root"]
fn a_capture_runs_through_the_real_program() {
    if !can_load("replay of a capture") {
        return;
    }
    let files = Files::new();
    let elsewhere = flow("203.0.113.7:40000", "198.51.100.9:80", Protocol::Tcp);
    let closed = flow("203.0.113.7:40000", "198.51.100.1:81", Protocol::Tcp);
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    // The last one is longer than what is kept of it.
    let frames = [
        frame(&web(), 0),
        frame(&dns(), 0),
        frame(&elsewhere, 0),
        frame(&closed, 0),
        frame(&web(), 1481),
        arp,
        frame(&web(), 1480),
    ];
    let capture = files.write("users.pcap", &pcap(&frames, 1000));
    let capture = capture.to_str().unwrap();
    let report = files.json(&["replay", capture]);
    let packets = report["packets"].as_array().unwrap();
    let reasons: Vec<_> = packets.iter().map(|packet| packet["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        ["forwarded", "forwarded", "not_vip", "no_service", "too_big_answered", "not_ip", "forwarded"]
    );
    assert_eq!((&packets[1]["number"], &packets[1]["time"]), (&2.into(), &1.0.into()));
    assert!(packets[0]["host"].as_str().unwrap().starts_with("web/"));
    assert_eq!(packets[6]["notes"][0], "494 bytes were not captured and are taken as zeros");
    let totals = &report["totals"];
    assert_eq!((&totals["packets"], &totals["reasons"]["forwarded"]), (&7.into(), &3.into()));
    assert!(totals.get("not_run").is_none() && totals.get("differ").is_none(), "{totals}");

    // With one host sick, all that is sent goes to the other.
    let sick = files.json(&["replay", capture, "--sick", "web/a", "--totals"]);
    assert!(sick.get("packets").is_none());
    assert_eq!(sick["totals"]["hosts"], serde_json::json!({"web/b": 3}));

    let text = files.lb(&["replay", capture]);
    assert!(text.status.success());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("#3     2.000000 pass not_vip\n"), "{text}");
    assert!(text.contains("\nforwarded         3\n"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn a_bad_capture_is_told_with_the_number_of_the_packet_after_what_came_before() {
    if !can_load("replay of a bad capture") {
        return;
    }
    let files = Files::new();
    let whole = pcap(&[frame(&web(), 0), frame(&web(), 0)], 1000);
    let cut = files.write("cut.pcap", &whole[..whole.len() - 5]);
    let output = files.lb(&["replay", cut.to_str().unwrap()]);
    assert!(error(&output).contains("the file ends within packet 2"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("forwarded  1\n"), "{text}");

    let config = files.config();
    assert!(error(&files.lb(&["replay", config.to_str().unwrap()])).contains("neither pcap nor pcapng"));
    let nothing = Path::new("/nowhere.pcap");
    assert!(error(&files.lb(&["replay", nothing.to_str().unwrap()])).contains("cannot be read"));

    // The kernel runs programs on nothing that is shorter than an Ethernet header; a long frame comes in pieces.
    let odd = [frame(&web(), 0)[..10].to_vec(), frame(&web(), 20_000), frame(&web(), 0)];
    let odd = files.write("odd.pcap", &pcap(&odd, 65535));
    let report = files.json(&["replay", odd.to_str().unwrap()]);
    assert_eq!(report["totals"]["not_run"], 1, "{report:#}");
    assert_eq!(report["packets"][1]["reason"], "too_big_answered", "{report:#}");
}
