//! Name servers of others on loopback, in a network namespace of this test: BIND, Knot and PowerDNS by dynamic updates,
//! PowerDNS by its API, CoreDNS's form in etcd.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use lb_user::dns::claim::task::{Claim, Settings};
use lb_user::dns::sink::keeper::Timing;
use lb_user::dns::sink::powerdns::PowerDns;
use lb_user::dns::sink::rfc2136::Rfc2136;
use lb_user::dns::sink::skydns::SkyDns;
use lb_user::dns::sink::task::Sink;
use lb_user::dns::sink::{Addresses, Place, SinkStatus, Store, Wanted, Wish};
use lb_user::health::{Check, CheckKind, Through};
use lb_user::model::Family;
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

const DNS: &str = "127.0.0.1:5300";
const PATIENCE: Duration = Duration::from_secs(30);
/// How often everything is compared, so that a test can see it.
const FULL_SYNC: Duration = Duration::from_secs(2);
/// 32 bytes, in Base64.
const SECRET: &str = "bGIgdGVzdHMga2VlcCB0aGlzIHNlY3JldCBzYWZlISE=";
const ZONE: &str = "$ORIGIN example.org.
@ 300 SOA ns1 hostmaster 1 3600 600 86400 30
@ 300 NS ns1
ns1 300 A 127.0.0.1
others 300 A 192.0.2.99
www 300 TXT \"not ours\"
";

/// Runs a test in a network namespace of its own, which goes with it; or says why not.
fn isolated<F: Future<Output = ()>>(
    test: &str,
    programs: &[&str],
    work: impl FnOnce() -> F + Send + 'static,
) {
    let found = |program: &&str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    let reason = match programs.iter().find(|program| found(program).is_err()) {
        _ if !nix::unistd::geteuid().is_root() => "needs root".to_owned(),
        Some(program) => format!("{program} is missing; run: sudo scripts/setup"),
        None => String::new(),
    };
    if !reason.is_empty() {
        println!("skipped: {test}: {reason}");
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
struct Server {
    folder: TempDir,
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
    fn new(command: &[&str], files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display().to_string();
        for (name, content) in files {
            fs::write(folder.path().join(name), content.replace("FOLDER", &at)).expect("writing a file");
        }
        let command = command.iter().map(|word| word.replace("FOLDER", &at)).collect();
        Server { folder, command, process: None }
    }

    fn bind() -> Self {
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

    fn knot() -> Self {
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
acl:
  - id: lb
    key: lb-key.
    action: update
zone:
  - domain: example.org
    storage: FOLDER
    file: zone
    acl: lb
"
        );
        Self::new(&["knotd", "-c", "FOLDER/conf"], &[("conf", conf), ("zone", ZONE.into())])
    }

    fn powerdns() -> Self {
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

    fn etcd() -> Self {
        let command = "etcd --data-dir FOLDER/data --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
                       --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380";
        Self::new(&command.split_whitespace().collect::<Vec<_>>(), &[])
    }

    fn sh(&self, script: &str) -> String {
        let script = script.replace("FOLDER", &self.folder.path().display().to_string());
        let output = Command::new("sh").args(["-ec", &script]).output().expect("sh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn start(&mut self) {
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

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn memory(&self) -> std::path::PathBuf {
        self.folder.path().join("sink.json")
    }
}

/// What a name has, as `dig` sees it: TTL and data, in order.
fn dig(name: &str, kind: &str) -> Vec<String> {
    let command = ["@127.0.0.1", "-p", "5300", "+noall", "+answer", "+tries=1", "+time=1", name, kind];
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

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn key(name: &str) -> TSigner {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let secret = BASE64_STANDARD.decode(SECRET).expect("Base64");
    TSigner::new(secret, TsigAlgorithm::HmacSha256, name.parse().expect("a name"), 300).expect("a key")
}

fn updates(key_name: &str) -> Box<dyn Store> {
    Box::new(Rfc2136::new(DNS.parse::<SocketAddr>().expect("an address"), Some(key(key_name))))
}

fn api(key: &str) -> Box<dyn Store> {
    Box::new(PowerDns::new(vec!["http://127.0.0.1:8081".into()], key.into(), "localhost".into()))
}

/// Names of example.org with their addresses, of both families; all with a TTL of 30 s.
fn wanted(names: &[(&str, &[&str])]) -> Wanted {
    let mut wanted = Wanted::default();
    for (name, addresses) in names {
        for family in Family::ALL {
            let lower = |text: &str| text.parse().expect("a name");
            let place =
                Place { zone: lower("example.org."), name: lower(&format!("{name}.example.org.")), family };
            let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().expect("an address"));
            let all: BTreeSet<_> =
                addresses.filter(|address| address.is_ipv4() == (family == Family::V4)).collect();
            let wish = match all.is_empty() {
                true => Wish::Nothing,
                false => Wish::Addresses(Addresses { ttl: 30, all }),
            };
            wanted.insert(place, wish);
        }
    }
    wanted
}

/// A sink under test.
struct Kept {
    want: watch::Sender<Option<Wanted>>,
    sink: Sink,
}

impl Kept {
    fn start(store: Box<dyn Store>, memory: &Path) -> Self {
        let (want, wanted) = watch::channel(None);
        let timing = Timing {
            retry: Duration::from_millis(100),
            slowest: Duration::from_millis(500),
            ..Timing::new(FULL_SYNC)
        };
        Kept { want, sink: Sink::start("test".into(), store, timing, memory.into(), wanted) }
    }

    async fn bring_to(&self, names: &[(&str, &[&str])]) -> SinkStatus {
        self.want.send_replace(Some(wanted(names)));
        // The task must see it first.
        sleep(Duration::from_millis(20)).await;
        self.until(|status| status.in_step).await
    }

    async fn until(&self, holds: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
        let mut status = self.sink.status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(|status| holds(status))).await;
        match found {
            Ok(status) => status.expect("the task lives").clone(),
            Err(_) => panic!("not within {PATIENCE:?}: {:?}", self.sink.status().borrow()),
        }
    }
}

/// What holds for every server that `dig` can ask.
async fn keeps_a_server(mut server: Server, store: impl Fn() -> Box<dyn Store>) {
    server.start();
    wait_until("the server answers", || !dig("others.example.org", "A").is_empty()).await;
    let kept = Kept::start(store(), &server.memory());
    kept.bring_to(&[("www", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]), ("*.api", &["192.0.2.7"])]).await;
    assert_eq!(dig("www.example.org", "A"), ["30 192.0.2.1", "30 192.0.2.2"]);
    assert_eq!(dig("www.example.org", "AAAA"), ["30 2001:db8::1"]);
    assert_eq!(dig("any.api.example.org", "A"), ["30 192.0.2.7"]);

    // One address fails; then all of one family.
    kept.bring_to(&[("www", &["192.0.2.2"]), ("*.api", &["192.0.2.7"])]).await;
    assert_eq!(
        (dig("www.example.org", "A"), dig("www.example.org", "AAAA")),
        (vec!["30 192.0.2.2".into()], vec![])
    );
    // Names and types of others stay.
    assert_eq!(dig("others.example.org", "A"), ["300 192.0.2.99"]);
    assert_eq!(dig("www.example.org", "TXT"), ["300 \"not ours\""]);

    // Somebody else's change is found, and mended.
    let other = Kept::start(store(), &server.folder.path().join("other.json"));
    other.bring_to(&[("www", &["192.0.2.66"])]).await;
    drop(other);
    wait_until("the record is right again", || dig("www.example.org", "A") == ["30 192.0.2.2"]).await;

    // While the server is away it is said, and what changed meanwhile is there when it is back.
    server.stop();
    kept.want.send_replace(Some(wanted(&[("www", &["192.0.2.3"]), ("*.api", &["192.0.2.7"])])));
    let status = kept.until(|status| status.error.is_some()).await;
    assert!(!status.in_step && status.lag_ms < 60_000, "{status:?}");
    server.start();
    kept.until(|status| status.in_step && status.error.is_none()).await;
    assert_eq!(dig("www.example.org", "A"), ["30 192.0.2.3"]);

    // A name that is configured no more is taken away, also if the agent was restarted in between.
    drop(kept);
    let kept = Kept::start(store(), &server.memory());
    kept.bring_to(&[("www", &["192.0.2.3"])]).await;
    assert_eq!(
        (dig("www.example.org", "A"), dig("any.api.example.org", "A")),
        (vec!["30 192.0.2.3".into()], vec![])
    );
    assert_eq!(dig("others.example.org", "A"), ["300 192.0.2.99"]);
}

/// A key that may not update is named, and nothing changes.
async fn refuses_other_keys(mut server: Server, known: &str) {
    server.start();
    wait_until("the server answers", || !dig("others.example.org", "A").is_empty()).await;
    for (key, why) in [(known, "allow them there"), ("nobody-key.", "does not know this key")] {
        let kept = Kept::start(updates(key), &server.folder.path().join(key));
        kept.want.send_replace(Some(wanted(&[("www", &["192.0.2.1"])])));
        let status = kept.until(|status| status.error.is_some()).await;
        let error = status.error.unwrap_or_default();
        assert!(error.starts_with("name server 127.0.0.1:5300: ") && error.contains(why), "{key}: {error}");
    }
    assert_eq!(dig("www.example.org", "A"), [""; 0]);
}

#[test]
fn bind_by_dynamic_updates() {
    isolated("BIND by dynamic updates", &["named", "dig"], || {
        keeps_a_server(Server::bind(), || updates("lb-key."))
    });
    isolated("BIND refuses keys", &["named", "dig"], || refuses_other_keys(Server::bind(), "other-key."));
}

#[test]
fn knot_by_dynamic_updates() {
    isolated("Knot by dynamic updates", &["knotd", "dig"], || {
        keeps_a_server(Server::knot(), || updates("lb-key."))
    });
}

#[test]
fn powerdns_by_dynamic_updates() {
    let programs = ["pdns_server", "pdnsutil", "sqlite3", "dig"];
    isolated("PowerDNS by dynamic updates", &programs, || {
        keeps_a_server(Server::powerdns(), || updates("lb-key."))
    });
}

#[test]
fn powerdns_by_its_api() {
    let programs = ["pdns_server", "pdnsutil", "sqlite3", "dig"];
    isolated("PowerDNS by its API", &programs, || async {
        keeps_a_server(Server::powerdns(), || api("secret")).await;
        let mut server = Server::powerdns();
        server.start();
        wait_until("the server answers", || !dig("others.example.org", "A").is_empty()).await;
        let kept = Kept::start(api("wrong"), &server.memory());
        kept.want.send_replace(Some(wanted(&[("www", &["192.0.2.1"])])));
        let error = kept.until(|status| status.error.is_some()).await.error.unwrap_or_default();
        assert_eq!(error, "PowerDNS at http://127.0.0.1:8081: it does not take this API key");
    });
}

/// A machine that may hold `lb.example.org`, with something that answers its checks.
struct Machine {
    address: &'static str,
    able: watch::Sender<bool>,
    claim: Claim,
    _answering: TcpListener,
}

impl Machine {
    async fn start(address: &'static str, store: Box<dyn Store>) -> Self {
        let _answering = TcpListener::bind((address, 8080)).await.expect("a place to listen");
        let lower = |text: &str| text.parse().expect("a name");
        let settings = Settings {
            zone: lower("example.org."),
            name: lower("lb.example.org."),
            addresses: [address.parse().expect("an address")].into(),
            ttl: 60,
            interval: Duration::from_millis(200),
            check: Check {
                kind: CheckKind::Tcp,
                port: 8080,
                through: Through::Address,
                interval: Duration::from_millis(200),
                timeout: Duration::from_millis(500),
                rise: 1,
                fall: 2,
            },
        };
        let (able, may) = watch::channel(true);
        Machine { address, able, claim: Claim::start(settings, store, may), _answering }
    }

    fn holds(&self) -> bool {
        dig("lb.example.org", "A") == [format!("60 {}", self.address)]
    }

    async fn knows_that_it_holds(&self) {
        let mut status = self.claim.status();
        let held = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.held)).await;
        held.expect("it knows in time").expect("the task lives");
    }
}

/// Machines that hold a name in turn. Never do two addresses stand there.
async fn is_held_by_one(mut server: Server, store: impl Fn() -> Box<dyn Store>) {
    server.start();
    wait_until("the server answers", || !dig("others.example.org", "A").is_empty()).await;
    let lb1 = Machine::start("127.0.0.11", store()).await;
    wait_until("the first takes what nobody has", || lb1.holds()).await;
    let lb2 = Machine::start("127.0.0.12", store()).await;
    sleep(Duration::from_secs(1)).await;
    assert!(lb1.holds(), "a holder that answers keeps the name: {:?}", dig("lb.example.org", "A"));
    lb1.knows_that_it_holds().await;
    assert!(!lb2.claim.status().borrow().held);

    let always_one = |holds: &dyn Fn() -> bool| {
        let seen = dig("lb.example.org", "A");
        assert!(seen.len() <= 1, "{seen:?}");
        holds()
    };
    // A dead one cannot give it up; the other one takes it.
    drop(lb1);
    wait_until("the second takes it over", || always_one(&|| lb2.holds())).await;
    // It does not go back to one that is there again.
    let lb1 = Machine::start("127.0.0.11", store()).await;
    sleep(Duration::from_secs(1)).await;
    assert!(lb2.holds());
    // One that is drained gives it up.
    lb2.able.send_replace(false);
    wait_until("the first takes what was given up", || always_one(&|| lb1.holds())).await;
    lb1.knows_that_it_holds().await;
    // While the server is away, nobody says that he holds it.
    server.stop();
    let mut status = lb1.claim.status();
    let status = status.wait_for(|status| status.error.is_some()).await.expect("the task lives").clone();
    assert_eq!((status.held, status.holder.as_str()), (false, "not known"));
    server.start();
    lb1.knows_that_it_holds().await;
}

#[test]
fn a_name_held_by_one_of_two_machines() {
    let bind = || is_held_by_one(Server::bind(), || updates("lb-key."));
    isolated("a name in BIND held by one of two machines", &["named", "dig"], bind);
    let knot = || is_held_by_one(Server::knot(), || updates("lb-key."));
    isolated("a name in Knot held by one of two machines", &["knotd", "dig"], knot);
    let programs = ["pdns_server", "pdnsutil", "sqlite3", "dig"];
    let updated = || is_held_by_one(Server::powerdns(), || updates("lb-key."));
    isolated("a name in PowerDNS held by one of two machines", &programs, updated);
    let by_api = || is_held_by_one(Server::powerdns(), || api("secret"));
    isolated("a name in PowerDNS, by its API, held by one of two machines", &programs, by_api);
}

#[test]
fn etcd_in_the_form_that_coredns_reads() {
    isolated("SkyDNS records in etcd", &["etcd", "etcdctl"], || async {
        let mut server = Server::etcd();
        server.start();
        // Somebody else's record of the same name, in the same form.
        let etcdctl = "ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:2379";
        let put = format!(
            "until {etcdctl} put /skydns/org/example/www/theirs '{{\"host\":\"192.0.2.99\"}}'; do sleep 0.1; done"
        );
        server.sh(&put);
        let keys = |server: &Server| {
            let all = server.sh(&format!("{etcdctl} get --prefix /skydns/"));
            let lines: Vec<String> = all.lines().map(str::to_owned).collect();
            lines.chunks(2).map(|pair| pair.join(" ")).collect::<Vec<_>>()
        };
        let store =
            || Box::new(SkyDns::new(vec!["http://127.0.0.1:2379".into()], "/skydns")) as Box<dyn Store>;
        let kept = Kept::start(store(), &server.memory());
        kept.bring_to(&[("www", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]), ("*.api", &["192.0.2.7"])])
            .await;
        assert_eq!(
            keys(&server),
            [
                "/skydns/org/example/api/*/lb-4-192-0-2-7 {\"host\":\"192.0.2.7\",\"ttl\":30}",
                "/skydns/org/example/www/lb-4-192-0-2-1 {\"host\":\"192.0.2.1\",\"ttl\":30}",
                "/skydns/org/example/www/lb-4-192-0-2-2 {\"host\":\"192.0.2.2\",\"ttl\":30}",
                "/skydns/org/example/www/lb-6-2001-db8--1 {\"host\":\"2001:db8::1\",\"ttl\":30}",
                "/skydns/org/example/www/theirs {\"host\":\"192.0.2.99\"}",
            ]
        );
        kept.bring_to(&[("www", &["192.0.2.2"])]).await;
        let after = [
            "/skydns/org/example/www/lb-4-192-0-2-2 {\"host\":\"192.0.2.2\",\"ttl\":30}",
            "/skydns/org/example/www/theirs {\"host\":\"192.0.2.99\"}",
        ];
        assert_eq!(keys(&server), after);
        server.sh(&format!("{etcdctl} del --prefix /skydns/org/example/www/lb-"));
        wait_until("the record is there again", || keys(&server) == after).await;
    });
}
