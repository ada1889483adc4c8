//! The GoBGP driver against a real `gobgpd`, on loopback ports of its own.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_test_support::{PATIENCE, has_programs, this_test};
use lb_user::bgp::{Announcements, Announcer, BgpConfig, BgpStatus, Driver, Gobgp, Speaker};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A `gobgpd` with its configuration in a directory of its own.
struct Sidecar {
    directory: tempfile::TempDir,
    api: String,
    child: Option<Child>,
}

impl Sidecar {
    /// `None`, with the reason printed, where there is no `gobgpd`.
    async fn start(global: &str) -> Option<Self> {
        if !there("gobgpd") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let conf = format!("[global.config]\nas = 65000\nrouter-id = \"192.0.2.132\"\n{global}");
        fs::write(directory.path().join("gobgpd.toml"), conf).unwrap();
        let mut sidecar = Self { directory, api: format!("127.0.0.1:{}", free_port()), child: None };
        sidecar.run().await;
        Some(sidecar)
    }

    async fn run(&mut self) {
        let mut command = Command::new("gobgpd");
        command.arg("-f").arg(self.directory.path().join("gobgpd.toml"));
        command.args(["-t", "toml", "--pprof-disable", "--api-hosts", &self.api]);
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        while tokio::net::TcpStream::connect(&self.api).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "gobgpd did not start");
            sleep(Duration::from_millis(5)).await;
        }
        // It listens a moment before it serves.
        while let Err(error) = Gobgp::new(&self.api).announced().await {
            assert!(started.elapsed() < PATIENCE, "gobgpd did not start: {error}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn stop(&mut self) {
        end(&mut self.child);
    }

    fn config(&self) -> BgpConfig {
        BgpConfig { driver: Driver::Gobgp { api: self.api.clone() }, med: 0, communities: Vec::new() }
    }

    /// What GoBGP's own client says.
    fn gobgp(&self, words: &str) -> String {
        let port = self.api.rsplit(':').next().unwrap();
        let out = Command::new("gobgp")
            .args(["-u", "127.0.0.1", "-p", port])
            .args(words.split(' '))
            .output()
            .unwrap();
        assert!(out.status.success(), "gobgp {words}: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a program is there; skips the test otherwise.
fn there(program: &str) -> bool {
    has_programs(&this_test(), &[program])
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn want(routes: &[&str]) -> Announcements {
    Announcements {
        routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        med: 5,
        communities: vec![(65000, 100)],
        next_hop4: Some("192.0.2.132".parse().unwrap()),
        next_hop6: Some("2001:db8::c000:284".parse().unwrap()),
    }
}

async fn wait(announcer: &Announcer, met: impl FnMut(&BgpStatus) -> bool) -> BgpStatus {
    let mut status = announcer.status();
    let waited = timeout(PATIENCE, status.wait_for(met)).await;
    waited.unwrap_or_else(|_| panic!("not in time: {:?}", announcer.status().borrow())).unwrap().clone()
}

const NO_PEERS: &str = "port = -1\n";
const BOTH: [&str; 4] = ["198.51.100.1/32", "198.51.100.2/32", "2001:db8::c633:6401/128", "2001:db8:5::/64"];

#[tokio::test]
#[ignore = "needs gobgpd"]
async fn paths_appear_change_and_go() {
    let Some(sidecar) = Sidecar::start(NO_PEERS).await else { return };
    let mut gobgp = Gobgp::new(&sidecar.api);
    assert!(gobgp.announced().await.unwrap().is_empty());
    gobgp.announce(&want(&BOTH)).await.unwrap();
    assert_eq!(gobgp.announced().await.unwrap(), want(&BOTH).routes);
    let shown = sidecar.gobgp("global rib -a ipv4");
    assert!(shown.contains("198.51.100.1/32") && shown.contains("192.0.2.132"), "{shown}");
    assert!(shown.contains("{Med: 5}") && shown.contains("65000:100"), "{shown}");
    let shown = sidecar.gobgp("global rib -a ipv6");
    assert!(shown.contains("2001:db8::c633:6401/128") && shown.contains("2001:db8::c000:284"), "{shown}");
    assert!(shown.contains("2001:db8:5::/64"), "{shown}");

    gobgp.announce(&Announcements { med: 6, ..want(&BOTH[..1]) }).await.unwrap();
    assert_eq!(gobgp.announced().await.unwrap(), want(&BOTH[..1]).routes);
    let shown = sidecar.gobgp("global rib -a ipv4");
    assert!(shown.contains("{Med: 6}") && !shown.contains("{Med: 5}"), "{shown}");
    gobgp.announce(&want(&[])).await.unwrap();
    assert!(!sidecar.gobgp("global rib -a ipv4").contains("198.51.100"));
}

#[tokio::test]
#[ignore = "needs gobgpd"]
async fn the_next_agent_finds_the_paths_of_the_last_and_leaves_those_of_operators() {
    let Some(sidecar) = Sidecar::start(NO_PEERS).await else { return };
    Gobgp::new(&sidecar.api).announce(&want(&BOTH)).await.unwrap();
    sidecar.gobgp("global rib add -a ipv4 203.0.113.0/24 nexthop 192.0.2.1");
    // The operator's own path to one of our prefixes.
    sidecar.gobgp("global rib add -a ipv4 198.51.100.2/32 nexthop 192.0.2.1");

    let mut next = Gobgp::new(&sidecar.api);
    assert_eq!(next.announced().await.unwrap(), want(&BOTH).routes);
    next.announce(&want(&BOTH[..1])).await.unwrap();
    assert_eq!(next.announced().await.unwrap(), want(&BOTH[..1]).routes);
    lb_user::bgp::withdraw_all(&sidecar.config()).await.unwrap();
    let shown = sidecar.gobgp("global rib -a ipv4");
    assert!(shown.contains("203.0.113.0/24") && shown.contains("198.51.100.2/32"), "{shown}");
    assert!(!shown.contains("198.51.100.1/32") && !shown.contains("192.0.2.132"), "{shown}");
}

#[tokio::test]
#[ignore = "needs gobgpd"]
async fn a_family_without_next_hop_does_not_hold_up_the_other() {
    let Some(sidecar) = Sidecar::start(NO_PEERS).await else { return };
    let mut gobgp = Gobgp::new(&sidecar.api);
    let error = gobgp.announce(&Announcements { next_hop6: None, ..want(&BOTH) }).await.unwrap_err();
    assert!(error.to_string().contains("set director.source6"), "{error}");
    assert_eq!(gobgp.announced().await.unwrap(), want(&BOTH[..2]).routes);
}

#[tokio::test]
async fn a_gobgp_that_is_away_is_named_with_its_place() {
    // Bound, so that nobody else has the port, and not listening.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let api = nobody.local_addr().unwrap().to_string();
    let error = Gobgp::new(&api).announced().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("GoBGP does not answer at {api}: ")), "{error}");
    assert!(error.contains("refused"), "{error}");
    let error = Gobgp::new("no such place").announced().await.unwrap_err().to_string();
    assert!(error.contains("at no such place: "), "{error}");
}

#[tokio::test]
#[ignore = "needs gobgpd"]
async fn injected_paths_return_after_a_restart() {
    let Some(mut sidecar) = Sidecar::start(NO_PEERS).await else { return };
    let (wish, wants) = watch::channel(Some(want(&BOTH)));
    let announcer = Announcer::start(&sidecar.config(), wants);
    wait(&announcer, |status| status.up && status.announced.len() == BOTH.len()).await;

    let asked = Instant::now();
    wish.send_replace(Some(want(&BOTH[..1])));
    wait(&announcer, |status| status.up && status.announced.len() == 1).await;
    println!("figure: withdrawn in {:?}", asked.elapsed());
    wish.send_replace(Some(want(&BOTH)));
    wait(&announcer, |status| status.up && status.announced.len() == BOTH.len()).await;

    sidecar.stop();
    sidecar.run().await;
    let back = Instant::now();
    while !sidecar.gobgp("global rib -a ipv4").contains("198.51.100.1/32") {
        assert!(back.elapsed() < PATIENCE, "{:?}", announcer.status().borrow());
        sleep(Duration::from_millis(10)).await;
    }
    println!("figure: announced {:?} after the restart", back.elapsed());

    // Away for longer, and something else is wanted when it returns.
    sidecar.stop();
    wait(&announcer, |status| !status.up).await;
    wish.send_replace(Some(want(&BOTH[..2])));
    sidecar.run().await;
    wait(&announcer, |status| status.up && status.announced.len() == 2).await;

    drop(announcer);
    sleep(Duration::from_millis(100)).await;
    assert!(sidecar.gobgp("global rib -a ipv4").contains("198.51.100.1/32"));
}

/// A BIRD that hears from a GoBGP, both on loopback.
struct Peer {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Peer {
    fn start(gobgp_port: u16, own_port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let conf = format!(
            "router id 192.0.2.129;\nprotocol device {{}}\nprotocol bgp upstream {{
                local 127.0.0.2 port {own_port} as 65001;
                neighbor 127.0.0.1 port {gobgp_port} as 65000;
                multihop; connect delay time 1; connect retry time 1; error wait time 1, 2;
                ipv4 {{ import all; export none; }};
                ipv6 {{ import all; export none; }};
            }}\n"
        );
        fs::write(directory.path().join("bird.conf"), conf).unwrap();
        let mut command = Command::new("bird");
        command.arg("-f").args(["-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]);
        let child = command.current_dir(directory.path()).spawn().unwrap();
        Self { directory, child: Some(child) }
    }

    fn routes(&self) -> String {
        let mut command = Command::new("birdc");
        command.args(["-s", "bird.ctl", "show", "route", "all"]).current_dir(self.directory.path());
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    async fn wait(&self, met: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let routes = self.routes();
            if met(&routes) {
                return routes;
            }
            assert!(started.elapsed() < PATIENCE, "not in time: {routes}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

#[tokio::test]
#[ignore = "needs gobgpd"]
async fn a_peer_hears_of_both_families_and_of_withdrawals() {
    if !there("bird") {
        return;
    }
    let port = free_port();
    let neighbor = format!(
        "port = {port}\nlocal-address-list = [\"127.0.0.1\"]
        [[neighbors]]
        [neighbors.config]\nneighbor-address = \"127.0.0.2\"\npeer-as = 65001
        [neighbors.transport.config]\npassive-mode = true
        [neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 2
        [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"
        [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv6-unicast\"\n"
    );
    let Some(sidecar) = Sidecar::start(&neighbor).await else { return };
    let peer = Peer::start(port, free_port());
    let mut gobgp = Gobgp::new(&sidecar.api);
    gobgp.announce(&want(&BOTH)).await.unwrap();
    let routes = peer.wait(|routes| BOTH.iter().all(|route| routes.contains(route))).await;
    for text in ["BGP.med: 5", "BGP.community: (65000,100)"] {
        assert_eq!(routes.matches(text).count(), BOTH.len(), "{routes}");
    }
    gobgp.announce(&want(&BOTH[1..2])).await.unwrap();
    peer.wait(|routes| !routes.contains(BOTH[0]) && routes.contains(BOTH[1]) && !routes.contains(BOTH[2]))
        .await;
}
