//! A runner with a kernel that does all it is asked for and remembers it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::agent::Changes;
use crate::agent::dataplane::{
    Adopted, Applied, Counter, Dataplane, DataplaneError, Interface, Kernel, Opened, Role, Want,
};
use crate::agent::readings::{Readings, ServiceTraffic};
use crate::agent::runner::{Command, Runner};
use crate::agent::status::Status;
use crate::bgp::Announcements;
use crate::config::{Config, ConfigErrors};
use crate::dataplane::nexthops::Sources;
use crate::desired::{Path, Paths, Serving};
use crate::director_model::assumed;
use crate::model::HostId;
use crate::trace::Seen;

/// A runner, and the ends by which tests hold it.
pub(super) struct Node {
    pub(super) folder: TempDir,
    pub(super) fake: Arc<Fake>,
    pub(super) routes: watch::Receiver<Option<Announcements>>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) task: JoinHandle<Result<(), DataplaneError>>,
}

impl Node {
    pub(super) async fn start(text: &str, fake: Fake) -> Self {
        Self::start_with(text, fake, |_| {}).await
    }

    pub(super) async fn start_with(text: &str, fake: Fake, prepare: impl FnOnce(&std::path::Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let (file, mut config) = written(&folder, text);
        // The configuration refuses hosts on this machine, where these tests probe them.
        let checked = config.model.pools.iter_mut().filter(|(name, _)| !config.checks[*name].is_empty());
        for host in checked.flat_map(|(_, pool)| pool.hosts.values_mut()) {
            host.address4 = Some([127, 0, 0, 1].into());
        }
        let fake = Arc::new(fake);
        let runner = Runner::start(file, config, fake.clone()).await.unwrap();
        let (commands, for_runner) = mpsc::channel(1);
        let (routes, status) = (runner.routes(), runner.status());
        let task = tokio::spawn(runner.run(for_runner));
        Node { folder, fake, routes, status, commands, task }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, text: &str) {
        written(&self.folder, text);
    }

    pub(super) async fn reload(&self) -> Result<Changes, ConfigErrors> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Reload(Some(reply))).await.unwrap();
        answer.await.unwrap()
    }

    /// Waits until exactly 198.51.100.N are to be announced.
    pub(super) async fn announces(&mut self, numbers: &[u8]) {
        let wanted: BTreeSet<IpAddr> = numbers.iter().map(|number| [198, 51, 100, *number].into()).collect();
        let is = |want: &Option<Announcements>| {
            want.as_ref()
                .is_some_and(|w| w.routes.iter().map(|r| r.address).collect::<BTreeSet<_>>() == wanted)
        };
        let waited = timeout(lb_test_support::PATIENCE, self.routes.wait_for(is)).await.map(drop);
        assert!(waited.is_ok(), "wanted {wanted:?}, got {:?}", self.routes.borrow());
    }

    pub(super) async fn status_when(&mut self, is: impl Fn(&Status) -> bool) -> Status {
        let found = timeout(lb_test_support::PATIENCE, self.status.wait_for(|status| is(status))).await;
        let found = found.map(|status| Status::clone(&status.unwrap()));
        found.unwrap_or_else(|_| panic!("the status stays {:#?}", self.status.borrow()))
    }

    pub(super) async fn eventually(&self, is: impl Fn(&Fake) -> bool) {
        let waiting = async {
            while !is(&self.fake) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(lb_test_support::PATIENCE, waiting).await.expect("it should have happened by now");
    }
}

/// Writes the file, with all paths in this folder.
pub(super) fn written(folder: &TempDir, text: &str) -> (PathBuf, Config) {
    let place = folder.path().display().to_string();
    let text =
        format!("node: node\napi: {place}/s\ndisable_file: {place}/disable\nleave_file: {place}/leave\n")
            + &text.replace("DIR", &place);
    let file = folder.path().join("lb.yaml");
    fs::write(&file, &text).unwrap();
    let config = Config::parse("lb.yaml", &text, "node");
    (file, config.unwrap_or_else(|_| Config::parse("", "agent_check:", "node").unwrap()))
}

/// A kernel that does all it is asked for and remembers it.
pub(super) struct Fake {
    adopted: Option<Adopted>,
    pub(super) paths: watch::Sender<Paths>,
    pub(super) refusal: Arc<Mutex<Option<String>>>,
    pub(super) wants: Arc<Mutex<Vec<Want>>>,
    pub(super) opened: Mutex<u32>,
    pub(super) detached: Mutex<u32>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            adopted: None,
            paths: watch::Sender::new(paths(&["a", "b"])),
            refusal: Arc::default(),
            wants: Arc::default(),
            opened: Mutex::default(),
            detached: Mutex::default(),
        }
    }
}

impl Fake {
    pub(super) fn adopting(self, healthy: &[&str]) -> Self {
        let healthy = healthy.iter().map(|name| (id(name), true)).collect();
        Fake { adopted: Some(Adopted { healthy }), ..self }
    }

    pub(super) fn without_paths(self) -> Self {
        Fake { paths: watch::Sender::new(Paths::new()), ..self }
    }

    pub(super) fn wants(&self) -> Vec<Want> {
        self.wants.lock().unwrap().clone()
    }

    pub(super) fn last(&self) -> Want {
        self.wants().pop().expect("asked at least once")
    }
}

impl Kernel for Fake {
    fn open(&self, _: &Config) -> Result<Opened, DataplaneError> {
        *self.opened.lock().unwrap() += 1;
        let dataplane = FakeDataplane { wants: self.wants.clone(), refusal: self.refusal.clone() };
        let (adopted, paths) = (self.adopted.clone(), self.paths.subscribe());
        Ok(Opened { dataplane: Box::new(dataplane), adopted, paths })
    }

    fn detach(&self, _: &Config) -> Result<(), DataplaneError> {
        *self.detached.lock().unwrap() += 1;
        Ok(())
    }
}

struct FakeDataplane {
    pub(super) wants: Arc<Mutex<Vec<Want>>>,
    pub(super) refusal: Arc<Mutex<Option<String>>>,
}

impl Dataplane for FakeDataplane {
    fn apply(&mut self, want: &Want) -> Applied {
        self.wants.lock().unwrap().push(want.clone());
        let serving = match self.refusal.lock().unwrap().clone() {
            None => Ok(Serving { generation: 1, digest: 0xab }),
            Some(refusal) => Err(refusal),
        };
        let services = want.config.model.services.keys().map(|key| (*key, serving.clone())).collect();
        let interface = Interface { name: "eth0".into(), role: Role::Director, mode: "xdp-native".into() };
        // With every table that a host's program would have.
        let table = |pool: &String| ((Role::Host, pool.clone()), Serving { generation: 1, digest: 0xab });
        let tables = want.config.model.pools.keys().map(table).collect();
        Applied {
            services,
            tables,
            marks: BTreeMap::new(),
            interfaces: vec![interface],
            ..Applied::default()
        }
    }

    fn seen(&mut self) -> Option<Seen> {
        let want = self.wants.lock().unwrap().last().cloned()?;
        let view = assumed::view(want.config.model.clone(), Sources::default(), 1500, &[]).ok()?;
        let serving = Serving { generation: 1, digest: 0xab };
        let confirmed = want.config.model.services.keys().map(|key| (*key, Ok(serving.clone()))).collect();
        Some(Seen { view, confirmed })
    }

    fn readings(&mut self) -> Result<Readings, DataplaneError> {
        let services = self.wants.lock().unwrap().last().map(|want| want.config.model.services.clone());
        let traffic = |service| ServiceTraffic { service, packets: 0, bytes: 0 };
        let services = services.unwrap_or_default().into_keys().map(traffic).collect();
        Ok(Readings { services, ..Readings::default() })
    }

    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError> {
        Ok(vec![Counter { role: Role::Director, name: "forwarded", help: "Sent to a host.", value: 7 }])
    }
}

pub(super) fn paths(hosts: &[&str]) -> Paths {
    let usable = Path { usable4: true, usable6: true, reason: None };
    hosts.iter().map(|name| (id(name), usable.clone())).collect()
}

pub(super) fn id(host: &str) -> HostId {
    HostId { pool: "web".into(), host: host.into() }
}
