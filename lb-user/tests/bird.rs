//! The BIRD driver against a real `bird`, on sockets and files of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lb_test_support::{PATIENCE, has_programs, this_test};
use lb_user::bgp::{Announcements, Announcer, BgpConfig, BgpStatus, Bird, Driver, Prefix, Speaker};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A directory with `bird.conf`, the include and the control socket, and the BIRD that runs there.
struct Sidecar {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Sidecar {
    /// `None`, with the reason printed, where there is no `bird`.
    async fn start() -> Option<Self> {
        if !has_programs(&this_test(), &["bird"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("lb")).unwrap();
        let mut sidecar = Self { directory, child: None };
        sidecar.write_conf("");
        sidecar.run().await;
        Some(sidecar)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn include(&self) -> PathBuf {
        self.path("lb/lb.conf")
    }

    fn bird(&self) -> Bird {
        Bird::new(&self.include(), &self.path("bird.ctl"))
    }

    fn config(&self) -> BgpConfig {
        let driver = Driver::Bird { include: self.include(), control: self.path("bird.ctl") };
        BgpConfig { driver, med: 0, communities: Vec::new() }
    }

    fn write_conf(&self, more: &str) {
        let include = self.path("lb/*.conf");
        let log = self.path("bird.log");
        let conf = format!(
            "log {log:?} all;\nrouter id 192.0.2.132;\nprotocol device {{}}\ninclude {include:?};\n{more}\n"
        );
        fs::write(self.path("bird.conf"), conf).unwrap();
    }

    async fn run(&mut self) {
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(self.path("bird.conf")).arg("-s").arg(self.path("bird.ctl"));
        self.child = Some(command.arg("-P").arg(self.path("bird.pid")).spawn().unwrap());
        let started = Instant::now();
        while tokio::net::UnixStream::connect(self.path("bird.ctl")).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "BIRD did not start: {}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("bird.log")).unwrap_or_default()
    }

    fn birdc(&self, command: &str) -> String {
        let out = Command::new("birdc").arg("-s").arg(self.path("bird.ctl")).arg(command).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop();
    }
}

fn want(routes: &[&str]) -> Announcements {
    let routes = routes.iter().map(|route| route.parse().unwrap()).collect();
    Announcements { routes, med: 5, communities: vec![(65000, 100)], ..Default::default() }
}

async fn wait(announcer: &Announcer, met: impl FnMut(&BgpStatus) -> bool) -> BgpStatus {
    let mut status = announcer.status();
    let waited = timeout(PATIENCE, status.wait_for(met)).await;
    waited.unwrap_or_else(|_| panic!("not in time: {:?}", announcer.status().borrow())).unwrap().clone()
}

const BOTH: [&str; 4] = ["198.51.100.1/32", "198.51.100.2/32", "2001:db8::c633:6401/128", "2001:db8:5::/64"];

#[tokio::test]
#[ignore = "needs bird"]
async fn routes_appear_change_and_go() {
    let Some(sidecar) = Sidecar::start().await else { return };
    let mut bird = sidecar.bird();
    assert!(bird.announced().await.unwrap().is_empty());
    bird.announce(&want(&BOTH)).await.unwrap();
    assert_eq!(bird.announced().await.unwrap(), want(&BOTH).routes);
    let shown = sidecar.birdc("show route all");
    for text in [
        "198.51.100.1/32",
        "2001:db8::c633:6401/128",
        "2001:db8:5::/64",
        "BGP.med: 5",
        "BGP.community: (65000,100)",
    ] {
        assert!(shown.contains(text), "{text} not in {shown}");
    }
    let other_med = Announcements { med: 6, ..want(&BOTH) };
    bird.announce(&other_med).await.unwrap();
    assert!(sidecar.birdc("show route all").contains("BGP.med: 6"));
    bird.announce(&want(&[])).await.unwrap();
    assert!(!sidecar.birdc("show route").contains("blackhole"));
}

#[tokio::test]
#[ignore = "needs bird"]
async fn an_agent_that_restarts_leaves_a_right_daemon_alone() {
    let Some(sidecar) = Sidecar::start().await else { return };
    sidecar.bird().announce(&want(&BOTH)).await.unwrap();
    let reconfigured = |log: String| log.matches("Reconfigured").count();
    let before = reconfigured(sidecar.log());
    assert!(before >= 1);
    let mut next = sidecar.bird();
    next.announce(&want(&BOTH)).await.unwrap();
    assert_eq!(next.announced().await.unwrap(), want(&BOTH).routes);
    assert_eq!(reconfigured(sidecar.log()), before);
}

#[tokio::test]
#[ignore = "needs bird"]
async fn a_change_that_was_written_but_not_loaded_is_loaded() {
    let Some(sidecar) = Sidecar::start().await else { return };
    sidecar.bird().announce(&want(&BOTH)).await.unwrap();
    // An agent killed between writing and configuring: only the MED differs.
    let other_med = Announcements { med: 9, ..want(&BOTH) };
    let written = fs::read_to_string(sidecar.include()).unwrap().replace("bgp_med = 5", "bgp_med = 9");
    fs::write(sidecar.include(), written).unwrap();
    sidecar.bird().announce(&other_med).await.unwrap();
    assert!(sidecar.birdc("show route all").contains("BGP.med: 9"));
}

#[tokio::test]
#[ignore = "needs bird"]
async fn an_include_that_bird_refuses_is_taken_back_and_the_place_named() {
    let Some(sidecar) = Sidecar::start().await else { return };
    let mut bird = sidecar.bird();
    bird.announce(&want(&BOTH)).await.unwrap();
    let before = fs::read_to_string(sidecar.include()).unwrap();
    let bad: Prefix = Prefix { address: "198.51.100.1".parse().unwrap(), length: 24 };
    let mut wrong = want(&BOTH);
    wrong.routes.insert(bad);
    let error = bird.announce(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("lb/lb.conf:4:"), "{error}");
    assert_eq!(fs::read_to_string(sidecar.include()).unwrap(), before);
    assert_eq!(bird.announced().await.unwrap(), want(&BOTH).routes);
}

#[tokio::test]
#[ignore = "needs bird"]
async fn routes_can_be_withdrawn_while_the_operators_configuration_is_broken() {
    let Some(sidecar) = Sidecar::start().await else { return };
    let mut bird = sidecar.bird();
    bird.announce(&want(&BOTH)).await.unwrap();
    sidecar.write_conf("protocol nonsense {}");
    let error = bird.announce(&want(&[])).await.unwrap_err().to_string();
    assert!(error.contains("bird.conf:5:"), "{error}");
    assert!(bird.announced().await.unwrap().is_empty());
    sidecar.write_conf("");
    bird.announce(&want(&BOTH[..1])).await.unwrap();
    assert_eq!(bird.announced().await.unwrap(), want(&BOTH[..1]).routes);
}

#[tokio::test]
#[ignore = "needs bird"]
async fn a_bird_that_was_away_begins_with_what_is_wanted() {
    let Some(mut sidecar) = Sidecar::start().await else { return };
    sidecar.bird().announce(&want(&BOTH)).await.unwrap();
    sidecar.stop();
    let mut bird = sidecar.bird();
    let error = bird.announce(&want(&BOTH[..1])).await.unwrap_err().to_string();
    assert!(error.contains("BIRD does not answer at"), "{error}");
    sidecar.run().await;
    let shown = sidecar.birdc("show route");
    assert!(shown.contains(BOTH[0]) && !shown.contains(BOTH[1]), "{shown}");
    bird.announce(&want(&BOTH[..1])).await.unwrap();
    assert_eq!(bird.announced().await.unwrap(), want(&BOTH[..1]).routes);
}

#[tokio::test]
#[ignore = "needs bird"]
async fn a_bird_conf_without_our_include_is_named() {
    let Some(sidecar) = Sidecar::start().await else { return };
    fs::write(sidecar.path("bird.conf"), "router id 192.0.2.132;\nprotocol device {}\n").unwrap();
    let error = sidecar.bird().announce(&want(&BOTH)).await.unwrap_err().to_string();
    assert!(error.contains("does bird.conf include it"), "{error}");
}

#[tokio::test]
#[ignore = "needs bird"]
async fn the_announcer_survives_restarts_of_bird_and_leaves_routes_when_it_ends() {
    let Some(mut sidecar) = Sidecar::start().await else { return };
    let (wish, wants) = watch::channel(Some(want(&BOTH)));
    let announcer = Announcer::start(&sidecar.config(), wants);
    wait(&announcer, |status| status.up && status.announced.len() == BOTH.len()).await;

    let asked = Instant::now();
    wish.send_replace(Some(want(&BOTH[..1])));
    wait(&announcer, |status| status.up && status.announced.len() == 1).await;
    println!("figure: withdrawn in {:?}", asked.elapsed());

    sidecar.stop();
    let status = wait(&announcer, |status| !status.up).await;
    assert!(status.reason.unwrap().contains("BIRD does not answer"));
    wish.send_replace(Some(want(&BOTH)));
    sidecar.run().await;
    wait(&announcer, |status| status.up && status.announced.len() == BOTH.len()).await;

    // By hand, and undone.
    sidecar.birdc("disable lb_vips4");
    wait(&announcer, |status| status.announced.len() != BOTH.len()).await;
    wait(&announcer, |status| status.up && status.announced.len() == BOTH.len()).await;

    drop(announcer);
    sleep(Duration::from_millis(100)).await;
    assert!(sidecar.birdc("show route").contains("198.51.100.1/32"));
    lb_user::bgp::withdraw_all(&sidecar.config()).await.unwrap();
    assert!(!sidecar.birdc("show route").contains("198.51.100.1/32"));
    assert!(Path::new(&sidecar.include()).exists());
}
