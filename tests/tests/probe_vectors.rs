//! Vectors on the program that puts the agent's own probes into the tunnel, at TC egress.

use anyhow::Result;
use lb_common::maps::PROBE_MARK;
use lb_common::reasons::Probe;
use lb_tests::isolation;
use lb_tests::packets::*;
use lb_tests::vector::{self, Bench, Context, Hook, Vector, all_seen, check};
use lb_tests::world::{World, client4, client6, vip};
use lb_user::dataplane::counters::Counter;
use lb_user::dataplane::director::Director;
use lb_user::model::{Family, HostId, Protocol};

struct AtEgress(Director);

impl Bench for AtEgress {
    fn run(&mut self, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)> {
        vector::run(self.0.probe_program()?, packet, context)
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(self.0.counters()?)
    }
}

#[test]
#[ignore = "needs root"]
fn probes_take_the_tunnel_and_nothing_else_does() {
    if !isolation::can_run("probe vectors") {
        return;
    }
    let world = World::default();
    let director = world.director().unwrap();
    let vectors = vectors(&world, &director);
    let expect = |v: &Vector<Probe>| (Hook::Tc.action(v.reason.verdict(), v.redirected), v.output.clone());
    // Whatever passes the loopback interface is no probe: counting it would cost and tell nothing.
    let seen = check(&mut AtEgress(director), &vectors, expect, |reason| reason != Probe::NotProbe);
    all_seen(&seen, &[]);
}

fn vectors(world: &World, director: &Director) -> Vec<Vector<Probe>> {
    let marks = director.marks(&world.model);
    let mark = |pool: &str, family| marks[&(HostId { pool: pool.into(), host: "a".into() }, family)];
    let marked = |mark| Context::Buffer { mark, gso_size: 0 };
    let (v4, v6) = (Family::V4, Family::V6);
    let sent = |says, pool, ends: Ends| {
        // The pool has one host; the generation is that of no table.
        let (outer, _) = healthy(world).owner(ends, Protocol::Tcp).unwrap();
        let packet = tcp(ends, Tcp::Syn, b"");
        let output = tunnel(&Outer { generation: 0, ..outer }, &packet);
        let family = Family::of(ends.source.ip());
        Vector::new(says, packet, Probe::Sent, output).with(marked(mark(pool, family)))
    };
    let is = |says, packet, mark, reason| Vector::unchanged(says, packet, reason).with(marked(mark));
    let (syn4, syn6) = (tcp(client4(vip::NARROW), Tcp::Syn, b""), tcp(client6(vip::NARROW), Tcp::Syn, b""));
    let narrow = mark("narrow", v4);
    vec![
        sent("a probe of an IPv4 VIP goes to the host of its mark", "narrow", client4(vip::NARROW)),
        sent("a probe of an IPv6 VIP goes to the host of its mark", "narrow", client6(vip::NARROW)),
        sent("a probe of an IPv4 VIP reaches a host with IPv6 only", "six-only", client4(vip::SIX_ONLY)),
        sent("a probe of an IPv6 VIP reaches a host with IPv4 only", "four-only", client6(vip::FOUR_ONLY)),
        sent("a sick host is probed, or it would never be well", "sick", client4(vip::SICK)),
        sent("a host behind another interface is probed there", "away", client4(vip::AWAY)).redirected(),
        is("a packet without a mark is no probe", syn4.clone(), 0, Probe::NotProbe),
        is("another mark is another's", syn6.clone(), 0x4d00_0000, Probe::NotProbe),
        is("the index alone is no mark", syn4.clone(), narrow & !PROBE_MARK, Probe::NotProbe),
        is("ARP without a mark is no probe", arp(), 0, Probe::NotProbe),
        is("a host without a route cannot be probed", syn4.clone(), mark("lost", v4), Probe::NoHost),
        is("nor over IPv6", syn6, mark("lost", v6), Probe::NoHost),
        is("a free slot cannot be probed", syn4.clone(), PROBE_MARK | 8191, Probe::NoHost),
        is("a mark beyond the slots names no host", syn4.clone(), PROBE_MARK | 8192, Probe::NoHost),
        is("a marked ARP request does not fit in a tunnel", arp(), narrow, Probe::Failed),
        Vector::unchanged("nor does a packet yet to be cut in segments of unknown kind", syn4, Probe::Failed)
            .with(Context::Buffer { mark: narrow, gso_size: 1000 }),
    ]
}

/// The world with every host well: where a probe goes whatever the health checks say.
fn healthy(world: &World) -> World {
    let mut world = world.clone();
    world.health.values_mut().for_each(|healthy| *healthy = true);
    world
}
