//! The checker against HTTP servers on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::*;
use crate::health::{Check, ProbeTarget};

const INTERVAL: Duration = Duration::from_millis(40);

/// An HTTP server that is well or not, and counts its requests.
struct Server {
    address: SocketAddr,
    well: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (well, requests) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let mut task = JoinSet::new();
        let (is_well, count) = (Arc::clone(&well), Arc::clone(&requests));
        task.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let status = if is_well.load(Ordering::SeqCst) { "200 OK" } else { "503 Busy" };
                count.fetch_add(1, Ordering::SeqCst);
                let _ =
                    crate::health::probe::tests::answer(stream, &format!("HTTP/1.1 {status}\r\n\r\n")).await;
            }
        });
        Self { address, well, requests, _task: task }
    }

    fn probe(&self, rise: u32, fall: u32) -> Probe {
        let kind = CheckKind::Http { path: "/".into(), status: vec![200] };
        let (through, timeout) = (Through::Address, Duration::from_secs(2));
        let check =
            Check { kind, port: self.address.port(), through, interval: INTERVAL, timeout, rise, fall };
        let target = ProbeTarget { address: self.address, mark: None, host_header: "lb7".into() };
        Probe { check, target }
    }

    async fn requests_reach(&self, count: usize) {
        let reached = async {
            while self.requests.load(Ordering::SeqCst) < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(lb_test_support::PATIENCE, reached).await.expect("requests in time");
    }
}

fn host(name: &str) -> HostId {
    HostId { pool: "web".into(), host: name.into() }
}

fn plan<const N: usize>(hosts: [(&str, Vec<Probe>); N]) -> Plan {
    hosts.into_iter().map(|(name, probes)| (host(name), probes)).collect()
}

async fn wait(checker: &Checker, name: &str, met: impl Fn(&HostHealth) -> bool) -> HostHealth {
    let mut view = checker.view();
    let met = view.wait_for(|view| view.get(&host(name)).is_some_and(&met));
    let view = timeout(lb_test_support::PATIENCE, met).await.expect("in time").unwrap();
    view[&host(name)].clone()
}

#[tokio::test]
async fn a_host_rises_falls_and_rises() {
    let server = Server::start().await;
    let checker = Checker::start(plan([("lb7-1", vec![server.probe(2, 3)])]), BTreeMap::new());
    let first = checker.view().borrow()[&host("lb7-1")].clone();
    assert_eq!(first, HostHealth { healthy: false, known: false, silent: false, reason: None });
    wait(&checker, "lb7-1", |h| h.healthy && h.known).await;
    server.well.store(false, Ordering::SeqCst);
    let down = wait(&checker, "lb7-1", |h| !h.healthy).await;
    let expected = format!("{} answered status 503, expected 200", server.address);
    assert_eq!(down.reason, Some(expected));
    server.well.store(true, Ordering::SeqCst);
    assert_eq!(wait(&checker, "lb7-1", |h| h.healthy).await.reason, None);
}

#[tokio::test]
async fn the_first_probe_does_not_wait() {
    let server = Server::start().await;
    let mut probe = server.probe(2, 3);
    probe.check.interval = Duration::from_secs(3600);
    let checker = Checker::start(plan([("lb7-1", vec![probe])]), BTreeMap::new());
    wait(&checker, "lb7-1", |h| h.known && h.healthy).await;
}

#[tokio::test]
async fn an_adopted_state_outlasts_a_first_failure() {
    let server = Server::start().await;
    server.well.store(false, Ordering::SeqCst);
    let mut probe = server.probe(2, 3);
    probe.check.interval = Duration::from_secs(3600);
    let initial = BTreeMap::from([(host("lb7-1"), true)]);
    let checker = Checker::start(plan([("lb7-1", vec![probe])]), initial);
    let health = wait(&checker, "lb7-1", |h| h.known).await;
    assert!(health.healthy && health.reason.is_some());
}

#[tokio::test]
async fn all_checks_must_pass_and_none_is_healthy() {
    let (good, bad) = (Server::start().await, Server::start().await);
    bad.well.store(false, Ordering::SeqCst);
    let hosts = [("lb7-1", vec![good.probe(1, 1), bad.probe(1, 1)]), ("lb7-2", Vec::new())];
    let checker = Checker::start(plan(hosts), BTreeMap::new());
    assert!(checker.view().borrow()[&host("lb7-2")].healthy);
    assert!(!wait(&checker, "lb7-1", |h| h.known).await.healthy);
    bad.well.store(true, Ordering::SeqCst);
    wait(&checker, "lb7-1", |h| h.healthy).await;
}

#[tokio::test]
async fn a_new_interval_a_new_check_and_a_new_host_leave_the_state_of_others() {
    let (server, added) = (Server::start().await, Server::start().await);
    let checker = Checker::start(plan([("lb7-1", vec![server.probe(1, 3)])]), BTreeMap::new());
    wait(&checker, "lb7-1", |h| h.healthy).await;
    let mut seen = checker.view();
    let mut slower = server.probe(1, 3);
    slower.check.interval = INTERVAL * 2;
    let watcher = tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let view = seen.borrow_and_update();
            assert!(view[&host("lb7-1")].healthy, "{view:?}");
        }
    });
    let before = server.requests.load(Ordering::SeqCst);
    checker.update(plan([("lb7-1", vec![slower, added.probe(1, 3)]), ("lb7-2", vec![added.probe(1, 3)])]));
    wait(&checker, "lb7-2", |h| h.healthy).await;
    server.requests_reach(before + 3).await;
    checker.update(plan([("lb7-1", vec![server.probe(1, 3)])]));
    server.requests_reach(before + 6).await;
    assert!(!checker.view().borrow().contains_key(&host("lb7-2")));
    drop(checker);
    watcher.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_probed_from_here_keeps_its_state() {
    let server = Server::start().await;
    let mut probe = server.probe(1, 1);
    probe.check.through = Through::Tunnel;
    let initial = BTreeMap::from([(host("lb7-1"), true)]);
    let checker = Checker::start(plan([("lb7-1", vec![probe])]), initial);
    let health = wait(&checker, "lb7-1", |h| h.reason.is_some()).await;
    assert!(health.healthy && !health.known);
    assert!(health.reason.unwrap().contains("has no tunnel to this host yet"));
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn dropping_the_checker_ends_its_probes() {
    let server = Server::start().await;
    let checker = Checker::start(plan([("lb7-1", vec![server.probe(1, 1)])]), BTreeMap::new());
    server.requests_reach(2).await;
    drop(checker);
    sleep(INTERVAL).await;
    let before = server.requests.load(Ordering::SeqCst);
    sleep(INTERVAL * 3).await;
    assert_eq!(server.requests.load(Ordering::SeqCst), before);
}
