//! Vectors of VIPs that are prefixes: which of several an address is of, and that all of it is served as one address
//! would be.

use lb_common::reasons::Director;
use lb_user::model::Protocol::{Tcp as OverTcp, Udp};

use super::{router, told};
use crate::packets::*;
use crate::vector::Vector;
use crate::world::prefixes::{ADDRESSES, PIECES, WEB, WHOLE, to};
use crate::world::*;

const FIRST: &str = "2001:db8:5::";
const LAST: &str = "2001:db8:5:0:ffff:ffff:ffff:ffff";
const MIDDLE: &str = "2001:db8:5:0:7fff:ffff:ffff:ffff";
const OUTSIDE: &str = "2001:db8:5:1::";
const NEXT: &str = "2001:db8:6::4";

/// All of them.
pub fn all(world: &World) -> Vec<Vector<Director>> {
    let mut all = chosen(world);
    all.extend(asked(world));
    all.extend(fragments(world));
    all.extend(icmp_for_one(world));
    all
}

/// The hosts are computed by the test's own world; whose they are is said here.
fn chosen(world: &World) -> Vec<Vector<Director>> {
    let mut all = Vec::new();
    for (says, address, port, pool) in [
        ("the first address of a prefix is served", FIRST, 80, "wide"),
        ("so is one in the middle", MIDDLE, 80, "wide"),
        ("the longer of two prefixes wins, whatever its port is", LAST, 80, "half"),
        ("any port of a longer one goes before this port of a shorter one", LAST, 443, "half"),
        ("a port that the longer one does not have goes to the shorter one", MIDDLE, 81, "widest"),
        ("there, this port goes before any", MIDDLE, 443, "by-port"),
        ("an address that is a VIP goes before prefixes", WEB, 80, "web"),
        ("a port that it does not have goes to a prefix", WEB, 443, "by-port"),
        ("of the shorter prefix all else is served", OUTSIDE, 80, "widest"),
        ("port 0 is any port", OUTSIDE, 0, "widest"),
    ] {
        let ends = to(address, port);
        assert_eq!(world.service(ends.destination, OverTcp).unwrap().pool, pool, "{says}");
        let packet = tcp(ends, Tcp::Syn, b"");
        let output = world.sent(ends, OverTcp, &packet);
        all.push(Vector::new(says, packet, Director::Forwarded, output));
        let packet = with_header(&tcp(ends, Tcp::Ack, b"x"), 60, &[0; 7]);
        let output = world.sent(ends, OverTcp, &packet);
        all.push(Vector::new("with an extension header as well", packet, Director::Forwarded, output));
    }
    let udp_to = |address, port| udp(to(address, port), b"x");
    let output = world.sent(to(LAST, 53), Udp, &udp_to(LAST, 53));
    all.push(Vector::new("over UDP it is another service", udp_to(LAST, 53), Director::Forwarded, output));
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let before = ADDRESSES[ADDRESSES.len() - 1];
    all.extend([
        is("a port that no prefix around has is refused", udp_to(MIDDLE, 54), Director::NoService),
        is("so it is at an address that is a VIP", udp_to(WEB, 54), Director::NoService),
        is("another protocol is refused", with_protocol(&udp_to(MIDDLE, 53)), Director::NoService),
        is("the address before a prefix is no VIP", tcp(to(before, 80), Tcp::Syn, b""), Director::NotVip),
        is("the address behind one is none", tcp(to(NEXT, 80), Tcp::Syn, b""), Director::NotVip),
        is("nor with an extension header", with_extension(&udp_to(NEXT, 443), 60), Director::NotVip),
    ]);
    all
}

/// The same packet with SCTP's number.
fn with_protocol(packet: &[u8]) -> Vec<u8> {
    patched(packet, ETHERNET + 6, &[132])
}

/// What services of a prefix may ask for.
fn asked(world: &World) -> Vec<Vector<Director>> {
    let pair = |port| to("2001:db8:6::3", port);
    let allowed = tcp(pair(80), Tcp::Syn, b"");
    let output = world.sent(pair(80), OverTcp, &allowed);
    let denied = tcp(from_client(pair(80), "2001:db8::cb00:7141"), Tcp::Syn, b"");
    let quic = udp(pair(443), &quic_short(&[&[2 << 5][..], &SERVER_B, &[0; 8]].concat()));
    let to_b = world.sent_to("b", pair(443), Udp, &quic);
    let big = tcp(pair(81), Tcp::Ack, &[7; 1300]);
    vec![
        Vector::new("a source that may use a prefix", allowed, Director::Forwarded, output),
        Vector::unchanged("and one that may not", denied, Director::SourceDenied),
        Vector::new("a connection id to an address of a prefix", quic, Director::ById, to_b),
        told("who sends too much is told by the address that it asked", &big, 1280),
    ]
}

fn fragments(world: &World) -> Vec<Vector<Director>> {
    let fragment = |address, offset: u16| {
        let [a, b] = (offset << 3 | 1).to_be_bytes();
        with_header(&udp(to(address, 53), &[7; 64]), 44, &[0, a, b, 0, 0, 0, 7])
    };
    let sent = |says, address, offset| {
        let packet = fragment(address, offset);
        let output = world.sent(to(address, 53), Udp, &packet);
        Vector::new(says, packet, Director::ForwardedFragment, output)
    };
    let of_tcp = with_header(&tcp(to(MIDDLE, 80), Tcp::Ack, &[7; 64]), 44, &[0, 0, 9, 0, 0, 0, 7]);
    vec![
        sent("a first fragment goes where its prefix sends all", MIDDLE, 0),
        sent("so does a later one", MIDDLE, 4),
        sent("and one to a longer prefix without services of the protocol", LAST, 4),
        sent("an address of its own has its own", PIECES, 4),
        Vector::unchanged(
            "an address that forwards none does so in a prefix that does",
            fragment(WHOLE, 4),
            Director::Fragment,
        ),
        Vector::unchanged("of another protocol they are dropped", of_tcp, Director::Fragment),
    ]
}

fn icmp_for_one(world: &World) -> Vec<Vector<Director>> {
    let mut all = Vec::new();
    for (says, address, port) in [
        ("an error about a flow to an address of a prefix follows it", FIRST, 80),
        ("and so one about any port", MIDDLE, 5000),
    ] {
        let ends = to(address, port);
        let answer = tcp(ends.reversed(), Tcp::Ack, &[7; 64]);
        let packet = icmp_error(router(true), ends.destination.ip(), 2, 0, &answer, 8);
        let output = world.sent(ends, OverTcp, &packet);
        all.push(Vector::new(says, packet, Director::ForwardedError, output));
        let elsewhere = icmp_error(router(true), to(WEB, 80).destination.ip(), 2, 0, &answer, 8);
        let says = "an error to another address of the same prefix does not";
        all.push(Vector::unchanged(says, elsewhere, Director::IcmpForeign));
    }
    for address in [FIRST, LAST, WEB] {
        let (client, vip) = (to(address, 0).source.ip(), to(address, 0).destination.ip());
        let ping = |kind| icmp(client, vip, kind, 0, [0, 1, 0, 2], b"ping");
        let pong = icmp(vip, client, 129, 0, [0, 1, 0, 2], b"ping");
        let pong = with_outer_ttl(&patched(&pong, 0, &[ROUTER, MACHINE].concat()), 64);
        let says = "an echo request is answered by the address that was asked";
        all.push(Vector::new(says, ping(128), Director::Echo, pong));
        all.push(Vector::unchanged("other ICMP for it is dropped", ping(135), Director::IcmpOther));
    }
    let ends = to(NEXT, 0);
    let ping = icmp(ends.source.ip(), ends.destination.ip(), 128, 0, [0; 4], b"ping");
    all.push(Vector::unchanged("an echo request to the address behind is not", ping, Director::NotVip));
    all
}
