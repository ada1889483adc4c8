//! The director's vectors. They are also what the differential test mutates.

mod asked;
mod headers;
mod prefixes;
mod services;
mod tagged;

use std::net::IpAddr;

use lb_common::reasons::Director;
use lb_user::director_model::write::answer;
use lb_user::model::Protocol::{self, Udp};

use crate::packets::*;
use crate::vector::{Context, Vector};
use crate::world::*;

/// All of them.
pub fn all(world: &World) -> Vec<Vector<Director>> {
    let mut all = forwarded(world);
    all.extend(passed());
    all.extend(refused4());
    all.extend(refused6());
    all.extend(unservable(world));
    all.extend(icmp_errors(world));
    all.extend(icmp_refused());
    all.extend(echoes());
    all.extend(tagged::all(world));
    all.extend(asked::all(world));
    all.extend(services::all(world));
    all.extend(headers::all(world));
    all.extend(prefixes::all(world));
    all.extend(jumbo(world));
    all
}

/// An address of a router on the way to the client.
pub(crate) fn router(v6: bool) -> IpAddr {
    if v6 { "2001:db8::c000:201".parse().unwrap() } else { [192, 0, 2, 1].into() }
}

fn forwarded(world: &World) -> Vec<Vector<Director>> {
    let sent = |says, ends, protocol: Protocol, packet: Vec<u8>| {
        let output = world.sent(ends, protocol, &packet);
        Vector::new(says, packet, Director::Forwarded, output)
    };
    let tcp_sent =
        |says, ends, kind, payload: &[u8]| sent(says, ends, Protocol::Tcp, tcp(ends, kind, payload));
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let (dns4, dns6) = (to_port(web4, 53), to_port(web6, 53));
    let full = 1500 - IPV4 - IPV4 - 20;
    vec![
        tcp_sent("a SYN to the IPv4 VIP goes to its host over IPv4", web4, Tcp::Syn, b""),
        tcp_sent("a segment with data follows its SYN", web4, Tcp::Ack, b"GET / HTTP/1.1\r\n\r\n"),
        tcp_sent("a RST follows as well", web4, Tcp::Rst, b""),
        tcp_sent("a SYN to the IPv6 VIP goes to its host over IPv6", web6, Tcp::Syn, b""),
        tcp_sent("a segment to the IPv6 VIP follows its SYN", web6, Tcp::Ack, b"GET / HTTP/1.1\r\n\r\n"),
        sent("a UDP packet goes to the host of its flow", dns4, Udp, udp(dns4, b"query")),
        sent("an empty UDP packet is the shortest there is", dns4, Udp, udp(dns4, b"")),
        sent("a UDP packet over IPv6 goes to the host of its flow", dns6, Udp, udp(dns6, b"query")),
        tcp_sent("an IPv4 packet reaches a host that has IPv6 only", client4(vip::SIX_ONLY), Tcp::Syn, b""),
        tcp_sent("an IPv6 packet reaches a host that has IPv4 only", client6(vip::FOUR_ONLY), Tcp::Syn, b""),
        tcp_sent(
            "a packet whose first host is sick goes to the backup",
            client4(vip::FAILOVER),
            Tcp::Syn,
            b"",
        ),
        tcp_sent("so does an IPv6 packet", client6(vip::FAILOVER), Tcp::Syn, b""),
        tcp_sent("a host behind another interface gets its packets there", client4(vip::AWAY), Tcp::Syn, b"")
            .redirected(),
        tcp_sent("an IPv6 host behind another interface, too", client6(vip::AWAY), Tcp::Syn, b"")
            .redirected(),
        tcp_sent("a packet that just fits the MTU is sent", web4, Tcp::Ack, &vec![7; full]),
        sent("padding is kept and not counted", web4, Protocol::Tcp, padded(&tcp(web4, Tcp::Syn, b""), 60)),
        sent("padding behind IPv6 is kept and not counted", dns6, Udp, padded(&udp(dns6, b""), 90)),
        sent(
            "do-not-fragment is no fragment",
            web4,
            Protocol::Tcp,
            with_ipv4(&tcp(web4, Tcp::Ack, b"x"), ETHERNET, |ip| {
                ip.dont_fragment = true;
                ip.identification = 0xffff;
            }),
        ),
        sent(
            "traffic class and congestion bits are copied to the outer header, the flow label is not",
            web6,
            Protocol::Tcp,
            patched(&tcp(web6, Tcp::Ack, b"x"), ETHERNET, &[0x6f, 0xff, 0xff, 0xff]),
        ),
        sent(
            "so is the type of service",
            web4,
            Protocol::Tcp,
            with_traffic_class(&tcp(web4, Tcp::Ack, b"x"), ETHERNET, 0xb9),
        ),
        sent(
            "into a header of the other family as well",
            client4(vip::SIX_ONLY),
            Protocol::Tcp,
            with_traffic_class(&tcp(client4(vip::SIX_ONLY), Tcp::Ack, b"x"), ETHERNET, 0x2a),
        ),
        sent(
            "and from IPv6 to IPv4",
            client6(vip::FOUR_ONLY),
            Protocol::Tcp,
            with_traffic_class(&tcp(client6(vip::FOUR_ONLY), Tcp::Ack, b"x"), ETHERNET, 0xff),
        ),
    ]
}

/// More than the linear part of a test run's frame holds: the rest is in fragments of a page each.
fn jumbo(world: &World) -> Vec<Vector<Director>> {
    let (jumbo4, jumbo6) = (client4(vip::JUMBO), client6(vip::JUMBO));
    let long = |ends: Ends, bytes: usize| {
        let headers = if ends.source.is_ipv4() { IPV4 } else { IPV6 } + 20;
        let payload: Vec<u8> = (0..bytes - headers).map(|at| at as u8).collect();
        tcp(ends, Tcp::Ack, &payload)
    };
    let sent = |says, ends: Ends, bytes| {
        let packet = long(ends, bytes);
        let output = world.sent(ends, Protocol::Tcp, &packet);
        Vector::new(says, packet, Director::Forwarded, output)
    };
    let short = |packet: Vec<u8>| cut(&packet, packet.len() - 1);
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let tagged = with_tags(&long(jumbo4, 8000), &[(0x8100, 7)]);
    vec![
        sent("a packet of 9000 bytes is sent", jumbo4, 9000),
        sent("an IPv6 packet of 9000 bytes is sent", jumbo6, 9000),
        sent("a packet of a byte more than the linear part is sent", jumbo4, 3520 - ETHERNET + 1),
        sent("the longest packet that just fits the MTU is sent", jumbo6, 9216 - IPV6),
        told("one byte more than a large MTU is too big", &long(jumbo4, 9216 - IPV4 + 1), 9216 - IPV4 as u32),
        is("a long frame that ends a byte early", short(long(jumbo4, 9000)), Director::BadHeader),
        is("a long IPv6 frame that ends a byte early", short(long(jumbo6, 9000)), Director::BadHeader),
        is(
            "a long packet to another address is the kernel's",
            long(client4(vip::NONE), 9000),
            Director::NotVip,
        ),
        Vector::new(
            "a long packet loses its tag",
            tagged,
            Director::Forwarded,
            world.sent(jumbo4, Protocol::Tcp, &long(jumbo4, 8000)),
        ),
    ]
}

fn passed() -> Vec<Vector<Director>> {
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let (none4, none6) = (client4(vip::NONE), client6(vip::NONE));
    let syn4 = tcp(none4, Tcp::Syn, b"");
    let syn6 = tcp(none6, Tcp::Syn, b"");
    let ping = |ends: Ends, kind| icmp(ends.source.ip(), ends.destination.ip(), kind, 0, [0; 4], b"ping");
    let mapped =
        patched(&tcp(client6(vip::WEB), Tcp::Syn, b""), 38, &vip4(vip::WEB).to_ipv6_mapped().octets());
    vec![
        is("ARP is the kernel's", arp(), Director::NotIp),
        is("a frame that is nothing but its header is the kernel's", cut(&arp(), 14), Director::NotIp),
        is("TCP to another address is the kernel's", syn4.clone(), Director::NotVip),
        is("TCP over IPv6 to another address is the kernel's", syn6.clone(), Director::NotVip),
        is("an echo request to another address is the kernel's", ping(none4, 8), Director::NotVip),
        is("an ICMPv6 echo request to another address, too", ping(none6, 128), Director::NotVip),
        is("options do not matter elsewhere", with_options(&syn4, ETHERNET), Director::NotVip),
        is("fragments do not matter elsewhere", as_fragment(&syn4, ETHERNET, 0, true), Director::NotVip),
        is("extension headers do not matter elsewhere", with_extension(&syn6, 0), Director::NotVip),
        is("a short packet does not matter elsewhere", cut(&syn4, ETHERNET + IPV4 + 4), Director::NotVip),
        is("a short IPv6 packet does not matter elsewhere", cut(&syn6, ETHERNET + IPV6), Director::NotVip),
        is("an IPv4 VIP inside an IPv6 header is no VIP", mapped.clone(), Director::NotVip),
        is("nor is it one when the packet is short", cut(&mapped, ETHERNET + IPV6 + 4), Director::NotVip),
    ]
}

fn refused4() -> Vec<Vector<Director>> {
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let ends = client4(vip::WEB);
    let syn = tcp(ends, Tcp::Syn, b"");
    let data = tcp(ends, Tcp::Ack, &[7; 64]);
    vec![
        is("a frame that ends inside the IPv4 header is dropped", cut(&syn, 30), Director::Truncated),
        is("a frame that ends inside the ports is dropped", cut(&syn, 37), Director::Truncated),
        is("a header of four words is none", patched(&syn, ETHERNET, &[0x44]), Director::BadHeader),
        is("version 6 in an IPv4 frame is none", patched(&syn, ETHERNET, &[0x65]), Director::BadHeader),
        is("a length beyond the frame is refused", patched(&syn, 16, &[0xff, 0xff]), Director::BadHeader),
        is(
            "a length that leaves no room for ports is, too",
            patched(&syn, 16, &[0, 27]),
            Director::BadHeader,
        ),
        is("a first fragment is refused", as_fragment(&data, ETHERNET, 0, true), Director::Fragment),
        is("a fragment in the middle is refused", as_fragment(&data, ETHERNET, 2, true), Director::Fragment),
        is("a last fragment is refused", as_fragment(&data, ETHERNET, 8191, false), Director::Fragment),
        is("another port has no service", tcp(to_port(ends, 81), Tcp::Syn, b""), Director::NoService),
        is("the port of a TCP service is none of UDP's", udp(ends, b"quic?"), Director::NoService),
        is("another protocol has no service", patched(&data, 23, &[50]), Director::NoService),
    ]
}

fn refused6() -> Vec<Vector<Director>> {
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let ends = client6(vip::WEB);
    let syn = tcp(ends, Tcp::Syn, b"");
    vec![
        is("a frame that ends inside the IPv6 header is dropped", cut(&syn, 50), Director::Truncated),
        is("an IPv6 frame that ends inside the ports is dropped", cut(&syn, 58), Director::Truncated),
        is("version 4 in an IPv6 frame is none", patched(&syn, ETHERNET, &[0x45]), Director::BadHeader),
        is("a payload beyond the frame is refused", patched(&syn, 18, &[0, 21]), Director::BadHeader),
        is("a payload of almost 64 KiB does not wrap", patched(&syn, 18, &[0xff, 0xff]), Director::BadHeader),
        is("a jumbogram is refused", patched(&syn, 18, &[0, 0]), Director::BadHeader),
        is("a fragment header is refused", with_extension(&syn, 44), Director::Fragment),
        is("an authentication header is refused", with_extension(&syn, 51), Director::Extension),
        is("no next header means no service", patched(&syn, 20, &[59]), Director::NoService),
        is("encrypted packets have no service", patched(&syn, 20, &[50]), Director::NoService),
        is("another IPv6 port has no service", tcp(to_port(ends, 8080), Tcp::Syn, b""), Director::NoService),
    ]
}

/// Headroom is 256 bytes, of which the kernel wants 40 for itself and the metadata stays: 200 leave 16, 184 leave 32.
fn unservable(world: &World) -> Vec<Vector<Director>> {
    let is = |says, ends, reason| Vector::unchanged(says, tcp(ends, Tcp::Syn, b""), reason);
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let behind = |bytes: u32, packet: Vec<u8>| [vec![0xee; bytes as usize], packet].concat();
    let cramped = |says, bytes, packet| {
        Vector::unchanged(says, behind(bytes, packet), Director::NoHeadroom).with(Context::Metadata(bytes))
    };
    let syn4 = tcp(web4, Tcp::Syn, b"");
    let fits = Vector::new(
        "32 bytes of headroom are enough for IPv4",
        behind(184, syn4.clone()),
        Director::Forwarded,
        behind(184, world.sent(web4, Protocol::Tcp, &syn4)),
    );
    let big = tcp(client4(vip::NARROW), Tcp::Ack, &[7; 600 - 3 * 20 + 1]);
    let big6 = tcp(client6(vip::WEB), Tcp::Ack, &[7; 1500 - 2 * 40 - 20 + 1]);
    let long = tcp(client4(vip::NARROW).reversed(), Tcp::Ack, &[7; 560]);
    let error = icmp_error(router(false), vip4(vip::NARROW).into(), 3, 4, &long, 560);
    vec![
        is("a service whose slot is empty has no table", client4(vip::TABLELESS), Director::NoTable),
        is("nor has its IPv6 twin", client6(vip::TABLELESS), Director::NoTable),
        is("a pool whose only host is sick has none", client4(vip::SICK), Director::NoHost),
        is("a pool whose only host has no route has none", client6(vip::LOST), Director::NoHost),
        is("a pool whose hosts are drained has none", client4(vip::DRAINED), Director::NoHost),
        told("one byte more than the MTU is too big, and its sender is told", &big, 580),
        told("type of service does not matter", &with_traffic_class(&big, ETHERNET, 0xff), 580),
        Vector::unchanged(
            "where no IPv6 packet fits there is nothing to tell",
            tcp(client6(vip::NARROW), Tcp::Ack, &[7; 600 - 2 * 40 - 20 + 1]),
            Director::TooBig,
        ),
        told(
            "unless it is longer than what every link carries",
            &tcp(client6(vip::NARROW), Tcp::Ack, &[7; 1280 - 40 - 20 + 1]),
            1280,
        ),
        told("an IPv6 sender is told what fits", &big6, 1460),
        Vector::unchanged("a group is no sender", patched(&big6, ETHERNET + 8, &[0xff]), Director::TooBig),
        Vector::unchanged(
            "nor is a loopback address",
            patched(&big, ETHERNET + 12, &[127]),
            Director::TooBig,
        ),
        Vector::unchanged("an error that is too big begets no error", error, Director::TooBig),
        cramped("16 bytes of headroom are too few for IPv4", 200, syn4),
        cramped("32 bytes of headroom are too few for IPv6", 184, tcp(web6, Tcp::Syn, b"")),
        fits.with(Context::Metadata(184)),
    ]
}

/// The answer to a packet of which `room` bytes would fit.
fn told(says: &'static str, packet: &[u8], room: u32) -> Vector<Director> {
    let v6 = packet[12] != 8;
    let address = |at: usize| -> IpAddr {
        match v6 {
            true => <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into(),
            false => <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into(),
        }
    };
    let (client, vip) = if v6 { (address(22), address(38)) } else { (address(26), address(30)) };
    let (kind, code, quote, tos) = if v6 { (2, 0, 128, 0) } else { (3, 4, 80, 0xc0) };
    let answer = icmp(vip, client, kind, code, room.to_be_bytes(), &packet[ETHERNET..ETHERNET + quote]);
    let answer = with_outer_ttl(&with_traffic_class(&answer, ETHERNET, tos), 64);
    let answer = patched(&answer, 0, &[ROUTER, MACHINE].concat());
    Vector::new(says, packet.to_vec(), Director::TooBigTold, answer)
}

fn icmp_errors(world: &World) -> Vec<Vector<Director>> {
    let error = |says, ends: Ends, protocol, l4: usize, kind, code| {
        let answer = match protocol {
            Protocol::Tcp => tcp(ends.reversed(), Tcp::Ack, &[7; 512]),
            Udp => udp(ends.reversed(), &[7; 512]),
        };
        let from = router(ends.source.is_ipv6());
        let packet = icmp_error(from, ends.destination.ip(), kind, code, &answer, l4);
        let output = world.sent(ends, protocol, &packet);
        Vector::new(says, packet, Director::ForwardedError, output)
    };
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let (dns4, dns6) = (to_port(web4, 53), to_port(web6, 53));
    let t = Protocol::Tcp;
    let quoted_first = {
        let answer = as_fragment(&tcp(web4.reversed(), Tcp::Ack, &[7; 64]), ETHERNET, 0, true);
        let packet = icmp_error(router(false), web4.destination.ip(), 3, 4, &answer, 20);
        let output = world.sent(web4, t, &packet);
        Vector::new(
            "an error about a first fragment follows its flow",
            packet,
            Director::ForwardedError,
            output,
        )
    };
    vec![
        error("fragmentation needed follows the TCP flow that it quotes", web4, t, 64, 3, 4),
        error("eight quoted bytes of TCP are enough", web4, t, 8, 3, 4),
        error("port unreachable follows the UDP flow that it quotes", dns4, Udp, 8, 3, 3),
        error("time exceeded follows", web4, t, 28, 11, 0),
        error("a parameter problem follows", web4, t, 28, 12, 0),
        error("an error about an IPv6-only host's answer follows", client4(vip::SIX_ONLY), t, 8, 3, 1),
        error("packet too big follows the TCP flow that it quotes", web6, t, 512, 2, 0),
        error("eight quoted bytes are enough over IPv6", web6, t, 8, 2, 0),
        error("ICMPv6 unreachable follows the UDP flow that it quotes", dns6, Udp, 40, 1, 4),
        error("ICMPv6 time exceeded follows", web6, t, 40, 3, 0),
        error("an ICMPv6 parameter problem follows", client6(vip::FOUR_ONLY), t, 40, 4, 1),
        error("an error for a flow elsewhere goes there", client4(vip::AWAY), t, 8, 3, 4).redirected(),
        quoted_first,
    ]
}

fn icmp_refused() -> Vec<Vector<Director>> {
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    let (vip4, vip6) = (web4.destination.ip(), web6.destination.ip());
    let error4 = |quoted: &[u8], l4| icmp_error(router(false), vip4, 3, 4, quoted, l4);
    let error6 = |quoted: &[u8], l4| icmp_error(router(true), vip6, 2, 0, quoted, l4);
    let (answer4, answer6) =
        (tcp(web4.reversed(), Tcp::Ack, &[7; 64]), tcp(web6.reversed(), Tcp::Ack, &[7; 64]));
    let pong4 = icmp(vip4, web4.source.ip(), 0, 0, [0; 4], b"pong pong");
    let pong6 = icmp(vip6, web6.source.ip(), 129, 0, [0; 4], b"pong pong");
    let beyond = padded(&error4(&answer4, 7), 90);
    let later = as_fragment(&answer4, ETHERNET, 3, false);
    let of_another_vip = tcp(client4(vip::AWAY).reversed(), Tcp::Ack, b"x");
    let of_another_port = tcp(to_port(web6, 81).reversed(), Tcp::Ack, b"x");
    vec![
        is(
            "an echo reply to a VIP is not wanted",
            icmp(router(false), vip4, 0, 0, [0; 4], b"x"),
            Director::IcmpOther,
        ),
        is("a redirect is not followed", error_of(5, vip4, &answer4), Director::IcmpOther),
        is(
            "a timestamp request is not answered",
            icmp(router(false), vip4, 13, 0, [0; 4], &[0; 12]),
            Director::IcmpOther,
        ),
        is(
            "a neighbour solicitation for a VIP is not answered",
            icmp(router(true), vip6, 135, 0, [0; 4], &[0; 16]),
            Director::IcmpOther,
        ),
        is("seven quoted bytes are too few", error4(&answer4, 7), Director::IcmpQuote),
        is("padding is not quoted", beyond, Director::IcmpQuote),
        is("a quote of a later fragment has no ports", error4(&later, 20), Director::IcmpQuote),
        is(
            "a quote with options is not read",
            error4(&with_options(&answer4, ETHERNET), 20),
            Director::IcmpQuote,
        ),
        is("a quoted echo reply has no ports", error4(&pong4, 8), Director::IcmpQuote),
        is("seven quoted bytes over IPv6 are too few", error6(&answer6, 7), Director::IcmpQuote),
        is(
            "a quote with an extension header is not read",
            error6(&with_extension(&answer6, 60), 20),
            Director::IcmpQuote,
        ),
        is("a quoted ICMPv6 echo reply has no ports", error6(&pong6, 8), Director::IcmpQuote),
        is(
            "a quote of version 4 in ICMPv6 is not read",
            error6(&patched(&answer6, ETHERNET, &[0x45]), 8),
            Director::IcmpQuote,
        ),
        is(
            "an error that quotes the client's own packet is foreign",
            error4(&tcp(web4, Tcp::Syn, b""), 8),
            Director::IcmpForeign,
        ),
        is("an error that quotes another VIP is foreign", error4(&of_another_vip, 8), Director::IcmpForeign),
        is(
            "an error that quotes a port without service is foreign",
            error6(&of_another_port, 8),
            Director::IcmpForeign,
        ),
    ]
}

fn error_of(kind: u8, vip: IpAddr, quoted: &[u8]) -> Vec<u8> {
    icmp_error(router(false), vip, kind, 1, quoted, 8)
}

fn echoes() -> Vec<Vector<Director>> {
    let is = |says, packet: Vec<u8>| {
        let icmp = if packet[12] == 8 { ETHERNET + IPV4 } else { ETHERNET + IPV6 };
        let output = answer(&packet, icmp);
        Vector::new(says, packet, Director::Echo, output)
    };
    let ping = |ends: Ends, kind, rest, payload: &[u8]| {
        icmp(ends.source.ip(), ends.destination.ip(), kind, 0, rest, payload)
    };
    let (web4, web6) = (client4(vip::WEB), client6(vip::WEB));
    // Made by etherparse as a host would answer, not by the model's arithmetic.
    let whole = |says, ends: Ends, request, reply| {
        let (rest, payload) = ([0x12, 0x34, 0, 1], b"abcdefgh");
        let ttl = if ends.source.is_ipv6() { 21 } else { 22 };
        let mut output = patched(&ping(ends.reversed(), reply, rest, payload), ttl, &[64]);
        if ends.source.is_ipv4() {
            output = with_ipv4(&output, ETHERNET, |_| ());
        }
        let output = [&ROUTER[..], &MACHINE, &output[12..]].concat();
        Vector::new(says, ping(ends, request, rest, payload), Director::Echo, output)
    };
    vec![
        whole("an echo request to a VIP is answered as a host would", web4, 8, 0),
        whole("an ICMPv6 echo request to a VIP is answered as a host would", web6, 128, 129),
        is("an empty echo request is answered", ping(web4, 8, [0xff; 4], b"")),
        is("a padded one is answered with its padding", padded(&ping(web4, 8, [0; 4], b""), 60)),
        is("a VIP without hosts answers echo requests", ping(client6(vip::SICK), 128, [0; 4], b"x")),
    ]
}
