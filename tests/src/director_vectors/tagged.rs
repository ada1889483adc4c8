//! Frames with VLAN tags, coming or going.

use lb_common::reasons::Director;
use lb_user::director_model::write::answer;
use lb_user::model::Protocol;

use super::told;
use crate::packets::*;
use crate::vector::{Context, Vector};
use crate::world::*;

/// 802.1Q, VLAN 7, priority 5.
const ONE: &[(u16, u16)] = &[(0x8100, 0xa007)];
/// 802.1Q without a VLAN, for its priority.
const PRIORITY: &[(u16, u16)] = &[(0x8100, 0xe000)];
/// 802.1ad, and 802.1Q in it.
const TWO: &[(u16, u16)] = &[(0x88a8, 100), (0x8100, 7)];
const THREE: &[(u16, u16)] = &[(0x88a8, 100), (0x8100, 7), (0x8100, 8)];

pub(super) fn all(world: &World) -> Vec<Vector<Director>> {
    let mut all = incoming(world);
    all.extend(untouched());
    all.extend(outgoing(world));
    all
}

fn incoming(world: &World) -> Vec<Vector<Director>> {
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let sent = |says, ends: Ends, tags| {
        let packet = tcp(ends, Tcp::Ack, b"GET / HTTP/1.1\r\n\r\n");
        let output = world.sent(ends, Protocol::Tcp, &packet);
        Vector::new(says, with_tags(&packet, tags), Director::Forwarded, output)
    };
    let error = |says, ends: Ends, from: &str, kind, tags| {
        let quoted = tcp(ends.reversed(), Tcp::Ack, &[7; 64]);
        let packet = icmp_error(from.parse().unwrap(), ends.destination.ip(), kind, 1, &quoted, 8);
        let output = world.sent(ends, Protocol::Tcp, &packet);
        Vector::new(says, with_tags(&packet, tags), Director::ForwardedError, output)
    };
    let answered = |says, ends: Ends, request, tags| {
        let packet = icmp(ends.source.ip(), ends.destination.ip(), request, 0, [1; 4], b"ping");
        let at = if ends.source.is_ipv4() { ETHERNET + IPV4 } else { ETHERNET + IPV6 };
        let output = with_tags(&answer(&packet, at), tags);
        Vector::new(says, with_tags(&packet, tags), Director::Echo, output)
    };
    vec![
        sent("a tag of the way in is left behind", web4, ONE),
        sent("so it is with IPv6", web6, ONE),
        sent("a priority is no VLAN, and a tag all the same", web4, PRIORITY),
        sent("two tags are left behind", web4, TWO),
        sent("two tags before IPv6 are, too", web6, TWO),
        sent("a tagged packet goes out by another interface", client4(vip::AWAY), ONE).redirected(),
        sent("from a VLAN to another one of the same interface", client4(vip::TAGGED), ONE),
        sent("an IPv6 packet changes its VLAN, too", client6(vip::TAGGED), ONE),
        error("a tagged ICMP error follows the flow that it quotes", web4, "192.0.2.1", 3, ONE),
        error("an ICMPv6 error behind two tags follows", web6, "2001:db8::c000:201", 1, TWO),
        answered("an answer goes back with the tag of the question", web4, 8, ONE),
        answered("an answer over IPv6, with both tags", web6, 128, TWO),
    ]
}

fn untouched() -> Vec<Vector<Director>> {
    let is = |says, packet: &[u8], tags, reason| Vector::unchanged(says, with_tags(packet, tags), reason);
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let (syn4, syn6) = (tcp(web4, Tcp::Syn, b""), tcp(web6, Tcp::Syn, b""));
    let (none4, none6) = (tcp(client4(vip::NONE), Tcp::Syn, b""), tcp(client6(vip::NONE), Tcp::Syn, b""));
    let mapped = patched(&syn6, 38, &vip4(vip::WEB).to_ipv6_mapped().octets());
    let big = tcp(client4(vip::NARROW), Tcp::Ack, &[7; 600 - 3 * 20 + 1]);
    let big = told("who sends a tagged packet that is too big is told in its VLAN", &big, 580);
    // A loose source route.
    let routed = patched(&with_options(&syn4, ETHERNET), ETHERNET + IPV4, &[131]);
    let short = |says, packet: &[u8], tags, len| {
        Vector::unchanged(says, cut(&with_tags(packet, tags), len), Director::Truncated)
    };
    vec![
        is("three tags are not looked behind", &syn4, THREE, Director::NotIp),
        is("ARP with a tag is the kernel's", &arp(), ONE, Director::NotIp),
        is("a tagged packet to another address is the kernel's, tag and all", &none4, ONE, Director::NotVip),
        is("an IPv6 packet to another address, with both its tags", &none6, TWO, Director::NotVip),
        is("a tag makes no VIP of an IPv4 VIP inside an IPv6 header", &mapped, ONE, Director::NotVip),
        is("what is dropped has its tags", &routed, ONE, Director::IpOptions),
        is("what is dropped of IPv6, too", &with_extension(&syn6, 51), TWO, Director::Extension),
        Vector { packet: with_tags(&big.packet, TWO), output: with_tags(&big.output, TWO), ..big },
        is("no host, no change", &tcp(client4(vip::SICK), Tcp::Syn, b""), TWO, Director::NoHost),
        short("a frame that ends inside its tag", &syn4, ONE, 15),
        short("a frame that ends behind its tag", &syn4, ONE, 16),
        short("a frame that ends between two tags", &syn4, TWO, 18),
        short("a frame that ends before the destination", &syn4, ONE, ETHERNET + 4 + 19),
        short("a frame that ends before the IPv6 destination", &syn6, TWO, ETHERNET + 8 + 39),
        short("a frame that ends behind the destination", &syn4, ONE, ETHERNET + 4 + 20),
    ]
}

fn outgoing(world: &World) -> Vec<Vector<Director>> {
    let sent = |says, ends: Ends, payload: &[u8]| {
        let packet = tcp(ends, Tcp::Ack, payload);
        let output = world.sent(ends, Protocol::Tcp, &packet);
        Vector::new(says, packet, Director::Forwarded, output)
    };
    let (once4, twice4) = (client4(vip::TAGGED), client4(vip::TWICE_TAGGED));
    let (once6, twice6) = (client6(vip::TAGGED), client6(vip::TWICE_TAGGED));
    let full = vec![7; 1500 - IPV4 - IPV4 - 20];
    // Headroom is 256 bytes, of which the kernel wants 40 for itself and the metadata stays: 192 leave 24.
    let behind = |packet: Vec<u8>| [vec![0xee; 192], packet].concat();
    let cramped = |says, ends: Ends, reason, sent: Vec<u8>| {
        Vector::new(says, behind(tcp(ends, Tcp::Syn, b"")), reason, behind(sent)).with(Context::Metadata(192))
    };
    let once = world.sent(once4, Protocol::Tcp, &tcp(once4, Tcp::Syn, b""));
    let twice = world.sent(twice4, Protocol::Tcp, &tcp(twice4, Tcp::Syn, b""));
    let untagged = [&twice[..12], &twice[20..]].concat();
    vec![
        sent("a way by a VLAN device is tagged here", once4, b"x"),
        sent("a way by a VLAN device is tagged over IPv6", once6, b"x"),
        sent("a way by a VLAN device on another has two tags", twice4, b"x").redirected(),
        sent("two tags over IPv6", twice6, b"x").redirected(),
        sent("tags do not count for the MTU", once4, &full),
        cramped("24 bytes of headroom are enough for IPv4 and a tag", once4, Director::Forwarded, once),
        cramped("they are not for two tags", twice4, Director::NoHeadroom, untagged),
    ]
}
