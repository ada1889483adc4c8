//! Addresses by where the client is, with a file in MaxMind's format.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lb_test_support::{has_programs, this_test};
use serde_json::Value;

use super::mmdb::mmdb;
use super::world::{Agent, eventually, has_dig};

const GEO: &str = "
  checks: {operator: {type: extfile, file: DIR/ext}}
  geo: {file: FILE, networks: {10.0.0.0/8: DE}}
  zones:
    example.org:
      ns: [ns.example.net.]
      names:
        www:
          policy: geo
          checks: operator
          members:
            - {address: 192.0.2.1, regions: [EU, US-CA]}
            - {address: 192.0.2.2, regions: DE}
            - {address: 192.0.2.3, regions: [US]}
            - 192.0.2.4
            - {address: \"2001:db8::1\", regions: continent:NA}
            - \"2001:db8::2\"
        fix: {members: [192.0.2.9]}
";

const WORLD: [&str; 6] = [
    "203.0.113.0/25 NA US CA",
    "203.0.113.128/25 NA US NY",
    "198.51.100.0/24 EU FR",
    "198.51.101.0/24 EU DE",
    "198.51.102.0/24 AS JP",
    "2001:db8:7::/48 EU DE",
];

/// The folder of a file, and that.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("country.mmdb");
        File { _folder: folder, path }
    }

    /// Replaces it as a whole.
    fn put(&self, kind: &str, entries: &[&str]) {
        let other = self.path.with_extension("other");
        fs::write(&other, mmdb(kind, entries)).unwrap();
        fs::rename(other, &self.path).unwrap();
    }

    fn agent(&self) -> Agent {
        Agent::start(&GEO.replace("FILE", &self.path.display().to_string()))
    }
}

/// The addresses for a client, sorted.
fn of(agent: &Agent, client: &str) -> Vec<String> {
    agent.addresses(&format!("www.example.org +subnet={client}"))
}

fn geo_status(agent: &Agent) -> Value {
    let status: Value = serde_json::from_str(&agent.lb(&["dns", "status", "--format", "json"])).unwrap();
    status["geo"].clone()
}

#[test]
#[ignore = "needs dig"]
fn clients_get_the_member_for_the_smallest_region_that_works() {
    if !has_dig() {
        return;
    }
    let file = File::new();
    file.put("Test-City", &WORLD);
    let agent = file.agent();
    // In the first answer: the file is read before anybody is answered.
    assert_eq!(of(&agent, "203.0.113.7/32"), ["192.0.2.1"], "California");
    assert_eq!(of(&agent, "203.0.113.200/32"), ["192.0.2.3"], "the United States");
    assert_eq!(of(&agent, "198.51.100.0/24"), ["192.0.2.1"], "Europe");
    assert_eq!(of(&agent, "198.51.101.0/24"), ["192.0.2.2"], "Germany");
    assert_eq!(of(&agent, "198.51.102.0/24"), ["192.0.2.4"], "elsewhere");
    assert_eq!(of(&agent, "10.1.2.0/24"), ["192.0.2.2"], "Germany by the configuration");
    assert_eq!(of(&agent, "0.0.0.0/0"), ["192.0.2.4"], "127.0.0.1 is nowhere");
    assert_eq!(agent.addresses("www.example.org AAAA +subnet=203.0.113.0/24"), ["2001:db8::1"]);
    assert_eq!(agent.addresses("www.example.org AAAA +subnet=2001:db8:7::/56"), ["2001:db8::2"]);
    assert_eq!(of(&agent, "2001:db8:7::/56"), ["192.0.2.2"]);
    // The scope: as far as the file says the same, and not for names that do not ask.
    let scope = |words: &str| {
        let told = agent.dig(words);
        told.lines().find_map(|line| line.strip_prefix("; CLIENT-SUBNET: ")).unwrap_or_default().to_owned()
    };
    assert_eq!(scope("www.example.org +subnet=203.0.113.7/32"), "203.0.113.7/32/25");
    assert_eq!(
        scope("www.example.org +subnet=203.0.113.0/24"),
        "203.0.113.0/24/25",
        "longer than what was asked with"
    );
    assert_eq!(scope("www.example.org +subnet=198.51.100.0/24"), "198.51.100.0/24/24");
    assert_eq!(scope("www.example.org +subnet=10.1.2.0/24"), "10.1.2.0/24/8");
    assert_eq!(scope("www.example.org +subnet=2001:db8:7::/56"), "2001:db8:7::/56/48");
    assert_eq!(scope("fix.example.org +subnet=203.0.113.0/24"), "203.0.113.0/24/0");

    // Failed members fall to the next larger region, and the last to all.
    let down = |addresses: &[u8]| {
        agent.write(
            "ext",
            &addresses.iter().map(|last| format!("192.0.2.{last} => DOWN\n")).collect::<String>(),
        );
    };
    down(&[1]);
    eventually("the country stands in for its part", || of(&agent, "203.0.113.7/32") == ["192.0.2.3"]);
    assert_eq!(of(&agent, "198.51.100.0/24"), ["192.0.2.4"], "none for Europe, so that of all others");
    down(&[1, 3, 4]);
    eventually("only one is left", || of(&agent, "203.0.113.7/32") == ["192.0.2.2"]);
    down(&[2]);
    eventually("the continent stands in for the country", || of(&agent, "198.51.101.0/24") == ["192.0.2.1"]);
    let why = agent.lb(&["dns", "explain", "www.example.org", "--type", "A", "--from", "198.51.101.0/24"]);
    for line in [
        "www.example.org.: policy geo, enough members work; the answer is for the first 24 bits of the client's network\n",
        "the client is in DE, EU by the file, as all of 198.51.101.0/24\n",
        "192.0.2.2    out: a check fails",
        "192.0.2.3    works, for other clients",
    ] {
        assert!(why.contains(line), "{line}: {why}");
    }
    let why = |from: &str| agent.lb(&["dns", "explain", "www.example.org", "--from", from]);
    assert!(
        why("10.9.9.9").contains("the client is in DE, EU by dns.geo.networks, as all of 10.0.0.0/8\n"),
        "{}",
        why("10.9.9.9")
    );
    assert!(
        why("192.0.2.1").contains("the client's region is not known; so it is with all of 192.0.0.0/6\n"),
        "{}",
        why("192.0.2.1")
    );
    let json = agent.lb(&["dns", "explain", "www.example.org", "--from", "203.0.113.7", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let client = serde_json::json!({
        "regions": ["US-CA", "US", "continent:NA"], "network": "203.0.113.0/25", "source": "file"
    });
    assert_eq!(json[0]["choice"]["client"], client, "{json:#}");
}

#[test]
#[ignore = "needs dig"]
fn a_file_that_is_replaced_is_followed_and_a_bad_one_changes_nothing() {
    if !has_dig() {
        return;
    }
    let file = File::new();
    let agent = file.agent();
    assert_eq!(of(&agent, "198.51.101.0/24"), ["192.0.2.4"], "without a file nobody has a region");
    assert_eq!(of(&agent, "10.1.2.0/24"), ["192.0.2.2"], "but by the configuration");
    let problems = || agent.lb(&["dns", "status"]);
    assert!(problems().contains("country.mmdb: cannot be read: No such file or directory"), "{}", problems());
    assert!(agent.metrics().contains("lb_dns_problems 1\n"));
    assert!(geo_status(&agent)["content"].is_null());

    file.put("Test-City", &WORLD);
    eventually("the file is read", || of(&agent, "198.51.101.0/24") == ["192.0.2.2"]);
    assert!(agent.metrics().contains("lb_dns_problems 0\n"));
    let told = problems();
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = told.lines().map(row).collect();
    let path = file.path.display().to_string();
    assert!(rows.contains(&row(&format!("{path} Test-City 2026-10-02 6"))), "{told}");
    assert!(rows.contains(&row("dns.geo.networks 1")), "{told}");

    fs::write(&file.path, "not such a file").unwrap();
    eventually("the mistake is told", || {
        problems().contains("country.mmdb: not a file in MaxMind's format: ")
    });
    assert!(problems().contains("what was read last stays in force"), "{}", problems());
    assert_eq!(of(&agent, "198.51.101.0/24"), ["192.0.2.2"]);
    fs::remove_file(&file.path).unwrap();
    eventually("that it is gone is told", || problems().contains("country.mmdb: cannot be read"));
    assert_eq!(of(&agent, "198.51.101.0/24"), ["192.0.2.2"]);
    assert_eq!(geo_status(&agent)["content"]["networks"], 6);

    file.put("Test-Country", &["198.51.101.0/24 NA US"]);
    eventually("the other file", || of(&agent, "198.51.101.0/24") == ["192.0.2.3"]);
    assert_eq!(geo_status(&agent)["content"]["kind"], "Test-Country");
    assert!(geo_status(&agent)["problem"].is_null());

    // Another file in the configuration, while the agent runs.
    let second = File::new();
    second.put("Test-City", &WORLD);
    let before = fs::read_to_string(agent.config()).unwrap();
    agent.write("lb.yaml", &before.replace(&path, &second.path.display().to_string()));
    assert_eq!(agent.lb(&["reload"]), "reloaded: changed dns\n");
    eventually("the second file", || of(&agent, "198.51.101.0/24") == ["192.0.2.2"]);
    // Checking a configuration does not need the file.
    fs::remove_file(&second.path).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_lb"));
    let output = check.args(["check", &agent.config()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The program of those who made the format reads the tests' files as the tests mean them.
#[test]
#[ignore = "needs mmdblookup"]
fn mmdblookup_reads_the_files_of_these_tests() {
    if !has_programs(&this_test(), &["mmdblookup"]) {
        return;
    }
    let file = File::new();
    file.put("Test-City", &WORLD);
    let ask = |address: &str, path: &[&str]| {
        let mut command = Command::new("mmdblookup");
        command.arg("--file").arg(&file.path).args(["--ip", address]).args(path);
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    assert!(ask("203.0.113.7", &["subdivisions", "0", "iso_code"]).contains("\"CA\""));
    assert!(ask("203.0.113.200", &["subdivisions", "0", "iso_code"]).contains("\"NY\""));
    assert!(ask("198.51.100.1", &["country", "iso_code"]).contains("\"FR\""));
    assert!(ask("2001:db8:7::1", &["continent", "code"]).contains("\"EU\""));
    assert!(ask("192.0.2.1", &[]).contains("Could not find an entry"), "{}", ask("192.0.2.1", &[]));
}
