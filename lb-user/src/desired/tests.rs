//! The rules, and that they hold for any facts.

use proptest::prelude::*;

use super::*;
use crate::health::HostHealth;
use crate::model::{Host, Pool, Protocol, Service};

#[test]
fn a_confirmed_service_with_enough_hosts_is_announced() {
    let case = Case::new(3, 2);
    assert_eq!(case.decide().vips, Some(BTreeSet::from([vip(1)])));
}

#[test]
fn a_host_counts_only_if_packets_of_the_family_reach_it() {
    let mut case = Case::new(3, 3);
    case.path(0).usable6 = false;
    assert!(case.decide().services[&service(1, 80)].announce);
    case.path(0).usable4 = false;
    let decision = case.decide();
    assert_eq!(decision.vips, Some(BTreeSet::new()));
    assert_eq!(reason(&decision), "2 of 3 hosts work, 3 needed");
}

#[test]
fn a_drained_host_is_not_counted() {
    let mut case = Case::new(3, 3);
    case.model.pools.get_mut("web").unwrap().hosts.get_mut("h0").unwrap().state = HostState::Drain;
    assert_eq!(reason(&case.decide()), "2 of 2 hosts work, 3 needed");
}

#[test]
fn one_service_that_cannot_be_served_withholds_its_vip_from_all() {
    let mut case = Case::new(3, 1);
    case.add(service(1, 443), 1);
    case.add(service(2, 80), 1);
    case.confirmed.insert(service(1, 443), Err("map full".into()));
    let decision = case.decide();
    assert_eq!(decision.vips, Some(BTreeSet::from([vip(2)])));
    assert_eq!(reason(&decision), "198.51.100.1:443/tcp on the same VIP is not servable");
}

#[test]
fn what_has_left_is_withheld_and_takes_nothing_with_it() {
    let mut case = Case::new(3, 1);
    case.add(service(2, 80), 1);
    case.withdrawn.insert(vip(1));
    let decision = case.decide();
    assert_eq!(decision.vips, Some(BTreeSet::from([vip(2)])));
    assert_eq!(reason(&decision), "has left by the operator's order");
}

#[test]
fn a_prefix_is_announced_by_itself_and_what_is_in_it_goes_with_what_it_has_of_it() {
    let key = |text: &str| text.parse::<ServiceKey>().unwrap();
    let all = ["[2001:db8:5::/64]:80/tcp", "[2001:db8:5::/64]:443/tcp", "[2001:db8:5::1]:80/tcp"].map(key);
    let (inner, around) = (all[2].vip, all[0].vip);
    let announced = |broken: usize| {
        let mut case = Case::new(3, 1);
        all.iter().for_each(|key| case.add(*key, 1));
        if let Some(key) = all.get(broken) {
            case.confirmed.insert(*key, Err("map full".into()));
        }
        let decision = case.decide();
        let reason = decision.services[&all[2]].reason.clone();
        (decision.vips.unwrap(), reason)
    };
    assert_eq!(announced(3), ([vip(1), around, inner].into(), None));
    assert_eq!(announced(2).0, [vip(1), around].into());
    assert_eq!(announced(0), ([vip(1), inner].into(), None), "its own port 80 works");
    let reason = "[2001:db8:5::/64]:443/tcp around it is not servable".to_owned();
    assert_eq!(announced(1), ([vip(1)].into(), Some(reason)));
    // Of two culprits the nearer one is named.
    let mut case = Case::new(3, 1);
    let own = key("[2001:db8:5::1]:53/udp");
    all.iter().chain([&own]).for_each(|key| case.add(*key, 1));
    for key in [all[1], own] {
        case.confirmed.insert(key, Err("map full".into()));
    }
    let reason = format!("{own} on the same VIP is not servable");
    assert_eq!(case.decide().services[&all[2]].reason, Some(reason));
}

#[test]
fn inherited_announcements_stand_until_health_paths_and_kernel_are_known() {
    let mut case = Case::new(3, 1);
    case.inherited = true;
    case.health(2).known = false;
    assert_eq!(case.decide().vips, None);
    case.health(2).known = true;
    let path = case.paths.remove(&id(1)).unwrap();
    assert_eq!(case.decide().vips, None);
    case.paths.insert(id(1), path);
    let serving = case.confirmed.remove(&service(1, 80)).unwrap();
    assert_eq!(case.decide().vips, None);
    case.confirmed.insert(service(1, 80), serving);
    assert_eq!(case.decide().vips, Some(BTreeSet::from([vip(1)])));
}

#[test]
fn the_disable_file_withdraws_what_was_inherited_at_once() {
    let mut case = Case::new(3, 1);
    case.inherited = true;
    case.health(2).known = false;
    case.disabled = true;
    assert_eq!(case.decide().vips, Some(BTreeSet::new()));
}

/// The reasons in the order in which they are given: of several, the one that the operator has to see to first.
#[test]
fn each_reason_hides_those_behind_it() {
    let mut case = Case::new(2, 2);
    case.health(0).healthy = false;
    let mut seen = vec![reason(&case.decide()).to_owned()];
    case.confirmed.remove(&service(1, 80));
    seen.push(reason(&case.decide()).to_owned());
    case.confirmed.insert(service(1, 80), Err("map full".into()));
    seen.push(reason(&case.decide()).to_owned());
    case.model.pools.get_mut("web").unwrap().hosts.clear();
    seen.push(reason(&case.decide()).to_owned());
    case.model.pools.clear();
    seen.push(reason(&case.decide()).to_owned());
    case.waiting = true;
    seen.push(reason(&case.decide()).to_owned());
    case.withdrawn.insert(vip(1));
    seen.push(reason(&case.decide()).to_owned());
    case.disabled = true;
    seen.push(reason(&case.decide()).to_owned());
    let no_pool = "the manifest has no pool \"web\"; make it by `lb pool add --create`";
    let expected = [
        "1 of 2 hosts work, 2 needed",
        "not yet in the kernel",
        "not in the kernel: map full",
        no_pool,
        no_pool,
        "waits for the manifest",
        "has left by the operator's order",
        "disabled by the operator",
    ];
    assert_eq!(seen, expected);
}

/// A pool without a single active host is up for nobody, even if nobody is asked for.
#[test]
fn a_pool_whose_hosts_are_all_taken_out_needs_none_only_where_the_quorum_is_none() {
    let mut case = Case::new(2, 1);
    case.model.pools.get_mut("web").unwrap().hosts.values_mut().for_each(|host| host.state = HostState::Down);
    assert_eq!(reason(&case.decide()), "0 of 0 hosts work, 1 needed");
    assert_eq!(case.decide().vips, Some(BTreeSet::new()));
}

#[test]
fn only_active_hosts_of_pools_in_use_need_to_be_known() {
    let mut case = Case::new(3, 1);
    case.inherited = true;
    case.model.pools.insert("spare".into(), case.model.pools["web"].clone());
    assert!(case.decide().vips.is_some(), "nobody uses spare");
    assert!(paths_are_known(&case.model, &case.paths));
    case.paths.remove(&id(2));
    assert!(!paths_are_known(&case.model, &case.paths));
    case.model.pools.get_mut("web").unwrap().hosts.get_mut("h2").unwrap().state = HostState::Drain;
    case.health.remove(&id(2));
    assert!(paths_are_known(&case.model, &case.paths));
    assert!(case.decide().vips.is_some(), "h2 takes no new connections");
    case.health.remove(&id(1));
    assert_eq!(case.decide().vips, None, "no check of h1 is known at all");
}

#[test]
fn without_a_predecessor_nothing_is_announced_before_it_is_known() {
    let mut case = Case::new(1, 1);
    *case.health(0) = HostHealth { healthy: false, known: false, silent: false, reason: None };
    assert_eq!(case.decide().vips, Some(BTreeSet::new()));
}

proptest! {
    #[test]
    fn no_vip_is_announced_that_is_disabled_unconfirmed_or_under_quorum(case in any_case()) {
        let decision = case.decide();
        for vip in decision.vips.iter().flatten() {
            prop_assert!(!case.disabled);
            for (key, wanted) in case.model.services.iter().filter(|(key, _)| key.vip == *vip) {
                prop_assert!(matches!(case.confirmed.get(key), Some(Ok(_))));
                prop_assert!(case.working(&wanted.pool, key.vip) >= wanted.quorum);
            }
        }
    }

    /// Every service and every VIP, for any facts, as the plain words of the module have it.
    #[test]
    fn what_is_announced_is_what_has_no_fault_nor_a_neighbour_with_one(case in any_facts()) {
        let decision = case.decide();
        let mut announced = BTreeSet::new();
        for (key, service) in &decision.services {
            let pool = &case.model.services[key].pool;
            let hosts = case.model.pools.get(pool).into_iter().flat_map(|pool| pool.hosts.values());
            let active = hosts.filter(|host| host.state == HostState::Active).count();
            prop_assert_eq!((service.hosts, service.healthy), (active, case.working(pool, key.vip)));
            let mut same = case.model.services.keys().filter(|other| other.vip == key.vip);
            let neighbour = same.rfind(|other| case.fault(other).is_some());
            let expected = match (case.fault(key), neighbour) {
                _ if case.disabled => Some("disabled by the operator".to_owned()),
                _ if case.withdrawn.contains(&key.vip) => Some("has left by the operator's order".to_owned()),
                (Some(why), _) => Some(why),
                (None, Some(other)) => Some(format!("{other} on the same VIP is not servable")),
                (None, None) => None,
            };
            prop_assert_eq!(service.announce, expected.is_none());
            prop_assert_eq!(&service.reason, &expected);
            announced.extend(expected.is_none().then_some(key.vip));
        }
        let known = case.model.services.iter().all(|(key, service)| {
            let pool = case.model.pools.get(&service.pool);
            let mut active = pool.into_iter().flat_map(|pool| &pool.hosts).filter(|(_, host)| host.state == HostState::Active);
            let of = |name: &String| HostId { pool: service.pool.clone(), host: name.clone() };
            case.confirmed.contains_key(key)
                && active.all(|(name, _)| case.health.get(&of(name)).is_some_and(|h| h.known) && case.paths.contains_key(&of(name)))
        });
        let stands = case.inherited && !case.disabled && !known;
        prop_assert_eq!(decision.vips, (!stands).then_some(announced));
    }

    #[test]
    fn every_service_is_announced_or_says_why_not(case in any_case()) {
        for service in case.decide().services.values() {
            prop_assert_eq!(service.announce, service.reason.is_none());
        }
    }

    #[test]
    fn a_vip_is_withheld_only_for_a_service_of_its_own(case in any_case()) {
        let decision = case.decide();
        let Some(announced) = &decision.vips else { return Ok(()) };
        for key in case.model.services.keys().filter(|key| !announced.contains(&key.vip)) {
            let faulty = case.model.services.iter().filter(|(other, _)| other.vip == key.vip).any(|(other, s)| {
                !matches!(case.confirmed.get(other), Some(Ok(_))) || case.working(&s.pool, other.vip) < s.quorum
            });
            prop_assert!(case.disabled || faulty);
        }
    }

    #[test]
    fn one_host_changing_moves_no_vip_while_quorum_holds_with_and_without_it(
        case in any_case(), host in 0usize..4,
    ) {
        let with = |healthy| {
            let mut case = case.clone();
            case.health(host).healthy = healthy;
            case
        };
        let (up, down) = (with(true), with(false));
        let holds = down.model.services.iter().all(|(key, s)| down.working(&s.pool, key.vip) >= s.quorum);
        if holds {
            prop_assert_eq!(up.decide().vips, down.decide().vips);
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    model: Model,
    health: HealthView,
    paths: Paths,
    confirmed: Confirmed,
    disabled: bool,
    withdrawn: BTreeSet<Vip>,
    inherited: bool,
    waiting: bool,
}

impl Case {
    /// One service, whose hosts all work.
    fn new(hosts: usize, quorum: usize) -> Self {
        let mut case = Case {
            model: Model::default(),
            health: HealthView::new(),
            paths: Paths::new(),
            confirmed: Confirmed::new(),
            disabled: false,
            withdrawn: BTreeSet::new(),
            inherited: false,
            waiting: false,
        };
        let mut members = BTreeMap::new();
        for number in 0..hosts {
            let address4 = Some([192, 0, 2, number as u8 + 1].into());
            let host = Host { address4, address6: None, weight: 1, state: HostState::Active };
            members.insert(format!("h{number}"), host);
            let health = HostHealth { healthy: true, known: true, silent: false, reason: None };
            case.health.insert(id(number), health);
            case.paths.insert(id(number), Path { usable4: true, usable6: true, reason: None });
        }
        let pool = Pool { seed: 0, size: 7, generation: 1, hosts: members, ..Pool::default() };
        case.model.pools.insert("web".into(), pool);
        case.add(service(1, 80), quorum);
        case
    }

    fn add(&mut self, key: ServiceKey, quorum: usize) {
        self.model.services.insert(key, Service { quorum, ..Service::of("web", Protocol::Tcp) });
        self.confirmed.insert(key, Ok(Serving { generation: 1, digest: 0 }));
    }

    fn health(&mut self, number: usize) -> &mut HostHealth {
        self.health.get_mut(&id(number)).unwrap()
    }

    fn path(&mut self, number: usize) -> &mut Path {
        self.paths.get_mut(&id(number)).unwrap()
    }

    fn decide(&self) -> Decision {
        decide(&Facts {
            model: &self.model,
            health: &self.health,
            paths: &self.paths,
            confirmed: &self.confirmed,
            disabled: self.disabled,
            withdrawn: &self.withdrawn,
            inherited: self.inherited,
            waiting: self.waiting,
        })
    }

    /// What is wrong with a service by itself, told in another way than by the code under test.
    fn fault(&self, key: &ServiceKey) -> Option<String> {
        let service = &self.model.services[key];
        let pool = self.model.pools.get(&service.pool).filter(|pool| !pool.hosts.is_empty());
        if self.waiting {
            return Some("waits for the manifest".into());
        }
        let Some(pool) = pool else {
            return Some(format!(
                "the manifest has no pool \"{}\"; make it by `lb pool add --create`",
                service.pool
            ));
        };
        match self.confirmed.get(key) {
            Some(Err(why)) => return Some(format!("not in the kernel: {why}")),
            None => return Some("not yet in the kernel".into()),
            Some(Ok(_)) => {}
        }
        let (works, needed) = (self.working(&service.pool, key.vip), service.quorum);
        let active = pool.hosts.values().filter(|host| host.state == HostState::Active).count();
        (works < needed).then(|| format!("{works} of {active} hosts work, {needed} needed"))
    }

    /// Counted in another way than the code under test does.
    fn working(&self, pool: &str, vip: Vip) -> usize {
        let mut working = 0;
        for (name, host) in self.model.pools.get(pool).into_iter().flat_map(|pool| &pool.hosts) {
            let id = HostId { pool: pool.into(), host: name.clone() };
            let (Some(path), Some(health)) = (self.paths.get(&id), self.health.get(&id)) else { continue };
            let reached = if vip.family() == Family::V4 { path.usable4 } else { path.usable6 };
            if host.state == HostState::Active && health.healthy && reached {
                working += 1;
            }
        }
        working
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let host = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let extra =
        (1u8..4, prop_oneof![Just(80u16), Just(443)], 1usize..4, prop::option::weighted(0.9, any::<bool>()));
    (prop::collection::vec(host, 4), prop::collection::vec(extra, 0..5), any::<bool>(), any::<bool>())
        .prop_map(|(hosts, services, disabled, inherited)| {
            let mut case = Case { disabled, inherited, ..Case::new(4, 1) };
            for (number, (active, healthy, known, usable4, usable6)) in hosts.into_iter().enumerate() {
                *case.health(number) = HostHealth { healthy, known, silent: false, reason: None };
                *case.path(number) = Path { usable4, usable6, reason: None };
                let pool = case.model.pools.get_mut("web").unwrap();
                let state = if active { HostState::Active } else { HostState::Down };
                pool.hosts.get_mut(&format!("h{number}")).unwrap().state = state;
            }
            for (number, port, quorum, confirmed) in services {
                let key = service(number, port);
                case.add(key, quorum);
                match confirmed {
                    Some(true) => {}
                    Some(false) => drop(case.confirmed.insert(key, Err("refused".into()))),
                    None => drop(case.confirmed.remove(&key)),
                }
            }
            case
        })
}

/// The same, with what the manifest, the operator and the first seconds of an agent add.
fn any_facts() -> impl Strategy<Value = Case> {
    let rare = || prop::bool::weighted(0.1);
    let more = (rare(), rare(), prop::collection::vec(rare(), 4), prop::collection::vec((rare(), rare()), 4));
    (any_case(), more).prop_map(|(mut case, (waiting, no_pool, withdrawn, hosts))| {
        case.waiting = waiting;
        if no_pool {
            case.model.pools.clear();
        }
        let leaves = withdrawn.iter().enumerate().filter(|(_, leaves)| **leaves);
        case.withdrawn = leaves.map(|(number, _)| vip(number as u8)).collect();
        for (number, (no_path, no_health)) in hosts.into_iter().enumerate() {
            no_path.then(|| case.paths.remove(&id(number)));
            no_health.then(|| case.health.remove(&id(number)));
        }
        case
    })
}

fn reason(decision: &Decision) -> &str {
    decision.services[&service(1, 80)].reason.as_deref().unwrap_or_default()
}

fn id(number: usize) -> HostId {
    HostId { pool: "web".into(), host: format!("h{number}") }
}

fn vip(number: u8) -> Vip {
    match number {
        3 => "2001:db8::c633:6403".parse().unwrap(),
        _ => [198, 51, 100, number].into(),
    }
}

fn service(number: u8, port: u16) -> ServiceKey {
    ServiceKey { vip: vip(number), port, protocol: Protocol::Tcp }
}
