//! A node that takes its manifest from another one, over TCP.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::manifest::edit::{Edit, NewHost, NewPool};
use crate::manifest::routes::{Confirmations, Shared, routes};
use crate::manifest::{Config, Manifests, Place, Reading};

struct Nobody;

impl Confirmations for Nobody {
    fn missing(&self, _: u64) -> Vec<String> {
        Vec::new()
    }
}

/// Serves the manifest of a file.
async fn serve(file: &Path) -> (Manifests, String, JoinHandle<()>) {
    let manifests = Manifests::start(&Config { place: Place::File(file.into()), cache: "/unused".into() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (_, receiver) = watch::channel(Some(manifests.clone()));
    let shared = Shared { manifests: receiver, confirmations: Arc::new(Nobody) };
    let server = tokio::spawn(async { axum::serve(listener, routes(shared)).await.unwrap() });
    (manifests, url, server)
}

fn create(pool: &str) -> Edit {
    let host = NewHost { addresses: vec![[192, 0, 2, 1].into()], weight: 1 };
    Edit::Add { pool: pool.into(), hosts: [("a".to_owned(), host)].into(), create: Some(NewPool::default()) }
}

async fn reads(manifests: &Manifests, is: impl Fn(&Reading) -> bool) {
    let mut reading = manifests.reading();
    let waited = timeout(lb_test_support::PATIENCE, reading.wait_for(|reading| is(reading))).await.map(drop);
    assert!(waited.is_ok(), "it stays {:?}", manifests.reading().borrow());
}

fn version(reading: &Reading) -> u64 {
    reading.manifest.as_ref().map_or(0, |manifest| manifest.version)
}

#[tokio::test]
async fn edits_go_to_the_peer_its_versions_come_back_and_the_cache_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let (theirs, url, server) = serve(&folder.path().join("manifest.yaml")).await;
    let config =
        Config { place: Place::Peer(vec![url.clone()]), cache: folder.path().join("var/cache.yaml") };
    let ours = Manifests::start(&config);
    assert_eq!(ours.edit(&create("web"), Some(0)).await.unwrap().version, 1);
    reads(&theirs, |reading| version(reading) == 1).await;
    let begun = std::time::Instant::now();
    theirs.edit(&create("dns"), Some(1)).await.unwrap();
    reads(&ours, |reading| version(reading) == 2).await;
    assert!(begun.elapsed() < PATIENCE, "the peer wakes us: {:?}", begun.elapsed());
    let store = PeerStore::new(vec![url]);
    let last = store.read().await.unwrap().unwrap();
    assert_eq!(store.replace(1, &last).await, Err(StoreError::Moved { now: 2, base: 1 }));

    server.abort();
    let _ = server.await;
    drop(ours);
    let again = Manifests::start(&config);
    let first = again.reading().borrow().clone();
    assert!(version(&first) == 2 && first.cached, "{first:?}");
    reads(&again, |reading| reading.problem.is_some()).await;
    let reading = again.reading().borrow().clone();
    let problem = reading.problem.clone().unwrap();
    assert!(version(&reading) == 2 && reading.cached, "{reading:?}");
    assert!(problem.starts_with("nobody who has the manifest answers: http://127.0.0.1:"), "{problem}");
}
