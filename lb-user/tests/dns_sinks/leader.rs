//! Several agents with the same sink, of which one writes; on a real etcd that serves the election and the records.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use lb_test_support::{PATIENCE, check, stays_async, wait_until_async};
use lb_user::dns::sink::Store;
use lb_user::dns::sink::skydns::SkyDns;

use super::agents::Node;
use super::servers::{Server, isolated, wait_until};
use super::wanted;

const ETCD: &str = "http://127.0.0.1:2379";
/// A member that takes connections and says nothing, as one whose machine hangs.
const SILENT: &str = "http://127.0.0.1:2378";

/// Names that follow a file, in etcd, written by whoever leads.
fn configuration(node: &str) -> String {
    format!(
        "node: {node}
dns:
  checks: {{operator: {{type: extfile, file: FOLDER/ext}}}}
  zones: {{example.org: {{ns: [ns1], records: [ns1 A 192.0.2.3], names: {{www: {{checks: [operator], \
         members: [192.0.2.1, 192.0.2.2]}}}}}}}}
  sinks: {{coredns: {{type: etcd, urls: {ETCD}}}}}
  leader: {{etcd: [{SILENT}, {ETCD}]}}
"
    )
}

/// The addresses of www in etcd.
async fn records() -> BTreeSet<String> {
    let places = wanted(&[("www", &[])]).into_keys().collect();
    let held = SkyDns::new(vec![ETCD.into()], "/skydns").read(&places).await.unwrap_or_default();
    held.values().flat_map(|addresses| &addresses.all).map(ToString::to_string).collect()
}

async fn wait_for(what: &str, addresses: &[&str]) {
    let want: BTreeSet<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    wait_until_async(what, PATIENCE, async || {
        let held = records().await;
        check(held == want, format!("{held:?}"))
    })
    .await;
}

fn leads(node: &Node) -> bool {
    node.status().contains("this node writes to the sinks")
}

#[test]
#[ignore = "needs root"]
fn one_of_several_agents_writes() {
    isolated("one of several agents writes", &["etcd"], || async {
        let _silent = TcpListener::bind("127.0.0.1:2378").expect("a listener");
        let mut etcd = Server::etcd();
        etcd.start();
        let start = |number: u8| async move {
            let node = format!("n{number}");
            Node::start(&format!("127.0.0.1{number}"), &configuration(&node)).await
        };
        let first = start(1).await;
        wait_until("the first leads", || leads(&first)).await;
        wait_for("it writes", &["192.0.2.1", "192.0.2.2"]).await;
        let (second, third) = (start(2).await, start(3).await);
        let follows = |node: &Node| {
            let status = node.status();
            status.contains("n1 writes to the sinks") && status.contains("standby")
        };
        wait_until("the others stand by", || follows(&second) && follows(&third)).await;
        // What a follower sees it does not write.
        for node in [&second, &third] {
            fs::write(node.path("ext"), "192.0.2.1 => DOWN\n").expect("a file");
        }
        let time = Duration::from_secs(1);
        stays_async("what a follower sees", time, async || {
            let held = records().await;
            check(held.len() == 2, format!("{held:?}"))
        })
        .await;
        // The leader dies without a word.
        let killed = Instant::now();
        drop(first);
        wait_for("another writes", &["192.0.2.2"]).await;
        println!("figure: a leader was killed, and the next wrote after {:.1?} (goal 2 s)", killed.elapsed());
        assert!(leads(&second) != leads(&third));
        // One that is disabled gives way at once.
        let (leader, other) = if leads(&second) { (second, third) } else { (third, second) };
        fs::write(other.path("ext"), "192.0.2.2 => DOWN\n").expect("a file");
        fs::write(leader.path("disable"), "").expect("a switch");
        let disabled = Instant::now();
        wait_for("the last one writes", &["192.0.2.1"]).await;
        println!("figure: a leader was disabled, and the next wrote after {:.1?}", disabled.elapsed());
        // While etcd says nothing a lease ends as it would otherwise, and nobody leads; what is written stays.
        etcd.sh("pkill -STOP -f '[-]-data-dir FOLDER/data'");
        let silent = Instant::now();
        // A lease that a busy machine lost before may have left another name there.
        wait_until("nobody leads", || {
            let status = other.status();
            status.contains("to the sinks") && !status.contains("this node writes")
        })
        .await;
        println!(
            "figure: etcd hung, and the leader stopped writing after {:.1?} (lease: 2 s)",
            silent.elapsed()
        );
        etcd.sh("pkill -CONT -f '[-]-data-dir FOLDER/data'");
        wait_until("the same as before leads", || leads(&other)).await;
        wait_for("the records are as they were", &["192.0.2.1"]).await;
    });
}
