//! What is told of packets in a small world.

use std::sync::Arc;

use super::packet::first_of;
use super::*;
use crate::dataplane::nexthops::Sources;
use crate::desired::Serving;
use crate::director_model::assumed;
use crate::model::{Generation, Host, HostState, Model, Service, ServiceKey};

fn key() -> ServiceKey {
    ServiceKey { vip: [198, 51, 100, 1].into(), port: 80, protocol: Protocol::Tcp }
}

fn flow() -> Ends {
    Ends {
        source: "203.0.113.7:40000".parse().unwrap(),
        destination: "198.51.100.1:80".parse().unwrap(),
        protocol: Protocol::Tcp,
    }
}

/// Hosts a, b and c, of which c is drained since generation 2.
fn model() -> Model {
    let host =
        |last, state| Host { address4: Some([192, 0, 2, last].into()), address6: None, weight: 1, state };
    let hosts = [("a", 1, HostState::Active), ("b", 2, HostState::Active), ("c", 3, HostState::Drain)];
    let hosts: BTreeMap<_, _> =
        hosts.into_iter().map(|(name, last, state)| (name.to_owned(), host(last, state))).collect();
    let old = Generation { number: 1, hosts: hosts.keys().map(|name| (name.clone(), 1)).collect() };
    let pool = Pool { seed: 7, size: 251, generation: 2, hosts, others: vec![old] };
    let service = Service::of("web", Protocol::Tcp);
    Model { services: [(key(), service)].into(), pools: [("web".to_owned(), pool)].into() }
}

fn view(model: Model, sick: &[&str]) -> View {
    let sick: Vec<String> = sick.iter().map(|host| (*host).to_owned()).collect();
    assumed::view(model, Sources::default(), 1500, &sick).unwrap()
}

fn asked(view: View, source: &Source<'_>) -> Trace {
    trace(view, source, &first_of(&flow(), 0).unwrap())
}

/// The source port of a flow whose row c owned by generation 1.
fn port_of_c() -> u16 {
    let mut view = view(model(), &[]);
    view.make_tables(|_| true);
    let owns = |port: &u16| {
        let mut flow = flow();
        flow.source.set_port(*port);
        let told = trace(view.clone(), &Source::Assumed, &first_of(&flow, 0).unwrap()).way.unwrap();
        told.owners.iter().any(|owner| owner.host == "c" && owner.by.contains(&"generation 1".into()))
    };
    (40000..41000).find(owns).unwrap()
}

#[test]
fn an_address_of_a_prefix_is_traced_to_the_prefixs_service() {
    let mut model = model();
    let key: ServiceKey = "[2001:db8:5::/64]:80/tcp".parse().unwrap();
    model.services.insert(key, Service::of("web", Protocol::Tcp));
    let to = |destination: &str| Ends {
        source: "[2001:db8::7]:40000".parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
    };
    let told = |destination| {
        trace(view(model.clone(), &[]), &Source::Assumed, &first_of(&to(destination), 0).unwrap())
    };
    let way = told("[2001:db8:5::1234]:80").way.unwrap();
    assert_eq!(way.service, key);
    assert_eq!(told("[2001:db8:6::]:80").way.map(|way| way.service), None);
}

#[test]
fn the_first_healthy_owner_gets_it_and_the_others_have_their_reasons() {
    let told = asked(view(model(), &[]), &Source::Assumed).way.unwrap();
    let first = told.host.clone().unwrap();
    assert_eq!(told.owners[0].host, first);
    assert_eq!(told.owners[0].by[0], "generation 2");
    assert!(told.owners[1].by.contains(&"backup of generation 2".to_owned()), "{told:?}");
    assert_eq!((told.generation, told.in_kernel, told.next_hop.clone()), (2, None, None));

    let sick = asked(view(model(), &[&first]), &Source::Assumed).way.unwrap();
    assert_eq!(sick.owners[0].passed_over.as_deref(), Some("fails its health checks"));
    assert_ne!(sick.host.as_deref(), Some(&*first));
    assert!(sick.second_chances.contains(&first), "{sick:?}");
}

#[test]
fn a_drained_host_gets_nothing_but_second_chances() {
    let mut flow = flow();
    flow.source.set_port(port_of_c());
    let trace = trace(view(model(), &[]), &Source::Assumed, &first_of(&flow, 0).unwrap());
    let told = trace.way.unwrap();
    let c = told.owners.iter().find(|owner| owner.host == "c").unwrap();
    assert!(c.passed_over.as_ref().unwrap().starts_with("is drained"), "{c:?}");
    assert_ne!(told.host.as_deref(), Some("c"));
    assert!(told.second_chances.contains(&"c".to_owned()), "{told:?}");
}

#[test]
fn an_agent_says_whether_the_kernel_has_this_table() {
    let mut view = view(model(), &[]);
    view.make_tables(|_| true);
    let digest = view.digest("web").unwrap();
    let confirmed = |serving: Result<Serving, String>| Confirmed::from([(key(), serving)]);
    let good = confirmed(Ok(Serving { generation: 2, digest }));
    let trace = asked(view.clone(), &Source::Agent(&good));
    let told = trace.way.unwrap();
    assert_eq!((told.in_kernel, &trace.notes[..]), (Some(true), &[][..]));
    assert_eq!(told.next_hop.unwrap().fits, 1480);

    let older = confirmed(Ok(Serving { generation: 1, digest: 0xab }));
    let trace = asked(view.clone(), &Source::Agent(&older));
    assert_eq!(trace.way.unwrap().in_kernel, Some(false));
    assert_eq!(trace.notes, ["the kernel still goes by generation 1, table 00000000000000ab"]);

    let trace = asked(view, &Source::Agent(&confirmed(Err("no room".into()))));
    assert_eq!(trace.notes, ["the kernel does not serve it: no room"]);
}

#[test]
fn a_packet_that_goes_nowhere_says_why() {
    let mut elsewhere = flow();
    elsewhere.destination = "198.51.100.9:80".parse().unwrap();
    let trace_of =
        |flow: &Ends, bytes| trace(view(model(), &[]), &Source::Assumed, &first_of(flow, bytes).unwrap());
    let passed = trace_of(&elsewhere, 0);
    assert_eq!((&*passed.verdict, &*passed.reason, passed.flow), ("pass", "not_vip", None));
    let mut port = flow();
    port.destination.set_port(81);
    let refused = trace_of(&port, 0);
    assert_eq!((&*refused.verdict, &*refused.reason, refused.flow), ("drop", "no_service", Some(port)));
    let big = trace_of(&flow(), 1481);
    assert_eq!((&*big.reason, big.bytes, big.way.is_some()), ("too_big_answered", Some(1481), true));
    assert_eq!(trace_of(&flow(), 1480).reason, "forwarded");
}

#[test]
fn a_service_whose_pool_is_not_known_is_none() {
    let mut model = model();
    model.pools.clear();
    let view = View::new(Arc::new(model), Sources::default(), Default::default(), Default::default());
    assert_eq!(asked(view, &Source::Assumed).reason, "no_service");
}

#[test]
fn a_sick_host_must_be_one() {
    let error = assumed::view(model(), Sources::default(), 1500, &["web/d".into()]).unwrap_err();
    assert_eq!(error, "no host web/d in any pool");
}
