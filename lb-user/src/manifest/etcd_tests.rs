//! Against a real etcd, where it is installed.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::*;

/// An etcd of its own; it ends with the value.
struct Etcd {
    process: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Option<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (url, peer) = (format!("http://127.0.0.1:{}", free()), format!("http://127.0.0.1:{}", free()));
        let data = tempfile::tempdir().unwrap();
        let started = Command::new("etcd")
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(data.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(process) => Some(Etcd { process, url, _data: data }),
            Err(error) => {
                let reason = format!("etcd cannot be started: {error}; run: sudo scripts/setup");
                lb_test_support::skip(&lb_test_support::this_test(), reason);
                None
            }
        }
    }

    fn store(&self) -> EtcdStore {
        // The first member is always down: the second one is asked.
        EtcdStore::new(vec!["http://127.0.0.1:1".into(), self.url.clone()], "/lb/manifest".into())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn version(version: u64) -> Manifest {
    Manifest { version, ..Manifest::default() }
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn one_editor_wins_the_other_is_told_and_watchers_wake() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    let ready = async {
        while store.read().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(lb_test_support::PATIENCE, ready).await.expect("etcd answers");
    assert_eq!(store.read().await, Ok(None));
    store.replace(0, &version(1)).await.unwrap();
    assert_eq!(store.read().await, Ok(Some(version(1))));
    let other = etcd.store();
    let (second, third) = (version(2), version(2));
    let (one, two) = tokio::join!(store.replace(1, &second), other.replace(1, &third));
    let refused = StoreError::Moved { now: 2, base: 1 };
    assert!(
        (one == Ok(()) && two == Err(refused.clone())) || (two == Ok(()) && one == Err(refused)),
        "one wins: {one:?} {two:?}"
    );
    let edit = async {
        sleep(Duration::from_millis(200)).await;
        store.replace(2, &version(3)).await.unwrap();
    };
    let begun = std::time::Instant::now();
    let ((), ()) = tokio::join!(other.changed(2), edit);
    assert!(begun.elapsed() < WATCH, "woken by the watch: {:?}", begun.elapsed());
    assert_eq!(other.read().await, Ok(Some(version(3))));
    timeout(lb_test_support::PATIENCE, other.changed(2)).await.expect("what was missed is seen at once");
    let key = json!({"key": encode(b"/lb/manifest"), "value": encode(b"version: x")});
    store.etcd.ask("/v3/kv/put", &key).await.unwrap();
    assert!(matches!(store.read().await, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn nobody_there_is_said_with_every_address() {
    let store = EtcdStore::new(vec!["http://127.0.0.1:1".into(), "http://[::1]:1".into()], "/k".into());
    let error = store.read().await.unwrap_err().to_string();
    assert!(error.starts_with("nobody who has the manifest answers: http://127.0.0.1:1: "), "{error}");
    assert!(error.contains("http://[::1]:1: "), "{error}");
}
