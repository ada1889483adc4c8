//! Vectors on the L7 host's programs: the same packets at XDP, at TC, and before the kernel's tunnel devices.

use std::net::IpAddr;

use anyhow::Result;
use aya::programs::{SchedClassifier, Xdp};
use lb_common::reasons::{Host, Verdict};
use lb_tests::isolation;
use lb_tests::packets::*;
use lb_tests::vector::{self, Bench, Context, Hook, Vector, all_seen, check};
use lb_tests::world::{DIRECTOR4, DIRECTOR6, client4, client6, prefixes, to_port, vip, vip4, vip6};
use lb_user::config::{Capacity, Decapsulation, XdpMode};
use lb_user::dataplane::counters::Counter;
use lb_user::dataplane::host::{Accept, HostOptions, HostPlane};

const HOST4: [u8; 4] = [192, 0, 2, 161];
const HOST6: &str = "2001:db8::c000:2a1";
/// A VIP.
const PREFIX: &str = "2001:db8:5::/64";
/// What its last address ends in, and the address behind.
const LAST: &str = ":0:ffff:ffff:ffff:ffff";
const BEHIND: &str = ":1::";

/// This host knows no service here: `second_chance.rs` shows what it does with them.
const ELSEWHERE: &[(Host, &str)] = &[
    (Host::Rescued, ""),
    (Host::LastResort, ""),
    (Host::PassedOn, ""),
    (Host::Waits, ""),
    (Host::OverBudget, ""),
    (Host::TooBig, ""),
    (Host::Merged, ""),
    (Host::Expired, ""),
];

/// At XDP nothing is left that could fail: inner headers were read, so that more than an Ethernet header remains.
fn xdp_cannot() -> Vec<(Host, &'static str)> {
    let failed =
        (Host::Failed, "bpf_xdp_adjust_head fails only if less than an Ethernet header would remain");
    [&[failed], ELSEWHERE].concat()
}

struct At<P> {
    plane: HostPlane,
    program: P,
}

impl Bench for At<fn(&mut HostPlane) -> &mut Xdp> {
    fn run(&mut self, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)> {
        vector::run((self.program)(&mut self.plane), packet, context)
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(self.plane.counters()?)
    }
}

impl Bench for At<fn(&mut HostPlane) -> &mut SchedClassifier> {
    fn run(&mut self, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)> {
        vector::run((self.program)(&mut self.plane), packet, context)
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(self.plane.counters()?)
    }
}

/// Accepts two prefixes of senders; the VIPs of the web service.
fn plane() -> HostPlane {
    let options = HostOptions {
        interfaces: Vec::new(),
        decapsulation: Decapsulation::Auto,
        xdp: XdpMode::Auto,
        prefixes: true,
        capacity: Capacity::default(),
    };
    let mut plane = HostPlane::load(options, None).unwrap();
    let accept = Accept {
        senders: vec![([192, 0, 2, 128].into(), 26), ("2001:db8::c000:280".parse().unwrap(), 122)],
        locals: vec![HOST4.into(), host6()],
        vips: [vip4(vip::WEB).into(), vip6(vip::WEB).into(), PREFIX.parse().unwrap()].into(),
    };
    plane.sync(&accept).unwrap();
    plane
}

#[test]
#[ignore = "needs root"]
fn the_xdp_program_unwraps_what_directors_send() {
    if !isolation::can_run("host vectors at XDP") {
        return;
    }
    let mut bench: At<fn(&mut HostPlane) -> &mut Xdp> =
        At { plane: plane(), program: |plane| plane.program().unwrap() };
    let expect = |v: &Vector<Host>| (Hook::Xdp.action(v.reason.verdict(), false), v.output.clone());
    let vectors = [vectors(), at_xdp()].concat();
    let seen = check(&mut bench, &vectors, expect, |_| true);
    all_seen(&seen, &xdp_cannot());
}

#[test]
#[ignore = "needs root"]
fn the_tc_program_does_the_same() {
    if !isolation::can_run("host vectors at TC") {
        return;
    }
    let mut bench: At<fn(&mut HostPlane) -> &mut SchedClassifier> =
        At { plane: plane(), program: |plane| plane.tc_program().unwrap() };
    let mut vectors = vectors();
    // A test run at TC, like the kernel, takes no IP packet without a whole IP header.
    let whole = |v: &Vector<Host>| v.packet.len() >= ETHERNET + if v.packet[12] == 8 { IPV4 } else { IPV6 };
    vectors.retain(whole);
    // A size of segments without a type of offload, which no driver hands up.
    let merged = wrapped(DIRECTOR4.into(), HOST4.into(), &udp4());
    vectors.push(
        Vector::unchanged("a merged packet of unknown kind cannot be unwrapped", merged, Host::Failed)
            .with(Context::Buffer { mark: 0, gso_size: 1000 }),
    );
    let expect = |v: &Vector<Host>| (Hook::Tc.action(v.reason.verdict(), false), v.output.clone());
    let seen = check(&mut bench, &vectors, expect, |_| true);
    all_seen(&seen, ELSEWHERE);
}

#[test]
#[ignore = "needs root"]
fn the_guard_leaves_the_same_packets_to_the_kernels_tunnel_devices() {
    if !isolation::can_run("host vectors before the kernel's tunnel devices") {
        return;
    }
    let mut bench: At<fn(&mut HostPlane) -> &mut Xdp> =
        At { plane: plane(), program: |plane| plane.guard_program().unwrap() };
    let expect = |v: &Vector<Host>| {
        // A tunnel device would unwrap what is for no VIP.
        let verdict = if v.reason == Host::NotVip { Verdict::Drop } else { v.reason.verdict() };
        (Hook::Xdp.action(verdict, false), v.packet.clone())
    };
    let vectors = [vectors(), at_xdp()].concat();
    let seen = check(&mut bench, &vectors, expect, |_| true);
    all_seen(&seen, &xdp_cannot());
}

/// The kernel looks behind extension headers, so the guard has to; the other programs leave such packets to the kernel,
/// which has no tunnel device then.
#[test]
#[ignore = "needs root"]
fn the_guard_finds_tunnels_behind_extension_headers() {
    if !isolation::can_run("tunnels behind extension headers") {
        return;
    }
    let (sender, host) = (DIRECTOR6.into(), host6());
    let hidden = wrapped(sender, host, &tcp6());
    let elsewhere = wrapped(sender, "2001:db8::c000:2a2".parse().unwrap(), &tcp6());
    let plain = tcp(Ends::new("[2001:db8::1]:40000", "[2001:db8::c000:2a1]:80"), Tcp::Ack, b"");
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let vectors = [
        is("behind destination options", with_extension(&hidden, 60), Host::OuterOptions),
        is("behind hop-by-hop options", with_extension(&hidden, 0), Host::OuterOptions),
        is("behind a routing header", with_extension(&hidden, 43), Host::OuterOptions),
        is("in a first fragment", with_extension(&hidden, 44), Host::OuterOptions),
        is("behind two headers", with_extension(&with_extension(&hidden, 60), 0), Host::OuterOptions),
        is(
            "behind more than are looked at",
            (0..5).fold(hidden, |p, _| with_extension(&p, 60)),
            Host::OuterOptions,
        ),
        is("of another machine", with_extension(&elsewhere, 60), Host::NotTunnel),
        is("TCP behind options is none", with_extension(&plain, 60), Host::NotTunnel),
    ];
    let expect = |v: &Vector<Host>| (Hook::Xdp.action(v.reason.verdict(), false), v.packet.clone());
    let mut guard: At<fn(&mut HostPlane) -> &mut Xdp> =
        At { plane: plane(), program: |plane| plane.guard_program().unwrap() };
    check(&mut guard, &vectors, expect, |_| true);
    let mut host: At<fn(&mut HostPlane) -> &mut Xdp> =
        At { plane: plane(), program: |plane| plane.program().unwrap() };
    let vectors = vectors.map(|vector| Vector { reason: Host::NotTunnel, ..vector });
    check(&mut host, &vectors, expect, |_| true);
}

fn host6() -> IpAddr {
    HOST6.parse().unwrap()
}

fn tcp4() -> Vec<u8> {
    tcp(client4(vip::WEB), Tcp::Ack, b"GET /")
}

/// To an address that begins as [`PREFIX`] does.
fn in_prefix(rest: &str) -> Vec<u8> {
    tcp(to_port(prefixes::to(&format!("2001:db8:5{rest}"), 80), 4711), Tcp::Ack, b"GET /")
}

fn tcp6() -> Vec<u8> {
    tcp(client6(vip::WEB), Tcp::Ack, b"GET /")
}

fn udp4() -> Vec<u8> {
    udp(client4(vip::WEB), b"")
}

fn wrapped(source: IpAddr, destination: IpAddr, packet: &[u8]) -> Vec<u8> {
    let (own_mac, next_mac, tags) = (ROUTER, MACHINE, Vec::new());
    tunnel(&Outer { own_mac, next_mac, source, destination, generation: 0xab01, tags }, packet)
}

fn vectors() -> Vec<Vector<Host>> {
    let mut all = unwrapped();
    all.extend(not_ours());
    all.extend(refused_outer());
    all.extend(refused_inner());
    all.extend(congestion());
    all
}

/// `packet` comes out of the tunnel in a frame from the sender of the outer one.
fn unwrapped() -> Vec<Vector<Host>> {
    let (d4, d6, h4, h6) = (DIRECTOR4.into(), DIRECTOR6.into(), HOST4.into(), host6());
    let is = |says, frame, packet: Vec<u8>| Vector::new(says, frame, Host::Local, packet);
    let error = icmp_error(
        [192, 0, 2, 1].into(),
        vip4(vip::WEB).into(),
        3,
        4,
        &tcp(client4(vip::WEB).reversed(), Tcp::Ack, &[7; 32]),
        8,
    );
    let big = tcp(client6(vip::WEB), Tcp::Ack, &[7; 1380]);
    let options = with_options(&tcp4(), ETHERNET);
    let spare = patched(&wrapped(d4, h4, &padded(&udp4(), 60)), 16, &[0, 66]);
    vec![
        is("IPv4 comes out of IPv4", wrapped(d4, h4, &tcp4()), tcp4()),
        is("IPv6 comes out of IPv6", wrapped(d6, h6, &tcp6()), tcp6()),
        is("IPv4 comes out of IPv6", wrapped(d6, h6, &tcp4()), tcp4()),
        is("IPv6 comes out of IPv4", wrapped(d4, h4, &tcp6()), tcp6()),
        is("UDP comes out", wrapped(d4, h4, &udp4()), udp4()),
        is("what is for the first address of a prefix", wrapped(d4, h4, &in_prefix("::")), in_prefix("::")),
        is("and for its last one", wrapped(d6, h6, &in_prefix(LAST)), in_prefix(LAST)),
        is("an ICMP error comes out", wrapped(d6, h6, &error), error.clone()),
        is("a long packet comes out", wrapped(d6, h6, &big), big.clone()),
        is("padding comes out with it", wrapped(d4, h4, &padded(&udp4(), 60)), padded(&udp4(), 60)),
        is("an outer packet may be longer than the inner one", spare, padded(&udp4(), 60)),
        is("inner options are the kernel's affair", wrapped(d4, h4, &options), options.clone()),
        is(
            "an inner extension header is the kernel's affair",
            wrapped(d6, h6, &with_extension(&tcp6(), 60)),
            with_extension(&tcp6(), 60),
        ),
        is("the first sender of a prefix may send", wrapped([192, 0, 2, 128].into(), h4, &tcp4()), tcp4()),
        is("the last sender of a prefix may send", wrapped([192, 0, 2, 191].into(), h4, &tcp4()), tcp4()),
    ]
}

/// Figure 4 of RFC 6040, in a tunnel of each family with a packet of each.
fn congestion() -> Vec<Vector<Host>> {
    let (d4, d6, h4, h6) = (DIRECTOR4.into(), DIRECTOR6.into(), HOST4.into(), host6());
    let tunnels =
        [(d4, h4, IPV4, tcp4()), (d6, h6, IPV6, tcp6()), (d6, h6, IPV6, tcp4()), (d4, h4, IPV4, tcp6())];
    // What comes out by what was sent and what arrives outside: not capable, ECT(1), ECT(0), congested.
    let figure = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3); 4],
    ];
    let mut all = Vec::new();
    for (source, destination, outer, packet) in tunnels {
        for (inner, row) in (0..).zip(figure) {
            let sent = with_traffic_class(&packet, ETHERNET, 0xb8 | inner);
            for (outside, becomes) in (0..).zip(row) {
                let frame = wrapped(source, destination, &sent);
                // Bits of the outer service class never come in.
                let frame = with_traffic_class(&frame, ETHERNET, 0x28 | outside);
                assert_eq!(frame.len(), packet.len() + outer);
                all.push(match becomes {
                    Some(ecn) => {
                        let out = with_traffic_class(&packet, ETHERNET, 0xb8 | ecn);
                        Vector::new("congestion on the way is carried back", frame, Host::Local, out)
                    }
                    None => {
                        Vector::unchanged("or ends a packet that cannot carry it", frame, Host::Congested)
                    }
                });
            }
        }
    }
    all
}

const THREE: [(u16, u16); 3] = [(0x88a8, 100), (0x8100, 7), (0x8100, 8)];

/// At XDP, where tags stand in the frame, and what is long comes in pieces. What comes out of a tunnel stays in its VLAN.
fn at_xdp() -> Vec<Vector<Host>> {
    let (d4, d6, h4, h6) = (DIRECTOR4.into(), DIRECTOR6.into(), HOST4.into(), host6());
    let (one, two) = (&THREE[1..2], &THREE[..2]);
    let jumbo = tcp(client6(vip::WEB), Tcp::Ack, &[7; 9000 - IPV6 - 20]);
    let long = wrapped(d6, h6, &jumbo);
    let out = |says, frame: Vec<u8>, packet: Vec<u8>, tags| {
        Vector::new(says, with_tags(&frame, tags), Host::Local, with_tags(&packet, tags))
    };
    let is = |says, frame: Vec<u8>, tags, reason| Vector::unchanged(says, with_tags(&frame, tags), reason);
    vec![
        out("IPv4 comes out of IPv4 in its VLAN", wrapped(d4, h4, &tcp4()), tcp4(), one),
        out("IPv6 comes out of IPv6 behind two tags", wrapped(d6, h6, &tcp6()), tcp6(), two),
        out("a packet of 9000 bytes comes out", wrapped(d4, h4, &jumbo), jumbo.clone(), &[]),
        is("a long frame that ends a byte early", cut(&long, long.len() - 1), &[], Host::BadInner),
        out("IPv4 comes out of IPv6 in its VLAN", wrapped(d6, h6, &tcp4()), tcp4(), one),
        is("plain TCP in a VLAN is no tunnel", tcp4(), one, Host::NotTunnel),
        is("ARP in a VLAN is the kernel's", arp(), two, Host::NotIp),
        is(
            "a stranger's tunnel in a VLAN is refused",
            wrapped([192, 0, 2, 1].into(), h4, &tcp4()),
            one,
            Host::Sender,
        ),
        is("a frame that ends behind its tag", cut(&tcp4(), ETHERNET), one, Host::Truncated),
    ]
}

fn not_ours() -> Vec<Vector<Host>> {
    let (d4, d6, h4, h6) = (DIRECTOR4.into(), DIRECTOR6.into(), HOST4.into(), host6());
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let elsewhere6: IpAddr = "2001:db8::c000:2a2".parse().unwrap();
    let mapped_host = mapped(&wrapped(d6, h6, &tcp6()), 38, HOST4);
    let mapped_vip = mapped(&wrapped(d6, h6, &tcp6()), ETHERNET + IPV6 + 24, vip4(vip::WEB).octets());
    vec![
        is("ARP is the kernel's", arp(), Host::NotIp),
        is(
            "three VLAN tags are not looked behind",
            with_tags(&wrapped(d4, h4, &tcp4()), &THREE),
            Host::NotIp,
        ),
        is("plain TCP is no tunnel", tcp4(), Host::NotTunnel),
        is("plain TCP over IPv6 is no tunnel", tcp6(), Host::NotTunnel),
        is(
            "a tunnel to another IPv4 host is not for us",
            wrapped(d4, [192, 0, 2, 162].into(), &tcp4()),
            Host::NotForUs,
        ),
        is("a tunnel to another IPv6 host is not for us", wrapped(d6, elsewhere6, &tcp4()), Host::NotForUs),
        is(
            "a tunnel to the VIP itself is not for us",
            wrapped(d4, vip4(vip::WEB).into(), &tcp4()),
            Host::NotForUs,
        ),
        is("our IPv4 address in an IPv6 header is not ours", mapped_host, Host::NotForUs),
        is("an inner packet for us is for no VIP", inner_to(h4), Host::NotVip),
        is(
            "an inner packet for another VIP is for none of ours",
            wrapped(d4, h4, &tcp(client4(vip::AWAY), Tcp::Syn, b"")),
            Host::NotVip,
        ),
        is(
            "an inner IPv6 packet for another VIP, too",
            wrapped(d6, h6, &tcp(client6(vip::AWAY), Tcp::Syn, b"")),
            Host::NotVip,
        ),
        is("an IPv4 VIP in an inner IPv6 header is none", mapped_vip, Host::NotVip),
        is("the address behind a prefix is none", wrapped(d6, h6, &in_prefix(BEHIND)), Host::NotVip),
    ]
}

fn inner_to(destination: IpAddr) -> Vec<u8> {
    let packet = tcp(Ends::new("203.0.113.7:40000", &format!("{destination}:80")), Tcp::Syn, b"");
    wrapped(DIRECTOR4.into(), HOST4.into(), &packet)
}

/// With an IPv4 address, mapped, in an IPv6 header.
fn mapped(packet: &[u8], at: usize, address: [u8; 4]) -> Vec<u8> {
    patched(packet, at, &std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets())
}

fn refused_outer() -> Vec<Vector<Host>> {
    let (d4, d6, h4, h6) = (DIRECTOR4.into(), DIRECTOR6.into(), HOST4.into(), host6());
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let frame = wrapped(d4, h4, &tcp4());
    let stranger6: IpAddr = "2001:db8::c000:2c0".parse().unwrap();
    vec![
        is("a frame that ends inside the outer IPv4 header is dropped", cut(&frame, 33), Host::Truncated),
        is(
            "a frame that ends inside the outer IPv6 header is dropped",
            cut(&wrapped(d6, h6, &tcp6()), 53),
            Host::Truncated,
        ),
        is("outer options are refused", with_options(&frame, ETHERNET), Host::OuterOptions),
        is("an outer header of four words is none", patched(&frame, ETHERNET, &[0x44]), Host::BadInner),
        is(
            "an outer IPv6 header of version 4 is none",
            patched(&wrapped(d6, h6, &tcp6()), ETHERNET, &[0x40]),
            Host::BadInner,
        ),
        is("a first outer fragment is refused", as_fragment(&frame, ETHERNET, 0, true), Host::OuterFragment),
        is("a later outer fragment is refused", as_fragment(&frame, ETHERNET, 9, false), Host::OuterFragment),
        is(
            "a sender outside the prefix is refused",
            wrapped([192, 0, 2, 192].into(), h4, &tcp4()),
            Host::Sender,
        ),
        is(
            "the address before the prefix is refused",
            wrapped([192, 0, 2, 127].into(), h4, &tcp4()),
            Host::Sender,
        ),
        is("an IPv6 sender outside the prefix is refused", wrapped(stranger6, h6, &tcp6()), Host::Sender),
        is("a sender is refused whatever it sends", wrapped(stranger6, h6, &inner_to(h4)), Host::Sender),
        is(
            "a sender's IPv4 address in an IPv6 header is refused",
            mapped(&wrapped(d6, h6, &tcp6()), 22, DIRECTOR4.octets()),
            Host::Sender,
        ),
    ]
}

fn refused_inner() -> Vec<Vector<Host>> {
    let (d4, d6, h4, h6) = (DIRECTOR4.into(), DIRECTOR6.into(), HOST4.into(), host6());
    let is = |says, packet, reason| Vector::unchanged(says, packet, reason);
    let (frame4, frame6) = (wrapped(d4, h4, &tcp4()), wrapped(d6, h6, &tcp6()));
    let (inner4, inner6) = (ETHERNET + IPV4, ETHERNET + IPV6);
    vec![
        is(
            "a frame that ends inside the inner IPv4 header is dropped",
            cut(&frame4, inner4 + 19),
            Host::Truncated,
        ),
        is(
            "a frame that ends inside the inner IPv6 header is dropped",
            cut(&frame6, inner6 + 39),
            Host::Truncated,
        ),
        is(
            "an inner version 6 under protocol 4 is refused",
            patched(&frame4, inner4, &[0x65]),
            Host::BadInner,
        ),
        is(
            "an inner version 4 under protocol 41 is refused",
            patched(&frame6, inner6, &[0x45]),
            Host::BadInner,
        ),
        is("an inner header of four words is refused", patched(&frame4, inner4, &[0x44]), Host::BadInner),
        is(
            "inner options beyond the inner packet are refused",
            patched(&wrapped(d4, h4, &udp4()), inner4, &[0x48]),
            Host::BadInner,
        ),
        is(
            "an inner length beyond the outer one is refused",
            patched(&frame4, inner4 + 2, &[0, 46]),
            Host::BadInner,
        ),
        is(
            "an inner length below its header is refused",
            patched(&frame4, inner4 + 2, &[0, 19]),
            Host::BadInner,
        ),
        is(
            "an inner IPv6 length beyond the outer one is refused",
            patched(&frame6, inner6 + 4, &[0, 26]),
            Host::BadInner,
        ),
        is("an outer length below its header is refused", patched(&frame4, 16, &[0, 19]), Host::BadInner),
        is("an outer length of zero is refused", patched(&frame4, 16, &[0, 0]), Host::BadInner),
        is(
            "a frame shorter than the outer length is refused",
            cut(&frame4, frame4.len() - 1),
            Host::BadInner,
        ),
        is(
            "a frame shorter than the outer IPv6 length is refused",
            cut(&frame6, frame6.len() - 1),
            Host::BadInner,
        ),
    ]
}
