//! What no socket knows goes from owner to owner of its row, as far as doubts, links and the budget let it.

use std::collections::BTreeMap;

use lb_common::reasons::Host;
use lb_tests::isolation;
use lb_tests::packets::*;
use lb_tests::vector::{Bench, Context, Hook, Vector};
use lb_tests::world::{LOOPBACK, ROWS, World, to_port};
use lb_user::dataplane::director::Director;
use lb_user::dataplane::host::Fellows;
use lb_user::model::Doubt;

use crate::seen::{Seen, at_both, flows};

#[test]
#[ignore = "needs root"]
fn the_first_packet_is_kept_and_an_unknown_one_goes_round_the_owners() {
    at_both("packets of unknown connections", |seen| {
        let mut vectors = Vec::new();
        for ends in flows(seen) {
            let (syn, ack) = (tcp(ends, Tcp::Syn, b""), tcp(ends, Tcp::Ack, b"x"));
            vectors.push(seen.keeps("a first segment is kept", &syn, 0, Host::Local));
            vectors.push(seen.passes("one of no connection goes to the next owner", ends, &ack));
            vectors.push(seen.passes("a reset, too", ends, &tcp(ends, Tcp::Rst, b"")));
            vectors.push(seen.keeps("one that is final is kept", &ack, 15, Host::LastResort));
            vectors.push(seen.keeps("one that has come round is kept", &ack, 7, Host::LastResort));
            let (to, hop) = seen.others(ends)[0].clone();
            vectors.push(Vector::new(
                "the hop counts on",
                seen.came(&ack, 1),
                Host::PassedOn,
                seen.went(&ack, &to, 1 + hop),
            ));
            vectors.push(seen.keeps(
                "another port is no service",
                &tcp(to_port(ends, 81), Tcp::Ack, b""),
                0,
                Host::Local,
            ));
            vectors.push(seen.keeps("UDP is kept", &udp(to_port(ends, 53), b"x"), 0, Host::Local));
            let from = ends.source.ip();
            let error =
                |kind, code, quoted: &[u8]| icmp_error(from, ends.destination.ip(), kind, code, quoted, 8);
            let (kind, code) = if from.is_ipv4() { (3, 4) } else { (2, 0) };
            let mine = error(kind, code, &tcp(ends.reversed(), Tcp::Ack, b"y"));
            vectors.push(seen.passes("an ICMP error goes where the flow goes that it quotes", ends, &mine));
            let foreign = error(kind, code, &tcp(ends, Tcp::Ack, b"y"));
            vectors.push(seen.keeps("one that quotes another direction is kept", &foreign, 0, Host::Local));
            let echo = if from.is_ipv4() { 8 } else { 128 };
            let echo = icmp(from, ends.destination.ip(), echo, 0, [0; 4], b"ping");
            vectors.push(seen.keeps("an echo request is kept", &echo, 0, Host::Local));
        }
        let ends = flows(seen)[0];
        let ack = tcp(ends, Tcp::Ack, b"x");
        let options = with_options(&ack, ETHERNET);
        vectors.push(seen.keeps("IP options are kept", &options, 0, Host::Local));
        vectors.push(seen.keeps("fragments are kept", &as_fragment(&ack, ETHERNET, 9, true), 0, Host::Local));
        seen.check(&vectors);
    });
}

#[test]
#[ignore = "needs root"]
fn doubtful_hosts_come_last_and_dead_ones_never() {
    at_both("packets past doubtful hosts", |seen| {
        for ends in flows(seen) {
            let others = seen.others(ends);
            let ack = tcp(ends, Tcp::Ack, b"x");
            for (name, _) in &others {
                seen.doubt(name, Some(Doubt::Suspected));
            }
            let last = Vector::new(
                "when all are doubtful, the first of them gets it for good",
                seen.came(&ack, 0),
                Host::PassedOn,
                seen.went(&ack, &others[0].0, 15),
            );
            seen.check(&[last]);
            for (name, _) in &others {
                seen.doubt(name, Some(Doubt::Dead));
            }
            let vectors = [
                seen.keeps("when all are dead, it is kept", &ack, 0, Host::LastResort),
                Vector::unchanged(
                    "unless a host on the way passed over one",
                    seen.came(&ack, 9),
                    Host::Waits,
                ),
            ];
            seen.check(&vectors);
            for (name, _) in &others {
                seen.doubt(name, None);
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_packet_is_passed_on_only_as_far_as_it_can_be() {
    at_both("limits of passing on", |seen| {
        let [ends4, ends6] = flows(seen);
        for ends in [ends4, ends6] {
            let to = seen.others(ends)[0].0.clone();
            let outer = seen.addresses(&to)[usize::from(ends.source.is_ipv6())];
            let header = if ends.source.is_ipv6() { IPV6 } else { IPV4 };
            let way = seen.world.nexthops.clone();
            let long = tcp(ends, Tcp::Ack, &[7; 560]);
            let mtu = (long.len() - ETHERNET + header) as u32;
            let change = |seen: &mut Seen, mtu: u32, ifindex: u32| {
                let hop = seen.world.nexthops.get_mut(&outer).unwrap().as_mut().unwrap();
                (hop.mtu, hop.ifindex) = (mtu, ifindex);
                seen.sync();
            };
            change(seen, mtu, LOOPBACK);
            seen.check(&[seen.passes("a packet of the MTU passes", ends, &long)]);
            change(seen, mtu - 1, LOOPBACK);
            let came = seen.came(&long, 0);
            seen.check(&[Vector::unchanged("a longer one is dropped", came, Host::TooBig)]);
            let hurried = tcp(ends, Tcp::Ack, b"x");
            let hurried = with_traffic_class(&hurried, ETHERNET, 0xb9);
            let (came, (to, hop)) = (seen.came(&hurried, 0), seen.others(ends)[0].clone());
            let went = seen.went(&hurried, &to, hop);
            let [congested, sent_on] = [&came, &went].map(|frame| with_traffic_class(frame, ETHERNET, 0xbb));
            seen.check(&[
                Vector::new("what routers said goes with it", congested, Host::PassedOn, sent_on),
                Vector::new(
                    "and time runs out",
                    with_outer_ttl(&came, 2),
                    Host::PassedOn,
                    with_outer_ttl(&went, 1),
                ),
                Vector::unchanged("until it has", with_outer_ttl(&came, 1), Host::Expired),
            ]);
            change(seen, 1500, 77);
            seen.check(&[seen.passes("to another interface it is redirected", ends, &long).redirected()]);
            seen.world.nexthops = way;
            seen.sync();
            // What comes in the other family's header.
            let (name, hop) = seen.others(ends)[0].clone();
            let ack = tcp(ends, Tcp::Ack, b"x");
            let came = seen.came_over(&ack, 0, ends.source.is_ipv4());
            let vector = match seen.hook {
                Hook::Xdp => Vector::new(
                    "an outer header of the other family is replaced",
                    came,
                    Host::PassedOn,
                    with_generation_of(
                        &seen.came_over(&ack, 0, ends.source.is_ipv4()),
                        &seen.went(&ack, &name, hop),
                    ),
                ),
                Hook::Tc => Vector::new("at TC it is kept", came, Host::LastResort, ack),
            };
            seen.check(&[vector]);
        }
        if let Hook::Tc = seen.hook {
            let ack = tcp(ends4, Tcp::Ack, &[7; 1200]);
            let vector = Vector::unchanged("merged packets are dropped", seen.came(&ack, 0), Host::Merged);
            seen.check(&[vector.with(Context::Buffer { mark: 0, gso_size: 600 })]);
        }
    });
}

/// An outer IPv6 header shows four bits more of the generation than an IPv4 one.
fn with_generation_of(came: &[u8], went: &[u8]) -> Vec<u8> {
    if came[12] == 8 && went[12] != 8 {
        let mut went = went.to_vec();
        went[ETHERNET + 1] &= 0xf0;
        return went;
    }
    went.to_vec()
}

#[test]
#[ignore = "needs root"]
fn a_flood_is_passed_on_only_within_the_budget() {
    at_both("a flood of stray packets", |seen| {
        seen.per_second = 100;
        seen.sync();
        let ends = flows(seen)[0];
        let came = seen.came(&tcp(ends, Tcp::Ack, b"x"), 0);
        for _ in 0..200 {
            seen.run(&came, &Context::Plain).unwrap();
        }
        let counters = seen.counters().unwrap();
        let count = |name| counters.iter().find(|c| c.name == name).unwrap().value;
        let (passed, dropped) = (count("passed_on"), count("over_budget"));
        assert_eq!(passed + dropped, 200);
        // Seven per window of 67 ms; the loop may take several of them.
        assert!(passed >= 7 && dropped >= 50, "{passed} passed on, {dropped} dropped");
        seen.per_second = 0;
        seen.sync();
        seen.check(&[seen.keeps("without a budget all is kept", &tcp(ends, Tcp::Ack, b"x"), 0, Host::Local)]);
    });
}

#[test]
#[ignore = "needs root"]
fn directors_and_hosts_hold_the_same_tables() {
    if !isolation::can_run("digests of directors and hosts") {
        return;
    }
    let world = World::default();
    let mut director = Director::load(World::options(), None).unwrap();
    let of_director = world.bring_to(&mut director).unwrap().tables;
    let mut seen = Seen::by("b", Hook::Xdp);
    let fellows = Fellows {
        model: &world.model,
        locals: &[],
        nexthops: &world.nexthops,
        doubts: &BTreeMap::new(),
        per_second: 1,
    };
    let of_host = seen.plane.sync_fellows(&fellows).unwrap();
    assert_eq!(of_host, of_director);
    assert_eq!(of_host.len(), world.model.pools.len());
    assert!(world.model.pools.values().all(|pool| pool.size == ROWS));
}
