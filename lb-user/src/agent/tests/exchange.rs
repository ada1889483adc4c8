//! Agents that listen to each other, over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use lb_test_support::{check, wait_until_async};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::fake::{Fake, Node, id, written};
use crate::model::Doubt;
use crate::peers::client::Client;
use crate::peers::report::{Answers, TableReport};
use crate::peers::{PeerStatus, PeerUrl, Report};

const HOST: &str = "
host: {interfaces: [eth0], accept_from: [192.0.2.0/24]}
pools: {web: {hosts: {a: {address4: 192.0.2.1}, b: {address4: 192.0.2.2}, c: {address4: 192.0.2.3}}}}
services: [{vip: 198.51.100.1, port: 80, pool: web}]
";

/// A node that answers with a report that the test changes.
struct Other {
    url: String,
    report: Arc<Mutex<Report>>,
    tasks: JoinSet<()>,
}

impl Other {
    async fn start(node: &str, silent: &[&str], answering: usize) -> Self {
        let silent = silent.iter().map(|host| (*host).to_owned()).collect();
        let report = Report {
            node: node.into(),
            roles: vec!["director".into()],
            answers: [("web".to_owned(), Answers { silent, answering })].into(),
            ..Report::default()
        };
        let report = Arc::new(Mutex::new(report));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::clone(&report);
        let tag = |report: &Report| format!("\"{:x}\"", report.manifest_version.unwrap_or(0));
        let routes = Router::new().route(
            "/v1/report",
            get(async move || {
                // A short poll, so that the test's changes are seen soon.
                sleep(Duration::from_millis(20)).await;
                let report = answer.lock().unwrap().clone();
                ([("etag", tag(&report))], Json(report))
            }),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Other { url, report, tasks }
    }
}

#[tokio::test]
async fn what_directors_hear_of_hosts_reaches_the_host_program_and_ends_with_them() {
    let mut others = [Other::start("lb4-1", &["a"], 2).await, Other::start("lb4-2", &[], 3).await];
    let text = format!("{HOST}peers: {{nodes: [{:?}, {:?}]}}\n", others[0].url, others[1].url);
    let node = Node::start(&text, Fake::default()).await;
    let doubts = |doubt| [(id("a"), doubt)].into();
    node.eventually(|fake| fake.wants().last().is_some_and(|want| want.doubts == doubts(Doubt::Suspected)))
        .await;
    others[1].report.lock().unwrap().answers = others[0].report.lock().unwrap().answers.clone();
    node.eventually(|fake| fake.last().doubts == doubts(Doubt::Dead)).await;
    others[0].report.lock().unwrap().answers.clear();
    others[1].report.lock().unwrap().answers.clear();
    node.eventually(|fake| fake.last().doubts.is_empty()).await;

    others[0].report.lock().unwrap().answers =
        [("web".into(), Answers { silent: ["b".into()].into(), answering: 2 })].into();
    node.eventually(|fake| !fake.last().doubts.is_empty()).await;
    let gone = Instant::now();
    others[0].tasks.shutdown().await;
    node.eventually(|fake| fake.last().doubts.is_empty()).await;
    assert!(gone.elapsed() > Duration::from_secs(3), "its word counts for a while");
}

#[tokio::test]
async fn nodes_that_hold_different_tables_are_a_warning() {
    let other = Other::start("lb4-1", &[], 3).await;
    let table = |digest: &str| TableReport {
        pool: "web".into(),
        role: crate::agent::dataplane::Role::Director,
        generation: 1,
        digest: digest.into(),
    };
    other.report.lock().unwrap().tables = vec![table("01")];
    let text = format!("{HOST}peers: {{nodes: [{:?}]}}\n", other.url);
    let mut node = Node::start(&text, Fake::default()).await;
    let status = node.status_when(|status| !status.warnings.is_empty()).await;
    assert!(
        status.warnings[0].starts_with(
            "pool web: nodes hold different tables: 00000000000000ab on node (host); 01 on lb4-1 (director)"
        ),
        "{:?}",
        status.warnings
    );
    other.report.lock().unwrap().tables = vec![table("00000000000000ab")];
    node.status_when(|status| status.warnings.is_empty()).await;
}

#[tokio::test]
async fn an_agent_answers_other_nodes_at_once_when_there_is_news_and_finds_itself() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url: PeerUrl = format!("http://{address}").parse().unwrap();
    let peers = format!("peers: {{listen: \"{address}\", nodes: [\"{url}\"]}}\n");
    let (file, config) = written(&folder, &format!("{HOST}{peers}"));
    let agent = tokio::spawn(crate::agent::run(file, config, Arc::new(Fake::default())));
    let mut client = Client::new(url.clone());
    let patience = lb_test_support::PATIENCE;
    // Its own address is not another node, once it has asked there.
    wait_until_async("it finds itself", patience, async || {
        let answer = client.get("/v1/peers", patience).await.map_err(|error| error.to_string())?;
        let known: Vec<PeerStatus> = answer.json().map_err(|error| error.to_string())?;
        check(known.len() == 1, format!("{known:?}"))
    })
    .await;
    let first = client.get("/v1/report", patience).await.unwrap();
    let report: Report = first.json().unwrap();
    assert_eq!((report.node.as_str(), report.roles.as_slice()), ("node", ["host".to_owned()].as_slice()));
    // There may be news while it starts.
    let mut known = first.etag.unwrap();
    timeout(patience, async {
        loop {
            let path = format!("/v1/report?after={}&wait=1", known.trim_matches('"'));
            let asked = Instant::now();
            let answer = client.get(&path, patience).await.unwrap();
            if answer.status == 304 {
                break assert!(asked.elapsed() >= Duration::from_secs(1));
            }
            assert_eq!(answer.status, 200);
            known = answer.etag.unwrap();
        }
    })
    .await
    .expect("in the end there is no news");
    let refused = client.get("/v1/detach", patience).await.unwrap().json::<Report>().unwrap_err().to_string();
    assert!(refused.starts_with("no such path: /v1/detach; there are GET /v1/status"), "{refused}");
    agent.abort();
    let _ = timeout(patience, agent).await;
}

#[tokio::test]
async fn who_is_not_allowed_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = format!("{HOST}peers: {{listen: \"{address}\", allow: [192.0.2.0/24]}}\n");
    let (file, config) = written(&folder, &text);
    let agent = tokio::spawn(crate::agent::run(file, config, Arc::new(Fake::default())));
    let mut client = Client::new(format!("http://{address}").parse().unwrap());
    let answer = loop {
        match client.get("/v1/report", lb_test_support::PATIENCE).await {
            Ok(answer) => break answer,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    let error = answer.json::<Report>().unwrap_err().to_string();
    assert_eq!(error, "127.0.0.1 may not ask here; add it to peers.allow of this node");
    agent.abort();
}
