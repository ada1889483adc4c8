use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::*;
use crate::config::Config;

const SIZE: u32 = 251;

/// A pool of these hosts; those in capitals are draining.
fn pool(hosts: &[&str], current: u16, others: &[(u16, &[&str])]) -> Pool {
    let all = others.iter().flat_map(|(_, hosts)| *hosts).chain(hosts).collect::<BTreeSet<_>>();
    let host = |name: &&&str| crate::model::Host {
        address4: None,
        address6: None,
        weight: 1,
        state: if hosts.contains(*name) { HostState::Active } else { HostState::Drain },
    };
    let generation = |(number, hosts): &(u16, &[&str])| Generation {
        number: *number,
        hosts: hosts.iter().map(|name| ((*name).to_owned(), 1)).collect(),
    };
    Pool {
        seed: 7,
        size: SIZE,
        generation: current,
        hosts: all.iter().map(|name| ((**name).to_owned(), host(name))).collect(),
        others: others.iter().map(generation).collect(),
    }
}

/// A connection of each of 2000 users.
fn connections() -> Vec<Arrived> {
    let local = "198.51.100.1:80".parse().unwrap();
    let remote = |n: u32| SocketAddr::new([203, 0, 113, (n % 200) as u8].into(), 20_000 + n as u16);
    (0..2000).map(|n| arrived(Connection { local, remote: remote(n), established: true })).collect()
}

fn arrived(connection: Connection) -> Arrived {
    Arrived { connection, vip: connection.local.ip().into(), hash: HashBy::FiveTuple }
}

/// The connections that a generation sends to a host.
fn sent_to(pool: &Pool, generation: &Generation, host: &str) -> Vec<Arrived> {
    let rows: BTreeSet<usize> = owned(generation, pool, host).unwrap().into_iter().collect();
    let explainer = Explainer::new(pool, host).unwrap();
    connections().into_iter().filter(|connection| rows.contains(&explainer.row(connection))).collect()
}

fn counted(count: &HostConnections, what: Explanation) -> u64 {
    count.by_generation.iter().filter(|by| by.generation == what).map(|by| by.established).sum()
}

#[test]
fn what_the_current_generation_sends_here_is_explained_by_it_and_needs_nothing_else() {
    let pool = pool(&["a", "b", "c"], 2, &[(1, &["a", "b"])]);
    let here = sent_to(&pool, &pool.current(), "a");
    let count = Explainer::new(&pool, "a").unwrap().count("web", &here);
    assert_eq!(count.established, here.len() as u64);
    assert_eq!(counted(&count, Explanation::Generation(2)), here.len() as u64);
    assert!(count.needs.is_empty() && !count.draining && !count.safe);
}

#[test]
fn what_only_an_older_generation_explains_needs_it() {
    // Host c was drained: by generation 2 it owns nothing.
    let pool = pool(&["a", "b"], 2, &[(1, &["a", "b", "c"])]);
    let here = sent_to(&pool, &pool.others[0], "c");
    assert!(here.len() > 400);
    let count = Explainer::new(&pool, "c").unwrap().count("web", &here);
    assert_eq!(counted(&count, Explanation::Generation(1)), here.len() as u64);
    assert_eq!(count.needs, BTreeMap::from([(1, here.len() as u64)]));
    assert!(count.draining && !count.safe);
    assert!(Explainer::new(&pool, "c").unwrap().count("web", &[]).safe);
}

#[test]
fn what_two_older_generations_explain_needs_neither_alone() {
    let pool = pool(&["a", "b"], 3, &[(2, &["a", "b", "c"]), (1, &["a", "b", "c"])]);
    let here = sent_to(&pool, &pool.others[1], "c");
    let count = Explainer::new(&pool, "c").unwrap().count("web", &here);
    // The same set twice: either will do.
    assert!(count.needs.is_empty(), "{:?}", count.needs);
    assert_eq!(counted(&count, Explanation::Generation(2)), here.len() as u64);
}

#[test]
fn a_backups_connections_are_called_so_and_strays_are_unexplained() {
    let pool = pool(&["a", "b", "c"], 1, &[]);
    let count = Explainer::new(&pool, "a").unwrap().count("web", &connections());
    let owned = counted(&count, Explanation::Generation(1));
    let backup = counted(&count, Explanation::Other(Other::Backup));
    let stray = counted(&count, Explanation::Other(Other::Unexplained));
    assert_eq!(owned + backup + stray, 2000);
    for share in [owned, backup, stray] {
        assert!((500..850).contains(&share), "{owned} {backup} {stray}");
    }
}

#[test]
fn half_open_connections_count_for_safety_and_needs_but_not_as_established() {
    let pool = pool(&["a"], 2, &[(1, &["a", "b"])]);
    let mut here = sent_to(&pool, &pool.others[0], "b");
    here.truncate(3);
    for connection in &mut here {
        connection.connection.established = false;
    }
    let count = Explainer::new(&pool, "b").unwrap().count("web", &here);
    assert_eq!((count.established, count.half_open, count.needs[&1]), (0, 3, 3));
    assert!(count.draining && !count.safe && count.by_generation.is_empty());
}

#[test]
fn a_pool_without_active_hosts_still_explains_old_connections() {
    let pool = pool(&[], 2, &[(1, &["a", "b"])]);
    let here = sent_to(&pool, &pool.others[0], "a");
    let count = Explainer::new(&pool, "a").unwrap().count("web", &here);
    assert_eq!(count.needs[&1], here.len() as u64);
}

#[test]
fn connections_belong_to_the_pool_of_their_service_and_names_go_by_address() {
    let text = "host: {interfaces: [eth0], accept_from: [10.0.0.0/8]}\npools:\n  web: {hosts: {a: {address4: 192.0.2.1}, b: \
                {address6: \"2001:db8::2\"}}}\n  dns: {hosts: {x: {address4: 192.0.2.9}}}\nservices:\n  - {vip: \
                198.51.100.1, port: 80, pool: web}\n  - {vip: \"2001:db8::100\", port: 443, pool: web}\n  - {vip: \
                198.51.100.1, port: 53, protocol: udp, pool: dns}\n";
    let model = Config::parse("lb.yaml", text, "n").unwrap().model;
    let to = |local: &str| Connection {
        local: local.parse().unwrap(),
        remote: "203.0.113.1:4000".parse().unwrap(),
        established: true,
    };
    let all =
        [to("198.51.100.1:80"), to("[2001:db8::100]:443"), to("198.51.100.1:53"), to("198.51.100.1:22")];
    let pools = by_pool(&model, &all);
    assert_eq!(pools, BTreeMap::from([("web".to_owned(), all[..2].iter().copied().map(arrived).collect())]));
    let text = text.replace("\"2001:db8::100\"", "\"2001:db8:100::/48\"");
    let model = Config::parse("lb.yaml", &text, "n").unwrap().model;
    let all = ["[2001:db8:100::1]:443", "[2001:db8:100:ffff::2]:443", "[2001:db8:101::]:443"].map(to);
    let vip = "2001:db8:100::/48".parse().unwrap();
    let of_prefix: Vec<_> = all[..2].iter().map(|c| Arrived { vip, ..arrived(*c) }).collect();
    assert_eq!(by_pool(&model, &all), BTreeMap::from([("web".to_owned(), of_prefix.clone())]));
    let count = Explainer::new(&pool(&["a"], 1, &[]), "a").unwrap().count("web", &of_prefix);
    let by = ByGeneration { vip, generation: Explanation::Generation(1), established: 2 };
    assert_eq!(count.by_generation, [by], "all addresses of a prefix are one VIP");
    let names = |address: &str| own_names(&model, &[address.parse().unwrap()]);
    assert_eq!(names("2001:db8::2"), BTreeMap::from([("web".into(), "b".into())]));
    assert!(names("192.0.2.77").is_empty());
}
