//! The resolver on the real kernel: two namespaces joined by a veth pair, `a` (10.77.0.1) and `b` (10.77.0.2).
//!
//! Namespaces live as long as this test holds them, so that nothing is left behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lb_test_support::PATIENCE;
use lb_user::netlink::{NextHop, NextHops, Resolver};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::watch;
use tokio::time::timeout;

const B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A network namespace of its own, gone with the last process and descriptor in it.
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare a network namespace");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Namespace(file.join().unwrap());
        namespace.ip("link set lo up");
        namespace
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    fn run(&self, command: &str) {
        let status = self.inside(|| Command::new("sh").args(["-c", command]).status().unwrap());
        assert!(status.success(), "{command}: {status}");
    }

    fn ip(&self, arguments: &str) {
        self.run(&format!("ip {arguments}"));
    }
}

struct Pair {
    a: Namespace,
    b: Namespace,
}

impl Pair {
    fn new() -> Self {
        let (a, b) = (Namespace::new(), Namespace::new());
        let b_path = format!("/proc/{}/fd/{}", std::process::id(), b.0.as_raw_fd());
        a.ip(&format!(
            "link add veth0 address 02:00:00:00:00:0a type veth \
             peer name veth0 address 02:00:00:00:00:0b netns {b_path}"
        ));
        for (namespace, number) in [(&a, 1), (&b, 2)] {
            namespace.ip(&format!("address add 10.77.0.{number}/24 dev veth0"));
            namespace.ip(&format!("address add fd77::{number}/64 dev veth0 nodad"));
            namespace.ip("link set veth0 up");
        }
        // A host that changes its address says so, and is believed at once.
        b.run("echo 1 >/proc/sys/net/ipv4/conf/veth0/arp_notify");
        b.run("echo 1 >/proc/sys/net/ipv6/conf/veth0/ndisc_notify");
        a.run("echo 0 >/proc/sys/net/ipv4/neigh/veth0/locktime");
        Pair { a, b }
    }
}

struct Resolved {
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    next_hops: watch::Receiver<NextHops>,
}

impl Resolved {
    fn start(wanted: &[&str]) -> Self {
        let (wanted, receiver) = watch::channel(addresses(wanted));
        Resolved { wanted, next_hops: Resolver::start(receiver).unwrap() }
    }

    async fn wait(
        &mut self,
        address: &str,
        what: &str,
        test: impl Fn(&Result<NextHop, String>) -> bool,
    ) -> NextHops {
        let address = address.parse().unwrap();
        let wait = self.next_hops.wait_for(|next_hops| next_hops.get(&address).is_some_and(&test));
        if let Ok(next_hops) = timeout(PATIENCE, wait).await {
            return next_hops.unwrap().clone();
        }
        panic!("{address}: want {what}, have {:?}", self.next_hops.borrow().get(&address));
    }

    async fn mac(&mut self, address: &str, mac: [u8; 6]) -> NextHop {
        let what = format!("{mac:x?}");
        let next_hops = self.wait(address, &what, |have| have.as_ref().is_ok_and(|hop| hop.mac == mac)).await;
        next_hops[&address.parse::<IpAddr>().unwrap()].clone().unwrap()
    }

    async fn reason(&mut self, address: &str, reason: &str) {
        self.wait(address, reason, |have| have.as_ref().is_err_and(|have| have.starts_with(reason))).await;
    }
}

fn addresses(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// Runs a test in namespace `a`, or says why not.
fn in_pair(name: &str, test: impl AsyncFnOnce(&Pair) + Send) {
    if !lb_test_support::is_root(name) {
        return;
    }
    let pair = Pair::new();
    pair.a.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(&pair));
    });
}

#[test]
#[ignore = "needs root"]
fn a_host_on_the_link_is_resolved_without_any_traffic() {
    in_pair("a_host_on_the_link_is_resolved_without_any_traffic", async |_| {
        let mut resolved = Resolved::start(&["10.77.0.2", "fd77::2"]);
        let hop = resolved.mac("10.77.0.2", B_MAC).await;
        assert_eq!(hop.source_mac, [2, 0, 0, 0, 0, 0xa]);
        assert_eq!(hop.mtu, 1500);
        assert_eq!(hop.source, Some("10.77.0.1".parse().unwrap()));
        let hop = resolved.mac("fd77::2", B_MAC).await;
        assert_eq!(hop.source, Some("fd77::1".parse().unwrap()));
    });
}

#[test]
#[ignore = "needs root"]
fn a_host_that_changes_its_address_is_followed() {
    in_pair("a_host_that_changes_its_address_is_followed", async |pair| {
        let mut resolved = Resolved::start(&["10.77.0.2", "fd77::2"]);
        resolved.mac("10.77.0.2", B_MAC).await;
        resolved.mac("fd77::2", B_MAC).await;
        pair.b.ip("link set veth0 address 02:00:00:00:00:bb");
        resolved.mac("10.77.0.2", [2, 0, 0, 0, 0, 0xbb]).await;
        resolved.mac("fd77::2", [2, 0, 0, 0, 0, 0xbb]).await;
        pair.a.ip("link set veth0 address 02:00:00:00:00:aa");
        let ours = |have: &Result<NextHop, String>| {
            have.as_ref().is_ok_and(|hop| hop.source_mac == [2, 0, 0, 0, 0, 0xaa])
        };
        resolved.wait("10.77.0.2", "our own new address", ours).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_deleted_neighbour_comes_back() {
    in_pair("a_deleted_neighbour_comes_back", async |pair| {
        let mut resolved = Resolved::start(&["10.77.0.2"]);
        resolved.mac("10.77.0.2", B_MAC).await;
        pair.b.ip("link set veth0 arp off");
        pair.a.ip("neighbour delete 10.77.0.2 dev veth0");
        resolved.reason("10.77.0.2", "no neighbour entry for 10.77.0.2 on veth0").await;
        pair.b.ip("link set veth0 arp on");
        resolved.mac("10.77.0.2", B_MAC).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_host_that_does_not_answer_has_a_reason_and_is_found_when_it_comes() {
    in_pair("a_host_that_does_not_answer_has_a_reason_and_is_found_when_it_comes", async |pair| {
        let mut resolved = Resolved::start(&["10.77.0.9"]);
        resolved.reason("10.77.0.9", "no neighbour entry for 10.77.0.9 on veth0 (state failed)").await;
        pair.b.ip("address add 10.77.0.9/24 dev veth0");
        resolved.mac("10.77.0.9", B_MAC).await;
    });
}

#[test]
#[ignore = "needs root"]
fn routes_are_followed_as_they_come_change_and_go() {
    in_pair("routes_are_followed_as_they_come_change_and_go", async |pair| {
        let mut resolved = Resolved::start(&["10.88.0.1", "fd88::1"]);
        resolved.reason("10.88.0.1", "no route to 10.88.0.1: ").await;
        resolved.reason("fd88::1", "no route to fd88::1: ").await;
        pair.a.ip("route add 10.88.0.0/16 via 10.77.0.2 mtu 1400");
        pair.a.ip("route add fd88::/16 via fd77::2");
        assert_eq!(resolved.mac("10.88.0.1", B_MAC).await.mtu, 1400);
        resolved.mac("fd88::1", B_MAC).await;

        pair.a.ip("route add 10.88.0.1/32 via 10.77.0.9");
        resolved.reason("10.88.0.1", "no neighbour entry for 10.77.0.9 on veth0").await;
        pair.a.ip("route delete 10.88.0.1/32");
        resolved.mac("10.88.0.1", B_MAC).await;

        pair.a.ip("route replace unreachable 10.88.0.0/16");
        resolved.reason("10.88.0.1", "no route to 10.88.0.1: ").await;
        pair.a.ip("route replace 10.88.0.0/16 via inet6 fd77::2");
        resolved.mac("10.88.0.1", B_MAC).await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_link_that_goes_down_and_up_is_followed() {
    in_pair("a_link_that_goes_down_and_up_is_followed", async |pair| {
        let mut resolved = Resolved::start(&["10.77.0.2"]);
        resolved.mac("10.77.0.2", B_MAC).await;
        pair.b.ip("link set veth0 down");
        resolved.reason("10.77.0.2", "veth0 has no carrier").await;
        pair.b.ip("link set veth0 up");
        resolved.mac("10.77.0.2", B_MAC).await;
    });
}

#[test]
#[ignore = "needs root"]
fn the_set_of_addresses_may_change() {
    in_pair("the_set_of_addresses_may_change", async |_| {
        let mut resolved = Resolved::start(&[]);
        resolved.wanted.send_replace(addresses(&["10.77.0.2", "10.77.0.1"]));
        resolved.mac("10.77.0.2", B_MAC).await;
        resolved.reason("10.77.0.1", "no route to 10.77.0.1: it is an address of this node").await;
        resolved.wanted.send_replace(addresses(&["fd77::2"]));
        let next_hops = resolved.wait("fd77::2", "an answer", Result::is_ok).await;
        assert_eq!(next_hops.len(), 1);
    });
}

#[test]
#[ignore = "needs root"]
fn lost_events_are_made_up_for() {
    in_pair("lost_events_are_made_up_for", async |pair| {
        let mut resolved = Resolved::start(&["10.77.0.2", "10.88.0.1"]);
        resolved.mac("10.77.0.2", B_MAC).await;
        // This blocks the only thread of the runtime: nobody reads the events, and 4 MiB of them overflow.
        pair.a.run(
            "seq 1 20000 | while read n; do echo route add 10.99.$((n / 250)).$((n % 250))/32 via 10.77.0.2; done |
             ip -batch - && ip neighbour replace 10.77.0.2 lladdr 02:00:00:00:00:cc dev veth0 nud permanent &&
             ip route add 10.88.0.0/16 via 10.77.0.2",
        );
        resolved.mac("10.77.0.2", [2, 0, 0, 0, 0, 0xcc]).await;
        resolved.mac("10.88.0.1", [2, 0, 0, 0, 0, 0xcc]).await;
    });
}

#[test]
#[ignore = "needs root"]
fn the_task_ends_with_its_readers_and_unneeded_neighbours_are_let_go() {
    in_pair("the_task_ends_with_its_readers_and_unneeded_neighbours_are_let_go", async |pair| {
        let managed = || {
            let show = || Command::new("ip").args(["neighbour", "show", "10.77.0.2"]).output().unwrap();
            String::from_utf8(pair.a.inside(show).stdout).unwrap().contains("managed")
        };
        let mut resolved = Resolved::start(&["10.77.0.2"]);
        resolved.mac("10.77.0.2", B_MAC).await;
        if !managed() {
            println!("this kernel does not keep neighbours by itself (before 5.16)");
        }
        resolved.wanted.send_replace(addresses(&["fd77::2"]));
        resolved.mac("fd77::2", B_MAC).await;
        timeout(PATIENCE, async {
            while managed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the neighbour is let go");
        let Resolved { wanted, next_hops } = resolved;
        drop(next_hops);
        timeout(PATIENCE, wanted.closed()).await.expect("the task drops its side");
    });
}
