//! Vectors of what a service may choose: what of a flow chooses its host.

use lb_common::reasons::Director;
use lb_user::model::Protocol::{self, Tcp as OverTcp, Udp};

use super::router;
use crate::packets::*;
use crate::vector::Vector;
use crate::world::*;

/// All of them.
pub fn all(world: &World) -> Vec<Vector<Director>> {
    let mut all = by_addresses(world);
    all.extend(any_port(world));
    all.extend(fragments(world));
    all
}

fn any_port(world: &World) -> Vec<Vector<Director>> {
    let mut all = Vec::new();
    let pool = |ends: Ends, protocol| &*world.service(ends.destination, protocol).unwrap().pool;
    for ends in [client4(vip::ANY), client6(vip::ANY)] {
        assert_eq!(pool(to_port(ends, 81), OverTcp), "any");
        assert_eq!(pool(to_port(ends, 443), OverTcp), "web");
        for (says, port) in [
            ("a port without a service of its own goes to that of any", 81),
            ("the last port, too", 65535),
            ("so does port 0", 0),
            ("a port with a service of its own goes there", 443),
        ] {
            let packet = tcp(to_port(ends, port), Tcp::Syn, b"");
            let output = world.sent(to_port(ends, port), OverTcp, &packet);
            all.push(Vector::new(says, packet, Director::Forwarded, output));
        }
        let packet = udp(to_port(ends, 5000), b"x");
        let output = world.sent(to_port(ends, 5000), Udp, &packet);
        all.push(Vector::new("any port over UDP is another service", packet, Director::Forwarded, output));
        let v6 = ends.source.is_ipv6();
        let answer = tcp(to_port(ends, 5000).reversed(), Tcp::Ack, &[7; 64]);
        let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
        let packet = icmp_error(router(v6), ends.destination.ip(), kind, code, &answer, 8);
        let output = world.sent(to_port(ends, 5000), OverTcp, &packet);
        let says = "an error about a flow of any port follows it";
        all.push(Vector::new(says, packet, Director::ForwardedError, output));
    }
    all
}

/// All that go to one VIP from one client have one host, as the whole packet has.
fn fragments(world: &World) -> Vec<Vector<Director>> {
    let mut all = Vec::new();
    let ends4 = client4(vip::BY_ADDRESSES);
    let whole4 = tcp(ends4, Tcp::Ack, &[7; 64]);
    let ends6 = client6(vip::BY_ADDRESSES);
    let whole6 = udp(to_port(ends6, 53), &[7; 64]);
    let header = |offset: u16, more: u16| (offset << 3 | more).to_be_bytes();
    let fragment6 = |offset, more| {
        let [a, b] = header(offset, more);
        with_header(&whole6, 44, &[0, a, b, 0, 0, 0, 7])
    };
    let last = cut(&as_fragment(&whole4, ETHERNET, 8, false), ETHERNET + IPV4 + 1);
    let last = with_ipv4(&last, ETHERNET, |ip| ip.total_len = 21);
    for (says, ends, packet) in [
        (
            "a first fragment goes to the host of its addresses",
            ends4,
            as_fragment(&whole4, ETHERNET, 0, true),
        ),
        (
            "so does a later one, whatever stands where ports would",
            ends4,
            as_fragment(&whole4, ETHERNET, 2, true),
        ),
        ("and a last one of one byte", ends4, last),
        ("and one with options", ends4, with_options(&as_fragment(&whole4, ETHERNET, 2, true), ETHERNET)),
        ("a first fragment over IPv6 goes there", ends6, fragment6(0, 1)),
        ("so does a later one over IPv6", ends6, fragment6(4, 1)),
        ("and the last one over IPv6", ends6, fragment6(8, 0)),
    ] {
        let output = world.sent(ends, OverTcp, &packet);
        all.push(Vector::new(says, packet, Director::ForwardedFragment, output));
    }
    let atomic = fragment6(0, 0);
    let output = world.sent(ends6, OverTcp, &atomic);
    all.push(Vector::new("an atomic fragment is a whole packet", atomic, Director::Forwarded, output));
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let icmp4 = icmp(ends4.source.ip(), ends4.destination.ip(), 8, 0, [0; 4], &[7; 64]);
    let empty = as_fragment(&cut(&whole4, ETHERNET + IPV4 + 8), ETHERNET, 2, true);
    let empty = with_ipv4(&empty, ETHERNET, |ip| ip.total_len = 20);
    all.extend([
        is("a fragment of ICMP is nobody's", as_fragment(&icmp4, ETHERNET, 0, true), Director::Fragment),
        is("a fragment of nothing is refused", empty, Director::BadHeader),
        is(
            "a fragment over IPv6 for a service that forwards none is dropped",
            with_header(&tcp(client6(vip::WEB), Tcp::Ack, &[7; 64]), 44, &[0, 0, 9, 0, 0, 0, 7]),
            Director::Fragment,
        ),
        is(
            "a fragment that does not fit is not made smaller",
            as_fragment(&udp(to_port(ends4, 53), &[7; 1480]), ETHERNET, 0, true),
            Director::TooBig,
        ),
    ]);
    all
}

/// The host is computed by the test's own world; that it is one and the same is said here.
fn by_addresses(world: &World) -> Vec<Vector<Director>> {
    let mut all = Vec::new();
    let mut sent = |says, like: Ends, ends: Ends, protocol| {
        let packet = match protocol {
            OverTcp => tcp(ends, Tcp::Ack, b"x"),
            Udp => udp(ends, b"x"),
        };
        let output = world.sent(like, OverTcp, &packet);
        all.push(Vector::new(says, packet, Director::Forwarded, output));
    };
    for (first, elsewhere) in [
        (client4(vip::BY_SOURCE), client4(vip::BY_SOURCE)),
        (client6(vip::BY_SOURCE), client6(vip::BY_SOURCE)),
    ] {
        sent("by source, a client has one host", first, first, OverTcp);
        sent("by source, its port does not matter", first, from_port(first, 1), OverTcp);
        sent("by source, neither do protocol and port of the VIP", first, to_port(elsewhere, 53), Udp);
    }
    for first in [client4(vip::BY_ADDRESSES), client6(vip::BY_ADDRESSES)] {
        sent("by addresses, a client has one host", first, first, OverTcp);
        sent("by addresses, its port does not matter", first, from_port(first, 65535), OverTcp);
        sent("by addresses, neither do protocol and port of the VIP", first, to_port(first, 53), Udp);
    }
    for ends in [vip::BY_SOURCE, vip::BY_ADDRESSES].iter().flat_map(|n| [client4(*n), client6(*n)]) {
        let v6 = ends.source.is_ipv6();
        let answer = tcp(from_port(ends, 7).reversed(), Tcp::Ack, &[7; 64]);
        let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
        let packet = icmp_error(router(v6), ends.destination.ip(), kind, code, &answer, 8);
        let output = world.sent(ends, Protocol::Tcp, &packet);
        let says = "an error goes where the flow that it quotes goes, whatever its ports";
        all.push(Vector::new(says, packet, Director::ForwardedError, output));
    }
    all
}
