//! A host is drained: real sockets in a network of their own, a manifest in a file, and a second host that reports.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use hyper::Method;
use lb_test_support::{PATIENCE, check, is_root, this_test, wait_until_async};
use nix::sched::{CloneFlags, unshare};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::fake::{Fake, written};
use crate::agent::status::Status;
use crate::cli::client;
use crate::connections::{Explanation, HostConnections};
use crate::manifest::Manifest;
use crate::peers::Report;

const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xc633, 0x6401));

/// Host a drains; only generation 1 sent it connections.
const MANIFEST: &str = "
version: 1
pools:
  web:
    seed: 0
    size: 251
    generation: 2
    hosts:
      a: {address4: 192.0.2.1, state: drain}
      b: {address4: 192.0.2.2}
    old:
      - {number: 1, hosts: {a: 1, b: 1}}
";

#[test]
#[ignore = "needs root"]
fn a_drained_host_is_safe_when_its_last_connection_ends_and_its_generation_retires() {
    if !is_root(&this_test()) {
        return;
    }
    let isolated = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for arguments in [
            "link set lo up",
            "address add 192.0.2.1/32 dev lo",
            &format!("address add {VIP4}/32 dev lo"),
            &format!("address add {VIP6}/128 dev lo nodad"),
        ] {
            let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(drains());
    };
    std::thread::spawn(isolated).join().unwrap();
}

async fn drains() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("manifest.yaml");
    std::fs::write(&place, MANIFEST).unwrap();
    let asked = Arc::default();
    let (_tasks, other) = other_host(Arc::clone(&asked)).await;
    let text = format!(
        "host: {{interfaces: [lo], accept_from: [192.0.2.0/24], vips: [{VIP4}, \"{VIP6}\"]}}\nservices:\n  - {{vip: {VIP4}, \
         port: 80, pool: web}}\n  - {{vip: \"{VIP6}\", port: 80, pool: web}}\nmanifest: {{file: {}}}\npeers: {{nodes: \
         [\"{other}\"]}}\n",
        place.display()
    );
    let mut clients = Vec::new();
    for vip in [VIP4, VIP6] {
        // The kernel makes the route to an IPv6 address when it gets to it.
        wait_until_async("the VIP can be reached", PATIENCE, async || {
            let connected = TcpStream::connect((vip, 80)).await;
            // Nobody listens yet: refused is reached.
            let refused = connected.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            check(refused, format_args!("{connected:?}"))
        })
        .await;
        let listener = TcpListener::bind((vip, 80)).await.unwrap();
        for _ in 0..20 {
            let client = TcpStream::connect((vip, 80)).await.unwrap();
            clients.push((client, listener.accept().await.unwrap().0));
        }
    }
    // Not to a VIP, so that it must not count.
    let elsewhere = TcpListener::bind((Ipv4Addr::new(192, 0, 2, 1), 80)).await.unwrap();
    let _stray = TcpStream::connect(elsewhere.local_addr().unwrap()).await.unwrap();

    let (file, config) = written(&folder, &text);
    let socket = config.api.clone();
    let agent = tokio::spawn(crate::agent::run(file, config, Arc::new(Fake::default())));
    let held = eventually(&socket, |host| host.established == 40).await;
    assert!(held.draining && !held.safe, "{held:?}");
    // Of two hosts, one owns a row and the other is its backup.
    assert_eq!(held.needs, [(1, 40)].into(), "{held:?}");
    let owned = held.by_generation.iter().filter(|by| by.generation == Explanation::Generation(1));
    let owned: u64 = owned.map(|by| by.established).sum();
    assert!((5..35).contains(&owned), "about half of 40: {held:?}");
    for vip in [VIP4, VIP6] {
        let of_vip = held.by_generation.iter().filter(|by| by.vip == vip.into());
        assert_eq!(of_vip.map(|by| by.established).sum::<u64>(), 20, "{held:?}");
    }
    // Who retires generations asks the other host first. Nobody else does now; by the second time the first look is over.
    let before = asked.load(Relaxed);
    wait_until_async("looks at the old generation", PATIENCE, async || {
        let looks = asked.load(Relaxed) - before;
        check(looks >= 2, looks)
    })
    .await;
    assert_eq!(std::fs::read_to_string(&place).unwrap(), MANIFEST);

    drop(clients);
    let safe = eventually(&socket, |host| host.safe).await;
    assert_eq!((safe.established, safe.half_open), (0, 0));
    wait_until_async("it is retired", PATIENCE, async || {
        let text = std::fs::read_to_string(&place).unwrap();
        let manifest = Manifest::parse("manifest", &text).unwrap();
        check(manifest.pools["web"].old.is_empty(), text)
    })
    .await;
    let body = client::request(&socket, Method::GET, "/v1/status").await.unwrap();
    let status: Status = serde_json::from_slice(&body).unwrap();
    assert_eq!(status.connections.unwrap().len(), 2, "a drains still");
    agent.abort();
}

/// Host b, which holds nothing, and counts how often it is asked for that.
async fn other_host(asked: Arc<AtomicUsize>) -> (JoinSet<()>, String) {
    let listener = TcpListener::bind("192.0.2.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let report = Report {
        node: "z".into(),
        roles: vec!["host".into()],
        manifest_version: Some(1),
        ..Report::default()
    };
    let count = HostConnections {
        node: "z".into(),
        pool: "web".into(),
        host: "b".into(),
        manifest_version: Some(1),
        ..HostConnections::default()
    };
    let routes = Router::new().route("/v1/report", get(async move || Json(report))).route(
        "/v1/connections",
        get(async move || {
            asked.fetch_add(1, Relaxed);
            Json(vec![count])
        }),
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (tasks, format!("http://{address}"))
}

/// What host a holds, once that is as wanted.
async fn eventually(socket: &std::path::Path, is: impl Fn(&HostConnections) -> bool) -> HostConnections {
    let begun = Instant::now();
    loop {
        let answer = client::request(socket, Method::GET, "/v1/connections").await;
        let counts: Vec<HostConnections> =
            answer.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        if let Some(host) = counts.iter().find(|host| host.host == "a" && is(host)) {
            return host.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "host a stays {counts:?}");
        sleep(Duration::from_millis(100)).await;
    }
}
