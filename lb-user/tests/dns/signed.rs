//! A signed zone, as validators see it: delv (BIND) and Unbound.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lb_test_support::{has_programs, this_test};

use super::world::{Agent, eventually, free_address};

const ZONE: &str = "
  checks: {operator: {type: extfile, file: DIR/ext}}
  geo: {networks: {127.0.0.0/8: DE}}
  zones:
    example.org:
      ns: [ns1]
      dnssec: KEY
      records: [ns1 A 127.0.0.1, alias CNAME www, '*.w TXT \"wild\"', deep.er A 192.0.2.1, sub NS ns.sub, ns.sub A 192.0.2.9, MANY]
      names:
        www: {checks: operator, members: [192.0.2.1, 192.0.2.2]}
        near: {policy: geo, members: [{address: 192.0.2.3, regions: DE}, 192.0.2.4]}
";

/// What is asked for, and whether there is an answer.
const QUESTIONS: [(&str, &str, Option<&str>); 10] = [
    ("example.org", "SOA", Some("ns1.example.org.")),
    ("www.example.org", "A", Some("192.0.2.2")),
    ("near.example.org", "A", Some("192.0.2.3")),
    ("alias.example.org", "A", Some("192.0.2.2")),
    ("x.y.w.example.org", "TXT", Some("wild")),
    ("many.example.org", "A", Some("192.0.2.99")),
    ("nobody.example.org", "A", None),
    ("www.example.org", "AAAA", None),
    ("x.y.w.example.org", "A", None),
    ("er.example.org", "TXT", None),
];

/// An agent with a signed zone, its DS record as `lb dns delegation` prints it, and that of a key that it does not have.
struct World {
    agent: Agent,
    folder: tempfile::TempDir,
    ds: [String; 2],
}

fn key(file: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    let output = command.args(["dns", "key", "example.org", "--file"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let ds = told.lines().find_map(|line| line.strip_prefix("example.org. IN DS ")).unwrap();
    ds.to_owned()
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let [file, other] = ["key.pem", "other.pem"].map(|name| folder.path().join(name));
    let made = key(&file);
    let many: Vec<String> = (0..100).map(|i| format!("many A 192.0.2.{i}")).collect();
    let text = ZONE.replace("KEY", &file.display().to_string()).replace("MANY", &many.join(", "));
    let agent = Agent::start(&text);
    let parent = agent.lb(&["dns", "delegation", "example.org", "--config", &agent.config()]);
    let ds =
        parent.lines().find_map(|line| line.strip_prefix("example.org. 3600 IN DS ")).unwrap().to_owned();
    assert_eq!(ds, made);
    World { agent, ds: [ds, key(&other)], folder }
}

/// Whether there is a program; skips the test otherwise.
fn has(program: &str) -> bool {
    has_programs(&this_test(), &[program])
}

#[test]
#[ignore = "needs delv"]
fn delv_validates_what_is_there_and_what_is_not() {
    if !has("delv") {
        return;
    }
    let world = world();
    let ask = |ds: &str, name: &str, kind: &str| {
        let words: Vec<&str> = ds.split_whitespace().collect();
        let [tag, algorithm, digest, hash @ ..] = &words[..] else { panic!("{ds}") };
        let anchors = world.folder.path().join("anchors");
        let text = format!(
            "trust-anchors {{ example.org. static-ds {tag} {algorithm} {digest} \"{}\"; }};",
            hash.concat()
        );
        fs::write(&anchors, text).unwrap();
        let mut command = Command::new("delv");
        command
            .arg(format!("@{}", world.agent.address.ip()))
            .args(["-p", &world.agent.address.port().to_string()]);
        command.arg("-a").arg(anchors).args(["+root=example.org", name, kind]);
        let output = command.output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    let [right, wrong] = &world.ds;
    for (name, kind, expected) in QUESTIONS {
        let told = ask(right, name, kind);
        match expected {
            Some(text) => {
                assert!(told.contains("; fully validated") && told.contains(text), "{name} {kind}: {told}")
            }
            None => assert!(told.contains("; negative response, fully validated"), "{name} {kind}: {told}"),
        }
    }
    let told = ask(wrong, "www.example.org", "A");
    assert!(!told.contains("fully validated") && told.contains("resolution failed"), "{told}");
}

/// A resolver that trusts this DS record.
struct Unbound {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("Unbound's log:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

impl Unbound {
    fn start(world: &World, ds: &str) -> Self {
        let folder = tempfile::Builder::new().tempdir_in(world.folder.path()).unwrap().keep();
        let port = free_address().port();
        let (address, log) = (world.agent.address, folder.join("log"));
        let conf = format!(
            "server:
  interface: 127.0.0.1@{port}
  directory: \"{0}\"
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  logfile: \"\"
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  do-not-query-localhost: no
  module-config: \"validator iterator\"
  val-log-level: 2
  trust-anchor: \"example.org. DS {ds}\"
remote-control:
  control-enable: no
stub-zone:
  name: example.org
  stub-addr: {1}@{2}
",
            folder.display(),
            address.ip(),
            address.port()
        );
        fs::write(folder.join("conf"), conf).unwrap();
        let mut command = Command::new("unbound");
        command.arg("-dp").arg("-c").arg(folder.join("conf")).stdout(Stdio::null());
        let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let unbound = Unbound { child, port, log };
        eventually("Unbound answers", || unbound.ask("example.org", "NS").contains("status:"));
        unbound
    }

    fn ask(&self, name: &str, kind: &str) -> String {
        let mut command = Command::new("dig");
        command.args([
            "@127.0.0.1",
            "-p",
            &self.port.to_string(),
            "+dnssec",
            "+time=2",
            "+tries=2",
            name,
            kind,
        ]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }
}

#[test]
#[ignore = "needs unbound and dig"]
fn unbound_trusts_the_right_key_and_no_other() {
    if !has("unbound") || !has("dig") {
        return;
    }
    let world = world();
    let [right, wrong] = &world.ds;
    let unbound = Unbound::start(&world, right);
    for (name, kind, expected) in QUESTIONS {
        let told = unbound.ask(name, kind);
        let flags = told.lines().find(|line| line.contains("flags:")).unwrap_or_default();
        assert!(flags.contains(" ad;") || flags.contains(" ad "), "{name} {kind}: {told}");
        assert_eq!(expected.is_none(), flags.contains("ANSWER: 0"), "{name} {kind}: {told}");
        assert!(told.contains(expected.unwrap_or("NSEC")), "{name} {kind}: {told}");
    }
    // A member that fails is another answer, and signed as well.
    world.agent.write("ext", "192.0.2.2 => DOWN\n");
    eventually("it has left", || world.agent.addresses("www.example.org") == ["192.0.2.1"]);
    let told = Unbound::start(&world, right).ask("www.example.org", "A");
    assert!(told.contains(" ad;") && told.contains("192.0.2.1") && !told.contains("192.0.2.2"), "{told}");
    let bogus = Unbound::start(&world, wrong).ask("www.example.org", "A");
    assert!(bogus.contains("status: SERVFAIL"), "{bogus}");
}
