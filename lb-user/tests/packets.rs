//! `lb trace --offline`, as it is run.

use std::path::PathBuf;
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

fn frame(flow: &Ends, bytes: usize) -> Vec<u8> {
    first_of(flow, bytes).unwrap()
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
