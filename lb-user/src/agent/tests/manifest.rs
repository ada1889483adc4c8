//! Agents that share a manifest.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::fake::{Fake, Node, paths, written};
use crate::agent::AgentError;
use crate::agent::status::Status;
use crate::cli::client::{self, ClientError};
use crate::manifest::Manifest;
use crate::manifest::edit::Edit;
use crate::manifest::follow::Edited;
use crate::manifest::plan::Plan;
use crate::manifest::routes::{Missing, Request};
use crate::model::HostState;

const NODE: &str = "
manifest: {file: DIR/manifest.yaml}
director: {interfaces: [eth0]}
services: [{vip: 198.51.100.1, port: 80, pool: web}]
";
const BGP: &str = "bgp: {driver: bird, bird: {include: DIR/lb.conf, control: DIR/bird.ctl}}\n";
const MANIFEST: &str = "
version: 1
pools: {web: {size: 251, generation: 1, hosts: {a: {address4: 192.0.2.1}, b: {address4: 192.0.2.2}}}}
";

fn with_manifest(folder: &Path) {
    fs::write(folder.join("manifest.yaml"), MANIFEST).unwrap();
}

#[tokio::test]
async fn the_pools_of_the_manifest_are_those_of_the_kernel() {
    let mut node = Node::start_with(&(NODE.to_owned() + BGP), Fake::default(), with_manifest).await;
    node.announces(&[1]).await;
    let config = node.fake.last().config.clone();
    assert_eq!(config.manifest_version, Some(1));
    assert_eq!(config.model.pools["web"].hosts.len(), 2);
    let status = node.status_when(|status| status.hosts.len() == 2).await.manifest.unwrap();
    assert_eq!((status.version, status.confirmed, status.problem), (Some(1), Some(1), None));
}

#[tokio::test]
async fn without_a_manifest_nothing_is_touched_and_the_reason_is_said() {
    let mut node = Node::start(&(NODE.to_owned() + BGP), Fake::default().adopting(&["a", "b"])).await;
    let status = node.status_when(|status| !status.services.is_empty()).await;
    assert_eq!(status.services[0].reason.as_deref(), Some("waits for the manifest"));
    assert!(status.reasons.contains(&"waits for the manifest".to_owned()), "{:?}", status.reasons);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(node.fake.wants(), []);
    assert_eq!(*node.routes.borrow(), None, "what an earlier agent announced stays");
    fs::write(node.path("manifest.yaml"), MANIFEST).unwrap();
    node.announces(&[1]).await;
    assert_eq!(node.fake.last().config.manifest_version, Some(1));
}

#[tokio::test]
async fn a_manifest_that_does_not_fit_changes_nothing() {
    let mut node = Node::start_with(NODE, Fake::default(), with_manifest).await;
    node.eventually(|fake| !fake.wants().is_empty()).await;
    for (text, problem) in [
        ("version: 2\npols: {}\n", "unknown key; did you mean \"pools\"?"),
        (&MANIFEST.replace("version: 1", "version: 0"), "0 is no version"),
        ("version: 2\npools: {}\n", "pools.web: gone, but services here use it; remove them first"),
        (
            &MANIFEST.replace("version: 1", "version: 3").replace("192.0.2.1}", "198.51.100.1}"),
            "198.51.100.1 is the VIP of service 198.51.100.1:80/tcp here; give the host its own address",
        ),
    ] {
        fs::write(node.path("manifest.yaml"), text).unwrap();
        let said = |status: &Status| {
            let manifest = status.manifest.as_ref().unwrap();
            manifest.problem.as_ref().is_some_and(|said| said.contains(problem))
        };
        let status = node.status_when(said).await;
        assert_eq!(status.manifest.unwrap().version, Some(1), "{problem}");
    }
    assert!(node.fake.wants().iter().all(|want| want.config.manifest_version == Some(1)));
}

#[tokio::test]
async fn hosts_in_both_places_are_refused_with_their_line() {
    let both = NODE.replace("services:", "pools: {web: {hosts: {c: {address4: 192.0.2.3}}}}\nservices:");
    let mut node = Node::start_with(&both, Fake::default(), with_manifest).await;
    let status =
        node.status_when(|status| status.manifest.as_ref().is_some_and(|m| m.problem.is_some())).await;
    let problem = status.manifest.unwrap().problem.unwrap();
    assert!(problem.contains("lb.yaml:8:15: pools.web.hosts: "), "{problem}");
    assert!(
        problem.ends_with("manifest.yaml has this pool as well; remove its hosts from one of the two"),
        "{problem}"
    );
}

/// An agent with its API.
struct Agent {
    folder: TempDir,
    fake: Arc<Fake>,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    fn start(manifest: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = NODE.replace("DIR/manifest.yaml", &manifest.display().to_string());
        let (file, config) = written(&folder, &text);
        let fake = Arc::new(Fake::default());
        fake.paths.send_replace(paths(&["a", "b"]));
        let task = tokio::spawn(crate::agent::run(file, config, fake.clone()));
        Agent { folder, fake, task }
    }

    async fn get(&self, path: &str) -> Vec<u8> {
        let socket = self.folder.path().join("s");
        let answer = async {
            loop {
                match client::request(&socket, Method::GET, path).await {
                    Ok(body) => return body.to_vec(),
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(lb_test_support::PATIENCE, answer).await.expect("the agent answers")
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        edit: &Edit,
        base: Option<u64>,
    ) -> Result<T, ClientError> {
        let request = Request { edit: edit.clone(), base };
        let body = client::post(&self.folder.path().join("s"), path, &request).await?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    async fn confirms(&self, version: u64) {
        let confirmed = async {
            loop {
                let body = self.get(&format!("/v1/manifest/confirmed?version={version}")).await;
                let missing: Missing = serde_json::from_slice(&body).unwrap();
                if missing.missing.is_empty() {
                    return;
                }
                assert_eq!(missing.missing, ["node"]);
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(lb_test_support::PATIENCE, confirmed).await.expect("confirmed");
    }
}

#[tokio::test]
async fn what_one_agent_edits_the_other_goes_by_step_by_step() {
    let shared = tempfile::tempdir().unwrap();
    with_manifest(shared.path());
    let file = shared.path().join("manifest.yaml");
    let (one, two) = (Agent::start(&file), Agent::start(&file));
    one.confirms(1).await;
    two.confirms(1).await;
    let drain = Edit::Drain { pool: "web".into(), hosts: ["a".to_owned()].into() };
    let plan: Plan = one.post("/v1/plan", &drain, None).await.unwrap();
    assert_eq!((plan.base, plan.version, plan.refusal), (1, 3, None));
    let first: Edited = one.post("/v1/edit", &drain, Some(1)).await.unwrap();
    assert_eq!((first.version, first.then.len()), (2, 1));
    two.confirms(2).await;
    let prepared = two.fake.last().config.model.pools["web"].clone();
    assert_eq!((prepared.generation, prepared.others[0].number), (1, 2));
    assert_eq!(prepared.hosts["a"].state, HostState::Active);
    let stale = two.post::<Edited>("/v1/edit", &drain, Some(1)).await.unwrap_err().to_string();
    assert_eq!(
        stale,
        "version is now 2, yours was based on 1: somebody else has changed it; look at `lb plan` again"
    );
    let busy = two.post::<Edited>("/v1/edit", &drain, None).await.unwrap_err().to_string();
    assert!(busy.starts_with("generation 2 of pool web is being prepared; wait"), "{busy}");
    let last: Edited = one.post("/v1/edit", &first.then[0], None).await.unwrap();
    assert_eq!((last.version, last.then.len()), (3, 0));
    one.confirms(3).await;
    two.confirms(3).await;
    let drained = two.fake.last().config.model.pools["web"].clone();
    assert_eq!((drained.generation, drained.hosts["a"].state), (2, HostState::Drain));
    let shown = String::from_utf8(two.get("/v1/manifest").await).unwrap();
    assert_eq!(Manifest::parse("shown", &shown).unwrap().version, 3);
    let waiting = two.get("/v1/manifest?after=3");
    let edit = async {
        sleep(Duration::from_millis(50)).await;
        let undrain = Edit::Undrain { pool: "web".into(), hosts: ["a".to_owned()].into() };
        one.post::<Edited>("/v1/edit", &undrain, Some(3)).await.unwrap()
    };
    let (next, _) = tokio::join!(waiting, edit);
    assert!(String::from_utf8(next).unwrap().contains("version: 4"));
    one.task.abort();
    two.task.abort();
}
