//! Random packets, the same for the same seed.

use lb_common::reasons::Director;
use lb_user::model::Protocol;

use crate::packets::*;
use crate::vector::{Context, Vector};
use crate::world::{SERVER_A, SERVER_B, SERVER_C, client4, client6, from_client, prefixes, vip};

/// A generator of random numbers (SplitMix64, public domain): enough to choose by, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that goes on from this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// A number from `from` up to and without `end`.
    pub fn within(&mut self, from: usize, end: usize) -> usize {
        from + self.below(end - from)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn of<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(several.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}

/// Makes packets for a director's world.
pub struct Packets {
    random: Random,
    known: Vec<Vec<u8>>,
}

impl Packets {
    /// Packets of this seed, some of them after these vectors.
    pub fn new(seed: u64, vectors: Vec<Vector<Director>>) -> Self {
        let plain = vectors.into_iter().filter(|vector| matches!(vector.context, Context::Plain));
        Packets { random: Random::new(seed), known: plain.map(|vector| vector.packet).collect() }
    }

    /// The next one: at least 14 bytes.
    pub fn next_packet(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut packet = match random.below(16) {
            0..4 => {
                let known = random.below(self.known.len());
                self.known[known].clone()
            }
            4..11 => flow_packet(random),
            11..14 => error(random),
            14 => echo(random),
            _ => noise(random),
        };
        for _ in 0..random.of(&[0, 0, 1, 1, 2, 4]) {
            spoil(random, &mut packet);
        }
        packet
    }
}

/// From one of a few clients to a service, mostly, or to a port or an address next to one.
fn ends(random: &mut Random, v6: bool) -> (Ends, Protocol) {
    /// VIPs, those more often that have more to show.
    const VIPS: &[u8] = &[
        1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11, 11, 12, 12, 13, 14, 14, 15, 16, 17, 18, 18, 19, 19, 19,
        20, 20, 99,
    ];
    if v6 && random.once_in(4) {
        return ends_in_a_prefix(random);
    }
    let vip = random.of(VIPS);
    let mut ends = if v6 { client6(vip) } else { client4(vip) };
    if random.once_in(4) {
        // Both sides of the ends of prefixes.
        let last = random.of(&["3f", "40", "7f", "80"]);
        let v4 = format!("203.0.113.{}", u8::from_str_radix(last, 16).unwrap_or(0));
        ends = from_client(ends, &if v6 { format!("2001:db8::cb00:71{last}") } else { v4 });
    }
    ends.source.set_port(40000 + random.below(256) as u16);
    let has_dns = matches!(vip, vip::WEB | vip::SLOWER | vip::BY_SOURCE | vip::BY_ADDRESSES);
    let port = match vip {
        vip::QUIC => 443,
        vip::ANY => random.of(&[80, 443, 1, 65535]),
        _ if has_dns => random.of(&[80, 53]),
        _ => 80,
    };
    ends.destination.set_port(if random.once_in(16) { random.number() as u16 } else { port });
    let dns = [53, 443].contains(&ends.destination.port()) || random.once_in(16);
    (ends, if dns { Protocol::Udp } else { Protocol::Tcp })
}

/// The same to an address of a VIP that is a prefix, mostly, or to one next to it.
fn ends_in_a_prefix(random: &mut Random) -> (Ends, Protocol) {
    let port = match random.below(8) {
        0 => random.number() as u16,
        _ => random.of(&[80, 80, 53, 81, 443]),
    };
    let mut ends = prefixes::to(random.of(&prefixes::ADDRESSES), port);
    if random.once_in(4) {
        ends = from_client(ends, random.of(&["2001:db8::cb00:713f", "2001:db8::cb00:7140"]));
    }
    ends.source.set_port(40000 + random.below(256) as u16);
    let udp = port == 53 || port == 443 && random.once_in(2) || random.once_in(16);
    (ends, if udp { Protocol::Udp } else { Protocol::Tcp })
}

/// TCP or UDP, mostly short, and sometimes about as long as fits.
fn flow_packet(random: &mut Random) -> Vec<u8> {
    let v6 = random.once_in(2);
    let (ends, protocol) = ends(random, v6);
    let fits = random.of(&[600, 1500]) - 100;
    let payload = match random.below(8) {
        0 => random.within(fits, fits + 100),
        1 => 0,
        2 if random.once_in(8) => random.within(3000, 9300),
        _ => random.below(100),
    };
    let mut payload = random.bytes(payload);
    if ends.destination.port() == 443 {
        let like = quic(random);
        let len = payload.len().max(like.len());
        payload.resize(len, 0);
        payload[..like.len()].copy_from_slice(&like);
        if random.once_in(8) {
            payload.truncate(random.below(16));
        }
    }
    let packet = match (protocol, random.below(4)) {
        (Protocol::Udp, _) => udp(ends, &payload),
        (_, 0) => tcp(ends, Tcp::Syn, b""),
        (_, 1) => tcp(ends, Tcp::Rst, b""),
        _ => tcp(ends, Tcp::Ack, &payload),
    };
    shaped(random, packet, v6)
}

/// The beginning of a QUIC packet, mostly with the id of some host.
fn quic(random: &mut Random) -> Vec<u8> {
    let server = random.of(&[SERVER_A, SERVER_B, SERVER_C, [9; 3]]);
    let first = random.of(&[2, 2, 2, 2, 1, 7]) << 5 | random.below(32) as u8;
    let mut id = [&[first][..], &server, &random.bytes(6)].concat();
    if random.once_in(8) {
        id.truncate(random.below(10));
    }
    match random.below(3) {
        0 | 1 => quic_short(&id),
        _ => quic_long(random.of(&[1, 1, 0x6b33_43cf, 0, 99]), random.below(4) as u8, &id),
    }
}

/// An ICMP error, mostly one of a kind that follows a flow, and mostly about what a host sent.
fn error(random: &mut Random) -> Vec<u8> {
    let v6 = random.once_in(2);
    let (flow, protocol) = ends(random, v6);
    let about = if random.once_in(8) { flow } else { flow.reversed() };
    let answer = match protocol {
        _ if random.once_in(16) => {
            let pong = if v6 { 129 } else { 0 };
            icmp(about.source.ip(), about.destination.ip(), pong, 0, [0; 4], &[7; 64])
        }
        Protocol::Udp => udp(about, &random.bytes(64)),
        Protocol::Tcp => tcp(about, Tcp::Ack, &random.bytes(64)),
    };
    let quoted = shaped(random, answer, v6);
    let quotes =
        random.of(&[0, 7, 8, 8, 8, 20, 28, 64]).min(quoted.len() - ETHERNET - if v6 { IPV6 } else { IPV4 });
    let kind = match (random.below(8), v6) {
        (0, _) => random.number() as u8,
        (_, false) => random.of(&[3, 11, 12]),
        (_, true) => random.of(&[1, 2, 3, 4]),
    };
    let to = if random.once_in(8) { ends(random, v6).0 } else { flow };
    let code = random.below(8) as u8;
    let packet = icmp_error(flow.source.ip(), to.destination.ip(), kind, code, &quoted, quotes);
    if random.once_in(4) { shaped(random, packet, v6) } else { packet }
}

fn echo(random: &mut Random) -> Vec<u8> {
    let v6 = random.once_in(2);
    let (ends, _) = ends(random, v6);
    let count = random.below(64);
    let payload = random.bytes(count);
    let rest = [random.number() as u8, random.number() as u8, 0, 1];
    let packet = icmp(ends.source.ip(), ends.destination.ip(), if v6 { 128 } else { 8 }, 0, rest, &payload);
    shaped(random, packet, v6)
}

/// Anything behind an EtherType.
fn noise(random: &mut Random) -> Vec<u8> {
    let ethertype = random.of(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8]]);
    let count = random.below(120);
    [&[2; 12][..], &ethertype, &random.bytes(count)].concat()
}

/// Now and then with options, extension headers, as a fragment, or with padding: nearly all of it well formed.
fn shaped(random: &mut Random, packet: Vec<u8>, v6: bool) -> Vec<u8> {
    match (random.below(24), v6) {
        (0, false) => with_list(&packet, ETHERNET, &options(random)),
        (1, false) => fragment(random, &packet),
        (5, false) => with_list(&fragment(random, &packet), ETHERNET, &options(random)),
        (0 | 5, true) => (0..random.within(1, 8)).fold(packet, |packet, _| {
            with_header(&packet, random.of(&[0, 43, 44, 44, 60, 60, 60]), &extension(random))
        }),
        (2, false) => with_ipv4(&packet, ETHERNET, |ip| ip.dont_fragment = !ip.dont_fragment),
        (0..3, true) => with_extension(&packet, random.of(&[0, 43, 44, 51, 60, 135, 139, 140, 253, 254])),
        (3, _) => {
            let len = packet.len() + random.below(32);
            padded(&packet, len)
        }
        (4, _) => {
            let count = random.of(&[1, 1, 1, 2, 2, 3]);
            let tags: Vec<_> =
                (0..count).map(|_| (random.of(&[0x8100, 0x88a8]), random.number() as u16)).collect();
            with_tags(&packet, &tags)
        }
        (5..8, _) => with_traffic_class(&packet, ETHERNET, random.number() as u8),
        _ => packet,
    }
}

fn fragment(random: &mut Random, packet: &[u8]) -> Vec<u8> {
    let offset = random.of(&[0, 0, 1, 185, 8191]);
    as_fragment(packet, ETHERNET, offset, random.once_in(2))
}

/// A list of IPv4 options, mostly a sane one, that fills whole words.
fn options(random: &mut Random) -> Vec<u8> {
    let words = random.within(1, 11);
    let mut list = Vec::new();
    while list.len() < words * 4 {
        match random.below(8) {
            0 => list.push(0),
            1..4 => list.push(1),
            4 => list.extend([random.of(&[131, 137, 7, 68]), random.of(&[0, 1, 2, 3, 4, 8, 40])]),
            _ => list.extend([148, 4, 0, 0]),
        }
    }
    list.truncate(words * 4);
    list
}

/// The body of an extension header behind its first byte, of a length that it tells; also of a fragment header.
fn extension(random: &mut Random) -> Vec<u8> {
    let words = random.of(&[0, 0, 0, 1, 2]);
    let mut body = vec![words as u8, 0, random.of(&[0, 0, 0, 1, 8, 9]), 0];
    body.resize(words * 8 + 7, 0);
    body
}

/// A change that nobody would make on purpose, mostly near the headers.
fn spoil(random: &mut Random, packet: &mut Vec<u8>) {
    let len = packet.len();
    let near = random.within(12, 100) % len;
    match random.below(12) {
        0..3 => packet[near] = random.number() as u8,
        3..6 => packet[near] ^= 1 << random.below(8),
        // A length, a protocol, a fragment offset or a destination, to a value that comes close.
        6 | 7 => {
            let at = random.of(&[12, 14, 16, 17, 18, 19, 20, 21, 23, 33, 34, 42, 53, 54, 62, 68]) % len;
            packet[at] =
                random.of(&[0, 1, 4, 6, 8, 17, 20, 27, 28, 41, 44, 45, 58, 60, 0x45, 0x46, 0x60, 0xff]);
        }
        8 | 9 => {
            let (from, to, count) = (random.within(12, 100), random.within(12, 100), random.within(1, 17));
            if from.max(to) + count <= len {
                packet.copy_within(from..from + count, to);
            }
        }
        10 => packet.truncate(random.within(ETHERNET, 120)),
        _ => {
            let count = random.within(1, 40);
            let more = random.bytes(count);
            packet.extend(more);
        }
    }
}
