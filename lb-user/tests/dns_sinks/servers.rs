//! Name servers of others, each in a folder of its own, in a network namespace of the test.

use std::fs::{self, File};
use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

pub use lb_test_support::PATIENCE;
use lb_test_support::{check, has_programs, is_root, wait_until_async};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Where name servers listen.
pub const DNS: &str = "127.0.0.1:5300";
/// The secret of keys: 32 bytes, in Base64.
pub const SECRET: &str = "bGIgdGVzdHMga2VlcCB0aGlzIHNlY3JldCBzYWZlISE=";
const ZONE: &str = "$ORIGIN example.org.
@ 300 SOA ns1 hostmaster 1 3600 600 86400 30
@ 300 NS ns1
ns1 300 A 127.0.0.1
others 300 A 192.0.2.99
www 300 TXT \"not ours\"
";

/// Runs a test in a network namespace of its own, which goes with it; or says why not.
pub fn isolated<F: Future<Output = ()>>(
    test: &str,
    programs: &[&str],
    work: impl FnOnce() -> F + Send + 'static,
) {
    if !is_root(test) || !has_programs(test, programs) {
        return;
    }
    let inside = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip").success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work());
    };
    if let Err(panic) = thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A server, and the folder that it lives in.
pub struct Server {
    pub folder: TempDir,
    command: Vec<String>,
    process: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            println!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

impl Server {
    pub fn new(command: &[&str], files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display().to_string();
        for (name, content) in files {
            fs::write(folder.path().join(name), content.replace("FOLDER", &at)).expect("writing a file");
        }
        let command = command.iter().map(|word| word.replace("FOLDER", &at)).collect();
        Server { folder, command, process: None }
    }

    pub fn bind() -> Self {
        let conf = format!(
            "options {{ directory \"FOLDER\"; listen-on port 5300 {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no;
               pid-file none; session-keyfile none; allow-transfer {{ none; }}; }};
             controls {{ }};
             key \"lb-key.\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};
             key \"other-key.\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};
             zone \"example.org\" {{ type primary; file \"zone\"; allow-update {{ key \"lb-key.\"; }}; }};"
        );
        Self::new(&["named", "-g", "-c", "FOLDER/conf"], &[("conf", conf), ("zone", ZONE.into())])
    }

    pub fn knot() -> Self {
        let rest = "acl:
  - id: lb
    key: lb-key.
    action: update
zone:
  - domain: example.org
    storage: FOLDER
    file: zone
    acl: lb
";
        Self::knot_with(rest, &[("zone", ZONE.into())])
    }

    /// A Knot that knows the key `lb-key.`, and what the rest of its configuration says.
    pub fn knot_with(rest: &str, files: &[(&str, String)]) -> Self {
        let conf = format!(
            "server:
  listen: 127.0.0.1@5300
  rundir: FOLDER
database:
  storage: FOLDER
key:
  - id: lb-key.
    algorithm: hmac-sha256
    secret: {SECRET}
{rest}"
        );
        Self::new(&["knotd", "-c", "FOLDER/conf"], &[files, &[("conf", conf)]].concat())
    }

    pub fn powerdns() -> Self {
        let conf = "launch=gsqlite3
gsqlite3-database=FOLDER/db
api=yes
api-key=secret
webserver=yes
webserver-address=127.0.0.1
webserver-port=8081
webserver-allow-from=127.0.0.0/8
local-address=127.0.0.1
local-port=5300
socket-dir=FOLDER
guardian=no
daemon=no
dnsupdate=yes
allow-dnsupdate-from=127.0.0.0/8
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
security-poll-suffix=
";
        let server = Self::new(
            &["pdns_server", "--config-dir=FOLDER"],
            &[("pdns.conf", conf.into()), ("zone", ZONE.into())],
        );
        server.sh(&format!(
            "cd FOLDER; sqlite3 db </usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql
             p='pdnsutil --config-dir=FOLDER'; $p load-zone example.org zone; $p import-tsig-key lb-key hmac-sha256 {SECRET}
             $p set-meta example.org TSIG-ALLOW-DNSUPDATE lb-key"
        ));
        server
    }

    pub fn etcd() -> Self {
        let command = "etcd --data-dir FOLDER/data --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
                       --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380";
        Self::new(&command.split_whitespace().collect::<Vec<_>>(), &[])
    }

    /// A gdnsd that goes by these states.
    pub fn gdnsd(states: &Path) -> Self {
        let config = format!(
            "options => {{ listen => 127.0.0.1:5300, run_dir => FOLDER/run, state_dir => FOLDER/state,
               udp_threads => 1, tcp_threads => 1 }}
             service_types => {{ lb => {{ plugin => extfile, file => {}, direct => true, interval => 2 }} }}
             plugins => {{ multifo => {{ service_types => lb, up_thresh => 0.01
               www => {{ addrs_v4 => [ 192.0.2.1, 192.0.2.2 ], addrs_v6 => [ 2001:db8::1, 2001:db8::2 ] }} }} }}",
            states.display()
        );
        let server = Self::new(&["gdnsd", "-c", "FOLDER", "start"], &[("config", config)]);
        server.sh("mkdir FOLDER/zones FOLDER/run FOLDER/state");
        let zone = format!("{ZONE}www 60 DYNA multifo!www\n").replace("$ORIGIN example.org.\n", "");
        let zone = zone.replace("www 300 TXT \"not ours\"\n", "");
        fs::write(server.folder.path().join("zones/example.org"), zone).expect("a zone");
        server
    }

    /// A Knot that reads its zone from a file of somebody else.
    pub fn knot_of_file() -> Self {
        let conf = "server:
  listen: 127.0.0.1@5300
  rundir: FOLDER
database:
  storage: FOLDER
zone:
  - domain: example.org
    storage: FOLDER
    file: zone
    zonefile-sync: -1
";
        Self::new(&["knotd", "-c", "FOLDER/conf"], &[("conf", conf.into())])
    }

    /// A BIND that does.
    pub fn bind_of_file() -> Self {
        let conf = "options { directory \"FOLDER\"; listen-on port 5300 { 127.0.0.1; }; listen-on-v6 { none; }; recursion no;
               pid-file \"FOLDER/pid\"; session-keyfile none; };
             controls { };
             zone \"example.org\" { type primary; file \"zone\"; };";
        Self::new(&["named", "-g", "-c", "FOLDER/conf"], &[("conf", conf.into())])
    }

    /// A BIND with one zone, at port 53. It listens at addresses of interfaces only: of 127.0.0.0/8 at the first.
    pub fn parent(zone: &str, address: &str, records: &str) -> Self {
        let conf = format!(
            "options {{ directory \"FOLDER\"; listen-on {{ {address}; }}; listen-on-v6 {{ none; }}; recursion no;
               pid-file none; session-keyfile none; }};
             controls {{ }};
             zone \"{zone}\" {{ type primary; file \"zone\"; }};"
        );
        Self::new(&["named", "-g", "-c", "FOLDER/conf"], &[("conf", conf), ("zone", records.into())])
    }

    /// A resolver that knows who has one zone, and goes on by what it is told there.
    pub fn unbound(zone: &str, server: &str) -> Self {
        let conf = format!(
            "server:
  interface: 127.0.0.1@5300
  directory: FOLDER
  pidfile: FOLDER/pid
  username: \"\"
  chroot: \"\"
  use-syslog: no
  do-daemonize: no
  do-ip6: no
  do-not-query-localhost: no
  module-config: \"iterator\"
  cache-min-ttl: 0
stub-zone:
  name: {zone}
  stub-addr: {server}
remote-control:
  control-enable: no
"
        );
        Self::new(&["unbound", "-d", "-c", "FOLDER/conf"], &[("conf", conf)])
    }

    pub fn sh(&self, script: &str) -> String {
        let script = script.replace("FOLDER", &self.folder.path().display().to_string());
        let output = Command::new("sh").args(["-ec", &script]).output().expect("sh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub fn start(&mut self) {
        let log =
            File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.process = Some(command.spawn().expect("starting a server"));
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn memory(&self) -> std::path::PathBuf {
        self.folder.path().join("sink.json")
    }
}

/// What `dig` says of a name.
pub fn ask(name: &str, kind: &str) -> String {
    let command = ["@127.0.0.1", "-p", "5300", "+tries=1", "+time=5", name, kind];
    let output = Command::new("dig").args(command).output().expect("dig");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a name has, as `dig` sees it: TTL and data, in order.
pub fn dig(name: &str, kind: &str) -> Vec<String> {
    let command = ["@127.0.0.1", "-p", "5300", "+noall", "+answer", "+tries=1", "+time=5", name, kind];
    let output = Command::new("dig").args(command).output().expect("dig");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let short = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", words[1], words[4..].join(" "))
    };
    let mut lines: Vec<String> =
        text.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).map(short).collect();
    lines.sort();
    lines
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_until_async(what, PATIENCE, async || check(holds(), "it is not so")).await;
}
