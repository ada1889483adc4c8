//! Vectors on the director's XDP program.

use lb_common::reasons::Director;
use lb_tests::vector::{Context, Hook, Vector, all_seen, check};
use lb_tests::world::{LOOPBACK, World};
use lb_tests::{director_vectors, isolation};
use lb_user::director_model::{Memory, judge};

#[test]
fn every_packet_meets_its_fate_and_every_reason_is_seen() {
    if !isolation::can_run("director vectors") {
        return;
    }
    let world = World::default();
    let mut director = world.director().unwrap();
    let expect = |vector: &Vector<Director>| {
        (Hook::Xdp.action(vector.reason.verdict(), vector.redirected), vector.output.clone())
    };
    let seen = check(&mut director, &director_vectors::all(&world), expect, |_| true);
    all_seen(&seen, &[]);
}

/// Vectors are checked by hand, the model by them: what it says of random packets is worth as much.
#[test]
fn the_model_agrees_with_the_vectors() {
    let world = World::default();
    let view = world.view();
    // What sources have used of their limits goes on from vector to vector.
    let mut memory = Memory::new();
    // The model knows nothing of headroom.
    let plain = |vector: &Vector<Director>| matches!(vector.context, Context::Plain);
    for vector in director_vectors::all(&world).into_iter().filter(plain) {
        let judged = judge(&view, &mut memory, &vector.packet);
        assert_eq!(judged.reason, vector.reason, "{}", vector.says);
        assert_eq!(judged.output, vector.output, "{}", vector.says);
        let away = judged.sent_by().is_some_and(|ifindex| ifindex != LOOPBACK);
        assert_eq!(away, vector.redirected, "{}", vector.says);
    }
}

/// Inner packets and their bytes from the IP header on, without the outer header.
#[test]
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
    assert_eq!(of(lb_tests::world::vip::AWAY), (1, 40));
    assert_eq!(of(lb_tests::world::vip::SICK), (0, 0));
}
