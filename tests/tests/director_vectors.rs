//! Vectors on the director's XDP program.

use lb_common::reasons::Director;
use lb_tests::vector::{Context, Hook, Vector, all_seen, check};
use lb_tests::world::{LOOPBACK, World};
use lb_tests::{director_vectors, isolation};
use lb_user::dataplane::director::DirectorOptions;
use lb_user::dataplane::nexthops::Sources;
use lb_user::director_model::{Memory, judge};

#[test]
#[ignore = "needs root"]
fn every_packet_meets_its_fate_and_every_reason_is_seen() {
    if !isolation::can_run("director vectors") {
        return;
    }
    for world in worlds() {
        let mut director = world.director().unwrap();
        let expect = |vector: &Vector<Director>| {
            (Hook::Xdp.action(vector.reason.verdict(), vector.redirected), vector.output.clone())
        };
        let seen = check(&mut director, &director_vectors::all(&world), expect, |_| true);
        all_seen(&seen, &[]);
    }
}

/// With fixed outer sources, and with some that are chosen per flow.
fn worlds() -> [World; 2] {
    let prefix = |text: &str| Some(text.parse().unwrap());
    let (spread4, spread6) = (prefix("172.31.0.0/17"), prefix("2001:db8:0:5::ab00/121"));
    let mut spread = World::default();
    spread.sources = Sources { spread4, spread6, ..Sources::default() };
    [World::default(), spread]
}

#[test]
#[ignore = "needs root"]
fn senders_are_told_no_more_often_than_is_configured() {
    if !isolation::can_run("limit of ICMP errors") {
        return;
    }
    let world = World::default();
    let options = DirectorOptions { icmp_errors: 0, ..World::options() };
    let mut director = lb_user::dataplane::director::Director::load(options, None).unwrap();
    world.bring_all_to(&mut director).unwrap();
    let told = |vector: &Vector<Director>| vector.reason == Director::TooBigTold;
    for vector in director_vectors::all(&world).into_iter().filter(told) {
        let silent = Vector::unchanged("without a budget nobody is told", vector.packet, Director::TooBig);
        check(&mut director, &[silent], |vector| (1, vector.output.clone()), |_| true);
    }
}

/// Vectors are checked by hand, the model by them: what it says of random packets is worth as much.
#[test]
fn the_model_agrees_with_the_vectors() {
    for world in worlds() {
        agree(&world);
    }
}

fn agree(world: &World) {
    let view = world.view();
    // What sources have used of their limits goes on from vector to vector.
    let mut memory = Memory::new();
    // The model knows nothing of headroom.
    let plain = |vector: &Vector<Director>| matches!(vector.context, Context::Plain);
    for vector in director_vectors::all(world).into_iter().filter(plain) {
        let judged = judge(&view, &mut memory, &vector.packet);
        assert_eq!(judged.reason, vector.reason, "{}", vector.says);
        assert_eq!(judged.output, vector.output, "{}", vector.says);
        let away = judged.sent_by().is_some_and(|ifindex| ifindex != LOOPBACK);
        assert_eq!(away, vector.redirected, "{}", vector.says);
    }
}

/// Inner packets and their bytes from the IP header on, without the outer header.
#[test]
#[ignore = "needs root"]
fn traffic_is_counted_per_service() {
    if !isolation::can_run("traffic per service") {
        return;
    }
    let world = World::default();
    let mut director = world.director().unwrap();
    let is_counted = |v: &&Vector<Director>| v.reason == Director::Forwarded && v.context == Context::Plain;
    for vector in director_vectors::all(&world).iter().filter(is_counted) {
        lb_tests::vector::run(director.program().unwrap(), &vector.packet, &vector.context).unwrap();
    }
    let traffic = director.traffic().unwrap();
    let of = |n| {
        let key = lb_user::model::ServiceKey {
            vip: lb_tests::world::vip4(n).into(),
            port: 80,
            protocol: lb_user::model::Protocol::Tcp,
        };
        (traffic[&key].packets, traffic[&key].bytes)
    };
    assert_eq!(of(lb_tests::world::vip::SIX_ONLY), (2, 81));
    assert_eq!(of(lb_tests::world::vip::SICK), (0, 0));
}
