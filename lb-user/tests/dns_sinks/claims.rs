//! Machines that hold a name in turn, on name servers of others.

use std::time::Duration;

use lb_user::dns::claim::ClaimConfig;
use lb_user::dns::claim::task::Claim;
use lb_user::dns::sink::Store;
use lb_user::health::{Check, CheckKind, Through};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::servers::{PATIENCE, Server, dig, isolated, wait_until};
use super::{api, updates};

/// A machine that may hold `lb.example.org`, with something that answers its checks.
struct Machine {
    address: &'static str,
    able: watch::Sender<Option<bool>>,
    claim: Claim,
    _answering: TcpListener,
}

impl Machine {
    async fn start(address: &'static str, store: Box<dyn Store>) -> Self {
        let _answering = TcpListener::bind((address, 8080)).await.expect("a place to listen");
        let lower = |text: &str| text.parse().expect("a name");
        let config = ClaimConfig {
            sink: "test".into(),
            zone: lower("example.org."),
            addresses: [address.parse().expect("an address")].into(),
            ttl: 60,
            check_name: "test".into(),
            own: None,
            check: Check {
                kind: CheckKind::Tcp,
                port: 8080,
                through: Through::Address,
                interval: Duration::from_millis(200),
                timeout: Duration::from_millis(500),
                rise: 1,
                fall: 2,
            },
            host: None,
        };
        let (able, may) = watch::channel(Some(true));
        Machine {
            address,
            able,
            claim: Claim::start(lower("lb.example.org."), config, store, may),
            _answering,
        }
    }

    fn holds(&self) -> bool {
        dig("lb.example.org", "A") == [format!("60 {}", self.address)]
    }

    fn sees_holder(&self, address: &str) -> bool {
        self.claim.status().borrow().holder == address
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
    // Once it knows who holds the name it has decided.
    wait_until("the second sees the first", || lb2.sees_holder("127.0.0.11")).await;
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
    wait_until("the first sees the second", || lb1.sees_holder("127.0.0.12")).await;
    assert!(lb2.holds());
    // One that is drained gives it up.
    lb2.able.send_replace(Some(false));
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
#[ignore = "needs root"]
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
