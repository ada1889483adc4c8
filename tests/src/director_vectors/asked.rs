//! What services may ask for: lists of sources, limits, hosts named by connection ids.

use lb_common::reasons::Director;
use lb_user::model::Protocol::{self, Udp};

use super::router;
use crate::packets::*;
use crate::vector::Vector;
use crate::world::*;

pub(super) fn all(world: &World) -> Vec<Vector<Director>> {
    let mut all = sources(world);
    all.extend(limits(world));
    all.extend(quic(world));
    all
}

/// Lists of sources.
fn sources(world: &World) -> Vec<Vector<Director>> {
    let syn = |ends| tcp(ends, Tcp::Syn, b"");
    let sent = |says, ends: Ends, packet: Vec<u8>, reason| {
        let output = world.sent(ends, Protocol::Tcp, &packet);
        Vector::new(says, packet, reason, output)
    };
    let denied = |says, packet| Vector::unchanged(says, packet, Director::SourceDenied);
    let (picky4, picky6) = (client4(vip::PICKY), client6(vip::PICKY));
    let (bad4, bad6) = (from_client(picky4, "203.0.113.70"), from_client(picky6, "2001:db8::cb00:7146"));
    let stranger = from_client(picky4, "192.0.2.9");
    let error = |ends: Ends| {
        let v6 = ends.source.is_ipv6();
        let answer = tcp(ends.reversed(), Tcp::Ack, &[7; 512]);
        icmp_error(router(v6), ends.destination.ip(), if v6 { 2 } else { 3 }, 4 * u8::from(!v6), &answer, 8)
    };
    let forwarded = Director::Forwarded;
    let followed = Director::ForwardedError;
    vec![
        sent("a source of an allowed prefix is served", picky4, syn(picky4), forwarded),
        denied("a denied prefix inside is not", syn(bad4)),
        denied("where some are allowed, a source that no prefix holds is denied", syn(stranger)),
        sent("where some are denied only, others are served", picky6, syn(picky6), forwarded),
        denied("a source of a denied IPv6 prefix is not served", syn(bad6)),
        denied("nor inside a connection", tcp(bad6, Tcp::Ack, b"x")),
        sent("an error about an allowed client's flow follows it", picky4, error(picky4), followed),
        sent("so does an ICMPv6 error", picky6, error(picky6), followed),
        denied("an error about a denied client's flow is dropped, whoever sends it", error(bad4)),
        denied("so is an ICMPv6 error", error(bad6)),
    ]
}

/// Limits per source: vectors that go on from each other, of sources that no other vectors have.
fn limits(world: &World) -> Vec<Vector<Director>> {
    let sent = |says, ends: Ends, protocol, packet: Vec<u8>| {
        let output = world.sent(ends, protocol, &packet);
        Vector::new(says, packet, Director::Forwarded, output)
    };
    let tcp_sent = |says, ends, kind| sent(says, ends, Protocol::Tcp, tcp(ends, kind, b""));
    let udp_sent = |says, ends| sent(says, ends, Udp, udp(ends, b"query"));
    let limited = |says, packet| Vector::unchanged(says, packet, Director::RateLimited);
    let (slow4, slow6) = (client4(vip::SLOW), client6(vip::SLOW));
    let neighbour6 = from_client(slow6, "2001:db8::1:2:3:4");
    let (dns4, dns6) = (to_port(client4(vip::SLOWER), 53), to_port(client6(vip::SLOWER), 53));
    let error = icmp_error(router(false), dns4.destination.ip(), 3, 3, &udp(dns4.reversed(), b"x"), 8);
    let followed = world.sent(dns4, Udp, &error);
    vec![
        tcp_sent("the first connection of a source is within its limit", slow4, Tcp::Syn),
        tcp_sent("what opens none is not counted", slow4, Tcp::Ack),
        tcp_sent("the second connection is within the limit", slow4, Tcp::Syn),
        tcp_sent("the third one is, too", slow4, Tcp::Syn),
        limited("the fourth one is too much", tcp(slow4, Tcp::Syn, b"")),
        tcp_sent("established connections go on", slow4, Tcp::Ack),
        tcp_sent("another address has a limit of its own", from_client(slow4, "203.0.113.8"), Tcp::Syn),
        tcp_sent("over IPv6 the first connection is within the limit", slow6, Tcp::Syn),
        tcp_sent("so is one of another address of the /64", neighbour6, Tcp::Syn),
        tcp_sent("and the third", slow6, Tcp::Syn),
        limited("but not the fourth, of whichever address", tcp(neighbour6, Tcp::Syn, b"")),
        tcp_sent("another /64 has its own", from_client(slow6, "2001:db8:0:1::1"), Tcp::Syn),
        udp_sent("a limit of packets counts each", dns4),
        udp_sent("of all addresses of the prefix", from_client(dns4, "203.0.113.99")),
        limited("the third one is too much", udp(dns4, b"query")),
        Vector::new("an error about a flow is not counted", error, Director::ForwardedError, followed),
        udp_sent("a limit of packets holds over IPv6", dns6),
        udp_sent("for a /56", from_client(dns6, "2001:db8:0:ff::1")),
        limited("and no more", udp(dns6, b"query")),
        udp_sent("the next /56 has its own", from_client(dns6, "2001:db8:0:100::1")),
    ]
}

/// QUIC by connection id.
fn quic(world: &World) -> Vec<Vector<Director>> {
    const V1: u32 = 1;
    const V2: u32 = 0x6b33_43cf;
    const INITIAL: u8 = 0;
    const HANDSHAKE: u8 = 2;
    let id = |rotation: u8, server: [u8; 3]| [&[rotation << 5 | 0x0d][..], &server, &[0x5e; 6]].concat();
    let (to_a, to_b, to_c) = (id(2, SERVER_A), id(2, SERVER_B), id(2, SERVER_C));
    let ends4 = to_port(client4(vip::QUIC), 443);
    let ends6 = to_port(client6(vip::QUIC), 443);
    let moved = from_client(ends4, "192.0.2.77");
    let by_id = |says, ends, host: &str, payload: Vec<u8>| {
        let packet = udp(ends, &payload);
        let output = world.sent_to(host, ends, Udp, &packet);
        Vector::new(says, packet, Director::ById, output)
    };
    let by_flow = |says, ends, reason, payload: Vec<u8>| {
        let packet = udp(ends, &payload);
        let output = world.sent(ends, Udp, &packet);
        Vector::new(says, packet, reason, output)
    };
    let (plain, unknown) = (Director::Forwarded, Director::UnknownId);
    let error = icmp_error(router(false), ends4.destination.ip(), 3, 4, &udp(ends4.reversed(), &[1; 20]), 8);
    let followed = world.sent(ends4, Udp, &error);
    vec![
        by_id("a connection id names its host", ends4, "b", quic_short(&to_b)),
        by_id("also when the client has moved", moved, "b", quic_short(&to_b)),
        by_id("also over IPv6", ends6, "b", quic_short(&to_b)),
        by_id("a drained host keeps its connections", ends4, "a", quic_short(&to_a)),
        by_id("a drained host keeps them over IPv6", ends6, "a", quic_short(&to_a)),
        by_id("a handshake goes to the host of its id", ends4, "a", quic_long(V1, HANDSHAKE, &to_a)),
        by_id("a handshake of version 2, too", ends6, "a", quic_long(V2, 3, &to_a)),
        by_flow("an Initial goes by its flow, whatever its id", ends4, plain, quic_long(V1, INITIAL, &to_a)),
        by_flow("so does 0-RTT", ends6, plain, quic_long(V1, 1, &to_a)),
        by_flow("and an Initial of version 2", ends4, plain, quic_long(V2, 1, &to_a)),
        by_flow("and what is of a version to come", ends4, plain, quic_long(99, HANDSHAKE, &to_a)),
        by_flow("the id of a sick host is as good as none", ends4, unknown, quic_short(&to_c)),
        by_flow("an id of no host goes by its flow", ends4, unknown, quic_short(&id(2, [9; 3]))),
        by_flow("so does one over IPv6", ends6, unknown, quic_short(&id(2, [9; 3]))),
        by_flow("other rotation bits are not understood", ends4, unknown, quic_short(&id(1, SERVER_A))),
        by_flow("codepoint 7 says that it names nobody", ends4, plain, quic_short(&id(7, SERVER_A))),
        by_flow(
            "an id in a handshake may be too short",
            ends4,
            unknown,
            quic_long(V1, HANDSHAKE, &to_a[..3]),
        ),
        by_flow("a datagram too short for an id has none", ends4, unknown, vec![0x40, 0x4d, 0, 0, 1]),
        by_flow("nor has an empty one", ends6, plain, Vec::new()),
        by_flow("nor a long header that is cut", ends4, plain, vec![0xe0, 0, 0, 0, 1]),
        Vector::new("an error goes by its flow", error, Director::ForwardedError, followed),
    ]
}
