//! A recursive resolver that finds two agents by the delegation that they print: `configs/dns/traffic-manager.yaml`.

use std::fs;
use std::time::{Duration, Instant};

use lb_test_support::{check, stays_async};

use super::agents::{Node, file, lb};
use super::servers::{Server, ask, dig, isolated, wait_until};

/// TTL of names in this test, in seconds.
const TTL: u64 = 2;

/// `traffic-manager.yaml` for one of two balancers, with a zone whose name servers are within it besides.
fn balancer(address: &str) -> String {
    let own =
        file("traffic-manager.yaml").replace("192.0.2.1", address).replace("ttl: 30", &format!("ttl: {TTL}"));
    format!(
        "{own}    in.example.com:
      ns: [ns1, ns2]
      soa: {{negative: 1}}
      records: [ns1 A 127.0.0.11, ns2 A 127.0.0.12, fix TXT here]
      names: {{www: {{ttl: {TTL}, all_down: servfail, members: [{address}]}}}}
"
    )
}

/// The records of the parent zone: all that the agents' configurations say that it needs, and where the balancers are.
fn parent(node: &Node) -> String {
    let config = node.path("lb.yaml").display().to_string();
    let delegation = lb(&["dns", "delegation", "--config", &config]);
    assert_eq!(
        delegation.lines().collect::<Vec<_>>(),
        [
            "api.example.com. 3600 IN NS lb1.example.com.",
            "api.example.com. 3600 IN NS lb2.example.com.",
            "in.example.com. 3600 IN NS ns1.in.example.com.",
            "in.example.com. 3600 IN NS ns2.in.example.com.",
            "ns1.in.example.com. 3600 IN A 127.0.0.11",
            "ns2.in.example.com. 3600 IN A 127.0.0.12",
        ]
    );
    format!(
        "example.com. 300 IN SOA ns.example.com. hostmaster.example.com. 1 3600 600 86400 30
example.com. 300 IN NS ns.example.com.
ns.example.com. 300 IN A 127.0.0.1
lb1.example.com. 300 IN A 127.0.0.11
lb2.example.com. 300 IN A 127.0.0.12
{delegation}"
    )
}

/// Names of both zones, found through both kinds of delegation.
const NAMES: [&str; 3] = ["api.example.com", "any.thing.api.example.com", "www.in.example.com"];

fn addresses(name: &str) -> Vec<String> {
    dig(name, "A").iter().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
}

/// Waits until the resolver gives only this address for all names, and keeps to it; how long that took.
async fn all_go_to(address: &str, why: &str) -> Duration {
    let start = Instant::now();
    wait_until(why, || NAMES.iter().all(|name| addresses(name) == [address])).await;
    let took = start.elapsed();
    stays_async("nothing that was cached comes back", Duration::from_secs(TTL + 1), async || {
        let found = NAMES.map(addresses);
        check(found.iter().flatten().all(|found| found == address), format!("{found:?}"))
    })
    .await;
    took
}

#[test]
#[ignore = "needs root"]
fn resolvers_follow_the_delegation_and_leave_a_balancer_that_is_down() {
    let programs = ["named", "unbound", "dig"];
    isolated("resolvers follow the delegation", &programs, || async {
        let [first, second] = ["127.0.0.11", "127.0.0.12"];
        let lb1 = Node::start(first, &balancer(first)).await;
        let lb2 = Node::start(second, &balancer(second)).await;
        let mut parent = Server::parent("example.com", "127.0.0.1", &parent(&lb1));
        parent.start();
        let mut resolver = Server::unbound("example.com", "127.0.0.1");
        resolver.start();
        wait_until("the resolver answers", || NAMES.iter().all(|name| addresses(name).len() == 1)).await;

        // Names that are not there, by the SOA of the zone; everything is there below a wildcard at the apex.
        let nobody = ask("nobody.in.example.com", "A");
        let has_soa = nobody.lines().any(|line| line.starts_with("in.example.com.") && line.contains("SOA"));
        assert!(nobody.contains("status: NXDOMAIN") && has_soa, "{nobody}");
        let no_mail = ask("x.api.example.com", "MX");
        assert!(no_mail.contains("status: NOERROR") && no_mail.contains("ANSWER: 0"), "{no_mail}");
        assert!(
            ask("x.fix.in.example.com", "A").contains("status: NXDOMAIN"),
            "no wildcard stands below fix"
        );

        // In maintenance the first answers SERVFAIL, and resolvers ask the second.
        lb1.lb(&["dns", "down", first]);
        let took = all_go_to(second, "all go to the second one").await;
        println!(
            "figure: TTL {TTL} s, a balancer in maintenance: a resolver gives only the other after {took:.1?}"
        );
        assert!(took < Duration::from_secs(TTL * 3), "{took:?}");
        lb1.lb(&["dns", "up", first]);

        // A machine that is gone says nothing.
        drop(lb2);
        let took = all_go_to(first, "all go to the first one").await;
        println!("figure: TTL {TTL} s, a balancer killed: a resolver gives only the other after {took:.1?}");
        assert!(took < Duration::from_secs(TTL * 6), "{took:?}");
        assert!(fs::read_to_string(lb1.path("log")).is_ok_and(|log| log.contains("dns: ordered")));
    });
}
