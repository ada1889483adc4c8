//! Name servers of others on loopback, in a network namespace of this test: BIND, Knot and PowerDNS by dynamic updates,
//! PowerDNS by its API, CoreDNS's form in etcd, gdnsd by its file, Knot and BIND by zone
//! files, and as another by which clients are found; and a resolver that finds agents by their delegation.

mod agents;
mod claims;
mod gdnsd;
mod geo;
mod leader;
#[path = "../dns/mmdb.rs"]
mod mmdb;
mod recursion;
mod servers;
mod transfers;
mod zone_files;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use lb_user::dns::sink::keeper::Timing;
use lb_user::dns::sink::powerdns::PowerDns;
use lb_user::dns::sink::rfc2136::Rfc2136;
use lb_user::dns::sink::server::Kind;
use lb_user::dns::sink::skydns::SkyDns;
use lb_user::dns::sink::task::Sink;
use lb_user::dns::sink::{Addresses, Place, SinkStatus, Store, Wanted, Wish};
use lb_user::model::Family;
use tokio::sync::watch;

use servers::{DNS, PATIENCE, SECRET, Server, dig, isolated, wait_until};

/// How often everything is compared, so that a test can see it.
const FULL_SYNC: Duration = Duration::from_secs(2);

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
                false => Wish::Value(Addresses { ttl: 30, all }),
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
        Kept { want, sink: Sink::start("test".into(), Kind::Rfc2136, store, timing, memory.into(), wanted) }
    }

    /// Wants what the server does not hold, and waits until it holds it.
    async fn bring_to(&self, names: &[(&str, &[&str])]) -> SinkStatus {
        let before = self.sink.status().borrow().written;
        self.want.send_replace(Some(wanted(names)));
        // In step alone may be said of what was wanted before.
        self.until(|status| status.in_step && status.written > before).await
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
#[ignore = "needs root"]
fn bind_by_dynamic_updates() {
    isolated("BIND by dynamic updates", &["named", "dig"], || {
        keeps_a_server(Server::bind(), || updates("lb-key."))
    });
    isolated("BIND refuses keys", &["named", "dig"], || refuses_other_keys(Server::bind(), "other-key."));
}

#[test]
#[ignore = "needs root"]
fn knot_by_dynamic_updates() {
    isolated("Knot by dynamic updates", &["knotd", "dig"], || {
        keeps_a_server(Server::knot(), || updates("lb-key."))
    });
}

#[test]
#[ignore = "needs root"]
fn powerdns_by_dynamic_updates() {
    let programs = ["pdns_server", "pdnsutil", "sqlite3", "dig"];
    isolated("PowerDNS by dynamic updates", &programs, || {
        keeps_a_server(Server::powerdns(), || updates("lb-key."))
    });
}

#[test]
#[ignore = "needs root"]
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

#[test]
#[ignore = "needs root"]
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
