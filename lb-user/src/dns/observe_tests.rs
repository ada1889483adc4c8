use std::fs;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::*;
use crate::agent::status::{BgpReport, HostStatus, ServiceStatus};
use crate::config;
use crate::dns::policy::{Choice, Member, Standing};
use crate::dns::snapshot::{Data, Orders, Snapshot};
use crate::model::Protocol;

const CONFIG: &str = "
director: {interfaces: [eth0]}
pools: {web: {hosts: {a: {address4: 192.0.2.1}, b: {address4: 192.0.2.2}}}}
services: [{vip: 198.51.100.1, port: 80, pool: web}, {vip: 198.51.100.1, port: 443, pool: web}]
dns:
  listen: \"127.0.0.1:53\"
  checks:
    web: {type: http, port: 8080, path: /healthcheck}
    here: {type: vip}
    there: {type: vip, vip: 198.51.100.1}
    half: {type: pool, pool: web, percent: 50, scale: true}
    admin: {type: extfile, file: FILE}
    strict: {type: extfile, file: FILE, default: down}
  zones:
    example.org:
      ns: [ns.example.net.]
      names:
        www: {members: [{address: 198.51.100.1, checks: [web, here, half]}]}
        else: {members: [192.0.2.9], checks: [there, admin, strict]}
";

struct World {
    config: Config,
    health: HealthView,
    remembered: BTreeMap<HostId, bool>,
    data: Data,
    status: Status,
    extfiles: Extfiles,
    settled: bool,
    peers: PeersView,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = CONFIG.replace("FILE", &folder.path().join("ext").display().to_string());
        let config = config::Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap();
        let data = Data::new(&config).unwrap();
        let service = |port| ServiceStatus {
            vip: [198, 51, 100, 1].into(),
            port,
            protocol: Protocol::Tcp,
            pool: "web".into(),
            hosts: 2,
            healthy: 2,
            quorum: 1,
            announced: true,
            reason: None,
            generation: None,
            digest: None,
            server_ids: BTreeMap::new(),
        };
        let host = |name: &str| HostStatus {
            pool: "web".into(),
            name: name.into(),
            address4: None,
            address6: None,
            state: HostState::Active,
            healthy: true,
            usable4: true,
            usable6: false,
            reason: None,
        };
        let bgp = BgpReport { driver: "bird".into(), up: true, announced: Vec::new(), reason: None };
        let status = Status {
            services: vec![service(80), service(443)],
            hosts: vec![host("a"), host("b")],
            bgp: Some(bgp),
            ..Status::default()
        };
        let (health, remembered, extfiles) = Default::default();
        World {
            config,
            data,
            health,
            remembered,
            status,
            extfiles,
            settled: true,
            peers: PeersView::new(),
            folder,
        }
    }

    fn hears(&mut self, healthy: bool, known: bool) {
        let host = HostId { pool: "web".into(), host: "198.51.100.1".into() };
        let reason = (!healthy).then(|| "status 503".to_owned());
        self.health.insert(host, HostHealth { healthy, known, silent: false, reason });
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            config: &self.config,
            health: &self.health,
            remembered: &self.remembered,
            status: &self.status,
            extfiles: &self.extfiles,
            jury: None,
            peers: &self.peers,
            settled: self.settled,
        }
    }

    /// What a check says: up or not, the share, the words.
    fn says(&self, check: &str) -> (Option<bool>, u16, String) {
        let watches = self.data.watches();
        let number = watches.iter().position(|watch| watch.check() == check).unwrap();
        let seen = observe(&self.facts(), &self.data)[number].clone();
        (seen.up, seen.share, seen.reason.to_string())
    }
}

#[test]
fn a_probe_is_unknown_until_it_has_a_result_or_one_is_remembered() {
    let mut world = World::new();
    assert_eq!(world.says("web").0, None);
    world.remembered.insert(HostId { pool: "web".into(), host: "198.51.100.1".into() }, true);
    assert_eq!(world.says("web"), (Some(true), 1000, "as before the agent started".into()));
    world.hears(false, false);
    assert_eq!(world.says("web").0, Some(true));
    world.hears(false, true);
    assert_eq!(world.says("web"), (Some(false), 1000, "status 503".into()));
    world.config.before_checks = BeforeChecks::Answer;
    world.health.clear();
    world.remembered.clear();
    assert_eq!(world.says("web").0, Some(true));
}

#[test]
fn a_member_is_probed_at_its_own_address() {
    let world = World::new();
    let plan = plan(&world.config, world.data.watches());
    assert_eq!(plan.len(), 1, "only probes are sent");
    let (host, probes) = plan.first_key_value().unwrap();
    assert_eq!(host.to_string(), "web/198.51.100.1");
    assert_eq!(probes[0].target.host_header, "198.51.100.1:8080");
}

#[test]
fn the_host_that_is_asked_for_is_named_with_its_port_unless_that_is_the_default() {
    let checks = "
    a80: {type: http, port: 80}
    a443: {type: http, port: 443}
    b80: {type: https, port: 80}
    b443: {type: https, port: 443}
    named: {type: http, port: 80, host: www.example.org}
    odd: {type: https, port: 8443, host: www.example.org}
    connect: {type: tcp, port: 80}
    absent: {type: vip}
";
    let text = CONFIG.replace("  checks:\n", &format!("  checks:{checks}")).replace("FILE", "/etc/lb/ext");
    let config = config::Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap();
    let watch = |check: &str, address: &str| Watch {
        id: HostId { pool: check.into(), host: address.into() },
        address: address.parse().unwrap(),
    };
    let asked = |check: &str, address: &str| -> Vec<(SocketAddr, String)> {
        let plan = plan(&config, &[watch(check, address)]);
        let probes = plan.values().flatten();
        probes.map(|probe| (probe.target.address, probe.target.host_header.clone())).collect()
    };
    let table = [
        ("a80", "192.0.2.9", "192.0.2.9:80", "192.0.2.9"),
        ("a443", "192.0.2.9", "192.0.2.9:443", "192.0.2.9:443"),
        ("b80", "192.0.2.9", "192.0.2.9:80", "192.0.2.9:80"),
        ("b443", "2001:db8::9", "[2001:db8::9]:443", "[2001:db8::9]"),
        ("a443", "2001:db8::9", "[2001:db8::9]:443", "[2001:db8::9]:443"),
        ("named", "2001:db8::9", "[2001:db8::9]:80", "www.example.org"),
        ("odd", "192.0.2.9", "192.0.2.9:8443", "www.example.org:8443"),
        ("connect", "192.0.2.9", "192.0.2.9:80", "192.0.2.9"),
    ];
    for (check, address, target, host) in table {
        assert_eq!(asked(check, address), [(target.parse().unwrap(), host.to_owned())], "{check}");
    }
    assert_eq!((asked("absent", "192.0.2.9"), asked("unheard of", "192.0.2.9")), (vec![], vec![]));
    let both =
        plan(&config, &[watch("a80", "192.0.2.9"), watch("absent", "192.0.2.9"), watch("b80", "192.0.2.9")]);
    assert_eq!(both.len(), 2, "one that is not probed stops no other");
}

/// Probes of addresses that nobody watches any more, or not yet, are nobody else's.
#[test]
fn each_watch_gets_what_its_own_probe_says() {
    let mut world = World::new();
    world.config.zones[0].choices[0].members[0].checks = vec!["web".into()];
    let like = world.config.zones[0].choices[0].members[0].clone();
    let member = |last: u8| Member { address: [198, 51, 100, last].into(), ..like.clone() };
    world.config.zones[0].choices[0].members = vec![member(1), member(3), member(5)];
    world.data = Data::new(&world.config).unwrap();
    for last in 0..7u8 {
        let host = HostId { pool: "web".into(), host: format!("198.51.100.{last}") };
        let health =
            HostHealth { healthy: last == 3, known: true, silent: false, reason: Some(format!("of {last}")) };
        world.health.insert(host, health);
    }
    for pool in ["aaa", "zzz"] {
        let health = HostHealth { healthy: true, known: true, silent: false, reason: None };
        world.health.insert(HostId { pool: pool.into(), host: "198.51.100.1".into() }, health);
    }
    let seen = observe(&world.facts(), &world.data);
    assert_eq!(seen.len(), world.data.watches().len());
    let says: Vec<_> =
        world.data.watches().iter().zip(seen.iter()).filter(|(watch, _)| watch.check() == "web").collect();
    assert_eq!(says.len(), 3);
    for (watch, seen) in says {
        let last = watch.address.to_string().rsplit('.').next().unwrap().to_owned();
        assert_eq!((seen.up, &*seen.reason), (Some(last == "3"), format!("of {last}").as_str()));
    }
}

#[test]
fn what_nothing_is_known_of_is_as_configured_and_says_why() {
    let mut world = World::new();
    world.hears(false, false);
    assert_eq!(world.says("web"), (None, 1000, "status 503".into()), "its first failures are told");
    world.config.before_checks = BeforeChecks::Answer;
    assert_eq!(world.says("web"), (Some(true), 1000, "not checked yet".into()));
    world.remembered.insert(HostId { pool: "web".into(), host: "198.51.100.1".into() }, false);
    assert_eq!(world.says("web"), (Some(false), 1000, "as before the agent started".into()));
    world.hears(true, true);
    assert_eq!(world.says("web"), (Some(true), 1000, String::new()));
    assert_eq!(world.says("admin"), (Some(true), 1000, "not looked at yet".into()));
    assert_eq!(world.says("strict"), (Some(false), 1000, "not looked at yet".into()));
}

#[test]
fn a_vip_without_bgp_is_up_where_it_can_be_served_and_one_without_services_never() {
    let mut world = World::new();
    world.status.bgp = None;
    let mut says = |healthy: usize, quorum: usize, disabled: bool, announced: bool| {
        world.status.disabled = disabled;
        for service in &mut world.status.services {
            (service.healthy, service.quorum, service.announced) = (healthy, quorum, announced);
        }
        world.says("here").0
    };
    let table = [
        (2, 2, false, true),
        (3, 2, false, true),
        (1, 2, false, false),
        (2, 2, true, false),
        (1, 2, true, false),
    ];
    for (healthy, quorum, disabled, up) in table {
        for announced in [false, true] {
            assert_eq!(says(healthy, quorum, disabled, announced), Some(up), "{healthy} {quorum} {disabled}");
        }
    }
    assert_eq!(world.says("here").2, "198.51.100.1 port 80: too few healthy hosts");
    world.status.services.clear();
    assert_eq!(world.says("here"), (Some(false), 1000, "no service has this VIP".into()));
    world.settled = false;
    assert_eq!(world.says("here").0, None);
}

/// An address in a prefix follows that; one that is a VIP itself follows its own services only.
#[test]
fn an_address_in_a_prefix_follows_it_unless_it_is_a_vip_itself() {
    let mut world = World::new();
    let inside: IpAddr = "2001:db8:5::1".parse().unwrap();
    world.config.checks.insert("there".into(), Check::Vip { vip: Some(inside), directors: None });
    world.status.services[0].vip = "2001:db8:5::/64".parse().unwrap();
    world.status.services[0].announced = false;
    assert_eq!(world.says("there").0, Some(false));
    world.status.services[1].vip = inside.into();
    assert_eq!(world.says("there").0, Some(true));
    world.status.services[1].announced = false;
    world.status.services[0].announced = true;
    assert_eq!(world.says("there").0, Some(false));
    world.status.services.remove(1);
    assert_eq!(world.says("there").0, Some(true));
}

/// This node and those that are heard, each once: how many announce an address, whom it leaves, who is silent.
#[test]
fn each_node_counts_once_and_silence_is_no_answer() {
    use crate::peers::view::Peer;
    let vip: IpAddr = [198, 51, 100, 1].into();
    let report = |instance: u64, announces: bool, leaves: bool| Report {
        node: format!("lb4-{instance}"),
        instance,
        announced: announces.then(|| vip.into()).into_iter().collect(),
        leaving: leaves.then(|| vip.into()).into_iter().collect(),
        ..Report::default()
    };
    let lost = || Contact::Lost { since: tokio::time::Instant::now(), reason: String::new() };
    let peers = [
        (Some(report(1, true, false)), Contact::Fresh),
        // The same node by another address, and this one by its own.
        (Some(report(1, true, false)), Contact::Fresh),
        (Some(report(9, true, false)), Contact::Myself),
        (Some(report(2, true, true)), Contact::Fresh),
        (Some(report(3, false, false)), Contact::Fresh),
        (Some(report(4, true, false)), lost()),
        (None, Contact::New),
        (None, Contact::Fresh),
    ];
    let view: PeersView = peers
        .into_iter()
        .zip(1..)
        .map(|((report, contact), number)| {
            let url = format!("http://192.0.2.{number}:7400").parse().unwrap();
            (url, Peer { report: report.map(Arc::new), contact })
        })
        .collect();
    let mut world = World::new();
    world.status.node = "me".into();
    let found = offers(&world.status, &view, vip);
    assert_eq!((found.announced, found.leaving, found.silent), (2, vec!["lb4-2".to_owned()], 2));
    world.status.services.iter_mut().for_each(|service| service.announced = false);
    assert_eq!(offers(&world.status, &view, vip).announced, 1);
    let other = offers(&world.status, &view, [198, 51, 100, 2].into());
    assert_eq!((other.announced, other.leaving.len(), other.silent), (0, 0, 2));

    world.peers = view;
    let mut says = |least: usize, settled: bool| {
        world.config.checks.insert("there".into(), Check::Vip { vip: Some(vip), directors: Some(least) });
        world.settled = settled;
        let at = world.data.watches().iter().position(|watch| watch.check() == "there").unwrap();
        let seen = observe(&world.facts(), &world.data)[at].clone();
        (seen.up, seen.leaving)
    };
    // Least: up where one announces it, leaving where the one that it leaves is needed, and down with three.
    let table = [(1, Some(true), false), (2, Some(true), true), (3, Some(false), false)];
    for (least, up, leaving) in table {
        assert_eq!(says(least, true), (up, leaving), "{least}");
        assert_eq!(says(least, false), (up.filter(|up| *up), leaving), "{least}, not settled");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A pool is up while some host works, and at least so many of a hundred of those that take new connections.
    #[test]
    fn a_pool_is_up_by_the_share_of_its_hosts_that_work(
        hosts in prop::collection::vec((0..5_u8, any::<bool>(), any::<bool>(), any::<bool>()), 0..8),
        (percent, scale, settled) in (1u32..=100, any::<bool>(), any::<bool>()),
    ) {
        let mut world = World::new();
        world.settled = settled;
        world.config.checks.insert("half".into(), Check::Pool { pool: "web".into(), percent, scale });
        let like = world.status.hosts[0].clone();
        let host = |(kind, healthy, usable4, usable6): &(u8, bool, bool, bool)| HostStatus {
            pool: if *kind == 4 { "other" } else { "web" }.into(),
            state: [HostState::Active, HostState::Active, HostState::Drain, HostState::Down, HostState::Active][usize::from(*kind)],
            healthy: *healthy,
            usable4: *usable4,
            usable6: *usable6,
            ..like.clone()
        };
        world.status.hosts = hosts.iter().map(host).collect();
        let all = hosts.iter().filter(|(kind, ..)| *kind < 2).count();
        let works = hosts.iter().filter(|(kind, healthy, a, b)| *kind < 2 && *healthy && (*a || *b)).count();
        let up = works > 0 && works as f64 / all as f64 >= f64::from(percent) / 100.0 - 1e-9;
        let share = if scale && all > 0 { 1000 * works / all } else { 1000 };
        let reason = format!("{works} of {all} hosts of pool web work");
        prop_assert_eq!(world.says("half"), ((up || settled).then_some(up), share as u16, reason));
    }
}

#[test]
fn a_vip_is_up_while_all_its_services_are_announced_here() {
    let mut world = World::new();
    assert_eq!(world.says("here"), (Some(true), 1000, String::new()), "and it does not leave");
    assert_eq!(world.says("there").0, Some(true));
    world.status.services[1].announced = false;
    world.status.services[1].reason = Some("0 of 2 hosts work, 1 needed".into());
    assert_eq!(world.says("here").0, Some(false));
    assert_eq!(world.says("there").2, "198.51.100.1 port 443: 0 of 2 hosts work, 1 needed");
    world.settled = false;
    assert_eq!(world.says("here").0, None, "it may be announced in a moment");
    world.settled = true;
    world.status.bgp = None;
    assert_eq!(world.says("here").0, Some(true), "without BGP the quorum counts");
    world.status.services[0].healthy = 0;
    assert_eq!(world.says("here").0, Some(false));
}

#[test]
fn a_pool_is_up_while_enough_of_it_works_and_gives_its_share() {
    let mut world = World::new();
    assert_eq!(world.says("half"), (Some(true), 1000, "2 of 2 hosts of pool web work".into()));
    world.status.hosts[0].healthy = false;
    assert_eq!(world.says("half"), (Some(true), 500, "1 of 2 hosts of pool web work".into()));
    world.status.hosts[1].usable4 = false;
    assert_eq!(world.says("half").0, Some(false));
    world.status.hosts[1].state = HostState::Drain;
    world.status.hosts[0].healthy = true;
    assert_eq!(world.says("half"), (Some(true), 1000, "1 of 1 hosts of pool web work".into()));
    // Two of three are less than 67 of a hundred.
    let mut world = World::new();
    let third = HostStatus { healthy: false, ..world.status.hosts[0].clone() };
    world.status.hosts.push(third);
    for (percent, up) in [(66, true), (67, false)] {
        let check = Check::Pool { pool: "web".into(), percent, scale: false };
        world.config.checks.insert("half".into(), check);
        assert_eq!(world.says("half").0, Some(up), "{percent}");
    }
}

#[test]
fn a_file_says_who_is_down_and_what_holds_for_all_others_is_configured() {
    let mut world = World::new();
    let file = world.folder.path().join("ext");
    world.extfiles.follow([file.clone()].into());
    assert_eq!((world.says("admin").0, world.says("strict").0), (Some(true), Some(false)));
    fs::write(&file, "192.0.2.9 => UP\n").unwrap();
    world.extfiles.look();
    assert_eq!((world.says("admin").0, world.says("strict").0), (Some(true), Some(true)));
    fs::write(&file, "192.0.2.9 => DOWN\n").unwrap();
    world.extfiles.look();
    assert_eq!(world.says("admin"), (Some(false), 1000, format!("DOWN in {}", file.display())));
}

#[test]
fn a_hundred_thousand_names_are_judged_anew_in_a_moment() {
    let mut world = World::new();
    let zone = &mut world.config.zones[0];
    let like = zone.choices[1].clone();
    zone.choices = (0..100_000u32)
        .map(|number| {
            let name = Name::from_ascii(format!("n{number}.example.org.")).unwrap();
            let member = |last: u32| Member {
                address: std::net::Ipv4Addr::from_bits(0x0a00_0000 + 2 * number + last).into(),
                checks: vec!["web".into()],
                ..like.members[0].clone()
            };
            Choice { name, members: vec![member(0), member(1)], ..like.clone() }
        })
        .collect();
    world.data = Data::new(&world.config).unwrap();
    for (number, watch) in world.data.watches().iter().enumerate() {
        let health = HostHealth { healthy: number % 7 != 0, known: true, silent: false, reason: None };
        world.health.insert(watch.id.clone(), health);
    }
    assert_eq!(world.data.watches().len(), 200_000);
    let data = Arc::new(std::mem::take(&mut world.data));
    let (orders, begun) = (Orders::new(), Instant::now());
    let seen = observe(&world.facts(), &data);
    let snapshot = Snapshot::new(Arc::clone(&data), seen, &orders, false);
    let took = begun.elapsed();
    println!("figure: 100000 names with 200000 members are judged anew in {took:?}");
    let failed = (0..100_000).flat_map(|choice| snapshot.standings(choice));
    let failed = failed.filter(|standing| **standing == Standing::Failed).count();
    assert_eq!(failed, 200_000usize.div_ceil(7));
}

#[test]
fn a_vip_counts_where_enough_directors_announce_it() {
    use crate::peers::view::Peer;
    let mut world = World::new();
    let vip: IpAddr = [198, 51, 100, 1].into();
    world.config.checks.insert("there".into(), Check::Vip { vip: Some(vip), directors: Some(2) });
    let director = |number: u8, announces: bool, contact: Contact| {
        let announced = announces.then(|| vip.into()).into_iter().collect();
        let report =
            Report { node: format!("lb4-{number}"), instance: number.into(), announced, ..Report::default() };
        let url = format!("http://192.0.2.{number}:7400").parse().unwrap();
        (url, Peer { report: Some(Arc::new(report)), contact })
    };
    let lost = || Contact::Lost { since: tokio::time::Instant::now(), reason: String::new() };
    let mut seen = |peers: [(bool, Contact); 3], here: bool| {
        for service in &mut world.status.services {
            service.announced = here;
        }
        let peers = peers.into_iter().zip(1..);
        world.peers =
            peers.map(|((announces, contact), number)| director(number, announces, contact)).collect();
        world.says("there")
    };
    let all = seen([(true, Contact::Fresh), (true, Contact::Fresh), (false, Contact::Fresh)], false);
    assert_eq!((all.0, all.2.as_str()), (Some(true), "198.51.100.1: announced by 2, 2 needed"));
    let few = seen([(true, Contact::Fresh), (true, lost()), (false, Contact::Myself)], false);
    assert_eq!(
        (few.0, few.2.as_str()),
        (Some(false), "198.51.100.1: announced by 1, 2 needed (1 not heard)")
    );
    assert_eq!(seen([(true, Contact::Fresh), (true, lost()), (false, Contact::Myself)], true).0, Some(true));
}

#[test]
fn a_vip_that_leaves_is_told_from_one_that_fails() {
    use crate::leave::sequence::Stage;
    use crate::leave::status::LeavingStatus;
    use crate::peers::view::Peer;
    let mut world = World::new();
    let vip: IpAddr = [198, 51, 100, 1].into();
    world.status.leaving.push(LeavingStatus {
        vip: vip.into(),
        stage: Stage::Answers,
        announced: true,
        waits_for: Vec::new(),
        stuck: false,
        packets_per_second: None,
    });
    let seen = |world: &World, check: &str| {
        let at = world.data.watches().iter().position(|watch| watch.check() == check).unwrap();
        let seen = observe(&world.facts(), &world.data)[at].clone();
        (seen.up, seen.leaving, seen.reason.to_string())
    };
    assert_eq!(seen(&world, "here"), (Some(true), true, "198.51.100.1 leaves this node".into()));
    world.config.checks.insert("there".into(), Check::Vip { vip: Some(vip), directors: Some(1) });
    assert_eq!(
        seen(&world, "there"),
        (Some(true), true, "198.51.100.1: announced by 0, 1 needed; leaves ".into())
    );
    let report = |leaving: bool| Report {
        node: "lb4-1".into(),
        instance: 1,
        announced: [vip.into()].into(),
        leaving: leaving.then(|| vip.into()).into_iter().collect(),
        ..Report::default()
    };
    for (leaving, told) in [
        (true, "198.51.100.1: announced by 0, 1 needed; leaves lb4-1, "),
        (false, "198.51.100.1: announced by 1, 1 needed; leaves "),
    ] {
        let peer = Peer { report: Some(Arc::new(report(leaving))), contact: Contact::Fresh };
        world.peers = [("http://192.0.2.1:7400".parse().unwrap(), peer)].into();
        assert_eq!(seen(&world, "there"), (Some(true), leaving, told.into()));
    }
    // When it is withdrawn, it fails, wherever it is on its way.
    world.peers.clear();
    world.status.services.iter_mut().for_each(|service| service.announced = false);
    assert_eq!(seen(&world, "here").0, Some(false));
    assert_eq!(seen(&world, "there").0, Some(false));
}
